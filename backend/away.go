package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// awayAfter is how long a node on another host must have been away before what the
// clock has done in the background no longer waits for it: a node that is started
// again, or dialled again, is back sooner.
const awayAfter = 10 * time.Second

// awaits fails where an account has shares that no node may serve but nodes of other
// hosts that have been away for a while. The few turns that rotation has at a time
// would otherwise all be spent on waiting for them, half a minute each, and the
// accounts of everybody else would come too late because of one region. What a request
// asks for still waits as long as the request may.
func (b *backend) awaits(ctx context.Context, name string) error {
	if len(b.away()) == 0 {
		return nil
	}
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return err
	}
	a, err := b.store.usable(ctx, r)
	if err != nil {
		return err
	}
	return b.lacks(ctx, a, a.Record.Shares)
}

// away lists the nodes of other hosts that have been away for a while.
func (b *backend) away() (out []pool.NodeStatus) {
	eng := b.runningEngine()
	if eng == nil {
		return nil
	}
	for _, n := range eng.Nodes() {
		if n.Remote && n.State != pool.NodeReady && b.cfg.now().Sub(n.Since) >= awayAfter {
			out = append(out, n)
		}
	}
	return out
}

// lacks fails where fewer of an account's shares than needed have a node that may
// serve them, because of nodes that are away.
func (b *backend) lacks(ctx context.Context, a *mpc.Account, needed int) error {
	away := b.away()
	if len(away) == 0 {
		return nil
	}
	members, err := b.membership(ctx)
	if err != nil {
		return err
	}
	sites, err := b.sites(ctx, members)
	if err != nil {
		return err
	}
	here := slices.DeleteFunc(slices.Clone(sites), func(s site) bool {
		return slices.ContainsFunc(away, func(n pool.NodeStatus) bool { return n.ID == s.id })
	})
	if served(a, here) >= needed || served(a, sites) < needed { // the latter waits for something else, and says for what
		return nil
	}
	var waits []string
	for _, n := range away {
		waits = append(waits, fmt.Sprintf("%s (%s)", n.ID, n.State))
	}
	return fmt.Errorf("some of its shares are where no node is ready; away are %s. It is tried again when they may be back", strings.Join(waits, ", "))
}
