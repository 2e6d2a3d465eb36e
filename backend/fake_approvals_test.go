package backend

import (
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// What the fake engine checks of policies and approvals is what nodes check
// (mpc/node), with the same package: policy and approvals come with the request, and
// only what a record names and what is about to be done counts.

// fakeClock is the nodes' clock, f.at where a test sets it.
func (f *fakeEngine) clock() time.Time {
	if f.at != nil {
		return f.at()
	}
	return time.Now()
}

// readFakePolicy reads a policy whose hash is known.
func readFakePolicy(b []byte, hash [32]byte) (*approval.Policy, error) {
	p, err := approval.ParsePolicy(b)
	if err == nil && p.Hash() != hash {
		err = errors.New("the policy is not the one that the record names")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pool.ErrApprovals, err)
	}
	return p, nil
}

// createPolicy checks the policy of a new account.
func (f *fakeEngine) createPolicy(q *pool.CreateRequest) error {
	if q.PolicyHash == mpc.EmptySetHash() {
		if len(q.Policy) > 0 {
			return fmt.Errorf("%w: a policy for an account that has none", pool.ErrApprovals)
		}
		return nil
	}
	p, err := readFakePolicy(q.Policy, q.PolicyHash)
	if err == nil {
		err = p.Follows(nil, 0)
	}
	return err
}

// approved checks policy and approvals of an operation; the caller holds f.mu.
func (f *fakeEngine) approved(r *mpc.PublicRecord, policy, approvals []byte, subject approval.Subject) error {
	p, err := readFakePolicy(policy, r.PolicyHash)
	if err != nil {
		return err
	}
	b, err := approval.ParseBundle(approvals)
	if err == nil {
		_, err = approval.Verify(p, subject, b, f.clock())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", pool.ErrApprovals, err)
	}
	f.approvals++
	return nil
}

// approvedSign checks those of a signature; the caller holds f.mu.
func (f *fakeEngine) approvedSign(q *pool.SignRequest) error {
	r := &q.Account.Record
	if r.PolicyHash == mpc.EmptySetHash() {
		if len(q.Policy) > 0 || len(q.Approvals) > 0 {
			return fmt.Errorf("%w: some for an account that demands none", pool.ErrApprovals)
		}
		return nil
	}
	return f.approved(r, q.Policy, q.Approvals, approval.SignSubject(f.settings().MountID, r, q.Input, q.MessageType, q.Hash, q.Derivation))
}

// nextPolicy returns the policy hash of the epoch after a refresh; the caller holds
// f.mu.
func (f *fakeEngine) nextPolicy(q *pool.RefreshRequest) ([32]byte, error) {
	old := &q.Account.Record
	none := old.PolicyHash == mpc.EmptySetHash()
	if len(q.NextPolicy) == 0 {
		if len(q.Policy) > 0 || len(q.Approvals) > 0 {
			return old.PolicyHash, errors.New("a refresh that keeps the policy brings approvals")
		}
		return old.PolicyHash, nil
	}
	next, err := approval.ParsePolicy(q.NextPolicy)
	if err != nil {
		return old.PolicyHash, err
	}
	if next.Hash() == old.PolicyHash || none && (len(q.Policy) > 0 || len(q.Approvals) > 0) {
		return old.PolicyHash, errors.New("this policy cannot be the next")
	}
	var present *approval.Policy
	if !none {
		if present, err = readFakePolicy(q.Policy, old.PolicyHash); err != nil {
			return old.PolicyHash, err
		}
	}
	if err := next.Follows(present, old.Epoch); err != nil {
		return old.PolicyHash, err
	}
	if !none {
		err = f.approved(old, q.Policy, q.Approvals, approval.PolicySubject(f.settings().MountID, old, next))
	}
	return next.Hash(), err
}
