package backend

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

var hello = map[string]any{"input": "aGVsbG8="}

func (m *mount) update(path string, data map[string]any) map[string]any {
	m.t.Helper()
	return m.must(logical.UpdateOperation, path, data)
}

// warns sends a request that has to succeed with that warning.
func (m *mount) warns(op logical.Operation, path string, data map[string]any, warning string) map[string]any {
	m.t.Helper()
	resp, status, msg := m.do(op, path, data)
	if status != http.StatusOK || !strings.Contains(strings.Join(resp.Warnings, "\n"), warning) {
		m.t.Fatalf("%s %s: %d %s %v, want the warning %q", op, path, status, msg, resp, warning)
	}
	return resp.Data
}

// rests checks that an account signs nothing, for that reason, and does all else.
func (m *mount) rests(name, state, reason string) {
	m.t.Helper()
	m.fails(logical.UpdateOperation, "sign/"+name, hello, http.StatusConflict, reason)
	m.fails(logical.UpdateOperation, "sign/"+name, map[string]any{"input": "aGVsbG8=", "request_id": "again"}, http.StatusConflict, reason)
	m.fails(logical.UpdateOperation, "sign/"+name, map[string]any{"batch_input": []any{map[string]any{"input": "aGVsbG8="}}}, http.StatusConflict, reason)
	if data := m.must(logical.ReadOperation, "accounts/"+name, nil); data["state"] != state {
		m.t.Errorf("%s is %v, not %s", name, data["state"], state)
	}
	before := m.record(name).Current.Started
	m.update("accounts/"+name+"/refresh", nil)
	if r := m.record(name); !r.Current.Started.After(before) || string(r.state()) != state {
		m.t.Errorf("%s was refreshed at %v, before that at %v; it is %s now", name, r.Current.Started, before, r.state())
	}
}

func TestFreeze(t *testing.T) {
	m := configured(t)
	m.create("alice", "ecdsa-p256")
	s := m.signs("alice")
	first := m.update("accounts/alice/freeze", map[string]any{"reason": "lost laptop"})
	if first["state"] != "frozen" || first["frozen_reason"] != "lost laptop" || first["frozen_time"] == "" {
		t.Errorf("frozen: %v", first)
	}
	m.rests("alice", "frozen", `has been frozen since `+first["frozen_time"].(string)+` (lost laptop)`)
	m.fails(logical.UpdateOperation, "accounts/alice/csr", map[string]any{"common_name": "a"}, http.StatusConflict, "has been frozen")
	// What needs no share goes on.
	if v := m.update("verify/alice", map[string]any{"input": "aGVsbG8=", "signature": s["signature"]}); v["valid"] != true {
		t.Error("verify does not work on a frozen account")
	}
	m.update("accounts/alice", map[string]any{"metadata": map[string]any{"a": "b"}})
	m.must(logical.ReadOperation, "accounts/alice/jwk", nil)
	// Again: the time stays, a reason replaces the reason, none keeps it.
	for reason, want := range map[any]string{nil: "lost laptop", "found": "found", "": ""} {
		var data map[string]any
		if reason != nil {
			data = map[string]any{"reason": reason}
		}
		m.update("accounts/alice/freeze", map[string]any{"reason": "lost laptop"})
		if again := m.update("accounts/alice/freeze", data); again["frozen_time"] != first["frozen_time"] || again["frozen_reason"] != want {
			t.Errorf("frozen again for %v: %v %q", reason, again["frozen_time"], again["frozen_reason"])
		}
	}
	for _, reason := range []string{strings.Repeat("x", maxReason+1), "a\nb", "a\x00"} {
		m.fails(logical.UpdateOperation, "accounts/alice/freeze", map[string]any{"reason": reason}, http.StatusBadRequest, "reason must be printable")
	}
	m.fails(logical.UpdateOperation, "accounts/nobody/freeze", nil, http.StatusNotFound, "there is no account")
	m.fails(logical.UpdateOperation, "accounts/alice/freeze", map[string]any{"raeson": "x"}, http.StatusBadRequest, "the fields are reason")

	if back := m.update("accounts/alice/unfreeze", nil); back["state"] != "active" || back["frozen_time"] != "" || back["frozen_reason"] != "" {
		t.Errorf("unfrozen: %v", back)
	}
	m.signs("alice")
	m.warns(logical.UpdateOperation, "accounts/alice/unfreeze", nil, "was not frozen")
}

