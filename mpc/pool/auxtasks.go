package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

const (
	// generateTimeout is far above the few seconds that finding two safe
	// primes takes, for a busy machine and an unlucky search.
	generateTimeout = 5 * time.Minute
	checkTimeout    = 2 * time.Minute
	// auxStoreTimeout bounds steps that only store and tell.
	auxStoreTimeout = 10 * time.Second
	// Bounds in bytes on what a node may have stored; honest keys have under 83
	// KiB, receipts under 600 bytes.
	maxAuxPublic   = 96 << 10
	maxAuxEnvelope = 16 << 10
	maxAuxReceipt  = 2 << 10
)

// ErrNodeGone: the node is not running at the moment. The pool starts it again.
var ErrNodeGone = errors.New("the node is not running")

// runAuxTask does one step. A crash of this process or of a node between any two
// calls below loses nothing but work: what a node loads at its next start are
// the keys that were stored last, which are either still in use or were accepted
// by the peers that ran, and a missing receipt is made again by another check.
func (p *Pool) runAuxTask(t auxTask) error {
	switch t.kind {
	case auxFirst, auxRenew:
		return p.makeAuxiliary(t)
	case auxAccept:
		return p.acceptPeer(t)
	case auxPromote:
		return p.promote(t)
	case auxAbandon:
		return p.abandon(t)
	case auxReload:
		return p.reload(t)
	}
	return p.retire(t)
}

// makeAuxiliary has a node make a generation of auxiliary keys. The first one is
// stored and in use at once; a later one waits in the node's memory until its
// peers have accepted it.
func (p *Pool) makeAuxiliary(t auxTask) error {
	ctx, cancel := context.WithTimeout(p.ctx, generateTimeout)
	defer cancel()
	client := t.n.auxView().client
	started := t.n.withAux(t.process, func(a *nodeAux) {
		a.state, a.progress = auxGenerating, 0
		if t.kind == auxRenew {
			a.state = auxRenewing
		}
	})
	if !started || client == nil {
		return ErrNodeGone
	}
	keys, err := p.callMake(ctx, t.n.id, client)
	if err == nil && t.kind == auxFirst {
		err = p.storeKeys(ctx, t.n.id, keys)
	}
	known := t.n.withAux(t.process, func(a *nodeAux) {
		switch {
		case err != nil && a.keys == nil:
			a.state, a.progress = auxNone, 0
		case err != nil:
			a.state, a.progress = auxReady, 100
		case t.kind == auxRenew:
			a.next, a.nextHash, a.progress = keys, auxHash(keys.Public), 50
		default:
			*a = nodeAux{state: auxReady, progress: 100, keys: keys, hash: auxHash(keys.Public), accepted: a.accepted}
		}
	})
	if err != nil {
		t.n.mu.Lock()
		t.n.lastError = "making auxiliary keys: " + err.Error()
		t.n.mu.Unlock()
		return err
	}
	if !known {
		return ErrNodeGone // its next process loads what is stored
	}
	return nil
}

func (p *Pool) callMake(ctx context.Context, nodeID string, client nodepb.NodeClient) (*AuxKeys, error) {
	stored, err := p.storedKeys(ctx, nodeID)
	if err != nil {
		return nil, err
	}
	last := uint64(0)
	if stored.Aux != nil {
		last = stored.Aux.Generation
	}
	generation := p.aux.generation(nodeID, last)
	reply, err := client.MakeAuxiliary(ctx, &nodepb.MakeAuxiliaryRequest{Generation: generation})
	if err != nil {
		return nil, err
	}
	if n := len(reply.GetPublic()); n == 0 || n > maxAuxPublic {
		return nil, fmt.Errorf("the node made public keys of %d bytes", n)
	}
	if n := len(reply.GetEnvelope()); n == 0 || n > maxAuxEnvelope {
		return nil, fmt.Errorf("the node wrapped its keys in %d bytes", n)
	}
	return &AuxKeys{Generation: generation, Made: p.aux.now(), Public: reply.GetPublic(), Envelope: reply.GetEnvelope(),
		Receipts: map[string][]byte{}}, nil
}

