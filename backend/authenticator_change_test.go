package backend

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// changed registers another secret through a session and returns what is written
// for it; the member logs in with the new one from then on.
func (p *member) changed(c *client, info string, change func(*identity.Authenticator)) map[string]any {
	p.m.t.Helper()
	p.info = info
	next := *p.a
	reg, request, err := identity.StartRegistration(p.loginSecret(), p.a.ID, p.a.KDF)
	p.m.ok(err)
	out := c.does(identity.WriteOperation, "authenticators/"+p.a.Name+"/register", map[string]any{"id": p.a.ID.String(), "request": encode64(request), "kind": string(p.kind)})
	registration, export, _, err := reg.Finish(p.m.bytes(out, "response"))
	p.m.ok(err)
	kek, err := identity.AuthenticatorKEK(export, p.a.ID)
	p.m.ok(err)
	next.Wrapped, err = identity.Wrap(kek, identity.AuthenticatorSeedContext(p.a.ID), p.keys.Seed())
	p.m.ok(err)
	keys := p.keys
	if change != nil {
		change(&next)
		if !next.Keys.Equal(keys.Public()) {
			keys, err = identity.NewKeys(identity.NewSeed())
			p.m.ok(err)
			next.Keys = keys.Public()
		}
	}
	signed, err := identity.SignAuthenticator(&next, keys)
	p.m.ok(err)
	return map[string]any{"authenticator": encode64(signed.Authenticator), "signature": encode64(signed.Signature), "registration": encode64(registration)}
}

// TestChangeSecret: in its own session an authenticator gets another secret; what it
// opens stays, what was begun with the old one ends.
func TestChangeSecret(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	alice.founds("home")
	c, other := alice.login(), alice.login()
	c.does(identity.WriteOperation, "authenticators/alice/devices", map[string]any{"identity": "home", "label": "laptop", "device": identity.NewID().String()})
	began := m.begin(alice.challenge(), alice.loginSecret()) // under way while the secret is changed
	m.ok(began.wrong)

	alice.changed(c, "battery staple", nil)
	alice.info = "correct horse"
	alice.login() // nothing is stored by registering

	body := alice.changed(c, "battery staple", func(a *identity.Authenticator) { a.PersonalInformation = "Street?" })
	c.does(identity.WriteOperation, "authenticators/alice", body)
	other.over(t)
	if _, status, _ := began.finish(m); status != http.StatusForbidden {
		t.Errorf("a login with the old secret is finished after the change: %d", status)
	}
	// It goes on itself, and repeating the write changes nothing.
	if out := c.does(identity.ReadOperation, "authenticators/alice", nil); out["personal_information"] != "Street?" {
		t.Errorf("the question is %v", out["personal_information"])
	}
	out := c.does(identity.WriteOperation, "authenticators/alice", body)
	if devices := out["devices"].([]any); len(devices) != 1 {
		t.Errorf("the devices are gone: %v", devices)
	}
	alice.login().does(identity.ReadOperation, "identities/home", nil)
	alice.info = "correct horse"
	if b := m.begin(alice.challenge(), alice.loginSecret()); b.wrong == nil {
		t.Error("the old secret logs in")
	}
	alice.info = "battery staple"
	alice.login()
}

