//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/secret"
)

// PersonKey is a key pair of a person in a token that this package did not fill: a
// smart card, most of all. Unlike a wrapping key it is found by name, may have any
// CKA_ID, and is used as its maker allowed. Its methods may be called concurrently
// as long as the Token is open.
type PersonKey struct {
	t           *Token
	private     p11.ObjectHandle
	public      crypto.PublicKey
	certificate []byte
}

// PersonKey finds the one private key with this CKA_LABEL and CKA_ID; what is empty
// is not compared. The public key comes from the public key object or certificate
// with the same CKA_ID. The key has to be P-256 or RSA.
// Errors: ErrKeyNotFound, ErrKeyMismatch, ErrUnavailable, or the module's.
func (t *Token) PersonKey(ctx context.Context, label string, id []byte) (*PersonKey, error) {
	if label == "" && len(id) == 0 {
		return nil, fmt.Errorf("%w: give the label or ID of the key", ErrKeyNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout*adminFactor)
	defer cancel()
	k := &PersonKey{t: t}
	err := t.retry(ctx, func() error {
		_, err := withSession(ctx, t, true, func(s p11.SessionHandle) (struct{}, error) {
			return struct{}{}, k.find(s, label, id)
		}, nil)
		return err
	})
	if err != nil {
		return nil, outward("looking for the key", err)
	}
	return k, nil
}

func (k *PersonKey) find(s p11.SessionHandle, label string, id []byte) error {
	template := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY)}
	if label != "" {
		template = append(template, p11.NewAttribute(p11.CKA_LABEL, label))
	}
	if len(id) > 0 {
		template = append(template, p11.NewAttribute(p11.CKA_ID, id))
	}
	found, err := search(k.t.mod, s, 2, template)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("%w: the token has no private key of that name", ErrKeyNotFound)
	}
	if len(found) > 1 {
		return fmt.Errorf("%w: the token has several private keys of that name; give its ID and its label", ErrKeyMismatch)
	}
	k.private = found[0]
	if id, err = readAttribute(k.t.mod, s, k.private, p11.CKA_ID); err != nil {
		return err
	}
	if err := k.readCertificate(s, id); err != nil || k.public != nil {
		return err
	}
	return k.readPublic(s, id)
}

// readCertificate takes the certificate with the same CKA_ID, if there is one.
func (k *PersonKey) readCertificate(s p11.SessionHandle, id []byte) error {
	if len(id) == 0 {
		return nil
	}
	found, err := search(k.t.mod, s, 1, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_CERTIFICATE), p11.NewAttribute(p11.CKA_ID, id)})
	if err != nil || len(found) == 0 {
		return err
	}
	der, err := readAttribute(k.t.mod, s, found[0], p11.CKA_VALUE)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("%w: the certificate of the key cannot be read", ErrKeyMismatch)
	}
	k.certificate, k.public = bytes.Clone(der), cert.PublicKey
	return k.usable()
}

// readPublic takes the public key object with the same CKA_ID.
func (k *PersonKey) readPublic(s p11.SessionHandle, id []byte) error {
	found, err := search(k.t.mod, s, 2, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), p11.NewAttribute(p11.CKA_ID, id)})
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%w: the token has %d public keys and no certificate for it, so that nothing can be sealed to it", ErrKeyMismatch, len(found))
	}
	kind, err := readAttribute(k.t.mod, s, found[0], p11.CKA_KEY_TYPE)
	if err != nil {
		return err
	}
	switch {
	case bytes.Equal(kind, p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC).Value):
		point, err := readPoint(k.t.mod, s, found[0])
		if err != nil {
			return err
		}
		k.public = &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(point[1:33]), Y: new(big.Int).SetBytes(point[33:])}
	case bytes.Equal(kind, p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_RSA).Value):
		n, err := readAttribute(k.t.mod, s, found[0], p11.CKA_MODULUS)
		if err != nil {
			return err
		}
		e, err := readAttribute(k.t.mod, s, found[0], p11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return err
		}
		exponent := new(big.Int).SetBytes(e)
		if !exponent.IsInt64() || exponent.Int64() > math.MaxInt32 || exponent.Int64() < 3 {
			return fmt.Errorf("%w: its public exponent is out of bounds", ErrKeyMismatch)
		}
		k.public = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}
	}
	return k.usable()
}

func (k *PersonKey) usable() error {
	switch pub := k.public.(type) {
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P256() {
			return nil
		}
	case *rsa.PublicKey:
		return nil
	}
	return fmt.Errorf("%w: it is neither a P-256 nor an RSA key", ErrKeyMismatch)
}

// Certificate is DER, empty where the token has none for the key.
func (k *PersonKey) Certificate() []byte { return k.certificate }

// Public is an *ecdsa.PublicKey on P-256 or an *rsa.PublicKey.
func (k *PersonKey) Public() any { return k.public }

// ECDH is Token.ECDH with this key.
func (k *PersonKey) ECDH(ctx context.Context, peer *ecdh.PublicKey) (*secret.Bytes, error) {
	if _, ok := k.public.(*ecdsa.PublicKey); !ok {
		return nil, fmt.Errorf("%w: it does no ECDH", ErrKeyMismatch)
	}
	ctx, cancel := context.WithTimeout(ctx, k.t.timeout)
	defer cancel()
	z, err := k.t.derive(ctx, k.private, peer)
	return z, outward("deriving with the key", err)
}

// DecryptOAEP decrypts RSAES-OAEP with SHA-256 and the empty label. Tokens that
// know no OAEP, or with SHA-1 only, are given the bare RSA operation, which smart
// cards have all; the padding is then removed here.
func (k *PersonKey) DecryptOAEP(ctx context.Context, ciphertext []byte) (*secret.Bytes, error) {
	if _, ok := k.public.(*rsa.PublicKey); !ok {
		return nil, fmt.Errorf("%w: it decrypts nothing", ErrKeyMismatch)
	}
	ctx, cancel := context.WithTimeout(ctx, k.t.timeout)
	defer cancel()
	discard := func(_ p11.SessionHandle, z *secret.Bytes) { z.Wipe() }
	z, err := withSession(ctx, k.t, false, func(s p11.SessionHandle) (*secret.Bytes, error) {
		return decryptInSession(k.t.mod, s, k.private, crypto.SHA256, ciphertext)
	}, discard)
	if code, ok := errors.AsType[p11.Error](err); ok && noMechanism(code) {
		z, err = withSession(ctx, k.t, false, func(s p11.SessionHandle) (*secret.Bytes, error) {
			return decryptBare(k.t.mod, s, k.private, ciphertext)
		}, discard)
	}
	return z, outward("decrypting with the key", err)
}

// noMechanism says whether a token refused the mechanism or its parameters.
func noMechanism(code p11.Error) bool {
	return code == p11.CKR_MECHANISM_INVALID || code == p11.CKR_MECHANISM_PARAM_INVALID || code == p11.CKR_ARGUMENTS_BAD
}

func decryptBare(m module, s p11.SessionHandle, private p11.ObjectHandle, ciphertext []byte) (*secret.Bytes, error) {
	if err := m.DecryptInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_RSA_X_509, nil)}, private); err != nil {
		return nil, err
	}
	padded, err := m.Decrypt(s, ciphertext)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(padded)
	return unpadOAEP(padded, len(ciphertext))
}
