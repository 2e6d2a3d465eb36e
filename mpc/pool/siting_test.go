package pool

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// most returns how many of the shares that are not to be avoided can be served at
// once with so many spares at most, by trying everything: share by share, every node
// or none.
func most(r *rule, ready []candidate, spares int) int {
	best := 0
	used := map[string]bool{}
	var try func(i mpc.Index, served, spent int)
	try = func(i mpc.Index, served, spent int) {
		best = max(best, served)
		if int(i) > r.n {
			return
		}
		try(i+1, served, spent)
		if r.avoid[i] {
			return
		}
		for _, c := range ready {
			seen, ok := r.seen[c.identity]
			if used[c.id] || ok && seen != i || !ok && spent == spares ||
				r.where.homes != nil && (r.where.homes[i-1].Domain != c.domain || r.where.regions && r.where.homes[i-1].Region != c.region) {
				continue
			}
			used[c.id] = true
			if ok {
				try(i+1, served+1, spent)
			} else {
				try(i+1, served+1, spent+1)
			}
			delete(used, c.id)
		}
	}
	try(1, 0, 0)
	return best
}

// TestPlaceAtHome compares placements of shares that live in domains and regions
// with what is possible at all: it is found exactly when there is one, with the
// fewest spares, and keeps to the rule; and so does the nearest one.
func TestPlaceAtHome(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	labels := []string{"a", "b"}
	found, none := 0, 0
	for range 4000 {
		n := 2 + rng.IntN(4)
		r := &rule{n: n, count: 1 + rng.IntN(n), seen: mpc.Exposures{}, avoid: map[mpc.Index]bool{}}
		r.where = siting{homes: make([]mpc.Home, n), regions: rng.IntN(2) == 0}
		for k := range r.where.homes {
			r.where.homes[k].Domain = labels[rng.IntN(2)]
			if r.where.regions {
				r.where.homes[k].Region = labels[rng.IntN(2)]
			}
			r.avoid[mpc.Index(k+1)] = rng.IntN(8) == 0
		}
		var ready []candidate
		for k := range 1 + rng.IntN(6) {
			c := candidate{id: LocalNodeID(k + 1), identity: mpc.NodeIdentity{byte(k + 1)}, domain: labels[rng.IntN(2)],
				region: labels[rng.IntN(2)], rtt: time.Duration(rng.IntN(4)) * 40 * time.Millisecond}
			if i := rng.IntN(2 * n); i >= 1 && i <= n {
				r.seen[c.identity] = mpc.Index(i)
			}
			ready = append(ready, c)
		}
		spares, chosen := r.fewestSpares(ready, r.count)
		least := -1
		for s := 0; s <= r.count && least < 0; s++ {
			if most(r, ready, s) >= r.count {
				least = s
			}
		}
		if (chosen != nil) != (least >= 0) || chosen != nil && spares != least {
			t.Fatalf("%+v, %+v: %d spares, %v; possible with %d", r, ready, spares, chosen, least)
		}
		if chosen == nil {
			none++
			continue
		}
		found++
		checkPlacement(t, r, chosen, spares)
		checkPlacement(t, r, r.nearest(ready, spares), spares)
	}
	if found < 500 || none < 500 {
		t.Errorf("one-sided: %d found, %d none", found, none)
	}
}

func checkPlacement(t *testing.T, r *rule, chosen []assignment, spares int) {
	t.Helper()
	used, index, spent := map[string]bool{}, mpc.Index(0), 0
	for _, a := range chosen {
		i, ok := r.seen[a.node.identity]
		home := r.where.homes[a.index-1]
		if used[a.node.id] || a.index <= index || r.avoid[a.index] || ok && i != a.index || ok == a.spare ||
			a.node.domain != home.Domain || r.where.regions && a.node.region != home.Region {
			t.Fatalf("placement %v breaks the rule %+v", chosen, r)
		}
		used[a.node.id], index = true, a.index
		if a.spare {
			spent++
		}
	}
	if len(chosen) != r.count || spent > spares {
		t.Fatalf("%v: %d spares, allowed %d", chosen, spent, spares)
	}
}

