package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
)

// setHook replaces the world's hook.
func (w *stubWorld) setHook(hook func(string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hook = hook
}

func (f *stubPool) auxOf(id string) AuxStatus {
	for _, s := range f.Nodes() {
		if s.ID == id {
			return s.Aux
		}
	}
	return AuxStatus{}
}

func (f *stubPool) generations() map[string]uint64 {
	out := map[string]uint64{}
	for _, s := range f.Nodes() {
		out[s.ID] = s.Aux.Generation
	}
	return out
}

// signing signs without pause until the returned function is called, which
// reports how often. Every signature must be made soon.
func (f *stubPool) signing(t *testing.T, a mpc.Account) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			limit, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			_, err := f.Sign(limit, signRequest(a, fmt.Sprint(n)))
			cancel()
			if err != nil {
				t.Errorf("signing meanwhile: %v", err)
			}
			time.Sleep(time.Millisecond)
		}
		done <- n
	}()
	return func() int {
		cancel()
		return <-done
	}
}

func TestAuxiliaryRenewed(t *testing.T) {
	f := startStubs(t, 3, nil)
	f.await(t, "auxiliary keys", f.settled)
	before := f.auxOf("local-2")
	if before.Generation != 1 || time.Since(before.Made) > time.Minute || !before.NextDue.IsZero() {
		t.Fatalf("first generation: %+v", before)
	}
	a := f.account(t, 2, 3)
	seen := map[string]bool{}
	f.world.setHook(func(step string) { // runs in the loop's tasks, one for local-2's keys at a time
		if strings.HasPrefix(step, "accept:") && strings.HasSuffix(step, " local-2#2") {
			s := f.auxOf("local-2")
			if s.State != auxRenewing || s.Generation != 1 || s.Progress < 50 || s.Progress >= 100 {
				t.Errorf("while peers check the new keys: %+v", s)
			}
			f.world.mu.Lock()
			seen[step] = true
			f.world.mu.Unlock()
		}
	})
	stop := f.signing(t, a)
	if err := f.RenewAuxiliary("local-2"); err != nil {
		t.Fatal(err)
	}
	f.await(t, "new generation", func() bool { return f.auxOf("local-2").Generation == 2 && f.settled() })
	time.Sleep(100 * time.Millisecond)
	t.Logf("%d signatures meanwhile", stop())
	if got := f.generations(); !maps.Equal(got, map[string]uint64{"local-1": 1, "local-2": 2, "local-3": 1}) {
		t.Errorf("generations %v", got)
	}
	if len(seen) != 2 || f.world.auxPending > 0 {
		t.Errorf("checks %v; %d sessions named keys that a node did not accept", seen, f.world.auxPending)
	}
	if after := f.auxOf("local-2"); !after.Made.After(before.Made) || f.store.generation("local-2") != 2 {
		t.Errorf("made %v, stored generation %d", after.Made, f.store.generation("local-2"))
	}
	receipts := slices.Sorted(maps.Keys(f.store.keys["local-1"].Aux.Receipts))
	if !slices.Equal(receipts, []string{"local-2#1", "local-2#2", "local-3#1"}) {
		t.Errorf("receipts of local-1: %v, want those from before the renewal and the new one", receipts)
	}
	f.await(t, "retirement", func() bool {
		f.world.mu.Lock()
		n, peer := f.world.live["local-2"], f.world.live["local-1"]
		f.world.mu.Unlock()
		n.mu.Lock()
		defer n.mu.Unlock()
		peer.mu.Lock()
		defer peer.mu.Unlock()
		return len(n.own) == 1 && len(peer.peers["local-2"]) == 1
	})
	if err := f.RenewAuxiliary("local-4"); !errors.Is(err, ErrUnknownNode) {
		t.Errorf("an unknown node: %v", err)
	}

	// A restart of everything uses what is stored: no keys, no proofs.
	f.close(t)
	f.world.setHook(func(step string) {
		if strings.HasPrefix(step, "make") || strings.HasPrefix(step, "prove") {
			t.Errorf("after a restart: %s", step)
		}
	})
	f.open(t, nil)
	f.await(t, "pool as it was", func() bool { return f.settled() && f.auxOf("local-2").Generation == 2 })

	// A node that joins makes its own and nobody else's.
	f.world.setHook(func(step string) {
		if strings.HasPrefix(step, "make") && !strings.HasPrefix(step, "make:local-4#1") {
			t.Errorf("after a node joined: %s", step)
		}
	})
	f.settings.Local = 4
	if err := f.Apply(context.Background(), f.settings); err != nil {
		t.Fatal(err)
	}
	f.await(t, "fourth node", f.settled)
}

