package mpc_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
)

// deals calls each with every way to deal n shares over the sites, as counts.
func deals(n int, sites []mpc.Site, each func([]int)) {
	counts := make([]int, len(sites))
	var deal func(k, left int)
	deal = func(k, left int) {
		if k == len(sites) {
			if left == 0 {
				each(counts)
			}
			return
		}
		for c := 0; c <= min(left, sites[k].Nodes); c++ {
			counts[k] = c
			deal(k+1, left-c)
		}
		counts[k] = 0
	}
	deal(0, n)
}

func homesOf(sites []mpc.Site, counts []int) (out []mpc.Home) {
	for k, c := range counts {
		out = append(out, slices.Repeat([]mpc.Home{sites[k].Home}, c)...)
	}
	return out
}

// rank orders plans as PlanHomes promises: less is better at the first difference.
func rank(t int, sites []mpc.Site, homes []mpc.Home) []int {
	g := mpc.GuaranteeOf(t, homes)
	flag := func(ok bool) int {
		if ok {
			return 0
		}
		return 1
	}
	regions, domains, used := map[string]int{}, map[string]int{}, map[mpc.Home]int{}
	for _, h := range homes {
		regions[h.Region]++
		domains[h.Domain]++
		used[h]++
	}
	squares := func(m map[string]int) (sum int) {
		for c := range maps.Values(m) {
			sum += c * c
		}
		return sum
	}
	full := 0
	for _, s := range sites {
		if used[s.Home] == s.Nodes && s.Nodes > 0 {
			full++
		}
	}
	return []int{flag(g.RegionCompromise), flag(g.RegionLoss), flag(g.DomainCompromise), flag(g.DomainLoss),
		g.MostInRegion, g.MostInDomain, squares(regions), squares(domains), full}
}

// TestPlanHomesBruteForce compares plans with every possible one, for all small t
// and n and sites with all numbers of nodes, also where domains and regions cross.
func TestPlanHomesBruteForce(t *testing.T) {
	layouts := [][]mpc.Home{
		{{Domain: "d", Region: "a"}},
		{{Domain: "d", Region: "a"}, {Domain: "d", Region: "b"}},
		{{Domain: "x", Region: "a"}, {Domain: "y", Region: "b"}, {Domain: "z", Region: "c"}},
		{{Domain: "x", Region: "a"}, {Domain: "y", Region: "a"}, {Domain: "z", Region: "b"}},
		{{Domain: "x", Region: "a"}, {Domain: "x", Region: "b"}, {Domain: "y", Region: "a"}, {Domain: "y", Region: "b"}},
		{{Domain: "x", Region: "a"}, {Domain: "x", Region: "b"}, {Domain: "y", Region: "c"}, {Domain: "z", Region: ""}},
	}
	plans, impossible := 0, 0
	for _, layout := range layouts {
		for code := range int(pow(5, len(layout))) {
			sites, rest := []mpc.Site{}, code
			for _, h := range layout {
				sites = append(sites, mpc.Site{Home: h, Nodes: rest % 5})
				rest /= 5
			}
			for n := 2; n <= 7; n++ {
				if len(layout) > 3 && n > 5 && code%7 != 0 {
					continue // a sample: all of them take minutes
				}
				comparePlans(t, n, sites, &plans, &impossible)
			}
		}
	}
	if plans < 5000 || impossible < 500 {
		t.Errorf("one-sided: %d plans, %d impossible", plans, impossible)
	}
}

func comparePlans(t *testing.T, n int, sites []mpc.Site, plans, impossible *int) {
	t.Helper()
	best := map[int][]int{} // by threshold
	deals(n, sites, func(counts []int) {
		homes := homesOf(sites, counts)
		for threshold := 2; threshold <= n; threshold++ {
			if r := rank(threshold, sites, homes); best[threshold] == nil || slices.Compare(r, best[threshold]) < 0 {
				best[threshold] = r
			}
		}
	})
	for threshold := 2; threshold <= n; threshold++ {
		homes, err := mpc.PlanHomes(threshold, n, sites)
		if (err == nil) != (best[threshold] != nil) {
			t.Fatalf("%d of %d over %v: %v", threshold, n, sites, err)
		}
		if err != nil {
			*impossible++
			continue
		}
		*plans++
		used := map[mpc.Home]int{}
		for _, h := range homes {
			used[h]++
		}
		for _, s := range sites {
			if used[s.Home] > s.Nodes {
				t.Fatalf("%d of %d over %v: %v needs more nodes than there are", threshold, n, sites, homes)
			}
			delete(used, s.Home)
		}
		if len(homes) != n || len(used) > 0 {
			t.Fatalf("%d of %d over %v: %v", threshold, n, sites, homes)
		}
		got := rank(threshold, sites, homes)
		if slices.Compare(got, best[threshold]) != 0 {
			t.Fatalf("%d of %d over %v: %v ranks %v, possible is %v", threshold, n, sites, homes, got, best[threshold])
		}
	}
}

