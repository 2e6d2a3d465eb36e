//go:build e2e

package e2e_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// request is one that must be refused. Reading and listing go through the raw
// HTTP answer, since clients turn a 404 into "no value" and drop its text.
type request struct {
	name   string
	method string // default PUT, the method of `vault write`
	path   string
	data   map[string]any
	status int // default 400
	texts  []string
}

func (e *engine) refuseAll(t *testing.T, requests []request) {
	t.Helper()
	for _, r := range requests {
		t.Run(r.name, func(t *testing.T) {
			method := cmp.Or(r.method, http.MethodPut)
			err := e.do(t, e.Client, method, e.path+"/"+r.path, r.data)
			checkRefusal(t, method+" "+r.path, err, cmp.Or(r.status, badRequest), r.texts...)
		})
	}
}

// do sends one request and returns its error, with the text of a 404.
func (e *engine) do(t testing.TB, client *api.Client, method, path string, data map[string]any) error {
	t.Helper()
	r := client.NewRequest(method, "/v1/"+path)
	if data != nil {
		if err := r.SetJSONBody(data); err != nil {
			t.Fatal(err)
		}
	}
	//lint:ignore SA1019 Logical() turns a 404 into "no value" and has no LIST that does not.
	resp, err := client.RawRequest(r)
	if resp != nil {
		_ = resp.Body.Close()
	}
	return err
}

// footprint is what a refused request must not change.
type footprint struct {
	entries   []string // keys of accounts and of what nodes have seen of them
	accounts  []any
	config    []byte // the stored config/hsm
	processes []e2e.Process
}

func (e *engine) footprint(t testing.TB) footprint {
	t.Helper()
	f := footprint{config: e.RawRead(t, e.path, "config/hsm"), processes: e.family(t)}
	for _, key := range e.RawList(t, e.path) {
		if strings.HasPrefix(key, "accounts/") || strings.HasPrefix(key, "exposures/") {
			f.entries = append(f.entries, key)
		}
	}
	s, err := e.Client.Logical().List(e.path + "/accounts")
	if err != nil {
		t.Fatal(err)
	}
	if s != nil {
		f.accounts, _ = s.Data["keys"].([]any)
	}
	return f
}

// unchanged fails when refused requests left anything behind.
func (e *engine) unchanged(t testing.TB, before footprint) {
	t.Helper()
	e.waitNodes(t, len(before.processes)-1)
	after := e.footprint(t)
	for _, key := range after.entries {
		if !slices.Contains(before.entries, key) {
			t.Errorf("refused requests left %s in storage", key)
		}
	}
	if !slices.Equal(before.accounts, after.accounts) {
		t.Errorf("accounts %v, before %v", after.accounts, before.accounts)
	}
	if !bytes.Equal(before.config, after.config) {
		t.Error("refused requests changed the stored config/hsm")
	}
	for _, p := range before.processes {
		if !p.Alive() {
			t.Errorf("%v ended", p)
		}
	}
	// A probe ends before its request is answered.
	parent := plugin(before.processes).PID
	for _, p := range e2e.ProcessTree(t, parent) {
		if !slices.ContainsFunc(before.processes, func(q e2e.Process) bool { return q.PID == p.PID }) {
			t.Errorf("left over: %v", p)
		}
	}
}

