//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/plugin/e2e"
	"vault-plugin-secrets-mpc/secret"
)

// outside is somebody without a Vault token.
func outside(t testing.TB, e *engine) apiCaller {
	t.Helper()
	c, err := e.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken("")
	return apiCaller{c, e.path}
}

// somebody answers what is asked.
type somebody struct {
	secrets map[keyholder.Topic]string
	code    func() string
	browse  func(address string) error
}

func (s *somebody) Ask(context.Context, string) (string, error) { return s.code(), nil }
func (s *somebody) AskSecret(_ context.Context, q keyholder.Question) (*secret.Bytes, error) {
	v, ok := s.secrets[q.Topic]
	if q.Topic == keyholder.TopicAnswer && !ok { // which names that do not exist may ask for
		v, ok = "anything", true
	}
	if !ok {
		return nil, fmt.Errorf("nobody answers %s", q.Text)
	}
	return secret.Copy([]byte(v)), nil
}
func (s *somebody) Show(string) {}
func (s *somebody) OpenURL(address string) error {
	if s.browse == nil {
		return errors.New("no browser")
	}
	return s.browse(address)
}

func password(text string) keyholder.Source {
	return keyholder.Password(&somebody{secrets: map[keyholder.Topic]string{keyholder.TopicPassword: text}})
}

// enrolFrom registers an authenticator with the root token.
func enrolFrom(t testing.TB, e *engine, name string, src keyholder.Source, opts keyholder.RegisterOptions) (*identity.Authenticator, *identity.Keys) {
	t.Helper()
	a, keys, err := keyholder.Register(t.Context(), apiCaller{e.Client, e.path}, name, src.Method(), src, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Wipe)
	return a, keys
}

// logIn logs in without a token and uses the session once.
func logIn(t testing.TB, c keyholder.Caller, name string, src keyholder.Source) *keyholder.Session {
	t.Helper()
	s, err := keyholder.Login(t.Context(), c, name, src.Method(), src)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Wipe)
	var out struct {
		Name string `json:"name"`
	}
	if err := s.Call(t.Context(), keyholder.Read, "authenticators/"+name, nil, &out); err != nil || out.Name != name {
		t.Fatalf("through the session: %+v, %v", out, err)
	}
	return s
}

