package identity

import (
	"bytes"
	"fmt"
)

// VerifyNext verifies a manifest and that it may replace the one before it: what a
// server that stores manifests must ask. A manifest that verifies by itself may
// have been signed with owner keys that are over; one that passes here was signed
// by the owner role as it was before, or as it made itself.
//
// Roles keep their keys, or have the next ones with the ones before them as past
// keys, of which there are never two sets. Errors: ErrNotNext where it does not
// follow (read again), ErrSignature where the owner does not, ErrRecord.
func (s *SignedManifest) VerifyNext(before *SignedManifest) (*Manifest, error) {
	m, err := s.Verify()
	if err != nil {
		return nil, err
	}
	old, err := before.Verify()
	if err != nil {
		return nil, fmt.Errorf("the manifest before it: %w", err)
	}
	hash := before.Hash()
	switch {
	case m.Identity != old.Identity || m.Name != old.Name:
		return nil, fmt.Errorf("the manifest is of another identity, %s and not %s: %w", m.Name, old.Name, ErrSignature)
	case m.Generation != old.Generation+1 || !bytes.Equal(m.Previous, hash[:]):
		return nil, fmt.Errorf("generation %d of %s: %w", m.Generation, m.Name, ErrNotNext)
	case !m.owned(old.Role(OwnerRole).Generation, old.Role(OwnerRole).Keys) || len(m.Succession) > len(old.Succession)+1:
		return nil, fmt.Errorf("generation %d of %s is not by the owner role as it is: %w", m.Generation, m.Name, ErrSignature)
	}
	for _, r := range m.Roles {
		if err := r.follows(old.Role(r.Name)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// follows checks a role against what it was, nil for a new one.
func (r *Role) follows(old *Role) error {
	switch {
	case old == nil:
		if r.Generation != 1 {
			return invalid("new role %s begins with generation %d", r.Name, r.Generation)
		}
	case r.Generation == old.Generation:
		if !r.Keys.Equal(old.Keys) || r.Past != nil && !r.Past.equal(old.Past) {
			return invalid("role %s has other keys of the same generation", r.Name)
		}
	case old.Past != nil:
		return fmt.Errorf("role %s has new keys again: %w", r.Name, ErrPending)
	case r.Generation != old.Generation+1 || r.Past == nil || !r.Past.Keys.Equal(old.Keys):
		return invalid("role %s has new keys and not the ones before them as past keys", r.Name)
	}
	return nil
}

func (p *PastRole) equal(other *PastRole) bool {
	return other != nil && p.Generation == other.Generation && p.Keys.Equal(other.Keys) && bytes.Equal(p.Sealed, other.Sealed)
}

// VerifyNext verifies an asset against the present manifest and that it may
// replace the one before it, nil for a new asset: what a server that stores assets
// must ask. Beside what Follows says, it is sealed and signed with present keys
// only, and a custody key not sealed to a server-trusting authenticator that may
// not open one. Errors: ErrNotNext, ErrWriter, ErrStale, ErrCustody, ErrSignature,
// ErrRecord.
func (s *SignedAsset) VerifyNext(m *Manifest, before *Asset) (*Asset, error) {
	a, err := s.Verify(m)
	if err != nil {
		return nil, err
	}
	if before == nil {
		before = &Asset{Identity: a.Identity, ID: a.ID, Name: a.Name}
	}
	if err := a.Follows(before); err != nil {
		return nil, err
	}
	if Stale(m, a) {
		return nil, fmt.Errorf("asset %s: %w", a.Name, ErrStale)
	}
	if a.Kind == AccountAsset {
		if err := CheckCustody(m, a.Roles()); err != nil {
			return nil, err
		}
	}
	return a, nil
}
