package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// poolFit keeps two writes apart that are each right alone: config/nodes makes the
// pool smaller because the nodes that remain may serve every share, and an operation
// that began before stores shares that nodes made which leave. Who places shares
// notes the time with begin before the nodes are chosen, and holds the pool while it
// stores what they made. Its methods may be called concurrently. It is taken before
// an account's lock.
type poolFit struct {
	mu     sync.RWMutex
	shrunk uint64 // how often the pool became smaller in this process
}

// begin is called before nodes are chosen.
func (f *poolFit) begin() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.shrunk
}

// hold keeps the pool from becoming smaller until release is called. It reports
// whether it did since begin.
func (f *poolFit) hold(begun uint64) (release func(), shrunk bool) {
	release = f.still()
	return release, f.shrunk != begun
}

// still keeps the pool from becoming smaller until release is called, for those who
// look at its size themselves.
func (f *poolFit) still() (release func()) {
	f.mu.RLock()
	return f.mu.RUnlock
}

// shrink runs a write that makes the pool smaller while nobody places shares.
func (f *poolFit) shrink(write func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shrunk++ // also when it fails: the write may have taken effect
	return write()
}

// place stores what nodes made of an account, unless the pool became so small in
// the meantime that the account could not be refreshed.
func (b *backend) place(ctx context.Context, begun uint64, a *mpc.Account, put func() error) error {
	release, shrunk := b.fit.hold(begun)
	defer release()
	if shrunk {
		if err := b.fits(ctx, a); err != nil {
			return err
		}
	}
	return put()
}

// fits fails when the pool as it is configured cannot serve all shares at once.
func (b *backend) fits(ctx context.Context, a *mpc.Account) error {
	members, err := b.membership(ctx)
	if err != nil {
		return err
	}
	sites, err := b.sites(ctx, members)
	if err != nil {
		return err
	}
	if !canServe(a, sites) {
		return conflict("the pool was made smaller while its nodes were at work, and those that are left may not serve every share that was made: nothing was stored, try again")
	}
	return nil
}

// leavesAll fails when new exposures of an epoch would take the last node from a
// share: the nodes that are configured could serve all shares at once before, and
// not after. The pool avoids that among the nodes it runs; these are the configured
// ones, of which it may not know yet.
func (b *backend) leavesAll(ctx context.Context, a *mpc.Account, before, after mpc.Exposures) error {
	members, err := b.membership(ctx)
	if err != nil {
		return err
	}
	sites, err := b.sites(ctx, members)
	if err != nil {
		return err
	}
	with := func(added mpc.Exposures) *mpc.Account {
		of := *a
		of.Exposures = maps.Clone(a.Exposures)
		maps.Copy(of.Exposures, added)
		return &of
	}
	if canServe(with(before), sites) && !canServe(with(after), sites) {
		return pool.ErrStrands
	}
	return nil
}

// site is a node as far as placement goes.
type site struct {
	id string
	// identity is nil for a local node that has none yet.
	identity       *mpc.NodeIdentity
	domain, region string
}

func localSite(i int, region string) site {
	return site{id: pool.LocalNodeID(i), domain: hsm.DefaultDomain, region: region}
}

// sites returns the nodes of a membership, which need not be the present one.
func (b *backend) sites(ctx context.Context, m *membership) ([]site, error) {
	var out []site
	for i := 1; i <= m.local; i++ {
		n := localSite(i, m.nodes.Region)
		keys, err := b.store.NodeKeys(ctx, n.id)
		if err != nil {
			return nil, err
		}
		if keys != nil {
			n.identity = &keys.Identity
		}
		out = append(out, n)
	}
	for _, r := range m.remote {
		id, err := mpc.ParseNodeIdentity(r.Identity)
		if err != nil {
			return nil, err
		}
		out = append(out, site{id: r.ID, identity: &id, domain: r.Domain, region: r.Region})
	}
	return out, nil
}

