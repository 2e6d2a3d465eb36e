package backend

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
)

func toRename(to string) map[string]any { return map[string]any{"new_name": to} }

// toBeRenamed makes carol, who remembers her public key and has exposures.
func toBeRenamed(m *mount) {
	m.t.Helper()
	key := m.create("carol", "bip340-secp256k1")["public_key_hex"]
	m.update("accounts/carol", map[string]any{"metadata": map[string]any{"key": key}})
	m.update("accounts/carol/refresh", nil)
	m.fake.spare = true
	m.signs("carol")
}

// checkRenamed demands that the account is there under one of two names, whole,
// and that it can be moved to and fro.
func checkRenamed(m *mount, one, two string) {
	m.t.Helper()
	here := whole(m, one, two)
	there := map[string]string{one: two, two: one}[here]
	for range 2 {
		m.update("accounts/"+here+"/rename", toRename(there))
		if now := whole(m, one, two); now != there {
			m.t.Fatalf("%s is called %s after its rename to %s", here, now, there)
		}
		m.fake.spare = true // exposures go on under the new name
		m.signs(there)
		m.update("accounts/"+there+"/refresh", nil)
		here, there = there, here
	}
}

// whole returns the one name that an account has.
func whole(m *mount, names ...string) string {
	m.t.Helper()
	var here []string
	for _, name := range names {
		resp, status, msg := m.do(logical.ReadOperation, "accounts/"+name, nil)
		switch status {
		case http.StatusOK:
			here = append(here, name)
			if resp.Data["name"] != name || resp.Data["public_key_hex"] != resp.Data["metadata"].(map[string]string)["key"] {
				m.t.Errorf("%s is %v", name, resp.Data)
			}
		case http.StatusNotFound:
			if !strings.Contains(msg, "there is no account \""+name+"\"") {
				m.t.Error(msg)
			}
			m.fails(logical.UpdateOperation, "sign/"+name, hello, http.StatusNotFound, "there is no account")
		default:
			m.t.Errorf("%s: %d %s", name, status, msg)
		}
	}
	if len(here) != 1 {
		m.t.Fatalf("the account is called %v", here)
	}
	if listed := m.must(logical.ListOperation, "accounts", map[string]any{"prefix": "carol"}); fmt.Sprint(listed["keys"]) != fmt.Sprint(here) {
		m.t.Errorf("listed as %v, is %v", listed["keys"], here)
	}
	if r := m.record(here[0]); r.left(here[0]) { // the mark of an arrival may be there
		m.t.Errorf("%s is still being renamed to %s", here[0], r.RenamingTo)
	}
	id := m.record(here[0]).ID
	if left := keysUnder(m.t, m, prefixExposures); !slices.Contains(left, id) {
		m.t.Errorf("the exposures of %s are lost: %v", id, left)
	}
	m.signs(here[0])
	return here[0]
}

// checkRemoved demands that an account is whole or gone, and has it destroyed.
func checkRemoved(m *mount, name string) {
	m.t.Helper()
	if _, status, _ := m.do(logical.ReadOperation, "accounts/"+name, nil); status == http.StatusOK {
		m.update("accounts/"+name+"/restore", nil)
		whole(m, name)
		m.must(logical.DeleteOperation, "destroy/"+name, nil)
	}
	m.read() // as at the start: exposures that were left go
	for _, k := range keys(m.t, m.storage) {
		if strings.HasPrefix(k, prefixExposures) || strings.HasSuffix(k, "/"+name) {
			m.t.Errorf("%s is left", k)
		}
	}
	toBeRenamed(m) // the name is free
	whole(m, name)
}

func TestRename(t *testing.T) {
	m := configured(t)
	toBeRenamed(m)
	m.create("bob", "ed25519")
	m.update("accounts/carol", map[string]any{"refresh_period": "1h"})
	before := m.must(logical.ReadOperation, "accounts/carol", nil)
	after := m.update("accounts/carol/rename", toRename("caroline"))
	for field, value := range before {
		if field != "name" && field != "idle" && field != "next_refresh_time" && fmt.Sprint(after[field]) != fmt.Sprint(value) {
			t.Errorf("%s is %v, it was %v", field, after[field], value)
		}
	}
	if n := len(keysUnder(t, m, prefixAccounts)); n != 2 {
		t.Errorf("%d accounts", n)
	}
	checkRenamed(m, "carol", "caroline")
	if _, known := m.b.runner.Status("carol"); known {
		t.Error("the old name is still scheduled")
	}
	if _, known := m.b.runner.Status("caroline"); !known {
		t.Error("the new name is not scheduled")
	}
	for op, data := range map[string]map[string]any{"refresh": nil, "freeze": nil, "restore": nil, "rename": toRename("x")} {
		m.fails(logical.UpdateOperation, "accounts/carol/"+op, data, http.StatusNotFound, "there is no account \"carol\"")
	}
	for to, text := range map[string]string{
		"bob": "exists already", "caroline": "has that name", "": "new_name is missing", "a/b": "is not an account name", "-x": "is not an account name",
		strings.Repeat("x", 129): "is not an account name", wrappingKeysName: "no account can be called",
	} {
		status := http.StatusBadRequest
		if to == "bob" {
			status = http.StatusConflict
		}
		m.fails(logical.UpdateOperation, "accounts/caroline/rename", toRename(to), status, text)
	}
	m.update("accounts/caroline/freeze", map[string]any{"reason": "r"})
	if d := m.update("accounts/caroline/rename", toRename("carol")); d["state"] != "frozen" || d["frozen_reason"] != "r" {
		t.Errorf("a frozen account was renamed: %v", d)
	}
	// The old name can be taken anew.
	m.create("caroline", "ed25519")
	m.signs("caroline")
	m.rests("carol", "frozen", "has been frozen")
}

