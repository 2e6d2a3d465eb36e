package pool

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// doubts is what one job has learned about nodes from sessions that failed. It
// ends with the job: nothing in it is proof, so no node is put out of the pool
// for it. A node that could have others evicted by accusing them would only
// have to accuse often enough.
//
// A failed session names the nodes of which one at least is at fault: the
// reporter and those it blames, whoever broke off, or everybody who kept
// another waiting. With one bad node it is among them every time, so it leads
// the count, and the others are chosen first. Each further failure halves, or
// better, the number of nodes that are as suspect as it.
type doubts struct {
	suspects map[string]suspicion // by node ID
	// excused holds nodes that could not take part for once and are not to
	// blame for it.
	excused map[string]bool
	// refused holds the nodes that called the request wrong. One may lie; two
	// are believed.
	refused map[string]bool
	refusal error
	// unusable holds, per share, the nodes that could not open it. Again one
	// may lie; without another node to ask it is believed all the same.
	unusable map[mpc.Index]map[string]bool
	// barred holds the nodes whose own host keeps them from this operation, by its
	// floor or a switch, and what they said. Others may serve.
	barred map[string]error
}

type suspicion struct {
	sessions int // that failed with the node among those one of whom is bad
	likely   int // how often it was the first to think of
}

func (d *doubts) suspect(node string, likely bool) {
	if d.suspects == nil {
		d.suspects = map[string]suspicion{}
	}
	s := d.suspects[node]
	s.sessions++
	if likely {
		s.likely++
	}
	d.suspects[node] = s
}

// excuse suspects a node only from the second time on.
func (d *doubts) excuse(node string) {
	if d.excused[node] {
		d.suspect(node, true)
		return
	}
	if d.excused == nil {
		d.excused = map[string]bool{}
	}
	d.excused[node] = true
}

func (d *doubts) refuse(node string, err error) {
	if d.refused == nil {
		d.refused = map[string]bool{}
	}
	d.refused[node], d.refusal = true, err
}

func (d *doubts) bar(node string, err error) {
	if d.barred == nil {
		d.barred = map[string]error{}
	}
	d.barred[node] = err
}

func (d *doubts) unopened(i mpc.Index, node string) {
	if d.unusable == nil {
		d.unusable = map[mpc.Index]map[string]bool{}
	}
	if d.unusable[i] == nil {
		d.unusable[i] = map[string]bool{}
	}
	d.unusable[i][node] = true
}

// broken returns the shares that so many nodes at least could not open.
func (d *doubts) broken(nodes int) map[mpc.Index]bool {
	out := map[mpc.Index]bool{}
	for i, by := range d.unusable {
		if len(by) >= nodes {
			out[i] = true
		}
	}
	return out
}

// final says what ends the job when no placement is left, or nil where it can
// wait for other nodes.
func (d *doubts) final(n, count int) error {
	switch {
	case d.refusal != nil:
		return d.refusal
	case len(d.barred) > 0:
		// Of several, the first by name: the same each time.
		return d.barred[slices.Min(slices.Collect(maps.Keys(d.barred)))]
	case len(d.unusable) > n-count:
		return ErrShareUnusable
	}
	return nil
}

// plan finds what the job could use of the nodes that are ready, or nil where
// they do not suffice. It says whether that includes suspects.
func (j *job) plan(ready []candidate) (w *wish, forgives bool) {
	d := &j.doubts
	eligible := slices.DeleteFunc(slices.Clone(ready), func(c candidate) bool {
		if _, seen := j.seen[c.identity]; j.noSpares && !seen {
			return true
		}
		for _, by := range d.unusable {
			if by[c.id] {
				return true // it can serve no other share
			}
		}
		return d.refused[c.id] || d.barred[c.id] != nil
	})
	w, forgives = j.planShares(eligible, d.broken(1))
	if w == nil && len(d.unusable) > 0 {
		// Ask other nodes about shares that one node did not open.
		w, forgives = j.planShares(eligible, d.broken(2))
	}
	return w, forgives
}

