package pool

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	decred "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/secret"
)

// stubNode is one process.
type stubNode struct {
	nodepb.NodeClient
	world *stubWorld
	id    string
	dead  chan struct{}
	once  sync.Once

	mu            sync.Mutex
	identity      ed25519.PrivateKey
	presignatures map[mpc.SessionID]stubPresignature
	own           map[[32]byte]uint64 // generations by hash
	newest        [32]byte
	peers         map[string][]acceptedKeys
}

type stubPresignature struct {
	account mpc.AccountID
	record  []byte
	expires time.Time
}

func (n *stubNode) Client() nodepb.NodeClient { return n }
func (n *stubNode) PID() int                  { return 0 }
func (n *stubNode) Stop()                     { n.once.Do(func() { close(n.dead) }) }

func (n *stubNode) Exited() bool {
	select {
	case <-n.dead:
		return true
	default:
		return false
	}
}

var errStubDead = errors.New("connection refused")

// call runs f as an RPC that fails where the process is dead by its end.
func call[R any](n *stubNode, f func() (R, error)) (R, error) {
	var none R
	if n.Exited() {
		return none, errStubDead
	}
	r, err := f()
	if n.Exited() {
		return none, errStubDead
	}
	return r, err
}

func (n *stubNode) Setup(_ context.Context, r *nodepb.SetupRequest, _ ...grpc.CallOption) (*nodepb.SetupReply, error) {
	return call(n, func() (*nodepb.SetupReply, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		seed := r.GetIdentityEnvelope()
		if len(seed) == 0 {
			seed = make([]byte, ed25519.SeedSize)
			if _, err := rand.Read(seed); err != nil {
				return nil, err
			}
		}
		n.identity = ed25519.NewKeyFromSeed(seed)
		if public := r.GetAuxPublic(); len(public) > 0 {
			n.own[auxHash(public)] = stubGeneration(public)
			n.newest = auxHash(public)
		}
		return &nodepb.SetupReply{Version: "stub", Identity: n.identity.Public().(ed25519.PublicKey), IdentityEnvelope: seed}, nil
	})
}

func (n *stubNode) SetRoster(context.Context, *nodepb.SetRosterRequest, ...grpc.CallOption) (*nodepb.SetRosterReply, error) {
	return call(n, func() (*nodepb.SetRosterReply, error) { return &nodepb.SetRosterReply{}, nil })
}

func (n *stubNode) Status(context.Context, *nodepb.StatusRequest, ...grpc.CallOption) (*nodepb.StatusReply, error) {
	return call(n, func() (*nodepb.StatusReply, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		return &nodepb.StatusReply{Hsm: hsmOK, AuxGeneration: n.own[n.newest], Presignatures: uint32(len(n.presignatures))}, nil
	})
}

// Public auxiliary keys are "node#generation random".
func stubGeneration(public []byte) (g uint64) {
	_, rest, _ := strings.Cut(string(public), "#")
	_, _ = fmt.Sscanf(rest, "%d", &g)
	return g
}

func stubName(public []byte) string {
	name, _, _ := strings.Cut(string(public), " ")
	return name
}

func (n *stubNode) MakeAuxiliary(_ context.Context, r *nodepb.MakeAuxiliaryRequest, _ ...grpc.CallOption) (*nodepb.MakeAuxiliaryReply, error) {
	return call(n, func() (*nodepb.MakeAuxiliaryReply, error) {
		n.world.step("make:%s#%d", n.id, r.GetGeneration())
		n.mu.Lock()
		public := fmt.Appendf(nil, "%s#%d %s", n.id, r.GetGeneration(), rand.Text())
		if old := n.own[n.newest]; old >= r.GetGeneration() {
			n.mu.Unlock()
			return nil, fmt.Errorf("generation %d is not after %d", r.GetGeneration(), old)
		}
		n.newest = auxHash(public)
		n.own[n.newest] = r.GetGeneration()
		if all := slices.Sorted(maps.Values(n.own)); len(all) > peerGenerations {
			maps.DeleteFunc(n.own, func(_ [32]byte, g uint64) bool { return g < all[len(all)-peerGenerations] })
		}
		n.mu.Unlock()
		n.world.mu.Lock()
		n.world.made[receiptKey(n.id, r.GetGeneration())]++
		n.world.mu.Unlock()
		n.world.step("make:%s#%d done", n.id, r.GetGeneration())
		return &nodepb.MakeAuxiliaryReply{Public: public, Envelope: []byte("sealed")}, nil
	})
}

