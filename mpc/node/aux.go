package node

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// auxState holds this node's auxiliary keys and those of peers. It is guarded
// by Node.mu except where said otherwise.
type auxState struct {
	// own holds this node's generations that are not retired, in ascending
	// order: while peers check the newest, sessions use the one before it.
	own      []*ownAux
	making   bool
	progress *atomic.Uint32 // percent, while making
	peers    map[string]*peerState
}

// maxGenerations is how many generations of one node's keys are in use at once.
const maxGenerations = 2

// ownAux is one generation of this node's keys.
type ownAux struct {
	hash   [32]byte // SHA-256 of the encoded public half; names it in sessions
	public *cmp.AuxPublic
	secret *cmp.AuxSecret
	// Guarded by Node.mu: the secret is wiped when the keys are retired and
	// nobody, session or proof, uses them any more.
	uses    int
	used    bool // by a session, so that the coordinator knows them
	retired bool
}

// peerState is what this node knows of a peer's keys.
type peerState struct {
	// usable holds generations whose proofs were verified, ascending.
	usable []*peerAux
	// claimed is what the peer is said to have, until it has been verified.
	claimed *peerAux
	// oldest is the lowest generation that may still be used. It never falls:
	// the secrets of older ones may be known to whoever broke into the peer.
	oldest uint64
}

// peerAux is one generation of a peer's public keys.
type peerAux struct {
	hash   [32]byte
	public *cmp.AuxPublic
	owner  cmp.Owner
	// verify checks the proofs once, whoever asks first.
	verify func() error
}

// newest returns this node's newest keys, or nil.
func (a *auxState) newest() *ownAux {
	if len(a.own) == 0 {
		return nil
	}
	return a.own[len(a.own)-1]
}

// peer returns the state of a peer, made where there is none.
func (a *auxState) peer(nodeID string) *peerState {
	if a.peers == nil {
		a.peers = map[string]*peerState{}
	}
	if a.peers[nodeID] == nil {
		a.peers[nodeID] = &peerState{}
	}
	return a.peers[nodeID]
}

// retireLocked ends the use of own keys older than a generation, but never of
// the newest.
func (a *auxState) retireLocked(oldest uint64) {
	for len(a.own) > 1 && a.own[0].public.Owner().Generation < oldest {
		a.own[0].retireLocked()
		a.own = a.own[1:]
	}
}

// makeRoomLocked keeps two generations: the newest and, of the others, the last
// one that a session has used. One that none has used is of an earlier attempt,
// whose answer the coordinator may never have got.
func (a *auxState) makeRoomLocked() {
	for len(a.own) > maxGenerations {
		out := 0
		for i, own := range a.own[:len(a.own)-1] {
			if !own.used {
				out = i
			}
		}
		a.own[out].retireLocked()
		a.own = slices.Delete(a.own, out, out+1)
	}
}

// closeLocked ends the use of all own keys.
func (a *auxState) closeLocked() {
	for _, own := range a.own {
		own.retireLocked()
	}
	a.own = nil
}

func (o *ownAux) retireLocked() {
	if o.retired = true; o.uses == 0 {
		o.secret.Wipe()
	}
}

// letGo ends one use of own keys.
func (n *Node) letGo(own *ownAux) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if own.uses--; own.uses == 0 && own.retired {
		own.secret.Wipe()
	}
}

// retire ends the use of a peer's keys older than a generation.
func (p *peerState) retire(oldest uint64) {
	p.oldest = max(p.oldest, oldest)
	for len(p.usable) > 0 && p.usable[0].owner.Generation < p.oldest {
		p.usable = p.usable[1:]
	}
	if p.claimed != nil && p.claimed.owner.Generation < p.oldest {
		p.claimed = nil
	}
}

// status returns the newest generation, 0 for none, and how far making the next
// one is.
func (a *auxState) status() (generation uint64, progress uint32) {
	if own := a.newest(); own != nil {
		generation = own.public.Owner().Generation
	}
	if a.making {
		progress = a.progress.Load()
	}
	return generation, progress
}