// TestBadToken: settings that do not lead to a token are refused before they
// are stored, and the earlier ones go on working.
func TestBadToken(t *testing.T) {
	e := shared(t)
	e.create(t, "badtoken", bip340, 2, 3)
	before := e.footprint(t)
	good := e.Token.URI()

	t.Run("wrong PIN", func(t *testing.T) {
		const (
			wrong   = "0123456789-wrong"
			probing = "logging in to a token to try settings out"
		)
		attempts := bytes.Count(e.Log(t), []byte(probing))
		err := e.do(t, e.Client, http.MethodPut, "mpc/config/hsm", map[string]any{"uri": good, "pin": wrong})
		checkRefusal(t, "wrong PIN", err, badRequest, "refused the PIN", "nothing was stored", "tried once", "write config/hsm with the right PIN")
		if err != nil && (strings.Contains(err.Error(), wrong) || strings.Contains(err.Error(), e.Token.PIN)) {
			t.Error("the error shows a PIN")
		}
		// One process tried it, once; and the message is no 5xx, which clients
		// would send again.
		e.await(t, 5*time.Second, "end of the probe in the log", func() bool {
			return bytes.Count(e.Log(t), []byte(probing)) > attempts
		})
		time.Sleep(300 * time.Millisecond)
		if n := bytes.Count(e.Log(t), []byte(probing)) - attempts; n != 1 {
			t.Errorf("%d probes, want 1", n)
		}
		if bytes.Contains(e.Log(t), []byte(wrong)) {
			t.Error("the log shows the wrong PIN")
		}
	})
	e.refuseAll(t, []request{
		{name: "wrong PIN alone", path: "config/hsm", data: map[string]any{"pin": "000000"}, texts: []string{"refused the PIN"}},
		{name: "empty PIN", path: "config/hsm", data: map[string]any{"uri": good, "pin": ""}, texts: []string{"pin is missing"}},
		{name: "unknown token", path: "config/hsm", data: map[string]any{"uri": "pkcs11:token=nowhere?module-name=softhsm"}, texts: []string{"token", "nowhere", "check the token and serial"}},
		{name: "unknown serial", path: "config/hsm", data: map[string]any{"uri": "pkcs11:serial=00?module-name=softhsm"}, texts: []string{"check the token and serial"}},
		{name: "module not listed", path: "config/hsm", data: map[string]any{"uri": "pkcs11:token=e2e?module-name=other"}, texts: []string{`"other"`, "softhsm", "MPC_PKCS11_MODULES"}},
		{name: "no module", path: "config/hsm", data: map[string]any{"uri": "pkcs11:token=e2e"}, texts: []string{"add ?module-name"}},
		{name: "no token", path: "config/hsm", data: map[string]any{"uri": "pkcs11:?module-name=softhsm"}, texts: []string{"names no token"}},
		{name: "module-path", path: "config/hsm", data: map[string]any{"uri": "pkcs11:token=e2e?module-path=/tmp/evil.so"}, texts: []string{"module-path is not accepted", "would run code", "module-name"}},
		{name: "slot-id", path: "config/hsm", data: map[string]any{"uri": "pkcs11:slot-id=0?module-name=softhsm"}, texts: []string{"slot-id is not accepted", "slot numbers change"}},
		{name: "pin-value", path: "config/hsm", data: map[string]any{"uri": good + "&pin-value=1234"}, texts: []string{"pin-value is not accepted", "use the pin field"}},
		{name: "pin-source", path: "config/hsm", data: map[string]any{"uri": good + "&pin-source=file:/etc/passwd"}, texts: []string{"pin-source is not accepted", "use the pin field"}},
		{name: "no URI", path: "config/hsm", data: map[string]any{"uri": "softhsm"}, texts: []string{"must begin with pkcs11:"}},
		{name: "broken URI", path: "config/hsm", data: map[string]any{"uri": "pkcs11:token?module-name=softhsm"}, texts: []string{"attribute=value"}},
		{name: "broken percent-encoding", path: "config/hsm", data: map[string]any{"uri": "pkcs11:token=%zz?module-name=softhsm"}, texts: []string{"percent-encoding"}},
		{name: "token twice", path: "config/hsm", data: map[string]any{"uri": "pkcs11:token=a;token=b?module-name=softhsm"}, texts: []string{"twice"}},
		{name: "long URI", path: "config/hsm", data: map[string]any{"uri": good + strings.Repeat("x", 600)}, texts: []string{"longer than 512"}},
		{name: "unknown suite", path: "config/hsm", data: map[string]any{"suite": "rot13"}, texts: []string{"suite"}},
		{name: "unknown field", path: "config/hsm", data: map[string]any{"module_path": "/tmp/evil.so"}, texts: []string{"unknown field module_path", "uri"}},
	})
	e.unchanged(t, before)
	if c := e.read(t, "config/hsm"); c["uri"] != good || c["pin_set"] != true {
		t.Errorf("config/hsm afterwards: %v", c)
	}
	e.sign(t, "badtoken", []byte("the earlier configuration works"))
}

