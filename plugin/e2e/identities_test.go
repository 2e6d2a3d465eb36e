//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/plugin/e2e"
	"vault-plugin-secrets-mpc/secret"
)

// A client of identities, made with package identity and Vault's API alone.

// member is an authenticator with what its user knows.
type member struct {
	e        *engine
	a        *identity.Authenticator
	keys     *identity.Keys
	password *secret.Bytes
	part     *secret.Bytes // of the server
	export   *secret.Bytes
}

func unbase64(t testing.TB, v any) []byte {
	t.Helper()
	text, _ := v.(string)
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) == 0 {
		t.Fatalf("%q is no base64: %v", text, err)
	}
	return raw
}

// enrol registers an authenticator and stores it.
func enrol(t testing.TB, e *engine, name string, m identity.Method, password string, more map[string]any) *member {
	t.Helper()
	p, body := register(t, e, name, m, password, more)
	e.write(t, "authenticators/"+name, body)
	return p
}

// register makes an authenticator and what is written to store it.
func register(t testing.TB, e *engine, name string, m identity.Method, password string, more map[string]any) (*member, map[string]any) {
	t.Helper()
	p := &member{e: e, password: secret.Copy([]byte(password))}
	keys, err := identity.NewKeys(identity.NewSeed())
	if err != nil {
		t.Fatal(err)
	}
	p.keys = keys
	p.a = &identity.Authenticator{Format: 1, ID: identity.NewID(), Name: name, Method: m, Keys: keys.Public(), KDF: identity.DefaultKDF(), Created: time.Now().UTC().Truncate(time.Second)}
	path, body := "authenticators/"+name, map[string]any{}
	for k, v := range more {
		body[k] = v
	}
	if m.HasServerPart() {
		p.password = nil
		ephemeral, err := identity.NewKeys(identity.NewSeed())
		if err != nil {
			t.Fatal(err)
		}
		made := e.write(t, path+"/register", map[string]any{"id": p.a.ID.String(), "kind": string(m), "client_public": b64(ephemeral.Public().Seal)})
		if p.part, err = ephemeral.Open(identity.ServerPartContext(p.a.ID), unbase64(t, made["sealed_part"])); err != nil {
			t.Fatal(err)
		}
		body["server_part"] = made["server_part"]
	}
	login, err := identity.AuthenticationInformation{Information: p.password, ServerPart: p.part}.LoginSecret(p.a.ID, m)
	if err != nil {
		t.Fatal(err)
	}
	r, request, err := identity.StartRegistration(login, p.a.ID, p.a.KDF)
	if err != nil {
		t.Fatal(err)
	}
	answer := e.write(t, path+"/register", map[string]any{"id": p.a.ID.String(), "kind": string(m), "request": b64(request)})
	registration, export, public, err := r.Finish(unbase64(t, answer["response"]))
	if err != nil || !bytes.Equal(public, unbase64(t, answer["server_public_key"])) {
		t.Fatalf("registering %s: %v", name, err)
	}
	p.export = export
	kek, err := identity.AuthenticatorKEK(export, p.a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if p.a.Wrapped, err = identity.Wrap(kek, identity.AuthenticatorSeedContext(p.a.ID), keys.Seed()); err != nil {
		t.Fatal(err)
	}
	signed, err := identity.SignAuthenticator(p.a, keys)
	if err != nil {
		t.Fatal(err)
	}
	body["authenticator"], body["signature"], body["registration"] = b64(signed.Authenticator), b64(signed.Signature), b64(registration)
	return p, body
}

// opaqueRequest is a registration request of nobody.
func opaqueRequest(t testing.TB) []byte {
	t.Helper()
	_, request, err := identity.StartRegistration(identity.NewSeed(), identity.NewID(), identity.DefaultKDF())
	if err != nil {
		t.Fatal(err)
	}
	return request
}

func manifestBody(s *identity.SignedManifest) map[string]any {
	return map[string]any{"manifest": b64(s.Manifest), "signature": b64(s.Signature)}
}

func (e *engine) writeManifest(t testing.TB, name string, s *identity.SignedManifest) {
	t.Helper()
	e.write(t, "identities/"+name, manifestBody(s))
}

// newIdentity is a person's identity that is not stored.
func newIdentity(t testing.TB, p *member, name string, roles ...string) *identity.SignedManifest {
	t.Helper()
	signed, _, err := identity.Create(identity.NewIdentity{Name: name, Kind: identity.Person, Roles: roles, Authenticator: p.a, Keys: p.keys, Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// makes stores a new identity and opens it.
func (e *engine) makes(t testing.TB, p *member, name string, roles ...string) *identity.Opened {
	t.Helper()
	e.writeManifest(t, name, newIdentity(t, p, name, roles...))
	return p.open(t, name)
}

// open reads the identity and opens it.
func (p *member) open(t testing.TB, name string) *identity.Opened {
	t.Helper()
	d := p.e.read(t, "identities/"+name)
	o, _, err := identity.OpenIdentity(&identity.SignedManifest{Manifest: unbase64(t, d["manifest"]), Signature: unbase64(t, d["signature"])}, identity.Pin{}, p.a.ID, p.keys)
	if err != nil {
		t.Fatalf("%s opens %s: %v", p.a.Name, name, err)
	}
	return o
}

// change changes the identity and opens what it has become.
func (p *member) change(t testing.TB, name string, changes ...identity.Change) *identity.Opened {
	t.Helper()
	s, err := p.open(t, name).Change(time.Now(), changes...)
	if err != nil {
		t.Fatal(err)
	}
	p.e.writeManifest(t, name, s)
	return p.open(t, name)
}

func (e *engine) asset(t testing.TB, o *identity.Opened, name string) *identity.Asset {
	t.Helper()
	d := e.read(t, "identities/"+o.Manifest.Name+"/assets/"+name)
	a, err := o.OpenAssetNamed(name, &identity.SignedAsset{Asset: unbase64(t, d["asset"]), Signature: unbase64(t, d["signature"])})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// assetBody is the next generation of an asset with a key of this value.
func assetBody(t testing.TB, o *identity.Opened, a *identity.Asset, key string, public, value []byte, roles ...string) map[string]any {
	t.Helper()
	s, err := o.WriteAsset(a, time.Now(), func(n *identity.Asset) error {
		k, err := identity.SealAssetKey(o.Manifest, n, key, public, secret.Copy(value), roles)
		if err == nil {
			n.Put(*k)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"asset": b64(s.Asset), "signature": b64(s.Signature)}
}

// refuseDelete checks that a deletion is refused.
func (e *engine) refuseDelete(t testing.TB, path string, status int, texts ...string) {
	t.Helper()
	_, err := e.Client.Logical().Delete(e.path + "/" + path)
	checkRefusal(t, "delete "+path, err, status, texts...)
}

func (e *engine) remove(t testing.TB, path string) {
	t.Helper()
	if _, err := e.Client.Logical().Delete(e.path + "/" + path); err != nil {
		t.Fatalf("delete %s: %v", path, err)
	}
}

func (e *engine) gone(t testing.TB, path string) {
	t.Helper()
	var answer *api.ResponseError
	s, err := e.Client.Logical().Read(e.path + "/" + path)
	if s != nil || err != nil && !(errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound) {
		t.Errorf("%s is there: %v, %v", path, s, err)
	}
}

// TestIdentitiesOverTheAPI creates, changes, reads and deletes identities, assets,
// authenticators and devices on a real Vault with a real token, over a restart.
func TestIdentitiesOverTheAPI(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	e := enable(t, v, "mpc", 3)
	const password, mail, bank = "correct horse battery staple", "hunter2 of the mailbox", "PIN 4711 of the bank"
	alice := enrol(t, e, "alice-password", identity.Password, password, nil)
	key := enrol(t, e, "alice-key", identity.KeyFile, "0123456789abcdef0123456789abcdef", nil)
	phone := enrol(t, e, "alice-phone", identity.Phone, "", map[string]any{"phone": "+41441234567"})
	signed := newIdentity(t, alice, "alice", "everyday", "vault")
	e.writeManifest(t, "alice", signed)
	o := alice.change(t, "alice",
		identity.SetLevel{Level: identity.Level{Name: "small", Roles: []string{"everyday"}, ServerTrusting: true}},
		identity.AddGrant{Authenticator: key.a, Level: "full"}, identity.AddGrant{Authenticator: phone.a, Level: "small"})
	e.write(t, "identities/alice/assets/mail", assetBody(t, o, o.NewAsset("mail", identity.SecretAsset), "password", nil, []byte(mail), "everyday"))
	e.write(t, "identities/alice/assets/bank", assetBody(t, o, o.NewAsset("bank", identity.SecretAsset), "pin", nil, []byte(bank), "vault"))

	// What is told to whom.
	for _, p := range []*member{alice, key, phone} {
		po := p.open(t, "alice")
		if got, err := po.AssetValue(e.asset(t, po, "mail"), "password"); err != nil || string(got.Expose()) != mail {
			t.Errorf("%s opens the mail: %v", p.a.Name, err)
		}
		_, err := po.AssetValue(e.asset(t, po, "bank"), "pin")
		if opens := err == nil; opens != (p != phone) {
			t.Errorf("%s opens the bank: %v, %v", p.a.Name, opens, err)
		}
	}
	// The server has none of it.
	records := map[string][]byte{}
	for _, name := range v.RawList(t, "mpc") {
		records[name] = v.RawRead(t, "mpc", name)
	}
	hidden := map[string][]byte{
		"the password": []byte(password), "the mail": []byte(mail), "the bank": []byte(bank), "a seed": alice.keys.Seed().Expose(),
		"an export key": alice.export.Expose(), "a role": o.Roles["vault"].Seed().Expose(), "the server part": phone.part.Expose(),
	}
	for name, raw := range records {
		for what, s := range hidden {
			for _, form := range [][]byte{s, []byte(base64.StdEncoding.EncodeToString(s)), []byte(fmt.Sprintf("%x", s))} {
				if bytes.Contains(raw, form) {
					t.Errorf("%s holds %s", name, what)
				}
			}
		}
	}
	// With all records, and the phone's keys: no other way in.
	po := phone.open(t, "alice")
	for _, k := range e.asset(t, o, "bank").Keys {
		for _, s := range k.Sealed {
			for _, role := range []string{"everyday", "vault", "owner"} {
				c := identity.AssetKeyContext(o.Manifest.Identity, e.asset(t, o, "bank").ID, k.Name, k.Generation, role, s.Generation)
				for _, keys := range []*identity.Keys{phone.keys, po.Roles["everyday"]} {
					if _, err := keys.Open(c, s.Sealed); err == nil {
						t.Error("the phone opens the bank's key")
					}
				}
			}
		}
	}

	// Bad input.
	tampered := append([]byte{}, signed.Manifest...)
	tampered[len(tampered)/2] ^= 1
	e.refuse(t, "identities/alice", map[string]any{"manifest": b64(tampered), "signature": b64(signed.Signature)}, http.StatusBadRequest, "is refused")
	e.refuse(t, "identities/alice", manifestBody(signed), http.StatusConflict, "read it again")
	e.refuse(t, "authenticators/mallory/register", map[string]any{"id": alice.a.ID.String(), "request": b64(make([]byte, 32))}, http.StatusConflict, "has the ID")
	e.refuseDelete(t, "authenticators/alice-key", http.StatusConflict, "is granted in alice")
	e.gone(t, "identities/nobody")

	// Devices.
	device := strings.Repeat("ab", 16)
	e.write(t, "authenticators/alice-key/devices", map[string]any{"identity": "alice", "label": "laptop", "device": device})
	if d := e.read(t, "authenticators/alice-key/devices/"+device); d["state"] != "bound" {
		t.Errorf("the device: %v", d)
	}

	// Everything is there after the server was killed.
	v.Kill9(t)
	v.Restart(t)
	e.waitNodes(t, 3)
	o = alice.open(t, "alice")
	if got, err := o.AssetValue(e.asset(t, o, "bank"), "pin"); err != nil || string(got.Expose()) != bank {
		t.Errorf("after a restart: %v", err)
	}

	// Loss, freeze and reset.
	if d := e.write(t, "authenticators/alice-key/lost", map[string]any{"reason": "stolen"}); d["state"] != "lost" {
		t.Errorf("lost: %v", d)
	}
	if d := e.read(t, "authenticators/alice-key/devices/"+device); d["state"] != "revoked" {
		t.Errorf("the device of a lost authenticator: %v", d)
	}
	e.write(t, "identities/alice/freeze", map[string]any{"reason": "INC-42"})
	bankAsset := e.asset(t, o, "bank")
	e.refuse(t, "identities/alice/assets/bank", assetBody(t, o, bankAsset, "pin", nil, []byte(bank), "vault"), http.StatusConflict, "has been frozen", "INC-42")
	e.refuseDelete(t, "identities/alice", http.StatusConflict, "has been frozen")
	e.write(t, "identities/alice/unfreeze", nil)
	roles := []string{"everyday", "owner", "vault"}
	o = alice.change(t, "alice", identity.RemoveGrant{Authenticator: key.a.ID}, identity.RotateRoles{Roles: roles})
	if d := e.read(t, "identities/alice"); d["reset_pending"] != true {
		t.Errorf("the reset: %v", d["reset_pending"])
	}
	for _, name := range []string{"mail", "bank"} {
		s, err := o.Reseal(e.asset(t, o, name), time.Now(), nil)
		if err != nil {
			t.Fatal(err)
		}
		e.write(t, "identities/alice/assets/"+name, map[string]any{"asset": b64(s.Asset), "signature": b64(s.Signature)})
	}
	o = alice.change(t, "alice", identity.DropPast{Roles: roles})
	if got, err := o.AssetValue(e.asset(t, o, "mail"), "password"); err != nil || string(got.Expose()) != mail {
		t.Errorf("after the reset: %v", err)
	}
	d := e.read(t, "identities/alice")
	if _, _, err := identity.OpenIdentity(&identity.SignedManifest{Manifest: unbase64(t, d["manifest"]), Signature: unbase64(t, d["signature"])}, identity.Pin{}, key.a.ID, key.keys); err == nil {
		t.Error("the lost authenticator opens the identity")
	}

	// A second identity of other people, with alice in it.
	firm, _, err := identity.Create(identity.NewIdentity{Name: "firm", Kind: identity.Organization, Roles: []string{"payments"}, Authenticator: alice.a, Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	e.writeManifest(t, "firm", firm)
	e.write(t, "authenticators/alice-key/found", nil)
	in := e.read(t, "authenticators/alice-password")["identities"].([]any)
	if text, _ := json.Marshal(in); len(in) != 2 || !bytes.Contains(text, []byte("firm")) {
		t.Errorf("alice is granted in %s", text)
	}
	list, err := e.Client.Logical().List("mpc/identities")
	if err != nil || fmt.Sprint(list.Data["keys"]) != "[alice firm]" {
		t.Errorf("identities: %v, %v", list, err)
	}

	// And nothing is left.
	e.remove(t, "identities/alice/assets/mail")
	e.gone(t, "identities/alice/assets/mail")
	for _, path := range []string{"identities/alice", "identities/firm", "authenticators/alice-password", "authenticators/alice-key", "authenticators/alice-phone"} {
		e.remove(t, path)
		e.gone(t, path)
	}
	for _, name := range v.RawList(t, "mpc") {
		for _, prefix := range []string{"identities/", "assets/", "authenticators/", "authenticator-locks/"} {
			if strings.HasPrefix(name, prefix) {
				t.Errorf("%s is left in storage", name)
			}
		}
	}
}