// TestAuxiliaryPeriod: keys that are too old are renewed, one node at a time,
// and a changed period restarts nobody.
func TestAuxiliaryPeriod(t *testing.T) {
	f := startStubs(t, 3, nil)
	f.await(t, "auxiliary keys", f.settled)
	processes := f.alive()
	// Each make begins only when all work with the keys that came before.
	var mu sync.Mutex
	order := []string{}
	f.world.setHook(func(step string) {
		mu.Lock()
		defer mu.Unlock()
		if !strings.HasSuffix(step, "done") && (strings.HasPrefix(step, "make") || strings.HasPrefix(step, "accept")) {
			order = append(order, step)
		}
	})
	f.settings.AuxPeriod = 10 * time.Hour
	if err := f.Apply(context.Background(), f.settings); err != nil {
		t.Fatal(err)
	}
	for _, n := range f.Nodes() {
		if until := n.Aux.NextDue.Sub(n.Aux.Made); until < 9*time.Hour || until > 11*time.Hour {
			t.Errorf("%s is due after %v", n.ID, until)
		}
	}
	time.Sleep(60 * time.Millisecond)
	if got := f.generations()["local-1"]; got != 1 {
		t.Fatalf("renewed at once: generation %d", got)
	}
	f.settings.AuxPeriod = time.Nanosecond
	if err := f.Apply(context.Background(), f.settings); err != nil {
		t.Fatal(err)
	}
	f.await(t, "second renewal of all", func() bool {
		g := f.generations()
		return min(g["local-1"], g["local-2"], g["local-3"]) >= 3
	})
	f.settings.AuxPeriod = 0
	if err := f.Apply(context.Background(), f.settings); err != nil {
		t.Fatal(err)
	}
	f.await(t, "end of renewals", f.settled)
	if !maps.Equal(processes, f.alive()) {
		t.Error("nodes were restarted")
	}
	mu.Lock()
	defer mu.Unlock()
	making, accepted := "", 0
	for _, step := range order {
		if name, ok := strings.CutPrefix(step, "make:"); ok {
			if making != "" && accepted < 2 {
				t.Fatalf("%s before both peers had %s: %v", step, making, order)
			}
			making, accepted = name, 0
		} else if strings.HasSuffix(step, " "+making) {
			accepted++
		}
	}
}

// TestAuxiliaryOld: keys from before times were stored count as old, and
// receipts under plain names still count.
func TestAuxiliaryOld(t *testing.T) {
	f := startStubs(t, 2, nil)
	f.await(t, "auxiliary keys", f.settled)
	f.close(t)
	for id, k := range f.store.keys {
		aux := *k.Aux
		aux.Made, aux.Receipts = time.Time{}, map[string][]byte{}
		for name, r := range k.Aux.Receipts {
			plain, _, _ := strings.Cut(name, "#")
			aux.Receipts[plain] = r
		}
		k.Aux = &aux
		f.store.keys[id] = k
	}
	var mu sync.Mutex
	made := false
	f.world.setHook(func(step string) {
		mu.Lock()
		defer mu.Unlock()
		if made = made || strings.HasPrefix(step, "make:"); strings.HasPrefix(step, "prove:") && !made {
			t.Errorf("an old receipt did not count: %s", step)
		}
	})
	f.open(t, nil)
	f.await(t, "renewal of old keys", func() bool {
		g := f.generations()
		return g["local-1"] == 2 && g["local-2"] == 2 && f.settled()
	})
}

