package backend

import (
	"context"
	"sync"

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
	f.mu.RLock()
	return f.mu.RUnlock, f.shrunk != begun
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
	r, err := b.store.nodesConfig(ctx)
	if err != nil {
		return err
	}
	nodes, err := b.identities(ctx, r.Local)
	if err != nil {
		return err
	}
	if !canServe(a, nodes, r.Local-len(nodes)) {
		return conflict("the pool was made smaller while its nodes were at work, and those that are left may not serve every share that was made: nothing was stored, try again")
	}
	return nil
}

// identities returns those of the first local nodes that have one.
func (b *backend) identities(ctx context.Context, local int) ([]mpc.NodeIdentity, error) {
	var out []mpc.NodeIdentity
	for i := 1; i <= local; i++ {
		keys, err := b.store.NodeKeys(ctx, pool.LocalNodeID(i))
		if err != nil {
			return nil, err
		}
		if keys != nil {
			out = append(out, keys.Identity)
		}
	}
	return out, nil
}

// canServe reports whether the nodes, and fresh ones that have no identity yet,
// can serve all shares of an account at once.
func canServe(a *mpc.Account, nodes []mpc.NodeIdentity, fresh int) bool {
	served := map[mpc.Index]bool{}
	spares := fresh
	for _, id := range nodes {
		if i, ok := a.Exposures[id]; ok {
			served[i] = true
		} else {
			spares++
		}
	}
	if a.NoSpares {
		spares = 0
	}
	return a.Record.Shares-len(served) <= spares
}
