package pool

import (
	"context"
	"errors"

	"vault-plugin-secrets-mpc/hsm"
)

// errNotAvailable: this pool cannot do that yet. Nothing was changed.
var errNotAvailable = errors.New("pool: not available yet")

// MakeWrappingKey is not available yet.
func (p *Pool) MakeWrappingKey(context.Context, uint32, []hsm.Suite) (*hsm.WrappingKey, error) {
	return nil, errNotAvailable
}

// DestroyWrappingKey is not available yet.
func (p *Pool) DestroyWrappingKey(context.Context, hsm.WrappingKey) error { return errNotAvailable }

// FindWrappingKeys is not available yet.
func (p *Pool) FindWrappingKeys(context.Context, string) ([]KeyObject, error) {
	return nil, errNotAvailable
}

// Rewrap is not available yet.
func (p *Pool) Rewrap(context.Context, RewrapRequest) (*RewrapResult, error) {
	return nil, errNotAvailable
}

// RewrapNodeKeys is not available yet.
func (p *Pool) RewrapNodeKeys(context.Context, string) error { return errNotAvailable }

// Import is not available yet.
func (p *Pool) Import(context.Context, ImportRequest) (*KeyResult, error) {
	return nil, errNotAvailable
}
