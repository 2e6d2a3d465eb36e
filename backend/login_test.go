package backend

import (
	"context"
	"crypto/ecdh"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// steadyClock stands still until it is set.
type steadyClock struct{ at chan time.Time }

func newSteadyClock() *steadyClock {
	c := &steadyClock{make(chan time.Time, 1)}
	c.at <- time.Now()
	return c
}

func (c *steadyClock) now() time.Time {
	t := <-c.at
	c.at <- t
	return t
}

func (c *steadyClock) pass(d time.Duration) { c.at <- (<-c.at).Add(d) }

// loginMount is a mount with a token and a clock that stands still.
func loginMount(t *testing.T) (*mount, *steadyClock, *countingStorage) {
	t.Helper()
	clock, storage := newSteadyClock(), &countingStorage{Storage: &logical.InmemStorage{}}
	m := openAt(t, storage, newFake(t), clock.now)
	m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
	return m, clock, storage
}

func TestLogin(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice-password", identity.Password, "correct horse", "", nil)
	o := alice.founds("alice", "mail")
	c := alice.login()
	if len(c.first.Identities) != 1 || c.first.Identities[0].Name != "alice" || c.first.Identities[0].ID != o.Manifest.Identity || c.first.Identities[0].State != "active" ||
		!slices.Equal(c.first.Identities[0].Roles, []string{"mail", "owner"}) {
		t.Errorf("the login says %+v", c.first.Identities)
	}
	got := c.does(identity.ReadOperation, "identities/alice", nil)
	if got["name"] != "alice" || got["manifest"] == "" {
		t.Errorf("through the session: %v", got)
	}
	// Each session has keys of its own.
	d := alice.login()
	if d.id == c.id {
		t.Error("two sessions with one ID")
	}
	c.does(identity.ReadOperation, "authenticators/alice-password", nil)
	d.does(identity.ReadOperation, "authenticators/alice-password", nil)
	m.must(logical.UpdateOperation, "session/end", map[string]any{"session": c.id})
	c.over(t)
	d.does(identity.ReadOperation, "identities/alice", nil)
	m.must(logical.UpdateOperation, "session/end", map[string]any{"session": c.id}) // again
}

func TestWrongSecret(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	mallory := *alice
	mallory.info = "battery staple"
	b := m.begin(alice.challenge(), mallory.loginSecret())
	if b.wrong == nil {
		t.Error("a client with a wrong password finds nothing wrong")
	}
	_, status, msg := b.finish(m)
	if status != http.StatusForbidden || !strings.HasPrefix(msg, "login failed") && !strings.Contains(msg, "login failed") {
		t.Errorf("a wrong password: %d %s", status, msg)
	}
	// The login is used up, also for the right message.
	right := m.begin(alice.challenge(), alice.loginSecret())
	ke3 := right.ke3
	right.ke3 = make([]byte, identity.KE3Size)
	if _, status, _ := right.finish(m); status != http.StatusForbidden {
		t.Errorf("a forged KE3: %d", status)
	}
	right.ke3 = ke3
	if _, status, _ := right.finish(m); status != http.StatusForbidden {
		t.Errorf("a login that failed is finished: %d", status)
	}
}

// TestReplayedLogin: no message of a login is good for a second session.
func TestReplayedLogin(t *testing.T) {
	m, clock, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	challenge := alice.challenge()
	b := m.begin(challenge, alice.loginSecret())
	if _, status, msg := b.finish(m); status != http.StatusOK {
		t.Fatal(status, msg)
	}
	if _, status, msg := b.finish(m); status != http.StatusForbidden || !strings.Contains(msg, "finished before") {
		t.Errorf("login/finish again: %d %s", status, msg)
	}
	// KE3 of one login is not that of another.
	other := m.begin(challenge, alice.loginSecret())
	other.ke3 = b.ke3
	if _, status, _ := other.finish(m); status != http.StatusForbidden {
		t.Errorf("the KE3 of another login: %d", status)
	}
	// Nor is a challenge or a login good for ever.
	late := m.begin(challenge, alice.loginSecret())
	clock.pass(pendingLoginTTL + time.Second)
	if _, status, msg := late.finish(m); status != http.StatusForbidden || !strings.Contains(msg, "over") {
		t.Errorf("a login that is too old: %d %s", status, msg)
	}
	clock.pass(challengeTTL)
	m.fails(logical.UpdateOperation, "login/start", map[string]any{"challenge": challenge["challenge"], "ke1": encode64(make([]byte, identity.KE1Size))}, http.StatusForbidden, "the challenge is over")
}

func TestBadLoginInput(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	challenge := alice.challenge()["challenge"].(string)
	ke1 := encode64(make([]byte, identity.KE1Size))
	key, err := identity.NewKeys(identity.NewSeed())
	m.ok(err)
	public := encode64(key.Public().Seal)
	for _, c := range []struct {
		path   string
		data   map[string]any
		status int
		text   string
	}{
		{"login/challenge", nil, 400, "authenticator must be a name"},
		{"login/challenge", map[string]any{"authenticator": "Alice!", "kind": "password"}, 400, "authenticator must be a name"},
		{"login/challenge", map[string]any{"authenticator": "alice", "kind": "smoke"}, 400, "kind must be one of"},
		{"login/challenge", map[string]any{"authenticator": "alice", "kind": "oidc"}, 400, "no third party"},
		{"login/challenge", map[string]any{"authenticator": "nobody", "kind": "phone"}, 400, "phone_webhook"},
		{"login/challenge", map[string]any{"authenticator": "nobody", "kind": "passkey"}, 400, "passkey_relying_party"},
		{"login/challenge", map[string]any{"authenticator": "alice", "kind": "password", "password": "x"}, 400, "unknown field password"},
		{"login/start", map[string]any{"challenge": "AAAA", "ke1": ke1}, 403, "begin again"},
		{"login/start", map[string]any{"challenge": challenge[:40] + "AAAA" + challenge[44:], "ke1": ke1}, 403, "begin again"},
		{"login/start", map[string]any{"challenge": challenge, "ke1": "AAAA"}, 400, "ke1 has 3 bytes"},
		{"login/start", map[string]any{"challenge": challenge, "ke1": "?"}, 400, "not base64"},
		{"login/finish", map[string]any{"login": "x", "ke3": ke1}, 400, "login is not"},
		{"login/finish", map[string]any{"login": strings.Repeat("0a", 16), "ke3": encode64(make([]byte, identity.KE3Size))}, 403, "begin again"},
		{"login/release", map[string]any{"challenge": challenge, "client_public": public, "code": "123456"}, 400, "no part here"},
		{"login/release", map[string]any{"challenge": challenge, "client_public": "AAAA", "code": "123456"}, 400, "client_public"},
		{"session/call", map[string]any{"session": "x"}, 403, "log in again"},
		{"session/call", map[string]any{"session": strings.Repeat("0a", 16), "sequence": 1, "operation": "read", "path": "nodes/", "message": encode64(make([]byte, 20))}, 400, "path"},
		{"session/call", map[string]any{"session": strings.Repeat("0a", 16), "sequence": 0, "operation": "read", "path": "nodes", "message": encode64(make([]byte, 20))}, 400, "sequence"},
		{"session/call", map[string]any{"session": strings.Repeat("0a", 16), "sequence": 1, "operation": "patch", "path": "nodes", "message": encode64(make([]byte, 20))}, 400, "operation"},
		{"session/call", map[string]any{"session": strings.Repeat("0a", 16), "sequence": 1, "operation": "read", "path": "nodes", "message": encode64(make([]byte, 20))}, 403, "log in again"},
	} {
		m.fails(logical.UpdateOperation, c.path, c.data, c.status, c.text)
	}
}

// form is what an answer looks like: fields, their types, and the lengths of what
// is random.
func form(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, v := range v {
			if k != "personal_information" && k != "pin" { // not random: a text and a truth
				out[k] = form(v)
			}
		}
		return out
	case string:
		return len(v)
	}
	return fmt.Sprintf("%T", v)
}

