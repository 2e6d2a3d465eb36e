package recovery

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/mpc"
)

// Bounds of a set's domains, far above what a pool has.
const (
	maxDomains     = 32
	maxDomainNodes = 64
)

// Domain is a wrapping domain, one token or a cluster of HSMs that share keys, and
// the nodes whose word for its keys counts: nodes elsewhere seal to a key of the
// domain when one of these has endorsed it (hsm.EndorseKey). They take these nodes
// for peers, too, without their host's operators naming them.
type Domain struct {
	Name  string       `json:"name"`
	Nodes []DomainNode `json:"nodes"`
}

// DomainNode is a node whose token is its domain's.
type DomainNode struct {
	ID string `json:"id"`
	// Identity is the node's Ed25519 public key, 64 lower-case hex digits.
	Identity string `json:"identity"`
}

// HasDomain reports whether the set names a domain.
func (s *RecipientSet) HasDomain(name string) bool {
	return slices.ContainsFunc(s.Domains, func(d Domain) bool { return d.Name == name })
}

// Vouches reports whether the set names a node, by its identity, in a domain.
func (s *RecipientSet) Vouches(domain string, node mpc.NodeIdentity) bool {
	for _, d := range s.Domains {
		if d.Name == domain {
			return slices.ContainsFunc(d.Nodes, func(n DomainNode) bool { return n.Identity == node.String() })
		}
	}
	return false
}

// checkDomains refuses what could be read in two ways: a domain, a node or an
// identity that is there twice. A node has one token.
func checkDomains(domains []Domain) error {
	if len(domains) == 0 || len(domains) > maxDomains {
		return fmt.Errorf("recovery: %d wrapping domains, not 1 to %d", len(domains), maxDomains)
	}
	names, ids, identities := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, d := range domains {
		if !plainName(d.Name) {
			return fmt.Errorf("recovery: a wrapping domain's name has 1 to %d of a-z, 0-9, dot, dash and underscore", maxName)
		}
		if names[d.Name] {
			return fmt.Errorf("recovery: wrapping domain %s is in the set twice", d.Name)
		}
		names[d.Name] = true
		if len(d.Nodes) == 0 || len(d.Nodes) > maxDomainNodes {
			return fmt.Errorf("recovery: %d nodes in wrapping domain %s, not 1 to %d: without one nobody can vouch for its keys", len(d.Nodes), d.Name, maxDomainNodes)
		}
		for _, n := range d.Nodes {
			if !plainName(n.ID) {
				return fmt.Errorf("recovery: a node's name has 1 to %d of a-z, 0-9, dot, dash and underscore", maxName)
			}
			if id, err := mpc.ParseNodeIdentity(n.Identity); err != nil || id.String() != n.Identity || id == (mpc.NodeIdentity{}) {
				return fmt.Errorf("recovery: the identity of %s must be 64 lower-case hex digits", n.ID)
			}
			if ids[n.ID] || identities[n.Identity] {
				return fmt.Errorf("recovery: node %s, or the same identity, is in the set twice", n.ID)
			}
			ids[n.ID], identities[n.Identity] = true, true
		}
	}
	return nil
}

// ErrNoRecipients: the set names wrapping domains only.
var ErrNoRecipients = errors.New("recovery: the set has no recovery recipients, so the account has no recovery copy")

func plainName(s string) bool {
	return s != "" && len(s) <= maxName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
}