func (n *stubNode) ProveFactors(_ context.Context, r *nodepb.ProveFactorsRequest, _ ...grpc.CallOption) (*nodepb.ProveFactorsReply, error) {
	return call(n, func() (*nodepb.ProveFactorsReply, error) {
		n.world.step("prove:%s for %s", n.id, stubName(r.GetPeerPublic()))
		n.mu.Lock()
		defer n.mu.Unlock()
		verifier := auxHash(r.GetPeerPublic())
		return &nodepb.ProveFactorsReply{Proof: slices.Concat(n.newest[:], verifier[:])}, nil
	})
}

func (n *stubNode) AcceptPeer(_ context.Context, r *nodepb.AcceptPeerRequest, _ ...grpc.CallOption) (*nodepb.AcceptPeerReply, error) {
	return call(n, func() (*nodepb.AcceptPeerReply, error) {
		name := stubName(r.GetPeerPublic())
		n.world.step("accept:%s %s", n.id, name)
		n.world.mu.Lock()
		refuses := n.world.refuses[n.id+" "+name]
		n.world.mu.Unlock()
		n.mu.Lock()
		defer n.mu.Unlock()
		k := acceptedKeys{stubGeneration(r.GetPeerPublic()), auxHash(r.GetPeerPublic())}
		reply := &nodepb.AcceptPeerReply{}
		if len(r.GetReceipt()) > 0 {
			if string(r.GetReceipt()) != fmt.Sprintf("%s checked %x", n.id, k.hash) {
				return nil, errors.New("a receipt for other keys")
			}
		} else {
			if refuses || !bytes.Equal(r.GetProof(), slices.Concat(k.hash[:], n.newest[:])) {
				return nil, errors.New("the proof does not fit")
			}
			reply.Receipt = fmt.Appendf(nil, "%s checked %x", n.id, k.hash)
		}
		a := nodeAux{accepted: n.peers}
		if !a.works(r.GetPeerId(), k) && slices.ContainsFunc(n.peers[r.GetPeerId()], func(o acceptedKeys) bool { return o.generation >= k.generation }) {
			return nil, errors.New("newer keys are in use")
		}
		a.noteAccepted(r.GetPeerId(), k)
		n.peers = a.accepted
		n.world.step("accept:%s %s done", n.id, name)
		return reply, nil
	})
}

func (n *stubNode) RetireAuxiliary(_ context.Context, r *nodepb.RetireAuxiliaryRequest, _ ...grpc.CallOption) (*nodepb.RetireAuxiliaryReply, error) {
	return call(n, func() (*nodepb.RetireAuxiliaryReply, error) {
		n.world.step("retire:%s", n.id)
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, o := range r.GetOldest() {
			old := func(k acceptedKeys) bool { return k.generation < o.GetGeneration() }
			if o.GetNodeId() == n.id {
				maps.DeleteFunc(n.own, func(_ [32]byte, g uint64) bool { return g < o.GetGeneration() })
				continue
			}
			n.peers = maps.Clone(n.peers)
			n.peers[o.GetNodeId()] = slices.DeleteFunc(slices.Clone(n.peers[o.GetNodeId()]), old)
		}
		return &nodepb.RetireAuxiliaryReply{}, nil
	})
}

func (n *stubNode) DropPresignatures(_ context.Context, r *nodepb.DropPresignaturesRequest, _ ...grpc.CallOption) (*nodepb.DropPresignaturesReply, error) {
	return call(n, func() (*nodepb.DropPresignaturesReply, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		maps.DeleteFunc(n.presignatures, func(id mpc.SessionID, s stubPresignature) bool {
			return bytes.Equal(s.account[:], r.GetAccountId()) &&
				!slices.ContainsFunc(r.GetKeep(), func(b []byte) bool { return bytes.Equal(b, id[:]) })
		})
		return &nodepb.DropPresignaturesReply{}, nil
	})
}