// TestNearest: near nodes are preferred, those that are about equally far in turn,
// and the placement rule comes before nearness.
func TestNearest(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	near := func(times ...int) (ready []candidate) {
		for k, d := range times {
			ready = append(ready, candidate{id: LocalNodeID(k + 1), identity: mpc.NodeIdentity{byte(k + 1)}, rtt: ms(d)})
		}
		return ready
	}
	chosen := func(r *rule, ready []candidate) map[string]int {
		t.Helper()
		got := map[string]int{}
		for range 400 {
			s, _ := r.fewestSpares(ready, r.count)
			c := r.nearest(ready, s)
			if len(c) != r.count {
				t.Fatal("no placement")
			}
			for _, a := range c {
				got[a.node.id]++
			}
		}
		return got
	}
	seen := mpc.Exposures{}
	for k := range 5 {
		seen[mpc.NodeIdentity{byte(k + 1)}] = mpc.Index(k + 1)
	}
	holders := &rule{n: 5, count: 2, seen: seen}
	if got := chosen(holders, near(0, 80, 3, 9, 82)); len(got) != 3 || got["local-1"] < 100 || got["local-3"] < 100 || got["local-4"] < 100 {
		t.Errorf("two of five, three of them near: %v", got)
	}
	if got := chosen(holders, near(0, 80, 300, 90, 82)); len(got) != 4 || got["local-3"] != 0 || got["local-1"] != 400 || got["local-2"] < 80 {
		t.Errorf("one near, which saves two round trips, and one very far: %v", got)
	}
	if got := chosen(holders, near(50, 55, 48, 60, 52)); len(got) != 5 {
		t.Errorf("all alike: %v", got)
	}
	// A near spare does not save a far holder its work: spares are precious.
	spare := &rule{n: 2, count: 2, seen: mpc.Exposures{{1}: 1, {2}: 2}}
	if got := chosen(spare, near(0, 200, 0)); got["local-3"] != 0 {
		t.Errorf("a spare was used up to be faster: %v", got)
	}
	if limits := tiers(near(0, 0, 0)); len(limits) != 1 {
		t.Errorf("nodes of one host: %v", limits)
	}
	if farApart(near(0, 9, 4)) || !farApart(near(0, 11)) || farApart(nil) {
		t.Error("farApart")
	}
}

// TestPlannerSpreads: what is planned for new shares is the best that the nodes
// allow, keeps to named domains, and to nodes that have seen shares already.
func TestPlannerSpreads(t *testing.T) {
	var nodes []candidate
	add := func(domain, region string) {
		k := byte(len(nodes) + 1)
		nodes = append(nodes, candidate{id: LocalNodeID(int(k)), identity: mpc.NodeIdentity{k}, domain: domain, region: region})
	}
	for _, d := range []string{"x", "y", "z"} {
		add(d, d)
		add(d, d)
	}
	add("w", "x")
	where, worth := planner(2, 3, nil, nil)(nodes)
	if !worth.RegionCompromise || !worth.RegionLoss || worth.Regions != 3 || !where.regions {
		t.Errorf("%+v: %+v", where, worth)
	}
	where, worth = planner(2, 3, []string{"x", "y"}, nil)(nodes)
	if worth.RegionCompromise || worth.MostInRegion != 2 {
		t.Errorf("%+v: %+v", where, worth)
	}
	for _, h := range where.homes {
		if h.Domain != "x" && h.Domain != "y" {
			t.Errorf("a home in %q", h.Domain)
		}
	}
	for range 20 {
		where, _ = planner(2, 3, nil, mpc.Exposures{{5}: 1, {1}: 3})(nodes)
		if where.homes[0].Domain != "z" || where.homes[2].Domain != "x" && where.homes[2].Domain != "w" {
			t.Fatalf("nodes that have seen shares: %v", where.homes)
		}
	}
	r := &rule{n: 5, count: 5}
	r.where, _ = planner(2, 5, []string{"x"}, nil)(nodes)
	if _, got := r.fewestSpares(nodes, 5); got != nil {
		t.Errorf("five shares for two nodes: %v", got)
	}
	// Equally good plans take turns.
	got := map[string]int{}
	for range 300 {
		where, _ = planner(2, 4, nil, nil)(nodes[:6])
		counts := map[string]int{}
		for _, h := range where.homes {
			if counts[h.Region]++; counts[h.Region] == 2 {
				got[h.Region]++
			}
		}
	}
	if len(got) != 3 {
		t.Errorf("the extra share is always in %v", slices.Collect(maps.Keys(got)))
	}
}

