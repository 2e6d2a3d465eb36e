package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// custodyCreate makes an account with custody: the asset with a new custody key,
// then the account, and then the asset names the account. Each step is found done
// when it is run again.
func (a *app) custodyCreate(cmd *cobra.Command, c *client, name, where string, roles []string, body map[string]any) (*account, error) {
	ctx, what := cmd.Context(), "create account "+quote(name)
	owner, assetName, err := assetName(cmd, where)
	if err != nil {
		return nil, err
	}
	h, err := a.enter(cmd, owner)
	if err != nil {
		return nil, err
	}
	defer a.leave(h)
	asset, err := h.custodyAsset(ctx, assetName, roles)
	if err != nil {
		return nil, err
	}
	acc, err := c.readAccount(ctx, name)
	var r *refusal
	switch {
	case err == nil: // made before, perhaps by a run that was interrupted
		if asset.Account != "" || acc.Custody == nil || string(acc.Custody.PublicKey) != string(asset.Key(identity.CustodyKey).Public) {
			return nil, &refusal{what: fmt.Sprintf("account %q exists already; nothing was changed", name),
				advice: "Look at it with 'mpckms account show " + name + "', or choose another name."}
		}
	case errors.As(err, &r) && (r.status == http.StatusForbidden || r.status == http.StatusNotFound && !r.noRoute() && !r.unsupportedPath()):
		if asset.Account != "" {
			return nil, &refusal{what: fmt.Sprintf("asset %s holds the custody key of another account, with the ID %s; nothing was created", quote(where), asset.Account),
				advice: "Each account has a custody key of its own: choose another name for the asset."}
		}
		body["custody_identity"], body["custody_asset"] = owner, assetName
		acc = &account{Name: name}
		if _, err := c.do(ctx, request{what: what, capability: capCreate, path: "accounts/" + name, body: body, account: name}, acc); err != nil {
			return nil, err
		}
		if acc, err = a.afterWrite(ctx, c, acc, "created"); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	if acc.Custody == nil || string(acc.Custody.PublicKey) != string(asset.Key(identity.CustodyKey).Public) {
		return nil, &refusal{what: fmt.Sprintf("the server says that account %q has another custody key than that in %s", name, quote(where)),
			advice: "Do not use the account: it may sign without you."}
	}
	if err := h.write(ctx, asset, func(next *identity.Asset) error { next.Account = acc.ID; return nil }); err != nil {
		return nil, fmt.Errorf("account %q was created, but its asset does not name it yet (run the command again to go on): %w", name, err)
	}
	if err := h.home.SeenAccount(name, keyholder.AccountPin{ID: acc.ID, PublicKey: acc.PublicKeyHex}, true); err != nil {
		return nil, err
	}
	// Now, while its maker looks on, is the time to meet the nodes.
	if _, err := a.custodian(ctx, h); err != nil {
		return nil, err
	}
	return acc, nil
}

// custodyAsset returns the asset that is to hold a new account's custody key,
// which is made with a new key if need be.
func (h *holder) custodyAsset(ctx context.Context, name string, roles []string) (*identity.Asset, error) {
	asset, _, err := h.asset(ctx, name)
	if err == nil {
		if asset.Kind != identity.AccountAsset {
			return nil, &refusal{what: fmt.Sprintf("%s is a secret already; nothing was created", quote(h.name+"/"+name)), advice: "Choose another name for the custody key."}
		}
		return asset, h.sameRoles(asset, roles)
	}
	if !errors.Is(err, errNoAsset) {
		return nil, err
	}
	if len(roles) == 0 {
		return nil, noRoles(h.name)
	}
	public, private, err := identity.NewCustodyKey()
	if err != nil {
		return nil, err
	}
	defer private.Wipe()
	err = h.write(ctx, h.opened.NewAsset(name, identity.AccountAsset), func(next *identity.Asset) error {
		k, err := identity.SealAssetKey(h.opened.Manifest, next, identity.CustodyKey, public, private, roles)
		if err == nil {
			next.Put(*k)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	asset, _, err = h.asset(ctx, name)
	return asset, err
}

func noRoles(identityName string) error {
	return &refusal{what: "for which roles is the custody key? Nothing was created", advice: "Name them with --role; 'mpckms identity show " + identityName + "' lists them."}
}

// sameRoles: a custody key that is there already is for the roles that are meant.
// It may be of a run that was interrupted, or of somebody else with any role, who
// would have a key of the account that is to be made.
func (h *holder) sameRoles(asset *identity.Asset, roles []string) error {
	if len(roles) == 0 {
		return noRoles(h.name)
	}
	want := slices.Compact(slices.Sorted(slices.Values(roles)))
	if have := asset.Roles(); !slices.Equal(have, want) {
		return &refusal{what: fmt.Sprintf("%s exists already, with a custody key for roles %s and not for %s; nothing was created", quote(h.name+"/"+asset.Name), strings.Join(have, ", "), strings.Join(want, ", ")),
			advice: "If you have not made it yourself, somebody else knows its key: choose another name. Otherwise give the roles that it was made for."}
	}
	return nil
}
