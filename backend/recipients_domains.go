package backend

import "vault-plugin-secrets-mpc/recovery"

// setNames reports whether a recipient set says that a node with that identity may
// vouch for keys of a wrapping domain; an empty domain stands for any, and an empty
// node for any as well.
func setNames(set *recovery.RecipientSet, domain, node, identity string) bool {
	return false
}
