package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// policyTimeout bounds a refresh that changes the policy.
const policyTimeout = time.Minute

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
	r.Action, r.NextPolicy, r.Epoch = approval.ChangePolicy, next.Marshal(), next.Since
	stored, _, err := b.requests.open(ctx, r)
	return stored, err
}

// completePolicy brings an approved policy into force.
func (b *backend) completePolicy(ctx context.Context, name string, v *signable, r *requestRecord) (map[string]any, error) {
	next := hashOf(r.NextPolicy)
	answer := map[string]any{"policy_hash": fmt.Sprintf("%x", next)}
	if v.account.Record.PolicyHash == next { // it was, before a crash
		return answer, nil
	}
	_, bundle, err := b.grant(ctx, r, &v.account.Record)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, policyTimeout)
	defer cancel()
	_, err = b.changePolicy(ctx, name, r.NextPolicy, bundle)
	var f *fault
	if err != nil && ctx.Err() == nil && errors.As(err, &f) && f.status < 500 {
		return nil, over("%s", f.msg) // it can never be made
	}
	return answer, lasting(err)
}
