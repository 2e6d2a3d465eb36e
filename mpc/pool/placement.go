package pool

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/mpc"
)

// candidate is a node that could serve a share now.
type candidate struct {
	id       string
	identity mpc.NodeIdentity
	// domain is the wrapping domain of its token, region its label.
	domain, region string
	// rtt is the smoothed time of a status call to a node on another host, 0 for a
	// local one.
	rtt time.Duration
}

// assignment says which node serves which share in one session.
type assignment struct {
	index mpc.Index
	node  candidate
	// spare is set when the node has not seen a share of this epoch yet: its
	// exposure must be stored before it is handed one.
	spare bool
}

// maxPlacementSteps bounds the search; with n ≤ 16 and nodes that can all work
// with each other the first try succeeds.
const maxPlacementSteps = 20_000

// rule is what a placement has to keep to: which of an account's shares are to be
// served, and by whom each may be.
type rule struct {
	n, count int           // shares in all, shares needed
	seen     mpc.Exposures // a node serves no share but the one it has seen
	avoid    map[mpc.Index]bool
	// where the shares live: a node of another home cannot open them, or must not.
	where siting
	// compatible, where not nil, tells whether two nodes can work together.
	compatible func(a, b candidate) bool
	// pool returns all nodes of the pool, ready or not. It is called where spares may
	// be chosen only, and nil where it does not matter what remains for these nodes. See
	// keepsWhole.
	pool func() []candidate
}

// place chooses count shares at random out of 1…n and a node for each, so that
// no node serves a share other than the one it has already seen in this epoch,
// nor one that lives elsewhere. Per share it prefers a node that has seen it, else
// takes one that has seen none, maxSpares of them at most. Where some nodes are much
// nearer than others it begins with those. It returns nil when there is no such
// choice.
func (r *rule) place(ready []candidate, maxSpares int) []assignment {
	byIndex := make(map[mpc.Index][]candidate)
	spares := make(map[mpc.Home][]candidate)
	for _, c := range shuffled(ready) {
		if i, ok := r.seen[c.identity]; !ok {
			home := r.where.of(c)
			spares[home] = append(spares[home], c)
		} else if r.where.may(i, c) {
			byIndex[i] = append(byIndex[i], c)
		}
	}
	indices := make([]mpc.Index, 0, r.n)
	for _, i := range rand.Perm(r.n) {
		if !r.avoid[mpc.Index(i+1)] {
			indices = append(indices, mpc.Index(i+1))
		}
	}
	if farApart(ready) {
		nearestFirst(ready, indices, func(i mpc.Index) [][]candidate { return [][]candidate{byIndex[i], spares[r.where.home(i)]} })
	}

	var chosen []assignment
	used := map[string]bool{}
	steps, spent := 0, 0
	var pool []candidate
	whole := false
	if r.pool != nil && r.count < r.n && maxSpares > 0 {
		pool = r.pool()
		whole = r.keepsWhole(pool, nil)
	}
	clash := func(c candidate) bool {
		return used[c.id] || r.compatible != nil && slices.ContainsFunc(chosen, func(a assignment) bool { return !r.compatible(a.node, c) })
	}
	var search func(k int) bool
	search = func(k int) bool {
		if len(chosen) == r.count {
			return true
		}
		if len(indices)-k < r.count-len(chosen) {
			return false
		}
		i := indices[k]
		options := append(slices.Clip(byIndex[i]), spares[r.where.home(i)]...)
		for o, c := range options {
			if steps++; steps > maxPlacementSteps {
				return false
			}
			spare := o >= len(byIndex[i])
			if spare && spent >= maxSpares {
				break // only spares follow
			}
			if clash(c) {
				continue
			}
			used[c.id] = true
			chosen = append(chosen, assignment{index: i, node: c, spare: spare})
			if spare {
				spent++
			}
			if (!spare || !whole || r.keepsWhole(pool, chosen)) && search(k+1) {
				return true
			}
			if spare {
				spent--
			}
			chosen = chosen[:len(chosen)-1]
			delete(used, c.id)
		}
		return search(k + 1) // without share i
	}
	if !search(0) {
		return nil
	}
	slices.SortFunc(chosen, func(a, b assignment) int { return int(a.index) - int(b.index) })
	return chosen
}