// canServe reports whether the nodes can serve all shares of an account at once: a
// node serves a share that is sealed to its domain and lives in its region, one that
// it has seen or, unless the epoch gets no spares, any if it has seen none.
func canServe(a *mpc.Account, nodes []site) bool { return served(a, nodes) == a.Record.Shares }

// served is how many shares of the account the nodes can serve at once.
func served(a *mpc.Account, nodes []site) int {
	homes := homesOf(a)
	return mpc.Matched(len(homes), len(nodes), func(i, node int) bool {
		n := nodes[node]
		if n.domain != homes[i].Domain || len(a.Homes) > 0 && n.region != homes[i].Region {
			return false
		}
		if n.identity != nil {
			if seen, ok := a.Exposures[*n.identity]; ok {
				return int(seen) == i+1
			}
		}
		return !a.NoSpares
	})
}

// fitAdvice says in a refusal what to do instead.
type fitAdvice struct {
	size func(shares int) string // where nodes are too few
	keep string                  // where they have seen the wrong shares
}

// tooSmall says why the nodes cannot serve an account: there are too few where its
// shares live, whatever they have seen, or they have seen other shares.
func tooSmall(name string, a *mpc.Account, nodes []site, advice fitAdvice) error {
	shares, there := map[mpc.Home]int{}, map[mpc.Home]int{}
	homes := homesOf(a)
	for _, h := range homes {
		shares[h]++
	}
	for _, n := range nodes {
		at := mpc.Home{Domain: n.domain}
		if len(a.Homes) > 0 {
			at.Region = n.region
		}
		there[at]++
	}
	for _, h := range homes {
		if there[h] >= shares[h] {
			continue
		}
		where := fmt.Sprintf("wrapping domain %q", h.Domain)
		if h.Region != "" {
			where += fmt.Sprintf(" in region %q", h.Region)
		}
		return invalid("account %s has %d share(s) in %s, and %d node(s) of it would remain: give it other nodes there first, or move the account with accounts/%s/move (one that is deleted: restore it first, or end it with destroy/), or %s", name, shares[h], where, there[h], name, advice.keep)
	}
	return invalid("the nodes that would remain may not serve every share of account %s in its current epoch: refresh it and try again, or %s", name, advice.keep)
}

// checkSharesFit fails when an account could not be refreshed by the nodes of a
// membership: it needs a node for each share, and in its current epoch a node
// may only serve the share it has seen.
func (b *backend) checkSharesFit(ctx context.Context, m *membership, advice fitAdvice) error {
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return err
	}
	remaining, err := b.sites(ctx, m)
	if err != nil {
		return err
	}
	for _, name := range names {
		r, err := b.store.account(ctx, name)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		if n := len(r.Current.Shares); n > m.size() {
			return invalid("account %s has %d shares and needs as many nodes: %s", name, n, advice.size(n))
		}
		epochs := []*accountRecord{r}
		if r.Previous != nil { // which it may go back to
			epochs = append(epochs, &accountRecord{Current: *r.Previous})
		}
		for _, e := range epochs {
			a, err := b.store.usable(ctx, e)
			if err != nil {
				return err
			}
			if !canServe(a, remaining) {
				return tooSmall(name, a, remaining, advice)
			}
		}
	}
	return b.checkLoginsFit(ctx, remaining, advice)
}

// checkLoginsFit fails when no node would be left in the wrapping domain that the
// identity keys are sealed in: nobody could log in.
func (b *backend) checkLoginsFit(ctx context.Context, remaining []site, advice fitAdvice) error {
	r, err := b.store.identityKeys(ctx)
	if err != nil || r == nil {
		return err
	}
	domain := identityDomain(r.Envelope)
	if domain == "" || slices.ContainsFunc(remaining, func(n site) bool { return n.domain == domain }) {
		return nil
	}
	return invalid("the keys that people log in by are sealed in wrapping domain %q, and no node of it would remain: give it other nodes first, or %s", domain, advice.keep)
}
