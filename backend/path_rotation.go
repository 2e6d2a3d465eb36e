package backend

import (
	"context"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/rotation"
)

func (b *backend) pathRotation() []*framework.Path {
	return []*framework.Path{{
		Pattern: "rotation/catch-up$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "catch-up", OperationSuffix: "rotation",
		},
		Fields: map[string]*framework.FieldSchema{
			"all": {
				Type:         framework.TypeBool,
				Description:  "Refresh every account, also those that are not due.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "All accounts"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Refresh what is due, as fast as nodes can.", true, b.handle("rotation/catch-up", 0, b.rotationCatchUp), catchUpFields()),
		},
		HelpSynopsis: "Refresh every account that is due, as fast as nodes can.",
		HelpDescription: `
After nodes or the HSM were away for a while, when many accounts are due:

  $ vault write -force mpc/rotation/catch-up

Or, after a restore of Vault's storage or when shares may have been seen, every
account:

  $ vault write mpc/rotation/catch-up all=true

The answer comes at once. The rate of mpc/config/rotation does not hold it back;
signatures share the nodes with it meanwhile. Progress is in catch_up of
mpc/config/rotation. An account whose refresh fails is not waited for.
`,
	}}
}

func catchUpFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"remaining":     field(framework.TypeInt, "How many refreshes are still to be tried."),
		"started_time":  field(framework.TypeString, "When it began."),
		"finished_time": field(framework.TypeString, "When it ended; empty before that."),
	}
}

func catchUpAnswer(c rotation.CatchUp) map[string]any {
	return map[string]any{
		"remaining": c.Remaining, "started_time": rfc3339(c.Started), "finished_time": rfc3339(c.Finished),
	}
}

func (b *backend) rotationCatchUp(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	p := b.runner.Progress()
	if !p.Loaded {
		return nil, &fault{status: http.StatusServiceUnavailable, msg: "the accounts are still being read after the start: repeat the request in a moment"}
	}
	resp := &logical.Response{Data: catchUpAnswer(b.runner.CatchUp(data.Get("all").(bool)))}
	if p.ByOwner > 0 {
		resp.AddWarning(fmt.Sprintf("%d account(s) with user custody are left out: their owners refresh them (mpckms account refresh)", p.ByOwner))
	}
	return resp, nil
}