// keepsWhole reports whether the nodes of the pool could still serve all shares at
// once, as a refresh demands, after the nodes chosen have seen theirs. A spare that
// takes a share which others have may be the last that could have served one that
// nobody in the pool has any more, since the node that made it was taken away. Such
// a choice is never needed: the same nodes can serve other shares (sets of nodes that
// can be matched with shares are independent in a transversal matroid, so each
// extends to one that serves all).
func (r *rule) keepsWhole(pool []candidate, chosen []assignment) bool {
	serves := func(c candidate, i mpc.Index) bool {
		for _, a := range chosen {
			if a.node.id == c.id {
				return a.index == i
			}
		}
		seen, ok := r.seen[c.identity]
		return r.where.may(i, c) && (!ok || seen == i)
	}
	return mpc.Matched(r.n, len(pool), func(share, node int) bool { return serves(pool[node], mpc.Index(share+1)) }) == r.n
}

// spares counts how many spares a placement takes at least and at most. It leaves
// out of account that nodes may not be able to work together; without that, and
// where the first number is not above the second, there is a placement.
func (r *rule) spares(ready []candidate) (least, most int) {
	type tally struct{ shares, held, unseen int }
	homes := map[mpc.Home]*tally{}
	at := func(h mpc.Home) *tally {
		if homes[h] == nil {
			homes[h] = &tally{}
		}
		return homes[h]
	}
	var held uint32 // bit i: a ready node of its home has seen share i
	for _, c := range ready {
		if i, ok := r.seen[c.identity]; !ok {
			at(r.where.of(c)).unseen++
		} else if int(i) <= r.n && r.where.may(i, c) {
			held |= 1 << i
		}
	}
	for i := mpc.Index(1); int(i) <= r.n; i++ {
		if r.avoid[i] {
			continue
		}
		t := at(r.where.home(i))
		t.shares++
		if held&(1<<i) != 0 {
			t.held++
		}
	}
	all, free := 0, 0
	for t := range maps.Values(homes) {
		all += t.held
		free += min(t.unseen, t.shares-t.held)
	}
	return max(0, r.count-all), min(free, r.count)
}

// fewestSpares returns the least number of spares with which place succeeds, if
// that is most or less. A spare is precious: it can serve one share only until
// the next refresh, and may be all that is left when a node dies.
func (r *rule) fewestSpares(ready []candidate, most int) (spares int, first []assignment) {
	least, free := r.spares(ready)
	for spares = least; spares <= min(most, free); spares++ {
		if first = r.place(ready, spares); first != nil {
			return spares, first
		}
	}
	return 0, nil
}

func shuffled(in []candidate) []candidate {
	out := slices.Clone(in)
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// unserved names a share that no ready node may serve, and the nodes that could if
// they were ready, to explain a failed placement; nil where there is none. known
// are all nodes of the pool with an identity.
func (r *rule) unserved(noSpares bool, ready, known []candidate) *NoEligibleNodeError {
	isReady := map[mpc.NodeIdentity]bool{}
	spare := map[mpc.Home]int{} // ready nodes that have seen nothing
	for _, c := range ready {
		isReady[c.identity] = true
		if _, ok := r.seen[c.identity]; !ok && !noSpares {
			spare[r.where.of(c)]++
		}
	}
	var first *NoEligibleNodeError
	for i := mpc.Index(1); int(i) <= r.n; i++ {
		served := false
		home := r.where.home(i)
		e := &NoEligibleNodeError{Index: i, NoSpares: noSpares, Domain: home.Domain, Region: home.Region}
		for _, c := range known {
			index, ok := r.seen[c.identity]
			if !r.where.may(i, c) || ok && index != i || !ok && (noSpares || isReady[c.identity]) {
				continue
			}
			served = served || ok && isReady[c.identity]
			e.WaitsFor = append(e.WaitsFor, c.id)
		}
		if !served && spare[home] > 0 {
			spare[home]--
			served = true
		}
		if !served && first == nil {
			slices.Sort(e.WaitsFor)
			first = e
		}
	}
	return first
}
