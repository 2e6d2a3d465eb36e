//go:build !cgo

package pkcs11

import (
	"context"
	"crypto/ecdh"
	"fmt"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// Available says whether this program can load PKCS#11 modules. Without cgo it
// cannot, and Open always fails.
const Available = false

var errNoCgo = fmt.Errorf("%w: this program was built without cgo and cannot load one; use the build with cgo, or remote nodes", ErrModule)

// Token cannot be had without cgo.
type Token struct{}

var _ hsm.PrivateKeys = (*Token)(nil)

// Open always returns ErrModule.
func Open(context.Context, Config) (*Token, error) { return nil, errNoCgo }

// Info returns nothing.
func (*Token) Info() TokenInfo { return TokenInfo{} }

// GenerateWrappingKey always returns ErrModule.
func (*Token) GenerateWrappingKey(context.Context, KeyRequest) (hsm.WrappingKey, error) {
	return hsm.WrappingKey{}, errNoCgo
}

// Bind always returns ErrModule.
func (*Token) Bind(context.Context, hsm.WrappingKey) error { return errNoCgo }

// ECDH always returns ErrModule.
func (*Token) ECDH(context.Context, hsm.WrappingKey, *ecdh.PublicKey) (*secret.Bytes, error) {
	return nil, errNoCgo
}

// DecryptOAEP always returns ErrModule.
func (*Token) DecryptOAEP(context.Context, hsm.WrappingKey, []byte) (*secret.Bytes, error) {
	return nil, errNoCgo
}

// Alive always returns ErrModule.
func (*Token) Alive(context.Context) error { return errNoCgo }

// FindByLabel always returns ErrModule.
func (*Token) FindByLabel(context.Context, string) ([]KeyObject, error) { return nil, errNoCgo }

// DestroyWrappingKey always returns ErrModule.
func (*Token) DestroyWrappingKey(context.Context, []byte) error { return errNoCgo }

// Close does nothing.
func (*Token) Close() error { return nil }

// PersonKey cannot be had without cgo.
type PersonKey struct{}

// PersonKey always returns ErrModule.
func (*Token) PersonKey(context.Context, string, []byte) (*PersonKey, error) { return nil, errNoCgo }

// Certificate returns nothing.
func (*PersonKey) Certificate() []byte { return nil }

// Public returns nothing.
func (*PersonKey) Public() any { return nil }

// ECDH always returns ErrModule.
func (*PersonKey) ECDH(context.Context, *ecdh.PublicKey) (*secret.Bytes, error) { return nil, errNoCgo }

// DecryptOAEP always returns ErrModule.
func (*PersonKey) DecryptOAEP(context.Context, []byte) (*secret.Bytes, error) { return nil, errNoCgo }

// SignSHA256 always returns ErrModule.
func (*PersonKey) SignSHA256(context.Context, []byte) ([]byte, error) { return nil, errNoCgo }
