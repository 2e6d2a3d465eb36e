package identity

import (
	"fmt"
	"slices"
	"strings"
)

// AddRole makes a role with keys of its own.
type AddRole struct {
	Name string
	// Levels that it is added to; none means the level of the authenticator that
	// makes the change, so that somebody can open it.
	Levels []string
}

func (x AddRole) apply(c *changeState) error {
	if c.m.Role(x.Name) != nil || c.o.Manifest.Role(x.Name) != nil {
		return invalid("there is a role %s", x.Name)
	}
	if err := CheckName("role", x.Name); err != nil {
		return err
	}
	levels := x.Levels
	if len(levels) == 0 {
		g := c.m.Grant(c.o.Authenticator)
		if g == nil {
			return invalid("no level to add role %s to", x.Name)
		}
		levels = []string{g.Level}
	}
	for _, name := range levels {
		l := c.m.Level(name)
		if l == nil {
			return invalid("there is no level %s", name)
		}
		l.Roles = sortedNames(append(slices.Clone(l.Roles), x.Name))
	}
	return c.makeRole(x.Name)
}

// RemoveRole removes a role that no level has. Whether an asset is still sealed to
// it is for the server to look up and to refuse.
type RemoveRole struct{ Name string }

func (x RemoveRole) apply(c *changeState) error {
	switch r := c.m.Role(x.Name); {
	case x.Name == OwnerRole:
		return fmt.Errorf("the %s role changes the identity: %w", OwnerRole, ErrInUse)
	case r == nil:
		return invalid("there is no role %s", x.Name)
	}
	var levels []string
	for _, l := range c.m.Levels {
		if slices.Contains(l.Roles, x.Name) {
			levels = append(levels, l.Name)
		}
	}
	if len(levels) > 0 {
		return fmt.Errorf("role %s is opened by these levels: %s: %w", x.Name, strings.Join(levels, ", "), ErrInUse)
	}
	c.m.Roles = slices.DeleteFunc(c.m.Roles, func(r Role) bool { return r.Name == x.Name })
	delete(c.roles, x.Name)
	return nil
}

// SetLevel makes a level or changes what it opens, for everyone who has it. Roles
// that are added must be held. Who loses a role that way has still seen its keys:
// rotate them if that matters.
type SetLevel struct{ Level Level }

func (x SetLevel) apply(c *changeState) error {
	l := x.Level
	if err := CheckName("level", l.Name); err != nil {
		return err
	}
	l.Roles = sortedNames(l.Roles)
	for _, role := range l.Roles {
		if c.m.Role(role) == nil {
			return invalid("there is no role %s", role)
		}
	}
	if old := c.m.Level(l.Name); old != nil {
		*old = l
		return nil
	}
	c.m.Levels = append(c.m.Levels, l)
	slices.SortFunc(c.m.Levels, func(x, y Level) int { return compareNames(x.Name, y.Name) })
	return nil
}

// RemoveLevel removes a level that nobody has.
type RemoveLevel struct{ Name string }

func (x RemoveLevel) apply(c *changeState) error {
	if c.m.Level(x.Name) == nil {
		return invalid("there is no level %s", x.Name)
	}
	var users []string
	for _, g := range c.m.Grants {
		if g.Level == x.Name {
			users = append(users, g.Name)
		}
	}
	if len(users) > 0 {
		return fmt.Errorf("level %s is that of %s: %w", x.Name, strings.Join(users, ", "), ErrInUse)
	}
	c.m.Levels = slices.DeleteFunc(c.m.Levels, func(l Level) bool { return l.Name == x.Name })
	return nil
}

// SetKind says whom the identity belongs to.
type SetKind struct{ Kind Kind }

func (x SetKind) apply(c *changeState) error {
	if !x.Kind.Valid() {
		return invalid("unknown kind of identity")
	}
	c.m.Kind = x.Kind
	return nil
}
