package cli

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"vault-plugin-secrets-mpc/identity"
)

// move re-encrypts one asset if roles in pending may use it or wrote it.
func (r *resetting) move(ctx context.Context, a *identity.Asset, pending []string) error {
	exposed := false
	for _, k := range a.Keys {
		if !slices.ContainsFunc(k.Sealed, func(s identity.SealedRole) bool { return slices.Contains(pending, s.Role) }) {
			continue
		}
		exposed = true
		if a.Kind == identity.SecretAsset {
			r.doc.Change = add(r.doc.Change, exposedKey{r.name + "/" + a.Name, k.Name})
		}
	}
	if a.Kind == identity.AccountAsset && exposed {
		switch {
		case a.Account == "":
			return r.moveUntied(ctx, a)
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
	r.doc.Assets = add(r.doc.Assets, r.name+"/"+a.Name)
	return nil
}

// moveUntied encrypts the custody key of an account anew that is still being made,
// or that is gone. It is not replaced: there may be an account with it that the
// asset does not name yet, and which would be lost.
func (r *resetting) moveUntied(ctx context.Context, a *identity.Asset) error {
	r.doc.Untied = add(r.doc.Untied, r.name+"/"+a.Name)
	return r.keepCustody(ctx, a)
}

// keepCustody encrypts custody keys anew that stay what they are.
func (r *resetting) keepCustody(ctx context.Context, a *identity.Asset) error {
	if !identity.Stale(r.opened.Manifest, a) {
		return nil
	}
	err := r.write(ctx, a, func(next *identity.Asset) error {
		for i := range a.Keys {
			old := &a.Keys[i]
			value, err := r.opened.AssetValue(a, old.Name)
			if err != nil {
				return err
			}
			k, err := identity.SealAssetKey(r.opened.Manifest, next, old.Name, old.Public, value, old.Roles())
			value.Wipe()
			if err != nil {
				return err
			}
			next.Put(*k)
		}
		return nil
	})
	if err == nil {
		r.doc.Assets = add(r.doc.Assets, r.name+"/"+a.Name)
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
	if errors.Is(err, errNoAccount) {
		return r.moveUntied(ctx, a)
	}
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
		r.doc.Assets = add(r.doc.Assets, r.name+"/"+a.Name)
		if a, _, err = r.asset(ctx, a.Name); err != nil {
			return err
		}
	case !identity.Pending(a): // step 3 was done before
		r.doc.Accounts = add(r.doc.Accounts, account)
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
	r.doc.Accounts, r.replaced = add(r.doc.Accounts, account), add(r.replaced, account)
	return nil
}