// sealedEnvelope is an envelope sealed to one key of a fake token.
func sealedEnvelope(t testing.TB, domain string) []byte {
	t.Helper()
	pin := secret.New([]byte("1234"))
	token, err := hsmtest.NewFake("t", "1234").Open("t", pin)
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.GenerateWrappingKey(t.Context(), hsm.KeyRequest{Domain: domain, Version: 3, Suites: []hsm.Suite{hsm.SuiteHPKEP256}})
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := token.GenerateWrappingKey(t.Context(), hsm.KeyRequest{Domain: "recovery:anna", Version: 1, Suites: []hsm.Suite{hsm.SuiteHPKEP256}})
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := hsm.Seal(hsm.ShareContext(1, [32]byte{1}), secret.New(make([]byte, 200)), []hsm.WrappingKey{key, recipient})
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

// TestDealtTo: an import goes to the one domain whose nodes open the deals.
func TestDealtTo(t *testing.T) {
	eu, ap := sealedEnvelope(t, "eu"), sealedEnvelope(t, "ap")
	for want, deals := range map[string][]*recovery.Deal{
		"eu": {{Sealed: [][]byte{nil, eu, nil}}, {Sealed: [][]byte{eu, eu, eu}}},
		"":   {{Sealed: [][]byte{eu}}, {Sealed: [][]byte{ap}}},
	} {
		if got, err := dealtTo(deals); got != want || (err == nil) != (want != "") {
			t.Errorf("dealt to %q, %v; want %q", got, err, want)
		}
	}
	for _, deals := range [][]*recovery.Deal{nil, {{Sealed: [][]byte{nil}}}, {{Sealed: [][]byte{[]byte("x")}}}} {
		if got, err := dealtTo(deals); err == nil {
			t.Errorf("dealt to %q", got)
		}
	}
}

// TestSiting: where shares live is read from their envelopes and the homes; what
// cannot be read is left to the nodes of the home to complain about.
func TestSiting(t *testing.T) {
	a := &mpc.Account{Shares: []mpc.WrappedShare{{Index: 1, Envelope: sealedEnvelope(t, "zurich")}, {Index: 2, Envelope: []byte("junk")}}}
	where := sitingOf(a)
	if where.regions || where.home(1) != (mpc.Home{Domain: "zurich"}) || where.home(2) != (mpc.Home{Domain: hsm.DefaultDomain}) {
		t.Errorf("%+v", where)
	}
	a.Homes = []mpc.Home{{Domain: "zurich", Region: "ch"}, {Domain: "bern", Region: "be"}}
	where = sitingOf(a)
	if !where.may(1, candidate{domain: "zurich", region: "ch"}) || where.may(1, candidate{domain: "zurich", region: "be"}) ||
		where.may(1, candidate{domain: "bern", region: "ch"}) || !where.may(2, candidate{domain: "bern", region: "be"}) {
		t.Errorf("%+v", where)
	}
	if err := sealedAtHome(&mpc.Account{Shares: a.Shares[:1], Homes: []mpc.Home{{Domain: "bern"}}}); err == nil || !strings.Contains(err.Error(), "zurich") {
		t.Errorf("a share sealed elsewhere: %v", err)
	}
	if where.home(0) != (mpc.Home{}) || where.home(9) != (mpc.Home{}) {
		t.Error("home of no share")
	}
}

// BenchmarkSiting is what a job pays to know where the shares of an account of five
// live.
func BenchmarkSiting(b *testing.B) {
	a := &mpc.Account{}
	for i := range 5 {
		a.Shares = append(a.Shares, mpc.WrappedShare{Index: mpc.Index(i + 1), Envelope: sealedEnvelope(b, hsm.DefaultDomain)})
	}
	for b.Loop() {
		_ = sitingOf(a)
	}
}

// BenchmarkPlan is what a signing job with three of five shares pays for its choice
// of nodes.
func BenchmarkPlan(b *testing.B) {
	j := &job{n: 5, count: 3, seen: mpc.Exposures{}, where: siting{homes: slices.Repeat([]mpc.Home{{Domain: hsm.DefaultDomain}}, 5)}}
	var ready []candidate
	for k := range 5 {
		c := candidate{id: LocalNodeID(k + 1), identity: mpc.NodeIdentity{byte(k + 1)}, domain: hsm.DefaultDomain}
		j.seen[c.identity] = mpc.Index(k + 1)
		ready = append(ready, c)
	}
	for b.Loop() {
		if w, _ := j.plan(ready); w == nil {
			b.Fatal("no plan")
		}
	}
}

// TestNearFirst: far nodes serve logins only where near ones fail.
func TestNearFirst(t *testing.T) {
	var nodes []*poolNode
	for k, ms := range []int{90, 0, 4, 95} {
		n := &poolNode{id: LocalNodeID(k + 1), identity: mpc.NodeIdentity{byte(k + 1)}, rtt: time.Duration(ms) * time.Millisecond}
		if ms > 0 {
			n.remote = &RemoteNode{}
		}
		nodes = append(nodes, n)
	}
	first := map[string]int{}
	for turn := range uint64(10) {
		order := nearFirst(nodes, turn)
		first[order[0].id]++
		if len(order) != 4 || slices.Contains(order[:2], nodes[0]) || slices.Contains(order[:2], nodes[3]) {
			t.Fatalf("turn %d: a far node comes before a near one", turn)
		}
	}
	if first["local-2"] != 5 || first["local-3"] != 5 || len(nearFirst(nil, 3)) != 0 {
		t.Errorf("turns: %v", first)
	}
}