// TestBadInput: every other mistake of a caller is refused with a text that
// helps, and leaves nothing behind.
func TestBadInput(t *testing.T) {
	e := shared(t)
	e.create(t, "taken", bip340, 2, 3)
	e.create(t, "taken-ecdsa", ecdsaCurve, 2, 3)
	before := e.footprint(t)
	hello, digest := b64([]byte("hello")), b64(make([]byte, 32))
	sig := b64(make([]byte, 64))
	account := func(name, path string, data map[string]any, texts ...string) request {
		if _, ok := data["algorithm"]; !ok && path == "new" {
			data["algorithm"] = bip340
		}
		return request{name: name, path: "accounts/" + path, data: data, texts: texts}
	}
	sign := func(name, path string, data map[string]any, texts ...string) request {
		return request{name: name, path: path, data: data, texts: texts}
	}
	missing := func(method, path string, data map[string]any, texts ...string) request {
		return request{name: "unknown " + path, method: method, path: path, data: data, status: notFound, texts: texts}
	}
	unknownAccount := []string{`no account "nobody"`, "list accounts/"}
	e.refuseAll(t, []request{
		account("threshold over shares", "new", map[string]any{"threshold": 4, "shares": 3}, "threshold 4", "3 shares", "lower threshold or raise shares"),
		account("threshold 1", "new", map[string]any{"threshold": 1, "shares": 3}, "at least 2"),
		account("threshold 0", "new", map[string]any{"threshold": 0}, "at least 2"),
		account("negative threshold", "new", map[string]any{"threshold": -2}, "at least 2"),
		account("negative shares", "new", map[string]any{"shares": -3}, "shares"),
		account("17 shares", "new", map[string]any{"shares": 17}, "at most 16"),
		account("more shares than nodes", "new", map[string]any{"shares": 6}, "6 shares", "there are 5", "config/nodes local=6"),
		account("garbage threshold", "new", map[string]any{"threshold": "two"}, "threshold"),
		account("fractional shares", "new", map[string]any{"shares": 3.5}, "shares must be a whole number, not 3.5"),
		account("overflowing shares", "new", map[string]any{"shares": "99999999999999999999"}, "shares"),
		account("list as threshold", "new", map[string]any{"threshold": []int{2}}, "threshold"),
		account("unknown algorithm", "new", map[string]any{"algorithm": "rsa-2048"}, `"rsa-2048"`, bip340, ecdsaCurve),
		account("missing algorithm", "new", map[string]any{"algorithm": ""}, "algorithm", bip340, ecdsaCurve),
		account("period below minimum", "new", map[string]any{"refresh_period": "10ms"}, "refresh_period must be 1s to 8760h"),
		account("negative period", "new", map[string]any{"refresh_period": -5}, "refresh_period"),
		account("garbage period", "new", map[string]any{"refresh_period": "soon"}, "refresh_period"),
		account("endless period", "new", map[string]any{"refresh_period": "999999h"}, "refresh_period must be 1s to 8760h"),
		account("metadata with control characters", "new", map[string]any{"metadata": map[string]string{"a": "b\x00"}}, "metadata"),
		account("metadata too long", "new", map[string]any{"metadata": map[string]string{"a": strings.Repeat("x", 513)}}, "metadata"),
		account("unknown field", "new", map[string]any{"treshold": 2}, "unknown field treshold", "threshold"),

		account("name too long", strings.Repeat("n", 129), map[string]any{"algorithm": bip340}, "not an account name", "128"),
		account("name of a dash", "-", map[string]any{"algorithm": bip340}, "not an account name", "letters, digits"),
		account("name ends in a dot", "a.", map[string]any{"algorithm": bip340}, "not an account name"),
		account("name with a space", "a%20b", map[string]any{"algorithm": bip340}, "not an account name"),
		account("name in another script", "%C3%A4", map[string]any{"algorithm": bip340}, "not an account name"),
		{name: "name of three dots", path: "accounts/...", data: map[string]any{"algorithm": bip340}, texts: []string{"not an account name"}},
		{name: "name with a slash", path: "accounts/a/b", data: map[string]any{"algorithm": bip340}, status: notFound, texts: []string{"accounts/:name"}},

		account("other algorithm", "taken", map[string]any{"algorithm": ecdsaCurve}, `"taken" exists`, bip340, "cannot be changed"),
		account("other threshold", "taken", map[string]any{"threshold": 3}, "threshold is 2", "cannot be changed"),
		account("other shares", "taken", map[string]any{"shares": 5}, "shares is 3", "cannot be changed"),
		account("period of an account", "taken", map[string]any{"refresh_period": "1ms"}, "refresh_period must be 1s"),
		account("fields of refresh", "taken/refresh", map[string]any{"force": true}, "unknown field force"),

		sign("not base64", "sign/taken", map[string]any{"input": "***"}, "input is not base64", "printf hello | base64"),
		sign("empty input", "sign/taken", map[string]any{"input": ""}, "input is missing", "base64"),
		sign("no input", "sign/taken", map[string]any{}, "input is missing"),
		sign("short digest", "sign/taken", map[string]any{"input": b64(make([]byte, 31)), "message_type": "digest"}, "32 bytes, not 31"),
		sign("hex digest", "sign/taken-ecdsa", map[string]any{"input": b64(bytes.Repeat([]byte("a"), 64)), "message_type": "digest"}, "32 bytes, not 64", "not its hex text"),
		sign("unknown message_type", "sign/taken", map[string]any{"input": hello, "message_type": "prehashed"}, `"prehashed"`, "raw or digest"),
		sign("hash with BIP-340", "sign/taken", map[string]any{"input": hello, "hash_algorithm": "sha2-256"}, "leave hash_algorithm out"),
		sign("unknown hash", "sign/taken-ecdsa", map[string]any{"input": hello, "hash_algorithm": "md5"}, `"md5"`, "sha2-512, keccak-256 or sha-256d"),
		sign("no hash with ECDSA", "sign/taken-ecdsa", map[string]any{"input": hello, "hash_algorithm": "none"}, "sha2-512, keccak-256 or sha-256d"),
		sign("oversize input", "sign/taken", map[string]any{"input": b64(make([]byte, 600<<10))}, "message_type=digest"),
		sign("one byte too many", "sign/taken", map[string]any{"input": b64(make([]byte, 512<<10+1))}, "1 to 524288 bytes"),
		sign("unknown field of sign", "sign/taken", map[string]any{"input": hello, "hash": "sha2-256"}, "unknown field hash", "hash_algorithm"),
		sign("name of sign", "sign/-", map[string]any{"input": hello}, "not an account name"),
		sign("verify without signature", "verify/taken", map[string]any{"input": hello}, "signature is missing"),
		sign("signature not base64", "verify/taken", map[string]any{"input": hello, "signature": "?"}, "signature is not base64"),
		sign("verify not base64", "verify/taken", map[string]any{"input": "?", "signature": sig}, "input is not base64"),
		sign("verify short digest", "verify/taken", map[string]any{"input": hello, "message_type": "digest", "signature": sig}, "32 bytes"),
		sign("unknown field of verify", "verify/taken", map[string]any{"input": digest, "sig": sig}, "unknown field sig", "signature"),
		sign("unknown field of destroy", "destroy/taken", map[string]any{"really": "yes"}, "unknown field really"),

		missing(http.MethodGet, "accounts/nobody", nil, unknownAccount...),
		missing(http.MethodPut, "accounts/nobody/refresh", nil, unknownAccount...),
		missing(http.MethodPut, "sign/nobody", map[string]any{"input": hello}, unknownAccount...),
		missing(http.MethodPut, "verify/nobody", map[string]any{"input": hello, "signature": sig}, unknownAccount...),
		missing(http.MethodPut, "destroy/nobody", nil, unknownAccount...),
		missing(http.MethodDelete, "destroy/nobody", nil, unknownAccount...),
		missing(http.MethodGet, "nodes/local-99", nil, `no node "local-99"`, "list nodes/"),
		missing(http.MethodGet, "nothing", nil, `no path "nothing"`, "path-help"),
		missing(http.MethodPut, "config/everything", map[string]any{"a": 1}, `no path "config/everything"`),
		missing("LIST", "shares", nil, "no path"),

		{name: "no nodes", path: "config/nodes", data: map[string]any{"local": 0}, texts: []string{"local must be 2 to 16, not 0"}},
		{name: "negative nodes", path: "config/nodes", data: map[string]any{"local": -1}, texts: []string{"local must be 2 to 16"}},
		{name: "17 nodes", path: "config/nodes", data: map[string]any{"local": 17}, texts: []string{"local must be 2 to 16"}},
		{name: "garbage nodes", path: "config/nodes", data: map[string]any{"local": "many"}, texts: []string{"local"}},
		{name: "fewer nodes than shares", path: "config/nodes", data: map[string]any{"local": 2}, texts: []string{"keep local at"}},
		{name: "long session", path: "config/nodes", data: map[string]any{"session_timeout": "10m"}, texts: []string{"session_timeout must be 1s to 1m"}},
		{name: "unknown field of nodes", path: "config/nodes", data: map[string]any{"remote": "eu-1"}, texts: []string{"unknown field remote", "local"}},
		{name: "short rotation", path: "config/rotation", data: map[string]any{"refresh_period": "999ms"}, texts: []string{"refresh_period must be 1s"}},
		{name: "negative rotation", path: "config/rotation", data: map[string]any{"refresh_period": "-1h"}, texts: []string{"refresh_period"}},
		{name: "unknown field of rotation", path: "config/rotation", data: map[string]any{"period": "1h"}, texts: []string{"unknown field period", "refresh_period"}},
	})
	e.unchanged(t, before)
	for path, want := range map[string]map[string]string{
		"config/nodes":    {"local": "5", "session_timeout": "30"},
		"config/rotation": {"refresh_period": "600"},
	} {
		got := e.read(t, path)
		for field, value := range want {
			if n, ok := got[field].(json.Number); !ok || n.String() != value {
				t.Errorf("%s: %s is %v, want %s", path, field, got[field], value)
			}
		}
	}
	e.sign(t, "taken", []byte("still"))
	if r := e.Mpckms(t, "account", "show", "nobody"); r.Code != 1 || !strings.HasPrefix(r.Stderr, `Error: cannot show account "nobody": there is no account "nobody": list accounts/`) {
		t.Errorf("mpckms: %+v", r)
	}
}

