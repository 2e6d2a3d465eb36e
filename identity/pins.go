package identity

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// Pin is what a client remembers of an identity: the newest manifest it has seen
// and who owned it then. A client without a pin takes what the server shows; one
// with a pin takes nothing older, nothing beside it, and nothing whose owner does
// not come after that owner. The last matters after a loss: who has the keys that
// the owner role had before can sign a manifest of any generation with them.
type Pin struct {
	Identity   ID     `json:"identity"`
	Generation uint64 `json:"generation"`
	Hash       []byte `json:"hash"` // SHA-256 of that manifest
	// OwnerGeneration and Owner are the owner role's keys in it.
	OwnerGeneration uint64     `json:"owner_generation"`
	Owner           PublicKeys `json:"owner"`
}

// ErrRolledBack: the server showed an older record than before, or another one of
// the same generation.
var ErrRolledBack = errors.New("identity: the server shows an older or another state of this identity than it did before")

// Check compares a verified manifest with the pin and returns the pin to keep.
// With an error that is the old one.
func (p Pin) Check(s *SignedManifest, m *Manifest) (Pin, error) {
	hash, owner := s.Hash(), m.Role(OwnerRole)
	next := Pin{Identity: m.Identity, Generation: m.Generation, Hash: hash[:], OwnerGeneration: owner.Generation, Owner: owner.Keys}
	switch {
	case p.Identity == ID{}:
		return next, nil
	case p.Identity != m.Identity:
		return p, fmt.Errorf("%s is another identity than the one known by this name: %w", m.Name, ErrRolledBack)
	case m.Generation < p.Generation:
		return p, fmt.Errorf("generation %d of %s, after %d had been seen: %w", m.Generation, m.Name, p.Generation, ErrRolledBack)
	case m.Generation == p.Generation && !bytes.Equal(hash[:], p.Hash):
		return p, fmt.Errorf("another generation %d of %s: %w", m.Generation, m.Name, ErrRolledBack)
	case m.Generation == p.Generation+1 && !bytes.Equal(m.Previous, p.Hash):
		return p, fmt.Errorf("generation %d of %s does not follow the one that had been seen: %w", m.Generation, m.Name, ErrRolledBack)
	case !m.owned(p.OwnerGeneration, p.Owner):
		return p, fmt.Errorf("generation %d of %s is not signed by the owner that had been seen or one after it: %w", m.Generation, m.Name, ErrRolledBack)
	}
	return next, nil
}

// owned reports whether the owner role had these keys at that generation.
func (m *Manifest) owned(generation uint64, keys PublicKeys) bool {
	// Generations ascend from 1 without a gap; check has seen to it.
	return generation >= 1 && generation <= uint64(len(m.Succession)) && m.Succession[generation-1].Keys.Equal(keys)
}

// AssetPin is what a client remembers of an asset: the newest generation it has
// seen. The zero pin is none.
type AssetPin struct {
	Asset      ID     `json:"asset"`
	Generation uint64 `json:"generation"`
	Hash       []byte `json:"hash"` // SHA-256 of the asset's bytes
	// Roles could use it then, ascending; none in pins of earlier versions.
	Roles []string `json:"roles,omitempty"`
}

// Check compares a verified asset with the pin and returns the pin to keep. An
// asset of another ID is a rollback too: it was deleted and made anew, and only
// the user can know whether it was. So is one whose writer, other than the owner
// role, could not use it when it was seen last: a signature alone does not say that
// who could has let him (see Follows), and a hostile server with the keys of any
// role would write every asset. Error: ErrRolledBack.
func (p AssetPin) Check(s *SignedAsset, a *Asset) (AssetPin, error) {
	hash := sha256.Sum256(s.Asset)
	switch {
	case p.Asset == ID{}:
	case p.Asset != a.ID:
		return p, fmt.Errorf("asset %s is another one than the one known by this name: %w", a.Name, ErrRolledBack)
	case a.Generation < p.Generation:
		return p, fmt.Errorf("generation %d of asset %s, after %d had been seen: %w", a.Generation, a.Name, p.Generation, ErrRolledBack)
	case a.Generation == p.Generation && !bytes.Equal(hash[:], p.Hash):
		return p, fmt.Errorf("another generation %d of asset %s: %w", a.Generation, a.Name, ErrRolledBack)
	case a.Generation > p.Generation && len(p.Roles) > 0 && a.Writer != OwnerRole && !slices.Contains(p.Roles, a.Writer):
		return p, fmt.Errorf("generation %d of asset %s was written by role %s, which could not use it when it was seen last, at generation %d; if somebody who could has let it, say that you know: %w",
			a.Generation, a.Name, a.Writer, p.Generation, ErrRolledBack)
	}
	return AssetPin{Asset: a.ID, Generation: a.Generation, Hash: hash[:], Roles: a.Roles()}, nil
}
