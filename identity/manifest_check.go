package identity

import (
	"crypto/sha256"
	"fmt"
)

// check holds every rule of the format; reading and writing share it.
func (m *Manifest) check() error {
	if m.Format != 1 {
		return invalid("a manifest of format %d; this program reads format 1", m.Format)
	}
	if err := CheckName("identity", m.Name); err != nil {
		return err
	}
	switch {
	case m.Identity == ID{}:
		return invalid("no identity ID")
	case !m.Kind.Valid():
		return invalid("unknown kind of identity")
	case m.Generation == 0 || (m.Generation == 1) != (len(m.Previous) == 0) || len(m.Previous) != 0 && len(m.Previous) != sha256.Size:
		return invalid("generation and previous manifest do not fit")
	case len(m.Roles) > MaxRoles || len(m.Levels) > MaxLevels || len(m.Grants) > MaxGrants:
		return invalid("too many roles, levels or grants: at most %d, %d and %d", MaxRoles, MaxLevels, MaxGrants)
	}
	if err := m.checkRoles(); err != nil {
		return err
	}
	if err := m.checkLevels(); err != nil {
		return err
	}
	if err := m.checkGrants(); err != nil {
		return err
	}
	return m.checkSuccession()
}

func ascending[T any](what string, list []T, name func(T) string) error {
	for i, v := range list {
		if err := CheckName(what, name(v)); err != nil {
			return err
		}
		if i > 0 && name(list[i-1]) >= name(v) {
			return invalid("two %ss of one name, or out of order", what)
		}
	}
	return nil
}

func (m *Manifest) checkRoles() error {
	if err := ascending("role", m.Roles, func(r Role) string { return r.Name }); err != nil {
		return err
	}
	if m.Role(OwnerRole) == nil {
		return invalid("no %s role", OwnerRole)
	}
	for _, r := range m.Roles {
		if r.Generation == 0 {
			return invalid("role %s has no generation", r.Name)
		}
		if err := r.Keys.Check(); err != nil {
			return err
		}
		if p := r.Past; p != nil {
			if p.Generation == 0 || p.Generation != r.Generation-1 || len(p.Sealed) != SealedOverhead+SeedSize {
				return invalid("the past keys of role %s do not fit it", r.Name)
			}
			if err := p.Keys.Check(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Manifest) checkLevels() error {
	if err := ascending("level", m.Levels, func(l Level) string { return l.Name }); err != nil {
		return err
	}
	for _, l := range m.Levels {
		if len(l.Roles) == 0 {
			return invalid("level %s opens no role", l.Name)
		}
		if err := ascending("role", l.Roles, func(s string) string { return s }); err != nil {
			return err
		}
		for _, role := range l.Roles {
			if m.Role(role) == nil {
				return invalid("level %s opens role %s, which does not exist", l.Name, role)
			}
			if role == OwnerRole && l.ServerTrusting {
				return invalid("level %s opens the %s role, so server-trusting authenticators cannot have it", l.Name, OwnerRole)
			}
		}
	}
	return nil
}

func (m *Manifest) checkGrants() error {
	if err := ascending("authenticator", m.Grants, func(g Grant) string { return g.Name }); err != nil {
		return err
	}
	owners := 0
	seen := map[ID]bool{}
	for _, g := range m.Grants {
		l := m.Level(g.Level)
		switch {
		case g.Authenticator == ID{} || seen[g.Authenticator]:
			return invalid("authenticator %s has no ID or is granted twice", g.Name)
		case !g.Kind.Valid():
			return invalid("authenticator %s is of a kind that is not known", g.Name)
		case l == nil:
			return invalid("authenticator %s has level %s, which does not exist", g.Name, g.Level)
		case g.ServerTrusting && !g.Kind.HasServerPart():
			return invalid("authenticator %s is of kind %s and cannot trust the server", g.Name, g.Kind)
		case g.ServerTrusting && !l.ServerTrusting:
			return invalid("authenticator %s trusts the server, and level %s is not open to such", g.Name, g.Level)
		case len(g.Sealed) != len(l.Roles):
			return invalid("authenticator %s does not open exactly the roles of level %s", g.Name, g.Level)
		}
		seen[g.Authenticator] = true
		if err := g.Keys.Check(); err != nil {
			return err
		}
		for i, s := range g.Sealed {
			if r := m.Role(s.Role); s.Role != l.Roles[i] || s.Generation != r.Generation || len(s.Sealed) != SealedOverhead+SeedSize {
				return invalid("the sealed roles of authenticator %s are not those of level %s", g.Name, g.Level)
			}
			if s.Role == OwnerRole {
				owners++
			}
		}
	}
	if owners == 0 {
		return invalid("no authenticator opens the %s role: nobody could change the identity any more", OwnerRole)
	}
	return nil
}

// checkSuccession follows the owner role's keys from the identity's ID.
func (m *Manifest) checkSuccession() error {
	if len(m.Succession) == 0 || len(m.Succession) > MaxSuccession {
		return invalid("%d generations of owner keys; 1 to %d", len(m.Succession), MaxSuccession)
	}
	first := m.Succession[0]
	if first.Generation != 1 || len(first.Signature) != 0 || IdentityID(first.Keys) != m.Identity {
		return fmt.Errorf("the identity's ID is not that of its first owner: %w", ErrSignature)
	}
	for i, s := range m.Succession[1:] {
		before := m.Succession[i]
		if s.Generation != before.Generation+1 || s.Keys.Check() != nil ||
			!before.Keys.Verify(SuccessionContext(m.Identity, s.Generation), s.Keys.encode(), s.Signature) {
			return fmt.Errorf("owner keys of generation %d: %w", s.Generation, ErrSignature)
		}
	}
	last, owner := m.Succession[len(m.Succession)-1], m.Role(OwnerRole)
	if last.Generation != owner.Generation || !last.Keys.Equal(owner.Keys) {
		return fmt.Errorf("the owner role's keys are not the last of their succession: %w", ErrSignature)
	}
	// checkRoles has seen that Past is the generation before, so there is one.
	if p := owner.Past; p != nil && !m.Succession[len(m.Succession)-2].Keys.Equal(p.Keys) {
		return fmt.Errorf("the owner role's past keys are not those of their succession: %w", ErrSignature)
	}
	return nil
}
