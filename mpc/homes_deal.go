package mpc

import "math"

// deal finds the cheapest way to send n shares through a region, a site and a
// domain each: a minimum-cost flow by shortest augmenting paths. All costs grow
// with the number of shares that take the same way (they are convex), so that the
// cheapest way is the most even one, and dealing one share after the other, each on
// the then shortest path, ends with the cheapest deal of all n. Graphs have some
// dozens of edges, and n is 16 at most.
type deal struct {
	sites []Site
	edges []dealEdge
	// vertices: 0 is the source, 1 the sink; then regions and domains.
	vertices int
	site     []int // the edge of each site
}

// dealEdge carries flow from one vertex to another; price is what the next share on
// it costs when it carries flow of them.
type dealEdge struct {
	from, to, capacity, flow int
	price                    func(flow int) int
}

// Prices: one step of evenness among regions outweighs everything among domains
// that 16 shares can cost (16·31·domainPrice), and that all sites without a spare.
const (
	sparePrice  = 1
	domainPrice = 32
	regionPrice = 1 << 15
)

func newDeal(sites []Site, b bounds) *deal {
	d := &deal{sites: sites, vertices: 2}
	// The k-th share in one place costs as much as k² grows.
	even := func(price int) func(int) int { return func(flow int) int { return (2*flow + 1) * price } }
	regions, domains := map[string]int{}, map[string]int{}
	for _, s := range sites {
		if _, ok := regions[s.Region]; !ok {
			regions[s.Region] = d.vertices
			d.add(dealEdge{from: 0, to: d.vertices, capacity: b.region, price: even(regionPrice)})
			d.vertices++
		}
		if _, ok := domains[s.Domain]; !ok {
			domains[s.Domain] = d.vertices
			d.add(dealEdge{from: d.vertices, to: 1, capacity: b.domain, price: even(domainPrice)})
			d.vertices++
		}
		d.site = append(d.site, len(d.edges))
		d.add(dealEdge{from: regions[s.Region], to: domains[s.Domain], capacity: s.Nodes, price: func(flow int) int {
			if flow+1 == s.Nodes {
				return sparePrice // the last node of the site: no spare is left
			}
			return 0
		}})
	}
	return d
}

func (d *deal) add(e dealEdge) { d.edges = append(d.edges, e) }

// run deals n shares and reports whether that was possible.
func (d *deal) run(n int) bool {
	for range n {
		if !d.augment() {
			return false
		}
	}
	return true
}

// augment deals one more share on the cheapest path from source to sink, which may
// take back what earlier shares were given (Bellman-Ford: prices of taking back are
// negative).
func (d *deal) augment() bool {
	const far = math.MaxInt / 2
	distance, by, back := make([]int, d.vertices), make([]int, d.vertices), make([]bool, d.vertices)
	for v := range distance {
		distance[v] = far
	}
	distance[0] = 0
	for changed := true; changed; {
		changed = false
		relax := func(from, to, price, edge int, backwards bool) {
			if distance[from] < far && distance[from]+price < distance[to] {
				distance[to], by[to], back[to], changed = distance[from]+price, edge, backwards, true
			}
		}
		for k, e := range d.edges {
			if e.flow < e.capacity {
				relax(e.from, e.to, e.price(e.flow), k, false)
			}
			if e.flow > 0 {
				relax(e.to, e.from, -e.price(e.flow-1), k, true)
			}
		}
	}
	if distance[1] >= far {
		return false
	}
	for v := 1; v != 0; {
		e := &d.edges[by[v]]
		if back[v] {
			e.flow--
			v = e.to
		} else {
			e.flow++
			v = e.from
		}
	}
	return true
}

// homes lists n homes as dealt, site by site in turn.
func (d *deal) homes(n int) []Home {
	out := make([]Home, 0, n)
	for round := 0; len(out) < n; round++ {
		for k, s := range d.sites {
			if d.edges[d.site[k]].flow > round && len(out) < n {
				out = append(out, s.Home)
			}
		}
	}
	return out
}
