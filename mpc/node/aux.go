package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// auxState holds this node's auxiliary keys and those of peers. It is guarded
// by Node.mu except where said otherwise.
type auxState struct {
	own      *ownAux // nil before any were made
	making   bool
	progress *atomic.Uint32 // percent, while making
	// peers holds what may be used, by node ID; claimed what a peer is said to
	// have, until it has been verified.
	peers, claimed map[string]*peerAux
}

// ownAux is one generation of this node's keys. It does not change.
type ownAux struct {
	hash   [32]byte // SHA-256 of the encoded public half; names it in sessions
	public *cmp.AuxPublic
	secret *cmp.AuxSecret
}

// peerAux is one generation of a peer's public keys.
type peerAux struct {
	hash   [32]byte
	public *cmp.AuxPublic
	owner  cmp.Owner
	// verify checks the proofs once, whoever asks first.
	verify func() error
}

// status returns the generation in use, 0 for none, and how far making the next
// one is.
func (a auxState) status() (generation uint64, progress uint32) {
	if a.own != nil {
		generation = a.own.public.Owner().Generation
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

// loadAuxiliary opens stored auxiliary keys at start.
func (n *Node) loadAuxiliary(ctx context.Context, publicBytes, envelope []byte) error {
	public, err := cmp.ParseAuxPublic(publicBytes)
	if err != nil {
		return err
	}
	generation := public.Owner().Generation
	if public.Owner() != n.owner(n.id, n.self(), generation) {
		return cmp.ErrOwner
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
	n.aux.own = &ownAux{hash: sha256.Sum256(publicBytes), public: public, secret: own}
	return nil
}

// MakeAuxiliary makes, wraps and starts to use a new generation.
func (n *Node) MakeAuxiliary(ctx context.Context, r *nodepb.MakeAuxiliaryRequest) (*nodepb.MakeAuxiliaryReply, error) {
	if err := n.ready(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	progress := new(atomic.Uint32)
	n.mu.Lock()
	if n.aux.making {
		n.mu.Unlock()
		return nil, status.Error(codes.Aborted, "auxiliary keys are being made already")
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
	envelope, _, err := n.seal(hsm.NodeKeyContext(kindAuxiliary, n.mountID, n.id, r.GetGeneration()), plain)
	if err != nil {
		return nil, err
	}
	encoded := public.Marshal()
	n.mu.Lock()
	n.aux.own = &ownAux{hash: sha256.Sum256(encoded), public: public, secret: own}
	// Peers' factor proofs were made for the Pedersen parameters of the last
	// generation.
	n.aux.peers, n.aux.claimed = nil, nil
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
// is kept as claimed, so that it is verified once, until adopt takes it.
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
	if n.aux.own == nil {
		return nil, nil, status.Error(codes.Aborted, "this node has no auxiliary keys yet")
	}
	for _, known := range []*peerAux{n.aux.peers[peerID], n.aux.claimed[peerID]} {
		if known != nil && known.hash == hash {
			return n.aux.own, known, nil
		}
	}
	public, err := cmp.ParseAuxPublic(encoded)
	if err != nil {
		return nil, nil, err
	}
	owner := n.owner(peerID, identity, public.Owner().Generation)
	peer := &peerAux{hash: hash, public: public, owner: owner,
		verify: sync.OnceValue(func() error { return public.Verify(owner) })}
	if n.aux.claimed == nil {
		n.aux.claimed = map[string]*peerAux{}
	}
	n.aux.claimed[peerID] = peer
	return n.aux.own, peer, nil
}

// verifyPeer checks a peer's proofs and then adopts its keys.
func (n *Node) verifyPeer(peerID string, peer *peerAux) error {
	if err := peer.verify(); err != nil {
		return err
	}
	return n.adopt(peerID, peer)
}

// adopt takes a peer's verified keys into use. An older generation never comes
// back: its secrets may be known to whoever broke into the peer back then.
func (n *Node) adopt(peerID string, peer *peerAux) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.aux.peers[peerID]
	if now == peer {
		return nil
	}
	if now != nil && now.owner.Generation >= peer.owner.Generation {
		return status.Errorf(codes.InvalidArgument, "auxiliary keys of %s of generation %d are in use, those of generation %d are too old",
			peerID, now.owner.Generation, peer.owner.Generation)
	}
	if n.aux.peers == nil {
		n.aux.peers = map[string]*peerAux{}
	}
	n.aux.peers[peerID] = peer
	if n.aux.claimed[peerID] == peer {
		delete(n.aux.claimed, peerID)
	}
	return nil
}

// auxInputs are the auxiliary keys of one signing session.
type auxInputs struct {
	public map[mpc.Index]*cmp.AuxPublic
	secret *cmp.AuxSecret
}

// auxInputs finds the keys that the session names by hash. Every one of a peer
// must have been checked completely.
func (n *Node) auxInputs(s *nodepb.Start) (auxInputs, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	in := auxInputs{public: map[mpc.Index]*cmp.AuxPublic{}}
	for _, m := range s.GetMembers() {
		index := mpc.Index(m.GetIndex())
		if m.GetNodeId() == n.id {
			if n.aux.own == nil || string(n.aux.own.hash[:]) != string(m.GetAuxHash()) {
				return in, fmt.Errorf("%w: this node's are others than the session names", errAuxPending)
			}
			in.public[index], in.secret = n.aux.own.public, n.aux.own.secret
			continue
		}
		peer := n.aux.peers[m.GetNodeId()]
		if peer == nil || string(peer.hash[:]) != string(m.GetAuxHash()) || !peer.public.Checked() {
			return in, fmt.Errorf("%w: those of %s have not been checked", errAuxPending, m.GetNodeId())
		}
		in.public[index] = peer.public
	}
	if in.secret == nil {
		return in, refused("the session does not name this node")
	}
	return in, nil
}

func (in auxInputs) newSigner(t *signTask, share *secret.Bytes, id mpc.SessionID) (signer, error) {
	if len(t.message) != mpc.DigestSize {
		return nil, errors.New("ECDSA signs 32 bytes")
	}
	party, err := cmp.NewSign(cmp.SignConfig{Self: t.self, Signers: t.signers, Record: t.account, Share: share,
		Aux: in.public, Secret: in.secret, Digest: [mpc.DigestSize]byte(t.message), SessionID: id})
	if err != nil {
		return nil, err
	}
	return party, nil
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
