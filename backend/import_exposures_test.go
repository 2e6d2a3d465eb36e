package backend

import (
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// TestImportPlacement: what a node was handed in an attempt to import binds the
// next attempt, also after a restart, and no other account or target.
func TestImportPlacement(t *testing.T) {
	storage := &logical.InmemStorage{}
	m := wrapped(t, storage, newFake(t), newClock())
	record := mustAccount(t, m.record("alice")).Record
	place := func(m *mount, account mpc.AccountID, target byte) *pool.ImportRequest {
		t.Helper()
		old := record
		old.AccountID = account
		r := &pool.ImportRequest{Old: old, Target: [32]byte{target, 31: target}}
		if err := m.b.placeImport(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := place(m, record.AccountID, 1)
	if len(first.Exposures) != 0 {
		t.Fatalf("before anything was handed over: %v", first.Exposures)
	}
	one := mpc.Exposures{nodeIdentity(1): 1, nodeIdentity(2): 2}
	if err := first.Expose(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if err := first.Expose(t.Context(), mpc.Exposures{nodeIdentity(3): 3}); err != nil {
		t.Fatal(err)
	}
	want := mpc.Exposures{nodeIdentity(1): 1, nodeIdentity(2): 2, nodeIdentity(3): 3}
	for _, at := range []*mount{m, open(t, storage, newFake(t))} {
		again := place(at, record.AccountID, 1)
		if !maps.Equal(again.Exposures, want) {
			t.Errorf("the next attempt is told %v, want %v", again.Exposures, want)
		}
		var exposed *pool.ExposedError
		if err := again.Expose(t.Context(), mpc.Exposures{nodeIdentity(1): 2}); !errors.As(err, &exposed) || exposed.Seen != 1 {
			t.Errorf("a second share for a node: %v", err)
		}
	}
	if r := place(m, record.AccountID, 2); len(r.Exposures) != 0 {
		t.Errorf("another target: %v", r.Exposures)
	}
	if r := place(m, mpc.AccountID{7}, 1); len(r.Exposures) != 0 {
		t.Errorf("another account: %v", r.Exposures)
	}
	m.must(logical.UpdateOperation, "destroy/alice", nil)
	m.read()
	if r := place(m, record.AccountID, 1); !maps.Equal(r.Exposures, want) {
		t.Errorf("after the account was destroyed: %v", r.Exposures)
	}
}

// TestImportUnderOneName: an account is not imported beside itself.
func TestImportUnderOneName(t *testing.T) {
	f := &flaky{Storage: &logical.InmemStorage{}}
	m := wrapped(t, f, newFake(t), newClock())
	id := mustAccount(t, m.record("alice")).Record.AccountID
	if err := m.b.onlyHere(t.Context(), "alice", id); err != nil {
		t.Errorf("under its own name: %v", err)
	}
	if err := m.b.onlyHere(t.Context(), "carol", id); err == nil || !strings.Contains(err.Error(), `"alice"`) {
		t.Errorf("under another name: %v", err)
	}
	if err := m.b.onlyHere(t.Context(), "carol", mpc.AccountID{7}); err != nil {
		t.Errorf("another account: %v", err)
	}
	m.fails(logical.UpdateOperation, "recovery/import/"+wrappingKeysName, map[string]any{"bundle": "x"}, http.StatusBadRequest, "no account can be called")
	m.damage(f, prefixAccounts+"bob", "{")
	if err := m.b.onlyHere(t.Context(), "carol", mpc.AccountID{7}); err != nil {
		t.Errorf("beside a damaged account: %v", err)
	}
}