// TestNoEnumeration: challenges of names that exist, that do not, and of another
// kind have one form, are stable, and lead to the same refusal.
func TestNoEnumeration(t *testing.T) {
	m, _, storage := loginMount(t)
	m.must(logical.UpdateOperation, "config/identities", map[string]any{"phone_webhook": "http://127.0.0.1:1/", "passkey_relying_party": "vault.example.com"})
	m.must(logical.UpdateOperation, "config/identities/oidc/corp", map[string]any{"issuer": "http://127.0.0.1:1/oidc", "client_id": "mpc"})
	real := m.enrol("real", identity.Password, "correct horse", "", nil)
	sealed := make([]byte, 65+32+16)
	m.enrol("cert", identity.Certificate, "from the certificate", "", func(a *identity.Authenticator) {
		a.Parameters.Certificate = &identity.CertificateParameters{Certificate: []byte("der"), Algorithm: "ecdh-p256", Sealed: sealed}
	})
	ask := func(name string, kind identity.Method) map[string]any {
		return m.must(logical.UpdateOperation, "login/challenge", map[string]any{"authenticator": name, "kind": string(kind)})
	}
	writes := storage.writes()
	ids := map[any]string{}
	for _, kind := range identity.Methods() {
		if kind == identity.Phone {
			continue // TestPhone; the second challenge would have to wait
		}
		var first any
		for _, name := range []string{"real", "unreal", "nobody"} { // of equal length, but one
			a, b := ask(name, kind), ask(name, kind)
			if a["challenge"] == b["challenge"] {
				t.Errorf("%s %s: the same challenge twice", name, kind)
			}
			what := fmt.Sprintf("%s as %s", name, kind)
			if other := ids[a["login_id"]]; other != "" {
				t.Errorf("%s has the login ID of %s", what, other)
			}
			ids[a["login_id"]] = what
			for _, answer := range []map[string]any{a, b} {
				delete(answer, "challenge") // holds the name
				delete(answer, "expires_time")
				if o, ok := answer["oidc"].(map[string]any); ok {
					delete(o, "nonce")
				}
			}
			if !reflect.DeepEqual(a, b) {
				t.Errorf("%s: %v, then %v", what, a, b)
			}
			if keys := slices.Sorted(maps.Keys(a)); first == nil {
				first = keys
			} else if !reflect.DeepEqual(first, keys) {
				t.Errorf("%s: fields %v, want %v", what, keys, first)
			}
			if f := form(a["kdf"]); !reflect.DeepEqual(f, form(ask("real", identity.Password)["kdf"])) || a["kdf"].(map[string]any)["memory_kib"] != int64(identity.DefaultKDF().Memory) {
				t.Errorf("%s: %v", what, a["kdf"])
			}
		}
	}
	// What is made up for certificates looks like both algorithms' output.
	shapes := map[string]int{}
	for i := range 60 {
		c := ask(fmt.Sprintf("nobody-%d", i), identity.Certificate)["certificate"].(map[string]any)
		raw := m.bytes(c, "sealed")
		shapes[fmt.Sprint(c["algorithm"], len(raw))]++
		if c["algorithm"] == "ecdh-p256" && !onP256(raw[:65]) {
			t.Errorf("nobody-%d: the encapsulated key is not on the curve", i)
		}
	}
	if shapes["ecdh-p256113"] == 0 || shapes["rsa-oaep-sha256256"] == 0 || shapes["rsa-oaep-sha256384"] == 0 || shapes["rsa-oaep-sha256512"] == 0 || len(shapes) != 4 {
		t.Errorf("made-up certificates: %v", shapes)
	}
	if fmt.Sprint(form(ask("cert", identity.Certificate)["certificate"])) != fmt.Sprint(map[string]any{"algorithm": 9, "sealed": len(encode64(sealed))}) {
		t.Error("the real certificate has another form")
	}
	// OPAQUE ends in the same words for all.
	said := map[string]bool{}
	for _, name := range []string{"real", "nobody"} {
		b := m.begin(ask(name, identity.Password), identity.NewSeed())
		if b.start != http.StatusOK || b.wrong == nil {
			t.Errorf("%s: login/start %d, at the client %v", name, b.start, b.wrong)
		}
		_, status, msg := b.finish(m)
		said[fmt.Sprint(status, msg)] = true
	}
	// The right secret under the wrong kind is no login either.
	b := m.begin(ask("real", identity.Device), real.loginSecret())
	_, status, msg := b.finish(m)
	said[fmt.Sprint(status, msg)] = true
	if len(said) != 1 {
		t.Errorf("refusals differ: %q", slices.Sorted(maps.Keys(said)))
	}
	if n := storage.writes() - writes; n != 0 {
		t.Errorf("%d writes by people who are not logged in", n)
	}
}