// founds makes an identity that the authenticator owns.
func founds(t testing.TB, e *engine, name string, a *identity.Authenticator, keys *identity.Keys, roles ...string) *identity.Opened {
	t.Helper()
	signed, o, err := identity.Create(identity.NewIdentity{Name: name, Kind: identity.Person, Roles: roles, Authenticator: a, Keys: keys, Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Wipe)
	e.write(t, "identities/"+name, map[string]any{"manifest": b64(signed.Manifest), "signature": b64(signed.Signature)})
	return o
}

func refusedBy(t testing.TB, what string, err error, status int, text string) {
	t.Helper()
	var r *keyholder.Refusal
	if !errors.As(err, &r) || r.Status != status || !strings.Contains(strings.Join(r.Messages, "\n"), text) {
		t.Errorf("%s: %v, want status %d and %q", what, err, status, text)
	}
}

var (
	loginOnce sync.Once
	loginOn   *engine
)

// logins is a mount of its own for logins, with two nodes.
func logins(t *testing.T) *engine {
	t.Helper()
	v := harness.Shared(t)
	loginOnce.Do(func() { loginOn = enable(t, v, "logins", 2) })
	if loginOn == nil {
		t.Fatal("the mount for logins could not be configured; see the first failure")
	}
	loginOn.waitNodes(t, 2)
	return loginOn
}

// reload gives the mount a new process.
func (e *engine) reload(t testing.TB) {
	t.Helper()
	if r := e.CLI(t, "write", "sys/plugins/reload/backend", "mounts="+e.path); r.Code != 0 {
		t.Fatalf("reload: %+v", r)
	}
	e.waitNodes(t, 2)
}

// TestLogin: without a Vault token, on real nodes.
func TestLogin(t *testing.T) {
	e := logins(t)
	a, keys := enrolFrom(t, e, "alice", password("correct horse"), keyholder.RegisterOptions{PersonalQuestion: ""})
	home := founds(t, e, "alice-home", a, keys, "mail")
	c := outside(t, e)
	s := logIn(t, c, "alice", password("correct horse"))
	if got := s.Identities(); len(got) != 1 || got[0].Name != "alice-home" || !slices.Equal(got[0].Roles, []string{"mail", "owner"}) {
		t.Errorf("the login says %+v", got)
	}
	signed, err := keyholder.FetchManifest(t.Context(), s, "alice-home")
	if err != nil {
		t.Fatal(err)
	}
	o, _, err := identity.OpenIdentity(signed, identity.Pin{}, a.ID, s.Keys())
	if err != nil || !o.Roles["mail"].Public().Equal(home.Roles["mail"].Public()) {
		t.Fatal("the session's keys do not open the identity:", err)
	}
	o.Wipe()

	started := time.Now()
	for range 5 {
		logIn(t, c, "alice", password("correct horse"))
	}
	t.Logf("a login with its first call took %v, the password hash (64 MiB) included", (time.Since(started) / 5).Round(time.Millisecond))
	if _, err := keyholder.Login(t.Context(), c, "alice", identity.Password, password("battery staple")); !errors.Is(err, keyholder.ErrLogin) {
		t.Errorf("a wrong password: %v", err)
	}
	refusedBy(t, "what no session may", s.Call(t.Context(), keyholder.Read, "config/hsm", nil, nil), http.StatusForbidden, "this session may not")
	refusedBy(t, "without a session or token", c.Call(t.Context(), keyholder.Read, "identities/alice-home", nil, nil), http.StatusForbidden, "")
	if err := s.End(t.Context()); err != nil {
		t.Error(err)
	}
	// Lost: at once, and told to who knows the secret.
	s = logIn(t, c, "alice", password("correct horse"))
	e.write(t, "authenticators/alice/lost", map[string]any{"reason": "for a test"})
	if err := s.Call(t.Context(), keyholder.Read, "authenticators/alice", nil, nil); !errors.Is(err, keyholder.ErrSessionOver) {
		t.Errorf("a session of a lost authenticator: %v", err)
	}
	_, err = keyholder.Login(t.Context(), c, "alice", identity.Password, password("correct horse"))
	refusedBy(t, "the right secret of a lost one", err, http.StatusConflict, "reported lost")
	// A restart of the plugin ends sessions, and no more.
	e.write(t, "authenticators/alice/found", nil)
	s = logIn(t, c, "alice", password("correct horse"))
	e.reload(t)
	if err := s.Call(t.Context(), keyholder.Read, "authenticators/alice", nil, nil); !errors.Is(err, keyholder.ErrSessionOver) {
		t.Errorf("a session from before the restart: %v", err)
	}
	logIn(t, c, "alice", password("correct horse"))
}

// TestNoEnumeration: over HTTP, status, headers and forms of answers are the same
// for an authenticator that exists and for one that does not.
func TestNoEnumeration(t *testing.T) {
	e := logins(t)
	enrolFrom(t, e, "real", password("correct horse"), keyholder.RegisterOptions{})
	raw := func(path string, body map[string]any) (int, http.Header, map[string]any) {
		t.Helper()
		encoded, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Post(e.Addr+"/v1/"+e.path+"/"+path, "application/json", bytes.NewReader(encoded))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		resp.Header.Del("Date")
		resp.Header.Del("Content-Length")
		return resp.StatusCode, resp.Header, answer
	}
	stored := e.RawList(t, e.path)
	var first []any
	for _, name := range []string{"real", "fake"} {
		var all []any
		note := func(status int, h http.Header, a map[string]any) map[string]any {
			data, _ := a["data"].(map[string]any)
			errs, _ := a["errors"].([]any)
			all = append(all, status, h, slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(data)), errs)
			return data
		}
		for _, kind := range []string{"password", "key-file", "device", "certificate"} {
			note(raw("login/challenge", map[string]any{"authenticator": name, "kind": kind}))
		}
		data := note(raw("login/challenge", map[string]any{"authenticator": name, "kind": "password"}))
		_, _, again := raw("login/challenge", map[string]any{"authenticator": name, "kind": "password"})
		if id := again["data"].(map[string]any)["login_id"]; id != data["login_id"] {
			t.Errorf("%s: login ID %v, then %v", name, data["login_id"], id)
		}
		id, err := identity.ParseID(data["login_id"].(string))
		if err != nil {
			t.Fatal(err)
		}
		login, ke1, err := identity.StartLogin(identity.NewSeed(), id, identity.DefaultKDF())
		if err != nil {
			t.Fatal(err)
		}
		started := note(raw("login/start", map[string]any{"challenge": data["challenge"], "ke1": b64(ke1)}))
		if _, _, _, err := login.Finish(unb64(t, started["ke2"])); !errors.Is(err, identity.ErrLogin) {
			t.Errorf("%s: at the client: %v", name, err)
		}
		note(raw("login/finish", map[string]any{"login": started["login"], "ke3": b64(make([]byte, identity.KE3Size))}))
		if first == nil {
			first = all
			continue
		}
		for i := range all {
			if !reflect.DeepEqual(all[i], first[i]) {
				t.Errorf("answer %d: %v of one that exists, %v of one that does not", i, first[i], all[i])
			}
		}
	}
	if now := e.RawList(t, e.path); !slices.Equal(now, stored) {
		t.Errorf("stored before %q and after %q", stored, now)
	}
}

