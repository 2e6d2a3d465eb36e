package pool

import (
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/mpc"
)

const (
	// maxWaiting bounds the jobs that wait: at a few hundred signatures a
	// second they are a few seconds' work, and nobody waits longer than that.
	maxWaiting = 1024
	// maxWaitingPerAccount leaves the line to at least eight accounts.
	maxWaitingPerAccount = 128
	// overtakenFor is how long jobs may pass one that waits for slots at its
	// turn. A refresh needs all n nodes at once; under a stream of signatures,
	// which need t of them, it might never find these free together.
	overtakenFor = 200 * time.Millisecond
)

// scheduler decides who may start a session: it counts the sessions of every
// node up to a limit, and lets jobs wait in turn.
//
// Accounts have turns (start-time fair queueing): the k-th waiting job of an
// account has the turn k after the one being served, whatever the others queue.
// Jobs start in the order of turns, then of arrival, but one that does not find
// its nodes free is passed by those behind it (first fit) until it has been
// passed for overtakenFor; from then on a slot of every node that it could use
// is kept for it.
//
// Lock order: scheduler.mu, then Pool.mu, then poolNode.mu, since a wish may
// ask whether nodes can work together. Nothing is called over the network
// under these locks, and nobody who holds one of the latter two calls the
// scheduler.
type scheduler struct {
	// total and perAccount bound the waiting jobs of each class.
	total, perAccount int
	now               func() time.Time

	mu      sync.Mutex
	limit   int            // slots of each node
	running map[string]int // sessions, by node ID
	// Background jobs are started only when no job in front waits for slots.
	front, background line
	arrivals          uint64
}

// line is one class of waiting jobs.
type line struct {
	waiting []*ticket // in the order of turns, then of arrival
	turn    uint64    // the last one served
	// accounts holds how many wait, and the last turn given out, of every
	// account that has a job waiting.
	accounts map[mpc.AccountID]*accountLine
}

type accountLine struct {
	waiting int
	turn    uint64
}

// wish says which slots a job could use, by what is known of the nodes now.
type wish struct {
	nodes []string // the IDs of those it could use
	count int      // how many it needs at once
	// place chooses nodes that are free, or returns nil; what it returns is
	// granted. It runs under the scheduler's lock.
	place func(free func(nodeID string) bool) []assignment
}

// ticket is one job's place in the line. Its fields belong to the scheduler;
// granted and then chosen may be read once started is closed.
type ticket struct {
	s          *scheduler
	account    mpc.AccountID
	background bool
	turn       uint64
	arrival    uint64
	wish       *wish // nil while no choice of nodes would be possible
	passed     time.Time
	started    chan struct{}
	chosen     []assignment
	left       bool
}

func newScheduler(limit, total, perAccount int) *scheduler {
	s := &scheduler{total: total, perAccount: perAccount, now: time.Now, running: map[string]int{}, limit: limit}
	s.front.accounts = map[mpc.AccountID]*accountLine{}
	s.background.accounts = map[mpc.AccountID]*accountLine{}
	return s
}