func onP256(point []byte) bool {
	_, err := ecdh.P256().NewPublicKey(point)
	return err == nil
}

// countingStorage counts what is written.
type countingStorage struct {
	logical.Storage
	n atomic.Int64
}

func (s *countingStorage) Put(ctx context.Context, e *logical.StorageEntry) error {
	s.n.Add(1)
	return s.Storage.Put(ctx, e)
}

func (s *countingStorage) Delete(ctx context.Context, key string) error {
	s.n.Add(1)
	return s.Storage.Delete(ctx, key)
}

func (s *countingStorage) writes() int { return int(s.n.Load()) }

// TestFakesAreOfTheMount: another mount makes up something else, and this one
// remembers over a restart.
func TestFakesAreOfTheMount(t *testing.T) {
	ask := func(m *mount) any {
		return m.must(logical.UpdateOperation, "login/challenge", map[string]any{"authenticator": "nobody", "kind": "certificate"})["login_id"]
	}
	m, _, _ := loginMount(t)
	first := ask(m)
	other, _, _ := loginMount(t)
	if ask(other) == first {
		t.Error("two mounts make up the same")
	}
	again := open(t, m.storage, m.fake)
	if ask(again) != first {
		t.Error("another answer after a restart")
	}
}

// TestLostLogin: a lost authenticator's sessions end at once, and only who knows its
// secret learns that it was lost.
func TestLostLogin(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	c := alice.login()
	waiting := m.begin(alice.challenge(), alice.loginSecret())
	m.must(logical.UpdateOperation, "authenticators/alice/lost", map[string]any{"reason": "stolen"})
	c.over(t)
	if _, status, _ := waiting.finish(m); status != http.StatusForbidden {
		t.Errorf("a login that was under way is finished: %d", status)
	}
	_, status, msg := m.begin(alice.challenge(), alice.loginSecret()).finish(m)
	if status != http.StatusConflict || !strings.Contains(msg, "reported lost") {
		t.Errorf("the right secret: %d %s", status, msg)
	}
	if _, status, msg := m.begin(alice.challenge(), identity.NewSeed()).finish(m); status != http.StatusForbidden || strings.Contains(msg, "lost") {
		t.Errorf("a wrong secret: %d %s", status, msg)
	}
	if n := len(m.b.sessions.live); n != 0 {
		t.Errorf("%d sessions are kept", n)
	}
	m.must(logical.UpdateOperation, "authenticators/alice/found", nil)
	alice.login()
}
