package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// pathUnknown answers what no other path takes. Vault's own answer would be
// "unsupported path".
func (b *backend) pathUnknown() []*framework.Path {
	answer := func(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		return nil, unknown("there is no path %q here; paths are config/{hsm,nodes,rotation}, wrapping-keys/, wrapping-keys/:version, wrapping-keys/rotate, rotation/catch-up, nodes/, nodes/:id, nodes/:id/renew, accounts/, accounts/:name, accounts/:name/refresh, accounts/:name/derive, sign/:name, verify/:name, destroy/:name, destroy/wrapping-keys, recovery/restored: see vault path-help <mount>",
			clip(data.Get("path").(string)))
	}
	// b.handle would refuse fields first, and all fields are unknown here.
	handler := func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		_, err := answer(ctx, req, data)
		return b.translate("unknown path", err)
	}
	operations := map[logical.Operation]framework.OperationHandler{}
	for _, op := range []logical.Operation{logical.ReadOperation, logical.ListOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation} {
		operations[op] = &framework.PathOperation{Callback: handler, Summary: "Answers 404.", Unpublished: true}
	}
	return []*framework.Path{{
		Pattern: "(?P<path>.*)",
		Fields: map[string]*framework.FieldSchema{
			"path": {Type: framework.TypeString, Description: "Any path."},
		},
		DisplayAttrs:        &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "unknown-path"},
		TakesArbitraryInput: true,
		Operations:          operations,
		HelpSynopsis:        "Answers 404 for paths that do not exist.",
		HelpDescription: `
Everything that is not a path of this engine. To see the paths there are:

  $ vault path-help mpc

A first account: vault write mpc/accounts/alice algorithm=bip340-secp256k1
`,
	}}
}
