package backend

import (
	"context"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/mpc/pool"
)

// remoteNodes returns the enrolled nodes in the order of their IDs. It is cached
// as config/nodes is; nobody changes what it returns.
func (s *store) remoteNodes(ctx context.Context) ([]remoteNodeRecord, error) {
	s.mu.Lock()
	cached, known, reads := s.remotes, s.remotesKnown, s.remotesReads
	s.mu.Unlock()
	if known {
		return cached, nil
	}
	ids, err := s.list(ctx, prefixRemote)
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	var out []remoteNodeRecord
	for _, id := range ids {
		r, err := s.remoteNode(ctx, id)
		if err != nil {
			return nil, err
		}
		if r != nil {
			out = append(out, *r)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remotesReads == reads { // nothing was written in between
		s.remotes, s.remotesKnown = out, true
	}
	return out, nil
}

// remoteNode returns nil for a node that is not enrolled. It asks Vault.
func (s *store) remoteNode(ctx context.Context, id string) (*remoteNodeRecord, error) {
	r := &remoteNodeRecord{}
	ok, err := s.get(ctx, prefixRemote+id, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

// coordinator returns nil before the first certificate was made or brought.
func (s *store) coordinator(ctx context.Context) (*coordinatorRecord, error) {
	r := &coordinatorRecord{}
	ok, err := s.get(ctx, keyCoordinator, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

// forgetRemotes drops the list when something of it was written.
func (s *store) forgetRemotes(key string) {
	if !strings.HasPrefix(key, prefixRemote) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remotes, s.remotesKnown = nil, false
	s.remotesReads++
}

// membership is which nodes the pool has, as it is configured.
type membership struct {
	nodes  nodesRecord
	remote []remoteNodeRecord
	// local is how many local nodes run: none without a token, and none where
	// this build cannot load one.
	local int
	// token says that there is one for local nodes, or none is asked for yet.
	token bool
}

// size is the number of nodes.
func (m *membership) size() int { return m.local + len(m.remote) }

// membership reads it. Before anything is configured, the local nodes that there
// will be count.
func (b *backend) membership(ctx context.Context) (*membership, error) {
	var m membership
	var err error
	if m.nodes, err = b.store.nodesConfig(ctx); err != nil {
		return nil, err
	}
	if m.remote, err = b.store.remoteNodes(ctx); err != nil {
		return nil, err
	}
	if b.cfg.NoLocalNodes != "" {
		return &m, nil
	}
	if m.token = true; len(m.remote) > 0 {
		conf, err := b.store.hsmConfig(ctx)
		if err != nil {
			return nil, err
		}
		m.token = conf != nil
	}
	if m.token {
		m.local = m.nodes.Local
	}
	return &m, nil
}

// poolNodes returns them for the pool.
func (m *membership) poolNodes() ([]pool.RemoteNode, error) {
	var out []pool.RemoteNode
	for _, r := range m.remote {
		n, err := r.node()
		if err != nil {
			return nil, &damagedError{prefixRemote + r.ID, err}
		}
		out = append(out, n)
	}
	return out, nil
}
