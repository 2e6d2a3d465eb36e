package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// The policy of an account with user custody is changed by two sides, neither of which
// does without the other:
//
//	accounts/:name/policy ──approvers──> approved ──custody/begin and finish──> signed
//	                                     (waits)     operation=refresh request=…
//
// What the approvers sign names account, the policy before, the one to come and the
// epoch it was asked in, as ever. What the owner releases is for one refresh of the
// present epoch that brings the policy with this hash; a release for a plain refresh
// brings none, and one for another policy nothing (mpc/custody.Purpose). So neither
// this program nor whoever rules its storage can make the one into the other.
//
// An account that was made without a policy has nobody who could approve one: its
// owner alone brings the first, with custody/begin and the fields that make a policy.
// What the owner releases is for that policy, in the same way. An owner gains nothing
// by it: whoever opens the custody key could as well lose it.
//
// Between the two anything may happen: refreshes that keep the policy do no harm,
// another change voids the approvals, and so does the clock. The new epoch and its
// policy are stored by one Put, after which the request is said to be done; a process
// that ends in between leaves a request that whoever looks at it next finds done
// (inForce).

// withApproved adds to a refresh that is being begun the policy that was approved with
// a request.
func (b *backend) withApproved(ctx context.Context, name string, r *accountRecord, into *pool.CustodyRequest, id string) error {
	asked, err := b.requests.get(ctx, id)
	switch {
	case err != nil:
		return err
	case asked.Action != approval.ChangePolicy || asked.AccountID != into.Account.Record.AccountID.String():
		return conflict("request %s is no change of the policy of account %q: nothing was begun. Without request the account is refreshed and keeps its policy", asked.ID, name)
	case asked.State == requestSigned:
		return conflict("request %s is done: its policy was brought into force", asked.ID)
	case asked.State != requestApproved:
		return notApproved(asked)
	}
	return b.requests.endIfOver(ctx, asked.ID, b.withPolicy(ctx, name, r, into, asked))
}

// withFirst adds to a refresh that is being begun the first policy of the account,
// where one is asked for.
func (b *backend) withFirst(ctx context.Context, name string, r *accountRecord, into *pool.CustodyRequest, data *framework.FieldData) ([]string, error) {
	remote, err := b.hasRemoteNodes(ctx)
	if err != nil {
		return nil, err
	}
	next, err := b.policyFrom(ctx, data, remote)
	switch {
	case err != nil || next == nil:
		return nil, err
	case demandsApprovals(&into.Account.Record):
		return nil, conflict("account %q has an approval policy, whose approvers approve another one: nothing was begun. Ask with <mount>/accounts/%s/policy, and name that request here (request)", name, name)
	case r.Deleted != nil:
		return nil, policyOfDeleted(name, r)
	}
	next.Since = into.Account.Record.Epoch
	change := &pool.RefreshRequest{Account: into.Account}
	if err := b.fillPolicy(ctx, change, &policyChange{next: next.Marshal()}, r.Current.Policy); err != nil {
		return nil, err
	}
	into.NextPolicy = change.NextPolicy
	return policyWarnings(next), nil
}

func policyOfDeleted(name string, r *accountRecord) error {
	return conflict("account %q was deleted: its policy stays; %s", name, wayBack(name, r.Deleted))
}

// withPolicy adds the policy of an approved request to a refresh, and checks it as
// nodes do, against the account as it is now.
func (b *backend) withPolicy(ctx context.Context, name string, r *accountRecord, into *pool.CustodyRequest, asked *requestRecord) error {
	if r.Deleted != nil {
		return policyOfDeleted(name, r)
	}
	_, bundle, err := b.grant(ctx, asked, &into.Account.Record)
	if err != nil {
		return err
	}
	change := &pool.RefreshRequest{Account: into.Account}
	if err := b.fillPolicy(ctx, change, &policyChange{asked.NextPolicy, bundle}, r.Current.Policy); err != nil {
		return err
	}
	into.NextPolicy, into.Policy, into.Approvals = change.NextPolicy, change.Policy, change.Approvals
	return nil
}

// policyChanged says that an owner's refresh has brought a policy into force. Nothing
// of it can fail any more: where it is not stored, whoever looks at the request next
// finds the policy in force.
func (b *backend) policyChanged(ctx context.Context, op *custodyOp, r *accountRecord) {
	hash := policyHash(r.Current.Policy)
	b.log.Info("the approval policy of an account was changed", "account", op.name, "account_id", r.ID, "policy_hash", fmt.Sprintf("%x", hash), "request", op.request)
	if op.request == "" { // the first
		return
	}
	if err := b.requests.finish(ctx, op.request, requestSigned, policyResult(hash), ""); err != nil {
		b.log.Warn("a policy is in force, and its request does not say so yet", "request", op.request, "error", err)
	}
	b.requests.endOvertaken(context.WithoutCancel(ctx), r.ID, hash)
}

// policyResult is the result of a change of policy.
func policyResult(hash [32]byte) map[string]any {
	return map[string]any{"policy_hash": fmt.Sprintf("%x", hash)}
}

// inForce implements requestsConfig.InForce.
func (b *backend) inForce(ctx context.Context, r *requestRecord) (map[string]any, error) {
	_, v, err := b.requestAccount(ctx, r)
	if err != nil {
		return nil, err
	}
	next := hashOf(r.NextPolicy)
	if v.account.Record.PolicyHash != next {
		return nil, nil
	}
	b.requests.endOvertaken(ctx, r.AccountID, next)
	return policyResult(next), nil
}
