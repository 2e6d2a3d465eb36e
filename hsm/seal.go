package hsm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/secret"
)

const (
	labelSeal     = "mpc hsm sealed key v1"
	labelShareKey = "mpc hsm envelope key v1"
)

// Seal seals plaintext (1 to MaxPlaintext bytes) to each of keys, so that any
// one of them opens it in the same context. It needs no token. plaintext stays
// the caller's to wipe. It may be called concurrently.
func Seal(ctx Context, plaintext *secret.Bytes, keys []WrappingKey) ([]byte, error) {
	return seal(ctx, plaintext, keys, nil)
}

// seal seals for wrapping domains and for other holders, whose keys are ks.
func seal(ctx Context, plaintext *secret.Bytes, keys []WrappingKey, others []Holder, ks ...*secret.Bytes) ([]byte, error) {
	if err := ctx.check(); err != nil {
		return nil, err
	}
	if n := plaintext.Len(); n == 0 || n > MaxPlaintext {
		return nil, fmt.Errorf("hsm: sealing takes 1 to %d bytes, not %d", MaxPlaintext, n)
	}
	k1 := secret.New(make([]byte, keySize))
	defer k1.Wipe()
	// crypto/rand never fails: it ends the program instead.
	_, _ = rand.Read(k1.Expose())

	seals, err := sealKey(k1, keys, ctx)
	if err != nil {
		return nil, err
	}
	aead, err := contentAEAD(ctx, append([]*secret.Bytes{k1}, ks...)...)
	if err != nil {
		return nil, err
	}
	e := &Envelope{Holders: append([]Holder{{Kind: HolderDomain, Seals: seals}}, others...)}
	_, _ = rand.Read(e.Nonce[:])
	e.Ciphertext = aead.Seal(nil, e.Nonce[:], plaintext.Expose(), ctx)
	return e.Marshal()
}

// sealKey seals k to each wrapping key, in the envelope's order.
func sealKey(k *secret.Bytes, keys []WrappingKey, ctx Context) ([]SealedKey, error) {
	if len(keys) == 0 {
		return nil, errors.New("hsm: no wrapping key to seal to; make one first")
	}
	if len(keys) > maxSeals {
		return nil, fmt.Errorf("hsm: %d wrapping keys to seal to, at most %d", len(keys), maxSeals)
	}
	seals := make([]SealedKey, 0, len(keys))
	for _, key := range keys {
		if err := key.checkRecipient(); err != nil {
			return nil, err
		}
		var sealed []byte
		var err error
		if _, ok := key.Suite.OAEPHash(); ok {
			sealed, err = sealRSA(k, key, ctx)
		} else {
			var point *ecdh.PublicKey
			if point, err = key.point(); err == nil {
				sealed, err = sealHPKE(k, point, sealInfo(key), ctx)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("hsm: sealing to %s: %w", key.name(), err)
		}
		seals = append(seals, SealedKey{Suite: key.Suite, Domain: key.Domain, Version: key.Version, Sealed: sealed})
	}
	slices.SortFunc(seals, compareSeals)
	for i := 1; i < len(seals); i++ {
		if compareSeals(seals[i-1], seals[i]) == 0 {
			return nil, fmt.Errorf("hsm: two wrapping keys are both called %s version %d", seals[i].Domain, seals[i].Version)
		}
	}
	return seals, nil
}

// sealHPKE returns the encapsulated point and the ciphertext, 113 bytes.
func sealHPKE(k *secret.Bytes, point *ecdh.PublicKey, info []byte, c Context) ([]byte, error) {
	pub, err := hpke.NewDHKEMPublicKey(point)
	if err != nil {
		return nil, err
	}
	enc, sender, err := hpke.NewSender(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), info)
	if err != nil {
		return nil, err
	}
	ct, err := sender.Seal(c, k.Expose())
	if err != nil {
		return nil, err
	}
	return append(enc, ct...), nil
}

// sealInfo is the HPKE info, and part of what an RSA suite seals: it binds a seal to the key's name, so that a seal
// cannot be presented as one for another domain or version.
//
// Encoding: fields(label, suite as 1 byte, domain, version as 4 bytes
// big-endian).
func sealInfo(key WrappingKey) []byte {
	return fields([]byte(labelSeal), []byte{byte(key.Suite)}, []byte(key.Domain),
		binary.BigEndian.AppendUint32(nil, key.Version))
}

// contentAEAD derives the key that the content is encrypted with: HKDF-SHA256
// (RFC 5869, no salt) over k₁ ‖ k₂ …, 32 bytes each. One derived key encrypts
// one content with one random nonce.
func contentAEAD(ctx Context, ks ...*secret.Bytes) (cipher.AEAD, error) {
	ikm := make([]byte, 0, keySize*len(ks)) // the full capacity: appending leaves no copy behind
	defer func() { secret.Wipe(ikm) }()
	for _, k := range ks {
		if k.Len() != keySize {
			return nil, fmt.Errorf("hsm: a holder key of %d bytes, not %d", k.Len(), keySize)
		}
		ikm = append(ikm, k.Expose()...)
	}
	key, err := hkdf.Key(sha256.New, ikm, nil, string(fields([]byte(labelShareKey), ctx)), keySize)
	if err != nil {
		return nil, fmt.Errorf("hsm: deriving the content key: %w", err)
	}
	defer secret.Wipe(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("hsm: %w", err)
	}
	return cipher.NewGCM(block)
}

func (c Context) check() error {
	if len(c) == 0 || len(c) > maxContext {
		return fmt.Errorf("hsm: a context of %d bytes; build it with a constructor such as ShareContext", len(c))
	}
	return nil
}
