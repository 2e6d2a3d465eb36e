package hsm

import (
	"crypto/ecdh"
	"fmt"
)

// WrappingKey pins one version of a wrapping key: the public facts that let a
// node find the key pair in its token and be sure it is the right one.
type WrappingKey struct {
	// Domain names the token or cluster that holds the private key; local
	// nodes share DefaultDomain.
	Domain  string
	Version uint32 // from 1
	Suite   Suite
	// ID is the CKA_ID, 16 random bytes.
	ID []byte
	// PublicKey is the uncompressed point 04‖X‖Y, 65 bytes (hpke-p256), or the
	// DER SubjectPublicKeyInfo of a 3072-bit modulus and the exponent 65537,
	// 422 bytes (RSA suites).
	PublicKey []byte
	// Label is the CKA_LABEL; for people, nothing is found by it.
	Label string
}

// DefaultDomain is the wrapping domain of local nodes.
const DefaultDomain = "default"

const keyIDSize = 16

// Check says whether k is complete and its public key one of its suite.
func (k WrappingKey) Check() error {
	if len(k.ID) != keyIDSize {
		return fmt.Errorf("hsm: %s: a key ID of %d bytes, not %d", k.name(), len(k.ID), keyIDSize)
	}
	return k.checkRecipient()
}

// checkRecipient checks everything that sealing depends on. The ID is not: a
// recipient outside any token has none.
func (k WrappingKey) checkRecipient() error {
	switch {
	case len(k.Domain) == 0 || len(k.Domain) > MaxDomain:
		return fmt.Errorf("hsm: a wrapping domain name has 1 to %d bytes, not %d", MaxDomain, len(k.Domain))
	case k.Version == 0:
		return fmt.Errorf("hsm: %s: versions count from 1", k.name())
	}
	if _, ok := k.Suite.OAEPHash(); ok {
		if _, err := ParseRSAPublicKey(k.PublicKey); err != nil {
			return fmt.Errorf("hsm: %s: bad public key: %w", k.name(), err)
		}
		return nil
	}
	_, err := k.point()
	return err
}

func (k WrappingKey) name() string {
	return fmt.Sprintf("wrapping key %q version %d", k.Domain, k.Version)
}

// point returns the public key of an hpke-p256 key.
func (k WrappingKey) point() (*ecdh.PublicKey, error) {
	if k.Suite != SuiteHPKEP256 {
		return nil, fmt.Errorf("hsm: %s: %s is not supported; use %s or %s", k.name(), k.Suite, SuiteHPKEP256, SuiteRSA3072OAEPSHA256)
	}
	// NewPublicKey wants the 65-byte uncompressed form and checks the curve
	// equation; the point at infinity has another length.
	p, err := ecdh.P256().NewPublicKey(k.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("hsm: %s: bad public key: %w", k.name(), err)
	}
	return p, nil
}
