package backend

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// simEngine is the real pool, but for what it does with wrapping keys: that is
// played here, by the same rules of who may be handed a share.
type simEngine struct {
	*pool.Pool
	world  *world
	keys   pool.KeyStore
	newest atomic.Uint32 // version that nodes have been told of
}

func (e *simEngine) Apply(ctx context.Context, s pool.Settings) error {
	e.newest.Store(s.WrappingKeys[len(s.WrappingKeys)-1].Version)
	return e.Pool.Apply(ctx, s)
}

func (e *simEngine) MakeWrappingKey(ctx context.Context, domain string, version uint32, suites []hsm.Suite) (*pool.MadeKey, error) {
	priv, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	id := make([]byte, 16)
	rand.Read(id)
	return &pool.MadeKey{Key: hsm.WrappingKey{Domain: domain, Version: version, Suite: suites[0], ID: id,
		PublicKey: priv.PublicKey().Bytes(), Label: "simulated"}}, ctx.Err()
}

func (e *simEngine) DestroyWrappingKey(ctx context.Context, key hsm.WrappingKey) error {
	e.world.mu.Lock()
	defer e.world.mu.Unlock()
	e.world.destroyed++
	return ctx.Err()
}

func (e *simEngine) FindWrappingKeys(ctx context.Context, _, _ string) ([]pool.KeyObject, error) {
	return nil, ctx.Err()
}

func (e *simEngine) RewrapNodeKeys(ctx context.Context, nodeID string) error {
	k, err := e.keys.NodeKeys(ctx, nodeID)
	if err != nil || k == nil {
		return err
	}
	reseal := func(envelope *[]byte) {
		if real, err := hsm.ParseEnvelope(*envelope); err == nil {
			*envelope = fakeEnvelope(real.Ciphertext[:len(real.Ciphertext)-16], e.newest.Load())
		}
	}
	reseal(&k.IdentityEnvelope)
	if k.Aux != nil {
		reseal(&k.Aux.Envelope)
	}
	return e.keys.PutNodeKeys(ctx, nodeID, k)
}

// Rewrap hands each share to a ready node that has seen it, or to a spare.
func (e *simEngine) Rewrap(ctx context.Context, q pool.RewrapRequest) (*pool.RewrapResult, error) {
	r := &q.Account.Record
	holders, added := map[mpc.Index]*simProc{}, mpc.Exposures{}
	var spares []*simProc
	for _, n := range e.Nodes() {
		e.world.mu.Lock()
		p := e.world.running[n.ID]
		e.world.mu.Unlock()
		if p == nil || p.Exited() || n.State != pool.NodeReady {
			continue
		}
		if i, ok := q.Account.Exposures[p.id()]; ok {
			holders[i] = p
		} else if !q.Account.NoSpares {
			spares = append(spares, p)
		}
	}
	for i := mpc.Index(1); int(i) <= r.Shares; i++ {
		if holders[i] != nil {
			continue
		}
		if len(spares) == 0 {
			return nil, &pool.NoEligibleNodeError{Index: i, NoSpares: q.Account.NoSpares}
		}
		holders[i], added[spares[0].id()], spares = spares[0], i, spares[1:]
	}
	if len(added) > 0 {
		if err := q.Expose(ctx, maps.Clone(added)); err != nil {
			return nil, err
		}
	}
	res := &pool.RewrapResult{WrappingVersion: e.newest.Load()}
	for i := mpc.Index(1); int(i) <= r.Shares; i++ {
		if f := holders[i].open(r.Marshal(), q.Account.Shares[i-1].Envelope, i, "rewrap"); f != nil {
			if f.GetReason() == nodepb.Failure_SHARE_UNUSABLE {
				return nil, fmt.Errorf("share %d: %w", i, pool.ErrShareUnusable)
			}
			return nil, errors.New(f.GetText())
		}
		e.world.mu.Lock()
		garbage := e.world.garbage[i]
		delete(e.world.garbage, i)
		e.world.mu.Unlock()
		envelope, err := simEnvelope{Epoch: r.EpochID.String(), Index: i, Garbage: garbage}.write(res.WrappingVersion)
		if err != nil {
			return nil, err
		}
		if r.HasCustody() {
			envelope = reseal(q.Account.Shares[i-1].Envelope, res.WrappingVersion, garbage)
		}
		res.Shares = append(res.Shares, mpc.WrappedShare{Index: i, Envelope: envelope})
	}
	return res, ctx.Err()
}

// rotate makes a version of the wrapping key, has some accounts follow, perhaps
// with a share that does not open or a crash on the way, and destroys what is
// not needed any more.
func (s *sim) rotate() {
	s.settleNodes()
	if n := s.rng.IntN(4); n == 0 {
		s.crash.mu.Lock()
		s.crash.left, s.crash.late = s.rng.IntN(8), s.rng.IntN(2) == 0
		s.crash.mu.Unlock()
		s.count["crashes"]++
	}
	_, err := s.request("update", "wrapping-keys/rotate", nil, 3e9)
	s.note("a new wrapping key: %v", err)
	s.count["rotations"]++
	s.rewrap()
	s.clock.advance(2e9)
	s.m.b.wrappingPass(context.Background())
	if s.crash.isDead() {
		s.restart()
		return
	}
	s.crash.mu.Lock()
	s.crash.left = 1 << 30
	s.crash.mu.Unlock()
	s.settleNodes()
}

// rewrap has some accounts follow to the newest wrapping key.
func (s *sim) rewrap() {
	for _, name := range slices.Concat(s.names, s.owned) {
		if s.rng.IntN(3) == 0 || s.crash.isDead() {
			continue
		}
		s.settleNodes()
		if s.rng.IntN(4) == 0 {
			s.world.mu.Lock()
			s.world.garbage[mpc.Index(1+s.rng.IntN(3))] = true
			s.world.mu.Unlock()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3e9)
		_, err := s.m.b.RewrapAccount(ctx, name)
		cancel()
		s.world.mu.Lock()
		clear(s.world.garbage)
		s.world.mu.Unlock()
		s.note("rewrap of %s: %v", name, err)
		s.count["rewraps"]++
		if err != nil {
			s.count["failed rewraps"]++
		}
	}
}
