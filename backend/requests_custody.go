package backend

import (
	"context"
	"crypto/subtle"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// An account with user custody and an approval policy: its owner asks with
// sign/:name, people approve, and then the owner signs, as ever with custody/begin and
// finish, naming the request. It stays approved until then, or expires.

// grantOwned returns the approvals of the request that the owner names; nil for an
// account without a policy, which takes no request.
func (b *backend) grantOwned(ctx context.Context, req *logical.Request, name string, a *mpc.Account, q *signing, id string) (*granted, error) {
	if !demandsApprovals(&a.Record) {
		if id != "" {
			return nil, invalid("account %q has no approval policy: leave request out", name)
		}
		return nil, nil
	}
	if id == "" {
		return nil, needsApprovals(name)
	}
	r, err := b.ownRequest(ctx, req, id, forbidden("request %s was made by somebody else: whoever asked signs; nothing was begun", id))
	switch {
	case err != nil:
		return nil, err
	case !r.asksFor(q):
		return nil, conflict("request %s is not for this message, with this type, hash and derivation, and this account: nothing was begun", r.ID)
	case r.State != requestApproved:
		return nil, notApproved(r)
	}
	g, _, err := b.grant(ctx, r, &a.Record)
	if err != nil {
		return nil, b.requests.endIfOver(ctx, r.ID, err)
	}
	return g, nil
}

// asksFor compares the account and everything that is signed; how the signature is
// encoded is not.
func (r *requestRecord) asksFor(q *signing) bool {
	return r.Action == approval.Sign && r.AccountID == q.account.String() && subtle.ConstantTimeCompare(r.Input, q.input) == 1 && r.MessageType == string(q.kind) && r.HashAlgorithm == string(q.hash) && r.derivation() == q.derivation
}

// endRequest ends a request that the caller has begun, where err says that it cannot
// be done, and returns what to answer.
func (b *backend) endRequest(ctx context.Context, id string, err error) error {
	reason := overReason(err)
	if reason == "" {
		return err
	}
	if err := b.requests.finish(ctx, id, requestFailed, nil, reason); err != nil {
		return err
	}
	return conflict("request %s has failed (%s)", id, reason)
}
