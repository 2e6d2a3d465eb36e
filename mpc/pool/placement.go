package pool

import (
	"math/bits"
	"math/rand/v2"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
)

// candidate is a node that could serve a share now.
type candidate struct {
	id       string
	identity mpc.NodeIdentity
	// domain is the wrapping domain of its token, region its label.
	domain, region string
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

// place chooses count shares at random out of 1…n and a node for each, so that
// no node serves a share other than the one it has already seen in this epoch.
// Per share it prefers a node that has seen it, else takes one that has seen
// none, maxSpares of them at most. compatible, where not nil, tells whether two
// nodes can work together. It returns nil when there is no such choice.
func place(n, count int, seen mpc.Exposures, ready []candidate, avoid map[mpc.Index]bool, maxSpares int,
	compatible func(a, b candidate) bool) []assignment {
	byIndex := make(map[mpc.Index][]candidate)
	var spares []candidate
	for _, c := range shuffled(ready) {
		if i, ok := seen[c.identity]; ok {
			byIndex[i] = append(byIndex[i], c)
		} else {
			spares = append(spares, c)
		}
	}
	indices := make([]mpc.Index, 0, n)
	for _, i := range rand.Perm(n) {
		if !avoid[mpc.Index(i+1)] {
			indices = append(indices, mpc.Index(i+1))
		}
	}

	var chosen []assignment
	used := map[string]bool{}
	steps, spent := 0, 0
	clash := func(c candidate) bool {
		return used[c.id] || compatible != nil && slices.ContainsFunc(chosen, func(a assignment) bool { return !compatible(a.node, c) })
	}
	var search func(k int) bool
	search = func(k int) bool {
		if len(chosen) == count {
			return true
		}
		if len(indices)-k < count-len(chosen) {
			return false
		}
		i := indices[k]
		options := append(slices.Clip(byIndex[i]), spares...)
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
			if search(k + 1) {
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

// fewestSpares returns the least number of spares with which place succeeds, if
// that is most or less. A spare is precious: it can serve one share only until
// the next refresh, and may be all that is left when a node dies.
func fewestSpares(n, count int, seen mpc.Exposures, ready []candidate, avoid map[mpc.Index]bool, most int,
	compatible func(a, b candidate) bool) (spares int, first []assignment) {
	var held uint32 // bit i: a ready node has seen share i
	unseen := 0
	for _, c := range ready {
		if i, ok := seen[c.identity]; !ok {
			unseen++
		} else if !avoid[i] {
			held |= 1 << i
		}
	}
	least := max(0, count-bits.OnesCount32(held))
	for spares = least; spares <= min(most, unseen, count); spares++ {
		if first = place(n, count, seen, ready, avoid, spares, compatible); first != nil {
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

// unserved names a share that no ready node may serve, and the nodes that
// could if they were ready, to explain a failed placement. names maps
// identities to node IDs.
func unserved(n int, seen mpc.Exposures, noSpares bool, ready []candidate, names map[mpc.NodeIdentity]string) *NoEligibleNodeError {
	isReady := map[mpc.NodeIdentity]bool{}
	spare := false
	for _, c := range ready {
		isReady[c.identity] = true
		if _, ok := seen[c.identity]; !ok {
			spare = !noSpares
		}
	}
	if spare {
		return nil
	}
	for i := mpc.Index(1); int(i) <= n; i++ {
		served := false
		e := &NoEligibleNodeError{Index: i, NoSpares: noSpares}
		for identity, index := range seen {
			if index != i {
				continue
			}
			served = served || isReady[identity]
			if name := names[identity]; name != "" {
				e.WaitsFor = append(e.WaitsFor, name)
			}
		}
		if !served {
			slices.Sort(e.WaitsFor)
			return e
		}
	}
	return nil
}
