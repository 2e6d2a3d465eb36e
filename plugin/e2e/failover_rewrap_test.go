//go:build e2e

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/vault/api"
)

// rewrapping makes new wrapping-key versions, to which every share is resealed,
// while clients sign.
func (f *failover) rewrapping(t testing.TB) []work {
	if !hasWrappingRotation(t, newClient(t, f.Leader(t), "mpc")) {
		t.Skip("wrapping-keys/rotate is not a path of this plugin")
	}
	return []work{
		func(ctx context.Context, c *client, _ int) error {
			_, err := c.write(ctx, "wrapping-keys/rotate", nil)
			return err
		},
		func(ctx context.Context, c *client, round int) error {
			return f.ledger.sign(ctx, c, f.schnorr, fmt.Appendf(nil, "round %d", round))
		},
		func(ctx context.Context, c *client, round int) error {
			return f.ledger.sign(ctx, c, f.ecdsa, fmt.Appendf(nil, "round %d", round))
		},
	}
}

// hasWrappingRotation asks for a new wrapping-key version once.
func hasWrappingRotation(t testing.TB, c *client) bool {
	t.Helper()
	_, err := c.write(t.Context(), "wrapping-keys/rotate", nil)
	var refused *api.ResponseError
	if errors.As(err, &refused) && refused.StatusCode == notFound {
		return false
	}
	if err != nil {
		t.Errorf("wrapping-keys/rotate: %v", err)
	}
	return true
}
