package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
)

func (b *backend) pathDestroy() []*framework.Path {
	destroy := b.handle("destroy", 0, b.destroy)
	post := b.noContent("Destroy an account.", destroy)
	// OpenAPI has one ID for each method of a path.
	post.DisplayAttrs = &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "destroy", OperationSuffix: "account-by-post"}
	return []*framework.Path{b.pathDestroyWrappingKeys(), { // the first that matches takes the request
		Pattern: "destroy/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "destroy", OperationSuffix: "account",
		},
		Fields: map[string]*framework.FieldSchema{"name": nameField()},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.DeleteOperation: b.noContent("Destroy an account.", destroy),
			logical.UpdateOperation: post,
		},
		HelpSynopsis: "Remove an account and its shares for good.",
		HelpDescription: `
Removes every share of the account from Vault's storage:

  $ vault delete mpc/destroy/alice
  $ vault write -force mpc/destroy/bob

There is no way back but a backup of Vault's storage, and that only while the
wrapping key it was sealed to exists. It works in every state of the account and
waits for nothing; vault delete mpc/accounts/alice leaves time to think. The path
needs the sudo capability.
`,
	}}
}

// destroy removes the account first and its exposures after it: the other way
// round, a crash would leave an account that forgot which node saw what.
func (b *backend) destroy(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	id, err := b.destroyAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	b.forgetPresignatures(ctx, id)
	return nil, nil
}

// destroyAccount removes an account unless one of the conditions, which are asked
// under the account's lock, returns an error.
func (b *backend) destroyAccount(ctx context.Context, name string, conditions ...func(*accountRecord) error) (mpc.AccountID, error) {
	defer b.lockAccount(name)()
	var id mpc.AccountID
	// Only existence and ID are needed: a record that is damaged or too new
	// to read must not be lost by accident, so it is not removed here.
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return id, err
	}
	if r.arrived(name) { // the entry it came from would bring it back
		return id, &movingError{name, name}
	}
	for _, c := range conditions {
		if err := c(r); err != nil {
			return id, err
		}
	}
	if err := decodeHex(r.ID, id[:], "account ID"); err != nil {
		return id, err
	}
	if err := b.store.delete(ctx, prefixAccounts+name); err != nil {
		return id, err
	}
	b.runner.Remove(name)
	b.stock.remove(name)
	b.grave.forget(name)
	if err := b.step(ctx, stepRemoveAccount); err != nil {
		return id, err
	}
	if err := b.store.delete(ctx, prefixExposures+r.ID); err != nil {
		// Nothing refers to it; the next start removes it.
		b.log.Warn("exposures of a destroyed account stay for now", "error", err)
	}
	return id, b.step(ctx, stepRemoveExposures)
}
