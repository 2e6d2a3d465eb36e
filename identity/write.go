package identity

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Errors of writing.
var (
	// ErrNotNext: a record is not the one that follows the one there is: somebody
	// else was faster. Read it again and repeat the change.
	ErrNotNext = errors.New("identity: this does not follow the generation that there is: it was changed meanwhile")
	// ErrStale: a key is sealed to a role generation that is over; see Reseal.
	ErrStale = errors.New("identity: a key is sealed to past keys of a role, or signed with them: the asset must be resealed first")
	// ErrWriter: a role writes what it may not.
	ErrWriter = errors.New("identity: this role may not change that")
)

// NewID draws an ID.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails: it ends the program instead
	return id
}

// NewAsset begins an asset, which has generation 0 and no keys; WriteAsset makes
// its first generation.
func (o *Opened) NewAsset(name string, kind AssetKind) *Asset {
	return &Asset{Format: 1, Identity: o.Manifest.Identity, ID: NewID(), Name: name, Kind: kind}
}

// WriteAsset makes the generation that follows a: a copy to which change is
// applied, signed by a role that this authenticator opens and that may write it:
// the one that wrote it last if possible, the owner role if no other may. It does
// not change a. The caller stores the result by compare and swap. Errors: what
// change returns, ErrNotHeld, ErrWriter, ErrStale, ErrCustody, ErrRecord.
func (o *Opened) WriteAsset(a *Asset, now time.Time, change func(*Asset) error) (*SignedAsset, error) {
	next := a.clone()
	if change != nil {
		if err := change(next); err != nil {
			return nil, err
		}
	}
	next.Generation, next.Time = a.Generation+1, stamp(now)
	slices.SortFunc(next.Keys, func(x, y AssetKey) int { return compareNames(x.Name, y.Name) })
	if next.Identity != o.Manifest.Identity {
		return nil, invalid("asset %s is of another identity", a.Name)
	}
	for i := range next.Keys {
		if staleKey(o.Manifest, &next.Keys[i]) {
			return nil, fmt.Errorf("key %s of asset %s: %w", next.Keys[i].Name, a.Name, ErrStale)
		}
	}
	if next.Kind == AccountAsset {
		if err := CheckCustody(o.Manifest, next.Roles()); err != nil {
			return nil, err
		}
	}
	var refused error
	candidates := append(append([]string{a.Writer}, a.Roles()...), append(next.Roles(), OwnerRole)...)
	for _, role := range candidates {
		keys := o.Roles[role]
		if keys == nil || role != OwnerRole && !slices.Contains(next.Roles(), role) {
			continue
		}
		next.Writer, next.WriterGeneration = role, o.Manifest.Role(role).Generation
		if refused = next.Follows(a); refused == nil {
			return SignAsset(next, keys)
		}
	}
	if refused != nil {
		return nil, refused
	}
	return nil, fmt.Errorf("writing asset %s: %w", a.Name, o.notHeld(append(next.Roles(), OwnerRole)...))
}

// clone copies what a change may change in place. Keys' byte strings are shared:
// they are replaced, never written to.
func (a *Asset) clone() *Asset {
	c := *a
	c.Keys = slices.Clone(a.Keys)
	for i := range c.Keys {
		c.Keys[i].Sealed = slices.Clone(c.Keys[i].Sealed)
	}
	return &c
}

// Put adds a key or replaces the one of its name.
func (a *Asset) Put(k AssetKey) {
	a.Remove(k.Name)
	a.Keys = append(a.Keys, k)
	slices.SortFunc(a.Keys, func(x, y AssetKey) int { return compareNames(x.Name, y.Name) })
}

// Remove removes the key of that name if there is one.
func (a *Asset) Remove(name string) {
	a.Keys = slices.DeleteFunc(a.Keys, func(k AssetKey) bool { return k.Name == name })
}

// Follows checks that a, which verifies, may replace before: what a server that
// stores assets must ask, because a signature alone only says that the writer may
// use the asset as it is now, into which it could have written itself.
//
//   - The same asset, one generation later; an account stays the one it is.
//   - The writer is the owner role, or could use a key of the asset before.
//   - A writer other than the owner role leaves the keys alone that it could not
//     use: another value would pass for one that others wrote.
//   - A key of the same generation has the same value.
//
// A before of generation 0 is that of NewAsset. Errors: ErrNotNext, ErrWriter.
func (a *Asset) Follows(before *Asset) error {
	if a.Identity != before.Identity || a.ID != before.ID || a.Name != before.Name || a.Generation != before.Generation+1 {
		return fmt.Errorf("generation %d of asset %s after %d: %w", a.Generation, a.Name, before.Generation, ErrNotNext)
	}
	if before.Generation == 0 {
		return nil
	}
	if a.Kind != before.Kind || before.Account != "" && a.Account != before.Account {
		return fmt.Errorf("asset %s cannot become one of another kind or account: %w", a.Name, ErrWriter)
	}
	owner := a.Writer == OwnerRole
	if !owner && !slices.Contains(before.Roles(), a.Writer) {
		return fmt.Errorf("role %s could not use asset %s before: %w", a.Writer, a.Name, ErrWriter)
	}
	for i := range before.Keys {
		old := &before.Keys[i]
		k := a.Key(old.Name)
		if !owner && !old.sealedTo(a.Writer) && (k == nil || !k.equal(old)) {
			return fmt.Errorf("role %s could not use key %s of asset %s before: %w", a.Writer, old.Name, a.Name, ErrWriter)
		}
		if k == nil || k.Generation == old.Generation+1 {
			continue
		}
		if k.Generation != old.Generation || !bytes.Equal(k.Value, old.Value) || !bytes.Equal(k.Public, old.Public) {
			return fmt.Errorf("generation %d of key %s of asset %s after %d, or another value of that one: %w", k.Generation, k.Name, a.Name, old.Generation, ErrNotNext)
		}
	}
	return nil
}

func (k *AssetKey) sealedTo(role string) bool {
	return slices.ContainsFunc(k.Sealed, func(s SealedRole) bool { return s.Role == role })
}

func (k *AssetKey) equal(other *AssetKey) bool {
	same := func(x, y SealedRole) bool {
		return x.Role == y.Role && x.Generation == y.Generation && bytes.Equal(x.Sealed, y.Sealed)
	}
	return k.Generation == other.Generation && bytes.Equal(k.Public, other.Public) && bytes.Equal(k.Value, other.Value) &&
		slices.EqualFunc(k.Sealed, other.Sealed, same)
}

// stamp is a time as records have it: UTC, whole seconds, so that it says nothing
// about where the client is.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
