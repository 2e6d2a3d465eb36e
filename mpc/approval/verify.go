package approval

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Errors that callers branch on.
var (
	// ErrMissing: approvals are demanded and there are none, or too few.
	ErrMissing = errors.New("approvals are missing")
	// ErrExpired: the approvals have ceased to count.
	ErrExpired = errors.New("the approvals have expired")
	// ErrSignature: a signature is not one over this statement by the pinned key.
	ErrSignature = errors.New("a signature is not over this request by a key of the policy")
	// ErrRequester: an approver approved a request of their own.
	ErrRequester = errors.New("nobody approves a request of their own")
)

// clockSkew is how far clocks of nodes, coordinator and devices may differ.
const clockSkew = time.Minute

// Labels of what keys sign, so that no signature serves for anything else.
const (
	deviceLabel      = "vault-plugin-secrets-mpc approval by device v1"
	certificateLabel = "vault-plugin-secrets-mpc approval by certificate v1"
)

// DeviceMessage is what a device key signs, with SHA-256: a label and the hash of
// the statement.
func (s *Statement) DeviceMessage() []byte { return labelled(deviceLabel, s.Hash()) }

// CertificateMessage is the same for the key of a certificate.
func (s *Statement) CertificateMessage() []byte { return labelled(certificateLabel, s.Hash()) }

func labelled(label string, hash [32]byte) []byte {
	var w writer
	w.text(label)
	w.bytes(hash[:])
	return w
}

// parse reads the public key and refuses one that its kind does not have.
func (k *Key) parse() (any, error) {
	if len(k.Public) > maxPublic {
		return nil, errors.New("the public key is too long")
	}
	// A point that is not on its curve is an error already here (RFC 5480, section
	// 2.2: uncompressed).
	public, err := x509.ParsePKIXPublicKey(k.Public)
	if err != nil {
		return nil, errors.New("the public key is not a SubjectPublicKeyInfo")
	}
	// One key, one encoding: or it could be in a policy twice.
	if der, err := x509.MarshalPKIXPublicKey(public); err != nil || !bytes.Equal(der, k.Public) {
		return nil, errors.New("the public key is not in the usual encoding of a SubjectPublicKeyInfo")
	}
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		if p.Curve == elliptic.P256() || p.Curve == elliptic.P384() && k.Kind == Certificate {
			return p, nil
		}
	case *rsa.PublicKey:
		// Odd, as every RSA modulus and exponent is. Exponent 3 is still on smart
		// cards, and safe here: signatures are compared with the whole padding.
		if k.Kind != Device && p.N.BitLen() >= 2048 && p.N.BitLen() <= 4096 && p.N.Bit(0) == 1 && p.E >= 3 && p.E&1 == 1 {
			return p, nil
		}
	}
	return nil, fmt.Errorf("a %s cannot have a public key of this kind", k.Kind)
}

