package backend

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/pool"
)

// crashEverywhere runs do on copies of a prepared mount whose storage fails at
// the first, second, … write, before or after it took effect, until do gets
// through. After each crash it opens a new backend on what was stored.
func crashEverywhere(t *testing.T, prepare func(*mount), do func(*mount), check func(t *testing.T, m *mount)) {
	for _, late := range []bool{false, true} {
		for n := 0; ; n++ {
			through := false
			t.Run(fmt.Sprintf("late=%v/write=%d", late, n), func(t *testing.T) {
				fake := newFake(t)
				base := &logical.InmemStorage{}
				prepare(open(t, base, fake))
				c := &crashing{Storage: base, left: n, late: late}
				do(open(t, c, fake))
				through = !c.dead
				fake.garbage, fake.spare, fake.openErr = false, false, nil
				check(t, open(t, snapshot(t, base), fake))
			})
			if through {
				if n == 0 {
					t.Fatal("the operation writes nothing: the test tests nothing")
				}
				break
			}
		}
	}
}

func configure(m *mount) {
	m.t.Helper()
	m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
}

func withAccount(m *mount) {
	m.t.Helper()
	configure(m)
	m.create("alice", "bip340-secp256k1")
}

// alive checks that the account reads, signs, refreshes and signs again, with
// one key all along.
func alive(t *testing.T, m *mount) {
	t.Helper()
	key := m.must(logical.ReadOperation, "accounts/alice", nil)["public_key_hex"]
	m.signs("alice") // may go back an epoch, so the epoch is read after it
	before := m.must(logical.ReadOperation, "accounts/alice", nil)
	m.fake.spare = true
	m.signs("alice")
	after := m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	m.signs("alice")
	if before["public_key_hex"] != key || after["public_key_hex"] != key || after["share_epoch"].(uint64) != before["share_epoch"].(uint64)+1 {
		t.Errorf("after a refresh: key %v epoch %v, before: %v %v", after["public_key_hex"], after["share_epoch"], key, before["share_epoch"])
	}
}

func TestCrashDuringConfig(t *testing.T) {
	crashEverywhere(t, func(*mount) {},
		func(m *mount) {
			m.do(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
		},
		func(t *testing.T, m *mount) {
			configure(m) // the operator's second try
			m.create("alice", "bip340-secp256k1")
			alive(t, m)
			if data := m.must(logical.ReadOperation, "config/hsm", nil); data["wrapping_version"] != 1 {
				t.Errorf("wrapping version %v after a crash", data["wrapping_version"])
			}
		})
}

func TestCrashDuringCreate(t *testing.T) {
	crashEverywhere(t, configure,
		func(m *mount) {
			m.do(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1"})
		},
		func(t *testing.T, m *mount) {
			if _, status, _ := m.do(logical.ReadOperation, "accounts/alice", nil); status == http.StatusNotFound {
				m.create("alice", "bip340-secp256k1") // nothing is in the way
			}
			alive(t, m)
		})
}

func TestCrashDuringRefresh(t *testing.T) {
	crashEverywhere(t, withAccount,
		func(m *mount) { m.do(logical.UpdateOperation, "accounts/alice/refresh", nil) },
		alive)
}

// TestCrashDuringVoidRefresh: exposures of the epoch have grown, and the next
// one holds garbage.
func TestCrashDuringVoidRefresh(t *testing.T) {
	base, fake := &logical.InmemStorage{}, newFake(t)
	c := &crashing{Storage: base, left: 1 << 30}
	m := open(t, c, fake)
	withAccount(m)
	m.fake.spare = true
	m.signs("alice")
	c.left = 0 // a write would be noticed
	m.fake.garbage = true
	m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, http.StatusInternalServerError, "keeps the shares it has")
	if c.dead {
		t.Error("a refresh without effect wrote something")
	}
	alive(t, open(t, snapshot(t, base), fake))
}

func TestCrashDuringExposure(t *testing.T) {
	crashEverywhere(t, withAccount,
		func(m *mount) {
			m.fake.spare = true
			m.do(logical.UpdateOperation, "sign/alice", map[string]any{"input": "aGVsbG8="})
		},
		alive)
}

func TestCrashDuringDestroy(t *testing.T) {
	crashEverywhere(t,
		func(m *mount) {
			withAccount(m)
			m.fake.spare = true
			m.signs("alice") // makes an exposures entry
		},
		func(m *mount) { m.do(logical.DeleteOperation, "destroy/alice", nil) },
		func(t *testing.T, m *mount) {
			if _, status, _ := m.do(logical.ReadOperation, "accounts/alice", nil); status == http.StatusOK {
				alive(t, m)
				return
			}
			if _, err := m.b.Schedule(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, k := range keys(t, m.storage) {
				if len(k) > len(prefixExposures) && k[:len(prefixExposures)] == prefixExposures {
					t.Errorf("%s is left of a destroyed account", k)
				}
			}
			m.create("alice", "bip340-secp256k1")
			alive(t, m)
		})
}

// TestVoidRefresh: a node makes a share that does not open. Nothing is stored.
func TestVoidRefresh(t *testing.T) {
	m := configured(t)
	m.create("alice", "ecdsa-secp256k1")
	m.fake.spare = true
	m.signs("alice") // node 4 now has share 1
	stored, _ := m.storage.Get(t.Context(), prefixAccounts+"alice")
	m.fake.garbage = true
	m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, http.StatusInternalServerError, "keeps the shares it has")
	after := m.must(logical.ReadOperation, "accounts/alice", nil)
	if now, _ := m.storage.Get(t.Context(), prefixAccounts+"alice"); !bytes.Equal(now.Value, stored.Value) {
		t.Error("the account's entry has changed")
	}
	if after["last_refresh_error"] == "" {
		t.Error("the account does not say that its refresh failed")
	}
	alive(t, m)
}

// TestUncheckedRefresh: the new shares could not be opened for want of nodes.
func TestUncheckedRefresh(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	before := m.must(logical.ReadOperation, "accounts/alice", nil)
	m.fake.openErr = &pool.TooFewNodesError{Ready: 2, Needed: 3, Configured: 5}
	m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, http.StatusServiceUnavailable, "could not be checked, so the account keeps the shares it has")
	m.fake.openErr = nil
	if after := m.must(logical.ReadOperation, "accounts/alice", nil); after["epoch_id"] != before["epoch_id"] {
		t.Error("an epoch that was never opened is in use")
	}
	alive(t, m)
}

