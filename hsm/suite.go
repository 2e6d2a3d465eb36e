package hsm

import (
	"crypto"
	"fmt"
	"strings"
)

// Suite is a way to seal a 32-byte key to a wrapping key. Numbers are part of
// the envelope's format and never change their meaning.
type Suite uint8

const (
	// SuiteHPKEP256 is RFC 9180 base mode with DHKEM(P-256, HKDF-SHA256),
	// HKDF-SHA256 and AES-256-GCM, the private key in the token.
	SuiteHPKEP256 Suite = 1

	// SuiteRSA3072OAEPSHA256 is RSAES-OAEP (RFC 8017, 7.1) with a modulus of
	// exactly 3072 bits, SHA-256 for both hash and MGF1 and the empty label,
	// for tokens whose ECDH result cannot be read. The context is sealed with
	// the key, see sealRSA.
	SuiteRSA3072OAEPSHA256 Suite = 2

	// SuiteRSA3072OAEPSHA1 is the same with SHA-1 in place of SHA-256. It is
	// there because SoftHSM 2.6.1 has no other OAEP, and tokens do it only
	// when they are told that this is a test.
	SuiteRSA3072OAEPSHA1 Suite = 3
)

var suiteNames = [...]string{
	SuiteHPKEP256:          "hpke-p256",
	SuiteRSA3072OAEPSHA256: "rsa3072-oaep-sha256",
	SuiteRSA3072OAEPSHA1:   "rsa3072-oaep-sha1-for-tests",
}

func (s Suite) String() string {
	if s == 0 || int(s) >= len(suiteNames) {
		return fmt.Sprintf("suite(%d)", uint8(s))
	}
	return suiteNames[s]
}

// ParseSuite reads String's form.
func ParseSuite(s string) (Suite, error) {
	for i, name := range suiteNames {
		if i > 0 && s == name {
			return Suite(i), nil
		}
	}
	return 0, fmt.Errorf("unknown suite %q: use one of %s", s, strings.Join(suiteNames[1:], ", "))
}

// OAEPHash returns the hash of an RSA suite, and whether s is one.
func (s Suite) OAEPHash() (crypto.Hash, bool) {
	switch s {
	case SuiteRSA3072OAEPSHA256:
		return crypto.SHA256, true
	case SuiteRSA3072OAEPSHA1:
		return crypto.SHA1, true
	}
	return 0, false
}

// sealedSize is how long a sealed 32-byte key is, and whether this version
// knows the suite.
func (s Suite) sealedSize() (int, bool) {
	switch s {
	case SuiteHPKEP256:
		return hpkeSealed, true
	case SuiteRSA3072OAEPSHA256, SuiteRSA3072OAEPSHA1:
		return rsaSealed, true
	}
	return 0, false
}
