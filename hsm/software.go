package hsm

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"fmt"

	"vault-plugin-secrets-mpc/secret"
)

// SoftwareKey opens with one P-256 key in software, which its owner holds
// outside any token, as recovery custodians do. It serves the wrapping key with
// that public key and refuses others with ErrKeyMismatch. The private key stays
// in this process's memory for as long as priv is referred to, and cannot be
// wiped. It may be used concurrently.
func SoftwareKey(priv *ecdh.PrivateKey) PrivateKeys { return softwareKey{priv} }

type softwareKey struct{ priv *ecdh.PrivateKey }

func (k softwareKey) ECDH(ctx context.Context, key WrappingKey, peer *ecdh.PublicKey) (*secret.Bytes, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if k.priv == nil || key.Suite != SuiteHPKEP256 || !bytes.Equal(k.priv.PublicKey().Bytes(), key.PublicKey) {
		return nil, fmt.Errorf("%w: the key at hand is not the one of %s", ErrKeyMismatch, key.name())
	}
	z, err := k.priv.ECDH(peer)
	if err != nil {
		return nil, fmt.Errorf("hsm: %w", err)
	}
	return secret.New(z), nil
}

func (k softwareKey) DecryptOAEP(_ context.Context, key WrappingKey, _ []byte) (*secret.Bytes, error) {
	return nil, fmt.Errorf("%w: %s is for %s, and the key at hand for %s", ErrKeyMismatch, key.name(), key.Suite, SuiteHPKEP256)
}
