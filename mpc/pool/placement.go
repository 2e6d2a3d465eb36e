package pool

import (
	"math/rand/v2"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
)

// candidate is a node that could serve a share now.
type candidate struct {
	id       string
	identity mpc.NodeIdentity
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
// none. compatible tells whether two nodes can work together. It returns nil
// when there is no such choice.
func place(n, count int, seen mpc.Exposures, ready []candidate, avoid map[mpc.Index]bool,
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
	steps := 0
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
			if used[c.id] || slices.ContainsFunc(chosen, func(a assignment) bool { return !compatible(a.node, c) }) {
				continue
			}
			used[c.id] = true
			chosen = append(chosen, assignment{index: i, node: c, spare: o >= len(byIndex[i])})
			if search(k + 1) {
				return true
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

func shuffled(in []candidate) []candidate {
	out := slices.Clone(in)
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// unserved names a share that no ready node may serve, and the nodes that
// could if they were ready, to explain a failed placement. names maps
// identities to node IDs.
func unserved(n int, seen mpc.Exposures, ready []candidate, names map[mpc.NodeIdentity]string) *NoEligibleNodeError {
	isReady := map[mpc.NodeIdentity]bool{}
	spare := false
	for _, c := range ready {
		isReady[c.identity] = true
		if _, ok := seen[c.identity]; !ok {
			spare = true
		}
	}
	if spare {
		return nil
	}
	for i := mpc.Index(1); int(i) <= n; i++ {
		served := false
		e := &NoEligibleNodeError{Index: i}
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