// TestChangeSecretRules: who may not, and what may not be changed.
func TestChangeSecretRules(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	bob := m.enrol("bob", identity.Password, "battery staple", "", nil)
	c, d := alice.login(), bob.login()
	const token, not = "no Vault token changes it", "this session may not do that"
	request := func(p *member) map[string]any {
		_, request, err := identity.StartRegistration(p.loginSecret(), p.a.ID, p.a.KDF)
		m.ok(err)
		return map[string]any{"id": p.a.ID.String(), "request": encode64(request)}
	}
	good := alice.changed(c, "another one", nil)
	alice.info = "correct horse"
	with := func(base map[string]any, field, value string) map[string]any {
		out := maps.Clone(base)
		out[field] = value
		return out
	}
	write := identity.WriteOperation
	// A token neither registers for it nor stores it.
	m.fails(logical.UpdateOperation, "authenticators/alice/register", request(alice), http.StatusForbidden, token)
	m.fails(logical.UpdateOperation, "authenticators/alice", good, http.StatusForbidden, token)
	m.fails(logical.UpdateOperation, "authenticators/alice/register", request(bob), http.StatusConflict, "choose another name")
	// Nor does another's session, and the own one nothing else.
	d.refused(write, "authenticators/alice/register", request(alice), http.StatusForbidden, not)
	d.refused(write, "authenticators/alice", good, http.StatusForbidden, not)
	d.refused(write, "authenticators/nobody/register", request(alice), http.StatusForbidden, not)
	c.refused(write, "authenticators/alice/register", request(bob), http.StatusBadRequest, "its own authenticator")
	c.refused(write, "authenticators/alice/register", with(request(alice), "kind", "key-file"), http.StatusBadRequest, "its own authenticator")
	c.refused(write, "authenticators/alice", with(good, "phone", "+41441234567"), http.StatusBadRequest, "stays what it is")
	c.refused(write, "authenticators/alice", with(good, "signature", encode64(make([]byte, 64))), http.StatusBadRequest, "nothing was written")
	c.refused(write, "authenticators/alice", with(good, "registration", encode64(make([]byte, 192))), http.StatusBadRequest, "registration")
	for what, change := range map[string]func(*identity.Authenticator){
		"another ID":          func(a *identity.Authenticator) { a.ID = identity.NewID() },
		"another kind":        func(a *identity.Authenticator) { a.Method = identity.KeyFile },
		"another keys":        func(a *identity.Authenticator) { a.Keys = bob.a.Keys },
		"creation":            func(a *identity.Authenticator) { a.Created = a.Created.AddDate(0, 0, 1) },
		"nothing was written": func(a *identity.Authenticator) { a.Name = "bob" },
	} {
		c.refused(write, "authenticators/alice", alice.changed(c, "another one", change), http.StatusBadRequest, what)
	}
	alice.info = "correct horse"
	alice.login()

	// A session of a secret that was changed by another server, whose own sessions are
	// not known here.
	e := alice.login()
	e.does(write, "authenticators/alice", alice.changed(e, "another one", nil))
	c.over(t)
	r, err := m.b.store.authenticator(t.Context(), "alice")
	m.ok(err)
	r.Registration = registration()
	m.ok(m.b.store.put(t.Context(), prefixAuthentic+"alice", r))
	e.over(t)
}

// TestChangeSecretOfAPhone: the server's part stays, and so does the number.
func TestChangeSecretOfAPhone(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Phone, "8261", "+41441234567", func(a *identity.Authenticator) { a.PIN = true })
	before, err := m.b.store.authenticator(t.Context(), "alice")
	m.ok(err)
	// The part was released: no code is sent here.
	challenge, err := m.b.tickets.seal(&ticket{Kind: identity.Phone, Name: "alice", ID: alice.a.ID, Expires: m.b.cfg.now().Add(challengeTTL)})
	m.ok(err)
	c := alice.loginWith(map[string]any{"login_id": alice.a.ID.String(), "challenge": challenge})
	c.refused(identity.WriteOperation, "authenticators/alice", alice.changed(c, "9371", func(a *identity.Authenticator) { a.PIN = false }), http.StatusBadRequest, "PIN")
	c.does(identity.WriteOperation, "authenticators/alice", alice.changed(c, "9371", nil))
	after, err := m.b.store.authenticator(t.Context(), "alice")
	m.ok(err)
	if encode64(after.ServerPart) != encode64(before.ServerPart) || after.Phone != before.Phone || encode64(after.Registration) == encode64(before.Registration) {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// cutStorage fails writes of authenticators: before they are done, or after.
type cutStorage struct {
	logical.Storage
	before, after atomic.Bool
	puts          atomic.Int64
}

func (s *cutStorage) Put(ctx context.Context, e *logical.StorageEntry) error {
	if !strings.HasPrefix(e.Key, prefixAuthentic) {
		return s.Storage.Put(ctx, e)
	}
	s.puts.Add(1)
	if s.before.Load() {
		return errAnswers
	}
	if err := s.Storage.Put(ctx, e); err != nil || !s.after.Load() {
		return err
	}
	return errAnswers
}

// TestChangeSecretCut: a write that fails leaves the old secret or the new one, whole,
// and no session of the other.
func TestChangeSecretCut(t *testing.T) {
	for _, late := range []bool{false, true} {
		storage := &cutStorage{Storage: &logical.InmemStorage{}}
		m := openAt(t, storage, newFake(t), newSteadyClock().now)
		m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
		alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
		c, other := alice.login(), alice.login()
		body := alice.changed(c, "battery staple", nil)
		storage.puts.Store(0)
		storage.before.Store(!late)
		storage.after.Store(late)
		if a, status := c.call(identity.WriteOperation, "authenticators/alice", body); status < 500 {
			t.Errorf("a write that failed is answered by %d %v", status, a)
		}
		storage.before.Store(false)
		storage.after.Store(false)
		if n := storage.puts.Load(); n != 1 {
			t.Errorf("a change is %d writes", n)
		}
		other.over(t)
		if late {
			c.over(t)
			alice.login()
			continue
		}
		alice.info = "correct horse"
		alice.login()
		c.does(identity.ReadOperation, "authenticators/alice", nil)
	}
}