// TestBeforeConfiguration: a fresh mount says what to do first.
func TestBeforeConfiguration(t *testing.T) {
	v := harness.Shared(t)
	v.Enable(t, "fresh")
	t.Cleanup(func() {
		if err := v.Client.Sys().Unmount("fresh"); err != nil {
			t.Error(err)
		}
	})
	e := &engine{v, "fresh"}
	first := []string{"no HSM is configured", "vault write <mount>/config/hsm uri="}
	e.refuseAll(t, []request{
		{name: "create", path: "accounts/a", data: map[string]any{"algorithm": bip340}, texts: first},
		{name: "list nodes", method: "LIST", path: "nodes", texts: first},
		{name: "read a node", method: http.MethodGet, path: "nodes/local-1", texts: first},
		{name: "sign", path: "sign/a", data: map[string]any{"input": b64([]byte("a"))}, status: notFound, texts: []string{`no account "a"`}},
		{name: "wrong PIN", path: "config/hsm", data: map[string]any{"uri": v.Token.URI(), "pin": "999999"}, texts: []string{"refused the PIN", "nothing was stored"}},
		{name: "PIN alone", path: "config/hsm", data: map[string]any{"pin": v.Token.PIN}, texts: []string{"uri is missing"}},
		{name: "no PIN", path: "config/hsm", data: map[string]any{"uri": v.Token.URI()}, texts: []string{"pin is missing"}},
	})
	if s, err := v.Client.Logical().Read("fresh/config/hsm"); s != nil || err != nil {
		t.Errorf("config/hsm can be read: %v %v", s, err)
	}
	for _, key := range v.RawList(t, "fresh") {
		if key != "heartbeat" { // the mount's own, from its first minute on
			t.Errorf("refused requests stored %s", key)
		}
	}
}

