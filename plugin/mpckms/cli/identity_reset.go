package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/identity"
)

// resetDoc is the JSON document of `identity reset`.
type resetDoc struct {
	Identity   string   `json:"identity"`
	Lost       []string `json:"lost"` // authenticators
	Generation uint64   `json:"generation"`
	Roles      []string `json:"roles"`      // whose keys were replaced
	Kept       []string `json:"roles_kept"` // whose keys were not
	Assets     []string `json:"assets"`     // encrypted anew
	Accounts   []string `json:"accounts"`   // with a new custody key and new shares
	// Change are the secrets that the lost authenticator could open.
	Change []exposedKey `json:"change_at_source"`
	// Untied are custody keys that belong to no account yet; they were kept.
	Untied []string `json:"custody_without_account,omitempty"`
	// Open are the grants that there are. Whoever had the lost authenticator may
	// have made some of them, if it opened the owner role.
	Open []grantedDoc `json:"open"`
}

// grantedDoc is a grant that a reset left.
type grantedDoc struct {
	Authenticator string `json:"authenticator"`
	Level         string `json:"level"`
	Granted       string `json:"granted_time"`
}

// remains notes what the reset left as it was: for people to look at, since only
// they know whom they have granted what, and what the lost one opened formerly.
func (doc *resetDoc) remains(m *identity.Manifest) {
	doc.Kept, doc.Open = []string{}, []grantedDoc{}
	for _, role := range m.Roles {
		if !slices.Contains(doc.Roles, role.Name) {
			doc.Kept = append(doc.Kept, role.Name)
		}
	}
	for _, g := range m.Grants {
		doc.Open = append(doc.Open, grantedDoc{g.Name, g.Level, g.Granted.UTC().Format(time.RFC3339)})
	}
}

// exposedKey is a secret that somebody else may know now.
type exposedKey struct {
	Asset string `json:"asset"`
	Key   string `json:"key"`
}

// resetting takes an identity away from an authenticator. Every step is a state
// of the stored records from which running it again goes on: the grant and the
// old role keys go in one manifest, which keeps the old keys, sealed to the new
// ones, until no asset needs them any more.
type resetting struct {
	*holder
	custody custodyReplacer
	// roles get new keys even if no authenticator is lost that opens them.
	roles []string
	// seen has the generations of the roles whose keys are to be replaced.
	seen map[string]uint64
	// keep leaves custody keys of accounts in force: nobody is suspected.
	keep bool
	// replaced are the accounts whose custody key this run replaced.
	replaced []string
	doc      resetDoc
}

// custodyReplacer puts another custody key in force for an account.
type custodyReplacer interface {
	// InForce returns the account's name and the public half of the custody key
	// that its shares are sealed to; errNoAccount where the account is gone.
	InForce(ctx context.Context, asset *identity.Asset) (account string, public []byte, err error)
	// Replace refreshes the shares with the key `custody` of the asset and seals
	// them to its key `custody-next`.
	Replace(ctx context.Context, account string, asset *identity.Asset) error
}

// run takes the identity away from these authenticators, and replaces the keys of
// the roles that they opened and of r.roles. Where an earlier run was interrupted
// it goes on with that.
func (r *resetting) run(ctx context.Context, lost ...string) error {
	r.doc = resetDoc{Identity: r.name, Lost: append([]string{}, lost...), Roles: []string{}, Assets: []string{}, Accounts: []string{}, Change: []exposedKey{}}
	if err := r.begin(lost); err != nil {
		return err
	}
	for try := 1; ; try++ {
		changes, err := r.revocation(lost)
		if err != nil {
			return err
		}
		if len(changes) == 0 || len(pendingRoles(r.opened.Manifest)) > 0 { // of an earlier reset: its old keys would be lost
			if err := r.finish(ctx); err != nil || len(changes) == 0 {
				return err
			}
		}
		err = r.changeBy(ctx, "reset identity "+quote(r.name), false, func() ([]identity.Change, error) { return r.revocation(lost) })
		switch {
		case err == nil:
			return r.finish(ctx)
		case !errors.Is(err, identity.ErrPending) || try == maxTries: // another owner has begun one
			return err
		}
	}
}

// begin notes the roles to replace as they are now: one whose keys are replaced
// meanwhile by somebody else needs no more.
func (r *resetting) begin(lost []string) error {
	m := r.opened.Manifest
	r.seen = map[string]uint64{}
	for _, name := range r.roles {
		role := m.Role(name)
		if role == nil {
			return &refusal{what: fmt.Sprintf("identity %q has no role %q", r.name, name), advice: "'mpckms identity show " + r.name + "' lists them."}
		}
		if role.Past == nil { // otherwise a run before has replaced it
			r.seen[name] = role.Generation
		}
	}
	if len(pendingRoles(m)) > 0 || len(r.roles) > 0 { // perhaps its grant was revoked before
		return nil
	}
	for _, name := range lost {
		if grantOf(m, name) == nil {
			return &refusal{what: fmt.Sprintf("authenticator %q has no grant in identity %q, and no reset is unfinished", name, r.name),
				advice: "'mpckms identity show " + r.name + "' lists who has one. If its grant was revoked without a reset,\nname the roles that it opened with --role."}
		}
	}
	return nil
}

