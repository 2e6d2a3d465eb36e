package backend

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

func TestAuthenticators(t *testing.T) {
	m := enrolled(t)
	alice := newPerson(m, "alice-password", func(a *identity.Authenticator) { a.PersonalInformation = "First pet?" }).store()
	phone := newPerson(m, "alice-phone", withPhone).store()
	data := m.read1("authenticators/alice-password")
	if data["kind"] != "password" || data["id"] != alice.a.ID.String() || data["state"] != "active" || data["server_trusting"] != false || data["personal_information"] != "First pet?" || data["locked_until"] != "" {
		t.Errorf("a password: %v", data)
	}
	public := data["public"].(map[string]any)
	if public["seal"] != text64(alice.a.Keys.Seal) || public["sign"] != text64(alice.a.Keys.Sign) {
		t.Errorf("public keys: %v", public)
	}
	if data := m.read1("authenticators/alice-phone"); data["server_trusting"] != true || data["kind"] != "phone" {
		t.Errorf("a phone: %v", data)
	}
	if list := m.must(logical.ListOperation, "authenticators", nil)["keys"]; !reflect.DeepEqual(list, []string{"alice-password", "alice-phone"}) {
		t.Errorf("authenticators: %v", list)
	}
	// Nothing is shown that only the server or the session needs.
	for _, p := range []*person{alice, phone} {
		raw, err := json.Marshal(m.read1(p.path()))
		if err != nil {
			t.Fatal(err)
		}
		for _, hidden := range []string{"+41441234567", text64(registration()), text64(p.a.Wrapped), text64(p.signed.Authenticator)} {
			if strings.Contains(string(raw), hidden) {
				t.Errorf("%s shows %s", p.a.Name, hidden)
			}
		}
		if strings.Contains(m.logs.String(), "+41441234567") {
			t.Error("the log has the telephone number")
		}
	}
	r, err := m.b.store.authenticator(t.Context(), "alice-phone")
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := json.Marshal(m.read1(phone.path())); err != nil || strings.Contains(string(raw), text64(r.ServerPart)) {
		t.Errorf("the server part is shown: %v", err)
	}
	m.warns(logical.UpdateOperation, alice.path(), alice.body(), alreadyStored)
	m.fails(logical.UpdateOperation, alice.path(), newPerson(m, "alice-password").body(), http.StatusConflict, "none is changed")
	m.must(logical.DeleteOperation, "authenticators/alice-phone", nil)
	m.fails(logical.ReadOperation, "authenticators/alice-phone", nil, http.StatusNotFound, "there is no authenticator")
	m.fails(logical.DeleteOperation, "authenticators/alice-phone", nil, http.StatusNotFound, "there is no authenticator")
}

