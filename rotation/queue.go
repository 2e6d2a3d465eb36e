package rotation

import "time"

// item is one account in the runner's memory. Fields are guarded by Runner.mu.
type item struct {
	record  Record
	refresh task
	rewrap  task
	running bool
	// opened says that the account was opened since the refresh under way
	// began.
	opened  bool
	catchUp bool // the next refresh counts for the catch-up under way
	pos     int  // index in the queue, -1 while running
}

// task is one of the two things that are done with an account.
type task struct {
	at       time.Time // next attempt: when it is due, or later while backing off
	wanted   bool      // a refresh by the clock mostly is, a rewrap sometimes
	failures int       // in a row
	lastErr  error     // of the last attempt, nil after a success
}

// at is when something is to be done with the account.
func (it *item) at() time.Time {
	if it.rewrap.wanted && it.rewrap.at.Before(it.refresh.at) {
		return it.rewrap.at
	}
	return it.refresh.at
}

// plan brings the times of the tasks up to the record. A task in back-off
// keeps its time.
func (it *item) plan(p Policy, w Wrapping) {
	it.refresh.wanted = !it.record.ByOwner
	if it.record.ByOwner || it.refresh.failures == 0 && !it.catchUp {
		it.refresh.at = attempt(it.record, p)
	}
	at, wanted := NextRewrap(it.record, p, w)
	if it.rewrap.wanted = wanted; !wanted {
		it.rewrap = task{}
	} else if it.rewrap.failures == 0 {
		it.rewrap.at = at
	}
}

// queue is a heap (container/heap) of the items that are not running, by time.
type queue []*item

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at().Before(q[j].at()) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].pos, q[j].pos = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	it := x.(*item)
	it.pos = len(*q)
	*q = append(*q, it)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	it.pos = -1
	return it
}
