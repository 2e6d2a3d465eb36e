package pool

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/recovery"
)

// A share moves to another home by a refresh in which the node of its old home
// seals the new share to the wrapping domain of the new one. That node has then
// seen the new share, and a node of the new home has opened it to check it; a second
// refresh, by nodes of the new homes alone, ends what the old home knows.

// move is a refresh's choice of homes. With homes nil all shares stay.
type move struct {
	pool     *Pool
	settings Settings
	account  *mpc.Account
	homes    []mpc.Home
	// set is the recipient set for the new epoch, unverified; nil for none.
	set *recovery.RecipientSet
}

// move checks what can be checked before any node is asked.
func (p *Pool) move(a *mpc.Account, homes []mpc.Home, recipients []byte) (*move, error) {
	settings, ok := p.currentSettings()
	if !ok {
		return nil, ErrNotConfigured
	}
	m := &move{pool: p, settings: settings, account: a, homes: homes}
	if homes == nil {
		return m, nil
	}
	if len(recipients) > 0 {
		signed, err := recovery.ParseSignedSet(recipients)
		if err != nil {
			return nil, err
		}
		m.set = signed.Unverified() // the nodes verify it
	}
	if len(homes) != a.Record.Shares {
		return nil, fmt.Errorf("pool: %d homes for %d shares", len(homes), a.Record.Shares)
	}
	where := sitingOf(a)
	for k, h := range homes {
		if h.Domain == "" {
			return nil, fmt.Errorf("pool: share %d has a home without a wrapping domain", k+1)
		}
		if h.Domain == where.home(mpc.Index(k+1)).Domain {
			continue
		}
		newest := newestOf(keysOf(settings.WrappingKeys, h.Domain))
		if newest == 0 {
			return nil, fmt.Errorf("%w: wrapping domain %q has none yet, so no share can move there; the account keeps its shares", ErrWrappingKey, h.Domain)
		}
		if m.endorsed(h.Domain, newest) == nil {
			return nil, fmt.Errorf("%w: no node has endorsed version %d of the wrapping key of domain %q, so no node elsewhere seals to it; the account keeps its shares",
				ErrWrappingKey, newest, h.Domain)
		}
	}
	return m, nil
}

// endorsed returns a domain's wrapping key of that version with a node's word for
// it, nil where there is none: the word of a node that the recipient set names, if
// one has given it, since nodes elsewhere listen to no other.
func (m *move) endorsed(domain string, version uint32) (found *nodepb.EndorsedKey) {
	for _, k := range keysOf(m.settings.WrappingKeys, domain) {
		for _, e := range m.settings.Endorsements {
			vouches := m.set != nil && m.set.Vouches(domain, e.Identity)
			if k.Version == version && e.Domain == domain && e.Version == version && (found == nil || vouches) {
				found = &nodepb.EndorsedKey{Key: wrappingKeyToWire(k), Identity: e.Identity[:], Signature: e.Signature}
				if vouches {
					return found
				}
			}
		}
	}
	return found
}

// describe names, in a member of a session, the domain that its new share is to be
// sealed to, where nodes could be in several.
func (m *move) describe(member *nodepb.Member) {
	if member.Domain = m.target(member); member.Domain == "" {
		m.pool.nameDomain(&m.settings, member)
	}
}

// nameDomain says of a member that its new share stays in its own domain. It says
// nothing in a pool that has no other.
func (p *Pool) nameDomain(s *Settings, member *nodepb.Member) {
	if n := p.node(member.GetNodeId()); n != nil && s.spreads() {
		member.Domain = n.domain
	}
}

// target is the domain that a member's new share is to be sealed to, empty for its
// own.
func (m *move) target(member *nodepb.Member) string {
	i := int(member.GetIndex())
	if i < 1 || i > len(m.homes) {
		return ""
	}
	if n := m.pool.node(member.GetNodeId()); n != nil && n.domain == m.homes[i-1].Domain {
		return ""
	}
	return m.homes[i-1].Domain
}

// version is the newest version that all members have, and all domains that shares
// move to.
func (m *move) version(members []*nodepb.Member) uint32 {
	version := m.pool.sealingVersion(members)
	for _, member := range members {
		if domain := m.target(member); domain != "" {
			version = min(version, newestOf(keysOf(m.settings.WrappingKeys, domain)))
		}
	}
	return version
}

// keys are the wrapping keys of other domains that a member is told, each with one
// node's word for it: those of all domains that members name.
func (m *move) keys(a assignment, members []*nodepb.Member) (out []*nodepb.EndorsedKey) {
	var told []string
	version := m.version(members)
	for _, member := range members {
		if domain := m.target(member); domain != "" && domain != a.node.domain && !slices.Contains(told, domain) {
			told = append(told, domain)
			if key := m.endorsed(domain, version); key != nil {
				out = append(out, key)
			}
		}
	}
	return out
}

// possible finds, before there are new shares, that nobody could check them: each
// share that moves needs a node in its new home that takes no part in the refresh
// with another share.
func (m *move) possible(j *job) error {
	if m.homes == nil {
		return nil
	}
	ready, configured, _, err := m.pool.candidates()
	if err != nil {
		return err
	}
	old, _ := j.rule(ready, nil)
	spares := j.count
	if j.noSpares {
		spares = 0
	}
	_, members := old.fewestSpares(ready, spares)
	if members == nil {
		return nil // the job waits for nodes, and says which
	}
	exposures := mpc.Exposures{}
	for _, a := range members {
		exposures[a.node.identity] = a.index
	}
	_, err = m.checkers(exposures, siting{homes: m.homes, regions: true}, ready, configured)
	return err
}

// checkers chooses, for every share, a node that may open it when it is done.
func (m *move) checkers(seen mpc.Exposures, where siting, ready []candidate, configured int) ([]assignment, error) {
	n := m.account.Record.Shares
	j := &job{pool: m.pool, operation: "refresh", n: n, count: n, seen: seen, where: where}
	r, _ := j.rule(ready, nil)
	if _, chosen := r.fewestSpares(ready, n); chosen != nil {
		return chosen, nil
	}
	return nil, fmt.Errorf("the shares cannot move, and the account keeps them: %w", j.tooFew(ready, configured))
}

// finish puts the homes into the new epoch and, where shares have moved, chooses
// the nodes that will check them. It waits for such nodes.
func (m *move) finish(ctx context.Context, next *mpc.Account) error {
	next.Homes = slices.Clone(m.account.Homes)
	if m.homes != nil {
		next.Homes = slices.Clone(m.homes)
	}
	if err := sealedAtHome(next); err != nil || m.homes == nil {
		return err
	}
	where := sitingOf(next)
	for {
		ready, configured, changed, err := m.pool.candidates()
		if err != nil {
			return err
		}
		chosen, err := m.checkers(maps.Clone(next.Exposures), where, ready, configured)
		if err == nil {
			for _, a := range chosen {
				next.Exposures[a.node.identity] = a.index
			}
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return err
		}
	}
}
