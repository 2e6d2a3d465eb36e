package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathAuthenticatorState() []*framework.Path {
	one := func(verb, summary, synopsis, help string, h framework.OperationFunc, fields map[string]*framework.FieldSchema) *framework.Path {
		all := map[string]*framework.FieldSchema{"name": pathField("Authenticator", "authenticator")}
		for name, f := range fields {
			all[name] = f
		}
		return &framework.Path{
			Pattern: "authenticators/" + namePattern + "/" + verb + "$",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: operationPrefix, OperationVerb: verb, OperationSuffix: "authenticator",
			},
			Fields: all,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.operation(summary, true, b.handle("authenticators/"+verb, scanTimeout, h), authenticatorAnswerFields()),
			},
			HelpSynopsis: synopsis, HelpDescription: help,
		}
	}
	return []*framework.Path{
		one("lost", "Report an authenticator lost.", "Report an authenticator lost: nobody logs in with it any more.", `
Stops an authenticator at once:

  $ vault write mpc/authenticators/alice-password/lost reason="INC-42: laptop stolen"

Its sessions end, nobody logs in with it, and nothing is granted to it any more. The
identities that granted it something stay open to their other authenticators. What
it could open before, whoever has it may have kept: have each of these identities
reset by another authenticator (mpckms identity reset), which gives their roles new
keys and says which secrets to change at their source.

The time of the first report is kept, and a new reason replaces the old.
mpc/authenticators/NAME/found takes the report back.
`, b.authenticatorLost, map[string]*framework.FieldSchema{"reason": reasonField()}),
		one("found", "Take the report back that an authenticator was lost.", "Take the report back that an authenticator was lost.", `
Lets an authenticator log in again that turned out not to be lost:

  $ vault write -force mpc/authenticators/alice-password/found

It opens what still grants it something, which after a reset is nothing.
`, b.authenticatorFound, nil),
		one("unlock", "Let an authenticator that is locked be tried again.", "Let an authenticator be tried again that is locked after failures.", `
After 5, 10 and 20 failures in a row an authenticator takes no attempts for a
minute, 15 minutes and a day. This ends such a time, and the counting begins anew:

  $ vault write -force mpc/authenticators/alice-password/unlock
`, b.authenticatorUnlock, nil),
	}
}

func (b *backend) authenticatorLost(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	reason, given, err := sentReason(data)
	if err != nil {
		return nil, err
	}
	return b.changeAuthenticator(ctx, data, "", func(r *authenticatorRecord) (changed bool) {
		r.Lost, changed = b.stop(r.Lost, reason, given)
		return changed
	})
}

func (b *backend) authenticatorFound(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return b.changeAuthenticator(ctx, data, "the authenticator was not reported lost: nothing was changed", func(r *authenticatorRecord) (changed bool) {
		changed, r.Lost = r.Lost != nil, nil
		return changed
	})
}

// changeAuthenticator changes whether an authenticator is lost. No manifest is
// written meanwhile that grants it something.
func (b *backend) changeAuthenticator(ctx context.Context, data *framework.FieldData, unchanged string, change func(*authenticatorRecord) bool) (*logical.Response, error) {
	name, err := pathText(data, "name", "authenticator")
	if err != nil {
		return nil, err
	}
	defer b.hierarchy.all()()
	r, a, err := b.needAuthenticator(ctx, name)
	if err != nil {
		return nil, err
	}
	changed := change(r)
	if changed {
		r.Version = recordVersion
		err := b.store.put(ctx, prefixAuthentic+name, r)
		if r.Lost != nil {
			b.endSessions(a.ID) // also where the write failed: it may have taken effect
		}
		if err != nil {
			return nil, err
		}
		b.log.Info("an authenticator's state was changed", "authenticator", name, "authenticator_id", r.ID, "lost", r.Lost != nil)
	} else if r.Lost != nil {
		b.endSessions(a.ID)
	}
	resp, err := b.authenticatorAnswer(ctx, r, a)
	if err == nil && !changed && unchanged != "" {
		resp.AddWarning(unchanged)
	}
	return resp, err
}

func (b *backend) authenticatorUnlock(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "authenticator")
	if err != nil {
		return nil, err
	}
	defer b.lockAuthenticator(name)()
	r, a, err := b.needAuthenticator(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := b.dropLock(ctx, name); err != nil {
		return nil, err
	}
	return b.authenticatorAnswer(ctx, r, a)
}
