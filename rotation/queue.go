package rotation

import "time"

// item is one account in the runner's memory. Fields are guarded by Runner.mu.
type item struct {
	record   Record
	at       time.Time // next attempt: Next, or later while backing off
	failures int       // in a row
	lastErr  error     // of the last attempt, nil after a success
	running  bool
	pos      int // index in the queue, -1 while running
}

// queue is a heap (container/heap) of the items that are not running, by time.
type queue []*item

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }

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
