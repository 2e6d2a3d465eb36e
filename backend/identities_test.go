package backend

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// enrolled is a mount that has keys for identities.
func enrolled(t *testing.T) *mount {
	t.Helper()
	m := configured(t)
	if _, err := m.b.identityServerKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestIdentities walks through everything that is done with identities.
func TestIdentities(t *testing.T) {
	m := enrolled(t)
	alice, phone := newPerson(m, "alice-password").store(), newPerson(m, "alice-phone", withPhone).store()
	o := alice.creates("alice", "everyday")
	data := m.read1("identities/alice")
	if data["kind"] != "person" || data["generation"] != int64(1) || data["state"] != "active" || data["reset_pending"] != false || data["id"] != o.Manifest.Identity.String() {
		t.Errorf("a new identity: %v", data)
	}
	levels := data["levels"].(map[string]any)
	if full := levels["full"].(map[string]any); !reflect.DeepEqual(full["roles"], []string{"everyday", "owner"}) {
		t.Errorf("levels: %v", levels)
	}
	o = alice.changes(o, identity.SetLevel{Level: identity.Level{Name: "small", Roles: []string{"everyday"}, ServerTrusting: true}},
		identity.AddGrant{Authenticator: phone.a, Level: "small"})
	m.puts("alice", "mail", secretOf(t, o, "mail", "hunter2", "everyday"))
	if list := m.must(logical.ListOperation, "identities", nil)["keys"]; !reflect.DeepEqual(list, []string{"alice"}) {
		t.Errorf("identities: %v", list)
	}
	list := m.must(logical.ListOperation, "identities/alice/assets", nil)
	info := list["key_info"].(map[string]any)["mail"].(map[string]any)
	if info["kind"] != "secret" || info["generation"] != int64(1) || info["stale"] != false || !reflect.DeepEqual(info["roles"], []string{"everyday"}) {
		t.Errorf("assets: %v", list)
	}
	// Both open it: what is stored is what they wrote.
	for _, p := range []*person{alice, phone} {
		po := p.opens(&identity.SignedManifest{Manifest: m.record2(t, "alice").Signed.Manifest, Signature: m.record2(t, "alice").Signed.Signature})
		if v, err := po.AssetValue(m.stored(po, "mail"), "value"); err != nil || string(v.Expose()) != "hunter2" {
			t.Errorf("%s opens: %v", p.a.Name, err)
		}
	}
	grants := m.read1("identities/alice")["grants"].([]map[string]any)
	if len(grants) != 2 || grants[1]["authenticator"] != "alice-phone" || grants[1]["server_trusting"] != true || grants[1]["level"] != "small" || grants[1]["state"] != "active" || grants[1]["kind"] != "phone" {
		t.Errorf("grants: %v", grants)
	}
	in := m.read1("authenticators/alice-phone")["identities"].([]map[string]any)
	if len(in) != 1 || in[0]["identity"] != "alice" || in[0]["level"] != "small" || !reflect.DeepEqual(in[0]["roles"], []string{"everyday"}) {
		t.Errorf("granted in: %v", in)
	}
	// The next write of the asset.
	next := writeAsset(t, o, m.stored(o, "mail"), func(a *identity.Asset) error {
		return sealInto(o, a, "value", nil, []byte("hunter3"), []string{"everyday"})
	})
	if d := m.puts("alice", "mail", next); d["generation"] != int64(2) {
		t.Errorf("written again: %v", d)
	}
	m.warns(logical.UpdateOperation, "identities/alice/assets/mail", assetBody(next), alreadyStored)
	// Gone.
	m.must(logical.DeleteOperation, "identities/alice/assets/mail", nil)
	m.fails(logical.ReadOperation, "identities/alice/assets/mail", nil, http.StatusNotFound, `has no asset "mail"`)
	m.fails(logical.DeleteOperation, "authenticators/alice-password", nil, http.StatusConflict, "is granted in alice")
	m.puts("alice", "mail", secretOf(t, o, "mail", "hunter2", "everyday"))
	m.must(logical.DeleteOperation, "identities/alice", nil)
	m.fails(logical.ReadOperation, "identities/alice", nil, http.StatusNotFound, "there is no identity")
	m.fails(logical.ReadOperation, "identities/alice/assets/mail", nil, http.StatusNotFound, "there is no identity")
	for _, name := range []string{"alice-password", "alice-phone"} {
		m.must(logical.DeleteOperation, "authenticators/"+name, nil)
	}
	for _, key := range keys(t, m.storage) {
		for _, prefix := range []string{prefixIdentities, prefixAssets, prefixAuthentic, prefixAuthLocks} {
			if strings.HasPrefix(key, prefix) {
				t.Errorf("%s is left", key)
			}
		}
	}
}

func (m *mount) record2(t *testing.T, name string) *identityRecord {
	t.Helper()
	r, err := m.b.store.identity(t.Context(), name)
	if err != nil || r == nil {
		t.Fatal(r, err)
	}
	return r
}

// TestManifestRules: what must not be stored is refused, says why, and changes
// nothing.
func TestManifestRules(t *testing.T) {
	m := enrolled(t)
	alice, bob := newPerson(m, "alice-password").store(), newPerson(m, "bob-password").store()
	stranger := newPerson(m, "stranger")
	o := alice.creates("alice", "everyday", "vault")
	refused := func(s *identity.SignedManifest, status int, text string) {
		t.Helper()
		before := m.record2(t, "alice").Signed.Manifest
		m.fails(logical.UpdateOperation, "identities/alice", manifestBody(s), status, text)
		if !reflect.DeepEqual(before, m.record2(t, "alice").Signed.Manifest) {
			t.Error("something was changed all the same")
		}
	}
	// Bytes.
	good := alice.makes(o, identity.AddRole{Name: "third"})
	for _, at := range []int{0, len(good.Manifest) / 2, len(good.Manifest) - 1} {
		bad := *good
		bad.Manifest = append([]byte{}, good.Manifest...)
		bad.Manifest[at] ^= 1
		refused(&bad, http.StatusBadRequest, "the manifest is refused")
	}
	m.fails(logical.UpdateOperation, "identities/alice", nil, http.StatusBadRequest, "manifest is missing")
	m.fails(logical.UpdateOperation, "identities/alice", map[string]any{"manifest": "%%%", "signature": "AAAA"}, http.StatusBadRequest, "in base64")
	m.fails(logical.UpdateOperation, "identities/alice", map[string]any{"manifest": strings.Repeat("A", 600<<10), "signature": "AAAA"}, http.StatusBadRequest, "more than")
	m.fails(logical.UpdateOperation, "identities/alice", map[string]any{"manifest": text64(good.Manifest), "signature": text64(make([]byte, 65))}, http.StatusBadRequest, "signature")
	m.fails(logical.UpdateOperation, "identities/bob", manifestBody(good), http.StatusBadRequest, `is of identity "alice"`)
	for _, name := range []string{"Alice", "a--", "%2e", strings.Repeat("a", 65)} {
		m.fails(logical.UpdateOperation, "identities/"+name, manifestBody(good), http.StatusBadRequest, "cannot be the name of an identity")
	}
	// Somebody else's, and the same owner under another name.
	foreign, _, err := identity.Create(identity.NewIdentity{Name: "alice", Kind: identity.Person, Authenticator: bob.a, Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	refused(foreign, http.StatusBadRequest, "of another identity")
	twin := *o.Manifest
	twin.Name = "alice2"
	signed, err := identity.SignManifest(&twin, o.Roles[identity.OwnerRole])
	if err != nil {
		t.Fatal(err)
	}
	m.fails(logical.UpdateOperation, "identities/alice2", manifestBody(signed), http.StatusConflict, "has the same first owner keys")
	// Generations: two clients changed it at once.
	other := alice.makes(o, identity.SetKind{Kind: identity.Persona})
	m.update("identities/alice", manifestBody(good))
	refused(other, http.StatusConflict, "read it again")
	m.warns(logical.UpdateOperation, "identities/alice", manifestBody(good), alreadyStored)
	m.fails(logical.UpdateOperation, "identities/nobody", manifestBody(renamed(t, o, good, "nobody")), http.StatusConflict, "a new one begins with 1")
	o = alice.opens(good)
	// Authenticators.
	refused(alice.makes(o, identity.AddGrant{Authenticator: stranger.a, Level: "full"}), http.StatusBadRequest, `there is no authenticator "stranger"`)
	swapped := *bob.a
	swapped.Keys = stranger.a.Keys
	refused(alice.makes(o, identity.AddGrant{Authenticator: &swapped, Level: "full"}), http.StatusBadRequest, "does not fit the one there is")
	m.update("authenticators/bob-password/lost", nil)
	refused(alice.makes(o, identity.AddGrant{Authenticator: bob.a, Level: "full"}), http.StatusConflict, "was reported lost")
	m.update("authenticators/bob-password/found", nil)
	o = alice.changes(o, identity.AddGrant{Authenticator: bob.a, Level: "full"})
	m.update("authenticators/bob-password/lost", nil)
	o = alice.changes(o, identity.SetKind{Kind: identity.Persona}) // what it has stays
	refused(alice.makes(o, identity.RotateRoles{Roles: []string{"vault"}}), http.StatusConflict, "nothing may be granted or sealed")
	// Roles.
	m.puts("alice", "mail", secretOf(t, o, "mail", "x", "everyday"))
	m.puts("alice", "bank", secretOf(t, o, "bank", "x", "vault"))
	o = alice.changes(o, identity.RemoveGrant{Authenticator: bob.a.ID})
	without := []identity.Change{identity.SetLevel{Level: identity.Level{Name: "full", Roles: []string{"everyday", "owner", "third"}}}, identity.RemoveRole{Name: "vault"}}
	refused(alice.makes(o, without...), http.StatusConflict, `asset "bank" is for role vault`)
	m.must(logical.DeleteOperation, "identities/alice/assets/bank", nil)
	alice.changes(o, without...)
}

// renamed is a manifest under another name, as a hostile owner could sign it.
func renamed(t *testing.T, o *identity.Opened, s *identity.SignedManifest, name string) *identity.SignedManifest {
	t.Helper()
	m, err := s.Verify()
	if err != nil {
		t.Fatal(err)
	}
	m.Name = name
	signed, err := identity.SignManifest(m, o.Roles[identity.OwnerRole])
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// TestRoleWithoutOpener: the last one that opens a role is removed only if the
// caller says so, and one that was lost does not count.
func TestRoleWithoutOpener(t *testing.T) {
	m := enrolled(t)
	alice, bob := newPerson(m, "alice-password").store(), newPerson(m, "bob-password").store()
	o := alice.creates("alice", "vault")
	o = alice.changes(o, identity.SetLevel{Level: identity.Level{Name: "all", Roles: []string{"owner", "vault"}}},
		identity.SetLevel{Level: identity.Level{Name: "some", Roles: []string{"owner"}}},
		identity.AddGrant{Authenticator: bob.a, Level: "all"})
	m.update("authenticators/bob-password/lost", nil)
	// Bob still has vault, and is lost.
	s := alice.makes(o, identity.SetGrant{Authenticator: alice.a.ID, Level: "some"})
	m.fails(logical.UpdateOperation, "identities/alice", manifestBody(s), http.StatusConflict, "send force=true")
	body := manifestBody(s)
	body["force"] = true
	m.update("identities/alice", body)
}

// TestReset: roles get new keys, assets follow, and only then are the old ones
// dropped.
func TestReset(t *testing.T) {
	m := enrolled(t)
	alice, bob := newPerson(m, "alice-password").store(), newPerson(m, "bob-password").store()
	o := alice.creates("alice", "everyday")
	o = alice.changes(o, identity.AddGrant{Authenticator: bob.a, Level: "full"})
	m.puts("alice", "mail", secretOf(t, o, "mail", "hunter2", "everyday"))
	m.puts("alice", "bank", secretOf(t, o, "bank", "1234", "owner"))
	m.update("authenticators/bob-password/lost", map[string]any{"reason": "stolen"})

	o = alice.changes(o, identity.RemoveGrant{Authenticator: bob.a.ID}, identity.RotateRoles{Roles: []string{"everyday", "owner"}})
	if d := m.read1("identities/alice"); d["reset_pending"] != true {
		t.Errorf("a reset has begun: %v", d["reset_pending"])
	}
	drop := identity.DropPast{Roles: []string{"everyday", "owner"}}
	for _, name := range []string{"bank", "mail"} {
		m.fails(logical.UpdateOperation, "identities/alice", manifestBody(alice.makes(o, drop)), http.StatusConflict, "still under the past keys")
		a := m.stored(o, name)
		if m.read1("identities/alice/assets/" + name)["stale"] != true {
			t.Errorf("%s is not stale", name)
		}
		s, err := o.Reseal(a, time.Now(), nil)
		if err != nil {
			t.Fatal(err)
		}
		m.puts("alice", name, s)
	}
	if again, err := o.Change(time.Now(), identity.RotateRoles{Roles: []string{"owner"}}); err == nil {
		m.fails(logical.UpdateOperation, "identities/alice", manifestBody(again), http.StatusConflict, "finish the reset first")
	}
	o = alice.changes(o, drop)
	if d := m.read1("identities/alice"); d["reset_pending"] != false {
		t.Errorf("the reset has ended: %v", d["reset_pending"])
	}
	if v, err := o.AssetValue(m.stored(o, "mail"), "value"); err != nil || string(v.Expose()) != "hunter2" {
		t.Errorf("after the reset: %v", err)
	}
	if _, _, err := identity.OpenIdentity(&m.record2(t, "alice").Signed, identity.Pin{}, bob.a.ID, bob.keys); err == nil {
		t.Error("the lost authenticator opens the identity")
	}
}

// TestDropPastOfOneRole: an asset that is under the past keys of two roles keeps those
// of both.
func TestDropPastOfOneRole(t *testing.T) {
	m := enrolled(t)
	alice := newPerson(m, "alice-password").store()
	o := alice.creates("alice", "everyday", "vault")
	m.puts("alice", "mail", secretOf(t, o, "mail", "hunter2", "everyday", "vault"))
	o = alice.changes(o, identity.RotateRoles{Roles: []string{"everyday", "owner", "vault"}})
	for _, role := range []string{"vault", "everyday"} {
		m.fails(logical.UpdateOperation, "identities/alice", manifestBody(alice.makes(o, identity.DropPast{Roles: []string{role}})), http.StatusConflict, "still under the past keys of role "+role)
	}
	// Nothing is under those of this one.
	alice.changes(o, identity.DropPast{Roles: []string{"owner"}})
}

// TestAssetRules: what must not be stored is refused.
func TestAssetRules(t *testing.T) {
	m := enrolled(t)
	alice, bob := newPerson(m, "alice-password").store(), newPerson(m, "bob-password").store()
	o := alice.creates("alice", "everyday", "vault")
	o = alice.changes(o, identity.SetLevel{Level: identity.Level{Name: "small", Roles: []string{"everyday"}}}, identity.AddGrant{Authenticator: bob.a, Level: "small"})
	bo := bob.opens(&m.record2(t, "alice").Signed)
	mail := secretOf(t, o, "mail", "hunter2", "everyday", "vault")
	at := "identities/alice/assets/"
	m.fails(logical.UpdateOperation, at+"post", assetBody(mail), http.StatusBadRequest, `the asset is "mail"`)
	m.fails(logical.UpdateOperation, "identities/nobody/assets/mail", assetBody(mail), http.StatusNotFound, "there is no identity")
	m.fails(logical.UpdateOperation, at+"Mail", assetBody(mail), http.StatusBadRequest, "cannot be the name of an asset")
	m.fails(logical.UpdateOperation, at+"mail", map[string]any{"asset": "", "signature": "AA=="}, http.StatusBadRequest, "asset is missing")
	bad := assetBody(mail)
	bad["signature"] = text64(make([]byte, 64))
	m.fails(logical.UpdateOperation, at+"mail", bad, http.StatusBadRequest, "signature does not verify")
	second := writeAsset(t, o, verified(t, o, mail), nil)
	m.fails(logical.UpdateOperation, at+"mail", assetBody(second), http.StatusConflict, "a new one begins with 1")
	m.puts("alice", "mail", mail)
	// The same ID under another name, and another asset under this one.
	copied := *verified(t, o, mail)
	copied.Name = "post"
	signed, err := identity.SignAsset(&copied, o.Roles["vault"])
	if copied.Writer != "vault" {
		signed, err = identity.SignAsset(&copied, o.Roles[copied.Writer])
	}
	if err != nil {
		t.Fatal(err)
	}
	m.fails(logical.UpdateOperation, at+"post", assetBody(signed), http.StatusConflict, "draw a new one")
	m.fails(logical.UpdateOperation, at+"mail", assetBody(secretOf(t, o, "mail", "other", "vault")), http.StatusConflict, "read it again")
	// Two writers.
	m.puts("alice", "mail", second)
	m.fails(logical.UpdateOperation, at+"mail", assetBody(writeAsset(t, o, verified(t, o, mail), func(a *identity.Asset) error { a.Note = "other"; return nil })), http.StatusConflict, "read it again")
	// A role that has no business there writes over it.
	bank := secretOf(t, o, "bank", "1234", "vault")
	m.puts("alice", "bank", bank)
	theft := *verified(t, bo, bank)
	theft.Generation++
	if err := sealInto(bo, &theft, "value", nil, []byte("mine"), []string{"everyday"}); err != nil {
		t.Fatal(err)
	}
	theft.Writer, theft.WriterGeneration = "everyday", 1
	if signed, err = identity.SignAsset(&theft, bo.Roles["everyday"]); err != nil {
		t.Fatal(err)
	}
	m.fails(logical.UpdateOperation, at+"bank", assetBody(signed), http.StatusBadRequest, "may not change that")
	// Stale keys.
	before := secretOf(t, o, "late", "x", "vault")
	alice.changes(o, identity.RotateRoles{Roles: []string{"vault"}})
	m.fails(logical.UpdateOperation, at+"late", assetBody(before), http.StatusConflict, "other keys of role vault")
}

// TestCustodyRules: an account's custody key is not lost, and not opened by an
// authenticator that the server could use.
func TestCustodyRules(t *testing.T) {
	m := enrolled(t)
	account := m.create("pay", "bip340-secp256k1")
	alice, phone := newPerson(m, "alice-password").store(), newPerson(m, "phone", withPhone).store()
	o := alice.creates("alice", "everyday", "vault")
	o = alice.changes(o, identity.SetLevel{Level: identity.Level{Name: "small", Roles: []string{"everyday"}, ServerTrusting: true}}, identity.AddGrant{Authenticator: phone.a, Level: "small"})
	at := "identities/alice/assets/"
	if _, err := o.WriteAsset(o.NewAsset("pay", identity.AccountAsset), time.Now(), func(a *identity.Asset) error {
		public, private, err := identity.NewCustodyKey()
		if err != nil {
			return err
		}
		return sealInto(o, a, identity.CustodyKey, public, private.Expose(), []string{"everyday"})
	}); err == nil {
		t.Error("a client seals a custody key to a role that a server-trusting authenticator opens")
	}
	signed := custodyOf(t, o, "pay", "vault")
	m.puts("alice", "pay", signed)
	a := m.stored(o, "pay")
	// A client that does not ask.
	m.fails(logical.UpdateOperation, at+"pay", assetBody(handmade(t, o, a, func(n *identity.Asset) {
		public, private, err := identity.NewCustodyKey()
		if err != nil {
			t.Fatal(err)
		}
		if err := sealInto(o, n, identity.CustodyKey, public, private.Expose(), []string{"everyday"}); err != nil {
			t.Fatal(err)
		}
		n.Writer = "owner"
	})), http.StatusConflict, "server-trusting")
	// No such account yet.
	claim := func(id string) *identity.SignedAsset {
		return handmade(t, o, m.stored(o, "pay"), func(n *identity.Asset) { n.Account = id })
	}
	m.fails(logical.UpdateOperation, at+"pay", assetBody(claim(account["id"].(string))), http.StatusConflict, "whose custody key it does not hold")
	m.hasCustody("pay", "alice", a, identity.CustodyKey)
	m.fails(logical.UpdateOperation, at+"pay", assetBody(claim(strings.Repeat("ab", 16))), http.StatusConflict, "whose custody key it does not hold")
	m.puts("alice", "pay", claim(account["id"].(string)))
	if d := m.read1(at + "pay"); d["account"] != account["id"] || d["kind"] != "account" {
		t.Errorf("the asset: %v", d)
	}
	// The key in force stays.
	m.fails(logical.UpdateOperation, at+"pay", assetBody(handmade(t, o, m.stored(o, "pay"), func(n *identity.Asset) {
		public, private, err := identity.NewCustodyKey()
		if err != nil {
			t.Fatal(err)
		}
		if err := sealInto(o, n, identity.CustodyKey, public, private.Expose(), []string{"vault"}); err != nil {
			t.Fatal(err)
		}
	})), http.StatusConflict, "does not have it any more")
	m.fails(logical.DeleteOperation, at+"pay", nil, http.StatusConflict, "holds the custody key of these accounts")
	m.fails(logical.DeleteOperation, "identities/alice", nil, http.StatusConflict, "pay")
	if _, err := o.Change(time.Now(), identity.SetLevel{Level: identity.Level{Name: "small", Roles: []string{"everyday", "vault"}, ServerTrusting: true}}); err != nil {
		t.Logf("the client refuses it: %v", err)
	} else {
		m.fails(logical.UpdateOperation, "identities/alice", manifestBody(alice.makes(o, identity.SetLevel{Level: identity.Level{Name: "small", Roles: []string{"everyday", "vault"}, ServerTrusting: true}})), http.StatusConflict, "server-trusting")
	}
	// Replacing it: the next beside it, the account refreshed, then the next alone.
	two, err := o.ReplaceCustody(m.stored(o, "pay"), time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m.puts("alice", "pay", two)
	promoted, err := o.PromoteCustody(m.stored(o, "pay"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m.fails(logical.UpdateOperation, at+"pay", assetBody(promoted), http.StatusConflict, "does not have it any more")
	m.hasCustody("pay", "alice", m.stored(o, "pay"), identity.NextCustodyKey)
	m.puts("alice", "pay", promoted)
	// Found by what the account says.
	name, _, found, err := m.b.assetForCustody(t.Context(), m.record("pay").Custody)
	if err != nil || name != "alice" || found.Name != "pay" {
		t.Errorf("found %s, %v", name, err)
	}
	m.must(logical.DeleteOperation, "destroy/pay", nil)
	// The asset of an account that is gone keeps no role from being reset.
	o = alice.changes(o, identity.RotateRoles{Roles: []string{"vault"}})
	left := m.stored(o, "pay")
	value, err := o.AssetValue(left, identity.CustodyKey)
	if err != nil {
		t.Fatal(err)
	}
	m.puts("alice", "pay", handmade(t, o, left, func(n *identity.Asset) {
		if err := sealInto(o, n, identity.CustodyKey, left.Key(identity.CustodyKey).Public, value.Expose(), []string{"vault"}); err != nil {
			t.Fatal(err)
		}
		n.WriterGeneration = o.Manifest.Role(n.Writer).Generation
	}))
	o = alice.changes(o, identity.DropPast{Roles: []string{"vault"}})
	m.must(logical.DeleteOperation, at+"pay", nil)
	m.must(logical.DeleteOperation, "identities/alice", nil)
}

// handmade signs the next generation of an asset without the checks of a client.
func handmade(t *testing.T, o *identity.Opened, a *identity.Asset, change func(*identity.Asset)) *identity.SignedAsset {
	t.Helper()
	raw, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	n := &identity.Asset{}
	if err := json.Unmarshal(raw, n); err != nil {
		t.Fatal(err)
	}
	n.Generation++
	change(n)
	n.WriterGeneration = o.Manifest.Role(n.Writer).Generation
	signed, err := identity.SignAsset(n, o.Roles[n.Writer])
	if err != nil {
		t.Fatal(err)
	}
	return signed
}
