package backend

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
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

// TestCrashDuringRollback: exposures of the old epoch have grown, the new one
// holds garbage, and the crash comes anywhere on the way back.
func TestCrashDuringRollback(t *testing.T) {
	crashEverywhere(t,
		func(m *mount) {
			withAccount(m)
			m.fake.spare = true
			m.signs("alice")
		},
		func(m *mount) {
			m.fake.garbage = true
			m.do(logical.UpdateOperation, "accounts/alice/refresh", nil)
		},
		alive)
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

func TestRefreshRollsBack(t *testing.T) {
	m := configured(t)
	m.create("alice", "ecdsa-secp256k1")
	m.fake.spare = true
	m.signs("alice") // node 4 now has share 1
	before := m.must(logical.ReadOperation, "accounts/alice", nil)
	m.fake.garbage = true
	m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, http.StatusInternalServerError, "keeps its previous shares")
	after := m.must(logical.ReadOperation, "accounts/alice", nil)
	if after["epoch_id"] != before["epoch_id"] || after["last_refresh_time"] != before["last_refresh_time"] {
		t.Error("the account is not back in its epoch")
	}
	if after["last_refresh_error"] == "" {
		t.Error("the account does not say that its refresh failed")
	}
	r, err := m.b.store.account(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if r.Previous != nil {
		t.Error("a previous epoch is left after rolling back")
	}
	if r.Current.Exposures[nodeIdentity(4).String()] != 1 {
		t.Error("rolling back forgot that node 4 had share 1")
	}
	alive(t, m)
}

// TestUnsettledRefresh: the check after promotion was not possible. If the new
// epoch is good it stays; if it holds a share that does not open, a signature
// that meets it goes back to the previous epoch and is answered all the same.
func TestUnsettledRefresh(t *testing.T) {
	for _, garbage := range []bool{false, true} {
		t.Run(fmt.Sprintf("garbage=%v", garbage), func(t *testing.T) {
			m := configured(t)
			m.create("alice", "bip340-secp256k1")
			first := m.must(logical.ReadOperation, "accounts/alice", nil)
			m.fake.garbage = garbage
			m.fake.openErr = &pool.TooFewNodesError{Ready: 2, Needed: 3, Configured: 5}
			resp, status, msg := m.do(logical.UpdateOperation, "accounts/alice/refresh", nil)
			if status != http.StatusOK || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "could not be checked") {
				t.Fatalf("%d %s %+v", status, msg, resp)
			}
			if r, _ := m.b.store.account(t.Context(), "alice"); r.Previous == nil {
				t.Fatal("the previous epoch was dropped unchecked")
			}
			// Another refresh must not throw the way back away.
			m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, http.StatusServiceUnavailable, "could not be checked")

			m.fake.openErr = nil
			signed := m.signs("alice")
			r, err := m.b.store.account(t.Context(), "alice")
			if err != nil {
				t.Fatal(err)
			}
			want, previous := uint64(2), true
			if garbage {
				want, previous = first["share_epoch"].(uint64), false
			}
			if signed["share_epoch"] != want || (r.Previous != nil) != previous {
				t.Errorf("signed in epoch %v, previous kept: %v; want %d, %v", signed["share_epoch"], r.Previous != nil, want, previous)
			}
			alive(t, m)
		})
	}
}

// TestNoWayBack: neither epoch opens completely. Nothing may be thrown away.
func TestNoWayBack(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.fake.openErr = errors.New("no answer")
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	m.fake.openErr = fmt.Errorf("share 1: %w", pool.ErrShareUnusable)
	m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, http.StatusInternalServerError, "previous shares were not confirmed either")
	if r, _ := m.b.store.account(t.Context(), "alice"); r.Previous == nil {
		t.Error("an epoch was thrown away")
	}
	m.fake.openErr = nil
	alive(t, m)
}
