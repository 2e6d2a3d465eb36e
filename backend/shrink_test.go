package backend

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

func TestCanServe(t *testing.T) {
	node := func(i byte) mpc.NodeIdentity { return mpc.NodeIdentity{i} }
	a := &mpc.Account{Record: mpc.PublicRecord{Shares: 3},
		Exposures: mpc.Exposures{node(1): 1, node(2): 1, node(3): 1, node(4): 2, node(5): 3}}
	for _, c := range []struct {
		name     string
		nodes    []mpc.NodeIdentity
		fresh    int
		noSpares bool // after a restore of storage
		want     bool
	}{
		{"all", []mpc.NodeIdentity{node(1), node(2), node(3), node(4), node(5)}, 0, false, true},
		{"three that saw the same share", []mpc.NodeIdentity{node(1), node(2), node(3)}, 0, false, false},
		{"one of each share", []mpc.NodeIdentity{node(1), node(4), node(5)}, 0, false, true},
		{"one share and two spares", []mpc.NodeIdentity{node(1), node(6), node(7)}, 0, false, true},
		{"one share, a spare and a node yet to come", []mpc.NodeIdentity{node(1), node(6)}, 1, false, true},
		{"one share and one spare", []mpc.NodeIdentity{node(1), node(6)}, 0, false, false},
		{"one of each share, no spares", []mpc.NodeIdentity{node(1), node(4), node(5)}, 0, true, true},
		{"one share and two that do not count", []mpc.NodeIdentity{node(1), node(6), node(7)}, 0, true, false},
		{"a node yet to come that does not count", []mpc.NodeIdentity{node(1), node(4)}, 1, true, false},
	} {
		a.NoSpares = c.noSpares
		var sites []site
		for _, id := range c.nodes {
			sites = append(sites, site{identity: &id, domain: hsm.DefaultDomain})
		}
		for range c.fresh {
			sites = append(sites, site{domain: hsm.DefaultDomain})
		}
		if got := canServe(a, sites); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// The pool becomes smaller between the nodes' work and the write of what they
// made: either write alone is right, and one of them must not happen.
func TestShrinkWhileSharesAreMade(t *testing.T) {
	for _, c := range []struct {
		step, name string
		status     int
	}{
		{stepCreateMade, "made", http.StatusConflict},
		{stepCreateStored, "made", http.StatusOK}, // then it is the pool that stays
	} {
		t.Run(c.step, func(t *testing.T) {
			var m *mount
			shrunk := http.StatusOK
			m = openWith(t, &logical.InmemStorage{}, newFake(t), func(cfg *Config) {
				cfg.step = func(_ context.Context, name string) error {
					if name == c.step {
						_, shrunk, _ = m.do(logical.UpdateOperation, "config/nodes", map[string]any{"local": 2})
					}
					return nil
				}
			})
			m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
			_, status, text := m.do(logical.CreateOperation, "accounts/"+c.name, map[string]any{"algorithm": "ed25519", "threshold": 2, "shares": 3})
			if status != c.status {
				t.Errorf("create: %d %s, want %d", status, text, c.status)
			}
			if (status == http.StatusOK) == (shrunk == http.StatusOK) {
				t.Errorf("create answers %d and config/nodes %d", status, shrunk)
			}
			_, status, _ = m.do(logical.ReadOperation, "accounts/"+c.name, nil)
			if (status == http.StatusOK) != (c.status == http.StatusOK) {
				t.Errorf("reading it answers %d", status)
			}
		})
	}
}

// TestLastNodeOfAShare: a node that was chosen before the pool became smaller is not
// handed a share when none would be left for another one.
func TestLastNodeOfAShare(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.update("config/nodes", map[string]any{"local": 3})
	for i := 1; i <= 3; i++ {
		if err := m.b.store.PutNodeKeys(t.Context(), pool.LocalNodeID(i), nodeKeysOf(100+i)); err != nil {
			t.Fatal(err)
		}
	}
	r, _ := m.b.store.account(t.Context(), "alice")
	a, _ := r.Current.account()
	expose := m.b.expose("alice", &a.Record)
	identity := func(i int) mpc.NodeIdentity { return nodeIdentity(100 + i) }
	// The nodes that made the shares have left; three have seen none.
	if err := expose(t.Context(), mpc.Exposures{identity(1): 1}); err != nil {
		t.Fatal(err)
	}
	if err := expose(t.Context(), mpc.Exposures{identity(2): 1}); !errors.Is(err, pool.ErrStrands) {
		t.Errorf("the second node that sees share 1: %v", err)
	}
	if err := expose(t.Context(), mpc.Exposures{identity(2): 3}); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
	// One more node, and there is one for each share again.
	m.update("config/nodes", map[string]any{"local": 4})
	if err := expose(t.Context(), mpc.Exposures{identity(3): 3}); err != nil {
		t.Errorf("with another node: %v", err)
	}
}
