package hsm

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/secret"
)

// PrivateKeys uses private wrapping keys without giving them away. Methods must
// be safe for concurrent use and end when ctx does; the caller wipes what they
// return.
type PrivateKeys interface {
	// ECDH returns the X coordinate of the shared point, 32 bytes big-endian
	// with leading zeros (hpke-p256).
	ECDH(ctx context.Context, key WrappingKey, peer *ecdh.PublicKey) (*secret.Bytes, error)
	// DecryptOAEP decrypts what was sealed with an RSA suite: RSAES-OAEP with
	// the hash of key.Suite and the empty label. ErrOpen if ciphertext does not
	// decrypt with this key; a token that cannot be asked is another error.
	DecryptOAEP(ctx context.Context, key WrappingKey, ciphertext []byte) (*secret.Bytes, error)
}

// Open opens an envelope that was sealed in context c, with the first of keys
// that it is sealed to, and returns the content and that key's version. It asks
// x for exactly one ECDH or decryption and never falls back to another key or suite.
//
// Errors: ErrEnvelope, ErrUnknownKeyVersion, ErrNeedsCustodyKey, ErrOpen, and
// whatever x returned. It may be called concurrently if x may.
func Open(ctx context.Context, x PrivateKeys, keys []WrappingKey, c Context, envelope []byte) (*secret.Bytes, uint32, error) {
	e, err := parseFor(c, envelope)
	if err != nil {
		return nil, 0, err
	}
	if e.Custody() {
		return nil, 0, fmt.Errorf("%w: let its owner take part, the token alone is not enough", ErrNeedsCustodyKey)
	}
	k1, version, err := openKey(ctx, x, keys, c, e)
	if err != nil {
		return nil, 0, err
	}
	defer k1.Wipe()
	plaintext, err := e.content(c, k1)
	return plaintext, version, err
}

// Rewrap replaces the seals for wrapping domains by seals to newKeys and leaves
// content and custody key alone; the content is not decrypted. It opens with
// keys as Open does.
//
// k₁ stays the same: whoever kept an old envelope and the old wrapping key can
// still open the new one's content. Destroy the old key, or seal anew.
func Rewrap(ctx context.Context, x PrivateKeys, keys []WrappingKey, c Context, envelope []byte, newKeys []WrappingKey) ([]byte, error) {
	e, err := parseFor(c, envelope)
	if err != nil {
		return nil, err
	}
	k1, _, err := openKey(ctx, x, keys, c, e)
	if err != nil {
		return nil, err
	}
	defer k1.Wipe()
	seals, err := sealKey(k1, newKeys, c)
	if err != nil {
		return nil, err
	}
	e.Holders[0].Seals = seals
	return e.Marshal()
}

func parseFor(c Context, envelope []byte) (*Envelope, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	return ParseEnvelope(envelope)
}

// openKey recovers k₁ and says with which version of the wrapping key.
func openKey(ctx context.Context, x PrivateKeys, keys []WrappingKey, c Context, e *Envelope) (*secret.Bytes, uint32, error) {
	key, seal, err := choose(keys, e.Seals())
	if err != nil {
		return nil, 0, err
	}
	if err := key.checkRecipient(); err != nil {
		return nil, 0, err
	}
	var k *secret.Bytes
	if _, ok := key.Suite.OAEPHash(); ok {
		k, err = openRSA(ctx, x, key, c, seal.Sealed)
	} else {
		k, err = openHPKE(ctx, x, key, c, seal.Sealed)
	}
	if err != nil {
		return nil, 0, err
	}
	return k, key.Version, nil
}

func openHPKE(ctx context.Context, x PrivateKeys, key WrappingKey, c Context, sealed []byte) (*secret.Bytes, error) {
	point, err := key.point()
	if err != nil {
		return nil, err
	}
	a := &exchange{ctx: ctx, x: x, key: key, point: point}
	defer a.wipe()
	sk, err := hpke.NewDHKEMPrivateKey(a)
	if err != nil {
		return nil, fmt.Errorf("hsm: opening with %s: %w", key.name(), err)
	}
	r, err := hpke.NewRecipient(sealed[:pointSize], sk, hpke.HKDFSHA256(), hpke.AES256GCM(), sealInfo(key))
	if a.err != nil {
		return nil, fmt.Errorf("hsm: opening with %s: %w", key.name(), a.err)
	}
	if err != nil { // the encapsulated key is not a point
		return nil, ErrOpen
	}
	k, err := r.Open(c, sealed[pointSize:])
	if err != nil {
		return nil, ErrOpen
	}
	return secret.New(k), nil
}

// choose picks the first of keys that the envelope is sealed to.
func choose(keys []WrappingKey, seals []SealedKey) (WrappingKey, SealedKey, error) {
	for _, key := range keys {
		i := slices.IndexFunc(seals, func(s SealedKey) bool { return s.Domain == key.Domain && s.Version == key.Version })
		if i < 0 {
			continue
		}
		if seals[i].Suite != key.Suite {
			return WrappingKey{}, SealedKey{}, fmt.Errorf("%w: it is sealed to %s with %s, and that key is for %s",
				ErrEnvelope, key.name(), seals[i].Suite, key.Suite)
		}
		return key, seals[i], nil
	}
	var names []string
	for _, s := range seals {
		names = append(names, fmt.Sprintf("%q version %d", s.Domain, s.Version))
	}
	return WrappingKey{}, SealedKey{}, fmt.Errorf("%w: it is sealed to %s; if that version was destroyed, only a recovery copy opens it",
		ErrUnknownKeyVersion, names)
}

// exchange lets crypto/hpke use PrivateKeys as its private key. It serves
// one opening in one goroutine; it keeps the context in a field because
// ecdh.KeyExchanger has no place for one.
type exchange struct {
	ctx   context.Context
	x     PrivateKeys
	key   WrappingKey
	point *ecdh.PublicKey

	shared *secret.Bytes
	err    error // what x returned, kept apart from HPKE's own errors
}

var _ ecdh.KeyExchanger = (*exchange)(nil)

func (a *exchange) PublicKey() *ecdh.PublicKey { return a.point }
func (a *exchange) Curve() ecdh.Curve          { return a.point.Curve() }

func (a *exchange) ECDH(peer *ecdh.PublicKey) ([]byte, error) {
	z, err := a.x.ECDH(a.ctx, a.key, peer)
	if err == nil && z.Len() != keySize {
		z.Wipe()
		err = errors.New("the token returned a shared secret of the wrong length")
	}
	if err != nil {
		a.err = err
		return nil, err
	}
	a.shared = z
	return z.Expose(), nil
}

// wipe forgets the shared secret; HPKE has derived from it by then.
func (a *exchange) wipe() { a.shared.Wipe() }
