package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/rotation"
)

// hiccup is a storage of which one write fails, before or after it took effect,
// and everything else works. listed is called after each list of accounts.
type hiccup struct {
	logical.Storage
	mu     sync.Mutex
	armed  bool
	left   int // writes before the one that fails
	late   bool
	failed bool
	listed func()
}

func (h *hiccup) write(do func() error) error {
	h.mu.Lock()
	fail := h.armed && h.left == 0
	if h.armed {
		h.left--
	}
	if fail {
		h.armed, h.failed = false, true
	}
	h.mu.Unlock()
	if fail && !h.late {
		return errors.New("storage does not answer")
	}
	err := do()
	if fail {
		return errors.New("storage does not answer")
	}
	return err
}

func (h *hiccup) Put(ctx context.Context, e *logical.StorageEntry) error {
	return h.write(func() error { return h.Storage.Put(ctx, e) })
}

func (h *hiccup) Delete(ctx context.Context, key string) error {
	return h.write(func() error { return h.Storage.Delete(ctx, key) })
}

func (h *hiccup) List(ctx context.Context, prefix string) ([]string, error) {
	out, err := h.Storage.List(ctx, prefix)
	h.mu.Lock()
	listed := h.listed
	if prefix == prefixAccounts {
		h.listed = nil
	}
	h.mu.Unlock()
	if prefix == prefixAccounts && listed != nil {
		listed()
	}
	return out, err
}

// TestRenameHiccup: one write of a rename fails and the process lives on. Nobody
// asks for the account; the runner comes to the old name, and a minute passes. The
// account is whole then, and refreshed under the name that it has.
func TestRenameHiccup(t *testing.T) {
	for _, late := range []bool{false, true} {
		for n, through := 0, false; !through; n++ {
			t.Run(fmt.Sprintf("late=%v/write=%d", late, n), func(t *testing.T) {
				h := &hiccup{Storage: &logical.InmemStorage{}}
				m := openAt(t, h, newFake(t), newClock().now)
				configure(m)
				toBeRenamed(m)
				m.read()
				h.armed, h.left, h.late = true, n, late
				m.do(logical.UpdateOperation, "accounts/carol/rename", toRename("caroline"))
				h.armed = false
				through = !h.failed
				if _, err := m.b.RefreshAccount(t.Context(), "carol"); errors.Is(err, rotation.ErrGone) {
					m.b.runner.Remove("carol") // as the runner does
				}
				m.b.tend(false)
				m.b.tend(false)
				if unfinished := m.b.moves.names(); len(unfinished) != 0 {
					t.Errorf("not finished: %v", unfinished)
				}
				stored := keysUnder(t, m, prefixAccounts)
				if len(stored) != 1 {
					t.Fatalf("stored as %v", stored)
				}
				if _, known := m.b.runner.Status(stored[0]); !known {
					t.Errorf("%s is not refreshed any more", stored[0])
				}
				checkRenamed(m, whole(m, "carol", "caroline"), "carol-anne")
			})
		}
	}
}

