package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"vault-plugin-secrets-mpc/secret"
)

// slot is a place for a ciphertext, and how whoever may open it opens it.
type slot struct {
	name  string
	bytes []byte
	open  func([]byte) (*secret.Bytes, error)
}

// hostileWorld has two identities whose roles, levels and assets have the same
// names, with the same authenticators in both, before and after a reset: as much
// alike as records can be.
type hostileWorld struct {
	alice, bob who
	one        *Keys         // of oneKey
	identities [2][2]*Opened // by identity, then before and after the reset; opened by alice
	byBob      [2]*Opened
	assets     [2][2][]*SignedAsset // bank, mail, coins
}

func newHostileWorld(t *testing.T) *hostileWorld {
	h := &hostileWorld{alice: newWho(t, "alice", Password), bob: newWho(t, "bob", KeyFile), one: drawKeys(t)}
	for i := range h.identities {
		_, o := create(t, "same", h.alice, "money", "mail")
		o = h.alice.change(t, o, SetLevel{Level{Name: "half", Roles: []string{"money", "mail"}}}, AddGrant{Authenticator: h.bob.a, Level: "half"})
		h.identities[i][0], h.byBob[i] = o, h.bob.open(t, o.Signed)
		for _, name := range []string{"bank", "mail"} {
			s, err := o.WriteAsset(o.NewAsset(name, SecretAsset), at, func(a *Asset) error {
				for _, key := range []string{"pin", "word"} {
					value := fmt.Sprintf("%d %s %s", i, name, key)
					if err := o.sealTo(a, key, nil, secret.Copy([]byte(value)), []string{"mail", "money"}); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			h.assets[i][0] = append(h.assets[i][0], s)
		}
		h.assets[i][0] = append(h.assets[i][0], putAccount(t, o, "coins", "money"))
		next := h.alice.change(t, o, RotateRoles{[]string{"money", "mail", OwnerRole}})
		h.identities[i][1] = next
		for _, s := range h.assets[i][0] {
			moved, err := next.Reseal(verify(t, next, s), at, nil)
			if err != nil {
				t.Fatal(err)
			}
			h.assets[i][1] = append(h.assets[i][1], moved)
		}
	}
	return h
}

// slots lists every ciphertext that there is, with the opening of its place.
func (h *hostileWorld) slots(t *testing.T) []slot {
	var out []slot
	for i := range h.identities {
		for age, o := range h.identities[i] {
			at := fmt.Sprintf("identity %d age %d", i, age)
			m := o.Manifest
			for _, g := range m.Grants {
				keys := h.alice.keys
				if g.Authenticator == h.bob.a.ID {
					keys = h.bob.keys
				}
				for _, s := range g.Sealed {
					out = append(out, h.oneKey(t, at+" grant "+g.Name+" "+s.Role, RoleSeedContext(m.Identity, s.Role, s.Generation, g.Authenticator)))
					out = append(out, slot{at + " grant " + g.Name + " " + s.Role, s.Sealed, func(b []byte) (*secret.Bytes, error) {
						return keys.Open(RoleSeedContext(m.Identity, s.Role, s.Generation, g.Authenticator), b)
					}})
				}
			}
			for _, r := range m.Roles {
				if r.Past != nil {
					out = append(out, h.oneKey(t, at+" past "+r.Name, PastSeedContext(m.Identity, r.Name, r.Past.Generation, r.Generation)))
					out = append(out, slot{at + " past " + r.Name, r.Past.Sealed, func(b []byte) (*secret.Bytes, error) {
						return o.Roles[r.Name].Open(PastSeedContext(m.Identity, r.Name, r.Past.Generation, r.Generation), b)
					}})
				}
			}
			for _, signed := range h.assets[i][age] {
				a := verify(t, o, signed)
				for n, k := range a.Keys {
					for v, s := range k.Sealed {
						out = append(out, h.oneKey(t, at+" "+a.Name+" "+k.Name+" for "+s.Role, AssetKeyContext(m.Identity, a.ID, k.Name, k.Generation, s.Role, s.Generation)))
						out = append(out, slot{at + " " + a.Name + " " + k.Name + " for " + s.Role, s.Sealed, func(b []byte) (*secret.Bytes, error) {
							c := a.clone()
							c.Keys[n].Sealed[v].Sealed = b
							return OpenAssetKey(c, k.Name, s.Role, s.Generation, o.Roles[s.Role])
						}})
					}
					out = append(out, h.oneKey(t, at+" "+a.Name+" value of "+k.Name, AssetValueContext(m.Identity, a.ID, k.Name, k.Generation)))
					out = append(out, slot{at + " " + a.Name + " value of " + k.Name, k.Value, func(b []byte) (*secret.Bytes, error) {
						c := a.clone()
						c.Keys[n].Value = b
						return o.AssetValue(c, k.Name)
					}})
				}
			}
		}
	}
	kek := NewSeed() // one for both, as if two people had one password and the server one OPRF key
	for _, w := range []who{h.alice, h.bob} {
		wrapped, err := Wrap(kek, AuthenticatorSeedContext(w.a.ID), w.keys.Seed())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, slot{"seed of " + w.a.Name, wrapped, func(b []byte) (*secret.Bytes, error) {
			return Unwrap(kek, AuthenticatorSeedContext(w.a.ID), b)
		}})
		sealed, err := Seal(w.keys.Public(), ServerPartContext(w.a.ID), kek)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, slot{"server part of " + w.a.Name, sealed, func(b []byte) (*secret.Bytes, error) {
			return w.keys.Open(ServerPartContext(w.a.ID), b)
		}})
	}
	return out
}

// oneKey is the place with the same key as all others instead of its own, so that
// nothing but the context keeps the places apart.
func (h *hostileWorld) oneKey(t *testing.T, name string, c Context) slot {
	sealed, err := Seal(h.one.Public(), c, h.one.Seed())
	if err != nil {
		t.Fatal(err)
	}
	return slot{name + ", one key for all", sealed, func(b []byte) (*secret.Bytes, error) { return h.one.Open(c, b) }}
}

// TestWrongSeed is an owner whose program seals something else than the role's
// seed: who opens it notices, and does not write with keys that nobody else has.
func TestWrongSeed(t *testing.T) {
	alice := newWho(t, "alice", Password)
	_, o := create(t, "alice", alice, "mail")
	o = alice.change(t, o, RotateRoles{[]string{"mail"}})
	id, other := o.Manifest.Identity, drawKeys(t)
	for what, change := range map[string]func(*Manifest) error{
		"a role's seed": func(m *Manifest) (err error) {
			s := &m.Grants[0].Sealed[0]
			s.Sealed, err = Seal(alice.keys.Public(), RoleSeedContext(id, s.Role, s.Generation, alice.a.ID), other.Seed())
			return err
		},
		"a past seed": func(m *Manifest) (err error) {
			r := m.Role("mail")
			r.Past.Sealed, err = Seal(r.Keys, PastSeedContext(id, "mail", 1, 2), other.Seed())
			return err
		},
	} {
		m := copyOf(t, o.Manifest)
		if err := change(m); err != nil {
			t.Fatal(err)
		}
		s, err := SignManifest(m, o.Roles[OwnerRole])
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = OpenIdentity(s, Pin{}, alice.a.ID, alice.keys)
		wantError(t, what, err, ErrOpen)
	}
}

// TestSwappedCiphertexts puts every ciphertext in every other one's place, as a
// server that has also learnt to sign could: each opens in its own and in no other.
func TestSwappedCiphertexts(t *testing.T) {
	list := newHostileWorld(t).slots(t)
	for i, place := range list {
		for j, from := range list {
			got, err := place.open(from.bytes)
			switch {
			case i == j && err != nil:
				t.Errorf("%s does not open: %v", place.name, err)
			case i != j && err == nil:
				t.Errorf("%s opens in the place of %s, as %d bytes", from.name, place.name, got.Len())
			case i != j && !errors.Is(err, ErrOpen) && !errors.Is(err, ErrRecord):
				t.Errorf("%s in the place of %s: another error: %v", from.name, place.name, err)
			}
		}
	}
	t.Logf("%d ciphertexts, %d swaps", len(list), len(list)*(len(list)-1))
}

// TestSwappedRecords is the server that cannot sign: it answers with every signed
// record that there is where another was asked for.
func TestSwappedRecords(t *testing.T) {
	h := newHostileWorld(t)
	for i := range h.identities {
		for age, o := range h.identities[i] {
			pin, err := Pin{}.Check(o.Signed, o.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			for j := range h.identities {
				for otherAge, other := range h.identities[j] {
					_, got, err := OpenIdentity(other.Signed, pin, h.alice.a.ID, h.alice.keys)
					good := i == j && otherAge >= age
					if good != (err == nil) {
						t.Errorf("identity %d age %d for a pin of %d age %d: %v", j, otherAge, i, age, err)
					}
					if !good && (got.Generation != pin.Generation || !errors.Is(err, ErrRolledBack)) {
						t.Errorf("identity %d age %d for a pin of %d age %d: the pin moved, or another error: %v", j, otherAge, i, age, err)
					}
					for n, s := range h.assets[j][otherAge] {
						for asked, name := range []string{"bank", "mail", "coins"} {
							_, err := o.OpenAssetNamed(name, s)
							// Assets of before a reset are good during it.
							good := i == j && otherAge <= age && n == asked
							if good != (err == nil) || !good && !errors.Is(err, ErrSignature) {
								t.Errorf("asset %d of identity %d age %d where identity %d age %d has %s: %v", n, j, otherAge, i, age, name, err)
							}
						}
					}
				}
			}
			// The signature of another record under this one.
			for _, s := range h.assets[i][age] {
				if _, err := (&SignedManifest{o.Signed.Manifest, s.Signature}).Verify(); !errors.Is(err, ErrSignature) {
					t.Errorf("an asset's signature under a manifest: %v", err)
				}
				if _, err := (&SignedAsset{s.Asset, o.Signed.Signature}).Verify(o.Manifest); !errors.Is(err, ErrSignature) {
					t.Errorf("a manifest's signature under an asset: %v", err)
				}
			}
		}
	}
	if _, _, err := OpenIdentity(h.identities[0][1].Signed, Pin{}, h.bob.a.ID, h.alice.keys); !errors.Is(err, ErrNotGranted) {
		t.Errorf("alice as bob: %v", err)
	}
}

// TestOldOwner is the thief of an authenticator who works together with the
// server: with the owner keys of before the reset he makes a manifest of any
// generation that verifies by itself. Who has seen the reset does not take it.
func TestOldOwner(t *testing.T) {
	h := newHostileWorld(t)
	old, now := h.identities[0][0], h.identities[0][1]
	pin, _ := Pin{}.Check(now.Signed, now.Manifest)
	forged := *old
	for range 5 {
		s, err := forged.Change(at, RemoveGrant{Authenticator: h.bob.a.ID})
		if err != nil {
			s, err = forged.Change(at, AddGrant{Authenticator: h.bob.a, Level: FullLevel})
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Verify()
		if err != nil {
			t.Fatal("the forgery must verify by itself, or this tests nothing:", err)
		}
		if _, err := pin.Check(s, m); !errors.Is(err, ErrRolledBack) {
			t.Errorf("a client that has seen the reset takes generation %d by the owner before it: %v", m.Generation, err)
		}
		if _, err := s.VerifyNext(now.Signed); err == nil {
			t.Errorf("a server that has stored the reset takes generation %d by the owner before it", m.Generation)
		}
		forged.Manifest, forged.Signed, forged.Hash = m, s, s.Hash()
	}
	// One that names the present owner in its succession and signs with the old keys.
	m := copyOf(t, now.Manifest)
	m.Generation++
	m.Previous = now.Hash[:]
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	s := &SignedManifest{raw, old.Roles[OwnerRole].Sign(ManifestContext(m.Identity), raw)}
	if _, err := s.Verify(); !errors.Is(err, ErrSignature) {
		t.Errorf("signed with the keys before: %v", err)
	}
	// The next generation of what there is, with the owner and the succession of
	// before: it verifies by itself, and nobody who knows better takes it.
	m = copyOf(t, old.Manifest)
	m.Generation, m.Previous = now.Manifest.Generation+1, now.Hash[:]
	if s, err = SignManifest(m, old.Roles[OwnerRole]); err != nil {
		t.Fatal(err)
	}
	_, err = s.VerifyNext(now.Signed)
	wantError(t, "a server, asked to store what the owner before made the next", err, ErrSignature)
	_, err = pin.Check(s, m)
	wantError(t, "a client, shown what the owner before made the next", err, ErrRolledBack)
	// Two owners at one time: another branch from what this client has seen.
	left, err := now.Change(at, SetKind{Persona})
	if err != nil {
		t.Fatal(err)
	}
	right, err := now.Change(at, SetKind{Organization})
	if err != nil {
		t.Fatal(err)
	}
	l, r := h.alice.open(t, left), h.alice.open(t, right)
	if pin, err = pin.Check(left, l.Manifest); err != nil {
		t.Fatal(err)
	}
	after, err := r.Change(at, SetKind{Person})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*SignedManifest{right, after} {
		m, _ := s.Verify()
		if _, err := pin.Check(s, m); !errors.Is(err, ErrRolledBack) {
			t.Errorf("generation %d of another branch: %v", m.Generation, err)
		}
	}
}

func copyOf[T any](t testing.TB, v *T) *T {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out := new(T)
	if err := json.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTampered changes every byte of an asset and an authenticator, and every
// third one of a manifest, which is long.
func TestTampered(t *testing.T) {
	h := newHostileWorld(t)
	o := h.identities[0][1]
	flip := func(b []byte, i int) []byte {
		c := bytes.Clone(b)
		c[i] ^= 1
		return c
	}
	wrong := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrRecord) && !errors.Is(err, ErrSignature) && !errors.Is(err, ErrWeakKDF) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := o.Signed
	for i := 0; i < len(s.Manifest); i += 3 {
		_, err := (&SignedManifest{flip(s.Manifest, i), s.Signature}).Verify()
		wrong(fmt.Sprintf("byte %d of the manifest", i), err)
	}
	for i := range s.Signature {
		_, err := (&SignedManifest{s.Manifest, flip(s.Signature, i)}).Verify()
		wrong(fmt.Sprintf("byte %d of its signature", i), err)
	}
	a := h.assets[0][1][2]
	for i := range a.Asset {
		_, err := (&SignedAsset{flip(a.Asset, i), a.Signature}).Verify(o.Manifest)
		wrong(fmt.Sprintf("byte %d of the asset", i), err)
	}
	w, err := SignAuthenticator(h.alice.a, h.alice.keys)
	if err != nil {
		t.Fatal(err)
	}
	for i := range w.Authenticator {
		_, err := (&SignedAuthenticator{flip(w.Authenticator, i), w.Signature}).Verify()
		wrong(fmt.Sprintf("byte %d of the authenticator", i), err)
	}
	// Two forms of one record: neither space nor a field twice, in another case or
	// of another order passes, even if it is signed.
	sign := func(raw string) *SignedAuthenticator {
		return &SignedAuthenticator{[]byte(raw), h.alice.keys.Sign(AuthenticatorContext(h.alice.a.ID), []byte(raw))}
	}
	good := string(w.Authenticator)
	if _, err := sign(good).Verify(); err != nil {
		t.Fatal(err)
	}
	for what, raw := range map[string]string{
		"space":         " " + good,
		"line":          good + "\n",
		"another case":  string(bytes.Replace(w.Authenticator, []byte(`"name"`), []byte(`"Name"`), 1)),
		"twice":         `{"format":1,` + good[1:],
		"unknown field": `{"new":1,` + good[1:],
		"two values":    good + good,
		"null":          "null",
		"nothing":       "",
	} {
		if _, err := sign(raw).Verify(); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