// owner names a node of this mount as the owner of auxiliary keys.
func (n *Node) owner(nodeID string, identity mpc.NodeIdentity, generation uint64) cmp.Owner {
	return cmp.Owner{MountID: n.mountID, NodeID: nodeID, Identity: identity, Generation: generation}
}

// loadAuxiliary opens stored auxiliary keys at start. They are this node's own only
// if it has signed them: that the envelope opens says nothing, since anybody can
// seal to the public half of a wrapping key, and a coordinator that knew a node's
// Paillier key would read the node's share out of one signing session.
func (n *Node) loadAuxiliary(ctx context.Context, publicBytes, envelope []byte) error {
	public, err := cmp.ParseAuxPublic(publicBytes)
	if err != nil {
		return err
	}
	generation := public.Owner().Generation
	if err := public.SignedBy(n.owner(n.id, n.self(), generation)); err != nil {
		return err
	}
	plain, err := n.open(ctx, hsm.NodeKeyContext(kindAuxiliary, n.mountID, n.id, generation), envelope)
	if err != nil {
		return err
	}
	defer plain.Wipe()
	own, err := cmp.ParseAuxSecret(plain, public)
	if err != nil {
		return err
	}
	n.aux.own = []*ownAux{{hash: sha256.Sum256(publicBytes), public: public, secret: own}}
	return nil
}

// MakeAuxiliary makes and wraps a new generation. The one before it stays in use
// until it is retired. What this node has checked of its peers is kept: a
// peer's modulus was proven to have no small factors under Pedersen parameters
// whose trapdoor only this node knew. That is the limit as well: whoever was in
// this node at the time could have had it accept anything, and its renewal does
// not undo that; it takes the peer's own renewal.
func (n *Node) MakeAuxiliary(ctx context.Context, r *nodepb.MakeAuxiliaryRequest) (*nodepb.MakeAuxiliaryReply, error) {
	if err := n.ready(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if r.GetGeneration() == 0 {
		return nil, status.Error(codes.InvalidArgument, "generations of auxiliary keys begin with 1")
	}
	progress := new(atomic.Uint32)
	n.mu.Lock()
	if n.aux.making {
		n.mu.Unlock()
		return nil, status.Error(codes.Aborted, "auxiliary keys are being made already")
	}
	if own := n.aux.newest(); own != nil && own.public.Owner().Generation >= r.GetGeneration() {
		n.mu.Unlock()
		return nil, status.Errorf(codes.InvalidArgument, "this node has auxiliary keys of generation %d: the next ones need a higher number than %d",
			own.public.Owner().Generation, r.GetGeneration())
	}
	n.aux.making, n.aux.progress = true, progress
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.aux.making = false
		n.mu.Unlock()
	}()

	owner := n.owner(n.id, n.self(), r.GetGeneration())
	var own *cmp.AuxSecret
	var public *cmp.AuxPublic
	err := atLowPriority(func() (err error) {
		own, public, err = cmp.Generate(ctx, owner, n.identity, func(p int) { progress.Store(uint32(p)) })
		return err
	})
	if err != nil {
		return nil, err
	}
	plain := own.Marshal()
	defer plain.Wipe()
	envelope, _, err := n.seal(ctx, hsm.NodeKeyContext(kindAuxiliary, n.mountID, n.id, r.GetGeneration()), plain, 0)
	if err != nil {
		own.Wipe()
		return nil, err
	}
	encoded := public.Marshal()
	n.mu.Lock()
	if !n.setup { // closed meanwhile
		n.mu.Unlock()
		own.Wipe()
		return nil, status.Error(codes.FailedPrecondition, errNotSetUp.Error())
	}
	n.aux.own = append(n.aux.own, &ownAux{hash: sha256.Sum256(encoded), public: public, secret: own})
	n.aux.makeRoomLocked()
	n.mu.Unlock()
	return &nodepb.MakeAuxiliaryReply{Public: encoded, Envelope: envelope}, nil
}

