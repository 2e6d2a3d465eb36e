package backend

import (
	"encoding/base64"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// person is an authenticator with its keys, as its client has them.
type person struct {
	m      *mount
	a      *identity.Authenticator
	keys   *identity.Keys
	signed *identity.SignedAuthenticator
}

// registration is one that OPAQUE made: its form is checked, and what it is for is
// tried with real nodes end to end. One is enough for all, since it costs 64 MiB
// and much of a second.
var registration = sync.OnceValue(func() []byte { // read only
	server := identity.NewServerKeys()
	id := identity.NewID()
	r, request, err := identity.StartRegistration(identity.NewSeed(), id, identity.DefaultKDF())
	if err != nil {
		panic(err)
	}
	response, err := server.Register(id, request)
	if err != nil {
		panic(err)
	}
	out, _, _, err := r.Finish(response)
	if err != nil {
		panic(err)
	}
	return out
})

func text64(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }

// newPerson makes an authenticator that is not stored.
func newPerson(m *mount, name string, change ...func(*identity.Authenticator)) *person {
	m.t.Helper()
	keys, err := identity.NewKeys(identity.NewSeed())
	if err != nil {
		m.t.Fatal(err)
	}
	id := identity.NewID()
	wrapped, err := identity.Wrap(identity.NewSeed(), identity.AuthenticatorSeedContext(id), keys.Seed())
	if err != nil {
		m.t.Fatal(err)
	}
	a := &identity.Authenticator{
		Format: 1, ID: id, Name: name, Method: identity.Password, Keys: keys.Public(), KDF: identity.DefaultKDF(),
		Created: time.Now().UTC().Truncate(time.Second), Wrapped: wrapped,
	}
	for _, f := range change {
		f(a)
	}
	signed, err := identity.SignAuthenticator(a, keys)
	if err != nil {
		m.t.Fatal(err)
	}
	return &person{m, a, keys, signed}
}

// body is what the client writes to authenticators/:name.
func (p *person) body() map[string]any {
	out := map[string]any{
		"authenticator": text64(p.signed.Authenticator), "signature": text64(p.signed.Signature), "registration": text64(registration()),
	}
	if p.a.Method.HasServerPart() {
		wrapped, _, err := p.m.b.makeServerPart(p.m.t.Context(), p.a.ID, p.a.Keys.Seal)
		if err != nil {
			p.m.t.Fatal(err)
		}
		out["server_part"] = text64(wrapped)
	}
	if p.a.Method == identity.Phone {
		out["phone"] = "+41441234567"
	}
	return out
}

func (p *person) path() string { return "authenticators/" + p.a.Name }

func (p *person) store() *person {
	p.m.t.Helper()
	p.m.update(p.path(), p.body())
	return p
}

// withPhone makes it server-trusting.
func withPhone(a *identity.Authenticator) { a.Method = identity.Phone }

func manifestBody(s *identity.SignedManifest) map[string]any {
	return map[string]any{"manifest": text64(s.Manifest), "signature": text64(s.Signature)}
}

func assetBody(s *identity.SignedAsset) map[string]any {
	return map[string]any{"asset": text64(s.Asset), "signature": text64(s.Signature)}
}

// creates makes an identity of these roles beside the owner's and stores it.
func (p *person) creates(name string, roles ...string) *identity.Opened {
	p.m.t.Helper()
	signed, o, err := identity.Create(identity.NewIdentity{Name: name, Kind: identity.Person, Roles: roles, Authenticator: p.a, Keys: p.keys, Time: time.Now()})
	if err != nil {
		p.m.t.Fatal(err)
	}
	p.m.update("identities/"+name, manifestBody(signed))
	return o
}

// makes is the next manifest, not stored.
func (p *person) makes(o *identity.Opened, changes ...identity.Change) *identity.SignedManifest {
	p.m.t.Helper()
	signed, err := o.Change(time.Now(), changes...)
	if err != nil {
		p.m.t.Fatal(err)
	}
	return signed
}

// opens opens a manifest.
func (p *person) opens(s *identity.SignedManifest) *identity.Opened {
	p.m.t.Helper()
	o, _, err := identity.OpenIdentity(s, identity.Pin{}, p.a.ID, p.keys)
	if err != nil {
		p.m.t.Fatal(err)
	}
	return o
}

// changes stores the next manifest and opens it.
func (p *person) changes(o *identity.Opened, changes ...identity.Change) *identity.Opened {
	p.m.t.Helper()
	signed := p.makes(o, changes...)
	p.m.update("identities/"+o.Manifest.Name, manifestBody(signed))
	return p.opens(signed)
}

// secretOf makes an asset with one value for these roles, not stored.
func secretOf(t testing.TB, o *identity.Opened, name, value string, roles ...string) *identity.SignedAsset {
	t.Helper()
	return writeAsset(t, o, o.NewAsset(name, identity.SecretAsset), func(a *identity.Asset) error {
		return sealInto(o, a, "value", nil, []byte(value), roles)
	})
}

func writeAsset(t testing.TB, o *identity.Opened, a *identity.Asset, change func(*identity.Asset) error) *identity.SignedAsset {
	t.Helper()
	signed, err := o.WriteAsset(a, time.Now(), change)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func sealInto(o *identity.Opened, a *identity.Asset, key string, public, value []byte, roles []string) error {
	k, err := identity.SealAssetKey(o.Manifest, a, key, public, secret.Copy(value), roles)
	if err == nil {
		a.Put(*k)
	}
	return err
}

// custodyOf makes the asset of an account, not stored.
func custodyOf(t testing.TB, o *identity.Opened, name string, roles ...string) *identity.SignedAsset {
	t.Helper()
	public, private, err := identity.NewCustodyKey()
	if err != nil {
		t.Fatal(err)
	}
	return writeAsset(t, o, o.NewAsset(name, identity.AccountAsset), func(a *identity.Asset) error {
		return sealInto(o, a, identity.CustodyKey, public, private.Expose(), roles)
	})
}

func (m *mount) puts(owner, name string, s *identity.SignedAsset) map[string]any {
	m.t.Helper()
	return m.update("identities/"+owner+"/assets/"+name, assetBody(s))
}

func (m *mount) read1(path string) map[string]any {
	m.t.Helper()
	return m.must(logical.ReadOperation, path, nil)
}

func verified(t testing.TB, o *identity.Opened, s *identity.SignedAsset) *identity.Asset {
	t.Helper()
	a, err := o.OpenAsset(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// stored reads an asset as clients do.
func (m *mount) stored(o *identity.Opened, name string) *identity.Asset {
	m.t.Helper()
	data := m.read1("identities/" + o.Manifest.Name + "/assets/" + name)
	raw, err := base64.StdEncoding.DecodeString(data["asset"].(string))
	if err != nil {
		m.t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(data["signature"].(string))
	if err != nil {
		m.t.Fatal(err)
	}
	return verified(m.t, o, &identity.SignedAsset{Asset: raw, Signature: sig})
}

// hasCustody ties an account to an asset, as the creation of such an account does.
func (m *mount) hasCustody(account, owner string, a *identity.Asset, key string) {
	m.t.Helper()
	r := m.record(account)
	r.Custody = &custodyRecord{Identity: a.Identity.String(), Asset: a.ID.String(), PublicKey: a.Key(key).Public}
	defer m.b.lockIdentity(owner)()
	if err := m.b.store.putAccount(m.t.Context(), account, r); err != nil {
		m.t.Fatal(err)
	}
}
