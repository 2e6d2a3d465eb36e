package backend

import (
	"bytes"
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// alreadyStored is what a repeated write is told.
const alreadyStored = "this is stored already: nothing was changed"

// identityWrite stores a manifest by one Put. A repetition of the write before is
// answered as that was, so that a client which lost the answer may repeat it.
func (b *backend) identityWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "identity")
	if err != nil {
		return nil, err
	}
	signed, m, err := sentManifest(data, name)
	if err != nil {
		return nil, err
	}
	defer b.hierarchy.all()()
	if err := ctx.Err(); err != nil {
		return nil, err // it waited for its turn
	}
	r, err := b.store.identity(ctx, name)
	if err != nil {
		return nil, err
	}
	if r != nil && bytes.Equal(r.Signed.Manifest, signed.Manifest) {
		resp, err := b.identityAnswer(ctx, r, m)
		if err == nil {
			resp.AddWarning(alreadyStored)
		}
		return resp, err
	}
	if err := onlyOperation(req, r != nil, "identity", name); err != nil {
		return nil, err
	}
	c := &manifestChange{new: m, force: data.Get("force").(bool)}
	if r == nil {
		if err := c.checkNew(); err != nil {
			return nil, err
		}
		if r, err = b.newIdentity(ctx, m); err != nil {
			return nil, err
		}
	} else {
		if err := checkIdentityActive(name, r); err != nil {
			return nil, err
		}
		if c.old, err = r.open(name); err != nil {
			return nil, err
		}
		if err := verifyNext(&r.Signed, signed); err != nil {
			return nil, err
		}
	}
	if err := b.checkManifest(ctx, c); err != nil {
		return nil, err
	}
	r.Version, r.Signed = recordVersion, *signed
	if err := b.store.put(ctx, prefixIdentities+name, r); err != nil {
		return nil, err
	}
	b.log.Info("an identity was written", "identity", name, "identity_id", r.ID, "generation", m.Generation)
	return b.identityAnswer(ctx, r, m)
}

// sentManifest reads and verifies what was sent.
func sentManifest(data *framework.FieldData, name string) (*identity.SignedManifest, *identity.Manifest, error) {
	raw, err := decoded(data, "manifest", identity.MaxManifest)
	if err != nil {
		return nil, nil, err
	}
	sig, err := decoded(data, "signature", ed25519Signature)
	if err != nil {
		return nil, nil, err
	}
	signed := &identity.SignedManifest{Manifest: raw, Signature: sig}
	m, err := signed.Verify()
	if err != nil {
		return nil, nil, invalid("the manifest is refused and nothing was changed: %v", err)
	}
	if m.Name != name {
		return nil, nil, invalid("the manifest is of identity %q and the path names %q: nothing was changed", m.Name, name)
	}
	return signed, m, nil
}

// newIdentity is the record of an identity that is not stored yet. The caller
// holds everything.
func (b *backend) newIdentity(ctx context.Context, m *identity.Manifest) (*identityRecord, error) {
	// Assets are stored under the ID. Only who has the first owner's keys can make
	// a second identity of it.
	other, _, err := b.identityByID(ctx, m.Identity)
	if err != nil {
		return nil, err
	}
	if other != "" {
		return nil, conflict("identity %q has the same first owner keys, and so the ID %s: nothing was created; draw new keys for each identity", other, m.Identity)
	}
	left, err := b.store.assetNames(ctx, m.Identity)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		return nil, conflict("there are assets of an identity %s whose own record is gone or cannot be read: nothing was created; restore that from a backup of Vault's storage", m.Identity)
	}
	return &identityRecord{ID: m.Identity.String(), Created: b.utcSeconds()}, nil
}

// identityDelete removes the assets and then the identity, so that a crash in
// between leaves an identity that can be deleted again.
func (b *backend) identityDelete(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "identity")
	if err != nil {
		return nil, err
	}
	defer b.hierarchy.all()()
	r, m, err := b.needIdentity(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := checkIdentityActive(name, r); err != nil {
		return nil, err
	}
	if err := b.checkNoCustody(ctx, "identity "+quoted([]string{name}), func(c *custodyRecord) bool { return c.Identity == r.ID }); err != nil {
		return nil, err
	}
	assets, err := b.store.assetNames(ctx, m.Identity)
	if err != nil {
		return nil, err
	}
	for _, asset := range assets {
		if err := b.store.delete(ctx, assetKey(m.Identity, asset)); err != nil {
			return nil, err
		}
		if err := b.step(ctx, stepIdentityAsset); err != nil {
			return nil, err
		}
	}
	if err := b.store.delete(ctx, prefixIdentities+name); err != nil {
		return nil, err
	}
	b.log.Info("an identity was deleted", "identity", name, "identity_id", r.ID, "assets", len(assets))
	return nil, b.step(ctx, stepIdentityRemoved)
}

// checkNoCustody is a 409 where an account needs a custody key that would go.
func (b *backend) checkNoCustody(ctx context.Context, what string, match func(*custodyRecord) bool) error {
	accounts, err := b.custodies(ctx, match)
	var damaged *damagedError
	if errors.As(err, &damaged) {
		return conflict("%s cannot be deleted while it is not known whose custody keys it holds, because an account cannot be read: %v; nothing was changed", what, damaged)
	}
	if err != nil || len(accounts) == 0 {
		return err
	}
	names := make([]string, 0, len(accounts))
	for name := range accounts {
		names = append(names, name)
	}
	return conflict("%s holds the custody key of these accounts, which could not sign without it: %s; nothing was changed. Destroy the accounts first (destroy/<name>)", what, few(names))
}
