package backend

import (
	"context"
	"errors"
	"time"
)

// requestsTendTimeout bounds one look at all requests. One is begun every minute.
const requestsTendTimeout = 45 * time.Second

// tend looks at all requests in the background, unless that is still being done: it
// ends those whose time is over, has those that are approved done, and deletes those
// that ended long ago.
func (q *approvalRequests) tend() {
	q.mu.Lock()
	busy := q.tending
	q.tending = true
	q.mu.Unlock()
	if busy {
		return
	}
	ended := func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.tending = false
	}
	if !q.cfg.Go(func(ctx context.Context) {
		defer ended()
		ctx, cancel := context.WithTimeout(ctx, requestsTendTimeout)
		defer cancel()
		if err := q.tendAll(ctx); err != nil && ctx.Err() == nil {
			q.cfg.Logger.Warn("not all requests for approval were looked at; it is tried again in a minute", "error", err)
		}
	}) {
		ended()
	}
}

func (q *approvalRequests) tendAll(ctx context.Context) error {
	if err := q.index.load(ctx); err != nil {
		return err
	}
	now := q.cfg.now()
	var failures []error
	facts := q.index.facts()
	kept := 0
	for _, f := range facts {
		if !f.unreadable && f.state.ended() {
			kept++
		}
	}
	for _, f := range facts { // oldest first
		if ctx.Err() != nil {
			return errors.Join(append(failures, ctx.Err())...)
		}
		var err error
		switch {
		case f.unreadable: // it stays to be seen
		case f.state.ended():
			if kept > maxEndedKept || !now.Before(f.ended.Add(requestKept)) {
				kept--
				err = q.remove(ctx, f.id)
			}
		case !now.Before(f.expires), f.state == requestApproved:
			_, err = q.get(ctx, f.id)
			var fault *fault
			if errors.As(err, &fault) { // it is gone
				q.index.doubt(f.id)
				err = nil
			}
		}
		if err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// remove deletes a request that has ended, in its turn: a repetition with its
// request_id opens another one.
func (q *approvalRequests) remove(ctx context.Context, id string) error {
	release, err := q.turns.reserveSoon(ctx, prefixRequests+id, "is being deleted")
	if err != nil {
		return err
	}
	defer release()
	r, err := q.cfg.Store.request(ctx, id)
	if err != nil {
		return err
	}
	if r != nil && !r.State.ended() { // a newer one
		q.index.set(r)
		return nil
	}
	if r != nil {
		if err := q.cfg.Store.deleteRequest(ctx, id); err != nil {
			q.index.doubt(id)
			return err
		}
	}
	q.index.remove(id)
	return nil
}

// invalidate is called when another server changed a request.
func (q *approvalRequests) invalidate(id string) {
	q.index.doubt(id)
	q.waits.wake(id)
}
