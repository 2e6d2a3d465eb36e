package identity

import (
	"errors"
	"testing"
)

// TestManifestRefused lists manifests that are signed by the owner and that no one
// accepts.
func TestManifestRefused(t *testing.T) {
	alice, third := newWho(t, "alice", Password), newWho(t, "third", OIDC)
	_, o := create(t, "alice", alice, "mail")
	o = alice.change(t, o, SetLevel{Level{Name: "open", Roles: []string{"mail"}, ServerTrusting: true}}, AddGrant{Authenticator: third.a, Level: "open"})
	o = alice.change(t, o, RotateRoles{[]string{"mail", OwnerRole}})
	owner, other := o.Roles[OwnerRole], drawKeys(t).Public()
	if _, err := SignManifest(copyOf(t, o.Manifest), owner); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Manifest){
		"format":                          func(m *Manifest) { m.Format = 2 },
		"no generation":                   func(m *Manifest) { m.Generation = 0 },
		"no previous one":                 func(m *Manifest) { m.Previous = nil },
		"a short hash of it":              func(m *Manifest) { m.Previous = m.Previous[1:] },
		"another identity":                func(m *Manifest) { m.Identity = NewID() },
		"name":                            func(m *Manifest) { m.Name = "a/b" },
		"roles out of order":              func(m *Manifest) { m.Roles[0], m.Roles[1] = m.Roles[1], m.Roles[0] },
		"no owner role":                   func(m *Manifest) { m.Roles = m.Roles[:1] },
		"a role without a key":            func(m *Manifest) { m.Roles[0].Keys = PublicKeys{} },
		"past keys of long ago":           func(m *Manifest) { m.Roles[0].Generation, m.Roles[0].Past.Generation = 5, 1 },
		"past keys of now":                func(m *Manifest) { m.Roles[0].Past.Generation = 2 },
		"past owner keys of nobody":       func(m *Manifest) { m.Role(OwnerRole).Past.Keys = other },
		"past keys without a seed":        func(m *Manifest) { m.Roles[0].Past.Sealed = nil },
		"a level for a role of no one":    func(m *Manifest) { m.Levels[0].Roles = []string{"x"} },
		"a level twice":                   func(m *Manifest) { m.Levels[1] = m.Levels[0] },
		"the owner role for the server":   func(m *Manifest) { m.Level(FullLevel).ServerTrusting = true },
		"a password that trusts":          func(m *Manifest) { m.Grants[1].Kind = Password },
		"a level closed to one":           func(m *Manifest) { m.Level("open").ServerTrusting = false },
		"a grant of no level":             func(m *Manifest) { m.Grants[0].Level = "x" },
		"a grant of more than its level":  func(m *Manifest) { m.Grants[1].Sealed = m.Grants[0].Sealed },
		"a grant of less":                 func(m *Manifest) { m.Grants[0].Sealed = m.Grants[0].Sealed[1:] },
		"a grant of an old generation":    func(m *Manifest) { m.Grants[0].Sealed[0].Generation = 1 },
		"a grant to nobody":               func(m *Manifest) { m.Grants[1].Authenticator = ID{} },
		"two grants to one":               func(m *Manifest) { m.Grants[1].Authenticator = m.Grants[0].Authenticator },
		"a grant of no kind":              func(m *Manifest) { m.Grants[1].Kind = "retina" },
		"no grants":                       func(m *Manifest) { m.Grants = nil },
		"no succession":                   func(m *Manifest) { m.Succession = nil },
		"a succession without its middle": func(m *Manifest) { m.Succession = m.Succession[:1] },
		"a succession by nobody":          func(m *Manifest) { m.Succession[1].Signature[0] ^= 1 },
		"a succession to another":         func(m *Manifest) { m.Succession[1].Keys = other },
		"a succession from another":       func(m *Manifest) { m.Succession[0].Keys = other },
	} {
		m := copyOf(t, o.Manifest)
		change(m)
		if _, err := SignManifest(m, owner); !errors.Is(err, ErrRecord) && !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", what, err)
		}
		raw := mustJSON(t, m)
		s := &SignedManifest{raw, owner.Sign(ManifestContext(m.Identity), raw)}
		if _, err := s.Verify(); !errors.Is(err, ErrRecord) && !errors.Is(err, ErrSignature) {
			t.Errorf("%s verifies: %v", what, err)
		}
	}
	if _, err := SignManifest(o.Manifest, alice.keys); err == nil {
		t.Error("signed with keys that are not the owner's")
	}
}
