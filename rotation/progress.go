package rotation

import (
	"container/heap"
	"time"
)

// Status is what is known about the rotation of one account.
type Status struct {
	// Next is the time of the next attempt at a refresh; of an account that its
	// owner refreshes, when the owner is due to.
	Next time.Time
	// LastError is empty after a successful refresh.
	LastError string
	// Failures counts failed refreshes in a row.
	Failures int
	// Running says that a refresh or rewrap is on its way.
	Running bool
	// Idle says that the account was not opened since its last refresh.
	Idle bool
	// NextRewrap is the time of the next attempt at a rewrap; the zero time
	// where none is wanted.
	NextRewrap time.Time
	// LastRewrapError is empty where the last rewrap succeeded or none is
	// wanted.
	LastRewrapError string
}

// Failure is an attempt that failed.
type Failure struct {
	Key   string
	Time  time.Time
	Error string
}

// Progress is what is known about the rotation of all accounts. Counts are
// those since the runner was made.
type Progress struct {
	// Loaded is false until the schedule has been read.
	Loaded bool
	// Accounts is how many there are, Due how many are to be refreshed now and
	// are not, Running how many are being refreshed or rewrapped, Waiting how
	// many wait after a failed refresh.
	Accounts, Due, Running, Waiting int
	// Overdue is how many have shares that are older than their period, Failing
	// how many failed at their last refresh or rewrap; also while they are tried
	// again.
	Overdue, Failing int
	// ByOwner is how many their owners refresh. They are among Accounts and, for a
	// failed rewrap, Failing.
	ByOwner           int
	Refreshed, Failed uint64
	LastError         *Failure
	// Oldest is when the oldest shares were made, but those that owners refresh;
	// the zero time without accounts.
	Oldest  time.Time
	Rewrap  RewrapProgress
	CatchUp CatchUp
	// Demand is how many refreshes per second the periods of all accounts come
	// to, without jitter.
	Demand float64
}

// RewrapProgress says how many accounts have arrived at a wrapping-key version.
type RewrapProgress struct {
	Version     uint32
	Done, Total int
	// Rewrapped and Failed count rewraps; most accounts arrive by a refresh.
	Rewrapped, Failed uint64
	LastError         *Failure
}

// CatchUp is the state of a catch-up. The zero value stands for none so far.
type CatchUp struct {
	// Remaining is how many refreshes are still to be tried.
	Remaining         int
	Started, Finished time.Time
}

// counts are guarded by Runner.mu.
type counts struct {
	refreshed, failed, rewrapped, rewrapFailed uint64
	lastError, rewrapError                     *Failure
}

// Status returns false for an account that the runner does not know.
func (r *Runner) Status(key string) (Status, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	it := r.items[key]
	if it == nil {
		return Status{}, false
	}
	s := Status{Next: it.refresh.at, Failures: it.refresh.failures, Running: it.running, Idle: !it.record.Opened}
	if it.record.ByOwner {
		s.Next = Next(it.record, r.policy)
	}
	if it.refresh.lastErr != nil {
		s.LastError = it.refresh.lastErr.Error()
	}
	if it.rewrap.wanted {
		s.NextRewrap = it.rewrap.at
	}
	if it.rewrap.lastErr != nil {
		s.LastRewrapError = it.rewrap.lastErr.Error()
	}
	return s, true
}

// Progress looks at every account.
func (r *Runner) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.now()
	p := Progress{
		Loaded: r.loaded, Accounts: len(r.items), Running: r.running, CatchUp: r.catchUp,
		Refreshed: r.counts.refreshed, Failed: r.counts.failed, LastError: r.counts.lastError,
		Rewrap: RewrapProgress{Version: r.wrapping.Version, Total: len(r.items),
			Rewrapped: r.counts.rewrapped, Failed: r.counts.rewrapFailed, LastError: r.counts.rewrapError},
	}
	for _, it := range r.items {
		if it.record.ByOwner {
			// Their age is the owners' affair.
		} else if p.Oldest.IsZero() || it.record.LastRefresh.Before(p.Oldest) {
			p.Oldest = it.record.LastRefresh
		}
		if it.record.Sealed >= r.wrapping.Version && !it.record.Unsettled {
			p.Rewrap.Done++
		}
		period := it.record.Period
		if period <= 0 {
			period = r.policy.Period
			if !it.record.Opened {
				period = max(period, r.policy.IdlePeriod)
			}
		}
		if period > 0 && !it.record.ByOwner {
			p.Demand += 1 / period.Seconds()
			if now.Sub(it.record.LastRefresh) > period {
				p.Overdue++
			}
		}
		if it.record.ByOwner {
			p.ByOwner++
		}
		if it.refresh.lastErr != nil && !it.record.ByOwner || it.rewrap.lastErr != nil {
			p.Failing++
		}
		switch {
		case it.running:
		case it.refresh.failures > 0 && now.Before(it.refresh.at):
			p.Waiting++
		case !now.Before(it.refresh.at):
			p.Due++
		}
	}
	return p
}

// CatchUp has every account that is due refreshed as fast as nodes can, those
// in back-off included, or all accounts. It returns at once; Progress shows how
// far it is. A second call joins one that is under way.
func (r *Runner) CatchUp(all bool) CatchUp {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.now()
	if r.catchUp.Remaining == 0 {
		r.catchUp = CatchUp{Started: now}
	}
	for _, it := range r.items {
		if it.record.ByOwner || it.catchUp || !all && now.Before(Next(it.record, r.policy)) {
			continue
		}
		it.catchUp = true
		it.refresh.at = now
		r.catchUp.Remaining++
	}
	if r.catchUp.Remaining == 0 {
		r.catchUp.Finished = now
	}
	heap.Init(&r.queue)
	r.Kick()
	return r.catchUp
}

// caughtUp ends an account's part in a catch-up; the caller holds r.mu.
func (r *Runner) caughtUp(it *item) {
	if !it.catchUp {
		return
	}
	it.catchUp = false
	if r.catchUp.Remaining--; r.catchUp.Remaining == 0 {
		r.catchUp.Finished = r.cfg.now()
	}
}
