package pool

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"runtime"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// States of a node's auxiliary keys, as NodeStatus shows them.
const (
	auxNone       = "none"
	auxGenerating = "generating"
	auxChecking   = "checking"
	auxReady      = "ready"
)

const (
	// generateTimeout is far above the few seconds that finding two safe
	// primes takes, for a busy machine and an unlucky search.
	generateTimeout = 5 * time.Minute
	checkTimeout    = 2 * time.Minute
	auxRetry        = 5 * time.Second
)

// nodeAux is what the pool knows of a running node's auxiliary keys. It is
// guarded by localNode.mu. keys and its fields are never changed in place.
type nodeAux struct {
	state    string // "" means none
	progress int    // percent of generating
	keys     *AuxKeys
	hash     [32]byte // of keys.Public
	// accepted holds, per peer, the hash of the public auxiliary keys this
	// node's process works with.
	accepted map[string][32]byte
}

func (a nodeAux) status() AuxStatus {
	s := AuxStatus{State: a.state, Progress: a.progress}
	if s.State == "" {
		s.State = auxNone
	}
	if a.keys != nil {
		s.Generation = a.keys.Generation
	}
	return s
}

// complete combines making the keys (first half) and checking them with every
// peer (second half) into one figure.
func (s *AuxStatus) complete() {
	if s.State != auxReady {
		s.Progress /= 2
		return
	}
	if s.Progress = 100; s.PeersReady < s.Peers {
		s.State, s.Progress = auxChecking, 50+50*s.PeersReady/s.Peers
	}
}

// auxHash names a node's public auxiliary keys in sessions.
func auxHash(public []byte) [32]byte { return sha256.Sum256(public) }

// auxKeys returns the node's current keys, or nil.
func (n *localNode) auxKeys() *AuxKeys {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.aux.keys
}

// accepted reports whether n works with peer's current auxiliary keys.
func (n *localNode) accepted(peer *localNode) bool {
	hash, ok := peer.auxHash()
	n.mu.Lock()
	defer n.mu.Unlock()
	return ok && n.proc != nil && n.aux.accepted[peer.id] == hash
}

// auxHash returns the hash of the node's current public keys, if it has any.
func (n *localNode) auxHash() ([32]byte, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.aux.hash, n.aux.keys != nil
}

// auxTask is one step towards all nodes having checked auxiliary keys: n makes
// its keys (peer is nil), or n accepts those of peer.
type auxTask struct{ n, peer *localNode }

// auxiliaryLoop makes and checks auxiliary keys in the background, as many at a
// time as there are processors; nodes do this work at low priority.
func (p *Pool) auxiliaryLoop() {
	var wg sync.WaitGroup
	defer wg.Wait()
	busy := map[*localNode]bool{} // nodes whose keys a running task changes
	retry := map[auxTask]time.Time{}
	type result struct {
		auxTask
		err error
	}
	results := make(chan result)
	for {
		_, _, changed, err := p.ready()
		for err == nil && len(busy) < max(runtime.NumCPU(), 1) {
			task, ok := p.nextAuxTask(busy, retry)
			if !ok {
				break
			}
			busy[task.n] = true
			wg.Add(1)
			go func() {
				defer wg.Done()
				e := p.runAuxTask(task)
				select {
				case results <- result{task, e}:
				case <-p.ctx.Done():
				}
			}()
		}
		if changed == nil { // not configured yet
			p.mu.Lock()
			changed = p.changed
			p.mu.Unlock()
		}
		select {
		case r := <-results:
			delete(busy, r.n)
			delete(retry, r.auxTask)
			maps.DeleteFunc(retry, func(_ auxTask, at time.Time) bool { return time.Now().After(at) })
			if r.err != nil && p.ctx.Err() == nil {
				retry[r.auxTask] = time.Now().Add(auxRetry)
				if r.n.isReady() {
					p.cfg.Logger.Warn("auxiliary keys: a step failed and will be tried again", "node", r.n.id, "error", r.err)
				}
			}
			p.notify()
		case <-changed:
		case <-time.After(auxRetry):
		case <-p.ctx.Done():
			return
		}
	}
}

// nextAuxTask prefers checks to making more keys: two nodes that have finished
// with each other can sign while the others are still busy.
func (p *Pool) nextAuxTask(busy map[*localNode]bool, retry map[auxTask]time.Time) (auxTask, bool) {
	nodes, _, _, _ := p.ready()
	due := func(t auxTask) bool { return time.Now().After(retry[t]) }
	for _, n := range nodes {
		if busy[n] || n.auxKeys() == nil {
			continue
		}
		for _, peer := range nodes {
			t := auxTask{n, peer}
			if peer != n && peer.auxKeys() != nil && !n.accepted(peer) && due(t) {
				return t, true
			}
		}
	}
	for _, n := range nodes {
		if t := (auxTask{n: n}); !busy[n] && n.auxKeys() == nil && due(t) {
			return t, true
		}
	}
	return auxTask{}, false
}

func (p *Pool) runAuxTask(t auxTask) error {
	if t.peer == nil {
		return p.makeAuxiliary(t.n)
	}
	return p.acceptPeer(t.n, t.peer)
}

