package backend

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/rotation"
)

func TestConfigHSM(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	if resp, _, _ := m.do(logical.ReadOperation, "config/hsm", nil); resp != nil {
		t.Errorf("before the first write: %v", resp.Data)
	}
	wrote := m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
	read := m.must(logical.ReadOperation, "config/hsm", nil)
	for _, d := range []map[string]any{wrote, read} {
		if d["token_serial"] != testSerial || d["module"] != "softhsm" || d["wrapping_version"] != 1 || d["pin_set"] != true || d["pin"] != nil {
			t.Errorf("answer: %v", d)
		}
	}
	if len(m.fake.applied) != 1 || m.fake.applied[0].Local != 5 || len(m.fake.applied[0].WrappingKeys) != 1 {
		t.Errorf("applied: %d settings", len(m.fake.applied))
	}
	if n := m.fake.applied[0].Token.PIN.Len(); n != 0 {
		t.Errorf("%d bytes of the PIN outlived Apply", n)
	}
	if got := m.fake.applied[0].Token; got.Module != "softhsm" || got.Serial != testSerial {
		t.Errorf("token: %+v", got)
	}

	// A later write of the same token keeps the PIN that is not given, makes
	// no key and adjusts the nodes.
	m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": "pkcs11:serial=" + testSerial + "?module-name=softhsm"})
	if len(m.fake.created) != 1 || len(m.fake.applied) != 2 {
		t.Errorf("second write: keys %v, applied %d", m.fake.created, len(m.fake.applied))
	}
}

func TestWrongPIN(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	bad := map[string]any{"uri": testURI, "pin": "wrong"}
	m.fails(logical.UpdateOperation, "config/hsm", bad, http.StatusBadRequest, "refused the PIN")
	if m.fake.logins != 1 || len(keys(t, m.storage)) != 0 || len(m.fake.applied) != 0 {
		t.Errorf("%d logins, stored %v", m.fake.logins, keys(t, m.storage))
	}
	configure(m)
	m.create("alice", "bip340-secp256k1")
	m.fails(logical.UpdateOperation, "config/hsm", map[string]any{"pin": "wrong"}, http.StatusBadRequest, "nothing was stored")
	if m.fake.logins != 2 {
		t.Errorf("%d logins", m.fake.logins)
	}
	m.signs("alice")
}

func TestTokenChange(t *testing.T) {
	m := configured(t)
	m.fake.serial = "other"
	other := map[string]any{"uri": "pkcs11:token=other?module-name=softhsm", "pin": testPIN}
	m.must(logical.UpdateOperation, "config/hsm", other) // nothing depends on the first
	if d := m.must(logical.ReadOperation, "config/hsm", nil); d["token_serial"] != "other" || d["wrapping_version"] != 2 {
		t.Errorf("after a change of token: %v", d)
	}
	if s := m.fake.applied[1]; len(s.WrappingKeys) != 1 || s.WrappingKeys[0].Version != 2 {
		t.Errorf("nodes got wrapping keys of the other token: %v", s.WrappingKeys)
	}
	m.create("alice", "bip340-secp256k1")
	m.fake.serial = "third"
	m.fails(logical.UpdateOperation, "config/hsm", other, http.StatusBadRequest, "keep that token")
	m.must(logical.DeleteOperation, "destroy/alice", nil)
	if err := m.b.store.PutNodeKeys(t.Context(), "local-1", &pool.NodeKeys{}); err != nil {
		t.Fatal(err)
	}
	m.fails(logical.UpdateOperation, "config/hsm", other, http.StatusBadRequest, "keep that token")
	if d := m.must(logical.ReadOperation, "config/hsm", nil); d["token_serial"] != "other" {
		t.Errorf("a refused token was stored: %v", d)
	}
}

