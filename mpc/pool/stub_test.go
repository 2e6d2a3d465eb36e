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
	"testing"
	"time"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	decred "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/secret"
)

// stubWorld is a set of nodes in memory that follow the nodes' contract without
// its cryptography, and keep a book of what they were asked. They sign with one
// whole key per curve.
type stubWorld struct {
	key *ecdsa.PrivateKey // P-256
	k1  *secp256k1.PrivateKey
	// ignores makes nodes sign with the account's key whatever the derivation.
	ignores bool
	// presigned is how nodes misbehave when they sign with a presignature:
	// "refuse", "lie" or "hang".
	presigned string

	mu   sync.Mutex
	live map[string]*stubNode
	// hook, where set, is called before and after every call that matters to
	// auxiliary keys, with a name like "accept:local-1 local-2#3 done".
	hook func(step string)
	// slow, where set, delays the end of every session.
	slow time.Duration
	// refuses makes nodes refuse auxiliary keys: "local-1 local-2#3".
	refuses map[string]bool

	offered    map[string]int            // "session node": how often it was named in a Start
	inputs     map[string]map[string]int // by presignature: what it was to sign
	made       map[string]int            // "node#generation": how often it was asked for
	auxPending int                       // sessions refused for auxiliary keys
	bad        []string                  // what must never happen
	clock      time.Duration             // how far the nodes' clocks are ahead
}

func newStubWorld(t *testing.T) *stubWorld {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k1, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return &stubWorld{key: key, k1: k1, live: map[string]*stubNode{}, refuses: map[string]bool{}, offered: map[string]int{},
		inputs: map[string]map[string]int{}, made: map[string]int{}}
}

func (w *stubWorld) Start(name string) (Process, error) {
	n := &stubNode{world: w, id: name, dead: make(chan struct{}), presignatures: map[mpc.SessionID]stubPresignature{},
		own: map[[32]byte]uint64{}, peers: map[string][]acceptedKeys{}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live[name] = n
	return n, nil
}

// kill ends a node's process, if it has one.
func (w *stubWorld) kill(name string) {
	w.mu.Lock()
	n := w.live[name]
	w.mu.Unlock()
	if n != nil {
		n.Stop()
	}
}

func (w *stubWorld) step(format string, args ...any) {
	w.mu.Lock()
	hook := w.hook
	w.mu.Unlock()
	if hook != nil {
		hook(fmt.Sprintf(format, args...))
	}
}

// wrong notes something that must never happen. The caller holds w.mu.
func (w *stubWorld) wrong(format string, args ...any) {
	w.bad = append(w.bad, fmt.Sprintf(format, args...))
}

func (w *stubWorld) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.bad {
		t.Error(s)
	}
	for key, n := range w.offered {
		if n > 1 {
			t.Errorf("presignature and node %s: offered %d times", key, n)
		}
	}
	for session, inputs := range w.inputs {
		if len(inputs) > 1 {
			t.Errorf("presignature %x was to sign %d messages", session, len(inputs))
		}
	}
	for key, n := range w.made {
		if n > 1 {
			t.Errorf("auxiliary keys %s were asked for %d times", key, n)
		}
	}
}

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
		o.SessionId = id[:]
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
	if len(s.GetPresignature()) > 0 {
		id := mpc.SessionID(s.GetPresignature())
		key := fmt.Sprintf("%x", id[:4])
		w.offered[key+" "+n.id]++
		if w.inputs[key] == nil {
			w.inputs[key] = map[string]int{}
		}
		w.inputs[key][string(s.GetInput())]++
		if s.GetMessageType() != string(mpc.MessageRaw) || s.GetDerivationPath() != "" || s.GetTaprootTweak() != "" || len(s.GetEnvelope()) > 0 {
			w.wrong("a presignature for %s, path %q, with an envelope of %d bytes", s.GetMessageType(), s.GetDerivationPath(), len(s.GetEnvelope()))
		}
		p, ok := n.presignatures[id]
		delete(n.presignatures, id)
		if w.presigned == "refuse" {
			return &nodepb.Failure{Reason: nodepb.Failure_REFUSED, Text: "I do not want to"}
		}
		if !ok {
			return &nodepb.Failure{Reason: presignatureGone, Text: "no such presignature"}
		}
		if !bytes.Equal(p.record, s.GetRecord()) {
			w.wrong("a presignature of another record")
		}
		if !time.Now().Add(w.clock).Before(p.expires) {
			w.wrong("an expired presignature was asked for")
		}
		return nil
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

// stubStore is a KeyStore that knows when something goes back.
type stubStore struct {
	world  *stubWorld
	mu     sync.Mutex
	keys   map[string]NodeKeys
	frozen bool // the plugin has crashed: nothing is written
}

func (s *stubStore) NodeKeys(_ context.Context, id string) (*NodeKeys, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.keys[id]; ok {
		return &k, nil
	}
	return nil, nil
}

func (s *stubStore) PutNodeKeys(_ context.Context, id string, k *NodeKeys) error {
	if k.Aux != nil {
		s.world.step("store:%s#%d", id, k.Aux.Generation)
	}
	s.mu.Lock()
	if s.frozen {
		s.mu.Unlock()
		return errors.New("frozen")
	}
	old := s.keys[id].Aux
	s.keys[id] = *k
	s.mu.Unlock()
	if old != nil && (k.Aux == nil || k.Aux.Generation < old.Generation) {
		s.world.mu.Lock()
		s.world.wrong("%s: an older generation was stored", id)
		s.world.mu.Unlock()
	}
	if k.Aux != nil {
		s.world.step("store:%s#%d done", id, k.Aux.Generation)
	}
	return nil
}

func (s *stubStore) freeze(frozen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = frozen
}

func (s *stubStore) generation(id string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if aux := s.keys[id].Aux; aux != nil {
		return aux.Generation
	}
	return 0
}

// stubPool is a pool of stub nodes.
type stubPool struct {
	*Pool
	world    *stubWorld
	store    *stubStore
	settings Settings
}

func startStubs(t *testing.T, local int, change func(*Config)) *stubPool {
	t.Helper()
	w := newStubWorld(t)
	f := &stubPool{world: w, store: &stubStore{world: w, keys: map[string]NodeKeys{}},
		settings: Settings{MountID: [16]byte{1}, Local: local, WrappingKeys: []hsm.WrappingKey{{Version: 1}},
			Token: Token{ModulePath: "stub", Label: "stub", PIN: secret.New([]byte("1234"))}}}
	f.open(t, change)
	t.Cleanup(func() {
		f.close(t)
		w.check(t)
	})
	return f
}

// open starts a new pool on what is stored.
func (f *stubPool) open(t *testing.T, change func(*Config)) {
	t.Helper()
	cfg := Config{Store: f.store, Logger: hclog.NewNullLogger(), Launcher: f.world,
		RestartMin: time.Millisecond, RestartMax: 10 * time.Millisecond, auxRetry: 20 * time.Millisecond, auxGrace: 50 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	f.Pool = New(cfg)
	if err := f.Apply(context.Background(), f.settings); err != nil {
		t.Fatal(err)
	}
}

func (f *stubPool) close(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := f.Close(ctx); err != nil {
		t.Errorf("closing the pool: %v", err)
	}
}

func (f *stubPool) await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s: %+v", what, f.Nodes())
		}
	}
}

