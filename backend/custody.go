package backend

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/rotation"
)

// An account with user custody is tied to an asset of an identity, whose key is
// the custody key: every share of it opens with the wrapping key and the custody
// key together only. So nothing here can sign or refresh such an account by
// itself; each time the owner takes part (path_custody.go). What needs the
// wrapping key alone, a rewrap, goes on by itself.
//
// The tie is by IDs: identity and asset may be looked up by their names, and a
// name that was taken anew is another thing.

// hash is what a public record names the custody key by; zero for an account
// without.
func (r *custodyRecord) hash() [32]byte {
	if r == nil {
		return [32]byte{}
	}
	return mpc.CustodyHash(r.PublicKey)
}

// custodyAsset is the asset that an account is tied to, as it is stored now.
type custodyAsset struct {
	identityName string
	identity     *identityRecord
	asset        *identity.Asset
}

// next is the custody key that the next epoch is to have: one that waits to
// replace the present one, or the asset's only one.
func (h *custodyAsset) next() []byte {
	for _, name := range []string{identity.NextCustodyKey, identity.CustodyKey} {
		if k := h.asset.Key(name); k != nil {
			return k.Public
		}
	}
	return nil
}

// custodyAssetOf finds the asset that an account is tied to, and its identity. Errors:
// a 409 where they are not in storage, or that it cannot be read.
func (b *backend) custodyAssetOf(ctx context.Context, c *custodyRecord) (*custodyAsset, error) {
	name, r, err := b.identityForCustody(ctx, c)
	if err != nil {
		return nil, err
	}
	m, err := r.open(name)
	if err != nil {
		return nil, err
	}
	// Where it was found last, so that another asset's damage is not this account's.
	if hint := b.custody.foundAs(c.Asset); hint != "" {
		if _, a, err := b.needAsset(ctx, m, hint); err == nil && a.ID.String() == c.Asset {
			return &custodyAsset{name, r, a}, nil
		}
	}
	_, _, a, err := b.assetForCustody(ctx, c)
	if err != nil {
		return nil, err
	}
	b.custody.noteFound(c.Asset, a.Name)
	return &custodyAsset{name, r, a}, nil
}

// custodyFields are those of a new account that is to have user custody.
func custodyFields(into map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	into["custody_identity"] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Name of the identity whose custody key each share is to need beside the HSM's. Then only who opens that key signs, with custody/:name/begin. Cannot be changed later.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Custody identity"},
	}
	into["custody_asset"] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "With custody_identity: name of its asset of kind account that holds the custody key and belongs to no account yet.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Custody asset"},
	}
	return into
}

// newCustody reads what a new account is to be tied to; nil where user custody is
// not asked for.
func (b *backend) newCustody(ctx context.Context, data *framework.FieldData) (*custodyRecord, error) {
	owner, asset := data.Get("custody_identity").(string), data.Get("custody_asset").(string)
	switch {
	case owner == "" && asset == "":
		return nil, nil
	case owner == "" || asset == "":
		return nil, invalid("custody_identity and custody_asset go together: the identity, and its asset of kind account that holds the custody key")
	}
	if err := identity.CheckName("identity", owner); err != nil {
		return nil, invalid("custody_identity: %v", err)
	}
	if err := identity.CheckName("asset", asset); err != nil {
		return nil, invalid("custody_asset: %v", err)
	}
	r, err := b.store.identity(ctx, owner)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, invalid("there is no identity %q: create it first, with an asset that holds the custody key", clip(owner))
	}
	if err := checkIdentityActive(owner, r); err != nil {
		return nil, err
	}
	m, err := r.open(owner)
	if err != nil {
		return nil, err
	}
	stored, err := b.store.asset(ctx, m.Identity, asset)
	if err != nil {
		return nil, err
	}
	var a *identity.Asset
	if stored != nil {
		if a, err = stored.open(m, asset); err != nil {
			return nil, err
		}
	}
	switch {
	case a == nil:
		return nil, invalid("identity %q has no asset %q: write one of kind %s with a custody key first", owner, clip(asset), identity.AccountAsset)
	case a.Kind != identity.AccountAsset || a.Key(identity.CustodyKey) == nil:
		return nil, invalid("asset %q is of kind %s: a custody key is in an asset of kind %s", asset, a.Kind, identity.AccountAsset)
	case a.Account != "":
		return nil, conflict("asset %q belongs to the account with the ID %s already: make an asset with a custody key of its own", asset, a.Account)
	case a.Key(identity.NextCustodyKey) != nil:
		return nil, conflict("the custody key of asset %q is being replaced: finish that first", asset)
	}
	if err := identity.CheckCustody(m, a.Roles()); err != nil {
		return nil, invalid("custody_asset: %v", err)
	}
	c := &custodyRecord{Identity: r.ID, Asset: a.ID.String(), PublicKey: a.Key(identity.CustodyKey).Public}
	if _, err := ecdh.P256().NewPublicKey(c.PublicKey); err != nil {
		return nil, invalid("the custody key of asset %q is no point of P-256: write the asset with a key that is", asset)
	}
	b.custody.noteFound(c.Asset, asset)
	return c, nil
}

