package identity

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"filippo.io/edwards25519"

	"vault-plugin-secrets-mpc/secret"
)

// Sizes in bytes.
const (
	SeedSize = 32
	// SealedOverhead is what Seal adds: suite, encapsulated key, tag.
	SealedOverhead = 1 + 32 + 16
	// WrappedOverhead is what Wrap adds: suite, nonce, tag.
	WrappedOverhead = 1 + 12 + 16

	keySize   = 32
	nonceSize = 12
)

// Suites. A suite's number is the first byte of everything that is sealed or
// wrapped with it; another number is refused, never guessed at.
const (
	suiteHPKE = 1 // DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM (RFC 9180)
	suiteWrap = 1 // AES-256-GCM, random 96-bit nonce; a key wraps few things
)

const (
	labelSealKey = "mpc identity seed to hpke key v1"
	labelSignKey = "mpc identity seed to ed25519 key v1"
	labelSeal    = "mpc identity seal v1"
	labelWrap    = "mpc identity wrap v1"
)

// ErrOpen: a ciphertext does not open with this key in this context. Whoever
// sees it holds another key, or the record was swapped, changed or cut.
var ErrOpen = errors.New("identity: the record does not open with this key: it is another's, of another generation, or was tampered with")

// PublicKeys is the public half of a seed.
type PublicKeys struct {
	Seal []byte `json:"seal"` // X25519, 32 bytes
	Sign []byte `json:"sign"` // Ed25519, 32 bytes
}

// Check verifies lengths, that the sealing key can be used, and that the
// verification key is the canonical encoding of a point (RFC 8032, 5.1.3) that is
// not of small order: under such a key there are signatures that verify for
// messages which nobody signed.
func (k PublicKeys) Check() error {
	p, err := new(edwards25519.Point).SetBytes(k.Sign)
	if err != nil || !bytes.Equal(p.Bytes(), k.Sign) ||
		new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return invalid("a verification key of %d bytes that cannot be used", len(k.Sign))
	}
	// A point of small order is found by using it: any scalar gives zero, which
	// crypto/ecdh refuses (RFC 7748, 6.1).
	seal, err := ecdh.X25519().NewPublicKey(k.Seal)
	if err == nil {
		var any *ecdh.PrivateKey
		if any, err = ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{1}, keySize)); err == nil {
			_, err = any.ECDH(seal)
		}
	}
	if err != nil {
		return invalid("a sealing key of %d bytes that cannot be used", len(k.Seal))
	}
	return nil
}

// Equal compares public keys.
func (k PublicKeys) Equal(other PublicKeys) bool {
	return string(fields(k.Seal, k.Sign)) == string(fields(other.Seal, other.Sign))
}

func (k PublicKeys) encode() []byte { return fields(k.Seal, k.Sign) }

// Keys are the two key pairs of a seed. Safe for concurrent use until Wipe.
type Keys struct {
	seed *secret.Bytes
	seal hpke.PrivateKey
	sign ed25519.PrivateKey
}

// NewSeed draws a seed.
func NewSeed() *secret.Bytes {
	b := make([]byte, SeedSize)
	_, _ = rand.Read(b) // never fails: it ends the program instead
	return secret.New(b)
}

