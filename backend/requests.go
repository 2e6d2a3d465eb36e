package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// Requests that wait for people's approvals. One record each, replaced as a whole by
// one Put in the request's turn; its state only moves forward:
//
//	pending ─┬─> approved ─┬─> signed
//	         ├─> refused   ├─> failed
//	         ├─> expired   ├─> expired
//	         └─> cancelled └─> cancelled
//
// What is stored counts, so that a restart or failover continues where it was: a
// request that is approved is done by whoever looks at it next, or by the periodic
// function (requests_run.go). The signature is made before that is stored, so it may
// be made twice; it is of the same message, which is what was approved.
//
// One that is approved while its account is frozen is held: it stays approved, with a
// reason, and is not done by itself any more, so that the end of a freeze sets nothing
// off. After that whoever asked may ask for it again, until it expires. (One of an
// account with user custody is done by its owner only, and needs no holding.)
//
// The clock moves a request that is over to expired when somebody looks at it, and
// every minute. While it is being done it does not expire and cannot be cancelled:
// what nodes have signed in time is given out.

// Bounds of requests.
const (
	// maxRequestInput bounds the message of a request, in bytes: it is kept in
	// storage together with the policy and all approvals, in one record.
	maxRequestInput = 256 << 10
	// Requests that wait, of one account and of all.
	maxPendingPerAccount = 1000
	maxPending           = 10000
	// requestKept is how long a request stays after its end; of more than
	// maxEndedKept the oldest go earlier.
	requestKept  = 7 * 24 * time.Hour
	maxEndedKept = 20000
)

// requestsConfig is what requests need of their mount.
type requestsConfig struct {
	Store *store
	// Subject returns what is asked for, against the account as it is now, and the
	// policy in force. It fails with a *requestOverError where that is not the
	// request's any more.
	Subject func(ctx context.Context, r *requestRecord) (approval.Subject, *approval.Policy, error)
	// Complete does what was approved and returns the answer to the requester. A
	// *requestOverError says that it cannot be done, a *requestHeldError that it is not
	// done before its requester asks again; with any other error it is tried again.
	Complete func(ctx context.Context, r *requestRecord) (map[string]any, error)
	// InForce returns the result of an approved change of policy that somebody else
	// than the queue makes (ByOwner), where it was made; nil where it was not.
	InForce func(ctx context.Context, r *requestRecord) (map[string]any, error)
	// Go runs f in the background under the mount's context until it returns; false
	// where the mount is closed or this server does not write.
	Go      func(f func(context.Context)) bool
	Metrics *metrics
	Logger  hclog.Logger
	// Backoff is the pause after a first attempt that failed, doubled with each
	// further one; default 1 s.
	Backoff time.Duration
	// Look is how often who waits looks at storage besides; default 2 s.
	Look time.Duration
	now  func() time.Time
	step func(ctx context.Context, name string) error
}

// approvalRequests holds the requests of a mount. Its methods may be called
// concurrently. Records that they return are the caller's.
type approvalRequests struct {
	cfg   requestsConfig
	turns busySet // by ID: whoever changes a request
	index *requestIndex
	waits *requestWaits
	queue *requestQueue

	mu      sync.Mutex
	doing   map[string]bool // being done now; set in the request's turn
	tending bool            // tendAll is running
}

func newApprovalRequests(cfg requestsConfig) *approvalRequests {
	if cfg.Backoff == 0 {
		cfg.Backoff = time.Second
	}
	if cfg.Look == 0 {
		cfg.Look = 2 * time.Second
	}
	q := &approvalRequests{cfg: cfg, index: newRequestIndex(cfg.Store, cfg.Logger), waits: newRequestWaits(), doing: map[string]bool{}}
	q.queue = newRequestQueue(q)
	return q
}

// requestOverError: what was asked for cannot be done any more, for a reason that
// stays. It is written for the requester.
type requestOverError struct{ reason string }

func (e *requestOverError) Error() string { return e.reason }

func over(format string, args ...any) error {
	return &requestOverError{fmt.Sprintf(format, args...)}
}

// requestHeldError: what was approved may not be done now, and is not to begin by
// itself once it may. It is written for the requester.
type requestHeldError struct{ reason string }

func (e *requestHeldError) Error() string { return e.reason }