// TestFrozenPresignatures: they are forgotten at once and none is made until the
// account signs again.
func TestFrozenPresignatures(t *testing.T) {
	m := configured(t)
	made := m.update("accounts/alice", map[string]any{"algorithm": "ecdsa-secp256k1", "presign": 2})
	var id mpc.AccountID
	if err := decodeHex(made["id"].(string), id[:], "ID"); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(){
		"freeze": func() { m.update("accounts/alice/freeze", nil) },
		"delete": func() { m.must(logical.DeleteOperation, "accounts/alice", nil) },
	} {
		m.b.stock.work(t.Context())
		if n := m.must(logical.ReadOperation, "accounts/alice", nil)["presignatures"]; n != 2 {
			t.Fatalf("%v presignatures before %s", n, what)
		}
		change()
		m.b.stock.all()
		m.b.stock.work(t.Context())
		if m.fake.stock[id] != nil {
			t.Errorf("presignatures after %s", what)
		}
		m.update("accounts/alice/refresh", nil)
		m.b.stock.set("alice", m.record("alice"))
		m.b.stock.work(t.Context())
		if m.fake.stock[id] != nil {
			t.Errorf("presignatures of the next epoch after %s", what)
		}
		m.update("accounts/alice/restore", nil)
		m.update("accounts/alice/unfreeze", nil)
	}
	m.b.stock.work(t.Context())
	if len(m.fake.stock[id]) != 2 {
		t.Error("no presignatures are made once the account signs again")
	}
}

// TestFreezeBesideRefresh: what a refresh tells the presigner may be older than a
// freeze.
func TestFreezeBesideRefresh(t *testing.T) {
	m := configured(t)
	m.update("accounts/alice", map[string]any{"algorithm": "ecdsa-secp256k1", "presign": 1})
	before := m.record("alice")
	m.update("accounts/alice/freeze", nil)
	m.b.stock.set("alice", before)
	m.b.stock.work(t.Context())
	if len(m.fake.stock) != 0 {
		t.Error("a frozen account has a presignature")
	}
}

// TestFreezeBeforeRetry: a signature that has to be begun again, since the account
// was refreshed meanwhile, is not begun when it was frozen as well.
func TestFreezeBeforeRetry(t *testing.T) {
	for _, freeze := range []bool{false, true} {
		m := configured(t)
		m.create("alice", "ed25519")
		v, a, _, err := m.b.readForSigning(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		m.update("accounts/alice/refresh", nil)
		if freeze {
			m.update("accounts/alice/freeze", nil)
		}
		m.fake.spare = true // its exposure is refused, since the epoch is over
		_, _, err = m.b.signAccount(t.Context(), m.fake, "alice", v.unsettled, a, &message{input: []byte("x"), kind: mpc.MessageRaw, hash: mpc.HashNone})
		if (err != nil) != freeze || freeze && !strings.Contains(err.Error(), "has been frozen") {
			t.Errorf("frozen: %v, signed: %v", freeze, err)
		}
	}
}

// TestFreezeUnderWay: a presignature is being made while the account is frozen.
func TestFreezeUnderWay(t *testing.T) {
	m := configured(t)
	m.update("accounts/alice", map[string]any{"algorithm": "ecdsa-secp256k1", "presign": 1})
	asked := 0
	m.fake.presign = func(context.Context, pool.PresignRequest) error {
		asked++
		m.update("accounts/alice/freeze", nil)
		return nil
	}
	m.b.stock.work(t.Context())
	if asked != 1 || len(m.fake.stock) != 0 {
		t.Errorf("%d presignatures begun, left: %v", asked, m.fake.stock)
	}
}

// TestNothingIsSignedAfterFreeze: signatures without pause while the account is
// frozen and thawed again and again. One that begins after a freeze was answered,
// and before the next thaw, is refused.
func TestNothingIsSignedAfterFreeze(t *testing.T) {
	m := configured(t)
	m.create("alice", "ed25519")
	m.create("bob", "ed25519")
	// Odd while a freeze has been answered and its end not been asked for.
	var phase atomic.Int64
	var signed, refused [2]atomic.Int64
	stop := make(chan struct{})
	var signers sync.WaitGroup
	for i := range 6 {
		signers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				data := maps.Clone(hello)
				if i%2 == 1 {
					data = map[string]any{"batch_input": []any{hello, hello}}
				}
				before := phase.Load()
				req := &logical.Request{Operation: logical.UpdateOperation, Path: "sign/alice", Data: data, Storage: m.storage}
				resp, err := m.b.HandleRequest(context.Background(), req)
				status, msg := answer(resp, err)
				if phase.Load() != before {
					continue
				}
				raw := ""
				if resp != nil && resp.Data[logical.HTTPRawBody] != nil { // a batch of which items failed
					raw = fmt.Sprintf("%s", resp.Data[logical.HTTPRawBody])
				}
				ok := status == http.StatusOK && raw == "" || strings.Contains(raw, `"signature"`)
				msg += raw
				switch {
				case ok && before%2 == 1:
					t.Errorf("a signature was begun and made after freeze was answered")
					return
				case ok:
					signed[before%2].Add(1)
				case !strings.Contains(msg, "has been frozen"):
					t.Errorf("%d %s", status, msg)
					return
				default:
					refused[before%2].Add(1)
				}
			}
		})
	}
	for range 200 {
		m.update("accounts/alice/freeze", nil)
		phase.Add(1)
		if m.fails(logical.UpdateOperation, "sign/alice", hello, http.StatusConflict, "has been frozen"); t.Failed() {
			break
		}
		m.update("accounts/alice/refresh", nil)
		m.fails(logical.UpdateOperation, "sign/alice", hello, http.StatusConflict, "has been frozen")
		phase.Add(1)
		m.update("accounts/alice/unfreeze", nil)
		m.signs("alice")
	}
	close(stop)
	signers.Wait()
	t.Logf("signed %d while active, refused %d while frozen", signed[0].Load(), refused[1].Load())
	m.signs("bob")
}

