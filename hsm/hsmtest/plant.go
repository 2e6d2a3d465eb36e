//go:build cgo

package hsmtest

import (
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"slices"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
)

// PlantRaw makes a key pair in a logged-in session as somebody else with the
// PIN would. change replaces attributes of the private template, or adds to it.
// It returns the public key as hsm.WrappingKey has it.
func PlantRaw(t testing.TB, c *p11.Ctx, s p11.SessionHandle, id []byte, label string, suite hsm.Suite, change ...*p11.Attribute) []byte {
	t.Helper()
	_, isRSA := suite.OAEPHash()
	mechanism := p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)
	public := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_ID, id),
		p11.NewAttribute(p11.CKA_LABEL, label),
	}
	private := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_SIGN, false),
		p11.NewAttribute(p11.CKA_ID, id),
		p11.NewAttribute(p11.CKA_LABEL, label),
	}
	if isRSA {
		mechanism = p11.NewMechanism(p11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)
		public = append(public, p11.NewAttribute(p11.CKA_MODULUS_BITS, 3072), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}))
		private = append(private, p11.NewAttribute(p11.CKA_DECRYPT, true), p11.NewAttribute(p11.CKA_UNWRAP, false))
	} else {
		public = append(public, p11.NewAttribute(p11.CKA_EC_PARAMS, []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}))
		private = append(private, p11.NewAttribute(p11.CKA_DERIVE, true))
	}
	for _, a := range change {
		private = slices.DeleteFunc(private, func(b *p11.Attribute) bool { return b.Type == a.Type })
		private = append(private, a)
	}
	pub, _, err := c.GenerateKeyPair(s, []*p11.Mechanism{mechanism}, public, private)
	if err != nil {
		t.Fatal(err)
	}
	if !isRSA {
		attrs, err := c.GetAttributeValue(s, pub, []*p11.Attribute{p11.NewAttribute(p11.CKA_EC_POINT, nil)})
		if err != nil {
			t.Fatal(err)
		}
		return attrs[0].Value[2:] // without the DER header of the OCTET STRING
	}
	attrs, err := c.GetAttributeValue(s, pub, []*p11.Attribute{p11.NewAttribute(p11.CKA_MODULUS, nil)})
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(attrs[0].Value), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	return der
}
