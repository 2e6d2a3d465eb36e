package pool

import (
	"context"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/secret"
)

// running is a job in the background of a test.
type running struct {
	chosen []assignment
	err    error
	done   chan struct{}
}

// startHeld starts a job whose session stays open until the host lets go, and
// waits until all slots are taken.
func startHeld(t *testing.T, p *Pool, h *fakeHost, threshold, shares int) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	before := len(h.sessions())
	r := &running{done: make(chan struct{})}
	j := newFakeJob(p, threshold, shares)
	go func() {
		defer close(r.done)
		r.chosen, _, r.err = j.run(ctx)
	}()
	eventually(t, "a session", func() bool { return len(h.sessions()) > before })
	return r
}

func stateOf(p *Pool, id string) NodeState {
	for _, n := range p.Nodes() {
		if n.ID == id {
			return n.State
		}
	}
	return ""
}

// TestDrainOnRemoval: a node that is removed finishes its sessions, takes no new
// ones, and then ends; a node of that name that comes back waits for its end.
func TestDrainOnRemoval(t *testing.T) {
	p, h, s := fakePool(t, 5)
	h.hold = make(chan struct{})
	held := startHeld(t, p, h, 5, 5)
	s.Local = 3
	if err := p.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	if a, b := stateOf(p, "local-4"), stateOf(p, "local-5"); a != NodeDraining || b != NodeDraining {
		t.Fatalf("removed nodes with a session are %q and %q", a, b)
	}
	if n := len(p.Nodes()); n != 5 {
		t.Fatalf("%d nodes are shown", n)
	}
	if nodes, configured, _, _ := p.ready(); len(nodes) != 3 || configured != 3 {
		t.Fatalf("%d of %d nodes take new sessions", len(nodes), configured)
	}
	// local-5 is wanted again: shown as starting until the old one has ended.
	s.Local = 5
	if err := p.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if a, n := stateOf(p, "local-5"), h.started("local-5"); a != NodeStarting || n != 1 {
		t.Fatalf("the new node is %q while the old one drains; %d starts", a, n)
	}
	close(h.hold)
	<-held.done
	if held.err != nil || len(h.sessions()) != 1 {
		t.Fatalf("the session of a draining node was cut off: %v; %v", held.err, h.sessions())
	}
	eventually(t, "five nodes again", func() bool { nodes, _, _, _ := p.ready(); return len(nodes) == 5 })
	if n := h.started("local-5"); n != 2 || len(p.Nodes()) != 5 {
		t.Fatalf("%d starts, nodes %+v", n, p.Nodes())
	}
	s.Local = 2
	if err := p.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "idle nodes gone at once", func() bool { return len(p.Nodes()) == 2 })
}

// TestDrainTimeout: a session that does not end keeps a node for a while only.
func TestDrainTimeout(t *testing.T) {
	p, h, s := fakePool(t, 3)
	p.drainTimeout = 50 * time.Millisecond
	h.hold = make(chan struct{})
	defer close(h.hold)
	held := startHeld(t, p, h, 3, 3)
	s.Local = 2
	started := time.Now()
	if err := p.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node gone", func() bool { return len(p.Nodes()) == 2 })
	if took := time.Since(started); took < p.drainTimeout || took > 5*time.Second {
		t.Errorf("the node was given %v", took)
	}
	select {
	case <-held.done:
		t.Errorf("a job with too few nodes ended: %v", held.err)
	default:
	}
}

// TestDrainOnRenewal: with a new PIN every node is renewed after its sessions,
// one after the other, and signing goes on.
func TestDrainOnRenewal(t *testing.T) {
	p, h, s := fakePool(t, 4)
	h.hold = make(chan struct{})
	held := startHeld(t, p, h, 2, 3)
	busy := h.sessions()[0]
	first := slices.Min(busy) // nodes are renewed in the order of their names
	s.Token.PIN = secret.New([]byte("9999"))
	if err := p.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a draining node", func() bool { return stateOf(p, first) == NodeDraining })
	if h.started(first) != 1 {
		t.Fatal("a node was renewed in the middle of a session")
	}
	if nodes, _, _, _ := p.ready(); slices.ContainsFunc(nodes, func(n *poolNode) bool { return n.id == first }) {
		t.Fatalf("%s drains and takes new sessions", first)
	}
	// A job that comes now does not use it.
	next := startHeld(t, p, h, 2, 3)
	if slices.Contains(h.sessions()[1], first) {
		t.Fatalf("%s drains and got a session: %v", first, h.sessions())
	}
	close(h.hold)
	<-held.done
	<-next.done
	if held.err != nil || next.err != nil || len(h.sessions()) != 2 {
		t.Fatalf("%v, %v, sessions %v", held.err, next.err, h.sessions())
	}
	eventually(t, "all nodes renewed", func() bool {
		for i := range 4 {
			if h.started(LocalNodeID(i+1)) != 2 || stateOf(p, LocalNodeID(i+1)) != NodeReady {
				return false
			}
		}
		return true
	})
}

// TestDrainNotNeeded: settings that change back leave no node draining.
func TestDrainNotNeeded(t *testing.T) {
	p, h, s := fakePool(t, 3)
	h.hold = make(chan struct{})
	held := startHeld(t, p, h, 3, 3)
	back := s
	s.Token.PIN = secret.New([]byte("9999"))
	if err := p.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a draining node", func() bool { return stateOf(p, "local-1") == NodeDraining })
	if err := p.Apply(context.Background(), back); err != nil {
		t.Fatal(err)
	}
	close(h.hold)
	<-held.done
	eventually(t, "all nodes ready", func() bool { nodes, _, _, _ := p.ready(); return len(nodes) == 3 })
	if held.err != nil || h.started("local-1") != 1 {
		t.Errorf("%v; %d starts", held.err, h.started("local-1"))
	}
}

// TestCloseDoesNotDrain: closing ends sessions.
func TestCloseDoesNotDrain(t *testing.T) {
	p, h, _ := fakePool(t, 3)
	h.hold = make(chan struct{})
	defer close(h.hold)
	held := startHeld(t, p, h, 3, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-held.done:
	case <-time.After(5 * time.Second):
		t.Fatal("a job goes on in a closed pool")
	}
	if held.err == nil {
		t.Error("a session of a closed pool succeeded")
	}
}

// TestNodesOnce: every node is shown once, whatever happens to it meanwhile.
func TestNodesOnce(t *testing.T) {
	p, h, s := fakePool(t, 5)
	h.hold = make(chan struct{})
	held := startHeld(t, p, h, 5, 5) // what leaves has something to finish
	stop, changed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(changed)
		for local := 3; ; local = 8 - local {
			select {
			case <-stop:
				return
			default:
			}
			s.Local = local
			if err := p.Apply(context.Background(), s); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 20000 {
		seen := map[string]bool{}
		for _, n := range p.Nodes() {
			if seen[n.ID] {
				t.Errorf("%s is shown twice", n.ID)
			}
			seen[n.ID] = true
		}
		if len(seen) != 5 {
			t.Errorf("%d nodes are shown", len(seen))
		}
		if t.Failed() {
			break
		}
	}
	close(stop)
	<-changed
	close(h.hold)
	<-held.done
}
