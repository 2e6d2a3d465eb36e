package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// queueLength is how many messages may wait for one node in one session; a
// session never has that many, so a full queue means a broken peer.
const queueLength = 512

// participant is one node's part in a session.
type participant struct {
	assignment
	client nodepb.NodeClient
	start  *nodepb.Start
}

// ending is how a session ended for the coordinator.
type ending struct {
	outcomes map[mpc.Index]*nodepb.Outcome
	// err is nil when enough outcomes came in.
	err error
	// failure is the first failure a node reported, with its reporter.
	failure  *nodepb.Failure
	reporter mpc.Index
	// suspects are the shares among whose nodes one at least is at fault, as
	// far as that is known; likely is the one of them that it may well be, or 0.
	suspects []mpc.Index
	likely   mpc.Index
}

// event is something one stream produced.
type event struct {
	from mpc.Index
	out  *nodepb.SessionOut
	err  error
}

// link is the coordinator's end of one node's stream.
type link struct {
	participant
	stream nodepb.Node_SessionClient
	queue  chan *nodepb.SessionIn
	heard  time.Time              // of the last message from the node
	sent   [mpc.MaxShares + 1]int // messages to each other share
	hello  *nodepb.Hello
}

// runSession routes one session until need outcomes that accept approves have
// come in, a node fails, or ctx ends. It returns after all its goroutines have
// ended.
func runSession(ctx context.Context, parts []participant, need int, accept func(*nodepb.Outcome) error) ending {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	events := make(chan event)
	emit := func(e event) {
		select {
		case events <- e:
		case <-ctx.Done():
		}
	}
	r := &router{links: map[mpc.Index]*link{}, need: need, accept: accept, result: ending{outcomes: map[mpc.Index]*nodepb.Outcome{}}}
	for _, p := range parts {
		stream, err := p.client.Session(ctx)
		if err != nil {
			r.result.err = fmt.Errorf("%s: %w", p.node.id, err)
			r.result.suspects, r.result.likely = []mpc.Index{p.index}, p.index
			return r.result
		}
		l := &link{participant: p, stream: stream, queue: make(chan *nodepb.SessionIn, queueLength), heard: time.Now()}
		r.links[p.index] = l
		l.queue <- &nodepb.SessionIn{Kind: &nodepb.SessionIn_Start{Start: p.start}}
		wg.Add(2)
		go func() {
			defer wg.Done()
			for {
				select {
				case m := <-l.queue:
					if err := l.stream.Send(m); err != nil {
						return // Recv reports why
					}
				case <-ctx.Done():
					return
				}
			}
		}()
		go func() {
			defer wg.Done()
			for {
				out, err := l.stream.Recv()
				emit(event{l.index, out, err})
				if err != nil {
					return
				}
			}
		}()
	}
	for {
		select {
		case e := <-events:
			if e.err != nil && ctx.Err() != nil {
				continue // the stream ended because time ran out
			}
			if r.handle(e) {
				return r.result
			}
		case <-ctx.Done():
			r.result.err = ctx.Err()
			r.silent()
			return r.result
		}
	}
}

// router is the state of one session in the coordinator. One goroutine uses it.
type router struct {
	links  map[mpc.Index]*link
	hellos int
	need   int
	accept func(*nodepb.Outcome) error
	result ending
}

// handle processes one event and reports whether the session is over.
func (r *router) handle(e event) bool {
	l := r.links[e.from]
	if e.err != nil {
		if r.result.outcomes[e.from] != nil {
			return false // its stream ended after its outcome
		}
		r.result.err = fmt.Errorf("%s broke off: %w", l.node.id, e.err)
		r.result.suspects, r.result.likely = []mpc.Index{e.from}, e.from
		return true
	}
	l.heard = time.Now()
	switch {
	case e.out.GetHello() != nil:
		return r.greet(l, e.out.GetHello())
	case e.out.GetFailure() != nil:
		return r.fail(l, e.out.GetFailure())
	case r.hellos < len(r.links):
		return r.misbehaves(l, errors.New("a message before the session was open"))
	case e.out.GetMessage() != nil:
		return r.forward(l, e.out.GetMessage())
	case e.out.GetOutcome() != nil:
		if err := r.accept(e.out.GetOutcome()); err != nil {
			return r.misbehaves(l, err)
		}
		r.result.outcomes[e.from] = e.out.GetOutcome()
		return len(r.result.outcomes) >= r.need
	}
	return r.misbehaves(l, errors.New("an empty message"))
}

