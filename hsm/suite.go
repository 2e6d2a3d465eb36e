package hsm

import "fmt"

// Suite is a way to seal a 32-byte key to a wrapping key.
type Suite uint8

// SuiteHPKEP256 is RFC 9180 base mode with DHKEM(P-256, HKDF-SHA256),
// HKDF-SHA256 and AES-256-GCM, the private key in the token.
const SuiteHPKEP256 Suite = 1

func (s Suite) String() string {
	if s == SuiteHPKEP256 {
		return "hpke-p256"
	}
	return fmt.Sprintf("suite(%d)", uint8(s))
}

// ParseSuite reads String's form.
func ParseSuite(s string) (Suite, error) {
	if s == SuiteHPKEP256.String() {
		return SuiteHPKEP256, nil
	}
	return 0, fmt.Errorf("unknown suite %q: use %s", s, SuiteHPKEP256)
}
