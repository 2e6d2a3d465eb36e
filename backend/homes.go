package backend

import (
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
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
			if d := recovery.WrappingDomain(a.Shares[i].Envelope); d != "" {
				out[i].Domain = d
			}
		}
	}
	return out
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
		if i < len(got.Shares) && recovery.WrappingDomain(got.Shares[i].Envelope) != h.Domain {
			return fmt.Errorf("nodes sealed share %d to another wrapping domain than %q, where it lives", i+1, h.Domain)
		}
	}
	return nil
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
