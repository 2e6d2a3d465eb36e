// Package rotation decides when an account's shares are refreshed or sealed
// anew, and sees to it that they are: Due, Next and NextRewrap are pure, the
// Runner owns the one goroutine that watches the clock.
//
// Border: it knows accounts by an opaque key, refreshes nothing itself and
// stores nothing. Its user lends it a Store (what there is), a Refresher (one
// refresh) and a Rewrapper (one rewrap). Everything it keeps in memory can be
// built again from the Store, so a restart loses no more than back-off, counts,
// error texts and which accounts were idle.
package rotation

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// Record is the schedule state of one account.
type Record struct {
	// Key addresses the account; the Refresher gets it back.
	Key string
	// LastRefresh is when the account got its present shares.
	LastRefresh time.Time
	// Period is the account's own refresh period; 0 means the policy's.
	Period time.Duration
	// Opened says that nodes have opened the shares for somebody since
	// LastRefresh, or that this is not known.
	Opened bool
	// Sealed is the oldest wrapping-key version that a present share needs.
	Sealed uint32
	// Unsettled says that a rewrap was stored and not finished.
	Unsettled bool
	// ByOwner says that the account is refreshed by its owner and by nobody else:
	// the clock only rewraps it, and it is never due, overdue or caught up with.
	ByOwner bool
}

// Policy is what holds for every account of a mount.
type Policy struct {
	// Period is the longest time between two refreshes of an account without
	// a period of its own. It must be positive.
	Period time.Duration
	// IdlePeriod takes the place of Period while an account was not opened
	// since its last refresh; 0 means Period.
	IdlePeriod time.Duration
	// Jitter, 0…0.5, is the largest part of a period by which a refresh is
	// brought forward, so that accounts created together spread out. A
	// refresh is never put off by it: the period is a promise.
	Jitter float64
	// Rate bounds how many refreshes and rewraps are begun per second, 0: not
	// at all. Concurrency is how many may run at once; 0 means the Config's.
	Rate        float64
	Concurrency int
}

// Wrapping is the wrapping-key version that every account is to arrive at.
type Wrapping struct {
	// Version is the newest; 0: nothing is to be rewrapped.
	Version uint32
	// Since is when it became the newest.
	Since time.Time
	// Window is the time after Since in which every account is to be there. An
	// account whose refresh falls into it needs nothing else, since a refresh
	// seals to the newest version; the others are rewrapped, spread over it.
	Window time.Duration
}

// maxJitter bounds Policy.Jitter.
const maxJitter = 0.5

// never is later than any time that a runner meets.
func never() time.Time { return time.Unix(1<<40, 0) }

// Next returns when the account is to be refreshed. It depends on its
// arguments only: the jitter is drawn from the key and the last refresh. For an
// account that its owner refreshes it is when the owner is due to.
func Next(r Record, p Policy) time.Time {
	period := r.Period
	switch {
	case period > 0:
	case !r.Opened && p.IdlePeriod > p.Period:
		period = p.IdlePeriod
	default:
		period = p.Period
	}
	jitter := min(max(p.Jitter, 0), maxJitter)
	early := time.Duration(float64(period) * jitter * fraction(r))
	return r.LastRefresh.Add(period - early)
}

// NextRewrap returns when the account's shares are to be sealed anew, false
// when they need not be. An unsettled account is due at once: the zero time.
func NextRewrap(r Record, p Policy, w Wrapping) (time.Time, bool) {
	if r.Unsettled {
		return time.Time{}, true
	}
	if r.Sealed >= w.Version || !r.ByOwner && !Next(r, p).After(w.Since.Add(w.Window)) {
		return time.Time{}, false
	}
	return w.Since.Add(time.Duration(float64(w.Window) * fraction(r))), true
}

// Due reports whether the account is to be refreshed at the time now.
func Due(r Record, p Policy, now time.Time) bool { return !now.Before(Next(r, p)) }

// attempt is when the runner refreshes the account.
func attempt(r Record, p Policy) time.Time {
	if r.ByOwner {
		return never()
	}
	return Next(r, p)
}

// fraction returns a number in [0, 1) that is spread evenly over accounts and
// over the refreshes of one account.
func fraction(r Record) float64 {
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(r.LastRefresh.UnixNano()))
	sum := sha256.Sum256(append([]byte(r.Key), at[:]...))
	return float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
}
