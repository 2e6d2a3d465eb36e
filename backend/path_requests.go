package backend

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

func requestField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "ID of the request, 32 hex digits: what sign answered as request.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Request", Identifier: true},
	}
}

func (b *backend) pathRequests() []*framework.Path {
	one := `requests/(?P<request>[^/]+)`
	query := func(description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Description: description, Query: true}
	}
	attrs := func(verb, suffix string) *framework.DisplayAttributes {
		return &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: verb, OperationSuffix: suffix}
	}
	read := requestAnswerFields()
	read["input"] = optional(framework.TypeString, "Of a signature: the input, in base64.")
	return []*framework.Path{{
		Pattern: "requests/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "requests", Navigation: true, ItemType: "Request",
		},
		Fields: map[string]*framework.FieldSchema{
			"account": query("Only requests of the account that has this name now, or had it when they were made."),
			"state":   query("Only requests in this state: pending, approved, signed, refused, expired, cancelled or failed."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: b.operation("List the requests for approval.", true, b.handle("requests", 0, b.requestsList), map[string]*framework.FieldSchema{
				"keys":     optional(framework.TypeStringSlice, "IDs of the requests, oldest first."),
				"key_info": optional(framework.TypeMap, "By ID: account, account_id, action, state, requester, requester_name, created_time, expires_time, ended_time, approvals, refusals and quorum; or error, where the stored record cannot be read."),
			}),
		},
		HelpSynopsis:    "The requests that wait for approvals, and those that ended lately.",
		HelpDescription: strings.TrimLeft(requestsHelp, "\n"),
	}, {
		Pattern:      one + "$",
		DisplayAttrs: attrs("read", "request"),
		Fields:       map[string]*framework.FieldSchema{"request": requestField()},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.operation("Read a request for approval.", true, b.handle("requests/read", 0, b.requestRead), read),
		},
		HelpSynopsis: "A request for approval, and its result for whoever asked.",
		HelpDescription: `
What is asked for, by whom, who has answered, and what became of it:

  $ vault read mpc/requests/0a1b2c3d4e5f60718293a4b5c6d7e8f9

The result, a signature, is given to the requester alone.
`,
	}, {
		Pattern:      one + "/wait$",
		DisplayAttrs: attrs("wait-for", "request"),
		Fields: map[string]*framework.FieldSchema{
			"request": requestField(),
			"timeout": {
				Type:         framework.TypeDurationSecond,
				Description:  "How long to wait at most, 0s to 5s; default 5s.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Timeout", Value: "5s"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Wait until a request for approval changes.", true, b.handle("requests/wait", maxRequestWait+2*time.Second, b.requestWait), requestAnswerFields()),
		},
		HelpSynopsis: "Wait for a request to change.",
		HelpDescription: `
Answers as a read does, without the input, once the request's state or the number
of its answers changes, at once where it has ended, and after the timeout at the
latest. To wait longer, ask again:

  $ vault write mpc/requests/0a1b2c3d4e5f60718293a4b5c6d7e8f9/wait timeout=5s
`,
	}, {
		Pattern:      one + "/cancel$",
		DisplayAttrs: attrs("cancel", "request"),
		Fields:       map[string]*framework.FieldSchema{"request": requestField()},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Cancel a request for approval.", true, b.handle("requests/cancel", 0, b.requestCancel), requestAnswerFields()),
		},
		HelpSynopsis: "Cancel a request that has not ended.",
		HelpDescription: `
Ends a request that is pending, or approved and not being signed yet:

  $ vault write -force mpc/requests/0a1b2c3d4e5f60718293a4b5c6d7e8f9/cancel

Whoever asked may do it, and everybody whose Vault policy allows this path.
`,
	}, {
		Pattern:      one + "/code$",
		DisplayAttrs: attrs("display", "request-code"),
		Fields:       map[string]*framework.FieldSchema{"request": requestField()},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Get what the moving code is derived from.", true, b.handle("requests/code", 0, b.requestCode), map[string]*framework.FieldSchema{
				"request":         field(framework.TypeString, "ID of the request."),
				"seed":            field(framework.TypeString, "What the forms of the code are derived from, in base64 (32 bytes). It belongs on the requester's display and nowhere else."),
				"period_ms":       field(framework.TypeInt64, "How long each form is shown, in milliseconds."),
				"created_unix_ms": field(framework.TypeInt64, "When the first period began, in milliseconds of Unix time."),
				"server_unix_ms":  field(framework.TypeInt64, "This server's clock, in milliseconds of Unix time."),
				"expires_unix_ms": field(framework.TypeInt64, "When the request expires, in milliseconds of Unix time."),
				"link_base":       field(framework.TypeString, "What stands before # in the code: the phone's page, or mpc: where config/ui has no public_url."),
				"display_url":     optional(framework.TypeString, "The page that shows the code, with its secret behind #. Where config/ui has a public_url."),
			}),
		},
		HelpSynopsis: "What the display of a request's moving code needs, once.",
		HelpDescription: `
For whoever asked: the seed from which the display derives every form of the code
by itself, and the page that shows it:

  $ vault write -force mpc/requests/0a1b2c3d4e5f60718293a4b5c6d7e8f9/code

Who has the seed can show the code; so it is given to the requester alone, and while
the request is pending.
`,
	}}
}

