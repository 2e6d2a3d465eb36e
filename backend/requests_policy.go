package backend

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// policyTimeout bounds a refresh that changes the policy.
const policyTimeout = time.Minute

// overtakenTimeout bounds ending what was asked under the policy before.
const overtakenTimeout = 30 * time.Second

// openPolicyRequest asks for the policy of an account that has one to be replaced.
// The caller has checked next, and that it may follow the present one.
func (b *backend) openPolicyRequest(ctx context.Context, req *logical.Request, name string, next *approval.Policy) (*requestRecord, error) {
	v, err := b.needSignable(ctx, name)
	if err != nil {
		return nil, err
	}
	if !demandsApprovals(&v.account.Record) {
		return nil, conflict("account %q has no approval policy, so nobody could approve another one: nothing was asked for", name)
	}
	r, err := b.newRequest(ctx, req, name, v)
	if err != nil {
		return nil, err
	}
	r.Action, r.NextPolicy, r.Epoch, r.ByOwner = approval.ChangePolicy, next.Marshal(), next.Since, v.custody != nil
	stored, _, err := b.requests.open(ctx, r)
	return stored, err
}

// completePolicy brings an approved policy into force.
func (b *backend) completePolicy(ctx context.Context, name string, v *signable, r *requestRecord) (map[string]any, error) {
	next := hashOf(r.NextPolicy)
	answer := policyResult(next)
	if v.account.Record.PolicyHash == next { // it was, before a crash
		b.requests.endOvertaken(ctx, r.AccountID, next)
		return answer, nil
	}
	_, bundle, err := b.grant(ctx, r, &v.account.Record)
	if err != nil {
		return nil, err
	}
	refreshing, cancel := context.WithTimeout(ctx, policyTimeout)
	defer cancel()
	_, err = b.changePolicy(refreshing, name, r.NextPolicy, bundle)
	var f *fault
	if err != nil && refreshing.Err() == nil && errors.As(err, &f) && f.status < 500 {
		return nil, over("%s", f.msg) // it can never be made
	}
	if err == nil {
		b.requests.endOvertaken(ctx, r.AccountID, next)
	}
	return answer, lasting(err)
}

// endOvertaken ends the requests of an account that wait for approvals under another
// policy than the one with this hash, which is in force now: nobody could approve them
// any more. One that is missed, because storage failed or it was opened meanwhile, ends
// when a device opens it, or by the clock; it cannot be signed.
func (q *approvalRequests) endOvertaken(ctx context.Context, accountID string, policy [32]byte) {
	ctx, cancel := context.WithTimeout(ctx, overtakenTimeout)
	defer cancel()
	err := q.index.load(ctx)
	for _, f := range q.index.facts() {
		if f.unreadable || f.accountID != accountID || f.state != requestPending || ctx.Err() != nil {
			continue
		}
		_, endErr := q.update(ctx, f.id, func(r *requestRecord) error {
			if r.State != requestPending || hashOf(r.Policy) == policy {
				return errUnchanged
			}
			r.end(requestFailed, q.cfg.now(), overReason(errPolicyChanged()))
			return nil
		})
		err = errors.Join(err, endErr)
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		q.cfg.Logger.Warn("requests under the policy that an account had before are left open; they cannot be signed, and end when a device opens them or by the clock", "account_id", accountID, "error", err)
	}
}