// settled reports whether all nodes are ready and have checked each other.
func (f *stubPool) settled() bool {
	nodes := f.Nodes()
	return len(nodes) == f.settings.Local && !slices.ContainsFunc(nodes, func(s NodeStatus) bool {
		return s.State != NodeReady || s.Aux.State != auxReady
	})
}

// account is an ECDSA account of the world's key, whose shares the first n
// nodes have seen.
func (f *stubPool) account(t *testing.T, threshold, shares int) mpc.Account {
	t.Helper()
	public := elliptic.MarshalCompressed(elliptic.P256(), f.world.key.X, f.world.key.Y)
	a := mpc.Account{Record: mpc.PublicRecord{AccountID: mpc.AccountID{9}, Algorithm: mpc.ECDSAP256, Threshold: threshold, Shares: shares,
		PublicKey: public, Epoch: 1, EpochID: mpc.EpochID{1}, RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()},
		Exposures: mpc.Exposures{}}
	nodes := f.all()
	for i := range shares {
		a.Record.PublicShares = append(a.Record.PublicShares, public)
		a.Shares = append(a.Shares, mpc.WrappedShare{Index: mpc.Index(i + 1), Envelope: []byte("sealed")})
		c, ok := nodes[i].candidate()
		if !ok {
			t.Fatal("a node without an identity")
		}
		a.Exposures[c.identity] = mpc.Index(i + 1)
	}
	if _, err := mpc.ParsePublicRecord(a.Record.Marshal()); err != nil {
		t.Fatal(err)
	}
	return a
}

// onSecp256k1 gives a the world's key on the other curve.
func (f *stubPool) onSecp256k1(a mpc.Account) mpc.Account {
	public := f.world.k1.PubKey().SerializeCompressed()
	a.Record.Algorithm, a.Record.PublicKey, a.Record.ChainCode = mpc.ECDSASecp256k1, public, [32]byte{3}
	a.Record.PublicShares = slices.Repeat([][]byte{public}, a.Record.Shares)
	return a
}

// stubLedger stores exposures as a backend does.
type stubLedger struct {
	mu sync.Mutex
	by mpc.Exposures
}

func (l *stubLedger) expose(_ context.Context, added mpc.Exposures) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, i := range added {
		if old, ok := l.by[id]; ok && old != i {
			return &ExposedError{Node: id, Seen: old, Want: i, Current: maps.Clone(l.by)}
		}
	}
	maps.Copy(l.by, added)
	return nil
}

func (l *stubLedger) copy() mpc.Exposures {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.by)
}