func TestConfigHSMBadInput(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	uri := func(s string) map[string]any { return map[string]any{"uri": s, "pin": testPIN} }
	for _, c := range []struct {
		data map[string]any
		text string
	}{
		{map[string]any{"pin": testPIN}, "uri is missing"},
		{map[string]any{"uri": testURI}, "pin is missing"},
		{map[string]any{"uri": testURI, "pin": strings.Repeat("1", 256)}, "pin is missing or longer"},
		{map[string]any{"uri": testURI, "pin": testPIN, "suite": "rot13"}, "hpke-p256"},
		{map[string]any{"uri": testURI, "pin": testPIN, "pni": "1"}, "unknown field pni: the fields are pin, suite, uri"},
		{uri("token=prod"), "must begin with pkcs11:"},
		{uri("pkcs11:token=prod"), "names no module"},
		{uri("pkcs11:?module-name=softhsm"), "names no token"},
		{uri("pkcs11:token=prod?module-name=nss"), "not on this host's list (softhsm)"},
		{uri("pkcs11:token=prod?module-path=/tmp/evil.so"), "module-path is not accepted"},
		{uri("pkcs11:token=prod?module-name=softhsm&pin-value=1"), "pin-value is not accepted"},
		{uri("pkcs11:token=prod?module-name=softhsm&pin-source=file:/x"), "pin-source is not accepted"},
		{uri("pkcs11:slot-id=1?module-name=softhsm"), "slot-id is not accepted"},
		{uri("pkcs11:object=key;token=prod?module-name=softhsm"), `"object" is not accepted`},
		{uri("pkcs11:token=missing?module-name=softhsm"), "token not found"},
	} {
		m.fails(logical.UpdateOperation, "config/hsm", c.data, http.StatusBadRequest, c.text)
	}
	if got := keys(t, m.storage); len(got) != 0 {
		t.Errorf("stored after refusals: %v", got)
	}
	m.b.cfg.Modules = "softhsm=relative.so"
	m.fails(logical.UpdateOperation, "config/hsm", uri(testURI), http.StatusBadRequest, "must be absolute")
}

func TestProbeErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{pool.ErrModule, 400}, {pool.ErrPINLocked, 400}, {pool.ErrTokenNotFound, 400},
		{pool.ErrHSMUnavailable, 503}, {fmt.Errorf("something else"), 500},
	} {
		m := open(t, &logical.InmemStorage{}, newFake(t))
		m.fake.probeErr = fmt.Errorf("probing: %w", c.err)
		m.fails(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN}, c.status, "nothing was stored")
		if got := keys(t, m.storage); len(got) != 0 {
			t.Errorf("%v: stored %v", c.err, got)
		}
	}
}

func TestConfigNodes(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	if d := m.must(logical.ReadOperation, "config/nodes", nil); d["local"] != 5 || d["session_timeout"] != int64(30) || d["sessions_per_node"] != 16 {
		t.Errorf("defaults: %v", d)
	}
	if d := m.must(logical.UpdateOperation, "config/nodes", map[string]any{"local": 4}); d["local"] != 4 || d["session_timeout"] != int64(30) {
		t.Errorf("after local: %v", d)
	}
	if d := m.must(logical.UpdateOperation, "config/nodes", map[string]any{"session_timeout": "20s"}); d["local"] != 4 || d["session_timeout"] != int64(20) {
		t.Errorf("a field that was not given changed: %v", d)
	}
	if d := m.must(logical.UpdateOperation, "config/nodes", map[string]any{"sessions_per_node": 24}); d["sessions_per_node"] != 24 || d["local"] != 4 {
		t.Errorf("after sessions_per_node: %v", d)
	}
	if m.fake.applied != nil {
		t.Error("nodes were started without a token")
	}
	for _, c := range []struct {
		field string
		value any
		text  string
	}{
		{"local", 1, "local must be 2 to 16"},
		{"local", 17, "local must be 2 to 16"},
		{"local", "many", "local"},
		{"local", 2.5, "local must be a whole number, not 2.5"},
		{"session_timeout", "500ms", "session_timeout must be"},
		{"session_timeout", "61s", "session_timeout must be"},
		{"remote", "eu-1", "unknown field remote: the fields are local, region, session_timeout, sessions_per_node"},
		{"sessions_per_node", 0, "sessions_per_node must be 1 to 64"},
		{"sessions_per_node", 65, "sessions_per_node must be 1 to 64"},
	} {
		m.fails(logical.UpdateOperation, "config/nodes", map[string]any{c.field: c.value}, http.StatusBadRequest, c.text)
	}
	configure(m)
	m.must(logical.UpdateOperation, "accounts/wide", map[string]any{"algorithm": "bip340-secp256k1", "threshold": 2, "shares": 4})
	m.fails(logical.UpdateOperation, "config/nodes", map[string]any{"local": 3}, http.StatusBadRequest, "account wide has 4 shares")
	m.must(logical.UpdateOperation, "config/nodes", map[string]any{"local": 6})
	if last := m.fake.applied[len(m.fake.applied)-1]; last.Local != 6 || last.SessionsPerNode != 24 || last.AuxPeriod != time.Hour {
		t.Errorf("the pool has %+v", last)
	}
}

