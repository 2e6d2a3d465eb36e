package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/secret"
)

// Errors of opening. Every error that wraps ErrNotHeld names the role and who
// opens it.
var (
	ErrNotHeld    = errors.New("identity: this authenticator does not open a role that is needed")
	ErrNotGranted = errors.New("identity: this authenticator has no access to the identity")
)

// Opened is an identity as one authenticator opens it: the verified manifest and
// the keys of the roles of its level. It is read by any number of goroutines until
// Wipe; nobody changes it.
type Opened struct {
	Manifest *Manifest
	Signed   *SignedManifest
	Hash     [32]byte         // of Signed
	Roles    map[string]*Keys // of the present generation
	Past     map[string]*Keys // of the generation before, of roles that still have one
	// Authenticator is who opened it.
	Authenticator ID
}

// OpenIdentity verifies a manifest, checks it against the pin (the zero pin is
// none), and opens the roles that it grants to the authenticator whose keys these
// are. It returns the pin to keep; with an error that is the old one. The caller
// wipes keys, which Opened does not keep. Errors: ErrRecord, ErrSignature,
// ErrRolledBack, ErrNotGranted, ErrOpen.
func OpenIdentity(s *SignedManifest, pin Pin, authenticator ID, keys *Keys) (*Opened, Pin, error) {
	m, err := s.Verify()
	if err != nil {
		return nil, pin, err
	}
	next, err := pin.Check(s, m)
	if err != nil {
		return nil, pin, err
	}
	g := m.Grant(authenticator)
	if g == nil {
		return nil, pin, fmt.Errorf("%s: %w", m.Name, ErrNotGranted)
	}
	if !g.Keys.Equal(keys.Public()) {
		return nil, pin, fmt.Errorf("%s grants %s to other keys than those of this authenticator: %w", m.Name, g.Level, ErrNotGranted)
	}
	o := newOpened(s, m, authenticator)
	for _, sealed := range g.Sealed {
		seed, err := keys.Open(RoleSeedContext(m.Identity, sealed.Role, sealed.Generation, authenticator), sealed.Sealed)
		if err == nil {
			err = o.addRole(sealed.Role, seed)
			seed.Wipe()
		}
		if err != nil {
			o.Wipe()
			return nil, pin, fmt.Errorf("opening role %s of %s: %w", sealed.Role, m.Name, err)
		}
	}
	return o, next, nil
}

func newOpened(s *SignedManifest, m *Manifest, authenticator ID) *Opened {
	return &Opened{Manifest: m, Signed: s, Hash: s.Hash(), Roles: map[string]*Keys{}, Past: map[string]*Keys{}, Authenticator: authenticator}
}

// addRole takes a role's seed, which must be that of the role's public keys, and
// opens the seed before it where there is one.
func (o *Opened) addRole(name string, seed *secret.Bytes) error {
	r := o.Manifest.Role(name)
	keys, err := keysOf(seed, r.Keys)
	if err != nil {
		return err
	}
	o.Roles[name] = keys
	if r.Past == nil {
		return nil
	}
	past, err := keys.Open(PastSeedContext(o.Manifest.Identity, name, r.Past.Generation, r.Generation), r.Past.Sealed)
	if err != nil {
		return err
	}
	defer past.Wipe()
	if keys, err = keysOf(past, r.Past.Keys); err != nil {
		return err
	}
	o.Past[name] = keys
	return nil
}

// keysOf derives the keys of a seed that must have these public halves.
func keysOf(seed *secret.Bytes, public PublicKeys) (*Keys, error) {
	keys, err := NewKeys(seed)
	if err != nil {
		return nil, err
	}
	if !keys.Public().Equal(public) {
		keys.Wipe()
		return nil, fmt.Errorf("what is sealed is not the seed of the keys that the manifest names: %w", ErrOpen)
	}
	return keys, nil
}

// Wipe forgets all keys.
func (o *Opened) Wipe() {
	if o == nil {
		return
	}
	for _, set := range []map[string]*Keys{o.Roles, o.Past} {
		for _, k := range set {
			k.Wipe()
		}
		clear(set)
	}
}

// OpenAsset verifies an asset of this identity. It opens none of its keys.
func (o *Opened) OpenAsset(s *SignedAsset) (*Asset, error) { return s.Verify(o.Manifest) }

// OpenAssetNamed is OpenAsset where the server was asked for a name: an answer
// with another asset of the identity is refused with ErrSignature.
func (o *Opened) OpenAssetNamed(name string, s *SignedAsset) (*Asset, error) {
	a, err := o.OpenAsset(s)
	if err != nil {
		return nil, err
	}
	if a.Name != name {
		return nil, fmt.Errorf("the server answered with asset %s when it was asked for another: %w", a.Name, ErrSignature)
	}
	return a, nil
}

// AssetValue opens a key of a verified asset with any role that may. The caller
// wipes it. Errors: ErrNotHeld, ErrOpen, ErrRecord.
func (o *Opened) AssetValue(a *Asset, key string) (*secret.Bytes, error) {
	k := a.Key(key)
	if k == nil {
		return nil, invalid("asset %s has no key %q", a.Name, key)
	}
	var roles []string
	for _, s := range k.Sealed {
		if keys := o.roleAt(s.Role, s.Generation); keys != nil {
			return OpenAssetKey(a, key, s.Role, s.Generation, keys)
		}
		roles = append(roles, s.Role)
	}
	return nil, fmt.Errorf("key %s of asset %s: %w", key, a.Name, o.notHeld(roles...))
}

// roleAt returns a role's keys of that generation, or nil.
func (o *Opened) roleAt(name string, generation uint64) *Keys {
	r := o.Manifest.Role(name)
	switch {
	case r == nil:
		return nil
	case generation == r.Generation:
		return o.Roles[name]
	case r.Past != nil && generation == r.Past.Generation:
		return o.Past[name]
	}
	return nil
}

// notHeld says which roles (any of them would do) are needed and who opens them.
func (o *Opened) notHeld(roles ...string) error {
	var holders []string
	for _, role := range roles {
		holders = append(holders, o.Manifest.openers(role)...)
	}
	slices.Sort(holders)
	who := "nobody does"
	if holders = slices.Compact(holders); len(holders) > 0 {
		who = "these authenticators do: " + strings.Join(holders, ", ")
	}
	return fmt.Errorf("%w: role %s; %s", ErrNotHeld, strings.Join(roles, " or "), who)
}

// openers are the names of the authenticators that open a role, ascending.
func (m *Manifest) openers(role string) []string {
	var out []string
	for _, g := range m.Grants {
		if slices.ContainsFunc(g.Sealed, func(s SealedRole) bool { return s.Role == role }) {
			out = append(out, g.Name)
		}
	}
	return out
}
