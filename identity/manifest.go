package identity

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// OwnerRole signs the manifest. Every identity has it and nothing removes it.
const OwnerRole = "owner"

// Kind is whom an identity belongs to.
type Kind string

// Kinds of identities.
const (
	Person       Kind = "person"
	Persona      Kind = "persona"
	Organization Kind = "organization"
)

// Valid reports whether k is one of the kinds.
func (k Kind) Valid() bool { return k == Person || k == Persona || k == Organization }

// Manifest says all there is about an identity but its assets. It is immutable
// once signed; a change makes the next generation.
type Manifest struct {
	Format     int       `json:"format"` // 1
	Identity   ID        `json:"identity"`
	Name       string    `json:"name"`
	Kind       Kind      `json:"kind"`
	Generation uint64    `json:"generation"` // from 1
	Previous   []byte    `json:"previous"`   // SHA-256 of the manifest before it, empty in the first
	Time       time.Time `json:"time"`
	Roles      []Role    `json:"roles"`  // ascending by name
	Levels     []Level   `json:"levels"` // ascending by name
	Grants     []Grant   `json:"grants"` // ascending by authenticator name
	// Succession has every key pair that the owner role has had, the first one
	// unsigned, each further one signed by the one before it.
	Succession []Succession `json:"succession"`
}

// Role is a set of assets that belong together, as a key pair.
type Role struct {
	Name       string     `json:"name"`
	Generation uint64     `json:"generation"` // of its keys, from 1
	Keys       PublicKeys `json:"keys"`
	// Past, while assets are being moved to the present keys, has the keys before
	// them and their seed, sealed to the present ones.
	Past *PastRole `json:"past,omitempty"`
}

// PastRole is what a role was before its keys were replaced.
type PastRole struct {
	Generation uint64     `json:"generation"`
	Keys       PublicKeys `json:"keys"`
	Sealed     []byte     `json:"sealed"`
}

// Level is an access level: the roles that it opens.
type Level struct {
	Name  string   `json:"name"`
	Roles []string `json:"roles"` // ascending, at least one
	// ServerTrusting lets server-trusting authenticators have this level. Levels
	// with the owner role cannot have it.
	ServerTrusting bool `json:"server_trusting,omitempty"`
}

// Grant gives an authenticator a level.
type Grant struct {
	Authenticator ID         `json:"authenticator"`
	Name          string     `json:"name"` // of the authenticator
	Kind          Method     `json:"kind"`
	Keys          PublicKeys `json:"keys"`
	Level         string     `json:"level"`
	// ServerTrusting: the server could open what this authenticator opens.
	ServerTrusting bool `json:"server_trusting,omitempty"`
	// Custody lets a server-trusting authenticator open roles that hold custody
	// keys. It means nothing for others.
	Custody bool         `json:"custody,omitempty"`
	Granted time.Time    `json:"granted"`
	Sealed  []SealedRole `json:"sealed"` // the roles of the level, ascending
}

// SealedRole is a role seed sealed to an authenticator.
type SealedRole struct {
	Role       string `json:"role"`
	Generation uint64 `json:"generation"`
	Sealed     []byte `json:"sealed"`
}

// Succession is one key pair of the owner role.
type Succession struct {
	Generation uint64     `json:"generation"`
	Keys       PublicKeys `json:"keys"`
	Signature  []byte     `json:"signature,omitempty"` // by the keys before it
}

// SignedManifest is a manifest as it is stored and sent: the exact bytes that the
// owner role signed.
type SignedManifest struct {
	Manifest  []byte `json:"manifest"`
	Signature []byte `json:"signature"` // Ed25519, 64 bytes, by the owner role's keys in it
}

// IdentityID is the ID of the identity whose owner role first had these keys.
func IdentityID(first PublicKeys) ID {
	sum := sha256.Sum256(fields([]byte(labelIdentityID), first.encode()))
	return ID(sum[:16])
}

// Role returns the role of that name, or nil.
func (m *Manifest) Role(name string) *Role {
	i := slices.IndexFunc(m.Roles, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return &m.Roles[i]
}

// Level returns the level of that name, or nil.
func (m *Manifest) Level(name string) *Level {
	i := slices.IndexFunc(m.Levels, func(l Level) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return &m.Levels[i]
}

// Grant returns the grant of that authenticator, or nil.
func (m *Manifest) Grant(authenticator ID) *Grant {
	i := slices.IndexFunc(m.Grants, func(g Grant) bool { return g.Authenticator == authenticator })
	if i < 0 {
		return nil
	}
	return &m.Grants[i]
}

// Hash is the SHA-256 of the manifest's bytes.
func (s *SignedManifest) Hash() [32]byte { return sha256.Sum256(s.Manifest) }

// ErrSignature: a record's signature is not by whom it should be.
var ErrSignature = errors.New("identity: the signature does not verify: the record was tampered with, or is of another identity or generation")

// SignManifest checks m and signs it with the owner role's keys.
func SignManifest(m *Manifest, owner *Keys) (*SignedManifest, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	if r := m.Role(OwnerRole); !r.Keys.Equal(owner.Public()) {
		return nil, errors.New("identity: these are not the owner role's keys of the manifest")
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxManifest {
		return nil, invalid("the manifest would have %d bytes, more than %d: remove grants or roles", len(raw), MaxManifest)
	}
	return &SignedManifest{Manifest: raw, Signature: owner.Sign(ManifestContext(m.Identity), raw)}, nil
}

// Verify parses the manifest and checks everything about it that needs no secret:
// form, consistency, succession of owners from the identity's ID, signature.
// Whether it is the newest one is the caller's to know; see Pin.
func (s *SignedManifest) Verify() (*Manifest, error) {
	m := &Manifest{}
	if err := decodeStrict("manifest", s.Manifest, MaxManifest, m); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	if !m.Role(OwnerRole).Keys.Verify(ManifestContext(m.Identity), s.Manifest, s.Signature) {
		return nil, fmt.Errorf("manifest of %s: %w", m.Name, ErrSignature)
	}
	return m, nil
}

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
