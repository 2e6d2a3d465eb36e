//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
)

// checkPair compares the public half with the pinned key, if one is pinned,
// and checks how the private half is protected.
func checkPair(m module, s p11.SessionHandle, p pair, key hsm.WrappingKey) error {
	public, err := readPublic(m, s, p.public[0], key.Suite)
	if err != nil {
		return err
	}
	if !bytes.Equal(public, key.PublicKey) {
		return fmt.Errorf("%w: its public key is another one; nothing was used", ErrKeyMismatch)
	}
	return checkProtection(m, s, p.private[0], key.Suite)
}

// readPublic returns the public key in the form of hsm.WrappingKey.PublicKey.
func readPublic(m module, s p11.SessionHandle, public p11.ObjectHandle, suite hsm.Suite) ([]byte, error) {
	want := uint(p11.CKK_EC)
	_, isRSA := suite.OAEPHash()
	if isRSA {
		want = p11.CKK_RSA
	}
	v, err := readAttribute(m, s, public, p11.CKA_KEY_TYPE)
	if err != nil {
		return nil, err
	}
	if len(v) == 0 {
		return nil, errHalf // seen by another process before it was written
	}
	if !bytes.Equal(v, p11.NewAttribute(p11.CKA_KEY_TYPE, want).Value) {
		return nil, fmt.Errorf("%w: it is not a key for %s; nothing was used", ErrKeyMismatch, suite)
	}
	if isRSA {
		return readRSA(m, s, public)
	}
	return readPoint(m, s, public)
}

// readRSA returns the public key as a DER SubjectPublicKeyInfo, checked to be
// one of an RSA suite.
func readRSA(m module, s p11.SessionHandle, public p11.ObjectHandle) ([]byte, error) {
	n, err := readAttribute(m, s, public, p11.CKA_MODULUS)
	if err != nil {
		return nil, err
	}
	e, err := readAttribute(m, s, public, p11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return nil, err
	}
	if len(n) == 0 || len(e) == 0 {
		return nil, errHalf // seen by another process before it was written
	}
	exponent := new(big.Int).SetBytes(e)
	if !exponent.IsInt64() || exponent.Int64() > math.MaxInt32 {
		return nil, fmt.Errorf("%w: its public exponent is out of bounds", ErrKeyMismatch)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())})
	if err != nil {
		return nil, fmt.Errorf("%w: its public key is unusable: %w", ErrKeyMismatch, err)
	}
	if _, err := hsm.ParseRSAPublicKey(der); err != nil {
		return nil, fmt.Errorf("%w: its public key has %w", ErrKeyMismatch, err)
	}
	return der, nil
}

// readPoint returns the public key as 04 ‖ X ‖ Y, checked to be on the curve.
func readPoint(m module, s p11.SessionHandle, public p11.ObjectHandle) ([]byte, error) {
	v, err := readAttribute(m, s, public, p11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	point := rawPoint(v)
	if len(point) == 0 {
		return nil, errHalf // seen by another process before it was written
	}
	if _, err := ecdh.P256().NewPublicKey(point); err != nil {
		return nil, fmt.Errorf("%w: its public key is not a P-256 point", ErrKeyMismatch)
	}
	return point, nil
}

// checkProtection requires SENSITIVE, not EXTRACTABLE, and the one use of the
// suite: DERIVE, or DECRYPT without SIGN and UNWRAP, so that nothing else can be
// had out of an RSA key. A token may not know NEVER_EXTRACTABLE; it is then
// taken on EXTRACTABLE, which cannot be turned off and on again, for keys this
// package made. A token that does know it must say true: a key that was
// imported or was extractable once is refused.
func checkProtection(m module, s p11.SessionHandle, private p11.ObjectHandle, suite hsm.Suite) error {
	type rule struct {
		name     string
		typ      uint
		want     bool
		optional bool
	}
	rules := []rule{
		{"CKA_SENSITIVE", p11.CKA_SENSITIVE, true, false},
		{"CKA_EXTRACTABLE", p11.CKA_EXTRACTABLE, false, false},
		{"CKA_NEVER_EXTRACTABLE", p11.CKA_NEVER_EXTRACTABLE, true, true},
	}
	if _, ok := suite.OAEPHash(); ok {
		rules = append(rules, rule{"CKA_DECRYPT", p11.CKA_DECRYPT, true, false},
			rule{"CKA_SIGN", p11.CKA_SIGN, false, true}, rule{"CKA_UNWRAP", p11.CKA_UNWRAP, false, true})
	} else {
		rules = append(rules, rule{"CKA_DERIVE", p11.CKA_DERIVE, true, false})
	}
	for _, r := range rules {
		v, err := readAttribute(m, s, private, r.typ)
		if err != nil {
			return err
		}
		if len(v) == 0 && r.optional {
			continue
		}
		if len(v) != 1 || (v[0] != 0) != r.want {
			return fmt.Errorf("%w: %s of its private key is not %v, so the token does not protect it as it must; nothing was used", ErrKeyMismatch, r.name, r.want)
		}
	}
	return nil
}

// readAttribute returns one attribute, empty if the token does not have it.
// Attributes are read one by one, since one unknown type fails the whole list.
func readAttribute(m module, s p11.SessionHandle, o p11.ObjectHandle, typ uint) ([]byte, error) {
	attrs, err := m.GetAttributeValue(s, o, []*p11.Attribute{p11.NewAttribute(typ, nil)})
	switch {
	case errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_TYPE_INVALID)):
		return nil, nil
	case err != nil:
		return nil, err
	case len(attrs) != 1:
		return nil, nil
	}
	return attrs[0].Value, nil
}
