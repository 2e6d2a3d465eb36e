//go:build cgo

package pkcs11

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
)

const keyIDSize = 16

// oidP256 is the DER of OBJECT IDENTIFIER 1.2.840.10045.3.1.7, prime256v1.
var oidP256 = [...]byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

// GenerateWrappingKey makes a P-256 key pair in the token that cannot leave it,
// under a random 16-byte CKA_ID, reads it back and proves by a live ECDH that
// the token can use it for hpke-p256. On any error it destroys what it made; if
// that fails too, the error names the ID that is left behind.
//
// Only one process may make or destroy keys in a token at a time; within this
// process the Token sees to it.
func (t *Token) GenerateWrappingKey(ctx context.Context, r KeyRequest) (hsm.WrappingKey, error) {
	domain, version, label := r.Domain, r.Version, r.Label
	key := hsm.WrappingKey{Domain: domain, Version: version, Suite: hsm.SuiteHPKEP256, Label: label, ID: make([]byte, keyIDSize)}
	if domain == "" || len(domain) > hsm.MaxDomain || version == 0 {
		return hsm.WrappingKey{}, fmt.Errorf("pkcs11: a wrapping key needs a domain of 1 to %d bytes and a version from 1", hsm.MaxDomain)
	}
	_, _ = rand.Read(key.ID)
	ctx, cancel := context.WithTimeout(ctx, t.timeout*adminFactor)
	defer cancel()

	// The search comes first and may be retried; making keys is not retried,
	// since a failed call may have made them. Tokens accept a second object
	// with the same ID, or replace the first.
	err := t.retry(ctx, func() error {
		p, err := withSession(ctx, t, true, func(s p11.SessionHandle) (pair, error) { return findPair(t.mod, s, key.ID) }, nil)
		if err == nil && len(p.private)+len(p.public) > 0 {
			err = fmt.Errorf("%w: a random new ID is already in use; check the token's random numbers", ErrKeyMismatch)
		}
		return err
	})
	if err != nil {
		return hsm.WrappingKey{}, outward("looking for "+name(key), err)
	}
	if err = t.generate(ctx, &key); err == nil {
		return key, nil
	}
	err = outward("making "+name(key), err)
	// The caller's context may be what ended, and a half-made key must go all
	// the same; the clean-up has a short limit of its own.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), t.timeout)
	defer cancel()
	if derr := t.DestroyWrappingKey(ctx, key.ID); derr != nil && !errors.Is(derr, ErrKeyNotFound) {
		return hsm.WrappingKey{}, fmt.Errorf("%w; and a part with the ID %x may be left in the token, remove it: %w", err, key.ID, derr)
	}
	return hsm.WrappingKey{}, fmt.Errorf("%w; nothing is left in the token", err)
}

// generate makes, reads back and probes the pair, and fills in its public key.
func (t *Token) generate(ctx context.Context, key *hsm.WrappingKey) error {
	type made struct {
		pair  pair
		point []byte
	}
	undo := func(s p11.SessionHandle, m made) { // the caller of generate makes sure
		_ = t.mod.DestroyObject(s, m.pair.private[0])
		_ = t.mod.DestroyObject(s, m.pair.public[0])
	}
	got, err := withSession(ctx, t, true, func(s p11.SessionHandle) (made, error) {
		pub, priv, err := t.mod.GenerateKeyPair(s,
			[]*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)},
			publicTemplate(key.ID, key.Label), privateTemplate(key.ID, key.Label))
		if err != nil {
			return made{}, err
		}
		m := made{pair: pair{private: []p11.ObjectHandle{priv}, public: []p11.ObjectHandle{pub}}}
		if m.point, err = readPoint(t.mod, s, pub); err == nil {
			err = checkProtection(t.mod, s, priv)
		}
		if err != nil {
			undo(s, m)
		}
		return m, err
	}, undo) // the caller left while the token worked, and may never look again
	if err != nil {
		return err
	}
	pub, err := ecdh.P256().NewPublicKey(got.point)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeyMismatch, err)
	}
	if err := t.probe(ctx, got.pair.private[0], pub); err != nil {
		return err
	}
	key.PublicKey = got.point
	// Found again by its ID, as every other process will: proves that the
	// token stored it as one pair.
	_, err = t.locate(ctx, *key)
	return err
}

func publicTemplate(id []byte, label string) []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
		p11.NewAttribute(p11.CKA_EC_PARAMS, oidP256[:]),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_ID, id),
		p11.NewAttribute(p11.CKA_LABEL, label),
	}
}

func privateTemplate(id []byte, label string) []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_DERIVE, true),
		p11.NewAttribute(p11.CKA_SIGN, false),
		p11.NewAttribute(p11.CKA_ID, id),
		p11.NewAttribute(p11.CKA_LABEL, label),
	}
}

// DestroyWrappingKey destroys both halves of the key pair with this CKA_ID and
// looks again to be sure. Destroying half a pair is fine; with nothing there it
// returns ErrKeyNotFound. Copies of the token outside it (backups, other
// members of a cluster) are not touched.
func (t *Token) DestroyWrappingKey(ctx context.Context, id []byte) error {
	if len(id) != keyIDSize {
		return fmt.Errorf("pkcs11: a key ID has %d bytes, not %d; nothing was destroyed", keyIDSize, len(id))
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout*adminFactor)
	defer cancel()
	t.forget(id)
	destroyed := 0
	err := t.retry(ctx, func() error {
		n, err := withSession(ctx, t, true, func(s p11.SessionHandle) (int, error) { return destroyPair(t.mod, s, id) }, nil)
		destroyed += n
		return err
	})
	t.forget(id) // an ECDH may have found it again in between
	doing := fmt.Sprintf("destroying the key with the ID %x", id)
	if err != nil {
		return outward(doing, err)
	}
	if destroyed == 0 {
		return fmt.Errorf("%s: %w", doing, ErrKeyNotFound)
	}
	return nil
}

// destroyPair destroys the private half first: it is the one that matters.
func destroyPair(m module, s p11.SessionHandle, id []byte) (int, error) {
	p, err := findPair(m, s, id)
	if err != nil {
		return 0, err
	}
	destroyed := 0
	for _, o := range append(p.private, p.public...) {
		if err := m.DestroyObject(s, o); err != nil {
			return destroyed, err
		}
		destroyed++
	}
	if p, err = findPair(m, s, id); err != nil {
		return destroyed, err
	}
	if n := len(p.private) + len(p.public); n > 0 {
		return destroyed, fmt.Errorf("the token accepted it, but %d objects are still there", n)
	}
	return destroyed, nil
}

func (t *Token) FindByLabel(ctx context.Context, label string) ([]KeyObject, error) { return nil, nil }