func first(resp *logical.Response, _ int, _ string) *logical.Response { return resp }

func TestConfigRotation(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	if d := m.must(logical.ReadOperation, "config/rotation", nil); d["refresh_period"] != int64(600) {
		t.Errorf("default: %v", d)
	}
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"refresh_period": "2m"})
	if p := m.b.runner.Policy(); p.Period.Seconds() != 120 {
		t.Errorf("the runner has %v", p.Period)
	}
	m.fails(logical.UpdateOperation, "config/rotation", map[string]any{"refresh_period": 0}, 400, "must be 1s")
	if d := m.must(logical.ReadOperation, "config/rotation", nil); d["aux_period"] != int64(3600) {
		t.Errorf("default: %v", d)
	}
	for _, bad := range []any{"59s", 59, "500ms", "9000h"} {
		m.fails(logical.UpdateOperation, "config/rotation", map[string]any{"aux_period": bad}, 400, "aux_period must be")
	}
	configure(m)
	applied := len(m.fake.applied)
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"refresh_period": "2m"})
	if len(m.fake.applied) != applied {
		t.Error("nodes were told about a period that is none of theirs")
	}
	for value, want := range map[any]time.Duration{"2h": 2 * time.Hour, 60: time.Minute} {
		d := m.must(logical.UpdateOperation, "config/rotation", map[string]any{"aux_period": value})
		if last := m.fake.applied[len(m.fake.applied)-1]; last.AuxPeriod != want || d["aux_period"] != int64(want/time.Second) || d["refresh_period"] != int64(120) {
			t.Errorf("aux_period=%v: %v, the pool has %v", value, d, last.AuxPeriod)
		}
	}
	for _, resp := range []*logical.Response{
		first(m.do(logical.UpdateOperation, "config/rotation", map[string]any{"aux_period": 0})),
		first(m.do(logical.ReadOperation, "config/rotation", nil)),
	} {
		if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "has every ECDSA key") || resp.Data["aux_period"] != int64(0) {
			t.Errorf("aux_period=0: %v %q", resp.Data, resp.Warnings)
		}
	}
	if last := m.fake.applied[len(m.fake.applied)-1]; last.AuxPeriod != 0 {
		t.Errorf("the pool has %v", last.AuxPeriod)
	}
	m.fails(logical.UpdateOperation, "config/rotation", map[string]any{"refresh_period": "9000h"}, 400, "a year")
	reopened := open(t, m.storage, m.fake)
	reopened.b.loadPolicy(t.Context())
	if p := reopened.b.runner.Policy(); p.Period.Seconds() != 120 {
		t.Errorf("after a restart the runner has %v", p.Period)
	}
}