// setLimit changes how many sessions a node runs at once. Those that run now
// go on.
func (s *scheduler) setLimit(limit int) {
	if limit <= 0 {
		limit = DefaultSessionsPerNode
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = limit
	s.serve()
}

// sessions returns how many sessions hold a slot of the node.
func (s *scheduler) sessions(nodeID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[nodeID]
}

// join takes a place in the line of the account, with w (nil: nodes are
// missing) as the first wish. Where the job cannot start at once and too many
// wait already it returns a *BusyError. Else the caller must call leave.
func (s *scheduler) join(account mpc.AccountID, background bool, w *wish) (*ticket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.line(background)
	a := l.accounts[account]
	if a == nil {
		a = &accountLine{}
		l.accounts[account] = a
	}
	s.arrivals++
	t := &ticket{s: s, account: account, background: background, arrival: s.arrivals, wish: w, started: make(chan struct{})}
	t.turn = max(l.turn, a.turn) + 1
	a.turn = t.turn
	a.waiting++
	at, _ := slices.BinarySearchFunc(l.waiting, t, byTurn)
	l.waiting = slices.Insert(l.waiting, at, t)
	s.serve()
	if t.chosen != nil {
		return t, nil
	}
	busy := &BusyError{Waiting: len(l.waiting) - 1}
	if a.waiting > s.perAccount {
		busy = &BusyError{Waiting: a.waiting - 1, PerAccount: account != mpc.AccountID{}}
	} else if len(l.waiting) <= s.total {
		return t, nil
	}
	l.remove(t)
	t.left = true
	s.serve() // it may have kept slots from others
	return nil, busy
}

func byTurn(a, b *ticket) int {
	switch {
	case a.turn != b.turn && a.turn < b.turn, a.turn == b.turn && a.arrival < b.arrival:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// update tells the scheduler what the job could use now.
func (t *ticket) update(w *wish) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.chosen != nil || t.left {
		return
	}
	if t.wish = w; w == nil {
		t.passed = time.Time{} // it waits for nodes now, not for slots
	}
	t.s.serve()
}

// leave ends the waiting, or gives back the slots of a job that had started.
// Calls after the first do nothing.
func (t *ticket) leave() {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.left {
		return
	}
	t.left = true
	if t.chosen == nil {
		s.line(t.background).remove(t)
	}
	for _, a := range t.chosen {
		if s.running[a.node.id]--; s.running[a.node.id] == 0 {
			delete(s.running, a.node.id)
		}
	}
	s.serve()
}

// waiting returns how many jobs of t's class wait.
func (t *ticket) waiting() int {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return len(t.s.line(t.background).waiting)
}

func (s *scheduler) line(background bool) *line {
	if background {
		return &s.background
	}
	return &s.front
}

// serve starts every job that may start. The caller holds s.mu.
func (s *scheduler) serve() {
	kept := map[string]int{} // slots kept for jobs that were passed for long
	s.serveLine(&s.front, s.limit, kept)
	if !slices.ContainsFunc(s.front.waiting, func(t *ticket) bool { return t.wish != nil }) {
		// Half of the slots, but one at least: with a single slot per node
		// background work is done between requests or never.
		s.serveLine(&s.background, max(s.limit/2, 1), kept)
	}
}

func (s *scheduler) serveLine(l *line, limit int, kept map[string]int) {
	free := func(id string) bool { return s.running[id]+kept[id] < limit }
	for k := 0; k < len(l.waiting); {
		t := l.waiting[k]
		if t.wish == nil {
			k++
			continue
		}
		if s.fits(t.wish, free) {
			if chosen := t.wish.place(free); chosen != nil {
				for _, a := range chosen {
					s.running[a.node.id]++
				}
				l.remove(t)
				l.turn = max(l.turn, t.turn)
				t.chosen = chosen
				close(t.started)
				continue // the next one has moved to k
			}
		}
		switch now := s.now(); {
		case t.passed.IsZero():
			t.passed = now
		case now.Sub(t.passed) >= overtakenFor:
			for _, id := range t.wish.nodes {
				kept[id]++
			}
		}
		k++
	}
}

// fits is a quick check that spares most calls of place.
func (s *scheduler) fits(w *wish, free func(string) bool) bool {
	n := 0
	for _, id := range w.nodes {
		if free(id) {
			if n++; n >= w.count {
				return true
			}
		}
	}
	return false
}

// remove takes a job that has started or given up out of the line. The turns of
// its account's other jobs stay; the next turn given out follows the last of
// them, so that giving up costs an account nothing.
func (l *line) remove(t *ticket) {
	l.waiting = slices.DeleteFunc(l.waiting, func(other *ticket) bool { return other == t })
	a := l.accounts[t.account]
	if a.waiting--; a.waiting == 0 {
		delete(l.accounts, t.account)
		return
	}
	a.turn = 0
	for _, other := range l.waiting {
		if other.account == t.account {
			a.turn = other.turn // ascending: the last one counts
		}
	}
}
