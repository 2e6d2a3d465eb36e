package approval

import (
	"errors"
	"fmt"
)

// Bounds of a bundle.
const (
	maxSignatures    = 3    // of one approver: one for each kind of signature factor
	maxSignature     = 1024 // bytes; RSA-4096 has 512
	maxAuthenticator = 1024 // bytes of authenticator data; 37 without extensions
	maxClientData    = 2048 // bytes of a passkey's client data
	// MaxBundle is in bytes. MaxApprovers approvers who each give as much as they may
	// stay below it: nobody's approval crowds out another's.
	MaxBundle = 256 << 10
)

// Signature is one signature factor of one approver over a statement.
type Signature struct {
	// Key names the key in the policy.
	Key ID
	// Signature: of a device key r‖s, 64 bytes; of a passkey as its authenticator
	// returns it; of a certificate's key DER (ECDSA) or PKCS#1 v1.5 (RSA), with
	// SHA-256.
	Signature []byte
	// Of a passkey: the authenticator data and the client data JSON.
	AuthenticatorData, ClientData []byte
}

// Given is what one approver has given to approve a request.
type Given struct {
	Approver   ID
	Signatures []Signature
}

// Bundle is what nodes get with a request, beside what they know of it by
// themselves.
type Bundle struct {
	Request                  ID
	Requester, RequesterName string
	Expires                  int64 // Unix time in seconds
	Given                    []Given
}

const bundleLabel = "vault-plugin-secrets-mpc approvals v1"

// Marshal returns the canonical encoding.
func (b *Bundle) Marshal() []byte {
	var w writer
	w.text(bundleLabel)
	w.bytes(b.Request[:])
	w.text(b.Requester)
	w.text(b.RequesterName)
	w.number(uint64(b.Expires))
	w.number(uint64(len(b.Given)))
	for _, g := range b.Given {
		w.bytes(g.Approver[:])
		w.number(uint64(len(g.Signatures)))
		for _, s := range g.Signatures {
			w.bytes(s.Key[:])
			w.bytes(s.Signature)
			w.bytes(s.AuthenticatorData)
			w.bytes(s.ClientData)
		}
	}
	return w
}

// ParseBundle reads Marshal's encoding.
func ParseBundle(b []byte) (*Bundle, error) {
	if len(b) > MaxBundle {
		return nil, fmt.Errorf("approval: approvals of %d bytes are too long", len(b))
	}
	r := &reader{in: b}
	if r.text(maxText) != bundleLabel {
		return nil, errors.New("approval: not approvals that this program reads")
	}
	out := &Bundle{}
	r.fixed(out.Request[:])
	out.Requester, out.RequesterName = r.text(maxText), r.text(MaxName)
	expires := r.number()
	if expires > maxTime {
		r.bad = true
	}
	out.Expires = int64(expires)
	for range r.count(MaxApprovers) {
		g := Given{}
		r.fixed(g.Approver[:])
		for range r.count(maxSignatures) {
			s := Signature{}
			r.fixed(s.Key[:])
			s.Signature, s.AuthenticatorData, s.ClientData = r.bytes(maxSignature), r.bytes(maxAuthenticator), r.bytes(maxClientData)
			g.Signatures = append(g.Signatures, s)
		}
		out.Given = append(out.Given, g)
	}
	if err := r.done("approvals"); err != nil {
		return nil, err
	}
	return out, nil
}
