package backend

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// deleteHelp is part of the help of accounts/:name, whose DELETE this is.
const deleteHelp = `
An account is deleted by

  $ vault delete mpc/accounts/alice delete_after=240h

and then signs nothing, but can be brought back by mpc/accounts/alice/restore for
deletion_wait of mpc/config/accounts or as long as delete_after says, whichever is
longer. After that it is destroyed in the background, unless it is frozen. Its name
stays taken until then. A second deletion changes nothing. mpc/destroy/alice destroys at once.
`

func (b *backend) pathAccountRestore() []*framework.Path {
	return []*framework.Path{{
		Pattern: "accounts/" + namePattern + "/restore$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "restore", OperationSuffix: "account",
		},
		Fields: map[string]*framework.FieldSchema{"name": nameField()},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Bring a deleted account back.", true, b.handle("accounts/restore", 0, b.accountRestore), accountAnswerFields()),
		},
		HelpSynopsis: "Bring a deleted account back.",
		HelpDescription: `
Takes the deletion of an account back, as long as it has not been destroyed:

  $ vault write -force mpc/accounts/alice/restore

An account that was frozen when it was deleted is frozen again. (Not to be mixed up
with mpc/recovery/restored, which is about Vault's storage.)
`,
	}}
}

// accountDelete begins the waiting time of an account. Nothing is removed here.
func (b *backend) accountDelete(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	if err := onlyFields(req, "delete_after"); err != nil {
		return nil, err
	}
	conf, err := b.store.accountsConfig(ctx)
	if err != nil {
		return nil, err
	}
	wait, given := conf.wait(), false
	if v, ok := data.GetOk("delete_after"); ok {
		given = true
		wait = time.Duration(v.(int)) * time.Second
		if wait < conf.wait() || wait > maxDeleteAfter {
			return nil, invalid("delete_after must be at least %s, which is deletion_wait of config/accounts, and at most 87600h (ten years): nothing was changed; destroy/%s removes an account at once", short(conf.wait()), name)
		}
	}
	fresh := false
	r, err := b.changeAccount(ctx, name, func(r *accountRecord) (bool, error) {
		if fresh = r.Deleted == nil; fresh {
			now := b.utcSeconds()
			r.Deleted = &deletedRecord{Time: now, Destroy: now.Add(wait)}
		}
		return fresh, nil
	})
	if err != nil {
		return nil, err
	}
	if err := b.stateChanged(ctx, name, r); err != nil {
		return nil, err
	}
	if fresh {
		b.log.Info("an account was deleted", "account", name, "account_id", r.ID, "destroy_time", rfc3339(r.Deleted.Destroy))
	}
	resp, err := b.accountAnswer(ctx, name, r)
	switch {
	case err != nil || fresh:
	case given && !r.Deleted.Destroy.Equal(r.Deleted.Time.Add(wait)):
		resp.AddWarning("the account was deleted before and its destroy_time stays; to change it, restore the account and delete it again")
	default:
		resp.AddWarning("the account was deleted before: nothing was changed")
	}
	return resp, err
}

func (b *backend) accountRestore(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	wasDeleted := false
	r, err := b.changeAccount(ctx, name, func(r *accountRecord) (bool, error) {
		wasDeleted = r.Deleted != nil
		r.Deleted = nil
		return wasDeleted, nil
	})
	if err != nil {
		return nil, err
	}
	if err := b.stateChanged(ctx, name, r); err != nil {
		return nil, err
	}
	if wasDeleted {
		b.log.Info("a deleted account was restored", "account", name, "account_id", r.ID)
	}
	resp, err := b.accountAnswer(ctx, name, r)
	if err == nil && !wasDeleted {
		resp.AddWarning("the account was not deleted: nothing was changed")
	}
	return resp, err
}

// onlyFields refuses other query fields than those of a DELETE or LIST: the
// framework would drop a misspelt one, or take it for that of a write.
func onlyFields(req *logical.Request, known ...string) error {
	for name := range req.Data {
		if name != "name" && !slices.Contains(known, name) {
			return invalid("unknown field %s: the fields are %s", clip(name), strings.Join(known, ", "))
		}
	}
	return nil
}
