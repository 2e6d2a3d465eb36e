package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/secret"
)

func password(s string) AuthenticationInformation {
	return AuthenticationInformation{Information: secret.Copy([]byte(s)), Personal: secret.Copy([]byte("Rex"))}
}

// TestBinding binds a device, opens it without the server, brings it up to date
// after a reset, and refuses what it must.
func TestBinding(t *testing.T) {
	alice, bob := newWho(t, "alice", Password), newWho(t, "bob", KeyFile)
	_, o := create(t, "alice", alice, "mail", "money")
	o = alice.change(t, o, SetLevel{Level{Name: "half", Roles: []string{"mail"}}}, AddGrant{Authenticator: bob.a, Level: "half"})
	bank, letters := put(t, o, "bank", "m1", "money"), put(t, o, "letters", "l1", "mail")
	device := NewID()
	b, err := Bind(o, alice.a, password("one"), device, []*SignedAsset{letters, bank}, at)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range o.Roles {
		if bytes.Contains(raw, keys.Seed().Expose()) {
			t.Error("a role seed is in the binding in clear")
		}
	}
	if b, err = ParseBinding(raw); err != nil {
		t.Fatal(err)
	}
	off, err := b.Open(password("one"))
	if err != nil {
		t.Fatal(err)
	}
	if len(off.Roles) != 3 || off.Authenticator != alice.a.ID || off.Hash != o.Hash {
		t.Error("something else was opened")
	}
	a, err := b.Asset(off, "bank")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := off.AssetValue(a, "value"); err != nil || string(v.Expose()) != "m1" {
		t.Error("the secret does not open offline:", err)
	}
	if a, err := b.Asset(off, "none"); a != nil || err != nil {
		t.Errorf("an asset that is not there: %v, %v", a, err)
	}
	_, err = b.Open(password("two"))
	wantError(t, "another password", err, ErrOpen)
	_, err = b.Open(AuthenticationInformation{Information: secret.Copy([]byte("one")), Personal: secret.Copy([]byte("Max"))})
	wantError(t, "another answer", err, ErrOpen)

	// After a reset the device is brought up to date with the same binding key.
	next := alice.change(t, o, RotateRoles{[]string{"mail", "money", OwnerRole}})
	moved, err := next.Reseal(verify(t, next, bank), at, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := *b
	later := at.Add(time.Hour)
	wantError(t, "updating with another password", b.Update(next, password("two"), nil, later), ErrOpen)
	wantError(t, "updating as another authenticator", b.Update(bob.open(t, next.Signed), password("one"), nil, later), ErrNotGranted)
	wantError(t, "updating with two of one name", b.Update(next, password("one"), []*SignedAsset{bank, moved}, later), ErrRecord)
	if !bytes.Equal(mustJSON(t, b), mustJSON(t, before)) {
		t.Error("a failed update changed the binding")
	}
	if err := b.Update(next, password("one"), []*SignedAsset{moved}, later); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.WrappedKey, before.WrappedKey) || !b.Synced.Equal(later) || len(b.Assets) != 1 {
		t.Error("the update is not what was asked for")
	}
	if off, err = b.Open(password("one")); err != nil {
		t.Fatal(err)
	}
	if len(off.Past) != 3 || !off.Roles["money"].Seed().Equal(next.Roles["money"].Seed()) {
		t.Error("the device does not have the new keys")
	}
	if a, err = b.Asset(off, "bank"); err != nil {
		t.Fatal(err)
	}
	if v, err := off.AssetValue(a, "value"); err != nil || string(v.Expose()) != "m1" {
		t.Error("the secret does not open after the update:", err)
	}
	wantError(t, "going back", b.Update(o, password("one"), nil, later), ErrRolledBack)

	// Another secret: the same device with another binding key.
	before = *b
	wantError(t, "going back with another secret", b.Rebind(o, alice.a, password("two"), nil, later), ErrRolledBack)
	wantError(t, "binding again as another authenticator", b.Rebind(bob.open(t, next.Signed), bob.a, password("two"), nil, later), ErrNotGranted)
	if !bytes.Equal(mustJSON(t, b), mustJSON(t, before)) {
		t.Error("what was refused changed the binding")
	}
	if err := b.Rebind(next, alice.a, password("two"), []*SignedAsset{moved}, later); err != nil {
		t.Fatal(err)
	}
	if b.DeviceID != device || bytes.Equal(b.WrappedKey, before.WrappedKey) || len(b.Assets) != 1 {
		t.Error("the device was not bound again as it is")
	}
	_, err = b.Open(password("one"))
	wantError(t, "the old secret", err, ErrOpen)
	if _, err := b.Open(password("two")); err != nil {
		t.Error("the new secret:", err)
	}
}

