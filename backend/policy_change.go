package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// policyChange is the policy that an epoch is to have, and what the approvers of the
// present one have signed; nil where there is none.
type policyChange struct {
	next   []byte // approval.Policy.Marshal
	bundle *approval.Bundle
}

// errPolicyInForce: the account has the policy already.
var errPolicyInForce = errors.New("the account has this policy")

// changePolicy gives an account another policy together with new shares. bundle is
// what was approved under the present one, nil for an account that has none. Where
// the policy is in force already, as after a crash that came before it was said, that
// is success, and no refresh is run.
//
// Refreshes between asking and now do no harm: the approvals are for the policy that
// is in force, and what changed that voids them. A fault below 500 means that the
// change can never be made; anything else may be tried again.
func (b *backend) changePolicy(ctx context.Context, name string, next []byte, bundle *approval.Bundle) (*refreshed, error) {
	change := &policyChange{next, bundle}
	// What can be said without a refresh is no refresh that failed.
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := b.checkChange(ctx, name, r, change); err != nil {
		if errors.Is(err, errPolicyInForce) {
			return &refreshed{record: r}, nil
		}
		return nil, err
	}
	res, err := b.refreshWith(ctx, name, refreshing{policy: change})
	if errors.Is(err, errPolicyInForce) {
		if r, err = b.needAccount(ctx, name); err != nil {
			return nil, err
		}
		return &refreshed{record: r}, nil
	}
	if err != nil {
		return nil, err
	}
	b.accountChanged(name, res.record)
	b.log.Info("the approval policy of an account was changed", "account", name, "account_id", res.record.ID, "policy_hash", fmt.Sprintf("%x", policyHash(next)))
	return res, nil
}

// checkChange checks a change against the account as it is stored.
func (b *backend) checkChange(ctx context.Context, name string, r *accountRecord, c *policyChange) error {
	a, err := r.Current.account()
	if err != nil {
		return err
	}
	switch {
	case bytes.Equal(r.Current.Policy, c.next):
		return errPolicyInForce
	case r.Deleted != nil:
		return policyOfDeleted(name, r)
	case r.Custody != nil: // withPolicy, with the owner
		return needsOwner(name, r.Custody)
	}
	return b.fillPolicy(ctx, &pool.RefreshRequest{Account: *a}, c, r.Current.Policy)
}

// errFirstPolicy: the first policy of an account with user custody needs its owner.
func errFirstPolicy(name string) error {
	return conflict("account %q has user custody and no approval policy: its owner brings the first one, by a refresh. Nothing was changed; use mpckms account policy set, logged in as the owner: it takes <mount>/custody/%s/begin with operation=refresh and the same fields", name, name)
}

// fillPolicy adds to a refresh what changes the policy, and checks it as nodes do.
// present is the policy of the account in the request.
func (b *backend) fillPolicy(ctx context.Context, request *pool.RefreshRequest, c *policyChange, present []byte) error {
	record := &request.Account.Record
	if bytes.Equal(present, c.next) {
		return errPolicyInForce
	}
	next, err := approval.ParsePolicy(c.next)
	if err != nil {
		return err
	}
	old, err := policyOf(record, present)
	if err != nil {
		return err
	}
	if err := next.Follows(old, record.Epoch); err != nil {
		return &fault{status: 409, msg: fmt.Sprintf("%v; nothing was changed", err), err: err}
	}
	request.NextPolicy = c.next
	if old == nil {
		if c.bundle != nil {
			return conflict("the account demands no approvals, and some came with its policy: nothing was changed")
		}
		return nil
	}
	if c.bundle == nil {
		return conflict("the account has an approval policy, and another one has to be approved under it: nothing was changed; ask with accounts/:name/policy")
	}
	mount, err := b.mountID(ctx)
	if err != nil {
		return err
	}
	if _, err := approval.Verify(old, approval.PolicySubject(mount, record, next), c.bundle, b.cfg.now()); err != nil {
		return &fault{status: 409, msg: fmt.Sprintf("the change of policy is not approved: %v; nothing was changed", err), err: err}
	}
	request.Policy, request.Approvals = present, c.bundle.Marshal()
	return nil
}

// policyStays keeps an import from taking an account's policy away, or back to one
// that was changed since: what is imported has the policy in force or a later one.
// Both are marshalled, empty for none.
func policyStays(name string, inForce, imported []byte) error {
	if len(inForce) == 0 || bytes.Equal(inForce, imported) {
		return nil
	}
	present, err := approval.ParsePolicy(inForce)
	if err != nil {
		return err
	}
	if len(imported) > 0 {
		later, err := approval.ParsePolicy(imported)
		if err != nil {
			return err
		}
		if later.Since > present.Since {
			return nil
		}
	}
	return conflict("account %q has an approval policy, and the bundle is of the account without it or with an earlier one: nothing was changed; export the account as it is now and have that dealt", name)
}