func (p *Pool) storedKeys(ctx context.Context, nodeID string) (*NodeKeys, error) {
	stored, err := p.cfg.Store.NodeKeys(ctx, nodeID)
	if err == nil && stored == nil {
		err = errors.New("the node's stored keys are gone")
	}
	return stored, err
}

// storeKeys makes keys the stored ones, unless newer ones are there: a node
// never goes back to an earlier generation.
func (p *Pool) storeKeys(ctx context.Context, nodeID string, keys *AuxKeys) error {
	return p.changeKeys(ctx, nodeID, func(stored *NodeKeys) error {
		old := stored.Aux
		if old != nil && (old.Generation > keys.Generation ||
			old.Generation == keys.Generation && !bytes.Equal(old.Public, keys.Public)) {
			return fmt.Errorf("generation %d is stored, generation %d is too old", old.Generation, keys.Generation)
		}
		aux := *keys
		if old != nil && old.Generation == keys.Generation {
			aux.Envelope = old.Envelope // it may have been resealed since
		}
		stored.Aux = &aux
		// Noted before: where the outcome of the write is unknown, a process
		// that loaded older keys has to look again.
		p.aux.noteStored(nodeID, keys.Generation)
		return nil
	})
}

// acceptPeer has a node check a peer's auxiliary keys: by the receipt of an
// earlier check if there is one, else by all proofs, one of which the peer makes
// for this node.
func (p *Pool) acceptPeer(t auxTask) error {
	v, w := t.n.auxView(), t.peer.auxView()
	offers := w.offers()
	at := slices.IndexFunc(offers, func(o offer) bool { return o.generation == t.generation })
	if v.process != t.process || w.process != t.peerProcess || v.keys == nil || at < 0 {
		return ErrNodeGone
	}
	theirs := offers[at]
	ctx, cancel := context.WithTimeout(p.ctx, checkTimeout)
	defer cancel()
	request := &nodepb.AcceptPeerRequest{PeerId: w.id, PeerPublic: theirs.keys.Public}
	if request.Receipt = v.keys.receipt(w.id, t.generation); len(request.Receipt) > 0 {
		if _, err := v.client.AcceptPeer(ctx, request); err == nil {
			t.n.withAux(t.process, func(a *nodeAux) { a.noteAccepted(w.id, theirs.acceptedKeys) })
			return nil
		}
		request.Receipt = nil // of other keys: check these
	}
	receipt, err := p.checkPeer(ctx, v, w, request)
	if err != nil {
		return err
	}
	var updated *AuxKeys
	if !t.n.withAux(t.process, func(a *nodeAux) {
		a.noteAccepted(w.id, theirs.acceptedKeys)
		updated = a.keys.withReceipt(w.id, t.generation, receipt, offers)
		a.keys = updated
	}) {
		return ErrNodeGone
	}
	return p.storeKeys(ctx, v.id, updated)
}

