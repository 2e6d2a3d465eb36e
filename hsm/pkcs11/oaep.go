//go:build cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// DecryptOAEP implements hsm.PrivateKeys with CKM_RSA_PKCS_OAEP and the empty
// label. A key that was not bound yet is found and checked first, without
// waiting for it.
//
// Tokens report a ciphertext that does not decrypt with all sorts of codes,
// among them those for a broken token. After a failure the token is therefore
// given one that must decrypt: if it does, the ciphertext was at fault and the
// error is hsm.ErrOpen; if not, the error is the token's. Errors: hsm.ErrOpen,
// ErrUnavailable, ErrKeyNotFound, ErrKeyMismatch, or the module's.
func (t *Token) DecryptOAEP(ctx context.Context, key hsm.WrappingKey, ciphertext []byte) (*secret.Bytes, error) {
	if err := t.usable(key); err != nil {
		return nil, err
	}
	if _, ok := key.Suite.OAEPHash(); !ok {
		return nil, fmt.Errorf("%w: %s is for %s and decrypts nothing", ErrKeyMismatch, name(key), key.Suite)
	}
	pub, err := hsm.ParseRSAPublicKey(key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("pkcs11: %s: %w", name(key), err)
	}
	if len(ciphertext) != pub.Size() || new(big.Int).SetBytes(ciphertext).Cmp(pub.N) >= 0 {
		return nil, fmt.Errorf("decrypting with %s: %w", name(key), hsm.ErrOpen)
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	var plaintext *secret.Bytes
	err = t.retry(ctx, func() error {
		h, err := t.handleOf(ctx, key)
		if err != nil {
			return err
		}
		plaintext, err = t.decrypt(ctx, h, ciphertext)
		if classify(err) == faultHandle {
			t.forget(key.ID) // destroyed, perhaps: the retry finds out
		}
		return t.whoseFault(ctx, h, key, err)
	})
	if err != nil {
		return nil, outward("decrypting with "+name(key), err)
	}
	return plaintext, nil
}

// whoseFault turns an error of decrypting into hsm.ErrOpen if the token
// decrypts well what was made for it just now, and into what is wrong with the
// key if the handle turns out to lead to another one.
func (t *Token) whoseFault(ctx context.Context, h handle, key hsm.WrappingKey, err error) error {
	if _, ok := errors.AsType[p11.Error](err); !ok || classify(err).recoverable() {
		return err
	}
	if t.proveOAEP(ctx, h, key) == nil {
		return hsm.ErrOpen
	}
	t.forget(key.ID)
	if _, lerr := t.locate(ctx, key); errors.Is(lerr, ErrKeyMismatch) || errors.Is(lerr, ErrKeyNotFound) {
		return lerr
	}
	return err
}

// proveOAEP encrypts random bytes in software and has the token decrypt them:
// only the private half of key can pass.
func (t *Token) proveOAEP(ctx context.Context, h handle, key hsm.WrappingKey) error {
	pub, err := hsm.ParseRSAPublicKey(key.PublicKey)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeyMismatch, err)
	}
	hash, _ := key.Suite.OAEPHash()
	want := secret.New(make([]byte, 32))
	defer want.Wipe()
	_, _ = rand.Read(want.Expose())
	ciphertext, err := rsa.EncryptOAEP(hash.New(), rand.Reader, pub, want.Expose(), nil)
	if err != nil {
		return fmt.Errorf("proving %s: %w", name(key), err)
	}
	got, err := t.decrypt(ctx, h, ciphertext)
	if err != nil {
		return err
	}
	defer got.Wipe()
	if !got.Equal(want) {
		return fmt.Errorf("%w: the token's private key is not the half of its public key", ErrKeyMismatch)
	}
	return nil
}

// decrypt goes through crypto11 where the key was found that way, and else
// through a session of the pool.
func (t *Token) decrypt(ctx context.Context, h handle, ciphertext []byte) (*secret.Bytes, error) {
	hash, _ := h.suite.OAEPHash()
	if h.lent != nil {
		return inside(ctx, t, func() (*secret.Bytes, error) { return t.shared.decrypt(h.lent, hash, ciphertext) }, (*secret.Bytes).Wipe)
	}
	return withSession(ctx, t, false, func(s p11.SessionHandle) (*secret.Bytes, error) {
		return decryptInSession(t.mod, s, h.private, hash, ciphertext)
	}, func(_ p11.SessionHandle, z *secret.Bytes) { z.Wipe() })
}

func decryptInSession(m module, s p11.SessionHandle, private p11.ObjectHandle, hash crypto.Hash, ciphertext []byte) (*secret.Bytes, error) {
	var digest, mgf uint = p11.CKM_SHA256, p11.CKG_MGF1_SHA256
	if hash == crypto.SHA1 {
		digest, mgf = p11.CKM_SHA_1, p11.CKG_MGF1_SHA1
	}
	// CKZ_DATA_SPECIFIED with no data is the empty label.
	mechanism := p11.NewMechanism(p11.CKM_RSA_PKCS_OAEP, p11.NewOAEPParams(digest, mgf, p11.CKZ_DATA_SPECIFIED, nil))
	if err := m.DecryptInit(s, []*p11.Mechanism{mechanism}, private); err != nil {
		return nil, err
	}
	plaintext, err := m.Decrypt(s, ciphertext)
	if err != nil {
		return nil, err
	}
	return secret.New(plaintext), nil
}
