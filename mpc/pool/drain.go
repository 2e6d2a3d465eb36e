package pool

import (
	"context"
	"time"
)

const (
	// drainTimeout is how long a node that leaves may finish its sessions: the
	// time that ECDSA signatures are given by default.
	drainTimeout = 30 * time.Second
	drainPoll    = 10 * time.Millisecond
)

// drain waits until a node that is marked as draining, and so gets no new
// sessions, has none any more, drainTimeout has passed, or ctx ends.
//
// A session that got its slots before the node was marked is counted by the
// scheduler from then on, and one that gets them later finds the node not
// ready; so none is cut off by stopping the node afterwards.
func (n *poolNode) drain(ctx context.Context) {
	late := time.NewTimer(n.pool.drainTimeout)
	defer late.Stop()
	t := time.NewTicker(drainPoll)
	defer t.Stop()
	for n.client() != nil && n.pool.sched.sessions(n.id) > 0 {
		select {
		case <-t.C:
		case <-n.done:
			return
		case <-ctx.Done():
			return
		case <-late.C:
			n.pool.cfg.Logger.Warn("a node that leaves is stopped before its sessions have ended", "node", n.id)
			return
		}
	}
}

// mark adds a reason for which the node drains, or takes one away: two changes
// of the PIN in a row may drain the same node.
func (n *poolNode) mark(draining bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if draining {
		n.drains++
	} else {
		n.drains--
	}
	n.draining, n.since = n.drains > 0, time.Now()
}

// setRegion gives a running node another label.
func (n *poolNode) setRegion(region string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.region = region
}

// leaveLocked takes a node out of the pool. It stays visible in Nodes while it
// finishes its sessions. The caller holds p.mu.
func (p *Pool) leaveLocked(n *poolNode) {
	delete(p.nodes, n.id)
	p.leaving[n.id] = n
	n.mark(true)
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		n.drain(p.ctx)
		n.cancel()
		<-n.done
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.leaving[n.id] == n {
			delete(p.leaving, n.id)
		}
		p.notifyLocked()
	}()
}

// drainForRenewal drains a node that is about to be replaced by another of the
// same name. If that does not happen, resume must be called.
func (p *Pool) drainForRenewal(id string) (resume func()) {
	n := p.node(id)
	if n == nil {
		return func() {}
	}
	n.mark(true)
	p.notify()
	n.drain(p.ctx)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.nodes[id] != n {
			return // it leaves, or has been replaced
		}
		n.mark(false)
		p.notifyLocked()
	}
}