func (n *stubNode) Session(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[nodepb.SessionIn, nodepb.SessionOut], error) {
	if n.Exited() {
		return nil, errStubDead
	}
	return &stubStream{ctx: ctx, node: n, out: make(chan *nodepb.SessionOut, 4)}, nil
}

// stubStream is one node's side of one session: hello, then the outcome.
type stubStream struct {
	grpc.ClientStream
	ctx   context.Context
	node  *stubNode
	start *nodepb.Start
	out   chan *nodepb.SessionOut
}

func (s *stubStream) Recv() (*nodepb.SessionOut, error) {
	select {
	case m, ok := <-s.out:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-s.node.dead:
		return nil, errStubDead
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *stubStream) Send(m *nodepb.SessionIn) error {
	switch {
	case s.node.Exited():
		return errStubDead
	case m.GetStart() != nil:
		s.start = m.GetStart()
		if f := s.node.begin(s.start); f != nil {
			s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Failure{Failure: f}}
			return nil
		}
		s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Hello{Hello: &nodepb.Hello{Index: s.start.GetSelf(), Nonce: []byte(rand.Text())}}}
	case m.GetHellos() != nil:
		if s.node.world.slow > 0 {
			select {
			case <-time.After(s.node.world.slow):
			case <-s.ctx.Done():
				return s.ctx.Err()
			}
		}
		var nonces []string
		for _, h := range m.GetHellos().GetHellos() {
			nonces = append(nonces, string(h.GetNonce()))
		}
		slices.Sort(nonces)
		id := mpc.SessionID(sha256.Sum256([]byte(strings.Join(nonces, ""))))
		o := s.node.finish(s.start, id)
		if len(s.start.GetPresignature()) > 0 {
			switch s.node.world.presigned {
			case "lie":
				o.S[31] ^= 1
			case "hang":
				<-s.ctx.Done()
				return s.ctx.Err()
			}
		}
		if s.node.Exited() {
			return errStubDead
		}
		if o.SessionId = id[:]; s.node.id == s.node.world.misnames {
			o.SessionId = slices.Repeat([]byte{1}, len(id))
		}
		s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Outcome{Outcome: o}}
	}
	return nil
}

// begin does what a node checks at the start.
func (n *stubNode) begin(s *nodepb.Start) *nodepb.Failure {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(s.GetReleaseId()) > 0 {
		w.starts = append(w.starts, s)
	}
	if len(s.GetPolicy())+len(s.GetApprovals())+len(s.GetNextPolicy()) > 0 {
		w.asked = append(w.asked, s)
	}
	if len(s.GetPresignature()) > 0 {
		id := mpc.SessionID(s.GetPresignature())
		key := fmt.Sprintf("%x", id[:4])
		w.offered[key+" "+n.id]++
		if w.inputs[key] == nil {
			w.inputs[key] = map[string]int{}
		}
		w.inputs[key][string(s.GetInput())]++
		if !mpc.MessageType(s.GetMessageType()).HashedByNodes() || s.GetDerivationPath() != "" || s.GetTaprootTweak() != "" || len(s.GetEnvelope()) > 0 {
			w.wrong("a presignature for %s, path %q, with an envelope of %d bytes", s.GetMessageType(), s.GetDerivationPath(), len(s.GetEnvelope()))
		}
		p, ok := n.presignatures[id]
		delete(n.presignatures, id)
		if w.unapproved[n.id] {
			return unapproved
		}
		if w.presigned == "refuse" {
			return &nodepb.Failure{Reason: nodepb.Failure_REFUSED, Text: "I do not want to"}
		}
		if !ok {
			return &nodepb.Failure{Reason: nodepb.Failure_PRESIGNATURE_GONE, Text: "no such presignature"}
		}
		if !bytes.Equal(p.record, s.GetRecord()) {
			w.wrong("a presignature of another record")
		}
		switch late := time.Since(p.expires); {
		case late >= 5*time.Second:
			w.wrong("an expired presignature was asked for")
		case late >= 0: // a busy machine, between the choice and this request
			return &nodepb.Failure{Reason: nodepb.Failure_PRESIGNATURE_GONE, Text: "no such presignature"}
		}
		return nil
	}
	if w.unapproved[n.id] {
		return unapproved
	}
	if len(s.GetEnvelope()) == 0 {
		w.wrong("%s without a share", s.GetOperation())
	}
	if s.GetOperation() != "sign" && s.GetOperation() != "presign" {
		return nil
	}
	for _, m := range s.GetMembers() {
		_, own := n.own[[32]byte(m.GetAuxHash())]
		works := slices.ContainsFunc(n.peers[m.GetNodeId()], func(k acceptedKeys) bool { return string(k.hash[:]) == string(m.GetAuxHash()) })
		if m.GetNodeId() == n.id && !own || m.GetNodeId() != n.id && !works {
			w.auxPending++
			return &nodepb.Failure{Reason: nodepb.Failure_AUX_PENDING, Text: "auxiliary keys of " + m.GetNodeId()}
		}
	}
	return nil
}

