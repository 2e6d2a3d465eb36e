package backend

import (
	"context"
	"sync"
	"time"
)

// Bounds of those who wait for requests to change.
const (
	maxWaiting        = 1024
	maxWaitingOne     = 32 // for one request
	maxRequestWait    = 5 * time.Second
	waitAnswerReserve = 300 * time.Millisecond // of the request's time, for the answer
)

// requestWaits wakes those who wait for a request. Its methods may be called
// concurrently.
type requestWaits struct {
	mu      sync.Mutex
	waiting map[string]map[chan struct{}]bool // by ID
	n       int
}

func newRequestWaits() *requestWaits {
	return &requestWaits{waiting: map[string]map[chan struct{}]bool{}}
}

// enter returns a channel of capacity 1 that says that the request has changed; the
// caller calls leave.
func (w *requestWaits) enter(id string) (changed chan struct{}, leave func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n >= maxWaiting || len(w.waiting[id]) >= maxWaitingOne {
		return nil, nil, tooMany("too many wait for requests at once: nothing was lost; look again after a pause")
	}
	c := make(chan struct{}, 1)
	if w.waiting[id] == nil {
		w.waiting[id] = map[chan struct{}]bool{}
	}
	w.waiting[id][c] = true
	w.n++
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting[id], c)
		if len(w.waiting[id]) == 0 {
			delete(w.waiting, id)
		}
		w.n--
	}, nil
}

func (w *requestWaits) wake(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.waiting[id] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// wait returns the request when its state or the number of its answers has changed, or
// it is held,
// at once where it has ended, and when the time is over. No lock is held meanwhile.
func (q *approvalRequests) wait(ctx context.Context, id string, most time.Duration) (*requestRecord, error) {
	changed, leave, err := q.waits.enter(id)
	if err != nil {
		return nil, err
	}
	defer leave()
	if deadline, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(deadline)-waitAnswerReserve)
	}
	end := time.NewTimer(max(most, 0))
	defer end.Stop()
	first, err := q.get(ctx, id)
	if err != nil || first.State.ended() {
		return first, err
	}
	for r := first; ; {
		// The next look: soon after the request's own end, and now and then, since
		// another server may have changed it.
		look := q.cfg.Look
		if left := r.Expires.Sub(q.cfg.now()); left < look {
			look = max(left, 10*time.Millisecond)
		}
		timer := time.NewTimer(look)
		over := false
		select {
		case <-changed:
		case <-timer.C:
		case <-end.C:
			over = true
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		timer.Stop()
		if r, err = q.get(ctx, id); err != nil || over || r.State != first.State || r.Reason != first.Reason || len(r.Given) != len(first.Given) {
			return r, err
		}
	}
}
