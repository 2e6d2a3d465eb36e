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
