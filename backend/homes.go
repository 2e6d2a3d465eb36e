package backend

import (
	"fmt"
	"maps"
	"slices"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// Shares live where their epoch says: sealed to one wrapping domain, opened by nodes
// of one region. What nodes return is checked against what was asked for, since an
// epoch that is stored replaces good shares.

// homesOf returns where each share lives, in index order. Shares of an account
// without homes live in the domain that they are sealed to, in any region. The
// caller may change what it returns.
func homesOf(a *mpc.Account) []mpc.Home {
	if len(a.Homes) == a.Record.Shares {
		return slices.Clone(a.Homes)
	}
	out := make([]mpc.Home, a.Record.Shares)
	for i := range out {
		out[i].Domain = hsm.DefaultDomain
		if i < len(a.Shares) {
			if d := sealedDomain(a.Shares[i].Envelope); d != "" {
				out[i].Domain = d
			}
		}
	}
	return out
}

// sealedDomain is the wrapping domain that an envelope is sealed to, besides
// recovery recipients; empty where that cannot be seen.
func sealedDomain(envelope []byte) string {
	seals, err := hsm.Seals(envelope)
	if err != nil {
		return ""
	}
	for _, s := range seals {
		if isWrappingDomain(s.Domain) {
			return s.Domain
		}
	}
	return ""
}

// checkLived verifies that nodes made shares that live where they were to: in the
// homes that were asked for or, without any, in the domains that those of the epoch
// before are sealed to.
func checkLived(got *mpc.Account, want []mpc.Home, old *mpc.Account) error {
	if !slices.Equal(got.Homes, want) {
		return fmt.Errorf("nodes made shares that live in %v, and not in %v", got.Homes, want)
	}
	if len(want) > 0 {
		return nil // epochFrom looks at what they are sealed to
	}
	for i, h := range homesOf(old) {
		if i < len(got.Shares) && sealedDomain(got.Shares[i].Envelope) != h.Domain {
			return fmt.Errorf("nodes sealed share %d to another wrapping domain than %q, where it lives", i+1, h.Domain)
		}
	}
	return nil
}

// lives reports whether a node may open share i, as far as homes go.
func lives(homes []mpc.Home, i mpc.Index, n pool.NodeStatus) bool {
	return i >= 1 && int(i) <= len(homes) && homes[i-1] == mpc.Home{Domain: domainOf(n), Region: n.Region}
}

// identitiesOf returns the nodes by identity.
func identitiesOf(nodes []pool.NodeStatus) map[mpc.NodeIdentity]pool.NodeStatus {
	out := map[mpc.NodeIdentity]pool.NodeStatus{}
	for _, n := range nodes {
		if id, err := mpc.ParseNodeIdentity(n.Identity); err == nil {
			out[id] = n
		}
	}
	return out
}

// addOpeners names, for each share of a new epoch that has moved, a node of its new
// home that will open it: the node that made it, of its old home, cannot. That it
// has seen the share goes into the epoch before anybody is handed one.
func addOpeners(a *mpc.Account, nodes []pool.NodeStatus) error {
	homes := a.Homes
	if len(homes) == 0 {
		return nil
	}
	at := identitiesOf(nodes)
	held := map[mpc.Index]bool{}
	for id, i := range a.Exposures {
		// A node that the engine does not list any more held a share where it was.
		if n, ok := at[id]; !ok || lives(homes, i, n) {
			held[i] = true
		}
	}
	seen := maps.Clone(a.Exposures)
	for i := mpc.Index(1); int(i) <= a.Record.Shares; i++ {
		if held[i] {
			continue
		}
		found := false
		for id, n := range at {
			if _, taken := seen[id]; !taken && n.State == pool.NodeReady && lives(homes, i, n) {
				seen[id], found = i, true
				break
			}
		}
		if !found {
			h := homes[i-1]
			return conflict("no node of wrapping domain %q, region %q, that has not seen another share is ready to take share %d over: the account keeps its shares where they are; see nodes/, and repeat the request when one is", h.Domain, h.Region, i)
		}
	}
	a.Exposures = seen
	return nil
}

// atHome returns the exposures of nodes that can open what they have seen, for
// checks that the shares open. In a pool without homes that is all of them.
func atHome(a *mpc.Account, nodes []pool.NodeStatus) mpc.Exposures {
	if len(a.Homes) == 0 {
		return a.Exposures
	}
	out, at := mpc.Exposures{}, identitiesOf(nodes)
	for id, i := range a.Exposures {
		if n, ok := at[id]; !ok || lives(a.Homes, i, n) {
			out[id] = i
		}
	}
	return out
}