// TestBindingRefused: what is not bound, and what is not read.
func TestBindingRefused(t *testing.T) {
	alice, bob, third := newWho(t, "alice", Password), newWho(t, "bob", KeyFile), newWho(t, "third", OIDC)
	third.a.PIN = true
	_, o := create(t, "alice", alice, "mail", "money")
	o = alice.change(t, o, AddGrant{Authenticator: third.a, Level: FullLevel}, AddGrant{Authenticator: bob.a, Level: FullLevel})
	_, err := Bind(third.open(t, o.Signed), third.a, password("1234"), NewID(), nil, at)
	wantError(t, "an authenticator with a part that the server holds", err, ErrNotBindable)
	_, err = Bind(o, bob.a, password("one"), NewID(), nil, at)
	wantError(t, "binding for another authenticator", err, ErrNotGranted)
	_, other := create(t, "alice", alice)
	_, err = Bind(o, alice.a, password("one"), NewID(), []*SignedAsset{put(t, other, "x", "y", OwnerRole)}, at)
	wantError(t, "an asset of another identity", err, ErrSignature)

	b, err := Bind(o, alice.a, password("one"), NewID(), []*SignedAsset{put(t, o, "a", "1", "mail"), put(t, o, "b", "2", "mail")}, at)
	if err != nil {
		t.Fatal(err)
	}
	good := mustJSON(t, b)
	for what, change := range map[string]func(*Binding){
		"format":                  func(b *Binding) { b.Format = 2 },
		"no device":               func(b *Binding) { b.DeviceID = ID{} },
		"a short salt":            func(b *Binding) { b.Salt = b.Salt[:15] },
		"a weak KDF":              func(b *Binding) { b.KDF.Memory = 8 },
		"another identity":        func(b *Binding) { b.Identity = NewID() },
		"another identity's name": func(b *Binding) { b.IdentityName = "bank" },
		"another authenticator":   func(b *Binding) { b.Authenticator = third.a.ID },
		"another method":          func(b *Binding) { b.Method = KeyFile },
		"a server part":           func(b *Binding) { b.Method = Phone },
		"parameters":              func(b *Binding) { b.Parameters.OIDC = &OIDCParameters{} },
		"a role less":             func(b *Binding) { b.Roles = b.Roles[1:] },
		"a role of another name":  func(b *Binding) { b.Roles[0].Role = "root" },
		"a generation":            func(b *Binding) { b.Roles[0].Generation++ },
		"a short key":             func(b *Binding) { b.WrappedKey = nil },
		"a terminal's control":    func(b *Binding) { b.PersonalInformation = "\x1b[2J" },
		"order":                   func(b *Binding) { b.Assets[0], b.Assets[1] = b.Assets[1], b.Assets[0] },
		"an asset twice":          func(b *Binding) { b.Assets[1] = b.Assets[0] },
		"a signature":             func(b *Binding) { b.Manifest.Signature[0] ^= 1 },
		"an asset's signature":    func(b *Binding) { b.Assets[0].Signature[0] ^= 1 },
		"another's manifest":      func(b *Binding) { b.Manifest = *other.Signed },
	} {
		c := &Binding{}
		if err := json.Unmarshal(good, c); err != nil {
			t.Fatal(err)
		}
		change(c)
		if _, err := c.Marshal(); err == nil {
			t.Errorf("%s: it is written", what)
		}
		if _, err := ParseBinding(mustJSON(t, c)); err == nil {
			t.Errorf("%s: it is read", what)
		} else if !errors.Is(err, ErrRecord) && !errors.Is(err, ErrSignature) && !errors.Is(err, ErrWeakKDF) && !errors.Is(err, ErrNotBindable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Role seeds put in each other's place.
	b.Roles[0].Wrapped, b.Roles[1].Wrapped = b.Roles[1].Wrapped, b.Roles[0].Wrapped
	_, err = b.Open(password("one"))
	wantError(t, "role seeds in each other's place", err, ErrOpen)
	if _, err := ParseBinding(make([]byte, MaxBinding+1)); !errors.Is(err, ErrRecord) {
		t.Error("too long:", err)
	}
}

// TestBindingParameters: offline, a certificate's key needs what it opens.
func TestBindingParameters(t *testing.T) {
	keys, id := drawKeys(t), NewID()
	wrapped, err := Wrap(NewSeed(), AuthenticatorSeedContext(id), keys.Seed())
	if err != nil {
		t.Fatal(err)
	}
	card := who{&Authenticator{Format: 1, ID: id, Name: "card", Method: Certificate, Keys: keys.Public(), KDF: DefaultKDF(), Created: at, Wrapped: wrapped,
		PersonalInformation: "Where were you born?",
		Parameters:          MethodParameters{Certificate: &CertificateParameters{Certificate: []byte{1}, Algorithm: "ecdh-p256", Sealed: []byte{2}}}}, keys}
	_, o := create(t, "alice", card)
	b, err := Bind(o, card.a, password("what the card opened"), NewID(), nil, at)
	if err != nil {
		t.Fatal(err)
	}
	if c := b.Parameters.Certificate; c == nil || !bytes.Equal(c.Sealed, []byte{2}) || b.PersonalInformation == "" {
		t.Errorf("the binding lacks what asks for the information: %+v", b.Parameters)
	}
}