// fail ends the session with a node's failure and notes whom to avoid. What a
// node says of others is only its word: blame is not signed by those who sent
// the bad message, so either the blamed or the reporter is bad, and nobody is
// put out of the pool for it. A node that is busy, or misses something that it
// can be given, has not failed; nor has one without the presignature it was
// asked for, nor one whose own host keeps it from taking part, nor one that misses
// approvals. What a refusal and
// a share that does not open mean is for the job to say, which knows whether others
// agree.
func (r *router) fail(l *link, f *nodepb.Failure) bool {
	r.result.failure, r.result.reporter = f, l.index
	r.result.err = fmt.Errorf("%s: %s", l.node.id, failureText(f))
	switch f.GetReason() {
	case nodepb.Failure_REFUSED, nodepb.Failure_SHARE_UNUSABLE, nodepb.Failure_BUSY,
		nodepb.Failure_AUX_PENDING, nodepb.Failure_UNPINNED, nodepb.Failure_PRESIGNATURE_GONE,
		nodepb.Failure_BELOW_FLOOR, nodepb.Failure_SWITCHED_OFF, nodepb.Failure_DRAINING,
		nodepb.Failure_APPROVALS:
		return true
	}
	r.result.suspects, r.result.likely = []mpc.Index{l.index}, l.index
	if isHSM(failureKind(f)) {
		return true
	}
	for i := range r.links {
		if i != l.index && slices.Contains(f.GetCulprits(), uint32(i)) {
			r.result.suspects = append(r.result.suspects, i)
		}
	}
	// An honest node blames the one whose message was bad. One that blames
	// several is the more likely liar.
	if len(r.result.suspects) == 2 {
		r.result.likely = r.result.suspects[1]
	}
	return true
}

// greet collects hellos and hands all of them to all nodes when complete. A
// node sees them before any message of another, since queues keep their order.
func (r *router) greet(l *link, h *nodepb.Hello) bool {
	if l.hello != nil || h.GetIndex() != uint32(l.index) {
		return r.misbehaves(l, errors.New("a second hello"))
	}
	l.hello = h
	if r.hellos++; r.hellos < len(r.links) {
		return false
	}
	all := &nodepb.Hellos{}
	for _, other := range r.links {
		all.Hellos = append(all.Hellos, other.hello)
	}
	for _, other := range r.links {
		if r.enqueue(other, &nodepb.SessionIn{Kind: &nodepb.SessionIn_Hellos{Hellos: all}}) {
			return true
		}
	}
	return false
}

func (r *router) forward(l *link, m *nodepb.Sealed) bool {
	to := r.links[mpc.Index(m.GetTo())]
	if m.GetFrom() != uint32(l.index) || m.GetTo() > mpc.MaxShares || to == nil || to == l {
		return r.misbehaves(l, fmt.Errorf("a message from share %d to share %d", m.GetFrom(), m.GetTo()))
	}
	l.sent[to.index]++
	if r.enqueue(to, &nodepb.SessionIn{Kind: &nodepb.SessionIn_Message{Message: m}}) {
		// It does not read, or the sender floods it.
		r.result.suspects = append(r.result.suspects, l.index)
		return true
	}
	return false
}

func (r *router) enqueue(l *link, m *nodepb.SessionIn) bool {
	select {
	case l.queue <- m:
		return false
	default:
		return r.misbehaves(l, errors.New("too many messages waiting for it"))
	}
}

func (r *router) misbehaves(l *link, err error) bool {
	r.result.err = fmt.Errorf("%s: %w", l.node.id, err)
	r.result.suspects, r.result.likely = []mpc.Index{l.index}, l.index
	return true
}

// silent notes who a session that ran out of time was waiting for: nodes that
// never said hello, or else somebody, since a node can hold its messages back
// and make others wait. In each round a node sends as much to every other, so
// the one that has sent the least to some other is likely the one.
func (r *router) silent() {
	var mute, all []mpc.Index
	var least *link
	progress := func(l *link) int {
		n := math.MaxInt
		for i := range r.links {
			if i != l.index {
				n = min(n, l.sent[i])
			}
		}
		return n
	}
	for i, l := range r.links {
		all = append(all, i)
		if l.hello == nil {
			mute = append(mute, i)
		}
		if least == nil || progress(l) < progress(least) || progress(l) == progress(least) && l.heard.Before(least.heard) {
			least = l
		}
	}
	if r.result.suspects = mute; len(mute) == 0 && least != nil {
		r.result.suspects, r.result.likely = all, least.index
	}
}