// TestRotationClocks: bounds, what belongs together, and that a refused write
// changes nothing.
func TestRotationClocks(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	d := m.must(logical.ReadOperation, "config/rotation", nil)
	for name, want := range map[string]any{
		"idle_refresh_period": int64(0), "rewrap_period": int64(86400), "retire_after": int64(604800),
		"concurrency": 2, "rate": 25, "accounts": 0, "next_rewrap": "", "oldest_shares_time": "",
	} {
		if d[name] != want {
			t.Errorf("default of %s: %v", name, d[name])
		}
	}
	for _, c := range []struct {
		data map[string]any
		text string
	}{
		{map[string]any{"idle_refresh_period": "9m"}, "idle_refresh_period must be at least refresh_period (10m)"},
		{map[string]any{"idle_refresh_period": "9000h"}, "at most 8760h"},
		{map[string]any{"idle_refresh_period": "300ms"}, "idle_refresh_period must be"},
		{map[string]any{"refresh_period": "2h", "idle_refresh_period": "1h"}, "at least refresh_period (2h)"},
		{map[string]any{"refresh_period": "999ms"}, "refresh_period must be 1s"},
		{map[string]any{"rewrap_period": "100ms"}, "rewrap_period must be 1s"},
		{map[string]any{"rewrap_period": "90000h"}, "rewrap_period must be"},
		{map[string]any{"rewrap_period": -1}, "rewrap_period"},
		{map[string]any{"retire_after": 0}, "retire_after must be 1s"},
		{map[string]any{"retire_after": "90000h"}, "retire_after must be 1s"},
		{map[string]any{"retire_after": "1201h"}, "retire_after must be at most 50 times rewrap_period"},
		{map[string]any{"rewrap_period": "1h"}, "retire_after must be at most 50 times rewrap_period"},
		{map[string]any{"concurrency": 0}, "concurrency must be 1 to 64"},
		{map[string]any{"concurrency": 65}, "concurrency must be 1 to 64"},
		{map[string]any{"rate": 0}, "rate must be 1 to 10000"},
		{map[string]any{"rate": 10001}, "rate must be 1 to 10000"},
		{map[string]any{"rate": 0.5}, "whole number"},
	} {
		m.fails(logical.UpdateOperation, "config/rotation", c.data, 400, c.text)
	}
	if got := keys(t, m.storage); len(got) != 0 {
		t.Errorf("stored after refusals: %v", got)
	}
	d = m.must(logical.UpdateOperation, "config/rotation", map[string]any{
		"refresh_period": "5m", "idle_refresh_period": "24h", "rewrap_period": "1s", "retire_after": "50s", "concurrency": 8, "rate": 200,
	})
	if d["idle_refresh_period"] != int64(86400) || d["rewrap_period"] != int64(1) || d["retire_after"] != int64(50) {
		t.Errorf("%v", d)
	}
	want := rotation.Policy{Period: 5 * time.Minute, IdlePeriod: 24 * time.Hour, Jitter: rotationJitter, Rate: 200, Concurrency: 8}
	if p := m.b.runner.Policy(); p != want {
		t.Errorf("the runner has %+v", p)
	}
	reopened := open(t, m.storage, m.fake)
	reopened.b.loadPolicy(t.Context())
	if p := reopened.b.runner.Policy(); p != want {
		t.Errorf("after a restart the runner has %+v", p)
	}
	m.must(logical.UpdateOperation, "config/rotation", map[string]any{"rewrap_period": 0, "retire_after": "8760h"})
}

