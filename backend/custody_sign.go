package backend

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// readOwned reads an account with user custody and the asset that it is tied to,
// and how long a signature may take. Neither may be frozen.
func (b *backend) readOwned(ctx context.Context, name string) (*signable, *mpc.Account, *custodyAsset, time.Duration, error) {
	v, a, timeout, err := b.readSignable(ctx, name)
	if err != nil {
		return nil, nil, nil, 0, err
	}
	if v.custody == nil {
		return nil, nil, nil, 0, noCustody(name)
	}
	h, err := b.custodyAssetOf(ctx, v.custody)
	if err == nil {
		err = checkIdentityActive(h.identityName, h.identity)
	}
	return v, a, h, timeout, err
}

func noCustody(name string) error {
	return invalid("account %q has no user custody: sign with <mount>/sign/%s; it is refreshed by the clock or by <mount>/accounts/%s/refresh", name, name, name)
}

// beginSign prepares nodes for one signature.
func (b *backend) beginSign(ctx context.Context, req *logical.Request, name string, data *framework.FieldData) (*custodyOp, *signable, []string, error) {
	v, a, h, _, err := b.readOwned(ctx, name)
	if err != nil {
		return nil, nil, nil, err
	}
	q, err := parseWhat(&a.Record, data)
	if err != nil {
		return nil, nil, nil, err
	}
	request := data.Get("request").(string)
	if q.granted, err = b.grantOwned(ctx, req, name, a, q, request); err != nil {
		return nil, nil, nil, err
	}
	policy, approvals := q.granted.policyAndApprovals()
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	b.runner.Opened(name)
	offer, err := eng.PrepareCustody(ctx, pool.CustodyRequest{
		Operation: custody.OpSign, Account: *a, Expose: b.expose(name, &a.Record),
		Input: q.input, MessageType: q.kind, Hash: q.hash, Derivation: q.derivation,
		Policy: policy, Approvals: approvals,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if err := b.step(ctx, stepCustodyOffered); err != nil {
		return nil, nil, nil, err
	}
	op, err := b.custody.add(name, offer, q)
	if err != nil {
		return nil, nil, nil, err
	}
	op.next, op.request = h.next(), request
	return op, v, q.warnings, nil
}

// finishSign signs with what was released. *used becomes true when nodes may have
// been told of it.
func (b *backend) finishSign(ctx context.Context, op *custodyOp, releases map[mpc.Index][]byte, data *framework.FieldData, used *bool) (*logical.Response, error) {
	q := *op.signing
	if err := q.takeForm(data); err != nil {
		return nil, err
	}
	v, a, _, timeout, err := b.readOwned(ctx, op.name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if op.request != "" {
		// From here on it neither expires nor is cancelled, and nobody else signs.
		r, err := b.requests.begin(ctx, op.request)
		if err != nil {
			return nil, err
		}
		defer b.requests.done(op.request)
		// As nodes have to see them now: the policy may have changed, and approvals
		// count for a while only.
		if _, _, err := b.grant(ctx, r, &a.Record); err != nil {
			return nil, b.endRequest(ctx, op.request, err)
		}
	}
	sign := func(ctx context.Context) (map[string]any, error) {
		eng, err := b.engine(ctx)
		if err != nil {
			return nil, err
		}
		if err := op.stillFits(a); err != nil {
			*used = true
			return nil, err
		}
		if err := q.granted.covers(op.name, &a.Record); err != nil {
			*used = true
			return nil, err
		}
		b.runner.Opened(op.name)
		res, err := eng.RunCustody(ctx, op.offer, releases)
		var lost *pool.CustodyLostError
		if *used = err == nil || errors.As(err, &lost); err != nil {
			if errors.Is(err, pool.ErrShareUnusable) && v.unsettled {
				err = errors.Join(err, b.settleForSigning(ctx, eng, op.name, a.Record.EpochID, err))
			}
			return nil, err
		}
		return signAnswer(&q, res.Signature, &a.Record)
	}
	var answer map[string]any
	if q.requestID == "" {
		answer, err = sign(ctx)
	} else {
		var replayed bool
		answer, replayed, err = b.signed.once(ctx, q.signedID(), sign)
		if err == nil && replayed && !q.answeredBy(answer) {
			err = errNotTheAnswer
		}
		if err == nil {
			answer["request_id"], answer["replayed"] = q.requestID, replayed
		}
	}
	if err != nil {
		return nil, err
	}
	if op.request != "" {
		if err := b.requests.finish(ctx, op.request, requestSigned, answer, ""); err != nil {
			return nil, err
		}
	}
	return &logical.Response{Data: answer, Warnings: q.warnings}, nil
}

// stillFits fails where the account has left the epoch that the operation was
// begun in, or what is known of who has seen which share does not have its nodes
// any more. It takes over the envelopes as they are now: they may have been
// rewrapped, which the owner's release does not depend on.
func (op *custodyOp) stillFits(a *mpc.Account) error {
	r := &op.offer.Request
	if !bytes.Equal(r.Account.Record.Marshal(), a.Record.Marshal()) {
		return conflict("account %q got new shares since the operation was begun, or is another account: nothing was done; begin again", op.name)
	}
	for _, m := range op.offer.Members {
		if a.Exposures[m.Node] != m.Index {
			return conflict("account %q: what is known of who has seen which share changed since the operation was begun, as after a restore of storage: nothing was done; begin again", op.name)
		}
	}
	exposures := maps.Clone(a.Exposures)
	r.Account = *a
	r.Account.Exposures = exposures
	return nil
}