// errUnchanged is returned by a change that leaves the record as it is.
var errUnchanged = errors.New("nothing to change")

func noRequest(id string) error {
	return unknown("there is no request %q: it was deleted, which happens seven days after its end, or there never was one", clip(id))
}

// get returns a request as it is now: one whose time is over has expired. One that
// is approved is gone on with in the background, and one that its owner has done, but
// for saying so, is done.
func (q *approvalRequests) get(ctx context.Context, id string) (*requestRecord, error) {
	r, err := q.read(ctx, id)
	if err != nil {
		return nil, err
	}
	if r.State == requestApproved && r.ByOwner && r.Action == approval.ChangePolicy && !q.isDoing(id) {
		settled, err := q.settleOwned(ctx, r)
		if settled != nil || err != nil {
			return settled, err
		}
	}
	if q.isOver(r) {
		if r, err = q.update(ctx, id, func(*requestRecord) error { return errUnchanged }); err != nil {
			return nil, err
		}
	}
	if r.goesOn() {
		q.queue.add(id)
	}
	return r, nil
}

// settleOwned ends an approved change of policy that is in force, as after a crash that
// came before that was stored. It returns the request where the clock is not to end it,
// and nil where it goes on as any other.
func (q *approvalRequests) settleOwned(ctx context.Context, r *requestRecord) (*requestRecord, error) {
	result, err := q.cfg.InForce(ctx, r)
	switch {
	case result != nil && !q.claim(r.ID): // its owner is about to say so
		return r, nil
	case result != nil:
		defer q.done(r.ID) // the clock does not end what is in force
		if err := q.finish(ctx, r.ID, requestSigned, result, ""); err != nil {
			return nil, err
		}
		return q.read(ctx, r.ID)
	case err != nil && overReason(err) == "":
		q.cfg.Logger.Warn("whether an approved policy is in force cannot be seen; its request stays as it is", "request", r.ID, "account", r.Account, "error", err)
		return r, nil
	}
	return nil, nil
}

func (q *approvalRequests) read(ctx context.Context, id string) (*requestRecord, error) {
	if _, err := approval.ParseID(id); err != nil {
		return nil, invalid("%q is not the ID of a request: it has 32 lower-case hex digits", clip(id))
	}
	r, err := q.cfg.Store.request(ctx, id)
	if err == nil && r == nil {
		err = noRequest(id)
	}
	return r, err
}

// isOver says that the clock ends the request.
func (q *approvalRequests) isOver(r *requestRecord) bool {
	return !r.State.ended() && !q.cfg.now().Before(r.Expires) && !q.isDoing(r.ID)
}

func (q *approvalRequests) isDoing(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.doing[id]
}

// update has change alter a request and stores it by one Put, in the request's turn.
// What change is given has expired already where its time is over. An error of change
// is returned and nothing stored; with errUnchanged the request is returned as it is.
//
// With any other error of storage the change may have taken effect or not.
func (q *approvalRequests) update(ctx context.Context, id string, change func(*requestRecord) error) (*requestRecord, error) {
	release, err := q.turns.reserveSoon(ctx, prefixRequests+id, "is being changed")
	if err != nil {
		return nil, err
	}
	defer release()
	return q.updateInTurn(ctx, id, change)
}

func (q *approvalRequests) updateInTurn(ctx context.Context, id string, change func(*requestRecord) error) (*requestRecord, error) {
	r, err := q.read(ctx, id)
	if err != nil {
		return nil, err
	}
	if q.isOver(r) {
		next := r.clone()
		next.end(requestExpired, q.cfg.now(), r.Reason) // why it was held, if it was
		if err := q.put(ctx, r, next); err != nil {
			return nil, err
		}
		r = next
	}
	next := r.clone()
	switch err := change(next); {
	case errors.Is(err, errUnchanged):
		return r, nil
	case err != nil:
		return nil, err
	}
	if !r.State.leadsTo(next.State) {
		return nil, fmt.Errorf("request %s cannot go from %s to %s: nothing was stored", id, r.State, next.State)
	}
	if err := q.put(ctx, r, next); err != nil {
		return nil, err
	}
	return next, nil
}

