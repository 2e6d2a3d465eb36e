package pool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
)

// startingWait bounds how long the making of an account waits for nodes that have
// not been ready yet since the pool was started, or since they were added: without
// it an account that is made right after a restart of Vault would lie where nodes
// come up first.
const startingWait = 3 * time.Second

// spreads reports whether accounts get homes: in a pool of local nodes without a
// region there is one place only.
func (s *Settings) spreads() bool { return len(s.Remote) > 0 || s.LocalRegion != "" }

// nodesIn counts the nodes of some wrapping domains, of all where none is named.
func (s *Settings) nodesIn(domains []string) (n int) {
	if len(domains) == 0 || slices.Contains(domains, hsm.DefaultDomain) {
		n = s.Local
	}
	for _, r := range s.Remote {
		if len(domains) == 0 || slices.Contains(domains, r.Domain) {
			n++
		}
	}
	return n
}

// awaitStarting waits a moment for nodes that are only starting.
func (p *Pool) awaitStarting(ctx context.Context) {
	late := time.NewTimer(startingWait)
	defer late.Stop()
	for {
		p.mu.Lock()
		changed, closed := p.changed, p.closed
		p.mu.Unlock()
		if closed || !slices.ContainsFunc(p.all(), (*poolNode).isStarting) {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (n *poolNode) isStarting() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state == NodeStarting
}

// planner returns a function that plans the homes of an account's shares for the
// nodes that there are, of some domains only where any are named. Shares that nodes
// have seen already keep to these nodes' homes as far as the plan allows it. Where
// the nodes do not suffice, the plan has homes that no node has.
func planner(t, n int, domains []string, seen mpc.Exposures) func([]candidate) (siting, mpc.Guarantee) {
	return func(nodes []candidate) (siting, mpc.Guarantee) {
		homes, err := planHomes(t, n, domains, nodes)
		if err != nil {
			return siting{homes: make([]mpc.Home, n), regions: true}, mpc.Guarantee{}
		}
		now := make([]mpc.Home, n)
		for _, c := range nodes {
			if i := seen[c.identity]; i >= 1 && int(i) <= n {
				now[i-1] = mpc.Home{Domain: c.domain, Region: c.region}
			}
		}
		return siting{homes: mpc.KeepHomes(now, homes), regions: true}, mpc.GuaranteeOf(t, homes)
	}
}

// planHomes is mpc.PlanHomes over nodes. Equally good plans take turns at random,
// so that no region has the extra share of every account.
func planHomes(t, n int, domains []string, nodes []candidate) ([]mpc.Home, error) {
	counts := map[mpc.Home]int{}
	var sites []mpc.Site
	for _, c := range nodes {
		home := mpc.Home{Domain: c.domain, Region: c.region}
		if len(domains) > 0 && !slices.Contains(domains, c.domain) {
			continue
		}
		if counts[home]++; counts[home] == 1 {
			sites = append(sites, mpc.Site{Home: home})
		}
	}
	for k := range sites {
		sites[k].Nodes = counts[sites[k].Home]
	}
	rand.Shuffle(len(sites), func(i, j int) { sites[i], sites[j] = sites[j], sites[i] })
	return mpc.PlanHomes(t, n, sites)
}

// homesOf is where the nodes of a complete assignment are, by share.
func homesOf(chosen []assignment) []mpc.Home {
	homes := make([]mpc.Home, len(chosen))
	for _, a := range chosen {
		homes[a.index-1] = mpc.Home{Domain: a.node.domain, Region: a.node.region}
	}
	return homes
}

// sealedAtHome checks what anyone can see of new shares: that each is sealed to the
// wrapping domain where it is to live.
func sealedAtHome(a *mpc.Account) error {
	for k, home := range a.Homes {
		if domain := recovery.WrappingDomain(a.Shares[k].Envelope); domain != home.Domain {
			return fmt.Errorf("share %d was sealed to wrapping domain %q instead of %q: the new shares are not used", k+1, domain, home.Domain)
		}
	}
	return nil
}
