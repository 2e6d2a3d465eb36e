package pool

import (
	"math/rand/v2"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
)

// TestPlace checks random placements against the rule and against the least
// number of spares, found by counting.
func TestPlace(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	found, none := 0, 0
	for range 3000 {
		n := 2 + rng.IntN(6)
		count := 2 + rng.IntN(n-1)
		seen, avoid := mpc.Exposures{}, map[mpc.Index]bool{}
		var ready []candidate
		held, spares := map[mpc.Index]bool{}, 0
		for k := range 2*n - 1 {
			c := candidate{id: LocalNodeID(k + 1), identity: mpc.NodeIdentity{byte(k + 1)}}
			i := mpc.Index(rng.IntN(2 * n)) // 0 and above n: seen none
			if i >= 1 && int(i) <= n {
				seen[c.identity] = i
			}
			if rng.IntN(3) > 0 {
				ready = append(ready, c)
			}
		}
		for i := mpc.Index(1); int(i) <= n; i++ {
			avoid[i] = rng.IntN(6) == 0
		}
		usable := 0
		for i := mpc.Index(1); int(i) <= n; i++ {
			if !avoid[i] {
				usable++
			}
		}
		for _, c := range ready {
			if i, ok := seen[c.identity]; !ok {
				spares++
			} else if !avoid[i] {
				held[i] = true
			}
		}
		least := max(0, count-len(held))
		possible := usable >= count && least <= spares
		r := &rule{n: n, count: count, seen: seen, avoid: avoid}
		got, chosen := r.fewestSpares(ready, count)
		if (chosen != nil) != possible || possible && got != least {
			t.Fatalf("%d of %d, held %v, %d spares, avoid %v: %d spares, %v", count, n, held, spares, avoid, got, chosen)
		}
		if chosen == nil {
			none++
			continue
		}
		found++
		if len(chosen) != count {
			t.Fatalf("%d shares, want %d", len(chosen), count)
		}
		used, index, spent := map[string]bool{}, mpc.Index(0), 0
		for _, a := range chosen {
			i, ok := seen[a.node.identity]
			if used[a.node.id] || a.index <= index || avoid[a.index] || ok && i != a.index || ok == a.spare {
				t.Fatalf("placement %v breaks the rule; seen %v", chosen, seen)
			}
			used[a.node.id], index = true, a.index
			if a.spare {
				spent++
			}
		}
		if spent > got {
			t.Fatalf("%d spares spent, allowed %d", spent, got)
		}
		if _, over := r.fewestSpares(ready, least-1); over != nil {
			t.Fatal("a placement with more spares than allowed")
		}
	}
	if found < 500 || none < 200 {
		t.Errorf("one-sided cases: %d found, %d none", found, none)
	}
}

// TestPlaceCompatible: nodes that cannot work with each other are not put
// together, also where the first choice would.
func TestPlaceCompatible(t *testing.T) {
	seen, ready := mpc.Exposures{}, []candidate{}
	for k := range 5 {
		c := candidate{id: LocalNodeID(k + 1), identity: mpc.NodeIdentity{byte(k + 1)}}
		seen[c.identity] = mpc.Index(k + 1)
		ready = append(ready, c)
	}
	r := &rule{n: 5, count: 3, seen: seen, compatible: func(a, b candidate) bool { return a.id != "local-1" && b.id != "local-1" }}
	for range 200 {
		chosen := r.place(ready, 0)
		if len(chosen) != 3 {
			t.Fatal("no placement")
		}
		for _, a := range chosen {
			if a.node.id == "local-1" {
				t.Fatalf("chosen: %v", chosen)
			}
		}
	}
	r = &rule{n: 5, count: 2, seen: seen, compatible: func(a, b candidate) bool { return false }}
	if r.place(ready, 0) != nil {
		t.Fatal("nodes that cannot work together were put together")
	}
}

// TestPlaceKeepsWhole: whatever signatures do with spares, one after the other with
// any nodes away, the pool as a whole can serve all shares at once in the end if it
// could at the start, and the rule costs no signature and no spare.
func TestPlaceKeepsWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	strained := 0
	for range 2000 {
		n := 2 + rng.IntN(5)
		count := 2 + rng.IntN(n-1)
		var pool []candidate
		for k := range n + rng.IntN(3) {
			pool = append(pool, candidate{id: LocalNodeID(k + 1), identity: mpc.NodeIdentity{byte(k + 1)}})
		}
		// The makers of the epoch; some of them have left since.
		seen := mpc.Exposures{}
		for i, k := range rng.Perm(len(pool) + 2)[:n] {
			seen[mpc.NodeIdentity{byte(k + 1)}] = mpc.Index(i + 1)
		}
		whole := (&rule{n: n, seen: seen}).keepsWhole(pool, nil)
		for range 6 {
			var ready []candidate
			for _, c := range pool {
				if rng.IntN(3) > 0 {
					ready = append(ready, c)
				}
			}
			free := &rule{n: n, count: count, seen: seen}
			kept := &rule{n: n, count: count, seen: seen, pool: func() []candidate { return pool }}
			wanted, any := free.fewestSpares(ready, count)
			spares, chosen := kept.fewestSpares(ready, count)
			if spares != wanted || (any == nil) != (chosen == nil) {
				t.Fatalf("%d of %d, seen %v, ready %v: %d spares for %v, and %d for %v without the rule", count, n, seen, ready, spares, chosen, wanted, any)
			}
			for _, a := range any {
				if a.spare && whole && !kept.keepsWhole(pool, any) {
					strained++
					break
				}
			}
			for _, a := range chosen {
				seen[a.node.identity] = a.index
			}
			if whole && !kept.keepsWhole(pool, nil) {
				t.Fatalf("%d of %d: %v leaves a share without a node; seen %v", count, n, chosen, seen)
			}
		}
	}
	if strained < 50 {
		t.Errorf("only %d choices would have left a share without a node", strained)
	}
}