// put stores a request and tells who wants to know. before is nil for a new one.
func (q *approvalRequests) put(ctx context.Context, before, r *requestRecord) error {
	if err := q.cfg.Store.putRequest(ctx, r); err != nil {
		q.index.doubt(r.ID) // it may be stored
		return err
	}
	q.index.set(r)
	if before == nil || before.State != r.State {
		q.moved(before, r)
	}
	q.waits.wake(r.ID)
	if r.goesOn() {
		q.queue.add(r.ID)
	}
	return nil
}

// goesOn says that the request is done without anybody asking once more.
func (r *requestRecord) goesOn() bool { return r.State == requestApproved && !r.ByOwner && !r.held() }

// held says that an approved request waits for its requester to ask again; Reason is
// why.
func (r *requestRecord) held() bool { return r.State == requestApproved && r.Reason != "" }

// moved logs and counts that a request has come into a state.
func (q *approvalRequests) moved(before, r *requestRecord) {
	args := []any{"request", r.ID, "account", r.Account, "action", string(r.Action), "state", string(r.State), "requester", r.Requester}
	if r.Reason != "" {
		args = append(args, "reason", r.Reason)
	}
	q.cfg.Logger.Info("request for approval", args...)
	q.cfg.Metrics.requestMoved(r)
	if r.State.ended() {
		q.queue.drop(r.ID)
	}
}

// leadsTo is the table of states.
func (s requestState) leadsTo(next requestState) bool {
	switch s {
	case next:
		return true
	case requestPending:
		return slices.Contains([]requestState{requestApproved, requestRefused, requestExpired, requestCancelled, requestFailed}, next)
	case requestApproved:
		return slices.Contains([]requestState{requestSigned, requestFailed, requestExpired, requestCancelled}, next)
	}
	return false
}

// requestStates lists them all.
func requestStates() []requestState {
	return []requestState{requestPending, requestApproved, requestSigned, requestRefused, requestExpired, requestCancelled, requestFailed}
}

func (s requestState) known() bool { return slices.Contains(requestStates(), s) }

// end moves the record to a state from which it goes nowhere.
func (r *requestRecord) end(s requestState, now time.Time, reason string) {
	r.State, r.Ended, r.Reason = s, now.UTC(), reason
}

// clone is a record that may be changed without changing r.
func (r *requestRecord) clone() *requestRecord {
	next := *r
	next.Given = slices.Clone(r.Given)
	next.Logins = maps.Clone(r.Logins)
	return &next
}

// begin marks an approved request as being done, which keeps the clock and everybody
// else from ending it; the caller calls done. Of two at once one is refused, and so is
// one that is held.
func (q *approvalRequests) begin(ctx context.Context, id string) (*requestRecord, error) {
	return q.update(ctx, id, func(r *requestRecord) error {
		if r.State != requestApproved {
			return notApproved(r)
		}
		if r.held() {
			return conflict("request %s is held: %s", id, r.Reason)
		}
		if !q.claim(id) {
			return conflict("request %s is being done: wait for it to end, then look at it", id)
		}
		return errUnchanged
	})
}

// claim marks a request as being done unless it is; the caller calls done.
func (q *approvalRequests) claim(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.doing[id] {
		return false
	}
	q.doing[id] = true
	return true
}

// done ends what begin or claim began.
func (q *approvalRequests) done(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.doing, id)
}

// notApproved says why a request that is not approved is not done.
func notApproved(r *requestRecord) error {
	if r.State == requestPending {
		return conflict("request %s is pending: its approvers have not approved it yet; wait for them: vault write <mount>/requests/%s/wait timeout=5s", r.ID, r.ID)
	}
	return conflict("request %s is %s%s: ask again", r.ID, r.State, because(r.Reason))
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// cancel ends a request that has not ended.
func (q *approvalRequests) cancel(ctx context.Context, id, reason string) (*requestRecord, error) {
	return q.update(ctx, id, func(r *requestRecord) error {
		switch {
		case r.State == requestCancelled:
			return errUnchanged
		case r.State.ended():
			return conflict("request %s is %s already: there is nothing to cancel", id, r.State)
		case q.isDoing(id):
			return conflict("request %s is approved and being signed: it cannot be cancelled any more", id)
		}
		r.end(requestCancelled, q.cfg.now(), reason)
		return nil
	})
}
