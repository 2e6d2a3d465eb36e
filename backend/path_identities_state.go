package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// reasonField says why something was frozen or lost.
func reasonField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Why, for people; up to 512 bytes, not secret.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Reason"},
	}
}

// sentReason also says whether one was sent.
func sentReason(data *framework.FieldData) (reason string, given bool, err error) {
	v, given := data.GetOk("reason")
	reason, _ = v.(string)
	if len(reason) > maxReason || !printable(reason) {
		return "", false, invalid("reason must be printable UTF-8 of at most %d bytes", maxReason)
	}
	return reason, given, nil
}

// stop is what a record says after it was frozen or lost: the time of the first
// report stays, and a new reason replaces the old. changed is false where it is as
// it was.
func (b *backend) stop(was *frozenRecord, reason string, given bool) (now *frozenRecord, changed bool) {
	switch {
	case was == nil:
		return &frozenRecord{Time: b.utcSeconds(), Reason: reason}, true
	case given && was.Reason != reason:
		return &frozenRecord{Time: was.Time, Reason: reason}, true
	}
	return was, false
}

func (b *backend) pathIdentityState() []*framework.Path {
	return []*framework.Path{{
		Pattern: "identities/" + namePattern + "/freeze$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "freeze", OperationSuffix: "identity",
		},
		Fields: map[string]*framework.FieldSchema{"name": pathField("Identity", "identity"), "reason": reasonField()},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Keep everybody from opening an identity.", true, b.handle("identities/freeze", 0, b.identityFreeze), identityAnswerFields()),
		},
		HelpSynopsis: "Keep everybody from opening an identity, and its accounts from signing.",
		HelpDescription: `
Stops an identity at once:

  $ vault write mpc/identities/alice/freeze reason="INC-42: laptop stolen"

Nobody opens it through this server any more, accounts whose custody key it holds
sign nothing, and neither it nor its assets can be changed or deleted. Nothing is
lost. A device that is bound and does not ask the server still opens what it holds.
Where one authenticator is lost and the others are well, report that one instead:
mpc/authenticators/NAME/lost.

An identity that is frozen stays so: the time of the first freeze is kept, and a
new reason replaces the old. mpc/identities/alice/unfreeze ends it.
`,
	}, {
		Pattern: "identities/" + namePattern + "/unfreeze$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "unfreeze", OperationSuffix: "identity",
		},
		Fields: map[string]*framework.FieldSchema{"name": pathField("Identity", "identity")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Let a frozen identity be opened again.", true, b.handle("identities/unfreeze", 0, b.identityUnfreeze), identityAnswerFields()),
		},
		HelpSynopsis: "Let a frozen identity be opened again.",
		HelpDescription: `
Ends a freeze:

  $ vault write -force mpc/identities/alice/unfreeze
`,
	}}
}

func (b *backend) identityFreeze(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	reason, given, err := sentReason(data)
	if err != nil {
		return nil, err
	}
	return b.changeFreeze(ctx, data, "", func(r *identityRecord) (changed bool) {
		r.Frozen, changed = b.stop(r.Frozen, reason, given)
		return changed
	})
}

func (b *backend) identityUnfreeze(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return b.changeFreeze(ctx, data, "the identity was not frozen: nothing was changed", func(r *identityRecord) (changed bool) {
		changed, r.Frozen = r.Frozen != nil, nil
		return changed
	})
}

// changeFreeze writes the record where change reports true, and warns where not.
func (b *backend) changeFreeze(ctx context.Context, data *framework.FieldData, unchanged string, change func(*identityRecord) bool) (*logical.Response, error) {
	name, err := pathText(data, "name", "identity")
	if err != nil {
		return nil, err
	}
	defer b.lockIdentity(name)()
	r, m, err := b.needIdentity(ctx, name)
	if err != nil {
		return nil, err
	}
	changed := change(r)
	if changed {
		r.Version = recordVersion
		if err := b.store.put(ctx, prefixIdentities+name, r); err != nil {
			return nil, err
		}
		b.log.Info("an identity's state was changed", "identity", name, "identity_id", r.ID, "frozen", r.Frozen != nil)
	}
	resp, err := b.identityAnswer(ctx, r, m)
	if err == nil && !changed && unchanged != "" {
		resp.AddWarning(unchanged)
	}
	return resp, err
}
