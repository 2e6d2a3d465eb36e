package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Errors of changes.
var (
	// ErrInUse: what is to be removed is still used; the error says by whom.
	ErrInUse = errors.New("identity: it is in use")
	// ErrUnopened: nobody would open a role any more, and what is sealed to it
	// would be lost. RemoveGrant.Force says that this is meant.
	ErrUnopened = errors.New("identity: no authenticator would open a role any more: what is sealed to it would be lost for good")
	// ErrPending: a reset is not finished: the role still has past keys.
	ErrPending = errors.New("identity: an earlier reset is not finished")
)

// resetReserve is what changes other than a reset leave of MaxManifest, in bytes:
// for each role the keys before (about 270), and the owner's succession. An
// identity that had no room for these would have to keep who was lost.
const resetReserve = 12 << 10

// Change is one change of a manifest: AddRole, RemoveRole, SetLevel, RemoveLevel,
// AddGrant, SetGrant, RemoveGrant, SetKind, RotateRoles, DropPast.
type Change interface{ apply(*changeState) error }

// changeState is a manifest while it changes. Changes say which level has which
// roles and which authenticator which level; what is sealed is made once at the
// end, so that it fits whatever order they came in.
type changeState struct {
	o     *Opened // nil for a new identity
	m     *Manifest
	roles map[string]*Keys // present keys at hand: the Opened's and new ones
	made  []*Keys          // of roles, the new ones
	force bool             // a role may be left that nobody opens
	// rotated: it is a reset, which may use resetReserve.
	rotated bool
}

// Change applies changes in their order, all or none, and returns the next
// manifest, signed; the identity has changed once the server has stored it in
// place of exactly the one that o was opened from. It changes nothing in o: open
// the new manifest to go on. Needs the owner role. Errors: ErrNotHeld, ErrInUse,
// ErrUnopened, ErrPending, ErrRecord.
func (o *Opened) Change(now time.Time, changes ...Change) (*SignedManifest, error) {
	c := &changeState{o: o, m: &Manifest{}, roles: map[string]*Keys{}}
	defer c.wipe(true)
	if len(changes) == 0 {
		return nil, errors.New("identity: nothing to change")
	}
	if err := json.Unmarshal(o.Signed.Manifest, c.m); err != nil { // a copy; it has verified
		return nil, invalid("the manifest cannot be read again")
	}
	for role, keys := range o.Roles {
		c.roles[role] = keys
	}
	if c.roles[OwnerRole] == nil {
		return nil, fmt.Errorf("changing %s: %w", o.Manifest.Name, o.notHeld(OwnerRole))
	}
	for _, change := range changes {
		if err := change.apply(c); err != nil {
			return nil, err
		}
	}
	c.m.Previous = o.Hash[:]
	signed, err := c.sign(now)
	if err != nil {
		return nil, err
	}
	if n := len(signed.Manifest); n > MaxManifest-resetReserve && n > len(o.Signed.Manifest) && !c.rotated {
		return nil, invalid("the manifest would have %d bytes, and beyond %d there is room for a reset only: remove grants or roles", n, MaxManifest-resetReserve)
	}
	// The rules that the server goes by: what they refuse is refused here, before
	// anything else is done.
	if _, err := signed.VerifyNext(o.Signed); err != nil {
		return nil, err
	}
	return signed, nil
}

// sign seals, checks and signs the next generation.
func (c *changeState) sign(now time.Time) (*SignedManifest, error) {
	for i := range c.m.Grants {
		g := &c.m.Grants[i]
		if g.Granted.IsZero() {
			g.Granted = stamp(now)
		}
		if err := c.seal(g); err != nil {
			return nil, err
		}
	}
	for _, r := range c.m.Roles {
		if len(c.m.openers(r.Name)) > 0 {
			continue
		}
		was := c.o != nil && c.o.Manifest.Role(r.Name) != nil
		if !was {
			return nil, fmt.Errorf("role %s: %w; add it to the level of an authenticator", r.Name, ErrUnopened)
		}
		if before := c.o.Manifest.openers(r.Name); len(before) > 0 && !c.force {
			return nil, fmt.Errorf("role %s, which is opened by %s: %w", r.Name, strings.Join(before, ", "), ErrUnopened)
		}
	}
	c.m.Generation++
	c.m.Time = stamp(now)
	return SignManifest(c.m, c.roles[OwnerRole])
}

// seal makes a grant's sealed seeds fit its level. What fits already is kept: its
// role need not be at hand.
func (c *changeState) seal(g *Grant) error {
	l := c.m.Level(g.Level)
	if l == nil {
		return invalid("authenticator %s has level %s, which does not exist", g.Name, g.Level)
	}
	sealed := make([]SealedRole, 0, len(l.Roles))
	for _, name := range l.Roles {
		r := c.m.Role(name)
		if r == nil {
			return invalid("level %s opens role %s, which does not exist", l.Name, name)
		}
		if i := slices.IndexFunc(g.Sealed, func(s SealedRole) bool { return s.Role == name && s.Generation == r.Generation }); i >= 0 {
			sealed = append(sealed, g.Sealed[i])
			continue
		}
		keys, err := c.held(name)
		if err != nil {
			return fmt.Errorf("granting level %s to %s: %w", l.Name, g.Name, err)
		}
		b, err := Seal(g.Keys, RoleSeedContext(c.m.Identity, name, r.Generation, g.Authenticator), keys.Seed())
		if err != nil {
			return fmt.Errorf("sealing role %s to %s: %w", name, g.Name, err)
		}
		sealed = append(sealed, SealedRole{Role: name, Generation: r.Generation, Sealed: b})
	}
	g.Sealed = sealed
	return nil
}

// held returns a role's present keys or ErrNotHeld.
func (c *changeState) held(role string) (*Keys, error) {
	if keys := c.roles[role]; keys != nil {
		return keys, nil
	}
	if c.o == nil {
		return nil, fmt.Errorf("role %s: %w", role, ErrNotHeld)
	}
	return nil, c.o.notHeld(role)
}

// newKeys draws keys and remembers to wipe them.
func (c *changeState) newKeys() (*Keys, error) {
	seed := NewSeed()
	defer seed.Wipe()
	keys, err := NewKeys(seed)
	if err != nil {
		return nil, err
	}
	c.made = append(c.made, keys)
	return keys, nil
}

// makeRole adds a role of generation 1.
func (c *changeState) makeRole(name string) error {
	keys, err := c.newKeys()
	if err != nil {
		return err
	}
	c.roles[name] = keys
	c.m.Roles = append(c.m.Roles, Role{Name: name, Generation: 1, Keys: keys.Public()})
	slices.SortFunc(c.m.Roles, func(x, y Role) int { return compareNames(x.Name, y.Name) })
	return nil
}

// wipe forgets the keys that were made, unless they are somebody's now.
func (c *changeState) wipe(all bool) {
	if all {
		for _, k := range c.made {
			k.Wipe()
		}
	}
}
