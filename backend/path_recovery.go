package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathRecovery() []*framework.Path {
	return []*framework.Path{{
		Pattern: "recovery/restored$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "declare", OperationSuffix: "restored-storage",
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Say that Vault's storage was restored from a snapshot.", true, b.handle("recovery/restored", 0, b.recoveryRestored), map[string]*framework.FieldSchema{
				"accounts_affected": field(framework.TypeInt, "Number of accounts that use no spare nodes until their next refresh."),
				"declared_time":     field(framework.TypeString, "When it was declared."),
			}),
		},
		HelpSynopsis: "Say that Vault's storage was restored from a snapshot.",
		HelpDescription: `
After a restore of Vault's storage, before anything else:

  $ vault write -force mpc/recovery/restored

In a share epoch a node may only ever see one share of an account. Which node
has seen which share is stored, and a snapshot does not know what happened after
it. From this command on, an account uses only nodes that are known to have its
shares, until its next refresh: by itself within the refresh period, or at once
with mpc/accounts/:name/refresh.

The engine finds out by itself when it starts and the last heartbeat in storage
is missing, older than 3 minutes or in the future. A younger snapshot it cannot
tell. Saying it without need does no harm. The path needs the sudo capability.
`,
	}}
}

func (b *backend) recoveryRestored(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	at, err := b.spares.declare(ctx)
	if err != nil {
		return nil, err
	}
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return nil, err
	}
	b.log.Warn("a restore of Vault's storage was declared: until its next refresh no spare node takes over a share of an account", "accounts", len(names))
	return &logical.Response{Data: map[string]any{
		"accounts_affected": len(names),
		"declared_time":     rfc3339(at),
	}}, nil
}
