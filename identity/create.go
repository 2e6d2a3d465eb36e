package identity

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// FullLevel is the level that Create makes where no levels are given: it opens
// every role.
const FullLevel = "full"

// NewIdentity is what Create makes an identity of.
type NewIdentity struct {
	Name string
	Kind Kind
	// Roles beside the owner role.
	Roles []string
	// Levels; none means one, FullLevel. One must open all roles: the first
	// authenticator has it, since nobody else is there to open them.
	Levels []Level
	// Authenticator is the first one. It cannot be a server-trusting one.
	Authenticator *Authenticator
	// Keys are its keys, nil if they are not at hand; only compared.
	Keys *Keys
	// Level of the first authenticator; FullLevel if empty.
	Level string
	Time  time.Time
}

// Create makes an identity: keys for its roles, sealed to the first authenticator.
// The caller wipes the Opened.
func Create(n NewIdentity) (*SignedManifest, *Opened, error) {
	a := n.Authenticator
	if n.Keys != nil && !a.Keys.Equal(n.Keys.Public()) {
		return nil, nil, fmt.Errorf("identity: these are not the keys of authenticator %s", a.Name)
	}
	levels := slices.Clone(n.Levels)
	roles := sortedNames(append(slices.Clone(n.Roles), OwnerRole))
	if len(levels) == 0 {
		levels = []Level{{Name: FullLevel, Roles: roles}}
	}
	c := &changeState{m: &Manifest{Format: 1, Name: n.Name, Kind: n.Kind}, roles: map[string]*Keys{}}
	ok := false
	defer func() { c.wipe(!ok) }()
	for _, role := range roles {
		if err := c.makeRole(role); err != nil {
			return nil, nil, err
		}
	}
	owner := c.roles[OwnerRole].Public()
	c.m.Identity, c.m.Succession = IdentityID(owner), []Succession{{Generation: 1, Keys: owner}}
	for _, l := range levels {
		if c.m.Level(l.Name) != nil {
			return nil, nil, invalid("two levels of the name %s", l.Name)
		}
		if err := (SetLevel{Level: l}).apply(c); err != nil {
			return nil, nil, err
		}
	}
	if err := (AddGrant{Authenticator: a, Level: cmp.Or(n.Level, FullLevel)}).apply(c); err != nil {
		return nil, nil, err
	}
	signed, err := c.sign(n.Time)
	if err != nil {
		return nil, nil, err
	}
	o := newOpened(signed, c.m, a.ID)
	o.Roles, ok = c.roles, true
	return signed, o, nil
}

// sortedNames sorts names, each once.
func sortedNames(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}

func compareNames(x, y string) int { return cmp.Compare(x, y) }