// makeAuxiliary has n make its first generation of auxiliary keys and stores
// them before anybody uses them.
func (p *Pool) makeAuxiliary(n *localNode) error {
	client := n.client()
	if client == nil {
		return errNodeGone
	}
	n.mu.Lock()
	n.aux.state, n.aux.progress = auxGenerating, 0
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.ctx, generateTimeout)
	defer cancel()
	stored, err := p.cfg.Store.NodeKeys(ctx, n.id)
	if err == nil && stored == nil {
		err = errors.New("the node's stored keys are gone")
	}
	if err != nil {
		return err
	}
	generation := uint64(1)
	if stored.Aux != nil {
		generation = stored.Aux.Generation + 1
	}
	reply, err := client.MakeAuxiliary(ctx, &nodepb.MakeAuxiliaryRequest{Generation: generation})
	if err != nil {
		n.mu.Lock()
		n.aux.state, n.lastError = auxNone, "making auxiliary keys: "+err.Error()
		n.mu.Unlock()
		return err
	}
	keys := &AuxKeys{Generation: generation, Public: reply.GetPublic(), Envelope: reply.GetEnvelope(), Receipts: map[string][]byte{}}
	stored.Aux = keys
	if err := p.cfg.Store.PutNodeKeys(ctx, n.id, stored); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil || n.proc.client != client {
		return errNodeGone // its next process loads what was stored
	}
	n.aux = nodeAux{state: auxReady, progress: 100, keys: keys, hash: auxHash(keys.Public)}
	return nil
}

var errNodeGone = errors.New("the node is not running")

// acceptPeer has n check peer's auxiliary keys: by the receipt of an earlier
// check if there is one, else by all proofs, one of which peer makes for n.
func (p *Pool) acceptPeer(n, peer *localNode) error {
	client, peerClient := n.client(), peer.client()
	own, theirs := n.auxKeys(), peer.auxKeys()
	if client == nil || peerClient == nil || own == nil || theirs == nil {
		return errNodeGone
	}
	ctx, cancel := context.WithTimeout(p.ctx, checkTimeout)
	defer cancel()
	request := &nodepb.AcceptPeerRequest{PeerId: peer.id, PeerPublic: theirs.Public, Receipt: own.Receipts[peer.id]}
	if len(request.Receipt) > 0 {
		if _, err := client.AcceptPeer(ctx, request); err == nil {
			n.noteAccepted(client, peer.id, theirs, nil)
			return nil
		}
		request.Receipt = nil // of older keys: check the new ones
	}
	proof, err := peerClient.ProveFactors(ctx, &nodepb.ProveFactorsRequest{PeerId: n.id, PeerPublic: own.Public})
	if err != nil {
		return err
	}
	request.Proof = proof.GetProof()
	reply, err := client.AcceptPeer(ctx, request)
	if err != nil {
		return err
	}
	updated := n.noteAccepted(client, peer.id, theirs, reply.GetReceipt())
	if updated == nil {
		return errNodeGone
	}
	// Only this task changes n's stored keys now; a lost receipt would only
	// cost another check.
	stored, err := p.cfg.Store.NodeKeys(ctx, n.id)
	if err != nil || stored == nil {
		return errors.Join(err, errors.New("the receipt was not stored"))
	}
	stored.Aux = updated
	return p.cfg.Store.PutNodeKeys(ctx, n.id, stored)
}

// noteAccepted records that n works with peer's keys and returns n's keys with
// the receipt added, if there is one.
func (n *localNode) noteAccepted(client nodepb.NodeClient, peerID string, theirs *AuxKeys, receipt []byte) *AuxKeys {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.aux.keys == nil || n.proc == nil || n.proc.client != client {
		return nil // another process by now
	}
	accepted := maps.Clone(n.aux.accepted)
	if accepted == nil {
		accepted = map[string][32]byte{}
	}
	accepted[peerID] = auxHash(theirs.Public)
	n.aux.accepted = accepted
	if receipt != nil {
		updated := *n.aux.keys
		if updated.Receipts = maps.Clone(updated.Receipts); updated.Receipts == nil {
			updated.Receipts = map[string][]byte{}
		}
		updated.Receipts[peerID] = receipt
		n.aux.keys = &updated
	}
	return n.aux.keys
}

// forgetAccepted has a node's peers' auxiliary keys accepted anew.
func (p *Pool) forgetAccepted(nodeID string) {
	if n := p.node(nodeID); n != nil {
		n.mu.Lock()
		n.aux.accepted = nil
		n.mu.Unlock()
	}
	p.notify()
}

// auxPending says which nodes are not done with auxiliary keys.
func (p *Pool) auxPending() *AuxPendingError {
	e := &AuxPendingError{}
	for _, s := range p.Nodes() {
		if s.State == NodeReady && s.Aux.Progress < 100 {
			e.Nodes = append(e.Nodes, AuxProgress{NodeID: s.ID, Progress: s.Aux.Progress})
		}
	}
	return e
}

// demandAuxiliary restricts a signing job to nodes that have checked each
// other's auxiliary keys, and puts the keys' hashes into its sessions.
func (p *Pool) demandAuxiliary(j *job) {
	j.compatible = func(a, b candidate) bool {
		x, y := p.node(a.id), p.node(b.id)
		return x != nil && y != nil && x.accepted(y) && y.accepted(x)
	}
	j.missing = func() error {
		if e := p.auxPending(); len(e.Nodes) > 0 {
			return e
		}
		return nil
	}
	j.describe = func(m *nodepb.Member) {
		if n := p.node(m.GetNodeId()); n != nil {
			if hash, ok := n.auxHash(); ok {
				m.AuxHash = hash[:]
			}
		}
	}
}
