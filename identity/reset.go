package identity

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/secret"
)

// A reset after a loss goes like this; each step may be repeated, and nothing is
// lost between two of them:
//
//  1. Change: RemoveGrant of the lost authenticator and RotateRoles of the roles
//     that it opened. From here on it opens nothing new.
//  2. Open the new manifest; Reseal every asset that is Stale. Values keep, their
//     encryption changes, custody keys get a successor.
//  3. Refresh accounts to the successors, then PromoteCustody.
//  4. Change: DropPast. What the old keys signed counts no more.
//
// Whoever had the old keys and saw the old ciphertexts knows the secrets in them:
// these are to be changed at their source.

// RotateRoles gives roles new keys and seals them to everyone who may open them.
// The old keys stay readable to holders until DropPast. The roles must be held,
// and an earlier rotation of them finished (ErrPending).
type RotateRoles struct{ Roles []string }

func (x RotateRoles) apply(c *changeState) error {
	for _, name := range sortedNames(x.Roles) {
		r := c.m.Role(name)
		if r == nil {
			return invalid("there is no role %s", name)
		}
		if r.Past != nil {
			return fmt.Errorf("role %s: %w", name, ErrPending)
		}
		if err := c.rotate(r); err != nil {
			return fmt.Errorf("new keys for role %s: %w", name, err)
		}
	}
	return nil
}

func (c *changeState) rotate(r *Role) error {
	old, err := c.held(r.Name)
	if err != nil {
		return err
	}
	keys, err := c.newKeys()
	if err != nil {
		return err
	}
	past := &PastRole{Generation: r.Generation, Keys: r.Keys}
	if past.Sealed, err = Seal(keys.Public(), PastSeedContext(c.m.Identity, r.Name, r.Generation, r.Generation+1), old.Seed()); err != nil {
		return err
	}
	r.Generation, r.Keys, r.Past = r.Generation+1, keys.Public(), past
	c.rotated = true
	c.roles[r.Name] = keys
	if r.Name != OwnerRole {
		return nil
	}
	if len(c.m.Succession) >= MaxSuccession {
		return invalid("the %s role has had new keys %d times and cannot have them again", OwnerRole, MaxSuccession)
	}
	c.m.Succession = append(c.m.Succession, Succession{Generation: r.Generation, Keys: r.Keys,
		Signature: old.Sign(SuccessionContext(c.m.Identity, r.Generation), r.Keys.encode())})
	return nil
}

// DropPast ends a reset: the past keys of the roles are forgotten. What is still
// sealed to them cannot be opened afterwards and what they signed no longer
// verifies, so the server refuses it while an asset is Stale.
type DropPast struct{ Roles []string }

func (x DropPast) apply(c *changeState) error {
	for _, name := range sortedNames(x.Roles) {
		r := c.m.Role(name)
		if r == nil || r.Past == nil {
			return invalid("role %s has no past keys", name)
		}
		r.Past = nil
	}
	return nil
}

// Stale reports whether some key of the asset is sealed to, or the asset signed
// by, a role generation that is not the present one.
func Stale(m *Manifest, a *Asset) bool {
	if r := m.Role(a.Writer); r == nil || a.WriterGeneration != r.Generation {
		return true
	}
	return slices.ContainsFunc(a.Keys, func(k AssetKey) bool { return staleKey(m, &k) })
}

func staleKey(m *Manifest, k *AssetKey) bool {
	return slices.ContainsFunc(k.Sealed, func(s SealedRole) bool {
		r := m.Role(s.Role)
		return r == nil || s.Generation != r.Generation
	})
}

// Pending reports whether a custody key of the asset is being replaced: the
// account's next refresh and PromoteCustody end that.
func Pending(a *Asset) bool { return a.Key(NextCustodyKey) != nil }

// Reseal moves an asset to the present keys of its roles: every stale key is
// opened, encrypted under a new key as its next generation, and sealed to the same
// roles. Keys of roles that were not rotated stay as they are. A stale custody key
// gets a successor beside it, which newCustody makes (nil means NewCustodyKey) and
// Reseal wipes; it stays in force itself until the account has been refreshed.
// Errors: ErrNotHeld, ErrOpen; ErrPending where a successor is stale too: finish
// the replacement, then use ReplaceCustody.
func (o *Opened) Reseal(a *Asset, now time.Time, newCustody func(*Asset) (public []byte, private *secret.Bytes, err error)) (*SignedAsset, error) {
	return o.WriteAsset(a, now, func(next *Asset) error {
		replace := false
		for _, k := range a.Keys {
			if !staleKey(o.Manifest, &k) {
				continue
			}
			if a.Kind == AccountAsset && Pending(a) {
				return fmt.Errorf("the custody key of asset %s is being replaced: %w", a.Name, ErrPending)
			}
			replace = a.Kind == AccountAsset
			value, err := o.AssetValue(a, k.Name)
			if err != nil {
				return err
			}
			err = o.sealTo(next, k.Name, k.Public, value, k.Roles())
			value.Wipe()
			if err != nil {
				return err
			}
		}
		if !replace {
			return nil
		}
		return o.addNext(next, newCustody)
	})
}

