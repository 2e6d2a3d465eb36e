package backend

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// assetWrite stores an asset by one Put. A repetition of the write before is
// answered as that was.
func (b *backend) assetWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	owner, name, err := assetPath(data)
	if err != nil {
		return nil, err
	}
	raw, err := decoded(data, "asset", identity.MaxAsset)
	if err != nil {
		return nil, err
	}
	sig, err := decoded(data, "signature", ed25519Signature)
	if err != nil {
		return nil, err
	}
	signed := identity.SignedAsset{Asset: raw, Signature: sig}
	defer b.lockIdentity(owner)()
	ir, m, err := b.needIdentity(ctx, owner)
	if err != nil {
		return nil, err
	}
	if err := checkIdentityActive(owner, ir); err != nil {
		return nil, err
	}
	a, err := signed.Verify(m)
	if err != nil {
		return nil, invalid("the asset is refused and nothing was changed: %v", err)
	}
	if a.Name != name {
		return nil, invalid("the asset is %q and the path names %q: nothing was changed", a.Name, name)
	}
	r, err := b.store.asset(ctx, m.Identity, name)
	if err != nil {
		return nil, err
	}
	if r != nil && bytes.Equal(r.Signed.Asset, signed.Asset) {
		resp := assetAnswer(m, r, a)
		resp.AddWarning(alreadyStored)
		return resp, nil
	}
	if err := onlyOperation(req, r != nil, "asset", name); err != nil {
		return nil, err
	}
	if err := b.checkAsset(ctx, m, r, a); err != nil {
		return nil, err
	}
	r = &assetRecord{Version: recordVersion, Signed: signed}
	if err := b.store.put(ctx, assetKey(m.Identity, name), r); err != nil {
		return nil, err
	}
	b.log.Info("an asset was written", "identity", owner, "asset", name, "generation", a.Generation)
	return assetAnswer(m, r, a), nil
}

// checkAsset holds the rules that need other records. The caller has verified the
// asset and holds the identity. stored is nil for a new one.
func (b *backend) checkAsset(ctx context.Context, m *identity.Manifest, stored *assetRecord, a *identity.Asset) error {
	account := ""
	if stored == nil {
		if err := b.checkNewAsset(ctx, m, a); err != nil {
			return err
		}
	} else {
		was, err := stored.open(m, a.Name)
		if err != nil {
			return err
		}
		account = was.Account
		switch err := a.Follows(was); {
		case errors.Is(err, identity.ErrNotNext):
			return conflict("%v: nothing was changed; read it again, and make the change to what it says", err)
		case err != nil:
			return invalid("%v: nothing was changed", err)
		}
	}
	if role := assetFactsOf(a).behind(m); role != "" {
		return conflict("the asset is under other keys of role %s than the present ones: nothing was changed; read the identity again, and seal every key of the asset to what it says", role)
	}
	if a.Kind != identity.AccountAsset {
		return nil
	}
	if err := custodyAllowed(m, a.Name, a.Roles()); err != nil {
		return err
	}
	return b.checkAccountAsset(ctx, m, a, account)
}

func (b *backend) checkNewAsset(ctx context.Context, m *identity.Manifest, a *identity.Asset) error {
	if a.Generation != 1 {
		return conflict("there is no asset %q, and the one sent is of generation %d: nothing was created; a new one begins with 1", a.Name, a.Generation)
	}
	all, err := b.assetsOf(ctx, m)
	if err != nil {
		return err
	}
	if len(all) >= maxAssets {
		return conflict("identity %q has %d assets, which is as many as one can have: nothing was created; put more keys into one asset, or delete some", m.Name, len(all))
	}
	if i := slices.IndexFunc(all, func(f *assetFacts) bool { return f.ID == a.ID }); i >= 0 {
		return conflict("asset %q of %q has the ID %s: nothing was created; draw a new one", all[i].Name, m.Name, a.ID)
	}
	return nil
}

// checkAccountAsset: the custody key that is in force for an account stays in the
// asset, and the asset names that account or none; or the one that it named before,
// which may have been destroyed: the roles that the asset is for can be reset then,
// too.
func (b *backend) checkAccountAsset(ctx context.Context, m *identity.Manifest, a *identity.Asset, before string) error {
	accounts, err := b.custodies(ctx, func(c *custodyRecord) bool {
		return c.Identity == m.Identity.String() && c.Asset == a.ID.String()
	})
	if err != nil {
		return err
	}
	named := a.Account == "" || a.Account == before
	for name, f := range accounts {
		if !slices.ContainsFunc(a.Keys, func(k identity.AssetKey) bool { return bytes.Equal(k.Public, f.Custody.PublicKey) }) {
			return conflict("asset %q holds the custody key of account %q, and what was sent does not have it any more: nothing was changed; the account could not sign without it. Refresh the account to the new custody key first", a.Name, name)
		}
		named = named || a.Account == f.AccountID
	}
	if !named {
		return conflict("asset %q is said to be for account %s, whose custody key it does not hold: nothing was changed", a.Name, a.Account)
	}
	return nil
}

func (b *backend) assetDelete(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	owner, name, err := assetPath(data)
	if err != nil {
		return nil, err
	}
	defer b.lockIdentity(owner)()
	ir, m, err := b.needIdentity(ctx, owner)
	if err != nil {
		return nil, err
	}
	if err := checkIdentityActive(owner, ir); err != nil {
		return nil, err
	}
	_, a, err := b.needAsset(ctx, m, name)
	if err != nil {
		return nil, err
	}
	if a.Kind == identity.AccountAsset {
		if err := b.checkNoCustody(ctx, "asset "+quoted([]string{owner + "/" + name}), func(c *custodyRecord) bool {
			return c.Identity == ir.ID && c.Asset == a.ID.String()
		}); err != nil {
			return nil, err
		}
	}
	if err := b.store.delete(ctx, assetKey(m.Identity, name)); err != nil {
		return nil, err
	}
	b.log.Info("an asset was deleted", "identity", owner, "asset", name, "asset_id", a.ID.String())
	return nil, nil
}