// TestStateIsNotOverwritten: an account is frozen, deleted or given metadata at
// each step of every operation that writes its entry. The operation gets through
// or fails, and the state stays.
func TestStateIsNotOverwritten(t *testing.T) {
	prepare := map[string]func(*mount){
		"rewrap":                    func(m *mount) { m.rotate() },
		"rewrap that is taken back": func(m *mount) { m.rotate(); m.fake.garbage = true },
		"settle":                    func(m *mount) { makeTwoEpochs(m, false) },
		"signature that settles":    func(m *mount) { makeTwoEpochs(m, true) },
	}
	operations := map[string]func(*mount){
		"refresh":                   func(m *mount) { m.do(logical.UpdateOperation, "accounts/alice/refresh", nil) },
		"rewrap":                    func(m *mount) { _, _ = m.b.RewrapAccount(context.Background(), "alice") },
		"rewrap that is taken back": func(m *mount) { _, _ = m.b.RewrapAccount(context.Background(), "alice") },
		"settle":                    func(m *mount) { m.do(logical.UpdateOperation, "accounts/alice/refresh", nil) },
		"signature that settles":    func(m *mount) { m.do(logical.UpdateOperation, "sign/alice", hello) },
		"rename": func(m *mount) {
			m.do(logical.UpdateOperation, "accounts/alice/rename", map[string]any{"new_name": "alicia"})
		},
	}
	for name, operation := range operations {
		var met []string
		for i := -1; i < len(met); i++ {
			at := ""
			if i >= 0 {
				at = met[i]
			}
			t.Run(fmt.Sprintf("%s/%d %s", name, i, at), func(t *testing.T) {
				clk, fake := newClock(), newFake(t)
				var m *mount
				n := 0
				var freezing sync.WaitGroup
				m = wrapped(t, &logical.InmemStorage{}, fake, clk)
				if p := prepare[name]; p != nil {
					p(m)
				}
				m.b.cfg.step = func(_ context.Context, step string) error {
					if i < 0 {
						met = append(met, step)
					} else if n == i {
						if name == "rename" { // waits for the move
							freezing.Go(func() { m.do(logical.UpdateOperation, "accounts/alice/freeze", nil) })
						} else {
							m.update("accounts/alice/freeze", map[string]any{"reason": "now"})
						}
					}
					n++
					return nil
				}
				operation(m)
				freezing.Wait()
				m.b.cfg.step = nil
				if i < 0 {
					return
				}
				fake.garbage = false
				if name == "rename" {
					// Who freezes a name that is being left is told so.
					m.update("accounts/alicia/freeze", nil)
					m.rests("alicia", "frozen", "has been frozen")
					return
				}
				m.rests("alice", "frozen", "has been frozen")
			})
		}
		if len(met) == 0 {
			t.Errorf("%s has no steps", name)
		}
	}
}