// NewKeys derives the key pairs of a seed: HKDF-SHA256 (RFC 5869, no salt) with a
// label each, 32 bytes; for HPKE these are the input of DeriveKeyPair (RFC 9180,
// 7.1.3). It keeps a copy of the seed.
func NewKeys(seed *secret.Bytes) (*Keys, error) {
	if seed.Len() != SeedSize {
		return nil, fmt.Errorf("identity: a seed of %d bytes, not %d", seed.Len(), SeedSize)
	}
	ikm, err := hkdf.Key(sha256.New, seed.Expose(), nil, labelSealKey, keySize)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(ikm)
	seal, err := hpke.DHKEM(ecdh.X25519()).DeriveKeyPair(ikm)
	if err != nil {
		return nil, err
	}
	sign, err := hkdf.Key(sha256.New, seed.Expose(), nil, labelSignKey, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(sign)
	return &Keys{seed: seed.Clone(), seal: seal, sign: ed25519.NewKeyFromSeed(sign)}, nil
}

// Public returns the public half, an empty one after Wipe, which equals that of no
// record.
func (k *Keys) Public() PublicKeys {
	if k == nil || k.seal == nil {
		return PublicKeys{}
	}
	return PublicKeys{Seal: k.seal.PublicKey().Bytes(), Sign: k.sign.Public().(ed25519.PublicKey)}
}

// Seed returns the seed itself, not a copy; it is valid until Wipe.
func (k *Keys) Seed() *secret.Bytes { return k.seed }

// Wipe forgets the keys as far as Go lets one.
func (k *Keys) Wipe() {
	if k == nil {
		return
	}
	k.seed.Wipe()
	secret.Wipe(k.sign)
	k.seal = nil
}

// Context says what a ciphertext or signature is and whose. It is authenticated,
// not stored: whoever opens must know it. Use the constructors of context.go.
type Context []byte

// Seal seals plaintext to a public key in a context. Encoding: suite (1 byte) ‖
// encapsulated key (32) ‖ ciphertext with its 16-byte tag.
func Seal(to PublicKeys, c Context, plaintext *secret.Bytes) ([]byte, error) {
	if len(c) == 0 {
		return nil, errors.New("identity: no context to seal in")
	}
	pub, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(to.Seal)
	if err != nil {
		return nil, invalid("a sealing key that cannot be used")
	}
	enc, sender, err := hpke.NewSender(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(labelSeal))
	if err != nil { // a point of low order: nothing sealed to it would be secret
		return nil, invalid("a sealing key that cannot be used")
	}
	ct, err := sender.Seal(c, plaintext.Expose())
	if err != nil {
		return nil, err
	}
	return append(append([]byte{suiteHPKE}, enc...), ct...), nil
}

// Open opens what Seal made for k in the same context. Errors: ErrRecord for a
// form it does not know, else ErrOpen.
func (k *Keys) Open(c Context, sealed []byte) (*secret.Bytes, error) {
	if len(c) == 0 {
		return nil, errors.New("identity: no context to open in")
	}
	if k == nil || k.seal == nil {
		return nil, errors.New("identity: the keys were wiped")
	}
	if len(sealed) < SealedOverhead || len(sealed) > MaxAsset || sealed[0] != suiteHPKE {
		return nil, invalid("a sealed key of %d bytes or of an unknown suite", len(sealed))
	}
	r, err := hpke.NewRecipient(sealed[1:33], k.seal, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(labelSeal))
	if err != nil {
		return nil, ErrOpen
	}
	plain, err := r.Open(c, sealed[33:])
	if err != nil {
		return nil, ErrOpen
	}
	return secret.New(plain), nil
}

// Sign signs a message in a context: Ed25519 over fields(context, message).
func (k *Keys) Sign(c Context, message []byte) []byte {
	return ed25519.Sign(k.sign, fields(c, message))
}

// Verify reports whether sig is k's signature over the message in that context.
func (k PublicKeys) Verify(c Context, message, sig []byte) bool {
	return len(k.Sign) == ed25519.PublicKeySize && len(c) > 0 && ed25519.Verify(k.Sign, fields(c, message), sig)
}

// Wrap encrypts under a 32-byte key in a context. Encoding: suite (1 byte) ‖ nonce
// (12) ‖ ciphertext with its 16-byte tag. The AEAD key is HKDF-SHA256 of key, so
// that one key can serve contexts of different kinds.
func Wrap(key *secret.Bytes, c Context, plaintext *secret.Bytes) ([]byte, error) {
	aead, err := wrapAEAD(key, c)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 1+nonceSize, WrappedOverhead+plaintext.Len())
	out[0] = suiteWrap
	_, _ = rand.Read(out[1:])
	return aead.Seal(out, out[1:1+nonceSize], plaintext.Expose(), c), nil
}

// Unwrap opens what Wrap made. Errors: ErrRecord, ErrOpen.
func Unwrap(key *secret.Bytes, c Context, wrapped []byte) (*secret.Bytes, error) {
	if len(wrapped) < WrappedOverhead || len(wrapped) > MaxAsset || wrapped[0] != suiteWrap {
		return nil, invalid("a wrapped key of %d bytes or of an unknown suite", len(wrapped))
	}
	aead, err := wrapAEAD(key, c)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, wrapped[1:1+nonceSize], wrapped[1+nonceSize:], c)
	if err != nil {
		return nil, ErrOpen
	}
	return secret.New(plain), nil
}

func wrapAEAD(key *secret.Bytes, c Context) (cipher.AEAD, error) {
	if key.Len() != keySize || len(c) == 0 {
		return nil, errors.New("identity: wrapping needs a key of 32 bytes and a context")
	}
	k, err := hkdf.Key(sha256.New, key.Expose(), nil, labelWrap, keySize)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(k)
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
