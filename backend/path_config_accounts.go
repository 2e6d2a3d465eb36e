package backend

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Bounds and default of deletion_wait, and the longest delete_after.
const (
	minDeletionWait     = time.Minute
	maxDeletionWait     = 365 * 24 * time.Hour
	defaultDeletionWait = 7 * 24 * time.Hour
	maxDeleteAfter      = 10 * 365 * 24 * time.Hour
)

func (r accountsConfigRecord) wait() time.Duration {
	return time.Duration(r.DeletionWait) * time.Second
}

// accountsConfig returns the defaults when nothing is stored.
func (s *store) accountsConfig(ctx context.Context) (accountsConfigRecord, error) {
	var r accountsConfigRecord
	ok, err := s.get(ctx, keyAccounts, &r)
	if err == nil && !ok {
		r = accountsConfigRecord{Version: recordVersion, DeletionWait: int64(defaultDeletionWait / time.Second)}
	}
	return r, err
}

func (b *backend) pathConfigAccounts() []*framework.Path {
	answer := map[string]*framework.FieldSchema{
		"deletion_wait": field(framework.TypeInt64, "Shortest time from deletion to destruction, in seconds."),
	}
	write := b.handle("config/accounts", 0, b.configAccountsWrite)
	return []*framework.Path{{
		Pattern: "config/accounts$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "accounts-configuration",
		},
		Fields: map[string]*framework.FieldSchema{
			"deletion_wait": {
				Type:         framework.TypeDurationSecond,
				Description:  "How long a deleted account can be restored at least, 1m to 8760h (a year); default 168h (7 days).",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Deletion wait", Value: "168h"},
			},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, _ *framework.FieldData) (bool, error) {
			entry, err := b.store.s.Get(ctx, keyAccounts)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Configure the deletion of accounts.", true, write, answer),
			logical.UpdateOperation: b.operation("Configure the deletion of accounts.", true, write, answer),
			logical.ReadOperation:   b.operation("Read how accounts are deleted.", false, b.handle("config/accounts", 0, b.configAccountsRead), answer),
		},
		HelpSynopsis: "How long deleted accounts can be restored.",
		HelpDescription: `
Sets how long an account is kept after its deletion, at least:

  $ vault write mpc/config/accounts deletion_wait=720h

It holds for deletions from now on; accounts that are deleted already keep their
time. The path needs the sudo capability.
`,
	}}
}

func (b *backend) configAccountsRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.accountsConfig(ctx)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"deletion_wait": r.DeletionWait}}, nil
}

func (b *backend) configAccountsWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	release, err := b.busy.reserve(keyAccounts, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.store.accountsConfig(ctx)
	if err != nil {
		return nil, err
	}
	if v, ok := data.GetOk("deletion_wait"); ok {
		r.DeletionWait = int64(v.(int))
	}
	if !within(r.DeletionWait, minDeletionWait, maxDeletionWait) {
		return nil, invalid("deletion_wait must be 1m to 8760h (a year); to remove an account at once use destroy/<name>")
	}
	r.Version = recordVersion
	if err := b.store.put(ctx, keyAccounts, &r); err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"deletion_wait": r.DeletionWait}}, nil
}
