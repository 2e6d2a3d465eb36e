package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
)

// A wrapping domain is one token, or a cluster that shares keys. Local nodes use
// the token of config/hsm, which is hsm.DefaultDomain; nodes on other hosts name
// theirs. A domain is in use as long as a node of the pool names it. A version of
// the wrapping key is a round: each domain in use has one key of that number, and
// all of them are in one record, so that "the newest version" is one number.
//
//   - A round is made when every domain in use has a node that is ready. Otherwise
//     nothing is made, and the error says which domain waits for whom.
//   - A domain that comes into use gets a key of the newest version (joinDomain).
//   - A domain out of use is no part of later rounds. Its keys of earlier versions
//     stay known for as long as anything is sealed to the version; when that is
//     destroyed, a key whose domain no node names any more is left behind: nobody
//     can destroy it from here, and it must not keep the others from being
//     destroyed. wrapping-keys/:version says so, and so does the log. When a node
//     of the domain joins again, it is destroyed after all.

// isWrappingDomain says whether a seal of that domain is to a key of this mount's
// tokens, and not to a recovery recipient.
func isWrappingDomain(domain string) bool { return !recovery.IsRecipientDomain(domain) }

// remoteDomains lists the domains that enrolled nodes on other hosts name.
func (s *store) remoteDomains(ctx context.Context) ([]string, error) {
	nodes, err := s.remoteNodes(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range nodes {
		if !slices.Contains(out, n.Domain) {
			out = append(out, n.Domain)
		}
	}
	slices.SortFunc(out, compareDomains)
	return out, nil
}

// domainsInUse lists the domains that this mount uses: the default one first, then
// by name. conf is nil where config/hsm is not written.
func (s *store) domainsInUse(ctx context.Context, conf *hsmRecord) ([]string, error) {
	out, err := s.remoteDomains(ctx)
	if err != nil {
		return nil, err
	}
	if conf == nil || s.noLocal || slices.Contains(out, hsm.DefaultDomain) {
		return out, nil
	}
	if len(out) > 0 { // perhaps no node of this host is left
		nodes, err := s.nodesConfig(ctx)
		if err != nil {
			return nil, err
		}
		if nodes.Local == 0 {
			return out, nil
		}
	}
	return slices.Insert(out, 0, hsm.DefaultDomain), nil
}

// compareDomains orders names of domains, the default one first.
func compareDomains(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == hsm.DefaultDomain:
		return -1
	case b == hsm.DefaultDomain:
		return 1
	}
	return strings.Compare(a, b)
}

// uses says whether a domain is in use.
func (k *keyring) uses(domain string) bool { return slices.Contains(k.domains, domain) }

// domainAwayError: domains whose keys are needed have no node that is ready.
type domainAwayError struct {
	domains []string
	waits   []string // in words, one for each
	few     *pool.TooFewNodesError
}

func (e *domainAwayError) Error() string { return strings.Join(e.waits, "; ") }

// Unwrap makes it what it is to a caller: nodes are missing.
func (e *domainAwayError) Unwrap() error { return e.few }

// domainOf is the wrapping domain of a node.
func domainOf(n pool.NodeStatus) string {
	if n.Domain == "" {
		return hsm.DefaultDomain
	}
	return n.Domain
}

// domainReady fails with *domainAwayError where one of the domains has no node that
// is ready. What is asked of a node would otherwise wait for it, and keep others
// from what is reserved meanwhile.
func domainReady(eng Engine, names ...string) error {
	nodes := eng.Nodes()
	away := &domainAwayError{}
	for _, name := range names {
		var waits []string
		ready := false
		for _, n := range nodes {
			if domainOf(n) != name {
				continue
			}
			ready = ready || n.State == pool.NodeReady
			waits = append(waits, fmt.Sprintf("%s (%s)", n.ID, n.State))
		}
		if ready {
			continue
		}
		if away.few == nil {
			away.few = &pool.TooFewNodesError{Needed: 1, Configured: len(waits)}
		}
		text := fmt.Sprintf("wrapping domain %q has no node", name)
		if len(waits) > 0 {
			text = fmt.Sprintf("wrapping domain %q waits for one of its nodes, none of which is ready: %s", name, strings.Join(waits, ", "))
		}
		away.domains, away.waits = append(away.domains, name), append(away.waits, text)
	}
	if len(away.domains) == 0 {
		return nil
	}
	if len(names) == 1 && names[0] == hsm.DefaultDomain {
		return away.few
	}
	return away
}

// suites lists what a new key of the domain may be: what config/hsm says for its
// token, else what the domain's newest key is, since nothing changes to another
// suite by itself, else what the token really does.
func (k *keyring) suites(domain string) ([]hsm.Suite, error) {
	if domain == hsm.DefaultDomain && k.configured {
		suite, err := hsm.ParseSuite(k.suite)
		if err != nil {
			return nil, fmt.Errorf("config/hsm: %w", err)
		}
		return []hsm.Suite{suite}, nil
	}
	for i := len(k.records) - 1; i >= 0; i-- {
		if p := k.part(&k.records[i], domain); p != nil {
			suite, err := hsm.ParseSuite(p.Suite)
			if err != nil {
				return nil, fmt.Errorf("stored wrapping key %d of domain %q: %w", k.records[i].KeyVersion, domain, err)
			}
			return []hsm.Suite{suite}, nil
		}
	}
	return []hsm.Suite{hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256}, nil
}

// lacking lists the domains in use that have no key of the newest version.
func (k *keyring) lacking() []string {
	newest := k.newest()
	if newest == nil {
		return nil
	}
	var out []string
	for _, d := range k.domains {
		if k.part(newest, d) == nil {
			out = append(out, d)
		}
	}
	return out
}

// needMount returns the mount's identity, which keys are labelled with.
func (b *backend) needMount(ctx context.Context) (*mountRecord, error) {
	m, err := b.store.mount(ctx)
	if err == nil && m == nil {
		err = errors.New("the mount's identity is missing from storage: restore it from a backup")
	}
	return m, err
}
