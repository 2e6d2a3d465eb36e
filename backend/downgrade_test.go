package backend

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// TestNewerRecordsStay: this version is run on what a later one has stored, as when
// somebody goes back to it. Whatever is asked of it and whatever it does by itself,
// no entry is changed or removed. (Answers kept by request_id are not among them:
// they are removed by their age, which is in the key.)
func TestNewerRecordsStay(t *testing.T) {
	at, base := newClock(), &logical.InmemStorage{}
	m := wrapped(t, base, newFake(t), at)
	m.enrolled("eu-1", "eu", 10)
	m.pass()
	m.create("spread", "ed25519")
	m.update("config/accounts", map[string]any{"deletion_wait": "1m"})
	m.update("config/nodes", map[string]any{"local": 5})
	m.update("config/rotation", map[string]any{"refresh_period": "1m"})
	m.update("recovery/restored", nil)
	m.fake.spare = true
	m.update("accounts/alice/refresh", nil)
	m.signs("alice")
	m.must(logical.DeleteOperation, "accounts/bob", nil)
	if err := m.b.spares.beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.b.Cleanup(t.Context())
	golden := goldenApprovals(at.now())
	for key, name := range map[string]string{keyUI: "ui", prefixApprovers + "ann": "approver", prefixEnrolments + strings.Repeat("e1", 16): "enrolment",
		prefixRequests + strings.Repeat("5e", 16): "request-pending", prefixRequests + strings.Repeat("5f", 16): "request-signed"} {
		e, err := logical.StorageEntryJSON(key, golden[name])
		if err != nil {
			t.Fatal(err)
		}
		if err := base.Put(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}

	newer := snapshot(t, base)
	for _, key := range keys(t, newer) {
		e, err := newer.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		mine := fmt.Appendf(nil, `"version":%d`, recordVersion)
		if !bytes.Contains(e.Value, mine) {
			t.Fatalf("%s is not of this version: %s", key, e.Value)
		}
		e.Value = bytes.Replace(e.Value, mine, fmt.Appendf(nil, `"colour":"red","version":%d`, recordVersion+1), 1)
		if err := newer.Put(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	before := snapshot(t, newer)
	at.add(defaultRetireAfter)
	m = openAt(t, newer, newFake(t), at.now)
	m.b.startBackground()
	m.b.tasks.Wait()
	m.read()
	for range 3 {
		at.add(restoreGrace)
		if err := m.b.periodic(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		m.b.tasks.Wait()
		m.pass()
		m.b.tend(true)
		_, _ = m.b.RefreshAccount(t.Context(), "alice")
		_, _ = m.b.RewrapAccount(t.Context(), "alice")
		_, _ = m.b.presignAccount(t.Context(), "alice")
	}
	for path, data := range map[string]map[string]any{
		"sign/alice":              {"input": "aGVsbG8="},
		"accounts/alice":          {"refresh_period": "2h"},
		"accounts/alice/freeze":   nil,
		"accounts/alice/refresh":  nil,
		"accounts/alice/rename":   {"new_name": "alicia"},
		"accounts/bob/restore":    nil,
		"accounts/carol":          {"algorithm": "ed25519"},
		"accounts/carol/rename":   {"new_name": "alice"},
		"config/accounts":         {"deletion_wait": "2m"},
		"config/nodes":            {"local": 3},
		"config/rotation":         {"refresh_period": "2m"},
		"config/hsm":              {"uri": testURI, "pin": testPIN},
		"wrapping-keys/rotate":    nil,
		"destroy/alice":           nil,
		"destroy/wrapping-keys":   nil,
		"recovery/target":         nil,
		"rotation/catch-up":       nil,
		"accounts/alice/unfreeze": nil,
	} {
		if _, status, msg := m.do(logical.UpdateOperation, path, data); status == http.StatusOK {
			t.Logf("%s: %d %s", path, status, msg)
		}
	}
	for _, path := range []string{"accounts/alice", "destroy/alice"} {
		m.fails(logical.DeleteOperation, path, nil, http.StatusInternalServerError, "newer version of this plugin")
	}
	after := keys(t, newer)
	if was := keys(t, before); strings.Join(was, " ") != strings.Join(after, " ") {
		t.Errorf("the entries are %v, they were %v", after, was)
	}
	for _, key := range after {
		was, _ := before.Get(t.Context(), key)
		if e, err := newer.Get(t.Context(), key); err != nil || was == nil || !bytes.Equal(e.Value, was.Value) {
			t.Errorf("%s was changed: %v", key, err)
		}
	}
}
