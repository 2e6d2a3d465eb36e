package backend

import (
	"context"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// putPolicyInForce has the account refreshed with another policy.
func (b *backend) putPolicyInForce(context.Context, string, []byte, *approval.Bundle) error {
	return over("this version cannot change policies")
}