// TestRotationProgress: what an operator sees of refreshes that fail and
// succeed, of catching up, and of a rate that is too low.
func TestRotationProgress(t *testing.T) {
	fake := newFake(t)
	m := openWith(t, &logical.InmemStorage{}, fake, func(c *Config) { c.now = time.Now })
	configure(m)
	m.fails(logical.UpdateOperation, "rotation/catch-up", nil, 503, "still being read")
	for i := range 6 {
		m.must(logical.UpdateOperation, fmt.Sprintf("accounts/a%d", i), map[string]any{"algorithm": "ed25519", "refresh_period": "1h"})
	}
	m.b.startBackground()
	m.b.tasks.Wait()
	until(t, m, "the accounts are read", func(d map[string]any) bool { return d["accounts"] == 6 && m.b.runner.Progress().Loaded })
	fake.mu.Lock()
	fake.refreshErr = pool.ErrHSMUnavailable
	fake.mu.Unlock()
	c := m.must(logical.UpdateOperation, "rotation/catch-up", map[string]any{"all": true})
	if c["remaining"] != 6 || c["started_time"] == "" || c["finished_time"] != "" {
		t.Errorf("catch-up: %v", c)
	}
	d := until(t, m, "all have been tried", func(d map[string]any) bool { return d["catch_up"].(map[string]any)["remaining"] == 0 })
	if d["failed_total"] != int64(6) || d["waiting_in_backoff"] != 6 || d["catch_up"].(map[string]any)["finished_time"] == "" {
		t.Errorf("after failures: %v", d)
	}
	if e := d["last_error"].(map[string]any); !strings.HasPrefix(e["account"].(string), "a") || !strings.Contains(e["error"].(string), "HSM unavailable") || e["time"] == "" {
		t.Errorf("last error: %v", e)
	}
	if a := m.must(logical.ReadOperation, "accounts/a0", nil); a["refresh_failures"] != 1 || !strings.Contains(a["last_refresh_error"].(string), "HSM") {
		t.Errorf("a0: %v", a)
	}
	fake.mu.Lock()
	fake.refreshErr = nil
	fake.mu.Unlock()
	m.must(logical.UpdateOperation, "rotation/catch-up", map[string]any{"all": true})
	d = until(t, m, "all are refreshed", func(d map[string]any) bool { return d["refreshed_total"] == int64(6) })
	if d["waiting_in_backoff"] != 0 || d["due_now"] != 0 || d["oldest_shares_time"] == "" {
		t.Errorf("in the end: %v", d)
	}
	if a := m.must(logical.ReadOperation, "accounts/a0", nil); a["share_epoch"] != uint64(2) || a["idle"] != true {
		t.Errorf("a0: %v", a)
	}
	m.signs("a0")
	if a := m.must(logical.ReadOperation, "accounts/a0", nil); a["idle"] != false {
		t.Error("idle after a signature")
	}
	if c := m.must(logical.UpdateOperation, "rotation/catch-up", nil); c["remaining"] != 0 || c["finished_time"] == "" {
		t.Errorf("with nothing due: %v", c)
	}
	resp := first(m.do(logical.ReadOperation, "config/rotation", nil))
	if len(resp.Warnings) != 0 {
		t.Errorf("warnings: %q", resp.Warnings)
	}
	for i := range 6 {
		m.must(logical.UpdateOperation, fmt.Sprintf("accounts/a%d", i), map[string]any{"refresh_period": "3s"})
	}
	resp = first(m.do(logical.UpdateOperation, "config/rotation", map[string]any{"rate": 1}))
	if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "need 2.0 refreshes per second and rate lets 1 begin") {
		t.Errorf("warnings: %q", resp.Warnings)
	}
}

// until reads config/rotation until it says what is waited for.
func until(t *testing.T, m *mount, what string, ok func(map[string]any) bool) map[string]any {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		d := m.must(logical.ReadOperation, "config/rotation", nil)
		if ok(d) {
			return d
		}
		if time.Now().After(end) {
			t.Fatalf("%s: never; %v\n%s", what, d, m.logs)
		}
	}
}

func TestParseTokenURI(t *testing.T) {
	good := map[string]tokenURI{
		"pkcs11:token=a?module-name=m":                     {Label: "a", Module: "m"},
		"pkcs11:serial=0a;token=My%20Token?module-name=m":  {Label: "My Token", Serial: "0a", Module: "m"},
		"pkcs11:token=100%25%3B%3f%c3%a9?module-name=m":    {Label: "100%;?é", Module: "m"},
		"pkcs11:token=a+b:[]@!$'()*,&=?module-name=m%2d.1": {Label: "a+b:[]@!$'()*,&=", Module: "m-.1"},
	}
	for s, want := range good {
		if got, err := parseTokenURI(s); err != nil || *got != want {
			t.Errorf("%s: %+v, %v; want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "pkcs11:", "PKCS11:token=a?module-name=m", "pkcs11:token=a?module-name=",
		"pkcs11:token=a b?module-name=m", "pkcs11:token=é?module-name=m", "pkcs11:token=%0a?module-name=m",
		"pkcs11:token=%ff?module-name=m", "pkcs11:token=%4?module-name=m", "pkcs11:token=%zz?module-name=m",
		"pkcs11:token=a;token=b?module-name=m", "pkcs11:token=a;?module-name=m", "pkcs11:token?module-name=m",
		"pkcs11:=a?module-name=m", "pkcs11:token=a?module-name=m&module-name=n",
		"pkcs11:token=" + strings.Repeat("a", 33) + "?module-name=m",
		"pkcs11:token=a;serial=" + strings.Repeat("1", 17) + "?module-name=m",
		"pkcs11:token=a?module-name=m&" + strings.Repeat("x", 600),
	} {
		if got, err := parseTokenURI(s); err == nil {
			t.Errorf("%q was accepted: %+v", s, got)
		} else if strings.Contains(err.Error(), "%!") {
			t.Errorf("%q: broken message %v", s, err)
		}
	}
}