// planShares plans without the shares to avoid. It uses as few spares as
// possible; only to get by without suspects it adds one, so that whoever makes
// sessions fail costs the account one spare for each.
func (j *job) planShares(eligible []candidate, avoid map[mpc.Index]bool) (*wish, bool) {
	r, worth := j.rule(eligible, avoid)
	spares, first := r.fewestSpares(eligible, j.count)
	if first == nil {
		return nil, false
	}
	if len(j.doubts.suspects) == 0 {
		return j.wish(r, eligible, spares, first), false
	}
	ranked := shuffled(eligible)
	slices.SortStableFunc(ranked, func(a, b candidate) int {
		x, y := j.doubts.suspects[a.id], j.doubts.suspects[b.id]
		return cmp.Or(cmp.Compare(x.sessions, y.sessions), cmp.Compare(x.likely, y.likely))
	})
	clean := slices.IndexFunc(ranked, func(c candidate) bool { return j.doubts.suspects[c.id].sessions > 0 })
	if clean < 0 {
		clean = len(ranked)
	}
	for k := max(clean, j.count); k < len(ranked); k++ {
		some, theirs := j.rule(ranked[:k], avoid)
		if theirs != worth {
			continue // shares would be spread worse than they can be
		}
		if s, first := some.fewestSpares(ranked[:k], spares+1); first != nil {
			return j.wish(some, ranked[:k], s, first), k > clean
		}
	}
	return j.wish(r, eligible, spares, first), clean < len(ranked)
}

// rule is what a placement of this job has to keep to. For shares that are only to
// be made, it depends on who could get them; then it comes with what the homes that
// were planned for them are worth.
func (j *job) rule(candidates []candidate, avoid map[mpc.Index]bool) (*rule, mpc.Guarantee) {
	r := &rule{n: j.n, count: j.count, seen: maps.Clone(j.seen), avoid: avoid, where: j.where, compatible: j.compatible}
	if j.plans == nil {
		if !j.noSpares {
			r.pool = j.pool.members
		}
		return r, mpc.Guarantee{}
	}
	var worth mpc.Guarantee
	r.where, worth = j.plans(candidates)
	return r, mpc.Guarantee{RegionCompromise: worth.RegionCompromise, RegionLoss: worth.RegionLoss,
		DomainCompromise: worth.DomainCompromise, DomainLoss: worth.DomainLoss}
}

// wish asks for a placement among the candidates. That a node is busy is no
// reason to use another spare, but to use one that is farther away. first is a
// placement for the case that all its nodes are free.
func (j *job) wish(r *rule, candidates []candidate, spares int, first []assignment) *wish {
	w := &wish{count: j.count}
	for _, c := range candidates {
		w.nodes = append(w.nodes, c.id)
	}
	if farApart(candidates) {
		if near := r.nearest(candidates, spares); near != nil {
			first = near
		}
	}
	w.place = func(free func(string) bool) []assignment {
		if !slices.ContainsFunc(first, func(a assignment) bool { return !free(a.node.id) }) {
			return first
		}
		return r.nearest(slices.DeleteFunc(slices.Clone(candidates), func(c candidate) bool { return !free(c.id) }), spares)
	}
	return w
}

// agreed returns a job's check that outcomes of key generation or refresh are
// the same for all n nodes, and leaves the result in *result. A node with
// another result than the rest is the odd one; where no result has a majority
// it may be any.
func agreed(result **KeyResult) func([]assignment, map[mpc.Index]*nodepb.Outcome) ([]mpc.Index, error) {
	return func(chosen []assignment, outcomes map[mpc.Index]*nodepb.Outcome) (odd []mpc.Index, err error) {
		if *result, err = agree(chosen, outcomes); err == nil {
			return nil, nil
		}
		type content struct{ record, session string }
		groups := map[content][]mpc.Index{}
		all := make([]mpc.Index, 0, len(chosen))
		for _, a := range chosen {
			all = append(all, a.index)
			o := outcomes[a.index]
			record, parseErr := mpc.ParsePublicRecord(o.GetRecord())
			if parseErr != nil || !mpc.VerifyEndorsement(a.node.identity, record, o.GetEndorsement()) {
				odd = append(odd, a.index)
				continue
			}
			c := content{string(o.GetRecord()), string(o.GetSessionId()) + string(binary.BigEndian.AppendUint32(nil, o.GetWrappingVersion()))}
			groups[c] = append(groups[c], a.index)
		}
		if len(odd) > 0 {
			return odd, err // that much is certain
		}
		for _, same := range groups {
			if 2*len(same) > len(all) {
				odd = slices.DeleteFunc(all, func(i mpc.Index) bool { return slices.Contains(same, i) })
			}
		}
		if len(odd) == 0 {
			odd = all
		}
		return odd, err
	}
}