// TestAuthenticatorRules: what must not be stored is refused.
func TestAuthenticatorRules(t *testing.T) {
	m := enrolled(t)
	good := newPerson(m, "alice").body()
	with := func(field string, value any) map[string]any {
		out := map[string]any{}
		for k, v := range good {
			out[k] = v
		}
		if out[field] = value; value == nil {
			delete(out, field)
		}
		return out
	}
	path := "authenticators/alice"
	for _, field := range []string{"authenticator", "signature", "registration"} {
		m.fails(logical.UpdateOperation, path, with(field, nil), http.StatusBadRequest, field+" is missing")
		m.fails(logical.UpdateOperation, path, with(field, "not base64!"), http.StatusBadRequest, "in base64")
		m.fails(logical.UpdateOperation, path, with(field, text64(make([]byte, 100<<10))), http.StatusBadRequest, "more than")
	}
	m.fails(logical.UpdateOperation, path, with("signature", text64(make([]byte, 64))), http.StatusBadRequest, "signature does not verify")
	m.fails(logical.UpdateOperation, path, with("registration", text64(make([]byte, len(registration())))), http.StatusBadRequest, "the registration is refused")
	m.fails(logical.UpdateOperation, path, with("phone", "+41441234567"), http.StatusBadRequest, "have a phone")
	m.fails(logical.UpdateOperation, path, with("server_part", "AAAA"), http.StatusBadRequest, "have a server_part")
	// The part of another authenticator.
	one, two := newPerson(m, "phone", withPhone), newPerson(m, "phone", withPhone)
	mixed := one.body()
	mixed["server_part"] = two.body()["server_part"]
	m.fails(logical.UpdateOperation, "authenticators/phone", mixed, http.StatusBadRequest, "does not belong to this ID")
	m.fails(logical.UpdateOperation, path, with("pasword", "hunter2"), http.StatusBadRequest, "unknown field")
	m.fails(logical.UpdateOperation, "authenticators/bob", good, http.StatusBadRequest, `is of authenticator "alice"`)
	m.fails(logical.UpdateOperation, "authenticators/Alice", good, http.StatusBadRequest, "cannot be the name")
	// Weak parameters of the password hash, which the client's own check would refuse.
	weak := newPerson(m, "alice")
	raw := strings.Replace(string(weak.signed.Authenticator), `"memory_kib":65536`, `"memory_kib":1024`, 1)
	m.fails(logical.UpdateOperation, path, map[string]any{
		"authenticator": text64([]byte(raw)), "signature": text64(weak.keys.Sign(identity.AuthenticatorContext(weak.a.ID), []byte(raw))), "registration": good["registration"],
	}, http.StatusBadRequest, "weaker than allowed")
	for _, number := range []string{"", "41441234567", "+0441234567", "+41 44 123", "+4144123456789012", "+41441234567\n"} {
		body := newPerson(m, "phone", withPhone).body()
		body["phone"] = number
		m.fails(logical.UpdateOperation, "authenticators/phone", body, http.StatusBadRequest, "have a phone")
	}
	// A third party that nobody configured, and one whose issuer is another.
	oidc := newPerson(m, "third", func(a *identity.Authenticator) {
		a.Method = identity.OIDC
		a.Parameters.OIDC = &identity.OIDCParameters{Provider: "corp", Issuer: "https://login.example", Subject: "4711"}
	})
	m.fails(logical.UpdateOperation, "authenticators/third", oidc.body(), http.StatusBadRequest, "there is no third party")
	conf := &identitiesConfigRecord{Version: recordVersion, SessionTTL: 900, OIDC: map[string]oidcProviderRecord{"corp": {Issuer: "https://other.example", ClientID: "c"}}}
	put := func() {
		t.Helper()
		if err := m.b.store.put(t.Context(), keyIdentities, conf); err != nil {
			t.Fatal(err)
		}
	}
	put()
	m.fails(logical.UpdateOperation, "authenticators/third", oidc.body(), http.StatusBadRequest, "there is no third party")
	conf.OIDC["corp"] = oidcProviderRecord{Issuer: "https://login.example", ClientID: "c"}
	put()
	oidc.store()
	if d := m.read1("authenticators/third"); d["provider"] != "corp" {
		t.Errorf("an account at a third party: %v", d)
	}
	// The ID is what it logs in by: there is one of each.
	first := newPerson(m, "first").store()
	second := *first.a
	second.Name = "second"
	signed, err := identity.SignAuthenticator(&second, first.keys)
	if err != nil {
		t.Fatal(err)
	}
	m.fails(logical.UpdateOperation, "authenticators/second", (&person{m, &second, first.keys, signed}).body(), http.StatusConflict, "draw a new one")
}

// TestLost: a lost authenticator's sessions end at once, also when the report is
// repeated, and everybody sees it.
func TestLost(t *testing.T) {
	m := enrolled(t)
	alice := newPerson(m, "alice-password").store()
	alice.creates("alice")
	var ended []identity.ID
	m.b.hierarchy.ended = func(id identity.ID) { ended = append(ended, id) }
	first := m.update("authenticators/alice-password/lost", map[string]any{"reason": "stolen"})
	if first["state"] != "lost" || first["lost_reason"] != "stolen" || first["lost_time"] == "" {
		t.Errorf("lost: %v", first)
	}
	if again := m.update("authenticators/alice-password/lost", nil); again["lost_time"] != first["lost_time"] || again["lost_reason"] != "stolen" {
		t.Errorf("lost again: %v", again)
	}
	if again := m.update("authenticators/alice-password/lost", map[string]any{"reason": "seen on a market"}); again["lost_time"] != first["lost_time"] || again["lost_reason"] != "seen on a market" {
		t.Errorf("another reason: %v", again)
	}
	if len(ended) != 3 || ended[0] != alice.a.ID {
		t.Errorf("sessions were ended: %v", ended)
	}
	if g := m.read1("identities/alice")["grants"].([]map[string]any); g[0]["state"] != "lost" {
		t.Errorf("the grant: %v", g)
	}
	m.fails(logical.UpdateOperation, "authenticators/alice-password/lost", map[string]any{"reason": "a\nb"}, http.StatusBadRequest, "printable")
	m.fails(logical.UpdateOperation, "authenticators/nobody/lost", nil, http.StatusNotFound, "there is no authenticator")
	if back := m.update("authenticators/alice-password/found", nil); back["state"] != "active" || back["lost_time"] != "" {
		t.Errorf("found: %v", back)
	}
	m.warns(logical.UpdateOperation, "authenticators/alice-password/found", nil, "was not reported lost")
	if len(ended) != 3 {
		t.Errorf("sessions were ended by a find: %v", ended)
	}
}

