package hsm

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/secret"
)

// An envelope with user custody has two holders. k₁ is sealed to wrapping keys
// and k₂ to the owner's custody key; the content opens with both and with neither
// alone. k₂ is drawn anew for each envelope, so what is released for one share of
// one epoch opens that share and no other.

// The one seal of the custody holder: which key it is, the content's context says
// (a share's by the public record's hash).
const (
	custodyDomain  = "custody"
	custodyVersion = 1

	// labelCustodySeal keeps k₂'s seals apart from k₁'s, also for a recipient
	// whose wrapping domain is called as the custody holder is.
	labelCustodySeal = "mpc hsm sealed custody part v1"
)

// CustodyPartSize is the length of k₂ in bytes.
const CustodyPartSize = keySize

// ErrCustodyPart says that both keys of the envelope were there and the content
// did not open: the custody part is another share's or epoch's, or bytes were
// changed. Nothing was opened and the envelope is unchanged.
var ErrCustodyPart = errors.New("hsm: the envelope does not open with this custody part: it is another share's, or bytes were changed")

// ParseCustodyKey reads a public custody key: an uncompressed P-256 point, 65
// bytes.
func ParseCustodyKey(public []byte) (*ecdh.PublicKey, error) {
	key, err := ecdh.P256().NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("hsm: a custody key is an uncompressed P-256 point of %d bytes: %w", pointSize, err)
	}
	return key, nil
}

// SealCustody seals as Seal does, and so that the owner of the custody key is
// needed too. It returns the custody part k₂ with the envelope, for a caller that
// wants to see that the envelope opens (OpenWith); the caller wipes it. It needs
// no token and may be called concurrently.
func SealCustody(c Context, plaintext *secret.Bytes, keys []WrappingKey, custody *ecdh.PublicKey) (envelope []byte, k2 *secret.Bytes, err error) {
	if err := c.check(); err != nil {
		return nil, nil, err
	}
	if custody == nil || custody.Curve() != ecdh.P256() {
		return nil, nil, errors.New("hsm: a custody key is a P-256 key")
	}
	k2 = secret.New(make([]byte, keySize))
	_, _ = rand.Read(k2.Expose()) // never fails: it ends the program instead
	sealed, err := sealHPKE(k2, custody, custodyInfo(), c)
	if err == nil {
		envelope, err = seal(c, plaintext, keys, []Holder{{Kind: HolderCustody, Seals: []SealedKey{
			{Suite: SuiteHPKEP256, Domain: custodyDomain, Version: custodyVersion, Sealed: sealed}}}}, k2)
	}
	if err != nil {
		k2.Wipe()
		return nil, nil, fmt.Errorf("hsm: sealing with user custody: %w", err)
	}
	return envelope, k2, nil
}

// OpenWith opens an envelope with user custody, as Open does one without: k2 is
// the custody part, which stays the caller's to wipe. An envelope without user
// custody is refused, so that nobody can pass one off where custody is required.
//
// Errors: those of Open, and ErrCustodyPart.
func OpenWith(ctx context.Context, x PrivateKeys, keys []WrappingKey, c Context, envelope []byte, k2 *secret.Bytes) (*secret.Bytes, uint32, error) {
	e, err := parseFor(c, envelope)
	if err != nil {
		return nil, 0, err
	}
	if !e.Custody() {
		return nil, 0, malformed("it has no custody holder, and one is required")
	}
	if k2.Len() != keySize {
		return nil, 0, fmt.Errorf("%w: it has %d bytes, not %d", ErrCustodyPart, k2.Len(), keySize)
	}
	k1, version, err := openKey(ctx, x, keys, c, e)
	if err != nil {
		return nil, 0, err
	}
	defer k1.Wipe()
	plaintext, err := e.content(c, k1, k2)
	if errors.Is(err, ErrOpen) {
		return nil, 0, ErrCustodyPart
	}
	return plaintext, version, err
}

