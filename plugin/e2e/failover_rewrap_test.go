//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// rewrapping makes new wrapping-key versions, to which every share is resealed,
// while clients sign. Superseded versions are destroyed within the test.
func (f *failover) rewrapping(t testing.TB) []work {
	// Accounts follow a new version within a quarter of retire_after.
	c := newClient(t, f.Leader(t), "mpc")
	if _, err := c.write(t.Context(), "config/rotation", map[string]any{"retire_after": "12s"}); err != nil {
		t.Fatal(err)
	}
	return []work{
		func(ctx context.Context, c *client, _ int) error {
			select { // No more than 64 versions may be live.
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
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

// awaitRewrapped waits until every account is sealed to the newest version: the
// new active server goes on where the old one was stopped.
func (f *failover) awaitRewrapped(t testing.TB, c *client) {
	t.Helper()
	answer, err := c.write(t.Context(), "wrapping-keys/rotate", nil)
	if err != nil {
		t.Fatalf("a last rotation: %v", err)
	}
	newest := integer(answer, "version")
	if newest < 3 {
		t.Errorf("the newest wrapping-key version is %d: nothing was rotated", newest)
	}
	started := time.Now()
	for _, name := range f.ledger.names() {
		awaitTrue(t, signsWithin, fmt.Sprintf("%s sealed to version %d", name, newest), func() bool {
			account, err := c.read(t.Context(), "accounts/"+name)
			return err == nil && integer(account, "wrapping_version") == newest
		})
	}
	t.Logf("version %d: every account was sealed to it after %v", newest, time.Since(started).Round(time.Millisecond))
	f.ledger.verifyAll(t.Context(), c, 2*time.Minute)
}
