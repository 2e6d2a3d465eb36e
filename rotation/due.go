// Package rotation decides when an account's shares are refreshed and sees to
// it that they are: Due and Next are pure, the Runner owns the one goroutine
// that watches the clock.
//
// Border: it knows accounts by an opaque key, refreshes nothing itself and
// stores nothing. Its user lends it a Store (what there is) and a Refresher
// (one refresh). Everything it keeps in memory can be built again from the
// Store, so a restart loses no more than back-off and error texts.
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
}

// Policy is what holds for every account of a mount.
type Policy struct {
	// Period is the longest time between two refreshes of an account without
	// a period of its own. It must be positive.
	Period time.Duration
	// Jitter, 0…0.5, is the largest part of a period by which a refresh is
	// brought forward, so that accounts created together spread out. A
	// refresh is never put off by it: the period is a promise.
	Jitter float64
}

// maxJitter bounds Policy.Jitter.
const maxJitter = 0.5

// Next returns when the account is to be refreshed. It depends on its
// arguments only: the jitter is drawn from the key and the last refresh.
func Next(r Record, p Policy) time.Time {
	period := r.Period
	if period <= 0 {
		period = p.Period
	}
	jitter := min(max(p.Jitter, 0), maxJitter)
	early := time.Duration(float64(period) * jitter * fraction(r))
	return r.LastRefresh.Add(period - early)
}

// Due reports whether the account is to be refreshed at the time now.
func Due(r Record, p Policy, now time.Time) bool { return !now.Before(Next(r, p)) }

// fraction returns a number in [0, 1) that is spread evenly over accounts and
// over the refreshes of one account.
func fraction(r Record) float64 {
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(r.LastRefresh.UnixNano()))
	sum := sha256.Sum256(append([]byte(r.Key), at[:]...))
	return float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
}