// checkPeer runs the proofs. The peer's last one is for the verifier's own keys,
// of which it uses the newest.
func (p *Pool) checkPeer(ctx context.Context, v, w auxView, r *nodepb.AcceptPeerRequest) (receipt []byte, err error) {
	own := v.offers()
	slices.Reverse(own)
	var failed error
	for _, o := range own {
		proof, err := w.client.ProveFactors(ctx, &nodepb.ProveFactorsRequest{PeerId: v.id, PeerPublic: o.keys.Public})
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", w.id, err))
			continue
		}
		r.Proof = proof.GetProof()
		reply, err := v.client.AcceptPeer(ctx, r)
		if n := len(reply.GetReceipt()); err == nil && n > maxAuxReceipt {
			err = fmt.Errorf("%s made a receipt of %d bytes", v.id, n)
		}
		if err == nil {
			return reply.GetReceipt(), nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

// promote stores a node's next keys, with all its receipts, and from then on has
// sessions use them.
func (p *Pool) promote(t auxTask) error {
	ctx, cancel := context.WithTimeout(p.ctx, auxStoreTimeout)
	defer cancel()
	v := t.n.auxView()
	if v.process != t.process || v.next == nil || v.next.Generation != t.generation {
		return ErrNodeGone
	}
	keys := *v.next
	keys.Receipts = maps.Clone(v.keys.Receipts)
	if err := p.storeKeys(ctx, v.id, &keys); err != nil {
		return err
	}
	if !t.n.withAux(t.process, func(a *nodeAux) {
		a.keys, a.hash, a.next = &keys, v.nextHash, nil
		a.state, a.progress = auxReady, 100
	}) {
		return ErrNodeGone // its next process loads them
	}
	p.cfg.Logger.Info("auxiliary keys renewed", "node", v.id, "generation", keys.Generation)
	return nil
}

// abandon gives up next keys that most peers refuse. The node starts again with
// the ones in use: a process works with its newest keys when it checks others or
// proves something to them.
func (p *Pool) abandon(t auxTask) error {
	given := false
	t.n.withAux(t.process, func(a *nodeAux) {
		if given = a.next != nil && a.next.Generation == t.generation; given {
			a.next, a.state, a.progress = nil, auxReady, 100
		}
	})
	if !given {
		return ErrNodeGone
	}
	p.aux.postpone(t.n.id, auxPostponed)
	p.cfg.Logger.Error("a node's peers refuse its new auxiliary keys; it starts again with the old ones and makes others later",
		"node", t.n.id, "generation", t.generation)
	p.end(t)
	return nil
}

// end ends the process that a task is about.
func (p *Pool) end(t auxTask) {
	t.n.mu.Lock()
	proc := t.n.proc
	t.n.mu.Unlock()
	if proc != nil && proc.number == t.process {
		proc.Stop()
	}
}

// reload ends a process that was set up with older keys than were stored at the
// same time; its next one loads the stored ones.
func (p *Pool) reload(t auxTask) error {
	ctx, cancel := context.WithTimeout(p.ctx, auxStoreTimeout)
	defer cancel()
	stored, err := p.storedKeys(ctx, t.n.id)
	if err != nil {
		return err
	}
	v := t.n.auxView()
	if v.keys != nil && (stored.Aux == nil || stored.Aux.Generation <= v.keys.Generation) {
		p.aux.resetStored(t.n.id, v.keys.Generation) // the write had failed
		return nil
	}
	p.cfg.Logger.Warn("starting a node again: newer auxiliary keys were stored while it started", "node", t.n.id)
	p.end(t)
	return nil
}

// retire tells a node which generations are in use; it forgets older ones when
// the sessions that use them have ended.
func (p *Pool) retire(t auxTask) error {
	ctx, cancel := context.WithTimeout(p.ctx, auxStoreTimeout)
	defer cancel()
	nodes, _, _, err := p.ready()
	if err != nil {
		return err
	}
	var views []auxView
	r := &nodepb.RetireAuxiliaryRequest{}
	for _, n := range nodes {
		v := n.auxView()
		if v.process == 0 {
			continue
		}
		views = append(views, v)
		if v.keys != nil && v.keys.Generation > 1 {
			r.Oldest = append(r.Oldest, &nodepb.AuxiliaryGeneration{NodeId: v.id, Generation: v.keys.Generation})
		}
	}
	client := t.n.auxView().client
	if client == nil {
		return ErrNodeGone
	}
	if _, err := client.RetireAuxiliary(ctx, r); err != nil {
		return err
	}
	t.n.withAux(t.process, func(a *nodeAux) { a.retired = inUse(views) })
	return nil
}