// TestAuxiliaryRefused: one peer that refuses new keys does not stop their use;
// where most refuse, the old ones stay.
func TestAuxiliaryRefused(t *testing.T) {
	f := startStubs(t, 4, nil)
	f.await(t, "auxiliary keys", f.settled)
	a := f.account(t, 2, 3)
	f.world.mu.Lock()
	f.world.refuses["local-1 local-2#2"] = true
	f.world.refuses["local-1 local-3#2"], f.world.refuses["local-2 local-3#2"], f.world.refuses["local-4 local-3#2"] = true, true, true
	f.world.mu.Unlock()
	stop := f.signing(t, a)
	if err := f.RenewAuxiliary("local-2"); err != nil {
		t.Fatal(err)
	}
	f.await(t, "renewal against one peer", func() bool { return f.auxOf("local-2").Generation == 2 })
	if err := f.RenewAuxiliary("local-3"); err != nil {
		t.Fatal(err)
	}
	f.await(t, "third node's try", func() bool { return f.auxOf("local-3").State == auxRenewing })
	f.await(t, "end of the try", func() bool { return f.auxOf("local-3").State != auxRenewing })
	f.await(t, "third node as it was", f.node("local-3").isReady)
	f.await(t, "checks of its old keys", func() bool { return f.auxOf("local-3").usable() })
	stop()
	if s := f.auxOf("local-3"); s.Generation != 1 || !s.usable() || time.Until(s.NextDue) < auxPostponed/2 {
		t.Errorf("after a refusal: %+v", s)
	}
	f.mustSign(t, signRequest(a, "afterwards"))
}

// TestAuxiliaryJoin: a node that joins while another's keys are renewed has to
// wait for the new ones; the others go on.
func TestAuxiliaryJoin(t *testing.T) {
	f := startStubs(t, 3, nil)
	f.await(t, "auxiliary keys", f.settled)
	a := f.account(t, 2, 3)
	stop := f.signing(t, a)
	joined := make(chan struct{})
	var once sync.Once
	f.world.setHook(func(step string) {
		if strings.HasPrefix(step, "accept:") && strings.HasSuffix(step, " local-2#2") {
			once.Do(func() { close(joined) })
			time.Sleep(100 * time.Millisecond) // the new node makes its keys meanwhile
		}
	})
	if err := f.RenewAuxiliary("local-2"); err != nil {
		t.Fatal(err)
	}
	<-joined
	f.settings.Local = 4
	if err := f.Apply(context.Background(), f.settings); err != nil {
		t.Fatal(err)
	}
	f.await(t, "renewal with a fourth node", func() bool { return f.auxOf("local-2").Generation == 2 && f.settled() })
	stop()
	if got := f.generations(); !maps.Equal(got, map[string]uint64{"local-1": 1, "local-2": 2, "local-3": 1, "local-4": 1}) {
		t.Errorf("generations %v", got)
	}
}

// TestAuxiliaryDeath ends processes at every step of a renewal: nothing goes
// back, no number is used twice, signing goes on as soon as the nodes are there,
// and the renewal that was asked for is done in the end.
func TestAuxiliaryDeath(t *testing.T) {
	for _, victim := range []string{"local-1", "local-2", "plugin"} {
		t.Run(victim, func(t *testing.T) {
			reached := true
			for k := 0; reached; k++ {
				reached = renewalWithDeath(t, victim, k)
				if t.Failed() {
					t.Fatalf("at step %d", k)
				}
				if !reached && k < 10 {
					t.Fatalf("a renewal of only %d steps", k)
				}
			}
		})
	}
}

