package backend

import (
	"bytes"
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

func (b *backend) pathAccountPolicy() []*framework.Path {
	read := policyFieldsAnswer()
	read["name"] = field(framework.TypeString, "Name of the account.")
	read["required"] = field(framework.TypeBool, "Whether people have to approve this account's signatures: without, there is nothing else in the answer.")
	read["share_epoch"] = optional(framework.TypeInt64, "Share epoch that the account is in.")
	written := policyWrittenFields(read)
	fields := withPolicyFields(map[string]*framework.FieldSchema{"name": nameField()})
	return []*framework.Path{{
		Pattern:      "accounts/" + namePattern + "/policy$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "account-policy"},
		Fields:       fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.operation("Read who has to approve an account's signatures.", false, b.handle("accounts/policy/read", 0, b.accountPolicyRead), read),
			logical.UpdateOperation: b.operation("Give an account an approval policy, or ask for another.", true, b.handle("accounts/policy", 0, b.accountPolicyWrite), written),
		},
		HelpSynopsis: "Who has to approve an account's signatures.",
		HelpDescription: `
Shows all of an account's approval policy, with the keys that it pins:

  $ vault read mpc/accounts/alice/policy

An account without one gets its first at once, together with new shares:

  $ vault write mpc/accounts/alice/policy approvers=ann,ben,carl quorum=2

From then on mpc/sign/alice answers with a request that waits for them. Another policy
is a request as well, which approvers of the present one approve:

  $ vault write mpc/accounts/alice/policy approvers=ann,ben,dora quorum=2 request_expiry=1h

Every field that is left out has its default again, and the keys of all approvers are
copied anew. Refreshes while the request waits do no harm; a change that came before it
ends it. A policy can be replaced and not taken away: there is no way back to signatures
that nobody approves.

The first policy of an account with user custody is its owner's to bring, with
mpc/custody/carol/begin, as mpckms does. Another one waits, once it is approved, for the
owner, whose refresh brings it:

  $ mpckms account refresh carol --request 0a1b2c3d4e5f60718293a4b5c6d7e8f9
`,
	}}
}

// policyWrittenFields describes what a write answers: the policy that is in force now,
// or the request for it.
func policyWrittenFields(read map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	out := map[string]*framework.FieldSchema{}
	for _, fields := range []map[string]*framework.FieldSchema{requestAnswerFields(), read} {
		for name, f := range fields {
			either := *f
			either.Required = false
			out[name] = &either
		}
	}
	out["approvers"].Description += " Of a request: the names of those who may answer."
	out["session_id"] = optional(framework.TypeString, "ID of the protocol session of the refresh that brought the policy into force, in hex.")
	return out
}

func (b *backend) accountPolicyRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	out, err := accountPolicyAnswer(name, r)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: out}, nil
}

func accountPolicyAnswer(name string, r *accountRecord) (map[string]any, error) {
	a, err := r.Current.account()
	if err != nil {
		return nil, err
	}
	policy, err := r.Current.policy(&a.Record)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"name": name, "required": policy != nil}
	if policy != nil {
		maps.Copy(out, policyAnswer(policy))
		out["share_epoch"] = a.Record.Epoch
	}
	return out, nil
}

// accountPolicyWrite brings an account's first policy into force, and asks for any
// later one. Repeating what is in force changes nothing.
func (b *backend) accountPolicyWrite(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	a, err := r.Current.account()
	if err != nil {
		return nil, err
	}
	present, err := r.Current.policy(&a.Record)
	if err != nil {
		return nil, err
	}
	next, err := b.nextPolicy(ctx, name, r, data)
	if err != nil {
		return nil, err
	}
	warnings := policyWarnings(next)
	session := ""
	switch {
	case present != nil && says(present, next):
		warnings = append(warnings, "this is the policy in force: nothing was changed or asked for")
	case present != nil:
		next.Since = a.Record.Epoch
		asked, err := b.openPolicyRequest(ctx, req, name, next)
		if err != nil {
			return nil, err
		}
		answer, err := b.fullRequestAnswer(asked, true)
		if err != nil {
			return nil, err
		}
		return &logical.Response{Data: answer, Warnings: warnings}, nil
	default:
		next.Since = a.Record.Epoch
		res, err := b.changePolicy(ctx, name, next.Marshal(), nil)
		if err != nil {
			return nil, err
		}
		r, session = res.record, res.sessionID.String()
	}
	out, err := accountPolicyAnswer(name, r)
	if err != nil {
		return nil, err
	}
	if session != "" {
		out["session_id"] = session
	}
	return &logical.Response{Data: out, Warnings: warnings}, nil
}

// says reports whether two policies differ at most in when they were asked for.
func says(p, q *approval.Policy) bool {
	same := *q
	same.Since = p.Since
	return bytes.Equal(p.Marshal(), same.Marshal())
}

// nextPolicy makes the policy that was sent, for an account that may have one.
func (b *backend) nextPolicy(ctx context.Context, name string, r *accountRecord, data *framework.FieldData) (*approval.Policy, error) {
	switch {
	case r.Deleted != nil:
		return nil, policyOfDeleted(name, r)
	case r.Custody != nil && len(r.Current.Policy) == 0:
		return nil, errFirstPolicy(name)
	}
	remote, err := b.hasRemoteNodes(ctx)
	if err != nil {
		return nil, err
	}
	p, err := b.policyFrom(ctx, data, remote)
	if err == nil && p == nil {
		err = errNoApprovers()
	}
	return p, err
}