// TestPolicies: a signer can sign and nothing else; configuring and destroying
// need sudo on top of the ordinary capabilities.
func TestPolicies(t *testing.T) {
	e := shared(t)
	e.create(t, "guarded", bip340, 2, 3)
	client := func(policy, rules string) *api.Client {
		if err := e.Client.Sys().PutPolicy(policy, rules); err != nil {
			t.Fatal(err)
		}
		s, err := e.Client.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{policy}, NoDefaultPolicy: true, TTL: "10m"})
		if err != nil {
			t.Fatal(err)
		}
		c, err := e.Client.Clone()
		if err != nil {
			t.Fatal(err)
		}
		c.SetToken(s.Auth.ClientToken)
		return c
	}
	signer := client("signer", `path "mpc/sign/guarded" { capabilities = ["update"] }`)
	everything := client("no-sudo", `path "mpc/*" { capabilities = ["create", "read", "update", "delete", "list"] }`)
	admin := client("admin", `path "mpc/*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }`)
	hello := map[string]any{"input": b64([]byte("hello"))}
	rotation := map[string]any{"refresh_period": "10m"}
	for _, c := range []struct {
		who     string
		client  *api.Client
		method  string
		path    string
		data    map[string]any
		allowed bool
	}{
		{"signer", signer, http.MethodPut, "sign/guarded", hello, true},
		{"signer", signer, http.MethodPut, "sign/taken", hello, false},
		{"signer", signer, http.MethodGet, "accounts/guarded", nil, false},
		{"signer", signer, http.MethodPut, "accounts/guarded/refresh", nil, false},
		{"signer", signer, http.MethodPut, "accounts/other", map[string]any{"algorithm": bip340}, false},
		{"signer", signer, http.MethodPut, "config/rotation", rotation, false},
		{"signer", signer, http.MethodDelete, "destroy/guarded", nil, false},
		{"everything but sudo", everything, http.MethodGet, "accounts/guarded", nil, true},
		{"everything but sudo", everything, http.MethodPut, "sign/guarded", hello, true},
		{"everything but sudo", everything, http.MethodGet, "config/hsm", nil, false},
		{"everything but sudo", everything, http.MethodPut, "config/hsm", map[string]any{"pin": e.Token.PIN}, false},
		{"everything but sudo", everything, http.MethodPut, "config/nodes", map[string]any{"local": 5}, false},
		{"everything but sudo", everything, http.MethodPut, "config/rotation", rotation, false},
		{"everything but sudo", everything, http.MethodPut, "destroy/guarded", nil, false},
		{"everything but sudo", everything, http.MethodDelete, "destroy/guarded", nil, false},
		{"administrator", admin, http.MethodPut, "config/rotation", rotation, true},
		{"administrator", admin, http.MethodDelete, "destroy/guarded", nil, true},
	} {
		err := e.do(t, c.client, c.method, "mpc/"+c.path, c.data)
		what := c.who + ": " + c.method + " " + c.path
		if c.allowed && err != nil {
			t.Errorf("%s: %v", what, err)
		} else if !c.allowed {
			checkRefusal(t, what, err, http.StatusForbidden, "permission denied")
		}
	}
}