// OpenCustodySeal opens the custody part k₂ of an envelope that was sealed in
// context c, with the owner's private custody key. It is pure Go and asks no
// token; the caller wipes k₂.
//
// Errors: ErrEnvelope, also where it has no custody holder; ErrOpen.
func OpenCustodySeal(priv *ecdh.PrivateKey, c Context, envelope []byte) (*secret.Bytes, error) {
	if priv == nil || priv.Curve() != ecdh.P256() {
		return nil, errors.New("hsm: a custody key is a P-256 key")
	}
	e, err := parseFor(c, envelope)
	if err != nil {
		return nil, err
	}
	s, err := e.custodySeal()
	if err != nil {
		return nil, err
	}
	key, err := hpke.NewDHKEMPrivateKey(priv)
	if err != nil {
		return nil, fmt.Errorf("hsm: opening with the custody key: %w", err)
	}
	r, err := hpke.NewRecipient(s.Sealed[:pointSize], key, hpke.HKDFSHA256(), hpke.AES256GCM(), custodyInfo())
	if err != nil { // the encapsulated key is not a point
		return nil, ErrOpen
	}
	k2, err := r.Open(c, s.Sealed[pointSize:])
	if err != nil {
		return nil, ErrOpen
	}
	return secret.New(k2), nil
}

// CheckRewrapped says whether envelope `after` is `before` with other seals for
// wrapping domains: content, nonce and custody holder are the same bytes, and the
// token opens the same k₁ from both. That is all that can be seen of an envelope
// with user custody without its owner: after opens if and only if before does.
// It asks x for two openings.
//
// Errors: those of Open; ErrOpen if the two differ.
func CheckRewrapped(ctx context.Context, x PrivateKeys, keys []WrappingKey, c Context, before, after []byte) error {
	old, err := parseFor(c, before)
	if err != nil {
		return err
	}
	e, err := parseFor(c, after)
	if err != nil {
		return err
	}
	if !e.sameContent(old) {
		return fmt.Errorf("%w: its content or its custody holder is another one", ErrOpen)
	}
	k1, _, err := openKey(ctx, x, keys, c, old)
	if err != nil {
		return err
	}
	defer k1.Wipe()
	again, _, err := openKey(ctx, x, keys, c, e)
	if err != nil {
		return err
	}
	defer again.Wipe()
	if !again.Equal(k1) {
		return fmt.Errorf("%w: its wrapping keys open to another key", ErrOpen)
	}
	return nil
}

func custodyInfo() []byte { return fields([]byte(labelCustodySeal)) }

// custodySeal returns the one seal of the custody holder. The format would carry
// more, for suites and custody keys to come; this version reads one.
func (e *Envelope) custodySeal() (SealedKey, error) {
	if !e.Custody() {
		return SealedKey{}, malformed("it has no custody holder")
	}
	seals := e.Holders[1].Seals
	if len(seals) != 1 || seals[0].Suite != SuiteHPKEP256 || seals[0].Domain != custodyDomain || seals[0].Version != custodyVersion {
		return SealedKey{}, malformed("its custody holder is of a form that this program does not read")
	}
	return seals[0], nil
}

// sameContent reports whether all but the seals for wrapping domains is equal.
func (e *Envelope) sameContent(other *Envelope) bool {
	strip := func(e *Envelope) Envelope {
		out := *e
		// Any one seal: an envelope without is not canonical.
		out.Holders = append([]Holder{{Kind: HolderDomain, Seals: []SealedKey{{Suite: SuiteHPKEP256, Domain: "-", Version: 1, Sealed: make([]byte, hpkeSealed)}}}}, e.Holders[1:]...)
		return out
	}
	a, b := strip(e), strip(other)
	x, err := a.Marshal()
	if err != nil {
		return false
	}
	y, err := b.Marshal()
	return err == nil && string(x) == string(y)
}

// content decrypts the envelope's content with all its holder keys, in order.
func (e *Envelope) content(c Context, ks ...*secret.Bytes) (*secret.Bytes, error) {
	aead, err := contentAEAD(c, ks...)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, e.Nonce[:], e.Ciphertext, c)
	if err != nil {
		return nil, ErrOpen
	}
	return secret.New(plaintext), nil
}
