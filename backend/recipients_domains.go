package backend

import (
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
)

// setNamesNode reports whether a recipient set names the node with that identity, so
// that nodes which pin its authority take it for a peer.
func setNamesNode(set *recovery.RecipientSet, id string, identity mpc.NodeIdentity) bool {
	return slices.ContainsFunc(set.Domains, func(d recovery.Domain) bool {
		return slices.ContainsFunc(d.Nodes, func(n recovery.DomainNode) bool { return n.ID == id && n.Identity == identity.String() })
	})
}