// ProveFactors verifies a peer's public keys and proves to the peer that this
// node's modulus has no small factors.
func (n *Node) ProveFactors(_ context.Context, r *nodepb.ProveFactorsRequest) (*nodepb.ProveFactorsReply, error) {
	own, peer, err := n.pair(r.GetPeerId(), r.GetPeerPublic())
	if err != nil {
		return nil, err
	}
	defer n.letGo(own)
	var proof *cmp.FactorProof
	err = atLowPriority(func() (err error) {
		if err := n.verifyPeer(r.GetPeerId(), peer); err != nil {
			return err
		}
		proof, err = cmp.ProveFactors(own.secret, own.public.Owner(), peer.public, peer.owner)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &nodepb.ProveFactorsReply{Proof: proof.Marshal()}, nil
}

// AcceptPeer takes a peer's public keys into use, after all checks or on this
// node's own receipt of them.
func (n *Node) AcceptPeer(_ context.Context, r *nodepb.AcceptPeerRequest) (*nodepb.AcceptPeerReply, error) {
	own, peer, err := n.pair(r.GetPeerId(), r.GetPeerPublic())
	if err != nil {
		return nil, err
	}
	defer n.letGo(own)
	if len(r.GetReceipt()) > 0 {
		receipt, err := cmp.ParseReceipt(r.GetReceipt())
		if err != nil {
			return nil, err
		}
		if err := cmp.VerifyReceipt(receipt, n.id, n.self(), peer.public, peer.owner); err != nil {
			return nil, err
		}
		if err := n.adopt(r.GetPeerId(), peer); err != nil {
			return nil, err
		}
		return &nodepb.AcceptPeerReply{}, nil
	}
	proof, err := cmp.ParseFactorProof(r.GetProof())
	if err != nil {
		return nil, err
	}
	err = atLowPriority(func() error {
		if err := n.verifyPeer(r.GetPeerId(), peer); err != nil {
			return err
		}
		return cmp.VerifyFactors(proof, peer.public, peer.owner, own.public, own.public.Owner())
	})
	if err != nil {
		return nil, err
	}
	receipt, err := cmp.SignReceipt(n.id, n.identity, peer.public)
	if err != nil {
		return nil, err
	}
	return &nodepb.AcceptPeerReply{Receipt: receipt.Marshal()}, nil
}

// pair returns this node's keys and the peer's with that encoding. What is new
// is kept as claimed, so that it is verified once, until adopt takes it. The
// caller lets go of this node's keys.
func (n *Node) pair(peerID string, encoded []byte) (*ownAux, *peerAux, error) {
	if err := n.ready(); err != nil {
		return nil, nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	identity, ok := n.pinned(peerID)
	if !ok || peerID == n.id {
		return nil, nil, status.Errorf(codes.InvalidArgument, "%s is no pinned peer", peerID)
	}
	hash := sha256.Sum256(encoded)
	n.mu.Lock()
	defer n.mu.Unlock()
	own := n.aux.newest()
	if own == nil {
		return nil, nil, status.Error(codes.Aborted, "this node has no auxiliary keys yet")
	}
	state := n.aux.peer(peerID)
	for _, known := range append(slices.Clip(state.usable), state.claimed) {
		if known != nil && known.hash == hash {
			own.uses++
			return own, known, nil
		}
	}
	public, err := cmp.ParseAuxPublic(encoded)
	if err != nil {
		return nil, nil, err
	}
	owner := n.owner(peerID, identity, public.Owner().Generation)
	state.claimed = &peerAux{hash: hash, public: public, owner: owner,
		verify: sync.OnceValue(func() error { return public.Verify(owner) })}
	own.uses++
	return own, state.claimed, nil
}

// verifyPeer checks a peer's proofs and then adopts its keys.
func (n *Node) verifyPeer(peerID string, peer *peerAux) error {
	if err := peer.verify(); err != nil {
		return err
	}
	return n.adopt(peerID, peer)
}

// adopt takes a peer's verified keys into use beside those of the generation
// before. An older generation never comes back.
func (n *Node) adopt(peerID string, peer *peerAux) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	state := n.aux.peer(peerID)
	if slices.Contains(state.usable, peer) {
		return nil
	}
	generation := peer.owner.Generation
	if n := len(state.usable); generation < state.oldest || n > 0 && generation <= state.usable[n-1].owner.Generation {
		return status.Errorf(codes.InvalidArgument, "auxiliary keys of %s of generation %d are refused: newer ones, or others of that generation, are known",
			peerID, generation)
	}
	// Keys that were never checked completely are not in use: they make room
	// first, as when the peer lost them before it could prove them.
	if len(state.usable) >= maxGenerations {
		state.usable = slices.DeleteFunc(state.usable, func(p *peerAux) bool { return !p.public.Checked() })
	}
	state.usable = append(state.usable, peer)
	if n := len(state.usable); n > maxGenerations {
		state.retire(state.usable[n-maxGenerations].owner.Generation)
	}
	if state.claimed == peer {
		state.claimed = nil
	}
	return nil
}

// RetireAuxiliary ends the use of auxiliary keys older than the given
// generations. Sessions that have begun with them go on.
func (n *Node) RetireAuxiliary(_ context.Context, r *nodepb.RetireAuxiliaryRequest) (*nodepb.RetireAuxiliaryReply, error) {
	if err := n.ready(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	var peers []string
	for _, o := range r.GetOldest() {
		if _, ok := n.pinned(o.GetNodeId()); ok {
			peers = append(peers, o.GetNodeId())
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range r.GetOldest() {
		if o.GetNodeId() == n.id {
			n.aux.retireLocked(o.GetGeneration())
		} else if slices.Contains(peers, o.GetNodeId()) {
			n.aux.peer(o.GetNodeId()).retire(o.GetGeneration())
		}
	}
	return &nodepb.RetireAuxiliaryReply{}, nil
}

// auxInputs are the auxiliary keys of one signing session. release is called
// once the session is over.
type auxInputs struct {
	public map[mpc.Index]*cmp.AuxPublic
	secret *cmp.AuxSecret
	free   func()
}

// release lets go of this node's keys. It may be called more than once, and on
// the zero value.
func (in *auxInputs) release() {
	if in.free != nil {
		in.free()
		in.free = nil
	}
}

// auxInputs finds the keys that the session names by hash, of any generation
// that is not retired. Every one of a peer must have been checked completely.
// Keys of an older program that do not serve the algorithm count as pending:
// their owner is going to make others.
func (n *Node) auxInputs(s *nodepb.Start, algorithm mpc.Algorithm) (auxInputs, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	in := auxInputs{public: map[mpc.Index]*cmp.AuxPublic{}}
	var own *ownAux
	for _, m := range s.GetMembers() {
		index := mpc.Index(m.GetIndex())
		if m.GetNodeId() == n.id {
			i := slices.IndexFunc(n.aux.own, func(o *ownAux) bool { return string(o.hash[:]) == string(m.GetAuxHash()) })
			if i < 0 {
				return auxInputs{}, fmt.Errorf("%w: this node's are others than the session names", errAuxPending)
			}
			own = n.aux.own[i]
			in.public[index] = own.public
			continue
		}
		var peer *peerAux
		if state := n.aux.peers[m.GetNodeId()]; state != nil {
			if i := slices.IndexFunc(state.usable, func(p *peerAux) bool { return string(p.hash[:]) == string(m.GetAuxHash()) }); i >= 0 {
				peer = state.usable[i]
			}
		}
		if peer == nil || !peer.public.Checked() {
			return auxInputs{}, fmt.Errorf("%w: those of %s have not been checked", errAuxPending, m.GetNodeId())
		}
		in.public[index] = peer.public
	}
	if own == nil {
		return auxInputs{}, refused("the session does not name this node")
	}
	for i, public := range in.public {
		if !public.Serves(algorithm) {
			return auxInputs{}, fmt.Errorf("%w: those of share %d were made before %s was known and have to be renewed", errAuxPending, i, algorithm)
		}
	}
	own.uses++
	own.used = true
	in.secret = own.secret
	in.free = func() { n.letGo(own) }
	return in, nil
}

// atLowPriority runs f on a thread of its own at the lowest priority, so that
// signatures go first on a busy machine. The thread ends with f. f must not
// start goroutines that do its work.
func atLowPriority(f func() error) error {
	done := make(chan error)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- mpc.ErrPanic // the value may hold secrets
			}
		}()
		runtime.LockOSThread() // never unlocked: the thread is not reused
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
		done <- f()
	}()
	return <-done
}