// TestRefreshWritesOnce: one write of one entry, which holds one epoch.
func TestRefreshWritesOnce(t *testing.T) {
	base, fake := &logical.InmemStorage{}, newFake(t)
	c := &crashing{Storage: base, left: 1 << 30}
	m := open(t, c, fake)
	withAccount(m)
	for range 3 {
		before := c.wrote
		m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
		if c.wrote != before+1 {
			t.Errorf("a refresh wrote %d times", c.wrote-before)
		}
		if r, _ := m.b.store.account(t.Context(), "alice"); r.Previous != nil {
			t.Error("a previous epoch stays in the entry")
		}
	}
}

// twoEpochs leaves an account as an older version did between promotion and
// check: two epochs in its entry, the newer perhaps with a share that does not
// open.
func twoEpochs(m *mount, garbage bool) {
	m.t.Helper()
	m.create("alice", "bip340-secp256k1")
	makeTwoEpochs(m, garbage)
}

// makeTwoEpochs does so with alice as she is.
func makeTwoEpochs(m *mount, garbage bool) {
	m.t.Helper()
	m.fake.spare = true
	m.signs("alice") // node 4 now has share 1
	r, err := m.b.store.account(m.t.Context(), "alice")
	if err != nil {
		m.t.Fatal(err)
	}
	all, err := m.b.store.usable(m.t.Context(), r)
	if err != nil {
		m.t.Fatal(err)
	}
	previous := r.Current
	previous.Exposures = formatExposures(all.Exposures)
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	if r, err = m.b.store.account(m.t.Context(), "alice"); err != nil {
		m.t.Fatal(err)
	}
	r.Previous = &previous
	if garbage {
		r.Current.Shares[0] = fakeEnvelope([]byte("garbage"), 1)
	}
	if err := m.b.store.putAccount(m.t.Context(), "alice", r); err != nil {
		m.t.Fatal(err)
	}
}

// TestTwoEpochs: if the newer epoch is good it stays; if it holds a share that
// does not open, a signature that meets it goes back to the previous epoch and
// is answered all the same. The same is done by a refresh and by the runner.
func TestTwoEpochs(t *testing.T) {
	for _, garbage := range []bool{false, true} {
		for name, meet := range map[string]func(*mount) (settled bool){
			"signature": func(m *mount) bool { m.signs("alice"); return garbage },
			"refresh":   func(m *mount) bool { m.must(logical.UpdateOperation, "accounts/alice/refresh", nil); return true },
			"runner": func(m *mount) bool {
				if _, err := m.b.RewrapAccount(m.t.Context(), "alice"); err != nil {
					m.t.Error(err)
				}
				return true
			},
		} {
			t.Run(fmt.Sprintf("garbage=%v/%s", garbage, name), func(t *testing.T) {
				m := configured(t)
				twoEpochs(m, garbage)
				m.fake.openErr = &pool.TooFewNodesError{Ready: 2, Needed: 3, Configured: 5}
				// The way back is not thrown away unchecked.
				m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, http.StatusServiceUnavailable, "could not be checked")
				if r, _ := m.b.store.account(t.Context(), "alice"); r.Previous == nil {
					t.Fatal("the previous epoch was dropped unchecked")
				}
				m.fake.openErr = nil
				settled := meet(m)
				r, err := m.b.store.account(t.Context(), "alice")
				if err != nil {
					t.Fatal(err)
				}
				if (r.Previous == nil) != settled {
					t.Errorf("settled: %v", r.Previous == nil)
				}
				if garbage && name != "refresh" && r.Current.Exposures[nodeIdentity(4).String()] != 1 {
					t.Error("going back forgot that node 4 had share 1")
				}
				alive(t, m)
			})
		}
	}
}

func TestCrashWithTwoEpochs(t *testing.T) {
	for _, garbage := range []bool{false, true} {
		crashEverywhere(t,
			func(m *mount) { configure(m); twoEpochs(m, garbage) },
			func(m *mount) { m.do(logical.UpdateOperation, "accounts/alice/refresh", nil) },
			alive)
	}
}

// TestNoWayBack: neither epoch opens completely. Nothing may be thrown away.
func TestNoWayBack(t *testing.T) {
	m := configured(t)
	twoEpochs(m, false)
	m.fake.openErr = fmt.Errorf("share 1: %w", pool.ErrShareUnusable)
	m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, http.StatusInternalServerError, "previous shares were not confirmed either")
	if r, _ := m.b.store.account(t.Context(), "alice"); r.Previous == nil {
		t.Error("an epoch was thrown away")
	}
	m.fake.openErr = nil
	alive(t, m)
}
