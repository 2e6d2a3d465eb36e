package hsm

import (
	"context"
	"crypto/ecdh"

	"vault-plugin-secrets-mpc/secret"
)

const (
	SuiteRSA3072OAEPSHA256 Suite = 2
	SuiteRSA3072OAEPSHA1   Suite = 3
)

func Seals(envelope []byte) ([]SealedKey, error) {
	e, err := ParseEnvelope(envelope)
	if err != nil {
		return nil, err
	}
	return e.Seals(), nil
}

func DealContext(accountID [16]byte, target [32]byte, dealer, index uint8) Context {
	return fields([]byte("mpc hsm context deal v1"), accountID[:], target[:], []byte{dealer}, []byte{index})
}

type KeyRequest struct {
	Domain  string
	Version uint32
	Label   string
	Suites  []Suite
}

type KeyObject struct {
	ID              []byte
	Private, Public int
}

// SoftwareKey uses a P-256 private key in memory, such as a recovery
// custodian's.
func SoftwareKey(priv *ecdh.PrivateKey) PrivateKeys { return softwareKey{priv} }

type softwareKey struct{ priv *ecdh.PrivateKey }

func (k softwareKey) ECDH(_ context.Context, _ WrappingKey, peer *ecdh.PublicKey) (*secret.Bytes, error) {
	z, err := k.priv.ECDH(peer)
	if err != nil {
		return nil, err
	}
	return secret.New(z), nil
}