func unb64(t testing.TB, v any) []byte {
	t.Helper()
	var raw []byte
	encoded, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(encoded, &raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestRateLimit: five attempts lock a name, whether or not it exists; a restart of
// the plugin does not help who guesses.
func TestRateLimit(t *testing.T) {
	e := logins(t)
	enrolFrom(t, e, "guarded", password("correct horse"), keyholder.RegisterOptions{})
	c := outside(t, e)
	for _, name := range []string{"guarded", "unguarded"} {
		for range 5 {
			if _, err := keyholder.Login(t.Context(), c, name, identity.Password, password("a guess")); !errors.Is(err, keyholder.ErrLogin) {
				t.Errorf("%s: a guess: %v", name, err)
			}
		}
		_, err := keyholder.Login(t.Context(), c, name, identity.Password, password("correct horse"))
		refusedBy(t, name, err, http.StatusForbidden, "too many attempts")
	}
	e.await(t, 10*time.Second, "the lock in storage", func() bool { return slices.Contains(e.RawList(t, e.path), "authenticator-locks/guarded") })
	if slices.Contains(e.RawList(t, e.path), "authenticator-locks/unguarded") {
		t.Error("a name that does not exist is written down")
	}
	e.reload(t)
	_, err := keyholder.Login(t.Context(), c, "guarded", identity.Password, password("correct horse"))
	refusedBy(t, "after a restart", err, http.StatusForbidden, "too many attempts")
	e.write(t, "authenticators/guarded/unlock", nil)
	logIn(t, c, "guarded", password("correct horse"))
}

// TestPhone: a code goes to a webhook that the test serves.
func TestPhone(t *testing.T) {
	e := logins(t)
	type message struct{ Phone, Code string }
	codes := make(chan message, 16)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m message
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || r.Header.Get("Authorization") != "Bearer for-the-webhook" {
			t.Errorf("the webhook got %q: %v", r.Header.Get("Authorization"), err)
		}
		codes <- m
	}))
	defer hook.Close()
	e.write(t, "config/identities", map[string]any{"phone_webhook": hook.URL, "phone_webhook_header": "Bearer for-the-webhook"})
	defer e.write(t, "config/identities", map[string]any{"phone_webhook": ""})
	if got := e.read(t, "config/identities"); got["phone_webhook_header"] != nil || got["phone_webhook_header_set"] != true {
		t.Errorf("config/identities: %v", got)
	}
	wrong := ""
	src := keyholder.Phone(&somebody{secrets: map[keyholder.Topic]string{keyholder.TopicPIN: "24680000"}, code: func() string {
		select {
		case m := <-codes:
			if m.Phone != "+41791234567" {
				t.Errorf("a code for %s", m.Phone)
			}
			if wrong != "" {
				return wrong
			}
			return m.Code
		case <-time.After(20 * time.Second):
			return "none came"
		}
	}})
	enrolFrom(t, e, "alice-phone", src, keyholder.RegisterOptions{Phone: "+41791234567", PIN: true})
	c := outside(t, e)
	logIn(t, c, "alice-phone", src)
	wrong = "12345x"
	_, err := keyholder.Login(t.Context(), c, "alice-phone", identity.Phone, src)
	refusedBy(t, "a wrong code", err, http.StatusForbidden, "login failed")
	_, err = keyholder.Login(t.Context(), c, "alice-phone", identity.Phone, src)
	refusedBy(t, "another code at once", err, http.StatusForbidden, "ask again in")
	if bytes.Contains(e.Log(t), []byte("+41791234567")) || bytes.Contains(e.Log(t), []byte("for-the-webhook")) {
		t.Error("the phone number or the webhook's header is in the log")
	}
}

