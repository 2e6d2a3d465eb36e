package backend

import (
	"context"
	"errors"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// needSignable reads what signing needs of an account that the caller says
// exists. Whether it may sign is for readForSigning: verifying and deriving are
// allowed in every state.
func (b *backend) needSignable(ctx context.Context, name string) (*signable, error) {
	v, err := b.store.signable(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case v == nil:
		return nil, noAccount(name)
	case v.renamingTo != "" && v.renamingTo != name:
		return nil, &movingError{name, v.renamingTo}
	}
	return v, nil
}

// readForSigning reads what a signature needs that the engine makes by itself,
// and how long it may take.
func (b *backend) readForSigning(ctx context.Context, name string) (*signable, *mpc.Account, time.Duration, error) {
	v, a, timeout, err := b.readSignable(ctx, name)
	if err == nil {
		err = needsOwner(name, v.custody)
	}
	if err == nil && demandsApprovals(&a.Record) {
		err = needsApprovals(name)
	}
	if err != nil {
		return nil, nil, 0, err
	}
	return v, a, timeout, nil
}

// readSignable is readForSigning for an account that may have user custody, and may
// demand approvals.
func (b *backend) readSignable(ctx context.Context, name string) (*signable, *mpc.Account, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	v, err := b.needSignable(ctx, name)
	if err == nil {
		err = v.usable(name) // not if it is frozen or deleted
	}
	if err != nil {
		return nil, nil, 0, err
	}
	a, err := b.store.forUse(ctx, v)
	if err != nil {
		return nil, nil, 0, err
	}
	if !a.Record.Algorithm.NeedsAuxiliaryKeys() {
		return v, a, requestTimeout, nil
	}
	nodes, err := b.store.nodesConfig(ctx)
	return v, a, nodes.sessionTimeout(), err
}

// signOnce answers one signing request: with a request_id, a request that was
// answered before is not signed again.
func (b *backend) signOnce(ctx context.Context, name string, q *signing) (map[string]any, error) {
	if q.requestID == "" {
		return b.signNow(ctx, name, q)
	}
	answer, replayed, err := b.signed.once(ctx, q.signedID(), func(ctx context.Context) (map[string]any, error) {
		return b.signNow(ctx, name, q)
	})
	if err != nil {
		return nil, err
	}
	if replayed && !q.answeredBy(answer) {
		return nil, errNotTheAnswer
	}
	answer["request_id"], answer["replayed"] = q.requestID, replayed
	return answer, nil
}

// signNow has nodes sign. The account is read again, since the other items of a
// batch may have taken a while.
func (b *backend) signNow(ctx context.Context, name string, q *signing) (map[string]any, error) {
	v, a, _, err := b.readSignable(ctx, name)
	if err == nil {
		err = needsOwner(name, v.custody)
	}
	if err != nil {
		return nil, err
	}
	if a.Record.AccountID != q.account { // destroyed, and the name was taken anew
		return nil, errEpochChanged
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	res, used, err := b.signAccount(ctx, eng, name, v.unsettled, a, &q.message)
	if err != nil {
		return nil, err
	}
	return signAnswer(q, res, &used.Record)
}

// signAccount signs, and once more after the account's epoch changed under it
// or an epoch that was never settled has been. It returns the account as it
// was when it signed. unsettled says that its epoch is. Nothing is signed for an
// account with a policy unless the message was granted under it.
func (b *backend) signAccount(ctx context.Context, eng Engine, name string, unsettled bool, a *mpc.Account, m *message) (*pool.SignResult, *mpc.Account, error) {
	try := func() (*pool.SignResult, error) {
		if err := m.granted.covers(name, &a.Record); err != nil {
			return nil, err
		}
		policy, approvals := m.granted.policyAndApprovals()
		b.runner.Opened(name)
		return eng.Sign(ctx, pool.SignRequest{
			Account: *a, Input: m.input, MessageType: m.kind, Hash: m.hash, Derivation: m.derivation,
			Expose: b.expose(name, &a.Record), Policy: policy, Approvals: approvals,
		})
	}
	res, err := try()
	if err == nil {
		return res, a, nil
	}
	switch {
	case errors.Is(err, errEpochChanged):
	case errors.Is(err, pool.ErrShareUnusable) && unsettled:
		if settleErr := b.settleForSigning(ctx, eng, name, a.Record.EpochID, err); settleErr != nil {
			return nil, nil, errors.Join(err, settleErr)
		}
	default:
		return nil, nil, err
	}
	id := a.Record.AccountID
	r, err := b.needSigning(ctx, name) // as it is in storage
	if err != nil {
		return nil, nil, err
	}
	if a, err = b.store.usable(ctx, r); err != nil {
		return nil, nil, err
	}
	if a.Record.AccountID != id { // destroyed, and the name was taken anew
		return nil, nil, errEpochChanged
	}
	res, err = try()
	return res, a, err
}

// settleForSigning settles the account unless it has left the epoch already.
// cause is why a share did not open.
func (b *backend) settleForSigning(ctx context.Context, eng Engine, name string, id mpc.EpochID, cause error) error {
	// Another signature may be at it, or a refresh, which settles as well.
	release, err := b.busy.reserveSoon(ctx, prefixAccounts+name, "is being settled")
	if err != nil {
		return err
	}
	defer release()
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return err
	}
	current, err := r.Current.account()
	if err != nil || r.Previous == nil || current.Record.EpochID != id {
		return err
	}
	var back *accountRecord
	if r.sameEpoch() { // other shares need not be looked at, and their nodes may be away
		back, err = b.goBack(ctx, name, id, cause)
	} else {
		back, err = b.settle(ctx, eng, name, r)
	}
	if errors.Is(err, errRolledBack) {
		b.accountChanged(name, back)
		b.runner.Failed(name, err)
		return nil
	}
	return err
}
