package rotation

import (
	"container/heap"
	"context"
	"errors"
	"math"
	"time"

	"golang.org/x/time/rate"
)

// newLimiter lets through what a policy allows: its rate, and after a pause at
// once what a second would have brought.
func newLimiter(p Policy) *rate.Limiter {
	if p.Rate <= 0 {
		return rate.NewLimiter(rate.Inf, 1)
	}
	return rate.NewLimiter(rate.Limit(p.Rate), max(1, int(math.Ceil(p.Rate))))
}

// dispatch starts what is due, oldest first, up to the limits. It returns how
// long the rate makes the next one wait, 0 for none.
func (r *Runner) dispatch(ctx context.Context) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.now()
	for r.running < r.limit() && len(r.queue) > 0 && !now.Before(r.queue[0].at()) {
		if r.catchUp.Remaining == 0 {
			token := r.limiter.ReserveN(now, 1)
			if wait := token.DelayFrom(now); wait > 0 {
				token.CancelAt(now)
				return wait
			}
		}
		it := heap.Pop(&r.queue).(*item)
		it.running = true
		r.running++
		// A refresh that is due as well makes a rewrap needless.
		if now.Before(it.refresh.at) {
			r.work.Go(func() { r.run(ctx, it, false) })
		} else {
			it.opened = false
			r.work.Go(func() { r.run(ctx, it, true) })
		}
	}
	return 0
}

// limit is how many may run at once now; the caller holds r.mu.
func (r *Runner) limit() int {
	n := r.policy.Concurrency
	if n <= 0 {
		n = r.cfg.Concurrency
	}
	if r.catchUp.Remaining > 0 {
		n = max(n, r.cfg.CatchUpConcurrency)
	}
	return n
}

// run refreshes or rewraps an account and puts it back into the queue.
func (r *Runner) run(ctx context.Context, it *item, refresh bool) {
	r.mu.Lock()
	key := it.record.Key
	r.mu.Unlock()
	attempt, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	var rec Record
	var err error
	if refresh {
		rec, err = r.cfg.Refresher.RefreshAccount(attempt, key)
	} else {
		rec, err = r.cfg.Rewrapper.RewrapAccount(attempt, key)
	}
	cancel()
	r.finish(ctx, it, refresh, rec, err)
}

func (r *Runner) finish(ctx context.Context, it *item, refresh bool, rec Record, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running--
	it.running = false
	r.Kick() // a slot is free
	known := r.items[it.record.Key] == it
	switch {
	case err != nil && ctx.Err() != nil:
		return // stopping: nothing is said about the account
	case errors.Is(err, ErrGone):
		if known {
			delete(r.items, it.record.Key)
		}
		r.caughtUp(it)
		return
	case err == nil:
		r.succeeded(it, refresh, rec)
	case known:
		r.failed(it, refresh, err)
	}
	if !known { // removed meanwhile
		return
	}
	if refresh {
		r.caughtUp(it)
	}
	it.plan(r.policy, r.wrapping)
	heap.Push(&r.queue, it)
}

// succeeded takes over what an attempt brought; the caller holds r.mu.
func (r *Runner) succeeded(it *item, refresh bool, rec Record) {
	// Settings may have changed in memory while the attempt ran, and it may
	// have been overtaken by one outside of the runner.
	if rec.LastRefresh.After(it.record.LastRefresh) {
		it.record.LastRefresh = rec.LastRefresh
		it.record.Opened = it.opened
	}
	it.record.Sealed, it.record.Unsettled = rec.Sealed, rec.Unsettled
	if refresh {
		r.counts.refreshed++
		it.refresh = task{}
	} else {
		r.counts.rewrapped++
	}
	it.rewrap = task{}
}

// failed makes an account wait; the caller holds r.mu.
func (r *Runner) failed(it *item, refresh bool, err error) {
	t, what := &it.refresh, "refresh failed, the present shares stay in use"
	if !refresh {
		t, what = &it.rewrap, "rewrap failed, the shares stay under their old wrapping key"
	}
	now := r.cfg.now()
	t.failures++
	t.lastErr = err
	t.at = now.Add(r.backoff(t.failures))
	f := &Failure{Key: it.record.Key, Time: now, Error: err.Error()}
	if refresh {
		r.counts.failed++
		r.counts.lastError = f
	} else {
		r.counts.rewrapFailed++
		r.counts.rewrapError = f
	}
	r.cfg.Logger.Warn(what, "account", it.record.Key, "failures", t.failures,
		"next_attempt", t.at.UTC().Format(time.RFC3339), "error", err)
}

// backoff returns the wait after so many failures in a row.
func (r *Runner) backoff(failures int) time.Duration {
	d := r.cfg.BackoffMin
	for i := 1; i < failures && d < r.cfg.BackoffMax; i++ {
		d *= 2
	}
	d = min(d, r.cfg.BackoffMax)
	return d + time.Duration(float64(d)/4*r.cfg.random())
}
