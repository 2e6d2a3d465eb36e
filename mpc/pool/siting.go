package pool

import (
	"slices"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
)

// siting says where the shares of one account live. Its zero value is for shares
// that any node may serve.
type siting struct {
	// homes are by index, from 1 at 0; regions in them are empty where only the
	// wrapping domain counts.
	homes   []mpc.Home
	regions bool
}

// sitingOf reads where an account's shares live: the wrapping domain from the
// envelopes, since no other token can open them, and the region from the account's
// homes, where it has any. Reading an envelope takes about a microsecond.
func sitingOf(a *mpc.Account) siting {
	s := siting{homes: make([]mpc.Home, len(a.Shares)), regions: len(a.Homes) == len(a.Shares) && len(a.Homes) > 0}
	for k := range a.Shares {
		if s.regions {
			s.homes[k] = a.Homes[k]
		}
		if domain := recovery.WrappingDomain(a.Shares[k].Envelope); domain != "" {
			s.homes[k].Domain = domain
		} else if s.homes[k].Domain == "" {
			s.homes[k].Domain = hsm.DefaultDomain // its nodes say what is wrong with it
		}
	}
	return s
}

// home is where share i lives, as of tells it of nodes.
func (s siting) home(i mpc.Index) mpc.Home {
	if i < 1 || int(i) > len(s.homes) {
		return mpc.Home{}
	}
	return s.homes[i-1]
}

// of is the home that a node could serve.
func (s siting) of(c candidate) mpc.Home {
	switch {
	case s.homes == nil:
		return mpc.Home{}
	case !s.regions:
		return mpc.Home{Domain: c.domain}
	}
	return mpc.Home{Domain: c.domain, Region: c.region}
}

// may reports whether the node is at home where share i lives.
func (s siting) may(i mpc.Index, c candidate) bool { return s.homes == nil || s.home(i) == s.of(c) }

// alike is the longest round trip that counts as equal to another: up to a half
// more, and 10 ms at least, which is less than between regions and more than the
// moods of one.
func alike(rtt time.Duration) time.Duration { return rtt + max(rtt/2, 10*time.Millisecond) }

// tiers returns ascending limits on the round trip, each of which lets in all nodes
// that are about as near as the nearest that the one before kept out.
func tiers(nodes []candidate) (limits []time.Duration) {
	times := make([]time.Duration, len(nodes))
	for k, c := range nodes {
		times[k] = c.rtt
	}
	slices.Sort(times)
	for _, rtt := range times {
		if len(limits) == 0 || rtt > limits[len(limits)-1] {
			limits = append(limits, alike(rtt))
		}
	}
	return limits
}

// nearest is place, but it prefers near nodes. All messages of a session go through
// the coordinator, so every round takes as long as the way to the farthest member,
// and how far that one is counts most. After that each near member counts too: of two
// signers that are both far, each waits for what the other answers over there, so
// that a signature by FROST takes four round trips, and two where one signer is near.
// Among nodes that are about equally far the choice stays random, so that no share or
// node wears out for a millisecond. The placement rule comes first: nearness
// chooses only among placements that use as few spares as any.
func (r *rule) nearest(ready []candidate, maxSpares int) []assignment {
	limits := tiers(ready)
	for k, limit := range limits {
		near := ready
		if k < len(limits)-1 {
			near = slices.DeleteFunc(slices.Clone(ready), func(c candidate) bool { return c.rtt > limit })
		}
		if least, most := r.spares(near); least > min(most, maxSpares) {
			continue
		}
		if chosen := r.place(near, maxSpares); chosen != nil {
			return chosen
		}
	}
	return nil
}

// nearestFirst orders shares, and the lists of nodes that could serve each, by how near
// the nodes are; what is about equally near keeps its order.
func nearestFirst(ready []candidate, indices []mpc.Index, options func(mpc.Index) [][]candidate) {
	limits := tiers(ready)
	level := func(c candidate) int {
		return slices.IndexFunc(limits, func(limit time.Duration) bool { return c.rtt <= limit })
	}
	best := map[mpc.Index]int{}
	for _, i := range indices {
		best[i] = len(limits)
		for _, nodes := range options(i) { // a spare counts only where nobody has the share
			slices.SortStableFunc(nodes, func(a, b candidate) int { return level(a) - level(b) })
			if len(nodes) > 0 && best[i] == len(limits) {
				best[i] = level(nodes[0])
			}
		}
	}
	slices.SortStableFunc(indices, func(a, b mpc.Index) int { return best[a] - best[b] })
}

// farApart reports whether nearness makes a difference among nodes.
func farApart(nodes []candidate) bool {
	if len(nodes) == 0 {
		return false
	}
	least, most := nodes[0].rtt, nodes[0].rtt
	for _, c := range nodes {
		least, most = min(least, c.rtt), max(most, c.rtt)
	}
	return most > alike(least)
}