// revocation is the change that a reset begins with, made for the identity as it
// is opened: between two tries another owner may have let one of the lost
// authenticators open more. It is empty where that is done.
func (r *resetting) revocation(lost []string) ([]identity.Change, error) {
	m := r.opened.Manifest
	var changes []identity.Change
	var roles []string
	for _, name := range lost {
		grant := grantOf(m, name)
		if grant == nil {
			continue
		}
		if grant.Authenticator == r.opened.Authenticator {
			return nil, &refusal{what: fmt.Sprintf("%q is the authenticator that you are logged in with", name),
				advice: "Log in with another one that opens the same roles: --authenticator NAME."}
		}
		changes = append(changes, identity.RemoveGrant{Authenticator: grant.Authenticator})
		for _, role := range m.Level(grant.Level).Roles {
			roles = append(roles, role)
			r.seen[role] = m.Role(role).Generation
		}
	}
	for name, generation := range r.seen {
		if role := m.Role(name); role != nil && role.Generation == generation {
			roles = append(roles, name)
		}
	}
	if len(roles) == 0 {
		return changes, nil
	}
	slices.Sort(roles)
	roles = slices.Compact(roles)
	if err := r.holdsAll("reset", roles); err != nil {
		return nil, err
	}
	return append(changes, identity.RotateRoles{Roles: roles}), nil
}

// holdsAll refuses what could not be finished: keys can only be replaced by who
// has them.
func (r *resetting) holdsAll(verb string, roles []string) error {
	for _, role := range roles {
		if r.opened.Roles[role] != nil {
			continue
		}
		return &refusal{what: fmt.Sprintf("cannot %s identity %q: the authenticator that you are logged in with does not open role %s, whose keys are to be replaced", verb, r.name, role),
			advice: "Nothing was changed. Log in with one that does: " + whoOpens(r.opened.Manifest, role) + "."}
	}
	return nil
}

// maxLeft bounds how many assets a reset fails with before it stops.
const maxLeft = 8

// finish moves every asset to the present role keys and then drops the old ones.
func (r *resetting) finish(ctx context.Context) error {
	pending := pendingRoles(r.opened.Manifest)
	for _, role := range pending {
		if !slices.Contains(r.doc.Roles, role) {
			r.doc.Roles = append(r.doc.Roles, role)
		}
	}
	names, err := r.assetNames(ctx)
	if err != nil {
		return err
	}
	// One that cannot be moved, such as an account whose nodes are down, does not
	// keep the others under keys that are known to whoever has the lost one.
	var first error
	var left []string
	for _, name := range names {
		a, _, err := r.asset(ctx, name)
		if errors.Is(err, errNoAsset) {
			continue // deleted meanwhile
		}
		if err == nil {
			err = r.move(ctx, a, pending)
		}
		if err == nil {
			continue
		}
		if first == nil {
			first = err
		}
		if left = append(left, quote(r.name+"/"+name)); len(left) == maxLeft || ctx.Err() != nil {
			break
		}
	}
	if first != nil {
		return fmt.Errorf("keys are being replaced, and that is not finished (run it again to go on); %s could not be moved to the new keys: %w", strings.Join(left, ", "), first)
	}
	if len(pending) > 0 {
		if err := r.change(ctx, "finish the reset of identity "+quote(r.name), false, identity.DropPast{Roles: pending}); err != nil {
			return err
		}
	}
	r.doc.Generation = r.opened.Manifest.Generation
	r.doc.remains(r.opened.Manifest)
	return nil
}

// add appends what a run before this one in the same process may have noted.
func add[T comparable](list []T, x T) []T {
	if slices.Contains(list, x) {
		return list
	}
	return append(list, x)
}

// grantOf returns the grant of the authenticator of that name, or nil.
func grantOf(m *identity.Manifest, name string) *identity.Grant {
	for i := range m.Grants {
		if m.Grants[i].Name == name {
			return &m.Grants[i]
		}
	}
	return nil
}

// pendingRoles are those whose old keys assets may still need.
func pendingRoles(m *identity.Manifest) []string {
	var roles []string
	for _, role := range m.Roles {
		if role.Past != nil {
			roles = append(roles, role.Name)
		}
	}
	return roles
}

// whoOpens names the authenticators that open a role.
func whoOpens(m *identity.Manifest, role string) string {
	names := ""
	for _, g := range m.Grants {
		if slices.Contains(m.Level(g.Level).Roles, role) {
			if names != "" {
				names += ", "
			}
			names += g.Name
		}
	}
	if names == "" {
		return "nobody does"
	}
	return names
}