func TestDelete(t *testing.T) {
	clk := newClock()
	m := openAt(t, &logical.InmemStorage{}, newFake(t), clk.now)
	configure(m)
	m.create("alice", "ed25519")
	m.create("bob", "ed25519")
	if got := m.must(logical.ReadOperation, "config/accounts", nil); got["deletion_wait"] != int64(7*24*3600) {
		t.Errorf("deletion_wait is %v", got)
	}
	when := func(data map[string]any) (deleted, destroy time.Time) {
		t.Helper()
		for field, into := range map[string]*time.Time{"deleted_time": &deleted, "destroy_time": &destroy} {
			var err error
			if *into, err = time.Parse(time.RFC3339, data[field].(string)); err != nil {
				t.Fatal(err)
			}
		}
		return deleted, destroy
	}
	first := m.must(logical.DeleteOperation, "accounts/alice", nil)
	deleted, destroy := when(first)
	if destroy.Sub(deleted) != defaultDeletionWait || first["state"] != "deleted" || clk.now().Sub(deleted) > time.Minute {
		t.Errorf("deleted: %v", first)
	}
	m.rests("alice", "deleted", "was deleted at "+first["deleted_time"].(string))
	m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"metadata": map[string]any{"a": "b"}}, http.StatusConflict, "accounts/alice/restore brings it back")
	m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "ed25519"}, http.StatusConflict, "was deleted")
	m.fails(logical.UpdateOperation, "accounts/alice/rename", map[string]any{"new_name": "x"}, http.StatusConflict, "was deleted")
	m.fails(logical.UpdateOperation, "accounts/alice/unfreeze", nil, http.StatusConflict, "was deleted")
	m.fails(logical.UpdateOperation, "accounts/bob/rename", map[string]any{"new_name": "alice"}, http.StatusConflict, "its name is taken")
	// Again: nothing changes.
	clk.add(time.Hour)
	if again := m.warns(logical.DeleteOperation, "accounts/alice", nil, "nothing was changed"); again["destroy_time"] != first["destroy_time"] {
		t.Errorf("the second deletion prolongs: %v", again["destroy_time"])
	}
	m.warns(logical.DeleteOperation, "accounts/alice", map[string]any{"delete_after": "300h"}, "its destroy_time stays")
	if back := m.update("accounts/alice/restore", nil); back["state"] != "active" || back["deleted_time"] != "" || back["destroy_time"] != "" {
		t.Errorf("restored: %v", back)
	}
	m.signs("alice")
	m.warns(logical.UpdateOperation, "accounts/alice/restore", nil, "was not deleted")

	// Frozen before, or while it was deleted: frozen after.
	m.update("accounts/alice/freeze", map[string]any{"reason": "why"})
	m.must(logical.DeleteOperation, "accounts/alice", nil)
	if back := m.update("accounts/alice/restore", nil); back["state"] != "frozen" || back["frozen_reason"] != "why" {
		t.Errorf("restored: %v", back)
	}
	m.must(logical.DeleteOperation, "accounts/bob", nil)
	if d := m.update("accounts/bob/freeze", nil); d["state"] != "deleted" || d["frozen_time"] == "" {
		t.Errorf("frozen while deleted: %v", d)
	}
	if back := m.update("accounts/bob/restore", nil); back["state"] != "frozen" {
		t.Errorf("restored: %v", back)
	}

	// How long.
	m.update("config/accounts", map[string]any{"deletion_wait": "1h"})
	for after, status := range map[string]int{"1h": 200, "59m59s": 400, "0": 400, "-1h": 400, "87600h": 200, "87600h1s": 400, "9999999h": 400} {
		_, got, msg := m.do(logical.DeleteOperation, "accounts/alice", map[string]any{"delete_after": after})
		if got != status {
			t.Errorf("delete_after=%s: %d %s", after, got, msg)
		}
		if got == http.StatusOK {
			want, _ := time.ParseDuration(after)
			if a, b := when(m.must(logical.ReadOperation, "accounts/alice", nil)); b.Sub(a) != want {
				t.Errorf("delete_after=%s: %v", after, b.Sub(a))
			}
			m.update("accounts/alice/restore", nil)
		} else if m.record("alice").Deleted != nil {
			t.Fatalf("delete_after=%s was refused and has deleted", after)
		}
	}
	m.fails(logical.DeleteOperation, "accounts/alice", map[string]any{"delete_afer": "2h"}, http.StatusBadRequest, "unknown field delete_afer: the fields are delete_after")
	m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"delete_after": "2h"}, http.StatusBadRequest, "delete_after goes with the deletion")
	m.fails(logical.UpdateOperation, "accounts/carol", map[string]any{"algorithm": "ed25519", "delete_after": "2h"}, http.StatusBadRequest, "delete_after goes with the deletion")
	m.fails(logical.DeleteOperation, "accounts/nobody", nil, http.StatusNotFound, "there is no account")
	for _, wait := range []string{"59s", "8761h", "0", "-1h"} {
		m.fails(logical.UpdateOperation, "config/accounts", map[string]any{"deletion_wait": wait}, http.StatusBadRequest, "deletion_wait")
	}
	if got := m.must(logical.ReadOperation, "config/accounts", nil); got["deletion_wait"] != int64(3600) {
		t.Errorf("deletion_wait is %v", got)
	}
	// Destruction works in every state.
	m.must(logical.DeleteOperation, "accounts/alice", nil)
	m.must(logical.DeleteOperation, "destroy/alice", nil)
	m.must(logical.DeleteOperation, "destroy/bob", nil)
	if left := keysUnder(t, m, prefixAccounts); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	m.create("alice", "ed25519")
	m.signs("alice")
}

func keysUnder(t *testing.T, m *mount, prefix string) (out []string) {
	t.Helper()
	for _, k := range keys(t, m.storage) {
		if strings.HasPrefix(k, prefix) {
			out = append(out, strings.TrimPrefix(k, prefix))
		}
	}
	return out
}