// Verify checks one signature factor over a statement. Whoever sees an ECDSA
// signature can make a second one of it (r, n−s). That does no harm: nothing here is
// counted, looked up or told apart by a signature's bytes.
func (k *Key) Verify(st *Statement, s *Signature) error {
	public, err := k.parse()
	if err != nil {
		return err
	}
	ok := false
	switch k.Kind {
	case Device:
		ok = len(s.Signature) == 64 && len(s.AuthenticatorData) == 0 && len(s.ClientData) == 0 &&
			verifyRaw(public, st.DeviceMessage(), s.Signature)
	case Certificate:
		ok = len(s.AuthenticatorData) == 0 && len(s.ClientData) == 0 && verifyMessage(public, st.CertificateMessage(), s.Signature)
	case Passkey:
		if err := k.verifyPasskey(public, st.Hash(), s); err != nil {
			return err
		}
		ok = true
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// verifyRaw verifies r‖s, 32 bytes each, big-endian, over SHA-256 of a message: the
// form of WebCrypto, with one encoding for each pair.
func verifyRaw(public any, message, signature []byte) bool {
	p, ok := public.(*ecdsa.PublicKey)
	if !ok || len(signature) != 64 {
		return false
	}
	sum := sha256.Sum256(message)
	return ecdsa.Verify(p, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
}

// verifyMessage verifies DER (ECDSA) or PKCS#1 v1.5 (RSA) over SHA-256 of a message.
func verifyMessage(public any, message, signature []byte) bool {
	sum := sha256.Sum256(message)
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(p, sum[:], signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(p, crypto.SHA256, sum[:], signature) == nil
	}
	return false
}

// Verify checks that a bundle fulfils a policy for a subject, as far as that can be
// seen without the coordinator: the policy is the subject's, every approver in the
// bundle is of the policy and used enough kinds of signature factors, nobody counts
// twice or for their own request, there are as many as the quorum, and the approvals
// count now, and not for longer than the policy allows.
//
// Request, requester and expiry of the subject are taken from the bundle: a caller
// who has to know them compares. Anything
// in the bundle that does not verify is an error, also where the rest would do.
// Returned are the approvers. Errors wrap ErrMissing, ErrExpired, ErrSignature or
// ErrRequester where one of them fits.
func Verify(p *Policy, subject Subject, b *Bundle, now time.Time) ([]ID, error) {
	if p == nil || b == nil {
		return nil, fmt.Errorf("%w: there are none", ErrMissing)
	}
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("approval: %w", err)
	}
	subject.Request, subject.Requester, subject.RequesterName, subject.Expires = b.Request, b.Requester, b.RequesterName, b.Expires
	if err := subject.Check(); err != nil {
		return nil, err
	}
	if p.Hash() != subject.Policy {
		return nil, errPolicy
	}
	if !now.Before(subject.ExpiresAt()) {
		return nil, fmt.Errorf("%w, at %s", ErrExpired, subject.ExpiresAt().UTC().Format(time.RFC3339))
	}
	if subject.ExpiresAt().After(now.Add(p.Expiry + clockSkew)) {
		return nil, fmt.Errorf("approval: they would count until %s, longer than the %s that the policy allows", subject.ExpiresAt().UTC().Format(time.RFC3339), p.Expiry)
	}
	if len(b.Given) == 0 {
		return nil, fmt.Errorf("%w: none of %d", ErrMissing, p.Quorum)
	}
	var approvers []ID
	for i := range b.Given {
		if slices.Contains(approvers, b.Given[i].Approver) {
			return nil, fmt.Errorf("approval: approver %s is there twice: nobody counts for two", b.Given[i].Approver)
		}
		if err := verifyGiven(p, &subject, &b.Given[i]); err != nil {
			return nil, err
		}
		approvers = append(approvers, b.Given[i].Approver)
	}
	if len(approvers) < p.Quorum {
		return nil, fmt.Errorf("%w: %d of %d", ErrMissing, len(approvers), p.Quorum)
	}
	return approvers, nil
}

// VerifyGiven checks what one approver gives for a subject, which is complete, as
// Verify will check it among the others. Time is left to Verify. What passes here one
// by one passes there together, until it expires.
func VerifyGiven(p *Policy, subject *Subject, g *Given) error {
	if err := p.Check(); err != nil {
		return fmt.Errorf("approval: %w", err)
	}
	if err := subject.Check(); err != nil {
		return err
	}
	if p.Hash() != subject.Policy {
		return errPolicy
	}
	return verifyGiven(p, subject, g)
}

var errPolicy = errors.New("approval: the policy is not the account's")

// verifyGiven is VerifyGiven with a policy and a subject that are checked.
func verifyGiven(p *Policy, subject *Subject, g *Given) error {
	a := p.Approver(g.Approver)
	switch {
	case a == nil:
		return fmt.Errorf("%w: %s is no approver of this account", ErrSignature, g.Approver)
	case slices.Contains(a.Requesters, subject.Requester):
		return fmt.Errorf("%w: approver %q asked for this", ErrRequester, a.Name)
	case len(g.Signatures) > maxSignatures:
		return fmt.Errorf("approval: approver %q gives %d signatures, more than there are kinds", a.Name, len(g.Signatures))
	}
	st := Statement{Subject: *subject, Decision: Approve, Approver: a.ID}
	kinds := map[Kind]bool{}
	for i := range g.Signatures {
		s := &g.Signatures[i]
		k := a.Key(s.Key)
		switch {
		case k == nil:
			return fmt.Errorf("%w: approver %q has no key %s", ErrSignature, a.Name, s.Key)
		case kinds[k.Kind]: // the same key, or a second one
			return fmt.Errorf("approval: approver %q gives two signatures of kind %s: each kind counts once", a.Name, k.Kind)
		}
		kinds[k.Kind] = true
		if err := k.Verify(&st, s); err != nil {
			return fmt.Errorf("approver %q, %s %q: %w", a.Name, k.Kind, k.Name, err)
		}
	}
	if len(kinds) < p.SignatureFactors {
		return fmt.Errorf("%w: approver %q signed with %d kinds of factors, and the policy asks for %d", ErrMissing, a.Name, len(kinds), p.SignatureFactors)
	}
	return nil
}
