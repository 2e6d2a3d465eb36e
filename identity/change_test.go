package identity

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/secret"
)

// TestCreate makes identities, and those that nobody could use are not made.
func TestCreate(t *testing.T) {
	alice, third := newWho(t, "alice", Password), newWho(t, "third", OIDC)
	s, o := create(t, "alice", alice, "mail", "money", "mail")
	m := o.Manifest
	if len(m.Roles) != 3 || len(m.Levels) != 1 || len(m.Grants) != 1 || m.Generation != 1 || m.Grants[0].Granted.IsZero() || m.Identity != IdentityID(m.Role(OwnerRole).Keys) {
		t.Errorf("the identity is %+v", m)
	}
	again := alice.open(t, s)
	for _, role := range []string{OwnerRole, "mail", "money"} {
		if !again.Roles[role].Seed().Equal(o.Roles[role].Seed()) {
			t.Errorf("role %s opens to another seed", role)
		}
	}
	half := Level{Name: "half", Roles: []string{"mail"}}
	for what, c := range map[string]struct {
		n    NewIdentity
		want error
	}{
		"a level that does not open the owner role": {NewIdentity{Name: "x", Kind: Person, Roles: []string{"mail"}, Levels: []Level{half}, Level: "half", Authenticator: alice.a}, ErrUnopened},
		"a role that nobody opens":                  {NewIdentity{Name: "x", Kind: Person, Roles: []string{"mail", "money"}, Levels: []Level{{Name: "half", Roles: []string{"mail", OwnerRole}}}, Level: "half", Authenticator: alice.a}, ErrUnopened},
		"a level that is not there":                 {NewIdentity{Name: "x", Kind: Person, Levels: []Level{half}, Authenticator: alice.a}, ErrRecord},
		"a server-trusting first authenticator":     {NewIdentity{Name: "x", Kind: Person, Authenticator: third.a}, ErrRecord},
		"a name that is none":                       {NewIdentity{Name: "X y", Kind: Person, Authenticator: alice.a}, ErrRecord},
		"a kind that is none":                       {NewIdentity{Name: "x", Kind: "pet", Authenticator: alice.a}, ErrRecord},
	} {
		if _, _, err := Create(c.n); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := Create(NewIdentity{Name: "x", Kind: Person, Authenticator: alice.a, Keys: third.keys}); err == nil {
		t.Error("an identity was made for keys of another authenticator")
	}
}

// TestChangeRefused lists what a user must be told before it happens; nothing of a
// list of changes is done if one of them is refused.
func TestChangeRefused(t *testing.T) {
	alice, bob, third := newWho(t, "alice", Password), newWho(t, "bob", KeyFile), newWho(t, "third", OIDC)
	_, o := create(t, "alice", alice, "mail", "money")
	o = alice.change(t, o,
		SetLevel{Level{Name: "half", Roles: []string{"mail"}}},
		SetLevel{Level{Name: "open", Roles: []string{"mail"}, ServerTrusting: true}},
		SetLevel{Level{Name: "purse", Roles: []string{"money"}}},
		SetLevel{Level{Name: "chief", Roles: []string{OwnerRole, "mail"}}},
		AddGrant{Authenticator: bob.a, Level: "half"}, AddGrant{Authenticator: third.a, Level: "open"})
	if g := o.Manifest.Grant(third.a.ID); !g.ServerTrusting || g.Custody {
		t.Errorf("the grant of the third-party account is %+v", g)
	}
	id := func(w who) ID { return w.a.ID }
	impostor := newWho(t, "bob", KeyFile)
	cases := []struct {
		what    string
		changes []Change
		want    error
		says    string
	}{
		{"nothing", nil, nil, "nothing to change"},
		{"a role twice", []Change{AddRole{Name: "mail"}}, ErrRecord, ""},
		{"a role with a bad name", []Change{AddRole{Name: "Mail"}}, ErrRecord, ""},
		{"a role for a level that is not there", []Change{AddRole{Name: "x", Levels: []string{"none"}}}, ErrRecord, ""},
		{"a role for a level that nobody has", []Change{AddRole{Name: "x", Levels: []string{"purse"}}}, ErrUnopened, ""},
		{"the owner role removed", []Change{RemoveRole{OwnerRole}}, ErrInUse, ""},
		{"a role that levels have", []Change{RemoveRole{"money"}}, ErrInUse, "full, purse"},
		{"a role that is not there", []Change{RemoveRole{"x"}}, ErrRecord, ""},
		{"a level that is granted", []Change{RemoveLevel{"half"}}, ErrInUse, "bob"},
		{"a level that is not there", []Change{RemoveLevel{"x"}}, ErrRecord, ""},
		{"a level with a role that is not there", []Change{SetLevel{Level{Name: "x", Roles: []string{"x"}}}}, ErrRecord, ""},
		{"a level without roles", []Change{SetLevel{Level{Name: "x"}}}, ErrRecord, ""},
		{"the owner role for server-trusting authenticators", []Change{SetLevel{Level{Name: "x", Roles: []string{OwnerRole}, ServerTrusting: true}}}, ErrRecord, ""},
		{"a level closed to one who has it", []Change{SetLevel{Level{Name: "open", Roles: []string{"mail"}}}}, ErrRecord, ""},
		{"the last level with a role", []Change{SetLevel{Level{Name: FullLevel, Roles: []string{OwnerRole, "mail"}}}}, ErrUnopened, "money, which is opened by alice"},
		{"a grant twice", []Change{AddGrant{Authenticator: bob.a, Level: "half"}}, ErrInUse, ""},
		{"a grant to another of that name", []Change{AddGrant{Authenticator: impostor.a, Level: "half"}}, ErrInUse, ""},
		{"a grant of no level", []Change{SetGrant{Authenticator: id(bob), Level: "x"}}, ErrRecord, ""},
		{"a closed level to a server-trusting one", []Change{SetGrant{Authenticator: id(third), Level: FullLevel}}, ErrRecord, "third trusts the server"},
		{"a level to one without access", []Change{SetGrant{Authenticator: id(impostor), Level: "half"}}, ErrNotGranted, ""},
		{"removing one without access", []Change{RemoveGrant{Authenticator: id(impostor)}}, ErrNotGranted, ""},
		{"the last one that opens a role", []Change{SetGrant{Authenticator: id(alice), Level: "chief"}}, ErrUnopened, "money"},
		{"the last owner", []Change{RemoveGrant{Authenticator: id(alice)}}, ErrUnopened, ""},
		{"the last owner, by force", []Change{RemoveGrant{Authenticator: id(alice), Force: true}}, ErrRecord, "nobody could change"},
		{"rotating what is not there", []Change{RotateRoles{[]string{"x"}}}, ErrRecord, ""},
		{"rotating twice", []Change{RotateRoles{[]string{"mail"}}, RotateRoles{[]string{"mail"}}}, ErrPending, ""},
		{"rotating and forgetting at once", []Change{RotateRoles{[]string{"mail"}}, DropPast{[]string{"mail"}}}, ErrRecord, ""},
		{"forgetting what there is not", []Change{DropPast{[]string{"mail"}}}, ErrRecord, ""},
		{"a role replaced under its name", []Change{SetLevel{Level{Name: FullLevel, Roles: []string{OwnerRole, "mail"}}}, RemoveLevel{"purse"}, RemoveRole{"money"}, AddRole{Name: "money"}}, ErrRecord, ""},
		{"a kind that is none", []Change{SetKind{"pet"}}, ErrRecord, ""},
		{"a good one and a bad one", []Change{SetKind{Organization}, RemoveRole{"x"}}, ErrRecord, ""},
	}
	before := string(mustJSON(t, o.Manifest))
	for _, c := range cases {
		_, err := o.Change(at, c.changes...)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	if string(mustJSON(t, o.Manifest)) != before {
		t.Error("a refused change changed what was opened")
	}
	// Who is not owner changes nothing, and is told who could.
	_, err := bob.open(t, o.Signed).Change(at, SetKind{Persona})
	if !errors.Is(err, ErrNotHeld) || !strings.Contains(err.Error(), "role owner; these authenticators do: alice") {
		t.Errorf("bob changes: %v", err)
	}
	// An owner who does not open a role cannot give it away.
	dave := newWho(t, "dave", Password)
	o = alice.change(t, o, AddGrant{Authenticator: dave.a, Level: "chief"})
	_, err = dave.open(t, o.Signed).Change(at, SetGrant{Authenticator: id(bob), Level: "purse"})
	if !errors.Is(err, ErrNotHeld) || !strings.Contains(err.Error(), "role money; these authenticators do: alice") {
		t.Errorf("dave gives away what he does not open: %v", err)
	}
	// But it keeps what others have in what dave changes.
	s, err := dave.open(t, o.Signed).Change(at, RemoveGrant{Authenticator: id(bob)}, SetKind{Persona})
	if err != nil {
		t.Fatal(err)
	}
	if a := alice.open(t, s); a.Roles["money"] == nil || !a.Roles["money"].Seed().Equal(o.Roles["money"].Seed()) {
		t.Error("alice lost a role by a change of another owner")
	}
	// Force leaves a role that nobody opens, which can then go.
	o = alice.change(t, o, SetLevel{Level{Name: "spare", Roles: []string{OwnerRole, "mail"}}})
	o = alice.change(t, o, RemoveGrant{Authenticator: id(bob), Force: true}, SetGrant{Authenticator: id(alice), Level: "spare"})
	if o.Manifest.Role("money") == nil || len(o.Manifest.openers("money")) != 0 {
		t.Error("the role that nobody opens is gone")
	}
	o = alice.change(t, o, RemoveLevel{"purse"}, RemoveLevel{FullLevel}, RemoveRole{"money"})
	if o.Manifest.Role("money") != nil {
		t.Error("the role is still there")
	}
}

// TestCustodyCapped: no server-trusting authenticator comes to a custody key,
// whichever of the two was first, unless the owner says so.
func TestCustodyCapped(t *testing.T) {
	alice, third := newWho(t, "alice", Password), newWho(t, "third", OIDC)
	_, o := create(t, "alice", alice, "money", "mail")
	o = alice.change(t, o, SetLevel{Level{Name: "open", Roles: []string{"mail"}, ServerTrusting: true}}, AddGrant{Authenticator: third.a, Level: "open"})
	account := putAccount(t, o, "coins", "money")
	if err := CheckCustody(o.Manifest, verify(t, o, account).Roles()); err != nil {
		t.Error(err)
	}
	public, private, err := NewCustodyKey()
	if err != nil {
		t.Fatal(err)
	}
	_, err = o.WriteAsset(o.NewAsset("more", AccountAsset), at, func(a *Asset) error {
		return o.sealTo(a, CustodyKey, public, private, []string{"mail", "money"})
	})
	wantError(t, "a custody key for a role that the server can open", err, ErrCustody)
	wider := alice.change(t, o, SetLevel{Level{Name: "open", Roles: []string{"mail", "money"}, ServerTrusting: true}})
	wantError(t, "the role for a level that the server can open", CheckCustody(wider.Manifest, []string{"money"}), ErrCustody)
	_, err = account.VerifyNext(wider.Manifest, nil)
	wantError(t, "the server, asked to store that", err, ErrCustody)
	allowed := alice.change(t, wider, SetGrant{Authenticator: third.a.ID, Level: "open", Custody: true})
	if err := CheckCustody(allowed.Manifest, []string{"money"}); err != nil {
		t.Error("the owner has said that it may:", err)
	}
	// Custody means nothing for others, so it is not kept.
	plain := alice.change(t, o, SetGrant{Authenticator: alice.a.ID, Level: FullLevel, Custody: true})
	if plain.Manifest.Grant(alice.a.ID).Custody {
		t.Error("custody is kept for an authenticator that does not trust the server")
	}
	pinned := newWho(t, "pinned", OIDC)
	pinned.a.PIN = true
	if o := alice.change(t, o, AddGrant{Authenticator: pinned.a, Level: FullLevel}); o.Manifest.Grant(pinned.a.ID).ServerTrusting {
		t.Error("with a PIN the server does not hold all of it")
	}
}

// TestCustodyKeys: what an asset of an account can hold.
func TestCustodyKeys(t *testing.T) {
	alice := newWho(t, "alice", Password)
	_, o := create(t, "alice", alice)
	public, private, err := NewCustodyKey()
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := NewCustodyKey()
	if err != nil {
		t.Fatal(err)
	}
	write := func(change func(*Asset) error) error {
		_, err := o.WriteAsset(o.NewAsset("coins", AccountAsset), at, change)
		return err
	}
	owner := []string{OwnerRole}
	wantError(t, "the public half of another", write(func(a *Asset) error { return o.sealTo(a, CustodyKey, other, private, owner) }), ErrRecord)
	wantError(t, "a key of another name", write(func(a *Asset) error { return o.sealTo(a, "key", public, private, owner) }), ErrRecord)
	wantError(t, "only a successor", write(func(a *Asset) error { return o.sealTo(a, NextCustodyKey, public, private, owner) }), ErrRecord)
	wantError(t, "itself as successor", write(func(a *Asset) error {
		return errors.Join(o.sealTo(a, CustodyKey, public, private, owner), o.sealTo(a, NextCustodyKey, public, private, owner))
	}), ErrRecord)
	// A key that opens, but is not the one of the public half beside it.
	s := putAccount(t, o, "coins", OwnerRole)
	a := verify(t, o, s)
	a.Keys[0].Public = other
	if s, err = SignAsset(a, o.Roles[OwnerRole]); err != nil {
		t.Fatal(err)
	}
	_, err = o.AssetValue(verify(t, o, s), CustodyKey)
	wantError(t, "opening it", err, ErrOpen)
	// Replacement, step by step.
	a = verify(t, o, putAccount(t, o, "coins2", OwnerRole))
	_, err = o.PromoteCustody(a, at)
	wantError(t, "promoting nothing", err, ErrRecord)
	var seen *secret.Bytes
	s, err = o.ReplaceCustody(a, at, func(*Asset) ([]byte, *secret.Bytes, error) {
		public, private, err := NewCustodyKey()
		seen = private
		return public, private, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen.Len() != 0 {
		t.Error("the successor's private half is not wiped")
	}
	_, err = o.ReplaceCustody(verify(t, o, s), at, nil)
	wantError(t, "replacing twice", err, ErrPending)
	o = alice.change(t, o, RotateRoles{owner})
	_, err = o.Reseal(verify(t, o, s), at, nil)
	wantError(t, "resealing during a replacement", err, ErrPending)
	if s, err = o.PromoteCustody(verify(t, o, s), at); err != nil {
		t.Fatal(err)
	}
	if a := verify(t, o, s); Pending(a) || Stale(o.Manifest, a) {
		t.Error("the replacement is not over")
	}
}

// TestFollows: a role writes what it may use and nothing else, even with a
// signature that verifies.
func TestFollows(t *testing.T) {
	alice, bob := newWho(t, "alice", Password), newWho(t, "bob", KeyFile)
	_, o := create(t, "alice", alice, "mail", "money")
	o = alice.change(t, o, SetLevel{Level{Name: "half", Roles: []string{"mail"}}}, AddGrant{Authenticator: bob.a, Level: "half"})
	asBob := bob.open(t, o.Signed)
	bank := verify(t, o, put(t, o, "bank", "m", "money"))
	both, err := o.WriteAsset(bank, at, func(a *Asset) error { return o.sealTo(a, "mail", nil, secret.Copy([]byte("x")), []string{"mail"}) })
	if err != nil {
		t.Fatal(err)
	}
	shared := verify(t, o, both)
	// bob writes himself into an asset that he could not use.
	_, err = asBob.WriteAsset(bank, at, func(a *Asset) error {
		return asBob.sealTo(a, "value", nil, secret.Copy([]byte("bob's")), []string{"mail"})
	})
	wantError(t, "taking an asset over", err, ErrWriter)
	forge := func(before *Asset, change func(*Asset)) error {
		a := before.clone()
		a.Generation++
		a.Writer, a.WriterGeneration = "mail", 1
		change(a)
		s, err := SignAsset(a, asBob.Roles["mail"])
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.VerifyNext(o.Manifest, before)
		return err
	}
	value := func(a *Asset, key string, roles ...string) {
		if err := asBob.sealTo(a, key, nil, secret.Copy([]byte("bob's")), roles); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		what   string
		before *Asset
		change func(*Asset)
		want   error
	}{
		{"his own key", shared, func(a *Asset) { value(a, "mail", "mail") }, nil},
		{"a key of his own beside", shared, func(a *Asset) { value(a, "new", "mail", "money") }, nil},
		{"taking over", bank, func(a *Asset) { value(a, "value", "mail") }, ErrWriter},
		{"a key beside those that he cannot use", bank, func(a *Asset) { value(a, "new", "mail") }, ErrWriter},
		{"an asset that is not for him", bank, func(a *Asset) { a.Note = "call this number" }, ErrSignature},
		{"a key that he cannot use", shared, func(a *Asset) { value(a, "value", "money") }, ErrWriter},
		{"removing a key that he cannot use", shared, func(a *Asset) { a.Remove("value") }, ErrWriter},
		{"an old value again", shared, func(a *Asset) { a.Key("mail").Generation = 5 }, ErrNotNext},
		{"another value of the same generation", shared, func(a *Asset) {
			old := a.Key("mail").Generation
			value(a, "mail", "mail")
			a.Key("mail").Generation = old
		}, ErrNotNext},
		{"a generation left out", shared, func(a *Asset) { a.Generation++ }, ErrNotNext},
		{"another name", shared, func(a *Asset) { a.Name = "other" }, ErrNotNext},
		{"another ID", shared, func(a *Asset) { a.ID = NewID() }, ErrNotNext},
	} {
		if err := forge(c.before, c.change); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	// The owner role may write what it cannot read.
	chief := newWho(t, "chief", Password)
	o = alice.change(t, o, SetLevel{Level{Name: "chief", Roles: []string{OwnerRole}}}, AddGrant{Authenticator: chief.a, Level: "chief"})
	asChief := chief.open(t, o.Signed)
	if _, err := asChief.AssetValue(bank, "value"); !errors.Is(err, ErrNotHeld) || !strings.Contains(err.Error(), "role money; these authenticators do: alice") {
		t.Errorf("the chief reads it: %v", err)
	}
	s, err := asChief.WriteAsset(bank, at, func(a *Asset) error {
		return asChief.sealTo(a, "value", nil, secret.Copy([]byte("chief's")), []string{"money"})
	})
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, o, s, "value", "chief's")
	if a := verify(t, o, s); a.Writer != OwnerRole || a.Key("value").Generation != 2 {
		t.Errorf("the asset is %+v", a)
	}
	// Nothing is left behind under past keys unseen.
	o = alice.change(t, o, RotateRoles{[]string{"money"}})
	_, err = o.WriteAsset(shared, at, func(a *Asset) error { return o.sealTo(a, "mail", nil, secret.Copy([]byte("y")), []string{"mail"}) })
	wantError(t, "writing beside a stale key", err, ErrStale)
	_, err = both.VerifyNext(o.Manifest, bank)
	wantError(t, "the server, asked to store stale keys", err, ErrStale)
	if !slices.Equal(shared.Roles(), []string{"mail", "money"}) {
		t.Errorf("the roles are %v", shared.Roles())
	}
}

// TestAssetPin: an asset does not go back.
func TestAssetPin(t *testing.T) {
	alice := newWho(t, "alice", Password)
	_, o := create(t, "alice", alice)
	first := put(t, o, "bank", "1", OwnerRole)
	second, err := o.WriteAsset(verify(t, o, first), at, nil)
	if err != nil {
		t.Fatal(err)
	}
	fork, err := o.WriteAsset(verify(t, o, first), at, func(a *Asset) error { a.Note = "another"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	pin, err := AssetPin{}.Check(second, verify(t, o, second))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := pin.Check(second, verify(t, o, second)); err != nil || again.Generation != 2 {
		t.Error("the same again:", err)
	}
	for what, s := range map[string]*SignedAsset{"older": first, "beside it": fork, "made anew": put(t, o, "bank", "1", OwnerRole)} {
		if kept, err := pin.Check(s, verify(t, o, s)); !errors.Is(err, ErrRolledBack) || kept.Generation != pin.Generation {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestVerifyNext is a server's view of manifests that clients could sign and
// Change does not make.
func TestVerifyNext(t *testing.T) {
	alice, bob := newWho(t, "alice", Password), newWho(t, "bob", Password)
	_, o := create(t, "alice", alice, "mail")
	_, other := create(t, "alice", bob, "mail")
	rotated := alice.change(t, o, RotateRoles{[]string{"mail"}})
	fresh := drawKeys(t)
	for what, c := range map[string]struct {
		from   *Opened
		change func(*Manifest)
		want   error
	}{
		"as it should be":            {o, func(*Manifest) {}, nil},
		"a generation left out":      {o, func(m *Manifest) { m.Generation++ }, ErrNotNext},
		"after another one":          {o, func(m *Manifest) { m.Previous = other.Hash[:] }, ErrNotNext},
		"another name":               {o, func(m *Manifest) { m.Name = "bob" }, ErrSignature},
		"other keys of a generation": {o, func(m *Manifest) { m.Role("mail").Keys = fresh.Public() }, ErrRecord},
		"a new role of generation 2": {o, func(m *Manifest) {
			m.Roles = append([]Role{{Name: "a", Generation: 2, Keys: fresh.Public()}}, m.Roles...)
		}, ErrRecord},
		"past keys out of nothing":     {rotated, func(m *Manifest) { m.Role("mail").Past.Keys = fresh.Public() }, ErrRecord},
		"past keys sealed differently": {rotated, func(m *Manifest) { m.Role("mail").Past.Sealed[5] ^= 1 }, ErrRecord},
		"new keys without the past ones": {o, func(m *Manifest) {
			r := m.Role("mail")
			r.Generation, r.Keys = 2, fresh.Public()
			m.Grants[0].Sealed[0].Generation = 2
		}, ErrRecord},
		"new keys before the last are done": {rotated, func(m *Manifest) {
			r := m.Role("mail")
			r.Past.Generation, r.Past.Keys, r.Generation, r.Keys = 2, r.Keys, 3, fresh.Public()
			m.Grants[0].Sealed[0].Generation = 3
		}, ErrPending},
	} {
		m := copyOf(t, c.from.Manifest)
		m.Generation++
		m.Previous = c.from.Hash[:]
		c.change(m)
		s, err := SignManifest(m, c.from.Roles[OwnerRole])
		if err != nil {
			t.Fatal(what, err)
		}
		if _, err := s.VerifyNext(c.from.Signed); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	if _, err := other.Signed.VerifyNext(o.Signed); !errors.Is(err, ErrSignature) {
		t.Errorf("another identity of that name: %v", err)
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