func pow(b, e int) int {
	out := 1
	for range e {
		out *= b
	}
	return out
}

// TestPlanHomesLarge: 16 shares, many sites; bounds, merged sites and the order.
func TestPlanHomesLarge(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var sites []mpc.Site
		for k := range 24 {
			sites = append(sites, mpc.Site{Home: mpc.Home{Domain: fmt.Sprint("d", k%9), Region: fmt.Sprint("r", rng.IntN(6))}, Nodes: 1 + rng.IntN(3)})
		}
		homes, err := mpc.PlanHomes(9, 16, sites)
		if err != nil || len(homes) != 16 {
			t.Fatal(homes, err)
		}
		again, _ := mpc.PlanHomes(9, 16, sites)
		if !slices.Equal(homes, again) {
			t.Fatal("another plan for the same sites in the same order")
		}
	}
	same := mpc.Home{Domain: "d", Region: "r"}
	if homes, err := mpc.PlanHomes(2, 3, []mpc.Site{{Home: same, Nodes: 2}, {Home: same, Nodes: 1}, {Home: mpc.Home{Domain: "e"}, Nodes: -4}}); err != nil || !slices.Equal(homes, []mpc.Home{same, same, same}) {
		t.Error(homes, err)
	}
	for _, bad := range [][2]int{{0, 3}, {4, 3}, {2, mpc.MaxShares + 1}} {
		if _, err := mpc.PlanHomes(bad[0], bad[1], []mpc.Site{{Home: same, Nodes: 99}}); err == nil {
			t.Errorf("a plan for %v", bad)
		}
	}
}

func TestGuaranteeOf(t *testing.T) {
	a, b, c := mpc.Home{Domain: "x", Region: "a"}, mpc.Home{Domain: "x", Region: "b"}, mpc.Home{Domain: "y", Region: "c"}
	for _, k := range []struct {
		t     int
		homes []mpc.Home
		want  mpc.Guarantee
	}{
		{2, nil, mpc.Guarantee{}},
		{2, []mpc.Home{a, b, c}, mpc.Guarantee{Regions: 3, MostInRegion: 1, RegionCompromise: true, RegionLoss: true, Domains: 2, MostInDomain: 2}},
		{3, []mpc.Home{a, a, b, b, c}, mpc.Guarantee{Regions: 3, MostInRegion: 2, RegionCompromise: true, RegionLoss: true, Domains: 2, MostInDomain: 4}},
		{3, []mpc.Home{a, a, c, c}, mpc.Guarantee{Regions: 2, MostInRegion: 2, RegionCompromise: true, Domains: 2, MostInDomain: 2, DomainCompromise: true}},
		{2, []mpc.Home{{}, {}, {}}, mpc.Guarantee{Regions: 1, MostInRegion: 3, Domains: 1, MostInDomain: 3}},
	} {
		if got := mpc.GuaranteeOf(k.t, k.homes); got != k.want {
			t.Errorf("%d of %v: %+v, want %+v", k.t, k.homes, got, k.want)
		}
	}
}

// TestKeepHomes: the result is the plan in another order, and no order would leave
// more shares where they are.
func TestKeepHomes(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	some := func(n int) (out []mpc.Home) {
		for range n {
			out = append(out, mpc.Home{Region: string(rune('a' + rng.IntN(3)))})
		}
		return out
	}
	for range 2000 {
		n := 2 + rng.IntN(6)
		now, plan := some(n), some(n)
		if rng.IntN(10) == 0 {
			now = nil
		}
		kept := mpc.KeepHomes(now, plan)
		count := func(homes []mpc.Home) map[mpc.Home]int {
			m := map[mpc.Home]int{}
			for _, h := range homes {
				m[h]++
			}
			return m
		}
		if !maps.Equal(count(kept), count(plan)) {
			t.Fatalf("%v is not %v in another order", kept, plan)
		}
		stays, most := 0, 0
		for i, h := range now {
			if kept[i] == h {
				stays++
			}
		}
		for h, c := range count(now) {
			most += min(c, count(plan)[h])
		}
		if stays != most {
			t.Fatalf("%v to %v: %v keeps %d, %d could stay", now, plan, kept, stays, most)
		}
	}
}