// custodyUnused fails where another account is tied to the same asset: a reset of
// the identity would replace the custody key of one of them only. The caller sees to
// it that nobody else asks for the same asset meanwhile.
func (b *backend) custodyUnused(ctx context.Context, c *custodyRecord) error {
	used, err := b.custodies(ctx, func(other *custodyRecord) bool { return other.Asset == c.Asset })
	if err != nil {
		return err
	}
	for name := range used {
		return conflict("account %q is tied to this asset already: make an asset with a custody key of its own for each account", name)
	}
	return nil
}

// underCustody calls store, which ties an account to an asset or changes by which
// key, while identity and asset stay as they are: it fails where the asset has gone,
// or holds another key by now than was agreed upon.
func (b *backend) underCustody(ctx context.Context, c *custodyRecord, store func() error) error {
	if c == nil {
		return store()
	}
	name, _, err := b.identityForCustody(ctx, c)
	if err != nil {
		return err
	}
	defer b.lockIdentity(name)()
	h, err := b.custodyAssetOf(ctx, c)
	if err != nil {
		return err
	}
	if h.identityName != name || !bytes.Equal(h.next(), c.PublicKey) {
		return conflict("the asset with the custody key was changed meanwhile: nothing was stored; begin again")
	}
	if err := checkIdentityActive(name, h.identity); err != nil {
		return err
	}
	return store()
}

// needsOwner is the 409 of whatever opens shares without the owner; nil for an
// account without user custody.
func needsOwner(name string, c *custodyRecord) error {
	if c == nil {
		return nil
	}
	return conflict("account %q has user custody: its shares open with the owner's custody key only. Use mpckms account sign or mpckms account refresh, logged in as the owner; they take <mount>/custody/%s/begin and finish", name, name)
}

// refreshDue says that the owner of an account should refresh it: its period is
// over, or its shares are sealed to other recovery custodians than are in force.
func (b *backend) refreshDue(ctx context.Context, name string, r *accountRecord) (bool, error) {
	s := scheduleOf(name, r)
	s.Opened = true // each signature opens shares
	if rotation.Due(s, b.runner.Policy(), b.cfg.now()) {
		return true, nil
	}
	a, err := r.Current.account()
	if err != nil {
		return false, err
	}
	_, hash, err := b.setInForce(ctx)
	return err == nil && hash != a.Record.RecipientsHash, err
}

// custodyAnswerFields describes custodyAnswer.
func custodyAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"custody":         optional(framework.TypeMap, "Of an account with user custody: identity and asset by name, empty where they are not to be found; identity_id and asset_id; and public_key, the custody key's public half in base64 (65 bytes)."),
		"custody_pending": optional(framework.TypeBool, "Of such an account: whether its asset holds another custody key that waits for the next refresh."),
		"refresh_due":     optional(framework.TypeBool, "Of such an account: whether its owner should refresh it; nobody else can. It signs as before."),
	}
}

// custodyAnswer says whose an account is. What is missing in storage leaves the
// account readable.
func (b *backend) custodyAnswer(ctx context.Context, name string, r *accountRecord, into map[string]any) error {
	c := r.Custody
	if c == nil {
		return nil
	}
	facts := map[string]any{"identity": "", "asset": "", "identity_id": c.Identity, "asset_id": c.Asset,
		"public_key": base64.StdEncoding.EncodeToString(c.PublicKey)}
	pending := false
	h, err := b.custodyAssetOf(ctx, c)
	switch {
	case err == nil:
		facts["identity"], facts["asset"] = h.identityName, h.asset.Name
		pending = !bytes.Equal(h.next(), c.PublicKey)
	case ctx.Err() != nil:
		return err
	default:
		b.log.Warn("the asset with an account's custody key cannot be read", "account", name, "error", err)
	}
	due, err := b.refreshDue(ctx, name, r)
	into["custody"], into["custody_pending"], into["refresh_due"] = facts, pending, due
	return err
}

// checkCustodySeals demands that the envelopes of an epoch need a custody key, or
// none, as its record says. That the seal opens only the owner can tell.
func checkCustodySeals(envelopes [][]byte, record *mpc.PublicRecord) error {
	for k, raw := range envelopes {
		e, err := hsm.ParseEnvelope(raw)
		if err != nil {
			return fmt.Errorf("share %d: %w", k+1, err)
		}
		if want := record.HasCustody(); e.Custody() != want {
			return fmt.Errorf("share %d: sealed to a custody key %v, and by its record %v", k+1, e.Custody(), want)
		}
	}
	return nil
}

// sameButSeals demands of a rewrapped envelope that nothing but its seals to
// wrapping keys has changed: what is behind the custody key cannot be opened to
// look.
func sameButSeals(before, after []byte) error {
	old, err := hsm.ParseEnvelope(before)
	if err != nil {
		return err
	}
	e, err := hsm.ParseEnvelope(after)
	if err != nil {
		return err
	}
	e.Holders[0] = old.Holders[0]
	b, err := e.Marshal()
	if err != nil {
		return err
	}
	if !bytes.Equal(b, before) {
		return errors.New("more than its seals to wrapping keys was changed")
	}
	return nil
}

// custodyWait is how long owner and nodes may take at most from begin to finish;
// nodes forget their keys by then.
const custodyWait = 5 * time.Minute