func (n *stubNode) finish(s *nodepb.Start, id mpc.SessionID) *nodepb.Outcome {
	record, err := mpc.ParsePublicRecord(s.GetRecord())
	if err != nil {
		panic(err)
	}
	switch s.GetOperation() {
	case "presign":
		n.mu.Lock()
		defer n.mu.Unlock()
		n.presignatures[id] = stubPresignature{account: record.AccountID, record: s.GetRecord(),
			expires: time.Now().Add(time.Duration(s.GetLifetimeMs()) * time.Millisecond)}
		return &nodepb.Outcome{}
	case "refresh":
		record.Epoch++
		record.EpochID = mpc.EpochID(id[:16])
		if next := s.GetNextPolicy(); len(next) > 0 && !n.world.keepsPolicy {
			record.PolicyHash = sha256.Sum256(next)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		return &nodepb.Outcome{Record: record.Marshal(), Envelope: []byte("sealed"), Endorsement: mpc.Endorse(n.identity, record), WrappingVersion: 1}
	}
	return n.world.sign(record, s)
}

// sign makes a real signature, so that the pool's own check is at work.
func (w *stubWorld) sign(record *mpc.PublicRecord, s *nodepb.Start) *nodepb.Outcome {
	digest, err := mpc.SigningInput(record.Algorithm, mpc.MessageType(s.GetMessageType()), mpc.HashAlgorithm(s.GetHashAlgorithm()), s.GetInput())
	if err != nil {
		panic(err)
	}
	if record.Algorithm == mpc.ECDSASecp256k1 {
		d := mpc.Derivation{Path: s.GetDerivationPath(), TaprootTweak: s.GetTaprootTweak()}
		if w.ignores {
			d = mpc.Derivation{}
		}
		child, err := derive.Derive(record, d)
		if err != nil {
			panic(err)
		}
		key, err := child.Share(secret.New(w.k1.Serialize()))
		if err != nil {
			panic(err)
		}
		c := decred.SignCompact(secp256k1.PrivKeyFromBytes(key.Expose()), digest, true)
		return &nodepb.Outcome{Signature: verify.DER([32]byte(c[1:33]), [32]byte(c[33:])), R: c[1:33], S: c[33:], RecoveryId: int32(c[0]) - 31}
	}
	r, sum, err := ecdsa.Sign(rand.Reader, w.key, digest)
	if err != nil {
		panic(err)
	}
	order := elliptic.P256().Params().N
	if sum.Cmp(new(big.Int).Rsh(order, 1)) > 0 {
		sum.Sub(order, sum)
	}
	var rb, sb [32]byte
	r.FillBytes(rb[:])
	sum.FillBytes(sb[:])
	o := &nodepb.Outcome{Signature: verify.DER(rb, sb), R: rb[:], S: sb[:]}
	for ; !verify.RecoversKey(mpc.ECDSAP256, record.PublicKey, digest, rb, sb, int(o.RecoveryId)); o.RecoveryId++ {
		if o.RecoveryId > 3 {
			panic("no recovery ID")
		}
	}
	return o
}
