package backend

import (
	"context"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// putPolicyInForce has the account refreshed with another policy.
func (b *backend) putPolicyInForce(ctx context.Context, name string, next []byte, bundle *approval.Bundle) error {
	_, err := b.changePolicy(ctx, name, next, bundle)
	return err
}
