package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// maxReason bounds the reason of a freeze, in bytes.
const maxReason = 512

func (b *backend) pathAccountState() []*framework.Path {
	return []*framework.Path{{
		Pattern: "accounts/" + namePattern + "/freeze$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "freeze", OperationSuffix: "account",
		},
		Fields: map[string]*framework.FieldSchema{
			"name": nameField(),
			"reason": {
				Type:         framework.TypeString,
				Description:  "Why, for people; up to 512 bytes, not secret.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Reason"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Keep an account from signing.", true, b.handle("accounts/freeze", 0, b.accountFreeze), accountAnswerFields()),
		},
		HelpSynopsis: "Keep an account from signing until it is unfrozen.",
		HelpDescription: `
Keeps an account from signing, at once:

  $ vault write mpc/accounts/alice/freeze reason="INC-42: laptop stolen"

Once this is answered no signature and no certificate request is begun any more;
one that had been accepted before may still be finished, within seconds (an ECDSA
signature: session_timeout of mpc/config/nodes). Presignatures are thrown away.
Shares go on being refreshed and rewrapped, and public keys, addresses and verify
answer as before.

An account that is frozen stays so: the time of the first freeze is kept, and a
new reason replaces the old. mpc/accounts/alice/unfreeze ends it. A deleted account
that is frozen is not destroyed when its time is over. Whoever is to
freeze in an emergency needs no more than the update capability on this path.
`,
	}, {
		Pattern: "accounts/" + namePattern + "/unfreeze$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "unfreeze", OperationSuffix: "account",
		},
		Fields: map[string]*framework.FieldSchema{"name": nameField()},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Let a frozen account sign again.", true, b.handle("accounts/unfreeze", 0, b.accountUnfreeze), accountAnswerFields()),
		},
		HelpSynopsis: "Let a frozen account sign again.",
		HelpDescription: `
Ends a freeze:

  $ vault write -force mpc/accounts/alice/unfreeze

A deleted account is restored first: mpc/accounts/alice/restore.
`,
	}}
}

// accountFreeze also works on a deleted account: restored, it is frozen.
func (b *backend) accountFreeze(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	reason, given := data.Get("reason").(string), false
	if _, ok := data.GetOk("reason"); ok {
		given = true
	}
	if len(reason) > maxReason || !printable(reason) {
		return nil, invalid("reason must be printable UTF-8 of at most %d bytes", maxReason)
	}
	r, err := b.changeAccount(ctx, name, func(r *accountRecord) (bool, error) {
		switch {
		case r.Frozen == nil:
			r.Frozen = &frozenRecord{Time: b.utcSeconds(), Reason: reason}
		case given && r.Frozen.Reason != reason:
			r.Frozen.Reason = reason
		default:
			return false, nil
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	// Also where nothing was written: the freeze before may have ended between
	// its write and this.
	if err := b.stateChanged(ctx, name, r); err != nil {
		return nil, err
	}
	return b.accountAnswer(ctx, name, r)
}

func (b *backend) accountUnfreeze(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	wasFrozen := false
	r, err := b.changeAccount(ctx, name, func(r *accountRecord) (bool, error) {
		if r.Deleted != nil {
			return false, conflict("account %q was deleted: nothing was changed; %s", name, wayBack(name, r.Deleted))
		}
		wasFrozen = r.Frozen != nil
		r.Frozen = nil
		return wasFrozen, nil
	})
	if err != nil {
		return nil, err
	}
	if err := b.stateChanged(ctx, name, r); err != nil {
		return nil, err
	}
	resp, err := b.accountAnswer(ctx, name, r)
	if err == nil && !wasFrozen {
		resp.AddWarning("the account was not frozen: nothing was changed")
	}
	return resp, err
}