// ReplaceCustody begins to replace the custody key of an account's asset: it adds
// the successor. Its end is PromoteCustody. newCustody is as in Reseal. ErrPending
// where a replacement has begun already.
func (o *Opened) ReplaceCustody(a *Asset, now time.Time, newCustody func(*Asset) (public []byte, private *secret.Bytes, err error)) (*SignedAsset, error) {
	if a.Kind != AccountAsset {
		return nil, invalid("asset %s is not that of an account", a.Name)
	}
	if Pending(a) {
		return nil, fmt.Errorf("the custody key of asset %s is being replaced: %w", a.Name, ErrPending)
	}
	return o.WriteAsset(a, now, func(next *Asset) error { return o.addNext(next, newCustody) })
}

// RestartCustody moves an account's asset that is Stale to the present role keys and
// begins to replace its custody key, whatever had been begun before: of the keys in
// it the one in force stays, whose public half the account's shares are sealed to,
// and the successor is a new one. A successor that was there already may be known
// to whom the reset shuts out: it was made when he still could, or by him. newCustody
// is as in Reseal. Errors: ErrNotHeld, ErrOpen; ErrRecord where no key of the asset
// is in force.
func (o *Opened) RestartCustody(a *Asset, now time.Time, inForce []byte, newCustody func(*Asset) (public []byte, private *secret.Bytes, err error)) (*SignedAsset, error) {
	if a.Kind != AccountAsset {
		return nil, invalid("asset %s is not that of an account", a.Name)
	}
	i := slices.IndexFunc(a.Keys, func(k AssetKey) bool { return bytes.Equal(k.Public, inForce) })
	if i < 0 {
		return nil, invalid("asset %s does not hold the custody key that the account's shares are sealed to", a.Name)
	}
	k := &a.Keys[i]
	value, err := o.AssetValue(a, k.Name)
	if err != nil {
		return nil, err
	}
	defer value.Wipe()
	return o.WriteAsset(a, now, func(next *Asset) error {
		if err := o.sealTo(next, CustodyKey, k.Public, value, k.Roles()); err != nil {
			return err
		}
		return o.addNext(next, newCustody)
	})
}

// PromoteCustody ends the replacement of a custody key, once the account's shares
// are sealed to the successor: that becomes the custody key, and the one before it
// is gone. Nothing else could open shares that are still sealed to that one.
func (o *Opened) PromoteCustody(a *Asset, now time.Time) (*SignedAsset, error) {
	next := a.Key(NextCustodyKey)
	if a.Kind != AccountAsset || next == nil {
		return nil, invalid("the custody key of asset %s is not being replaced", a.Name)
	}
	value, err := o.AssetValue(a, NextCustodyKey)
	if err != nil {
		return nil, err
	}
	defer value.Wipe()
	return o.WriteAsset(a, now, func(n *Asset) error {
		n.Remove(NextCustodyKey)
		return o.sealTo(n, CustodyKey, next.Public, value, next.Roles())
	})
}

// addNext seals a successor to the roles of the custody key.
func (o *Opened) addNext(a *Asset, newCustody func(*Asset) ([]byte, *secret.Bytes, error)) error {
	if newCustody == nil {
		newCustody = func(*Asset) ([]byte, *secret.Bytes, error) { return NewCustodyKey() }
	}
	public, private, err := newCustody(a)
	if err != nil {
		return err
	}
	defer private.Wipe()
	return o.sealTo(a, NextCustodyKey, public, private, a.Key(CustodyKey).Roles())
}

// sealTo puts a key into an asset.
func (o *Opened) sealTo(a *Asset, name string, public []byte, value *secret.Bytes, roles []string) error {
	k, err := SealAssetKey(o.Manifest, a, name, public, value, roles)
	if err != nil {
		return err
	}
	a.Put(*k)
	return nil
}