// oidcUser is a user of Vault's own identity provider, and a browser that is logged
// in as this user.
func oidcUser(t testing.TB, v *e2e.Vault, name string) (browse func(string) error) {
	t.Helper()
	write := func(path string, data map[string]any) map[string]any {
		t.Helper()
		s, err := v.Client.Logical().Write(path, data)
		if err != nil {
			t.Fatal(err)
		}
		if s == nil {
			return nil
		}
		return s.Data
	}
	write("auth/userpass/users/"+name, map[string]any{"password": "for-" + name})
	client, err := v.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken("")
	s, err := client.Logical().Write("auth/userpass/login/"+name, map[string]any{"password": "for-" + name})
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(s.Auth.ClientToken)
	return func(address string) error {
		u, err := url.Parse(address)
		if err != nil {
			return err
		}
		// The page there calls this path with the token of whoever is logged in.
		path := strings.TrimPrefix(u.Path, "/ui/vault/")
		answer, err := client.Logical().ReadWithData(path, u.Query())
		if err != nil {
			return err
		}
		back := u.Query().Get("redirect_uri") + "?" + url.Values{"code": {answer.Data["code"].(string)}, "state": {answer.Data["state"].(string)}}.Encode()
		go func() { // it comes back by itself, when the loopback server listens
			resp, err := http.Get(back) //nolint:noctx // bounded by the server's end
			if err == nil {
				resp.Body.Close()
			}
		}()
		return nil
	}
}

