package identity

import (
	"fmt"
	"slices"
)

// AddGrant gives an authenticator a level. That the record is the one of the
// person who is meant is for the user to know: compare Fingerprint, since a server
// could show the keys of somebody else.
type AddGrant struct {
	Authenticator *Authenticator
	Level         string
	// Custody lets a server-trusting authenticator open custody keys.
	Custody bool
}

func (x AddGrant) apply(c *changeState) error {
	a := x.Authenticator
	for _, g := range c.m.Grants {
		if g.Authenticator == a.ID || g.Name == a.Name {
			return fmt.Errorf("authenticator %s has level %s already: change or remove that: %w", g.Name, g.Level, ErrInUse)
		}
	}
	if err := a.Keys.Check(); err != nil {
		return err
	}
	g := Grant{Authenticator: a.ID, Name: a.Name, Kind: a.Method, Keys: a.Keys, ServerTrusting: a.ServerTrusting()}
	if err := c.setLevel(&g, x.Level, x.Custody); err != nil {
		return err
	}
	c.m.Grants = append(c.m.Grants, g)
	slices.SortFunc(c.m.Grants, func(x, y Grant) int { return compareNames(x.Name, y.Name) })
	return nil
}

// SetGrant gives an authenticator that has access another level.
type SetGrant struct {
	Authenticator ID
	Level         string
	Custody       bool
}

func (x SetGrant) apply(c *changeState) error {
	g := c.m.Grant(x.Authenticator)
	if g == nil {
		return fmt.Errorf("authenticator %s: %w", x.Authenticator, ErrNotGranted)
	}
	return c.setLevel(g, x.Level, x.Custody)
}

func (c *changeState) setLevel(g *Grant, level string, custody bool) error {
	l := c.m.Level(level)
	switch {
	case l == nil:
		return invalid("there is no level %s", level)
	case g.ServerTrusting && !l.ServerTrusting:
		return invalid("authenticator %s trusts the server, which could open by itself what it opens, and level %s is not open to such", g.Name, level)
	}
	g.Level, g.Custody = level, custody && g.ServerTrusting
	return nil
}

// RemoveGrant takes an authenticator's access away. It has seen the role keys of
// its level: where it was lost or is not trusted any more, rotate them (see
// RotateRoles).
type RemoveGrant struct {
	Authenticator ID
	// Force: even if nobody opens some role any more. The owner role always
	// needs somebody.
	Force bool
}

func (x RemoveGrant) apply(c *changeState) error {
	if c.m.Grant(x.Authenticator) == nil {
		return fmt.Errorf("authenticator %s: %w", x.Authenticator, ErrNotGranted)
	}
	c.m.Grants = slices.DeleteFunc(c.m.Grants, func(g Grant) bool { return g.Authenticator == x.Authenticator })
	c.force = c.force || x.Force
	return nil
}