// TestRenamePresigned: presignatures go by the account's ID and stay.
func TestRenamePresigned(t *testing.T) {
	m := configured(t)
	m.update("accounts/carol", map[string]any{"algorithm": "ecdsa-secp256k1", "presign": 2})
	m.b.stock.work(t.Context())
	m.update("accounts/carol/rename", toRename("caroline"))
	if s := m.signs("caroline"); s["presigned"] != true {
		t.Error("the presignatures are lost")
	}
	m.b.stock.work(t.Context())
	if n := m.must(logical.ReadOperation, "accounts/caroline", nil)["presignatures"]; n != 2 {
		t.Errorf("%v presignatures under the new name", n)
	}
}

// TestRenameBusy: renames of one account, and to one name, at the same time.
func TestRenameBusy(t *testing.T) {
	m := configured(t)
	toBeRenamed(m)
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			from, to := "carol", fmt.Sprintf("carol-%d", i%3)
			if i%2 == 1 {
				from, to = to, from
			}
			if i%5 == 0 {
				_, _ = m.b.RefreshAccount(context.Background(), from)
			}
			m.do(logical.UpdateOperation, "accounts/"+from+"/rename", toRename(to))
			m.do(logical.UpdateOperation, "sign/"+to, hello)
		})
	}
	all.Wait()
	whole(m, "carol", "carol-0", "carol-1", "carol-2")
}

// stoppedRename leaves carol as a rename does that stops at a step.
func stoppedRename(t *testing.T, step string) *mount {
	t.Helper()
	base, fake, clk := &logical.InmemStorage{}, newFake(t), newClock()
	k := &killer{storage: &crashing{Storage: base, left: 1 << 30}, at: step}
	m := openWith(t, k.storage, fake, func(c *Config) { c.now, c.step = clk.now, k.step })
	configure(m)
	toBeRenamed(m)
	m.do(logical.UpdateOperation, "accounts/carol/rename", toRename("caroline"))
	if !k.storage.dead {
		t.Fatalf("did not come to %q", step)
	}
	m.b.Cleanup(context.Background())
	return openAt(t, snapshot(t, base), fake, clk.now)
}

var renameSteps = []string{stepRenameMarked, stepRenameArrived, stepRenameRemoved, stepRenameDone}

// TestRenameFinished: whatever is asked of either name first after a crash, the
// account is there once afterwards, also where nothing was read at the start.
func TestRenameFinished(t *testing.T) {
	first := map[string]func(*mount){
		"read": func(m *mount) { m.do(logical.ReadOperation, "accounts/carol", nil) },
		"sign": func(m *mount) { m.do(logical.UpdateOperation, "sign/carol", hello) },
		"sign with ID": func(m *mount) {
			m.do(logical.UpdateOperation, "sign/carol", map[string]any{"input": "aGVsbG8=", "request_id": "1"})
		},
		"verify": func(m *mount) {
			m.do(logical.UpdateOperation, "verify/carol", map[string]any{"input": "aGVsbG8=", "signature": "aGVsbG8="})
		},
		"refresh": func(m *mount) { m.do(logical.UpdateOperation, "accounts/carol/refresh", nil) },
		"settings": func(m *mount) {
			m.do(logical.UpdateOperation, "accounts/carol", map[string]any{"refresh_period": "2h"})
		},
		"freeze":          func(m *mount) { m.do(logical.UpdateOperation, "accounts/carol/freeze", nil); m.thaw() },
		"delete":          func(m *mount) { m.do(logical.DeleteOperation, "accounts/carol", nil); m.thaw() },
		"destroy the old": func(m *mount) { m.do(logical.DeleteOperation, "destroy/carol", nil) },
		"rename the old":  func(m *mount) { m.do(logical.UpdateOperation, "accounts/carol/rename", toRename("carolina")) },
		"rename the new":  func(m *mount) { m.do(logical.UpdateOperation, "accounts/caroline/rename", toRename("carolina")) },
		"export":          func(m *mount) { m.do(logical.ReadOperation, "recovery/export/carol", nil) },
		"list":            func(m *mount) { m.must(logical.ListOperation, "accounts", map[string]any{"details": true}) },
		"start":           func(m *mount) { m.read(); m.b.tend(false) },
		"start and list":  func(m *mount) { m.read(); m.must(logical.ListOperation, "accounts", nil) },
		"runner":          func(m *mount) { _, _ = m.b.RefreshAccount(context.Background(), "carol") },
		"rewrap":          func(m *mount) { _, _ = m.b.RewrapAccount(context.Background(), "carol") },
		"presigner":       func(m *mount) { _, _ = m.b.presignAccount(context.Background(), "carol") },
		"start and create": func(m *mount) {
			m.read()
			m.do(logical.CreateOperation, "accounts/caroline", map[string]any{"algorithm": "ed25519"})
		},
		"start and rename to it": func(m *mount) {
			m.create("dave", "ed25519")
			m.read()
			m.do(logical.UpdateOperation, "accounts/dave/rename", toRename("caroline"))
		},
		"nothing": func(*mount) {},
	}
	for name, ask := range first {
		for _, step := range renameSteps {
			t.Run(name+"/"+step, func(t *testing.T) {
				m := stoppedRename(t, step)
				ask(m)
				checkRenamed(m, whole(m, "carol", "caroline", "carolina"), "carol-anne")
				m.read()
				if unfinished := m.b.moves.names(); len(unfinished) != 0 {
					t.Errorf("not finished: %v", unfinished)
				}
				if n := len(keysUnder(t, m, prefixAccounts)); name != "start and rename to it" && n != 1 || n > 2 {
					t.Errorf("%d accounts", n)
				}
			})
		}
	}
}

