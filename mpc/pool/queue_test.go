package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
)

// someNodes are the IDs of n fake nodes.
func someNodes(n int) []string {
	var out []string
	for i := range n {
		out = append(out, LocalNodeID(i+1))
	}
	return out
}

// wants is a wish for any count of the nodes.
func wants(count int, nodes ...string) *wish {
	return &wish{nodes: nodes, count: count, place: func(free func(string) bool) []assignment {
		var out []assignment
		for _, id := range nodes {
			if free(id) && len(out) < count {
				out = append(out, assignment{node: candidate{id: id}})
			}
		}
		if len(out) < count {
			return nil
		}
		return out
	}}
}

func mustJoin(t *testing.T, s *scheduler, account byte, background bool, w *wish) *ticket {
	t.Helper()
	k, err := s.join(mpc.AccountID{account}, background, w)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (t *ticket) hasStarted() bool {
	select {
	case <-t.started:
		return true
	default:
		return false
	}
}

// TestSchedulerFairness: an account with one job does not wait behind all jobs
// of an account with a hundred.
func TestSchedulerFairness(t *testing.T) {
	s := newScheduler(1, 1024, 128)
	w := wants(2, someNodes(2)...)
	serving := mustJoin(t, s, 9, false, w)
	if !serving.hasStarted() {
		t.Fatal("free nodes were not given out")
	}
	var heavy []*ticket
	for range 100 {
		heavy = append(heavy, mustJoin(t, s, 1, false, w))
	}
	light := mustJoin(t, s, 2, false, w)
	for step := range 2 {
		serving.leave()
		switch {
		case step == 0 && heavy[0].hasStarted() && !light.hasStarted():
			serving = heavy[0]
		case step == 1 && light.hasStarted() && !heavy[1].hasStarted():
			serving = light
		default:
			t.Fatalf("step %d: heavy %v %v, light %v", step, heavy[0].hasStarted(), heavy[1].hasStarted(), light.hasStarted())
		}
	}
	// Inside an account the oldest is first.
	for k := 1; k < 100; k++ {
		serving.leave()
		if !heavy[k].hasStarted() || k < 99 && heavy[k+1].hasStarted() {
			t.Fatalf("job %d was not the next", k)
		}
		serving = heavy[k]
	}
	// Giving up costs an account nothing: its next job has the next turn.
	var given []*ticket
	for range 50 {
		given = append(given, mustJoin(t, s, 1, false, w))
	}
	for _, g := range given {
		g.leave()
	}
	rival := mustJoin(t, s, 3, false, w)
	again := mustJoin(t, s, 1, false, w)
	if rival.turn != again.turn {
		t.Errorf("turn %d after giving up, want %d", again.turn, rival.turn)
	}
}

// TestSchedulerKeepsSlots: a job that needs all nodes at once starts although
// small jobs keep coming, and these pass it only for a while.
func TestSchedulerKeepsSlots(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := newScheduler(2, 1024, 128)
	s.now = func() time.Time { return now }
	nodes := someNodes(3)
	var running []*ticket
	account := byte(0)
	start := func() *ticket {
		account++
		at := int(account) % 3 // spread the load
		k := mustJoin(t, s, account, false, wants(2, nodes[at], nodes[(at+1)%3], nodes[(at+2)%3]))
		if k.hasStarted() {
			running = append(running, k)
		}
		return k
	}
	for range 3 {
		if !start().hasStarted() {
			t.Fatal("free nodes were not given out")
		}
	}
	big := mustJoin(t, s, 200, false, wants(3, nodes...))
	if big.hasStarted() {
		t.Fatal("a job started on nodes that are not free")
	}
	passed := 0
	for step := 0; !big.hasStarted(); step++ {
		if step > 100 {
			t.Fatalf("the job that needs all nodes has not started; passed %d times", passed)
		}
		now = now.Add(20 * time.Millisecond)
		// The small jobs end in an order that never leaves all nodes free.
		running[0].leave()
		running = running[1:]
		if !big.hasStarted() {
			before := len(running)
			k := start()
			if len(running) > before {
				passed++
				if now.Sub(time.Unix(1_000_000, 0)) > overtakenFor+20*time.Millisecond {
					t.Fatal("a younger job passed one that has been passed for long")
				}
			} else {
				defer k.leave()
			}
		}
	}
	if passed == 0 {
		t.Error("nobody passed the big job at first: slots were left unused")
	}
	for id, n := range s.running {
		if n > 2 {
			t.Errorf("%s runs %d sessions, over its limit", id, n)
		}
	}
}

// TestSchedulerKeepsOnlyWhatHelps: slots are kept on nodes that the job which
// was passed could use, and on no others; it does not hold up those that were
// before it, and gives up what was kept for it when it leaves.
func TestSchedulerKeepsOnlyWhatHelps(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := newScheduler(1, 1024, 128)
	s.now = func() time.Time { return now }
	hold := mustJoin(t, s, 1, false, wants(1, "a"))
	big := mustJoin(t, s, 2, false, wants(2, "a", "b"))
	now = now.Add(time.Second)
	behind := mustJoin(t, s, 3, false, wants(1, "b"))
	elsewhere := mustJoin(t, s, 4, false, wants(1, "c"))
	if behind.hasStarted() || !elsewhere.hasStarted() {
		t.Fatalf("behind %v, elsewhere %v", behind.hasStarted(), elsewhere.hasStarted())
	}
	big.leave()
	if !behind.hasStarted() {
		t.Fatal("the slot kept for a job that gave up stayed kept")
	}
	behind.leave()
	hold.leave()
	elsewhere.leave()
	if len(s.running) != 0 || len(s.front.accounts) != 0 {
		t.Errorf("left over: %v %v", s.running, s.front.accounts)
	}
}

func TestSchedulerBounds(t *testing.T) {
	s := newScheduler(1, 20, 8)
	w := wants(1, "a")
	hold := mustJoin(t, s, 1, false, w)
	var busy *BusyError
	for range 8 {
		mustJoin(t, s, 2, false, w)
	}
	if _, err := s.join(mpc.AccountID{2}, false, w); !errors.As(err, &busy) || !busy.PerAccount || busy.Waiting != 8 {
		t.Fatalf("got %v", err)
	}
	for i := range 12 {
		mustJoin(t, s, byte(10+i), false, w)
	}
	if _, err := s.join(mpc.AccountID{3}, false, w); !errors.As(err, &busy) || busy.PerAccount || busy.Waiting != 20 {
		t.Fatalf("got %v", err)
	}
	// Who finds free nodes does not wait, so it is not refused.
	if k, err := s.join(mpc.AccountID{2}, false, wants(1, "b")); err != nil || !k.hasStarted() {
		t.Fatalf("a job with free nodes: %v", err)
	}
	// Background jobs have a line of their own.
	mustJoin(t, s, 2, true, w).leave()
	hold.leave()
	hold.leave() // does nothing
	if s.running["a"] != 1 || len(s.front.waiting) != 19 {
		t.Fatalf("%d running, %d waiting", s.running["a"], len(s.front.waiting))
	}
}

func TestSchedulerBackground(t *testing.T) {
	s := newScheduler(4, 1024, 128)
	one := wants(1, "a")
	first, second, third := mustJoin(t, s, 1, true, one), mustJoin(t, s, 1, true, one), mustJoin(t, s, 1, true, one)
	if !first.hasStarted() || !second.hasStarted() || third.hasStarted() {
		t.Fatal("background jobs take half of the slots")
	}
	f1, f2 := mustJoin(t, s, 2, false, one), mustJoin(t, s, 2, false, one)
	if !f1.hasStarted() || !f2.hasStarted() {
		t.Fatal("the other half is for requests")
	}
	waits := mustJoin(t, s, 2, false, one)
	missing := mustJoin(t, s, 3, false, nil) // waits for nodes, not for slots
	first.leave()
	if !waits.hasStarted() || third.hasStarted() {
		t.Fatal("a background job went first")
	}
	for _, k := range []*ticket{second, f1, f2} {
		k.leave()
	}
	if !third.hasStarted() {
		t.Fatal("a background job does not start although its half is free")
	}
	elsewhere := mustJoin(t, s, 2, false, wants(2, "a", "gone"))
	idle := mustJoin(t, s, 1, true, wants(1, "b"))
	if !elsewhere.hasStarted() || !idle.hasStarted() {
		t.Fatal("free nodes stay unused")
	}
	missing.update(one)
	if !missing.hasStarted() {
		t.Fatal("a node came back and the job that waited for it did not start")
	}
	s.setLimit(1)
	for _, k := range []*ticket{waits, third, elsewhere, idle, missing} {
		k.leave()
	}
	if k := mustJoin(t, s, 1, true, one); !k.hasStarted() {
		t.Fatal("with one slot per node background work never starts")
	}
}

// TestSchedulerRace: whatever comes and goes at once, no node runs more than
// its limit, everybody who stays is served, and nothing is left over.
func TestSchedulerRace(t *testing.T) {
	const limit = 3
	s := newScheduler(limit, 1024, 128)
	nodes := someNodes(5)
	var mu sync.Mutex
	running := map[string]int{}
	count := func(chosen []assignment, d int) {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range chosen {
			if running[a.node.id] += d; running[a.node.id] > limit {
				t.Errorf("%s runs %d sessions", a.node.id, running[a.node.id])
			}
		}
	}
	var wg sync.WaitGroup
	served, gaveUp := 0, 0
	for g := range 60 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for range 40 {
				pick := slices.Clone(nodes)
				rng.Shuffle(len(pick), func(i, j int) { pick[i], pick[j] = pick[j], pick[i] })
				size := 2 + rng.IntN(4)
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				if rng.IntN(4) == 0 {
					cancel()
					ctx, cancel = context.WithTimeout(context.Background(), time.Duration(rng.IntN(2000))*time.Microsecond)
				}
				k, err := s.join(mpc.AccountID{byte(g % 7)}, g%10 == 0, wants(size, pick[:size]...))
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				select {
				case <-k.started:
					count(k.chosen, 1)
					time.Sleep(time.Duration(rng.IntN(200)) * time.Microsecond)
					count(k.chosen, -1)
					mu.Lock()
					served++
					mu.Unlock()
				case <-ctx.Done():
					mu.Lock()
					gaveUp++
					mu.Unlock()
				}
				k.leave()
				cancel()
			}
		}()
	}
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) != 0 || len(s.front.waiting)+len(s.background.waiting) != 0 || len(s.front.accounts)+len(s.background.accounts) != 0 {
		t.Errorf("left over: %v, %d waiting", s.running, len(s.front.waiting))
	}
	if served < 1500 {
		t.Errorf("%d served, %d gave up", served, gaveUp)
	}
}

// BenchmarkScheduler shows what a job pays for its turn while many wait.
func BenchmarkScheduler(b *testing.B) {
	for _, waiting := range []int{0, 100, 1000} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			s := newScheduler(16, 2048, 2048)
			nodes := someNodes(5)
			for range 16 {
				_, _ = s.join(mpc.AccountID{1}, false, wants(2, "x", "y"))
			}
			for i := range waiting {
				_, _ = s.join(mpc.AccountID{byte(i)}, false, wants(2, "x", "y"))
			}
			for b.Loop() {
				k, err := s.join(mpc.AccountID{1}, false, wants(2, nodes...))
				if err != nil || !k.hasStarted() {
					b.Fatal(err)
				}
				k.leave()
			}
		})
	}
}
