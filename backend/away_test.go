package backend

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// TestAwayWaits: what rotation does by itself spends no time on accounts whose nodes
// are away, and goes on with the others; what is asked for is tried.
func TestAwayWaits(t *testing.T) {
	fake := newFake(t)
	r := open(t, &logical.InmemStorage{}, fake)
	for _, n := range []fakeNode{eu1, us1, us2, ap1, ap2} {
		r.enrolNode(n)
	}
	r.create("spread", "ed25519")
	r.must(logical.UpdateOperation, "accounts/others", map[string]any{"algorithm": "ed25519", "domains": "us,ap"})
	refresh := func(name string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // for one that waits
		defer cancel()
		_, err := r.b.RefreshAccount(ctx, name)
		return err
	}
	rewrap := func(name string) error {
		_, err := r.b.RewrapAccount(t.Context(), name)
		return err
	}
	fake.mu.Lock()
	// An engine that would be waited for until the time is over.
	fake.away, fake.block = map[string]bool{"eu-1": true}, make(chan struct{})
	fake.mu.Unlock()
	for what, do := range map[string]func(string) error{"refresh": refresh, "rewrap": rewrap} {
		if err := do("spread"); err == nil || !strings.Contains(err.Error(), "away are eu-1 (restarting)") {
			t.Errorf("%s with a region away: %v", what, err)
		}
	}
	fake.mu.Lock()
	close(fake.block)
	fake.block = nil
	fake.mu.Unlock()
	for what, do := range map[string]func(string) error{"refresh": refresh, "rewrap": rewrap} {
		if err := do("others"); err != nil {
			t.Errorf("%s of an account that lives elsewhere: %v", what, err)
		}
	}
	if _, status, text := r.do(logical.UpdateOperation, "accounts/spread/refresh", nil); status == http.StatusOK || strings.Contains(text, "away are") {
		t.Errorf("a refresh that was asked for: %d %s", status, text)
	}
	r.signs("others")

	// For a presignature t shares do.
	presign := func(name string) error {
		_, err := r.b.presignAccount(t.Context(), name)
		return err
	}
	if err := presign("spread"); err != nil {
		t.Errorf("a presignature by the shares that are left: %v", err)
	}
	fake.mu.Lock()
	fake.away = map[string]bool{"eu-1": true, "ap-1": true, "ap-2": true}
	fake.mu.Unlock()
	if err := presign("spread"); err == nil || !strings.Contains(err.Error(), "ap-2 (restarting)") {
		t.Errorf("a presignature with two regions away: %v", err)
	}

	// One of two in a region: the other one has seen nothing and may take its share.
	fake.mu.Lock()
	fake.away = map[string]bool{"us-1": true}
	fake.mu.Unlock()
	if err := r.b.awaits(t.Context(), "spread"); err != nil {
		t.Errorf("with another node of the region: %v", err)
	}
	fake.mu.Lock()
	fake.away = nil
	fake.mu.Unlock()
	if err := refresh("spread"); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}
