package backend

import (
	"bytes"
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// ownedAccount reads an account with user custody for its refresh, which is
// allowed in every state of the account, and not while the identity is frozen.
func (b *backend) ownedAccount(ctx context.Context, name string) (*accountRecord, *custodyAsset, error) {
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if r.Custody == nil {
		return nil, nil, noCustody(name)
	}
	h, err := b.custodyAssetOf(ctx, r.Custody)
	if err == nil {
		err = checkIdentityActive(h.identityName, h.identity)
	}
	return r, h, err
}

// beginRefresh prepares all n nodes. The next custody key is the one that waits in
// the asset, or the present one. With request, the ID of a change of policy that was
// approved, the refresh brings that policy, and with the fields of a policy an account's
// first one; what the owner releases is for it.
func (b *backend) beginRefresh(ctx context.Context, name string, data *framework.FieldData) (*custodyOp, *signable, []string, error) {
	fail := func(err error) (*custodyOp, *signable, []string, error) { return nil, nil, nil, err }
	request := data.Get("request").(string)
	for f := range policyFields() {
		if _, sent := data.GetOk(f); sent && request != "" {
			return fail(invalid("%s and request do not go together: the request has a policy already, and it is the one that was approved", f))
		}
	}
	r, h, err := b.ownedAccount(ctx, name)
	if err != nil {
		return fail(err)
	}
	a, err := b.store.usable(ctx, r)
	if err != nil {
		return fail(err)
	}
	with := pool.CustodyRequest{Operation: custody.OpRefresh, Account: *a, Expose: b.expose(name, &a.Record), NextCustody: h.next()}
	var warnings []string
	if request != "" {
		err = b.withApproved(ctx, name, r, &with, request)
	} else {
		warnings, err = b.withFirst(ctx, name, r, &with, data)
	}
	if err != nil {
		return fail(err)
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return fail(err)
	}
	begun := b.fit.begin()
	offer, err := eng.PrepareCustody(ctx, with)
	if err != nil {
		return fail(err)
	}
	if err := b.step(ctx, stepCustodyOffered); err != nil {
		return fail(err)
	}
	op, err := b.custody.add(name, offer, nil)
	if err != nil {
		return fail(err)
	}
	op.pool, op.request = begun, request
	v, err := newSignable(r)
	return op, v, warnings, err
}

// finishRefresh makes the next epoch with what was released. The new shares and
// the custody key that they need are stored by one Put.
func (b *backend) finishRefresh(ctx context.Context, op *custodyOp, releases map[mpc.Index][]byte, used *bool) (*logical.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var asked *requestRecord
	if op.request != "" {
		// From here on it neither expires nor is cancelled, and nobody else does it.
		var err error
		if asked, err = b.requests.begin(ctx, op.request); err != nil {
			return nil, err
		}
		defer b.requests.done(op.request)
	}
	res, err := b.refreshOwned(ctx, op, asked, releases, used)
	if err != nil {
		if *used {
			b.runner.Failed(op.name, err)
		}
		return nil, err
	}
	b.accountChanged(op.name, res.record)
	if len(op.offer.Request.NextPolicy) > 0 {
		b.policyChanged(ctx, op, res.record)
	}
	resp, err := b.accountAnswer(ctx, op.name, res.record)
	if err != nil {
		return nil, err
	}
	resp.Data["session_id"] = res.sessionID.String()
	return resp, nil
}

// refreshOwned makes and stores it. asked is the change of policy that it brings, nil
// for none.
func (b *backend) refreshOwned(ctx context.Context, op *custodyOp, asked *requestRecord, releases map[mpc.Index][]byte, used *bool) (out *refreshed, err error) {
	name := op.name
	release, err := b.busy.reserve(prefixAccounts+name, "is being refreshed")
	if err != nil {
		return nil, err
	}
	defer release()
	defer func() { b.metrics.refreshed(err) }()
	if _, _, err := b.ownedAccount(ctx, name); err != nil {
		return nil, err
	}
	eng, r, err := b.settled(ctx, name)
	if err != nil && !errors.Is(err, errRolledBack) {
		return nil, err
	}
	_, h, err := b.ownedAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	request := &op.offer.Request
	next := custodyRecord{Identity: r.Custody.Identity, Asset: r.Custody.Asset, PublicKey: request.NextCustody}
	if !bytes.Equal(h.next(), next.PublicKey) {
		*used = true
		return nil, conflict("the asset with the custody key of account %q was changed since the refresh was begun: the account keeps its shares; begin again", name)
	}
	old, err := b.store.usable(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := op.stillFits(old); err != nil {
		*used = true
		return nil, err
	}
	policy := r.Current.Policy
	if asked != nil {
		// As nodes have to see it now: approvals count for a while only.
		if err := b.withPolicy(ctx, name, r, request, asked); err != nil {
			*used = true
			return nil, b.endRequest(ctx, asked.ID, err)
		}
	}
	if len(request.NextPolicy) > 0 {
		if r.Deleted != nil {
			*used = true
			return nil, policyOfDeleted(name, r)
		}
		policy = request.NextPolicy
	}
	// Read before the session: a restore declared meanwhile counts for the new
	// epoch as well.
	lineage, err := b.spares.lineage(ctx)
	if err != nil {
		return nil, err
	}
	var recipients [32]byte
	if request.Recipients, request.OldRecipients, recipients, err = b.refreshSets(ctx, &old.Record); err != nil {
		return nil, err
	}
	made, err := eng.RunCustody(ctx, op.offer, releases)
	var lost *pool.CustodyLostError
	if *used = err == nil || errors.As(err, &lost); err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepRefreshMade); err != nil {
		return nil, err
	}
	want := successor{recipients: recipients, custody: mpc.CustodyHash(next.PublicKey), policy: policy}
	epoch, err := b.nextEpoch(ctx, eng, old, made.Key, lineage, request.Recipients, want)
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepRefreshChecked); err != nil {
		return nil, err
	}
	err = b.underCustody(ctx, &next, func() error {
		return b.place(ctx, op.pool, &made.Key.Account, func() (err error) {
			r, err = b.updateAccount(ctx, name, old.Record.EpochID, func(r *accountRecord) error {
				r.Current, r.Previous, r.Custody = *epoch, nil, &next
				return nil
			})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return &refreshed{r, made.Key.SessionID}, b.step(ctx, stepRefreshStored)
}

// openOwned checks what can be checked of shares that open with a custody key: that
// each node's k₁ opens with the token, by having them sealed anew and throwing that
// away. That the rest opens was checked by the nodes that made the shares, each of
// its own, when it still had the custody key's part.
func (b *backend) openOwned(ctx context.Context, eng Engine, a *mpc.Account) error {
	set, err := b.store.recipientSet(ctx, a.Record.RecipientsHash)
	if err != nil {
		return err
	}
	holders := *a
	holders.NoSpares = true // a check makes no exposures
	_, err = eng.Rewrap(ctx, pool.RewrapRequest{Account: holders, Recipients: set})
	return err
}
