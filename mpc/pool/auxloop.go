package pool

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	auxRetry = 5 * time.Second
	// auxGrace is far above the time between describing a session and its
	// arrival at the nodes, which hold keys for the sessions they run.
	auxGrace = 2 * time.Second
	// auxRetryMax bounds the pause between tries of one step, which doubles.
	auxRetryMax = time.Minute
	// auxPatience is how often a peer may fail to accept a node's keys before
	// the others go on without it.
	auxPatience = 4
	// auxPostponed is how long a node whose new keys its peers refused waits
	// before it makes others.
	auxPostponed = 10 * time.Minute
)

// auxKind is what an auxTask does.
type auxKind int

const (
	auxFirst   auxKind = iota // n makes keys: it has none
	auxRenew                  // n makes the next generation
	auxAccept                 // n accepts keys of peer
	auxPromote                // n's next keys are stored and come into use
	auxAbandon                // n's next keys are given up
	auxReload                 // n ends: it uses older keys than are stored
	auxRetire                 // n drops older keys than those in use
)

// auxTask is one step towards all nodes having checked each other's auxiliary
// keys. Tasks for another process are other tasks.
type auxTask struct {
	kind                 auxKind
	n, peer              *poolNode
	process, peerProcess uint64
	generation           uint64 // of peer's keys to accept, or of n's to promote
}

// claims names what no two running tasks may change: a node's stored keys; for
// making the next ones, which stay in memory, and for retiring, only the like.
func (t auxTask) claims() string {
	switch t.kind {
	case auxRenew, auxRetire:
		return fmt.Sprintf("%s/%d", t.n.id, t.kind)
	}
	return t.n.id
}

// makes reports whether the task keeps a processor busy for seconds.
func (t auxTask) makes() bool { return t.kind == auxFirst || t.kind == auxRenew }

type auxTry struct {
	fails int
	next  time.Time
}

// auxScheduler is the state of auxiliaryLoop, used by its goroutine only.
type auxScheduler struct {
	pool    *Pool
	running map[string]auxTask // by claim
	tries   map[auxTask]auxTry // those that failed
	// promoted is when keys last came into use somewhere.
	promoted time.Time
}

// auxiliaryLoop makes, checks and renews auxiliary keys in the background. On this
// host as many tasks that make keys run at a time as there are processors, and one
// other task more; nodes do this work at low priority. A node on another host works
// on one task at a time, whatever the others do.
func (p *Pool) auxiliaryLoop() {
	var wg sync.WaitGroup
	defer wg.Wait()
	s := &auxScheduler{pool: p, running: map[string]auxTask{}, tries: map[auxTask]auxTry{}}
	type result struct {
		auxTask
		err error
	}
	results := make(chan result)
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		for {
			task, ok := s.next()
			if !ok {
				break
			}
			s.running[task.claims()] = task
			wg.Add(1)
			go func() {
				defer wg.Done()
				e := p.runAuxTask(task)
				select {
				case results <- result{task, e}:
				case <-p.ctx.Done():
				}
			}()
		}
		select {
		case r := <-results:
			s.finished(r.auxTask, r.err)
			p.notify()
		case <-changed:
		case <-time.After(p.aux.retry):
		case <-p.ctx.Done():
			return
		}
	}
}

func (s *auxScheduler) finished(t auxTask, err error) {
	delete(s.running, t.claims())
	now := time.Now()
	// What nobody has tried for long is a task of a process that has ended.
	maps.DeleteFunc(s.tries, func(_ auxTask, try auxTry) bool { return now.Sub(try.next) > 2*auxRetryMax })
	if err == nil {
		delete(s.tries, t)
		if t.kind == auxPromote {
			s.promoted = now
		}
		return
	}
	if s.pool.ctx.Err() != nil {
		return
	}
	try := s.tries[t]
	pause := min(s.pool.aux.retry<<min(try.fails, 10), auxRetryMax)
	s.tries[t] = auxTry{fails: try.fails + 1, next: now.Add(pause)}
	if t.n.isReady() {
		s.pool.cfg.Logger.Warn("auxiliary keys: a step failed and will be tried again", "node", t.n.id, "error", err)
	}
}

// free reports whether the task may run now.
func (s *auxScheduler) free(t auxTask) bool {
	if _, ok := s.running[t.claims()]; ok || time.Now().Before(s.tries[t].next) {
		return false
	}
	if t.n.remote != nil {
		return !slices.ContainsFunc(slices.Collect(maps.Values(s.running)), func(o auxTask) bool { return o.n == t.n })
	}
	processors := max(runtime.NumCPU(), 1)
	makes, all := 0, 0
	for _, other := range s.running {
		if other.n.remote != nil {
			continue
		}
		all++
		if other.makes() {
			makes++
		}
	}
	if !t.makes() {
		return all <= processors
	}
	return makes < processors
}
