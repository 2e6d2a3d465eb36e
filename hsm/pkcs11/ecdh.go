//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

const (
	fieldSize = 32 // bytes of a P-256 coordinate
	pointSize = 65 // 04 ‖ X ‖ Y
)

// pointEncoding is how a token wants the peer's point in
// CK_ECDH1_DERIVE_PARAMS. The standard allows the raw point and, for older
// tokens, the DER OCTET STRING; a Token tries raw first and remembers.
type pointEncoding int

const (
	pointUnknown pointEncoding = iota
	pointRaw
	pointDER
)

// ECDH implements hsm.PrivateKeys with CKM_ECDH1_DERIVE and CKD_NULL. A key
// that was not bound yet is found and checked first, without waiting for it.
// Errors: ErrUnavailable, ErrKeyNotFound, ErrKeyMismatch, or the module's.
func (t *Token) ECDH(ctx context.Context, key hsm.WrappingKey, peer *ecdh.PublicKey) (*secret.Bytes, error) {
	if err := t.usable(key); err != nil {
		return nil, err
	}
	if key.Suite != hsm.SuiteHPKEP256 {
		return nil, fmt.Errorf("%w: %s is for %s and does no ECDH", ErrKeyMismatch, name(key), key.Suite)
	}
	if peer == nil || peer.Curve() != ecdh.P256() {
		return nil, errors.New("pkcs11: the peer's key is not on P-256")
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	var z *secret.Bytes
	err := t.retry(ctx, func() error {
		h, err := t.handleOf(ctx, key)
		if err != nil {
			return err
		}
		if z, err = t.derive(ctx, h.private, peer); classify(err) == faultHandle {
			t.forget(key.ID) // destroyed, perhaps: the retry finds out
		}
		return err
	})
	if err != nil {
		return nil, outward("deriving with "+name(key), err)
	}
	return z, nil
}

// derive runs ECDH on a handle, with the point encoding that the token takes.
// Each try has a session of its own, because a failed one may leave its dirty.
func (t *Token) derive(ctx context.Context, private p11.ObjectHandle, peer *ecdh.PublicKey) (*secret.Bytes, error) {
	t.mu.Lock()
	encoding := t.point
	t.mu.Unlock()
	raw := peer.Bytes()
	if encoding == pointDER {
		return t.deriveWith(ctx, private, derPoint(raw))
	}
	z, err := t.deriveWith(ctx, private, raw)
	if encoding == pointRaw || (err != nil && !aboutParameters(err)) {
		return z, err
	}
	encoding = pointRaw
	if err != nil {
		var second error
		if z, second = t.deriveWith(ctx, private, derPoint(raw)); second != nil {
			return nil, err // the first says more
		}
		encoding = pointDER
	}
	t.mu.Lock()
	t.point = encoding
	t.mu.Unlock()
	return z, nil
}

func (t *Token) deriveWith(ctx context.Context, private p11.ObjectHandle, point []byte) (*secret.Bytes, error) {
	return withSession(ctx, t, false, func(s p11.SessionHandle) (*secret.Bytes, error) {
		return deriveInSession(t.mod, s, private, point)
	}, func(_ p11.SessionHandle, z *secret.Bytes) { z.Wipe() })
}

// deriveInSession makes a session object of the shared secret, reads and
// destroys it. SENSITIVE and EXTRACTABLE must be spelled out: SoftHSM does not
// let the value be read otherwise. VALUE_LEN must be the whole coordinate:
// shorter, and tokens silently keep its tail. ENCRYPT or DECRYPT must not be
// there: nShield refuses them for generic secrets.
func deriveInSession(m module, s p11.SessionHandle, private p11.ObjectHandle, point []byte) (z *secret.Bytes, err error) {
	mechanism := []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDH1_DERIVE, p11.NewECDH1DeriveParams(p11.CKD_NULL, nil, point))}
	h, err := m.DeriveKey(s, mechanism, private, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_GENERIC_SECRET),
		p11.NewAttribute(p11.CKA_TOKEN, false),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, false),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
		p11.NewAttribute(p11.CKA_VALUE_LEN, fieldSize),
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		// A secret left in the session would pile up there; the error makes
		// the pool close the session, which destroys it too.
		if derr := m.DestroyObject(s, h); derr != nil && err == nil {
			z.Wipe()
			z, err = nil, fmt.Errorf("destroying the derived secret: %w", derr)
		}
	}()
	attrs, err := m.GetAttributeValue(s, h, []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)})
	if err != nil {
		return nil, err
	}
	if len(attrs) != 1 {
		return nil, errors.New("the token did not return the derived secret")
	}
	v := attrs[0].Value
	defer secret.Wipe(v)
	if len(v) == 0 || len(v) > fieldSize {
		return nil, fmt.Errorf("the token derived %d bytes, not %d", len(v), fieldSize)
	}
	// Some tokens strip leading zeros.
	out := make([]byte, fieldSize)
	copy(out[fieldSize-len(v):], v)
	return secret.New(out), nil
}

// proveECDH derives with a fresh software key on the other side and compares
// with crypto/ecdh: only the private half of key can pass.
func (t *Token) proveECDH(ctx context.Context, h handle, key hsm.WrappingKey) error {
	pub, err := ecdh.P256().NewPublicKey(key.PublicKey)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeyMismatch, err)
	}
	eph, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making a probe key: %w", err)
	}
	want, err := eph.ECDH(pub)
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	defer secret.Wipe(want)
	got, err := t.derive(ctx, h.private, eph.PublicKey())
	if err != nil {
		return err
	}
	defer got.Wipe()
	if subtle.ConstantTimeCompare(want, got.Expose()) != 1 {
		return fmt.Errorf("%w: the token's private key is not the half of its public key", ErrKeyMismatch)
	}
	return nil
}

// aboutParameters says whether an error may come from the point's encoding.
// Modules disagree on the code, so every code counts that no other cause of
// this package's own retries explains.
func aboutParameters(err error) bool {
	_, ok := errors.AsType[p11.Error](err)
	return ok && !classify(err).recoverable() && classify(err) != faultToken
}

// derPoint is a DER OCTET STRING: 04 41 and the 65-byte point.
func derPoint(raw []byte) []byte { return append([]byte{0x04, pointSize}, raw...) }

// rawPoint undoes derPoint; tokens that return CKA_EC_POINT raw are tolerated.
func rawPoint(v []byte) []byte {
	if len(v) == pointSize+2 && bytes.HasPrefix(v, []byte{0x04, pointSize}) {
		return v[2:]
	}
	return v
}