// TestOIDC: Vault's own identity provider, authorization code with PKCE and a
// loopback redirect.
func TestOIDC(t *testing.T) {
	e := logins(t)
	if err := e.Client.Sys().EnableAuthWithOptions("userpass", &api.EnableAuthOptions{Type: "userpass"}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Client.Sys().DisableAuth("userpass") }()
	if err := e.Client.Sys().PutPolicy("oidc-user", `path "identity/oidc/provider/default/authorize" { capabilities = ["read", "update"] }`); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Client.Logical().Write("identity/oidc/client/mpc", map[string]any{"client_type": "public", "redirect_uris": "http://127.0.0.1/callback", "assignments": "allow_all"}); err != nil {
		t.Fatal(err)
	}
	client, err := e.Client.Logical().Read("identity/oidc/client/mpc")
	if err != nil {
		t.Fatal(err)
	}
	discovery, err := http.Get(e.Addr + "/v1/identity/oidc/provider/default/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	var found struct{ Issuer string }
	err = json.NewDecoder(discovery.Body).Decode(&found)
	discovery.Body.Close()
	if err != nil || found.Issuer == "" {
		t.Fatal(found, err)
	}
	s, err := e.Client.Logical().Write(e.path+"/config/identities/oidc/vault", map[string]any{"issuer": found.Issuer, "client_id": client.Data["client_id"]})
	if err != nil || len(s.Warnings) != 0 {
		t.Fatalf("configuring the provider: %v %+v", err, s)
	}
	// What does not exist may seem to have a PIN.
	pin := map[keyholder.Topic]string{keyholder.TopicPIN: "13570000"}
	alice := keyholder.OIDC(&somebody{secrets: pin, browse: oidcUser(t, e.Vault, "alice")}, keyholder.OIDCConfig{})
	bob := keyholder.OIDC(&somebody{browse: oidcUser(t, e.Vault, "bob")}, keyholder.OIDCConfig{})
	a, _ := enrolFrom(t, e, "alice-vault", alice, keyholder.RegisterOptions{Provider: "vault"})
	if !a.ServerTrusting() || a.Parameters.OIDC.Subject == "" {
		t.Errorf("registered: %+v", a)
	}
	c := outside(t, e)
	logIn(t, c, "alice-vault", alice)
	_, err = keyholder.Login(t.Context(), c, "alice-vault", identity.OIDC, bob)
	refusedBy(t, "another account", err, http.StatusForbidden, "login failed")
	_, err = keyholder.Login(t.Context(), c, "nobody-vault", identity.OIDC, alice)
	refusedBy(t, "an authenticator that does not exist", err, http.StatusForbidden, "login failed")
	logIn(t, c, "alice-vault", alice)
}

// TestLoginAudit: the audit log shows who called what, and no secret.
func TestLoginAudit(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	log := filepath.Join(v.Dir, "audit.log")
	if err := v.Client.Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": log}}); err != nil {
		t.Fatal(err)
	}
	e := enable(t, v, "mpc", 2)
	sh := newShell(t, v)
	sh.runDocument(t, "docs/audit.md", promises{"vault secrets tune": "Success", "vault write -field": `^hmac-sha256:[0-9a-f]{64}\n?$`}, nil, nil)
	a, keys := enrolFrom(t, e, "alice", password("correct horse"), keyholder.RegisterOptions{})
	founds(t, e, "home", a, keys)
	s := logIn(t, outside(t, e), "alice", password("correct horse"))
	if _, err := keyholder.FetchManifest(t.Context(), s, "home"); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	called := false
	for _, line := range bytes.Split(bytes.TrimSpace(raw), []byte("\n")) {
		var entry auditEntry
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatal(err)
		}
		d := entry.Request.Data
		if entry.Request.Path != "mpc/session/call" || d["path"] != "identities/home" {
			continue
		}
		called = true
		message, _ := d["message"].(string)
		if d["operation"] != "read" || !strings.HasPrefix(message, "hmac-sha256:") {
			t.Errorf("a call in the audit log: %v", d)
		}
	}
	if !called {
		t.Error("the call is not in the audit log")
	}
	for _, secret := range []string{"correct horse", b64(a.Wrapped)} {
		if bytes.Contains(raw, []byte(secret)) {
			t.Error("a secret is in the audit log")
		}
	}
}

// TestLoginFailover: logins and sessions go through any server of a cluster, and
// end with the active one; locks do not.
func TestLoginFailover(t *testing.T) {
	c := harness.StartCluster(t, 3)
	c.Enable(t, "mpc")
	e := &engine{c.Leader(t), "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 2})
	e.ConfigHSM(t, "mpc")
	e.waitNodes(t, 2)
	a, keys := enrolFrom(t, e, "alice", password("correct horse"), keyholder.RegisterOptions{})
	founds(t, e, "home", a, keys)
	enrolFrom(t, e, "locked", password("correct horse"), keyholder.RegisterOptions{})
	standby := outside(t, &engine{c.Standbys(t)[0], "mpc"})
	for range 20 { // to the threshold whose lock outlasts an election
		if _, err := keyholder.Login(t.Context(), standby, "locked", identity.Password, password("a guess")); errors.Is(err, keyholder.ErrLogin) {
			continue
		}
		break
	}
	e.await(t, 10*time.Second, "the lock in storage", func() bool {
		return e.read(t, "authenticators/locked")["locked_until"] != ""
	})
	s := logIn(t, standby, "alice", password("correct horse"))
	if _, err := keyholder.FetchManifest(t.Context(), s, "home"); err != nil {
		t.Fatal(err)
	}
	old, _ := c.StepDown(t)
	election := c.AwaitElection(t, old)
	next := &engine{election.Leader, "mpc"}
	next.waitNodes(t, 2)
	if err := s.Call(t.Context(), keyholder.Read, "identities/home", nil, nil); !errors.Is(err, keyholder.ErrSessionOver) {
		t.Errorf("a session after the failover: %v", err)
	}
	logIn(t, standby, "alice", password("correct horse"))
	if got := next.read(t, "authenticators/locked")["locked_until"]; got == "" {
		t.Log("the minute of the lock was over before the election")
	}
}
