package cli

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/identity"
)

// resetDoc is the JSON document of `identity reset`.
type resetDoc struct {
	Identity   string   `json:"identity"`
	Lost       string   `json:"lost"`
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
	// more are roles to get new keys beside those of the lost one's level, which
	// may have been another before.
	more []string
	// keep leaves custody keys of accounts in force: nobody is suspected.
	keep bool
	// replaced are the accounts whose custody key this run replaced.
	replaced []string
	doc      resetDoc
}

// custodyReplacer puts another custody key in force for an account.
type custodyReplacer interface {
	// InForce returns the account's name and the public half of the custody key
	// that its shares are sealed to.
	InForce(ctx context.Context, asset *identity.Asset) (account string, public []byte, err error)
	// Replace refreshes the shares with the key `custody` of the asset and seals
	// them to its key `custody-next`.
	Replace(ctx context.Context, account string, asset *identity.Asset) error
}

func (r *resetting) run(ctx context.Context, lost string) error {
	r.doc = resetDoc{Identity: r.name, Lost: lost, Roles: []string{}, Assets: []string{}, Accounts: []string{}, Change: []exposedKey{}}
	m := r.opened.Manifest
	grant, pending := grantOf(m, lost), pendingRoles(m)
	// Of a run that was interrupted: they have new keys already.
	more := slices.DeleteFunc(slices.Clone(r.more), func(role string) bool { return slices.Contains(pending, role) })
	if grant == nil && len(pending) == 0 && len(more) == 0 {
		return &refusal{what: fmt.Sprintf("authenticator %q has no grant in identity %q, and no reset is unfinished", lost, r.name),
			advice: "'mpckms identity show " + r.name + "' lists who has one."}
	}
	if grant == nil && len(more) == 0 {
		return r.finish(ctx)
	}
	roles := more
	var changes []identity.Change
	if grant != nil {
		if grant.Authenticator == r.opened.Authenticator {
			return &refusal{what: fmt.Sprintf("%q is the authenticator that you are logged in with", lost),
				advice: "Log in with another one that opens the same roles: --authenticator NAME."}
		}
		roles = append(roles, m.Level(grant.Level).Roles...)
		changes = append(changes, identity.RemoveGrant{Authenticator: grant.Authenticator})
	}
	if err := r.holdsAll("reset", roles); err != nil {
		return err
	}
	if len(pending) > 0 { // of an earlier reset: its old keys would be lost
		if err := r.finish(ctx); err != nil {
			return err
		}
	}
	err := r.change(ctx, "reset identity "+quote(r.name), false, append(changes, identity.RotateRoles{Roles: roles})...)
	if err != nil {
		return err
	}
	return r.finish(ctx)
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
	for _, name := range names {
		a, _, err := r.asset(ctx, name)
		if err != nil {
			return err
		}
		if err := r.move(ctx, a, pending); err != nil {
			return fmt.Errorf("keys are being replaced, and that is not finished (run it again to go on): %w", err)
		}
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

// move re-encrypts one asset if roles in pending may use it or wrote it.
func (r *resetting) move(ctx context.Context, a *identity.Asset, pending []string) error {
	exposed := false
	for _, k := range a.Keys {
		if !slices.ContainsFunc(k.Sealed, func(s identity.SealedRole) bool { return slices.Contains(pending, s.Role) }) {
			continue
		}
		exposed = true
		if a.Kind == identity.SecretAsset {
			r.doc.Change = append(r.doc.Change, exposedKey{r.name + "/" + a.Name, k.Name})
		}
	}
	if a.Kind == identity.AccountAsset && exposed {
		switch {
		case a.Account == "":
			// It is not replaced: there may be an account with it that the asset does
			// not name yet, and which would be lost.
			r.doc.Untied = append(r.doc.Untied, r.name+"/"+a.Name)
			return r.keepCustody(ctx, a)
		case r.keep && !identity.Pending(a):
			return r.keepCustody(ctx, a)
		}
		return r.replaceCustody(ctx, a)
	}
	if !identity.Stale(r.opened.Manifest, a) {
		return nil
	}
	return r.reseal(ctx, a)
}

func (r *resetting) reseal(ctx context.Context, a *identity.Asset) error {
	signed, err := r.opened.Reseal(a, r.now(), nil)
	if err != nil {
		return refusedBy("encrypt asset "+quote(r.name+"/"+a.Name)+" anew", err)
	}
	if err := r.store(ctx, a.Name, signed); err != nil {
		return err
	}
	r.doc.Assets = append(r.doc.Assets, r.name+"/"+a.Name)
	return nil
}

// keepCustody encrypts a custody key anew that stays what it is.
func (r *resetting) keepCustody(ctx context.Context, a *identity.Asset) error {
	if !identity.Stale(r.opened.Manifest, a) {
		return nil
	}
	err := r.write(ctx, a, func(next *identity.Asset) error {
		value, err := r.opened.AssetValue(a, identity.CustodyKey)
		if err != nil {
			return err
		}
		defer value.Wipe()
		old := a.Key(identity.CustodyKey)
		k, err := identity.SealAssetKey(r.opened.Manifest, next, identity.CustodyKey, old.Public, value, keyRoles(old))
		if err == nil {
			next.Put(*k)
		}
		return err
	})
	if err == nil {
		r.doc.Assets = append(r.doc.Assets, r.name+"/"+a.Name)
	}
	return err
}

// replaceCustody puts a new custody key in force. The old one is needed until the
// account's shares are sealed to the new one, and neither may be lost in between:
//
//  1. the asset is written with both, under the present role keys
//  2. the account is refreshed with the old one, its shares sealed to the new one
//  3. the asset is written with the new one alone
//
// Which of these are done is seen from the asset and the account.
func (r *resetting) replaceCustody(ctx context.Context, a *identity.Asset) error {
	account, inForce, err := r.custody.InForce(ctx, a)
	if err != nil {
		return err
	}
	switch {
	case identity.Stale(r.opened.Manifest, a):
		// Also where a replacement had been begun: whoever is shut out now could
		// have begun it, and then knows the key that was to come.
		signed, err := r.opened.RestartCustody(a, r.now(), inForce, nil)
		if err != nil {
			return refusedBy("begin to replace the custody key of account "+quote(account), err)
		}
		if err := r.store(ctx, a.Name, signed); err != nil {
			return err
		}
		r.doc.Assets = append(r.doc.Assets, r.name+"/"+a.Name)
		if a, _, err = r.asset(ctx, a.Name); err != nil {
			return err
		}
	case !identity.Pending(a): // step 3 was done before
		r.doc.Accounts = append(r.doc.Accounts, account)
		return nil
	}
	if !bytes.Equal(inForce, a.Key(identity.NextCustodyKey).Public) {
		if err := r.custody.Replace(ctx, account, a); err != nil {
			return err
		}
	}
	signed, err := r.opened.PromoteCustody(a, r.now())
	if err != nil {
		return refusedBy("put the new custody key of account "+quote(account)+" in force", err)
	}
	if err := r.store(ctx, a.Name, signed); err != nil {
		return err
	}
	r.doc.Accounts, r.replaced = append(r.doc.Accounts, account), append(r.replaced, account)
	return nil
}

func keyRoles(k *identity.AssetKey) []string {
	var roles []string
	for _, s := range k.Sealed {
		roles = append(roles, s.Role)
	}
	return roles
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