func TestUnlock(t *testing.T) {
	m := enrolled(t)
	newPerson(m, "alice").store()
	var told []string
	m.b.hierarchy.unlocked = func(name string) { told = append(told, name) }
	until := time.Now().Add(time.Hour).UTC()
	lock := func() {
		t.Helper()
		if err := m.b.store.put(t.Context(), prefixAuthLocks+"alice", &authenticatorLockRecord{Version: recordVersion, Failures: 10, Until: until, Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	lock()
	if d := m.read1("authenticators/alice"); d["locked_until"] != rfc3339(until) {
		t.Errorf("locked until %v", d["locked_until"])
	}
	if d := m.update("authenticators/alice/unlock", nil); d["locked_until"] != "" || !reflect.DeepEqual(told, []string{"alice"}) {
		t.Errorf("unlocked: %v, told %v", d["locked_until"], told)
	}
	m.update("authenticators/alice/unlock", nil)
	m.fails(logical.UpdateOperation, "authenticators/nobody/unlock", nil, http.StatusNotFound, "there is no authenticator")
	// A deletion leaves nothing of it for the next one of the name.
	lock()
	m.must(logical.DeleteOperation, "authenticators/alice", nil)
	if entry, err := m.storage.Get(t.Context(), prefixAuthLocks+"alice"); err != nil || entry != nil {
		t.Errorf("the lock is left: %v, %v", entry, err)
	}
	lock()
	newPerson(m, "alice").store()
	if d := m.read1("authenticators/alice"); d["locked_until"] != "" {
		t.Errorf("a new one is locked until %v", d["locked_until"])
	}
}

func TestDevices(t *testing.T) {
	m := enrolled(t)
	alice, phone := newPerson(m, "alice-password").store(), newPerson(m, "phone", withPhone).store()
	o := alice.creates("alice", "everyday")
	o = alice.changes(o, identity.SetLevel{Level: identity.Level{Name: "small", Roles: []string{"everyday"}, ServerTrusting: true}}, identity.AddGrant{Authenticator: phone.a, Level: "small"})
	id := func(n int) string { return fmt.Sprintf("%032x", n) }
	path := "authenticators/alice-password/devices"
	body := func(n int, label string) map[string]any {
		return map[string]any{"identity": "alice", "label": label, "device": id(n)}
	}
	if d := m.update(path, body(1, "laptop")); d["state"] != "bound" || d["identity"] != "alice" || d["label"] != "laptop" || d["bound_time"] == "" || d["identity_state"] != "active" {
		t.Errorf("bound: %v", d)
	}
	if d := m.update(path, body(1, "old laptop")); d["label"] != "old laptop" {
		t.Errorf("bound again: %v", d)
	}
	for what, bad := range map[string]map[string]any{
		"device must be an ID": {"identity": "alice", "label": "x", "device": "laptop"},
		"label must be":        {"identity": "alice", "label": "", "device": id(2)},
		"label must":           {"identity": "alice", "label": "a\x07", "device": id(2)},
		"cannot be the name":   {"identity": "", "label": "x", "device": id(2)},
	} {
		m.fails(logical.UpdateOperation, path, bad, http.StatusBadRequest, what)
	}
	m.fails(logical.UpdateOperation, path, map[string]any{"identity": "nobody", "label": "x", "device": id(2)}, http.StatusConflict, "grants authenticator")
	m.fails(logical.UpdateOperation, "authenticators/phone/devices", body(2, "x"), http.StatusBadRequest, "bind no devices")
	m.fails(logical.ReadOperation, path+"/"+id(7), nil, http.StatusNotFound, "no device")
	m.fails(logical.ReadOperation, path+"/xyz", nil, http.StatusBadRequest, "device must be an ID")
	if l := m.must(logical.ListOperation, path, nil); !reflect.DeepEqual(l["keys"], []string{id(1)}) {
		t.Errorf("devices: %v", l)
	}
	state := func(n int, want string) {
		t.Helper()
		if d := m.read1(path + "/" + id(n)); d["state"] != want {
			t.Errorf("device %d is %v, want %s: %v", n, d["state"], want, d)
		}
	}
	// What ends a binding.
	m.update("authenticators/alice-password/lost", nil)
	state(1, "revoked")
	m.fails(logical.UpdateOperation, path, body(2, "x"), http.StatusConflict, "was reported lost")
	m.update("authenticators/alice-password/found", nil)
	state(1, "bound")
	m.update("identities/alice/freeze", nil)
	state(1, "bound")
	if d := m.read1(path + "/" + id(1)); d["identity_state"] != "frozen" {
		t.Errorf("of a frozen identity: %v", d)
	}
	m.fails(logical.UpdateOperation, path, body(2, "x"), http.StatusConflict, "is frozen")
	m.update("identities/alice/unfreeze", nil)
	bob := newPerson(m, "bob").store()
	o = alice.changes(o, identity.AddGrant{Authenticator: bob.a, Level: "full"})
	m.update("identities/alice", manifestBody(bob.makes(bob.opens(&m.record2(t, "alice").Signed), identity.RemoveGrant{Authenticator: alice.a.ID})))
	state(1, "revoked")
	_ = o
	m.fails(logical.UpdateOperation, path, body(1, "x"), http.StatusConflict, "grants authenticator")
	m.update("identities/alice", manifestBody(bob.makes(bob.opens(&m.record2(t, "alice").Signed), identity.AddGrant{Authenticator: alice.a, Level: "full"})))
	state(1, "bound")
	m.must(logical.DeleteOperation, path+"/"+id(1), nil)
	m.must(logical.DeleteOperation, path+"/"+id(1), nil)
	m.fails(logical.DeleteOperation, path+"/"+id(9), nil, http.StatusNotFound, "no device")
	state(1, "revoked")
	m.fails(logical.UpdateOperation, path, body(1, "x"), http.StatusConflict, "draw a new ID")
	// Bounds.
	for n := range maxDevices {
		m.update(path, body(100+n, "d"))
	}
	m.fails(logical.UpdateOperation, path, body(99, "x"), http.StatusConflict, "as many as can be")
	for n := range maxDevices {
		m.must(logical.DeleteOperation, path+"/"+id(100+n), nil)
	}
	r, err := m.b.store.authenticator(t.Context(), "alice-password")
	if err != nil || len(r.Devices) != maxDeviceStones {
		t.Errorf("%d devices are remembered, %v", len(r.Devices), err)
	}
	m.fails(logical.ReadOperation, path+"/"+id(1), nil, http.StatusNotFound, "no device") // the oldest
	state(100+maxDevices-1, "revoked")
}

func TestIdentityFreeze(t *testing.T) {
	m := enrolled(t)
	alice := newPerson(m, "alice-password").store()
	o := alice.creates("alice")
	mail := secretOf(t, o, "mail", "x", "owner")
	m.puts("alice", "mail", mail)
	first := m.update("identities/alice/freeze", map[string]any{"reason": "INC-42"})
	if first["state"] != "frozen" || first["frozen_reason"] != "INC-42" || first["frozen_time"] == "" {
		t.Errorf("frozen: %v", first)
	}
	if again := m.update("identities/alice/freeze", nil); again["frozen_time"] != first["frozen_time"] || again["frozen_reason"] != "INC-42" {
		t.Errorf("frozen again: %v", again)
	}
	why := "has been frozen since " + first["frozen_time"].(string) + " (INC-42)"
	m.fails(logical.UpdateOperation, "identities/alice", manifestBody(alice.makes(o, identity.AddRole{Name: "r"})), http.StatusConflict, why)
	m.fails(logical.UpdateOperation, "identities/alice/assets/mail", assetBody(writeAsset(t, o, verified(t, o, mail), nil)), http.StatusConflict, why)
	m.fails(logical.DeleteOperation, "identities/alice/assets/mail", nil, http.StatusConflict, why)
	m.fails(logical.DeleteOperation, "identities/alice", nil, http.StatusConflict, why)
	m.read1("identities/alice/assets/mail")
	if in := m.read1("authenticators/alice-password")["identities"].([]map[string]any); in[0]["state"] != "frozen" {
		t.Errorf("granted in: %v", in)
	}
	if back := m.update("identities/alice/unfreeze", nil); back["state"] != "active" || back["frozen_time"] != "" {
		t.Errorf("unfrozen: %v", back)
	}
	m.warns(logical.UpdateOperation, "identities/alice/unfreeze", nil, "was not frozen")
	m.fails(logical.UpdateOperation, "identities/nobody/freeze", nil, http.StatusNotFound, "there is no identity")
	alice.changes(o, identity.AddRole{Name: "r"})
}

// TestAuthenticatorBeforeKeys: a record from elsewhere must not make a mount that has
// no keys look like one that has lost them.
func TestAuthenticatorBeforeKeys(t *testing.T) {
	m := configured(t)
	alice := newPerson(m, "alice")
	m.fails(logical.UpdateOperation, "authenticators/alice", alice.body(), http.StatusConflict, "register first")
	if _, err := m.b.identityServerKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	alice.store()
}

// TestRegister: a registration that the paths answered logs in, and an ID that an
// authenticator has is not answered for.
func TestRegister(t *testing.T) {
	m := enrolled(t)
	alice := newPerson(m, "alice")
	secret := passwordSecret(3)
	r, request, err := identity.StartRegistration(secret, alice.a.ID, alice.a.KDF)
	if err != nil {
		t.Fatal(err)
	}
	ask := map[string]any{"id": alice.a.ID.String(), "request": text64(request)}
	with := func(field string, value any) map[string]any {
		out := map[string]any{}
		for k, v := range ask {
			out[k] = v
		}
		out[field] = value
		return out
	}
	path := "authenticators/alice/register"
	m.fails(logical.UpdateOperation, path, nil, http.StatusBadRequest, "id must be")
	m.fails(logical.UpdateOperation, path, map[string]any{"id": alice.a.ID.String()}, http.StatusBadRequest, "request is missing")
	m.fails(logical.UpdateOperation, path, with("id", strings.Repeat("0", 32)), http.StatusBadRequest, "id must be")
	m.fails(logical.UpdateOperation, path, with("kind", "fingerprint"), http.StatusBadRequest, "is not one that authenticators have")
	m.fails(logical.UpdateOperation, path, with("client_public", text64(make([]byte, 32))), http.StatusBadRequest, "is for authenticators of kind oidc and phone")
	m.fails(logical.UpdateOperation, path, with("request", text64(request[:31])), http.StatusBadRequest, "malformed")
	m.fails(logical.UpdateOperation, path, with("request", text64(make([]byte, 32))), http.StatusBadRequest, "malformed")
	m.fails(logical.UpdateOperation, "authenticators/Alice/register", ask, http.StatusBadRequest, "cannot be the name")
	data := m.update(path, ask)
	if data["server_part"] != nil || data["sealed_part"] != nil {
		t.Errorf("a password has a server part: %v", data)
	}
	response, err := base64.StdEncoding.DecodeString(data["response"].(string))
	if err != nil {
		t.Fatal(err)
	}
	made, _, public, err := r.Finish(response)
	if err != nil || text64(public) != data["server_public_key"] {
		t.Fatal(err)
	}
	body := alice.body()
	body["registration"] = text64(made)
	m.update("authenticators/alice", body)
	stored, err := m.b.store.authenticator(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.logsIn(alice.a.ID, stored.Registration, 3); err != nil {
		t.Errorf("the registration does not log in: %v", err)
	}
	if err := m.logsIn(alice.a.ID, stored.Registration, 4); err == nil {
		t.Error("another secret logs in")
	}
	m.fails(logical.UpdateOperation, path, ask, http.StatusForbidden, "there is an authenticator")
	m.fails(logical.UpdateOperation, "authenticators/mallory/register", ask, http.StatusConflict, `authenticator "alice" has the ID`)
	// A server part first, then the registration that it goes into.
	phone := newPerson(m, "phone", withPhone)
	first := m.update("authenticators/phone/register", map[string]any{"id": phone.a.ID.String(), "kind": "phone", "client_public": text64(phone.a.Keys.Seal)})
	sealed, err := base64.StdEncoding.DecodeString(first["sealed_part"].(string))
	if err != nil || first["response"] != nil {
		t.Fatal(err, first)
	}
	if part, err := phone.keys.Open(identity.ServerPartContext(phone.a.ID), sealed); err != nil || part.Len() != 32 {
		t.Errorf("the server part does not open: %v", err)
	}
	body = phone.body()
	body["server_part"] = first["server_part"]
	m.update("authenticators/phone", body)
}
