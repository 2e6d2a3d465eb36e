package backend

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/identity"
)

// The rules about manifests that need other records. Each manifest verified
// before, so that it is sound in itself (identity.SignedManifest.Verify). A rule
// that a manifest breaks by itself is a 400, one that other records decide a 409.

// manifestChange is one write of a manifest.
type manifestChange struct {
	old   *identity.Manifest // nil: a new identity
	new   *identity.Manifest
	force bool
}

// needsForce is a refusal that force=true overrides.
func needsForce(format string, args ...any) error {
	f := invalid(format, args...).(*fault)
	f.status = http.StatusConflict
	f.msg += ": nothing was changed; send force=true if that is what you want"
	return f
}

// checkNew holds what is asked of a first manifest.
func (c *manifestChange) checkNew() error {
	m := c.new
	if m.Generation != 1 {
		return conflict("there is no identity %q, and the manifest is of generation %d: a new one begins with 1; if it was there before, restore it from a backup of Vault's storage", m.Name, m.Generation)
	}
	for _, r := range m.Roles {
		if r.Generation != 1 || r.Past != nil {
			return invalid("role %s of a new identity is of generation %d: new roles begin with 1", r.Name, r.Generation)
		}
	}
	return nil
}

// verifyNext checks that the owner signed the manifest as the one that follows
// what is stored.
func verifyNext(stored, sent *identity.SignedManifest) error {
	_, err := sent.VerifyNext(stored)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, identity.ErrNotNext):
		return conflict("%v: nothing was changed; read it again, and make the change to what it says", err)
	case errors.Is(err, identity.ErrPending):
		return conflict("%v: nothing was changed; finish the reset first", err)
	}
	return invalid("the manifest is refused and nothing was changed: %v", err)
}

// lostRoles returns the roles that are gone and those whose past keys are dropped.
func (c *manifestChange) lostRoles() (removed, dropped []string) {
	if c.old == nil {
		return nil, nil
	}
	for _, was := range c.old.Roles {
		switch now := c.new.Role(was.Name); {
		case now == nil:
			removed = append(removed, was.Name)
		case was.Past != nil && now.Past == nil:
			dropped = append(dropped, was.Name)
		}
	}
	return removed, dropped
}

// checkAssets: no asset loses a role that it needs, and no custody key comes
// within reach of an authenticator that may not open it.
func (c *manifestChange) checkAssets(removed, dropped []string, assets []*assetFacts) error {
	for _, a := range assets {
		for _, role := range removed {
			if a.uses(role) {
				return conflict("asset %q is for role %s: nothing was changed; delete the asset, or write it for other roles, first", a.Name, role)
			}
		}
		for _, role := range dropped {
			if !a.needsPast(c.new, role) {
				continue
			}
			return conflict("asset %q is still under the past keys of role %s: nothing was changed; reseal it first", a.Name, role)
		}
		if a.Kind == identity.AccountAsset {
			if err := custodyAllowed(c.new, a.Name, a.roles()); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkGrants: every authenticator is there as the grant says, and nothing is
// sealed anew to one that was lost.
func (c *manifestChange) checkGrants(find func(name string) (*authenticatorFacts, error)) error {
	for _, g := range c.new.Grants {
		a, err := find(g.Name)
		switch {
		case err != nil:
			return err
		case a == nil:
			return invalid("there is no authenticator %q, which the manifest grants level %s: nothing was changed; create it first", g.Name, g.Level)
		case a.ID != g.Authenticator || a.Method != g.Kind || !a.Keys.Equal(g.Keys) || a.ServerTrusting != g.ServerTrusting:
			return invalid("the grant of authenticator %q does not fit the one there is (ID, kind, keys or server_trusting): nothing was changed; read authenticators/%s again", g.Name, g.Name)
		case !a.Lost:
			continue
		}
		var was *identity.Grant
		if c.old != nil {
			was = c.old.Grant(g.Authenticator)
		}
		if was == nil || !reflect.DeepEqual(*was, g) {
			return conflict("authenticator %q was reported lost: nothing may be granted or sealed to it any more, and nothing was changed; remove its grant, or take the report back with authenticators/%s/found", g.Name, g.Name)
		}
	}
	return nil
}

// openers lists the authenticators that open a role.
func openers(m *identity.Manifest, role string) (out []identity.Grant) {
	for _, g := range m.Grants {
		if slices.ContainsFunc(g.Sealed, func(s identity.SealedRole) bool { return s.Role == role }) {
			out = append(out, g)
		}
	}
	return out
}

// checkOpened: a role that loses one of those who open it keeps another who was
// not lost, or the caller says that it need not.
func (c *manifestChange) checkOpened(lost func(name string) (bool, error)) error {
	if c.old == nil || c.force {
		return nil
	}
	for _, role := range c.old.Roles {
		if c.new.Role(role.Name) == nil {
			continue // it went with its assets
		}
		now := openers(c.new, role.Name)
		gone := slices.DeleteFunc(openers(c.old, role.Name), func(g identity.Grant) bool {
			return slices.ContainsFunc(now, func(n identity.Grant) bool { return n.Authenticator == g.Authenticator })
		})
		if len(gone) == 0 {
			continue
		}
		kept := false
		for _, g := range now {
			isLost, err := lost(g.Name)
			if err != nil {
				return err
			}
			kept = kept || !isLost
		}
		if !kept {
			return needsForce("role %s of %q could not be opened by any authenticator any more, and what is sealed to it alone would be out of reach for good", role.Name, c.new.Name)
		}
	}
	return nil
}

// checkManifest holds those that need other records. It reads the assets where a rule asks for them only.
func (b *backend) checkManifest(ctx context.Context, c *manifestChange) error {
	removed, dropped := c.lostRoles()
	find := func(name string) (*authenticatorFacts, error) { return b.authenticatorFacts(ctx, name) }
	if err := c.checkGrants(find); err != nil {
		return err
	}
	trusting := slices.ContainsFunc(c.new.Grants, func(g identity.Grant) bool { return g.ServerTrusting && !g.Custody })
	if c.old != nil && (len(removed)+len(dropped) > 0 || trusting) {
		// With the manifest in force: the assets verify with that.
		assets, err := b.assetsOf(ctx, c.old)
		if err != nil {
			return err
		}
		if err := c.checkAssets(removed, dropped, assets); err != nil {
			return err
		}
	}
	return c.checkOpened(func(name string) (bool, error) {
		a, err := find(name)
		return a == nil || a.Lost, err
	})
}

// custodyAllowed: no server-trusting authenticator opens a role that holds a
// custody key, unless the owner has said so in its grant.
func custodyAllowed(m *identity.Manifest, asset string, roles []string) error {
	if err := identity.CheckCustody(m, roles); err != nil {
		return conflict("asset %q holds the custody key of an account: %v; nothing was changed. Use another role, or let the owner grant custody to that authenticator", asset, err)
	}
	return nil
}

// quoted joins names for people.
func quoted(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = `"` + n + `"`
	}
	return strings.Join(out, ", ")
}