// TestRenameWhileReading: an account is renamed after the names were listed and
// before it was read. What nodes have seen of it is not forgotten.
func TestRenameWhileReading(t *testing.T) {
	h := &hiccup{Storage: &logical.InmemStorage{}}
	m := openAt(t, h, newFake(t), newClock().now)
	configure(m)
	toBeRenamed(m)
	id := m.record("carol").ID
	h.listed = func() { m.update("accounts/carol/rename", toRename("caroline")) }
	m.read()
	if m.record("caroline").ID != id {
		t.Fatal("not renamed")
	}
	if left := keysUnder(t, m, prefixExposures); !slices.Contains(left, id) {
		t.Errorf("the exposures of an account are deleted while it is renamed: %v", left)
	}
	whole(m, "carol", "caroline")
	m.must(logical.DeleteOperation, "destroy/caroline", nil)
	m.read()
	if left := keysUnder(t, m, prefixExposures); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestImportWhileRenamed: an account is renamed while an import looks for it
// under all names.
func TestImportWhileRenamed(t *testing.T) {
	h := &hiccup{Storage: &logical.InmemStorage{}}
	m := openAt(t, h, newFake(t), newClock().now)
	configure(m)
	toBeRenamed(m)
	id := mustAccount(t, m.record("carol")).Record.AccountID
	h.listed = func() { m.update("accounts/carol/rename", toRename("caroline")) }
	if err := m.b.onlyHere(t.Context(), "copy", id); err == nil {
		t.Error("the account may be imported beside itself")
	} else if status, msg := m.b.classify(err); status != http.StatusConflict {
		t.Errorf("%d %s", status, msg)
	}
}

// TestRenameUndoneHiccup: a rename is taken back, and the write that says so fails
// and takes effect all the same. The account is refreshed as before.
func TestRenameUndoneHiccup(t *testing.T) {
	for _, late := range []bool{false, true} {
		m := stoppedRename(t, stepRenameMarked)
		m.create("caroline", "ed25519")
		h := &hiccup{Storage: m.storage}
		m = openAt(t, h, m.fake, newClock().now)
		m.read()
		h.armed, h.late = true, late
		m.b.tend(false)
		if !h.failed {
			t.Fatal("nothing was written")
		}
		m.b.tend(false)
		if unfinished := m.b.moves.names(); len(unfinished) != 0 {
			t.Errorf("not finished: %v", unfinished)
		}
		if _, known := m.b.runner.Status("carol"); !known {
			t.Errorf("late=%v: carol is not refreshed any more", late)
		}
		m.signs("carol")
	}
}

// TestReferencesAfterHiccup: an entry was removed although storage said otherwise.
// It does not keep a wrapping key from being destroyed for ever.
func TestReferencesAfterHiccup(t *testing.T) {
	for name, remove := range map[string]func(*mount){
		"destroy": func(m *mount) { m.do(logical.DeleteOperation, "destroy/bob", nil) },
		"rename": func(m *mount) {
			m.do(logical.UpdateOperation, "accounts/bob/rename", toRename("robert"))
			m.b.tend(false)
			m.must(logical.DeleteOperation, "destroy/robert", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hiccup{Storage: &logical.InmemStorage{}}
			m := wrapped(t, h, newFake(t), newClock())
			h.armed, h.late, h.left = true, true, map[string]int{"destroy": 0, "rename": 2}[name]
			remove(m)
			if !h.failed {
				t.Fatal("no write has failed")
			}
			if left := keysUnder(t, m, prefixAccounts); len(left) != 1 {
				t.Fatalf("left: %v", left)
			}
			if !m.b.store.refs.isComplete() { // as scanIfNeeded does
				m.read()
			}
			if got := m.references(1); got != "1/1" {
				t.Errorf("references to version 1: %s", got)
			}
		})
	}
}

// TestRefreshOfTheMoved: a refresh that finds its account on the way to another name
// has not failed; an operator would be called for nothing.
func TestRefreshOfTheMoved(t *testing.T) {
	m := stoppedRename(t, stepRenameMarked)
	if _, err := m.b.RefreshAccount(t.Context(), "carol"); !errors.Is(err, rotation.ErrGone) {
		t.Fatal(err)
	}
	if v, _ := value(m.scrape(), "mpc_refreshes_total", "result=failed"); v != 0 {
		t.Errorf("%v refreshes have failed", v)
	}
}

// TestReadLater: an account could not be read when all were, once. It is refreshed
// all the same from when it can be.
func TestReadLater(t *testing.T) {
	f := &flaky{Storage: &logical.InmemStorage{}}
	at := newClock()
	m := wrapped(t, f, newFake(t), at)
	m.must(logical.DeleteOperation, "accounts/alice", nil)
	m.b.Cleanup(t.Context())
	m = openAt(t, f, m.fake, at.now)
	f.noReads = prefixAccounts + "alice"
	m.b.startBackground()
	m.b.tasks.Wait()
	for deadline := time.Now().Add(20 * time.Second); !m.b.runner.Progress().Loaded && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
	}
	if _, known := m.b.runner.Status("bob"); !known {
		t.Fatal("bob is not known")
	}
	f.mu.Lock()
	f.noReads = ""
	f.mu.Unlock()
	at.add(keeperBackoffMax)
	m.pass()
	if _, known := m.b.runner.Status("alice"); !known {
		t.Error("alice is not refreshed")
	}
	at.add(defaultDeletionWait)
	if !m.b.grave.anyPast(at.now()) {
		t.Error("alice is never destroyed")
	}
}

// TestRenameRepeated: clients repeat a request that was answered by 5xx. A rename
// that was begun by the first one is not refused then because of itself.
func TestRenameRepeated(t *testing.T) {
	for n, late := range map[int]bool{0: true, 1: true, 2: false} {
		h := &hiccup{Storage: &logical.InmemStorage{}, late: late}
		m := openAt(t, h, newFake(t), newClock().now)
		configure(m)
		toBeRenamed(m)
		h.left, h.armed = n, true
		if _, status, msg := m.do(logical.UpdateOperation, "accounts/carol/rename", toRename("caroline")); status < 500 {
			t.Errorf("write %d: %d %s", n, status, msg)
		}
		if d := m.update("accounts/carol/rename", toRename("caroline")); d["name"] != "caroline" {
			t.Errorf("write %d: %v", n, d)
		}
		checkRenamed(m, whole(m, "carol", "caroline"), "carol-anne")
	}
}

// TestRenameRepeatedTooLate: the name that a cut-off rename was for is another's by
// now, and the rename is repeated.
func TestRenameRepeatedTooLate(t *testing.T) {
	m := stoppedRename(t, stepRenameMarked)
	m.create("caroline", "ed25519")
	m.fails(logical.UpdateOperation, "accounts/carol/rename", toRename("caroline"), http.StatusConflict, `"carol" keeps its name`)
	m.signs("carol")
	m.signs("caroline")
}
