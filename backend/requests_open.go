package backend

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
)

func tooMany(format string, args ...any) error {
	err := invalid(format, args...).(*fault)
	err.status = http.StatusTooManyRequests
	return err
}

func hashOf(b []byte) [32]byte { return sha256.Sum256(b) }

// open stores a new request. The caller fills in what is asked for, by whom, under
// which policy (Policy), and how long a form of the moving code is shown; the rest is
// set here. With a RequestID the same requester gets the same request again,
// repeated says so, and one with another payload is refused.
func (q *approvalRequests) open(ctx context.Context, r *requestRecord) (stored *requestRecord, repeated bool, err error) {
	policy, err := approval.ParsePolicy(r.Policy)
	if err != nil {
		return nil, false, err
	}
	if n := r.eligible(policy); n < policy.Quorum {
		return nil, false, forbidden("the policy of account %q asks for %d approvals, and of its %d approvers %d may answer you: nobody approves a request of their own. Nothing was asked for; let somebody else ask", r.Account, policy.Quorum, len(policy.Approvers), n)
	}
	r.ID = newRequestID(r)
	if r.RequestID != "" {
		release, err := q.turns.reserveSoon(ctx, prefixRequests+r.ID, "is being opened")
		if err != nil {
			return nil, false, err
		}
		defer release()
		old, err := q.cfg.Store.request(ctx, r.ID)
		if err != nil {
			return nil, false, err
		}
		if old != nil {
			if old.Payload != r.Payload {
				return nil, false, conflict("this request_id was used for this account at %s with another payload: nothing was asked for now; a request_id belongs to one request, use a new one", rfc3339(old.Created))
			}
			if q.isOver(old) || old.held() { // one that is over ends
				old, err = q.updateInTurn(ctx, old.ID, releaseHeld)
			} else if old.goesOn() {
				q.queue.add(old.ID)
			}
			return old, true, err
		}
	}
	leave, err := q.index.reserve(ctx, r.AccountID)
	if err != nil {
		return nil, false, err
	}
	defer leave()
	now := q.cfg.now()
	r.State = requestPending
	r.Created = now.UTC().Truncate(time.Millisecond) // displays count periods from it, in milliseconds
	// Whole seconds, and never more than the policy allows.
	r.Expires = now.Add(policy.Expiry).UTC().Truncate(time.Second)
	r.Seed = make([]byte, approval.SeedSize)
	_, _ = rand.Read(r.Seed) // never fails: it ends the program instead
	if err := q.cfg.step(ctx, stepRequestOpening); err != nil {
		return nil, false, err
	}
	if err := q.put(ctx, nil, r); err != nil {
		return nil, false, err
	}
	return r, false, q.cfg.step(ctx, stepRequestOpened)
}

// newRequestID draws an ID, or makes one of the caller's request_id, so that a
// repetition finds the request without a search: the first 16 bytes of SHA-256 over
// a label, account, requester and request_id, each with its length in 8 bytes before
// it. Another requester's is another request.
func newRequestID(r *requestRecord) string {
	var id approval.ID
	if r.RequestID == "" {
		_, _ = rand.Read(id[:])
		return id.String()
	}
	h := sha256.New()
	for _, part := range []string{"vault-mpc request for approval v1", r.AccountID, r.Requester, r.RequestID} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part))) // a hash takes everything
		h.Write([]byte(part))
	}
	return hex.EncodeToString(h.Sum(nil)[:len(id)])
}
