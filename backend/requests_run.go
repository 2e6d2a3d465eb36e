package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// What is done once a request has its quorum, in the background: a queue in memory of
// what is approved, with one goroutine that starts when there is something to do and
// ends with the mount. A request that was approved before a restart gets into it when
// somebody looks at it, and with the periodic function.
//
// An attempt that failed for a reason that may pass leaves the request approved, and
// it is tried again after a pause until it expires.

const (
	// requestsAtOnce is how many requests are done side by side.
	requestsAtOnce = 8
	// maxRequestBackoff is the longest pause between two attempts.
	maxRequestBackoff = time.Minute
	// requestStoreTimeout bounds storing what became of a request.
	requestStoreTimeout = 5 * time.Second
)

// requestQueue says which approved requests are to be done when. Its methods may be
// called concurrently.
type requestQueue struct {
	requests *approvalRequests
	kick     chan struct{} // capacity 1

	mu      sync.Mutex
	running bool
	due     map[string]*attempt
}

// attempt is an approved request that is to be done, or being done.
type attempt struct {
	next time.Time // by the process's clock
	busy bool
	// again: it was added once more while it was busy, as a request that had just been
	// held is when its requester asks again. Then the attempt's end is not the last word.
	again bool
	n     int
	last  string // why it did not work the last time
}

func newRequestQueue(q *approvalRequests) *requestQueue {
	return &requestQueue{requests: q, kick: make(chan struct{}, 1), due: map[string]*attempt{}}
}

// add has a request done soon; one that is known keeps its pause.
func (u *requestQueue) add(id string) {
	u.mu.Lock()
	start := false
	if a := u.due[id]; a != nil {
		a.again = a.busy
	} else {
		u.due[id] = &attempt{next: time.Now()}
		start = !u.running
		u.running = true
	}
	u.mu.Unlock()
	if start && !u.requests.cfg.Go(u.run) {
		u.mu.Lock()
		u.running = false
		clear(u.due) // of use only on a server that writes
		u.mu.Unlock()
	}
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// drop forgets a request that has ended.
func (u *requestQueue) drop(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a := u.due[id]; a != nil && a.busy {
		a.again = false
	} else {
		delete(u.due, id)
	}
}

// trouble says why a request has not been done yet; empty where nothing is wrong.
func (u *requestQueue) trouble(id string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a := u.due[id]; a != nil {
		return a.last
	}
	return ""
}

// run does what is due until ctx ends. What it starts has ended when it returns.
func (u *requestQueue) run(ctx context.Context) {
	var workers sync.WaitGroup
	defer workers.Wait()
	for {
		ids, pause := u.take()
		for _, id := range ids {
			workers.Go(func() { u.ended(id, u.requests.complete(ctx, id)) })
		}
		timer := time.NewTimer(pause)
		select {
		case <-u.kick:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// take returns what is to be begun now, and how long nothing else is.
func (u *requestQueue) take() (ids []string, pause time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	busy := 0
	for _, a := range u.due {
		if a.busy {
			busy++
		}
	}
	pause = time.Hour
	for id, a := range u.due {
		if a.busy {
			continue
		}
		if left := a.next.Sub(now); left > 0 {
			pause = min(pause, left)
			continue
		}
		if busy < requestsAtOnce { // else whoever ends first kicks
			a.busy = true
			busy++
			ids = append(ids, id)
		}
	}
	return ids, pause
}

// ended forgets a request, or has it tried again.
func (u *requestQueue) ended(id string, err error) {
	u.mu.Lock()
	a := u.due[id]
	switch {
	case a != nil && err == nil && a.again:
		*a = attempt{next: time.Now()}
	case err == nil || a == nil:
		delete(u.due, id)
	default:
		a.busy, a.again, a.last = false, false, err.Error()
		a.next = time.Now().Add(min(u.requests.cfg.Backoff<<min(a.n, 16), maxRequestBackoff))
		a.n++
	}
	u.mu.Unlock()
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// complete does what was approved and stores what became of it. nil says that there is
// nothing left to do; with any other error it is to be tried again.
func (q *approvalRequests) complete(ctx context.Context, id string) error {
	r, err := q.begin(ctx, id)
	var f *fault
	switch {
	case errors.As(err, &f): // it has ended, or somebody else is at it
		return nil
	case err != nil:
		return err
	}
	defer q.done(id)
	if err := q.cfg.step(ctx, stepRequestDoing); err != nil {
		return err
	}
	result, err := q.cfg.Complete(ctx, r)
	reason := overReason(err)
	var held *requestHeldError
	switch {
	case reason != "":
		return q.finish(ctx, id, requestFailed, nil, reason)
	case errors.As(err, &held):
		return q.hold(ctx, id, held.reason)
	case err != nil:
		q.cfg.Logger.Warn("an approved request could not be done; it is tried again until it expires", "request", id, "account", r.Account, "error", err)
		return err
	}
	if err := q.cfg.step(ctx, stepRequestDone); err != nil {
		return err
	}
	return q.finish(ctx, id, requestSigned, result, "")
}

// hold stores that a request that the caller has begun is not done by itself any more.
func (q *approvalRequests) hold(ctx context.Context, id, reason string) error {
	if err := q.cfg.step(ctx, stepRequestHolding); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestStoreTimeout)
	defer cancel()
	r, err := q.update(ctx, id, func(r *requestRecord) error {
		if r.State != requestApproved {
			return errUnchanged
		}
		r.Reason = reason
		return nil
	})
	if err != nil {
		return fmt.Errorf("that request %s is held could not be stored: %w", id, err)
	}
	q.cfg.Logger.Info("request for approval is held", "request", id, "account", r.Account, "reason", reason)
	return q.cfg.step(ctx, stepRequestHeld)
}

// again has a request that was held done, since its requester asks for it once more.
// Any other is left as it is.
func (q *approvalRequests) again(ctx context.Context, id string) (*requestRecord, error) {
	return q.update(ctx, id, releaseHeld)
}

// releaseHeld is the change that again makes.
func releaseHeld(r *requestRecord) error {
	if !r.held() {
		return errUnchanged
	}
	r.Reason = ""
	return nil
}

// finish stores what became of a request that the caller has begun. It goes on when
// ctx ends.
func (q *approvalRequests) finish(ctx context.Context, id string, s requestState, result map[string]any, reason string) error {
	var raw []byte
	if result != nil {
		var err error
		if raw, err = encodeAnswer(result); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestStoreTimeout)
	defer cancel()
	_, err := q.update(ctx, id, func(r *requestRecord) error {
		if r.State.ended() {
			return errUnchanged
		}
		r.end(s, q.cfg.now(), reason)
		r.Result = raw
		return nil
	})
	if err != nil {
		return fmt.Errorf("what became of request %s could not be stored: %w", id, err)
	}
	return q.cfg.step(ctx, stepRequestStored)
}

// overReason is why a request cannot be done any more; empty where it may yet.
func overReason(err error) string {
	var o *requestOverError
	if errors.As(err, &o) {
		return o.reason
	}
	return ""
}
