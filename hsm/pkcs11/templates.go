//go:build cgo

package pkcs11

import (
	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
)

const rsaBits = 3072

// oidP256 is the DER of OBJECT IDENTIFIER 1.2.840.10045.3.1.7, prime256v1.
var oidP256 = [...]byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

// templates says how a key pair is made. The private half can be used for the
// one thing its suite needs. What a token would add by itself is switched off
// where a template may say so; ENCRYPT and DECRYPT must not stand in those of
// P-256, because nShield refuses them.
func templates(key hsm.WrappingKey) (mechanism *p11.Mechanism, public, private []*p11.Attribute) {
	public = []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_ID, key.ID),
		p11.NewAttribute(p11.CKA_LABEL, key.Label),
	}
	private = []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_SIGN, false),
		p11.NewAttribute(p11.CKA_ID, key.ID),
		p11.NewAttribute(p11.CKA_LABEL, key.Label),
	}
	if _, ok := key.Suite.OAEPHash(); ok {
		return p11.NewMechanism(p11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil),
			append(public,
				p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_RSA),
				p11.NewAttribute(p11.CKA_MODULUS_BITS, rsaBits),
				p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
				p11.NewAttribute(p11.CKA_ENCRYPT, true),
				p11.NewAttribute(p11.CKA_VERIFY, false),
				p11.NewAttribute(p11.CKA_WRAP, false)),
			append(private,
				p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_RSA),
				p11.NewAttribute(p11.CKA_DECRYPT, true),
				p11.NewAttribute(p11.CKA_UNWRAP, false))
	}
	return p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil),
		append(public,
			p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
			p11.NewAttribute(p11.CKA_EC_PARAMS, oidP256[:])),
		append(private,
			p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
			p11.NewAttribute(p11.CKA_DERIVE, true))
}
