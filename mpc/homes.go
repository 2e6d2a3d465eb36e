package mpc

import (
	"cmp"
	"fmt"
	"slices"
)

// Home is where a share lives: the wrapping domain that it is sealed to and the
// region whose nodes may open it.
type Home struct {
	// Domain is a wrapping domain's name; see hsm.WrappingKey.
	Domain string `json:"domain"`
	// Region is a label that operators give nodes; empty where they gave none.
	Region string `json:"region"`
}

// Site is a home and how many nodes could serve shares there.
type Site struct {
	Home
	Nodes int
}

// PlanHomes deals the n shares of an account, t of which sign, over sites: one home
// per share, in index order. Each share has a node of its own, so a site gets at
// most as many shares as it has nodes. Of all such plans it takes one in which, in
// this order,
//
//   - no region has t shares, if that is possible;
//   - t shares are left when any one region is lost, if that is possible;
//   - the same holds for wrapping domains, as far as the sites allow it;
//   - regions have as equal numbers of shares as can be, then domains;
//   - few sites have all of their nodes in use, so that a spare is there when a
//     node dies.
//
// Nodes without a region count as one region. Where plans are equally good, the
// order of sites decides: callers shuffle it to spread the load of many accounts.
// The error says how many nodes there are where they are fewer than n.
func PlanHomes(t, n int, sites []Site) ([]Home, error) {
	if t < 1 || n < t || n > MaxShares {
		return nil, fmt.Errorf("no plan for %d of %d shares", t, n)
	}
	merged, total := mergeSites(sites)
	if total < n {
		return nil, fmt.Errorf("%d nodes for %d shares, each of which needs one of its own", total, n)
	}
	// The best plan is within the smallest bounds, on shares in one region and in
	// one domain, for which there is one at all: everything that is asked of a plan
	// is easier to have with a smaller bound.
	for _, b := range boundsInOrder(t, n) {
		d := newDeal(merged, b)
		if d.run(n) {
			return d.homes(n), nil
		}
	}
	return nil, fmt.Errorf("no plan for %d shares", n) // not reached: {n, n} bounds nothing
}

// KeepHomes permutes a plan so that as many shares as possible stay where they
// are: moving one costs its new home a node.
func KeepHomes(now, plan []Home) []Home {
	left := map[Home]int{}
	for _, h := range plan {
		left[h]++
	}
	out := make([]Home, len(plan))
	stays := make([]bool, len(plan))
	for i := range out {
		if i < len(now) && left[now[i]] > 0 {
			left[now[i]]--
			out[i], stays[i] = now[i], true
		}
	}
	rest := slices.DeleteFunc(slices.Clone(plan), func(h Home) bool {
		// The first ones of a home are those that are left, the others stay.
		left[h]--
		return left[h] < 0
	})
	for i := range out {
		if !stays[i] {
			out[i], rest = rest[0], rest[1:]
		}
	}
	return out
}

// Guarantee says what the homes of an account's shares protect it from. It counts
// every share where it lives; who holds recovery shares or custody keys is not in
// it.
type Guarantee struct {
	// Regions is how many regions have a share, MostInRegion the most shares that
	// one has.
	Regions, MostInRegion int
	// RegionCompromise is true where everything in any one region, with its token
	// and its nodes, is fewer than t shares.
	RegionCompromise bool
	// RegionLoss is true where t shares at least are left without any one region.
	RegionLoss bool
	// The same for wrapping domains: who can use one token, or it breaks.
	Domains, MostInDomain        int
	DomainCompromise, DomainLoss bool
}

// GuaranteeOf computes what homes, one per share, are worth for an account of which
// t shares sign. Without homes nothing is guaranteed.
func GuaranteeOf(t int, homes []Home) Guarantee {
	regions, domains := map[string]int{}, map[string]int{}
	var g Guarantee
	for _, h := range homes {
		regions[h.Region]++
		domains[h.Domain]++
		g.MostInRegion = max(g.MostInRegion, regions[h.Region])
		g.MostInDomain = max(g.MostInDomain, domains[h.Domain])
	}
	g.Regions, g.Domains = len(regions), len(domains)
	if n := len(homes); n > 0 {
		g.RegionCompromise, g.RegionLoss = g.MostInRegion < t, n-g.MostInRegion >= t
		g.DomainCompromise, g.DomainLoss = g.MostInDomain < t, n-g.MostInDomain >= t
	}
	return g
}

// mergeSites joins sites of the same home, in the order of their first mention, and
// leaves out those without nodes.
func mergeSites(sites []Site) (merged []Site, total int) {
	for _, s := range sites {
		if s.Nodes <= 0 {
			continue
		}
		k := slices.IndexFunc(merged, func(m Site) bool { return m.Home == s.Home })
		if k < 0 {
			merged = append(merged, Site{Home: s.Home})
			k = len(merged) - 1
		}
		merged[k].Nodes += s.Nodes
		total += s.Nodes
	}
	return merged, total
}

// bounds are the most shares that a region and that a domain may get.
type bounds struct{ region, domain int }

// boundsInOrder lists all bounds, those of the best plans first.
func boundsInOrder(t, n int) []bounds {
	var all []bounds
	for r := 1; r <= n; r++ {
		for d := 1; d <= n; d++ {
			all = append(all, bounds{r, d})
		}
	}
	flag := func(ok bool) int {
		if ok {
			return 0
		}
		return 1
	}
	slices.SortFunc(all, func(a, b bounds) int {
		return cmp.Or(
			cmp.Compare(flag(a.region < t), flag(b.region < t)), cmp.Compare(flag(n-a.region >= t), flag(n-b.region >= t)),
			cmp.Compare(flag(a.domain < t), flag(b.domain < t)), cmp.Compare(flag(n-a.domain >= t), flag(n-b.domain >= t)),
			cmp.Compare(a.region, b.region), cmp.Compare(a.domain, b.domain))
	})
	return all
}