// thaw takes a freeze and a deletion back that may have come through.
func (m *mount) thaw() {
	for _, name := range []string{"carol", "caroline"} {
		m.do(logical.UpdateOperation, "accounts/"+name+"/restore", nil)
		m.do(logical.UpdateOperation, "accounts/"+name+"/unfreeze", nil)
	}
}

// TestDestroyedStaysSo: an account whose rename was cut off is destroyed under
// its new name, or its time comes. The entry under the old name does not bring it
// back.
func TestDestroyedStaysSo(t *testing.T) {
	for _, step := range renameSteps[1:] {
		for name, destroy := range map[string]func(*mount){
			"by hand": func(m *mount) { m.must(logical.DeleteOperation, "destroy/caroline", nil) },
			"moved on first": func(m *mount) {
				m.update("accounts/caroline/rename", toRename("carolina"))
				m.must(logical.DeleteOperation, "destroy/carolina", nil)
			},
		} {
			t.Run(name+"/"+step, func(t *testing.T) {
				m := stoppedRename(t, step)
				destroy(m)
				m.read()
				m.b.tend(false)
				m.do(logical.ReadOperation, "accounts/carol", nil)
				if left := keysUnder(t, m, prefixAccounts); len(left) != 0 {
					t.Errorf("it is back: %v", left)
				}
			})
		}
	}
}

// TestRenameTakenBack: before a cut-off rename is known, somebody takes the new
// name. Both accounts stay.
func TestRenameTakenBack(t *testing.T) {
	m := stoppedRename(t, stepRenameMarked)
	m.create("caroline", "ed25519")
	m.read()
	m.b.tend(false)
	m.signs("caroline")
	if r := m.record("carol"); r.RenamingTo != "" {
		t.Errorf("carol is still being renamed to %s", r.RenamingTo)
	}
	m.signs("carol")
	m.update("accounts/carol/rename", toRename("carolina"))
	m.signs("carolina")
}

// TestRenameDamaged: an entry that cannot be read may be the old one of an
// account that has arrived, so that one is not destroyed before it can.
func TestRenameDamaged(t *testing.T) {
	m := stoppedRename(t, stepRenameRemoved)
	if err := m.storage.Put(t.Context(), &logical.StorageEntry{Key: prefixAccounts + "dave", Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	m.signs("caroline") // is used
	m.fails(logical.DeleteOperation, "destroy/caroline", nil, http.StatusConflict, "could not be finished")
	m.signs("caroline")
	if err := m.storage.Delete(t.Context(), prefixAccounts+"dave"); err != nil {
		t.Fatal(err)
	}
	m.must(logical.DeleteOperation, "destroy/caroline", nil)
}

// TestExposuresOfOneLock: a signature that began under the old name does not
// write exposures once the account has left.
func TestExposuresOfOneLock(t *testing.T) {
	m := configured(t)
	toBeRenamed(m)
	r := m.record("carol")
	a, err := m.b.store.usable(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	expose := m.b.expose("carol", &a.Record)
	tried := false
	m.b.cfg.step = func(ctx context.Context, step string) error {
		if step == stepRenameMarked || step == stepRenameArrived {
			tried = true
			if err := expose(ctx, mpc.Exposures{nodeIdentity(5): 2}); err != errEpochChanged {
				t.Errorf("at %q: %v", step, err)
			}
		}
		return nil
	}
	m.update("accounts/carol/rename", toRename("caroline"))
	if !tried {
		t.Error("not tried")
	}
}