const requestsHelp = `
A signature of an account with an approval policy is asked for, approved by people
on their own devices, and then made:

  $ vault write mpc/sign/treasury input=$(printf hello | base64)
  $ vault list mpc/requests
  $ vault write mpc/requests/0a1b2c3d4e5f60718293a4b5c6d7e8f9/wait timeout=5s
  $ vault read mpc/requests/0a1b2c3d4e5f60718293a4b5c6d7e8f9

Filters are query parameters, which "vault read" sends:

  $ vault read mpc/requests list=true state=pending
  $ vault read mpc/requests list=true account=treasury

A request is pending, approved, signed, refused, expired, cancelled or failed, and
goes no way back. It is deleted seven days after its end.
`

func (b *backend) requestsList(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := onlyFields(req, "account", "state"); err != nil {
		return nil, err
	}
	account, state := data.Get("account").(string), requestState(data.Get("state").(string))
	if state != "" && !state.known() {
		return nil, invalid("state %q is not pending, approved, signed, refused, expired, cancelled or failed", clip(string(state)))
	}
	if len(account) > maxAccountNameLen {
		return nil, invalid("account has at most %d bytes, as names do", maxAccountNameLen)
	}
	accountID := ""
	if account != "" {
		if r, err := b.store.account(ctx, account); err != nil {
			return nil, err
		} else if r != nil {
			accountID = r.ID
		}
	}
	if err := b.requests.index.load(ctx); err != nil {
		return nil, err
	}
	now := b.cfg.now()
	keys, info := []string{}, map[string]any{}
	for _, f := range b.requests.index.facts() {
		if f.unreadable {
			if account == "" && state == "" {
				keys = append(keys, f.id)
				info[f.id] = map[string]any{"error": "the stored record cannot be read"}
			}
			continue
		}
		if !f.state.ended() && !now.Before(f.expires) && !b.requests.isDoing(f.id) { // it is stored when somebody looks at it
			f.state, f.ended = requestExpired, f.expires
		}
		if account != "" && f.account != account && f.accountID != accountID || state != "" && f.state != state {
			continue
		}
		keys = append(keys, f.id)
		info[f.id] = map[string]any{
			"account": f.account, "account_id": f.accountID, "action": string(f.action), "state": string(f.state),
			"requester": f.requester, "requester_name": f.requesterName, "created_time": rfc3339(f.created), "expires_time": rfc3339(f.expires),
			"ended_time": rfc3339(f.ended), "approvals": f.approvals, "refusals": f.refusals, "quorum": f.quorum,
		}
	}
	return listAnswer(keys, info, ""), nil
}

func (b *backend) requestRead(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	r, err := b.requests.get(ctx, data.Get("request").(string))
	if err != nil {
		return nil, err
	}
	out, err := b.answerRequest(ctx, req, r)
	if err == nil && r.Action == approval.Sign {
		out.Data["input"] = encode64(r.Input)
	}
	return out, err
}

// answerRequest gives the result to the requester alone.
func (b *backend) answerRequest(ctx context.Context, req *logical.Request, r *requestRecord) (*logical.Response, error) {
	own, err := b.isRequester(ctx, req, r)
	if err != nil {
		return nil, err
	}
	out, err := b.fullRequestAnswer(r, own)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: out}, nil
}

func (b *backend) requestWait(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	// The default stands here: Vault's OpenAPI document has durations as strings, and
	// takes no number for the default of one.
	most := maxRequestWait
	if v, ok := data.GetOk("timeout"); ok {
		most = time.Duration(v.(int)) * time.Second
	}
	if most < 0 || most > maxRequestWait {
		return nil, invalid("timeout is 0 to %d seconds: ask again to wait longer", maxRequestWait/time.Second)
	}
	r, err := b.requests.wait(ctx, data.Get("request").(string), most)
	if err != nil {
		return nil, err
	}
	return b.answerRequest(ctx, req, r)
}

func (b *backend) requestCancel(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	r, err := b.requests.get(ctx, data.Get("request").(string))
	if err != nil {
		return nil, err
	}
	own, err := b.isRequester(ctx, req, r)
	if err != nil {
		return nil, err
	}
	why := "by the requester"
	if !own {
		if sessionOf(ctx) != nil {
			return nil, errNotAllowed()
		}
		why = "by somebody else who may"
		if req.EntityID != "" {
			why = "by entity " + req.EntityID
		}
	}
	if r, err = b.requests.cancel(ctx, r.ID, why); err != nil {
		return nil, err
	}
	return b.answerRequest(ctx, req, r)
}

func (b *backend) requestCode(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	r, err := b.ownRequest(ctx, req, data.Get("request").(string), forbidden("only whoever asked for this request shows its code: use a token of the same entity as the one that asked"))
	switch {
	case err != nil:
		return nil, err
	case r.State != requestPending:
		return nil, conflict("request %s is %s: it has no code any more", r.ID, r.State)
	}
	ui, err := b.ui(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]any{
		"request": r.ID, "seed": encode64(r.Seed), "period_ms": r.Period, "created_unix_ms": r.Created.UnixMilli(),
		"server_unix_ms": b.cfg.now().UnixMilli(), "expires_unix_ms": r.Expires.UnixMilli(), "link_base": ui.page(req.MountPoint, "phone"),
	}
	if ui.PublicURL != "" {
		out["display_url"] = r.displayURL(ui.page(req.MountPoint, "show"))
	}
	return &logical.Response{Data: out}, nil
}