// renewalWithDeath renews local-2's keys and lets the victim die at the k-th
// step. It returns false where there are fewer steps.
func renewalWithDeath(t *testing.T, victim string, k int) bool {
	f := startStubs(t, 3, nil)
	f.await(t, "auxiliary keys", f.settled)
	a := f.account(t, 2, 3)
	died := make(chan struct{})
	var mu sync.Mutex
	count := -1
	f.world.setHook(func(step string) {
		mu.Lock()
		defer mu.Unlock()
		if count++; count != k {
			return
		}
		t.Logf("%s dies at %s", victim, step)
		if victim == "plugin" {
			f.store.freeze(true)
		} else {
			f.world.kill(victim)
		}
		close(died)
	})
	if err := f.RenewAuxiliary("local-2"); err != nil {
		t.Fatal(err)
	}
	done := func() bool { return f.auxOf("local-2").Generation >= 2 && f.settled() }
	reached := false
	f.await(t, "renewal or death", func() bool {
		select {
		case <-died:
			reached = true
			return true
		default:
			return done() && f.retired()
		}
	})
	if victim == "plugin" && reached {
		f.close(t)
		f.world.mu.Lock()
		f.world.made = map[string]int{} // its nodes are gone: the number may come again
		f.world.mu.Unlock()
		f.store.freeze(false)
		stored := f.store.generation("local-2")
		f.open(t, nil)
		f.await(t, "pool as it was stored", func() bool { return f.settled() && f.auxOf("local-2").Generation == stored })
		if err := f.RenewAuxiliary("local-2"); err != nil {
			t.Fatal(err)
		}
		f.await(t, "renewal after the crash", func() bool { return f.auxOf("local-2").Generation == stored+1 && f.settled() })
	}
	f.mustSign(t, signRequest(a, "soon"))
	f.await(t, "renewal in the end", done)
	f.await(t, "stored renewal", func() bool { return f.store.generation("local-2") == f.auxOf("local-2").Generation })
	f.mustSign(t, signRequest(a, "in the end"))
	if g := f.generations(); g["local-1"] != 1 || g["local-3"] != 1 {
		t.Errorf("others made new keys: %v", g)
	}
	f.close(t)
	f.world.check(t)
	return reached
}

// retired reports whether all nodes were told what is in use.
func (f *stubPool) retired() bool {
	var views []auxView
	for _, n := range f.all() {
		views = append(views, n.auxView())
	}
	return !slices.ContainsFunc(views, func(v auxView) bool { return v.retired != inUse(views) })
}

// TestAuxiliaryLostTwice: keys that two crashes took from a node, after its peers
// had accepted them, do not keep it out for good.
func TestAuxiliaryLostTwice(t *testing.T) {
	f := startStubs(t, 3, nil)
	f.await(t, "auxiliary keys", f.settled)
	a := f.account(t, 2, 3)
	f.store.loses = map[string]bool{"local-2#2": true, "local-2#3": true}
	lost := make(chan string, 10)
	f.world.setHook(func(step string) {
		// Both peers have accepted: it dies before the keys are stored.
		if step == "store:local-2#2" || step == "store:local-2#3" {
			f.world.kill("local-2")
			lost <- step
		}
	})
	if err := f.RenewAuxiliary("local-2"); err != nil {
		t.Fatal(err)
	}
	f.await(t, "renewal in the end", func() bool { return f.auxOf("local-2").Generation == 4 && f.settled() })
	if len(lost) != 2 {
		t.Errorf("%d generations were lost, want 2", len(lost))
	}
	f.mustSign(t, signRequest(a, "in the end"))
}

func TestJitter(t *testing.T) {
	different := map[time.Duration]bool{}
	for i := range 100 {
		d := jittered(time.Hour, LocalNodeID(i), 1)
		if d < 54*time.Minute || d >= 66*time.Minute {
			t.Errorf("%v", d)
		}
		different[d] = true
	}
	first := jittered(time.Hour, "local-1", 1)
	if again := jittered(time.Hour, "local-1", 1); len(different) < 90 || again != first {
		t.Errorf("%d different periods", len(different))
	}
}
