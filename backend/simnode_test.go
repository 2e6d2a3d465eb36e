package backend

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// world stands behind simulated nodes. It remembers what every node has really
// been handed, whatever happens to storage, and cries out when the placement
// rule is broken. The cryptography is that of a child: "shares" are labels and
// one key per account makes all its signatures. What is real is everything
// that decides who is handed what: backend, storage records and pool.
type world struct {
	mu sync.Mutex
	// handed says which share each node has been handed in each epoch.
	handed     map[mpc.EpochID]map[mpc.NodeIdentity]mpc.Index
	violations []string
	sessions   int
	destroyed  int                  // wrapping keys
	down       map[string]bool      // nodes that cannot be started
	running    map[string]*simProc  // by node name
	faults     map[string]simFault  // what the node does in its next session
	garbage    map[mpc.Index]bool   // shares that the next refresh stores as garbage
	served     map[mpc.EpochID]bool // epochs in which somebody was handed a share
	// offerFaults are the nodes that make no key for the next release.
	offerFaults map[string]bool
}

// simFault is how a node fails its next session.
type simFault int

const (
	faultNone    simFault = iota
	faultStart            // refuses the session with a protocol failure
	faultHello            // breaks off after its hello
	faultSilent           // says hello and nothing more
	faultHSM              // reports that its HSM is away
	faultRefuses          // says that the request is wrong, which is a lie
)

func newWorld() *world {
	return &world{
		handed: map[mpc.EpochID]map[mpc.NodeIdentity]mpc.Index{}, down: map[string]bool{},
		running: map[string]*simProc{}, faults: map[string]simFault{}, garbage: map[mpc.Index]bool{},
		served: map[mpc.EpochID]bool{}, offerFaults: map[string]bool{},
	}
}

// hand notes that a node has a share now.
func (w *world) hand(epoch mpc.EpochID, node mpc.NodeIdentity, index mpc.Index, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.handed[epoch] == nil {
		w.handed[epoch] = map[mpc.NodeIdentity]mpc.Index{}
	}
	if had, ok := w.handed[epoch][node]; ok && had != index {
		w.violations = append(w.violations, fmt.Sprintf("%s: node %.8s had share %d of epoch %.8s and got share %d", why, node, had, epoch, index))
	}
	w.handed[epoch][node] = index
}

// accountKey is the private key of an account.
func accountKey(id []byte) ed25519.PrivateKey {
	seed := sha256.Sum256(append([]byte("simulated account "), id...))
	return ed25519.NewKeyFromSeed(seed[:])
}

// simEnvelope is a "wrapped" share.
type simEnvelope struct {
	Epoch   string
	Index   mpc.Index
	Custody bool
	Garbage bool
}

// write gives the envelope a real header of a wrapping-key version.
func (e simEnvelope) write(version uint32) ([]byte, error) {
	content, err := json.Marshal(e)
	if e.Custody {
		return custodyEnvelope(content, version), err
	}
	return fakeEnvelope(content, version), err
}

func (e *simEnvelope) read(envelope []byte) error {
	real, err := hsm.ParseEnvelope(envelope)
	if err != nil {
		return err
	}
	err = json.Unmarshal(bytes.TrimRight(real.Ciphertext, "\x00"), e)
	e.Garbage = e.Garbage || brokenSeal(envelope)
	return err
}

// Start implements pool.Launcher.
func (w *world) Start(name string) (pool.Process, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down[name] {
		return nil, errors.New("the simulated host does not start it")
	}
	p := &simProc{world: w, name: name, gone: make(chan struct{})}
	if name != "probe" {
		w.running[name] = p
	}
	return p, nil
}

// kill ends a node's process.
func (w *world) kill(name string) {
	w.mu.Lock()
	p := w.running[name]
	w.mu.Unlock()
	if p != nil {
		p.Stop()
	}
}

// simProc is a node process and the client to it. The RPCs of a kind that the
// simulation does not need come from the nil interface and would panic.
type simProc struct {
	nodepb.NodeClient
	world *world
	name  string
	once  sync.Once
	gone  chan struct{}

	mu       sync.Mutex
	identity ed25519.PrivateKey
	aux      uint64
	sealTo   uint32 // version of the wrapping key
	offers   map[custody.ReleaseID]simOffer
}

func (p *simProc) Client() nodepb.NodeClient { return p }
func (p *simProc) PID() int                  { return 1 }
func (p *simProc) Stop()                     { p.once.Do(func() { close(p.gone) }) }
func (p *simProc) Exited() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

func (p *simProc) alive() error {
	if p.Exited() {
		return errors.New("the simulated node is gone")
	}
	return nil
}

func (p *simProc) id() mpc.NodeIdentity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return mpc.NodeIdentity(p.identity.Public().(ed25519.PublicKey))
}

func (p *simProc) Probe(_ context.Context, r *nodepb.ProbeRequest, _ ...grpc.CallOption) (*nodepb.ProbeReply, error) {
	reply := &nodepb.ProbeReply{Token: &nodepb.TokenInfo{Label: "prod", Serial: "0123"}}
	if v := r.GetCreateVersion(); v > 0 {
		reply.WrappingKey = &nodepb.WrappingKey{Domain: hsm.DefaultDomain, Version: v, Suite: uint32(hsm.SuiteHPKEP256),
			Id: []byte{1}, PublicKey: []byte{4}, Label: "simulated"}
	}
	return reply, p.alive()
}

func (p *simProc) Setup(_ context.Context, r *nodepb.SetupRequest, _ ...grpc.CallOption) (*nodepb.SetupReply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := r.GetWrappingKeys()
	p.sealTo = keys[len(keys)-1].GetVersion()
	seed, envelope := make([]byte, ed25519.SeedSize), r.GetIdentityEnvelope()
	if len(envelope) == 0 {
		rand.Read(seed)
		envelope = fakeEnvelope(slices.Clone(seed), p.sealTo)
	} else if e, err := hsm.ParseEnvelope(envelope); err != nil {
		return nil, err
	} else {
		copy(seed, e.Ciphertext)
	}
	p.identity = ed25519.NewKeyFromSeed(seed)
	if len(r.GetAuxEnvelope()) > 0 {
		p.aux = 1
	}
	return &nodepb.SetupReply{Version: "v1", Identity: p.identity.Public().(ed25519.PublicKey), IdentityEnvelope: envelope}, p.alive()
}

func (p *simProc) SetWrappingKeys(_ context.Context, r *nodepb.SetWrappingKeysRequest, _ ...grpc.CallOption) (*nodepb.SetWrappingKeysReply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := r.GetWrappingKeys()
	p.sealTo = keys[len(keys)-1].GetVersion()
	return &nodepb.SetWrappingKeysReply{}, p.alive()
}

func (p *simProc) SetRoster(context.Context, *nodepb.SetRosterRequest, ...grpc.CallOption) (*nodepb.SetRosterReply, error) {
	return &nodepb.SetRosterReply{}, p.alive()
}

func (p *simProc) Status(context.Context, *nodepb.StatusRequest, ...grpc.CallOption) (*nodepb.StatusReply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &nodepb.StatusReply{Hsm: "ok", AuxGeneration: p.aux}, p.alive()
}

func (p *simProc) OpenShare(_ context.Context, r *nodepb.OpenShareRequest, _ ...grpc.CallOption) (*nodepb.OpenShareReply, error) {
	if err := p.alive(); err != nil {
		return nil, err
	}
	return &nodepb.OpenShareReply{Failure: p.open(r.GetRecord(), r.GetEnvelope(), mpc.Index(r.GetIndex()), "OpenShare")}, nil
}

// open is the moment in which a node sees a share.
func (p *simProc) open(encoded, envelope []byte, index mpc.Index, why string) *nodepb.Failure {
	record, err := mpc.ParsePublicRecord(encoded)
	var e simEnvelope
	if err == nil {
		err = e.read(envelope)
	}
	if err != nil {
		return &nodepb.Failure{Reason: nodepb.Failure_REFUSED, Text: err.Error()}
	}
	p.world.hand(record.EpochID, p.id(), index, why)
	if e.Garbage || e.Index != index || e.Epoch != record.EpochID.String() {
		return &nodepb.Failure{Reason: nodepb.Failure_SHARE_UNUSABLE, Text: "it does not open"}
	}
	return nil
}

func (p *simProc) MakeAuxiliary(context.Context, *nodepb.MakeAuxiliaryRequest, ...grpc.CallOption) (*nodepb.MakeAuxiliaryReply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aux++
	return &nodepb.MakeAuxiliaryReply{Public: fmt.Appendf(nil, "aux of %s", p.name), Envelope: fakeEnvelope([]byte("aux"), p.sealTo)}, p.alive()
}

func (p *simProc) ProveFactors(context.Context, *nodepb.ProveFactorsRequest, ...grpc.CallOption) (*nodepb.ProveFactorsReply, error) {
	return &nodepb.ProveFactorsReply{Proof: []byte{1}}, p.alive()
}

func (p *simProc) AcceptPeer(context.Context, *nodepb.AcceptPeerRequest, ...grpc.CallOption) (*nodepb.AcceptPeerReply, error) {
	return &nodepb.AcceptPeerReply{Receipt: []byte{1}}, p.alive()
}

func (p *simProc) RetireAuxiliary(context.Context, *nodepb.RetireAuxiliaryRequest, ...grpc.CallOption) (*nodepb.RetireAuxiliaryReply, error) {
	return &nodepb.RetireAuxiliaryReply{}, p.alive()
}

func (p *simProc) DropPresignatures(context.Context, *nodepb.DropPresignaturesRequest, ...grpc.CallOption) (*nodepb.DropPresignaturesReply, error) {
	return &nodepb.DropPresignaturesReply{}, p.alive()
}

func (p *simProc) Session(ctx context.Context, _ ...grpc.CallOption) (nodepb.Node_SessionClient, error) {
	return &simSession{proc: p, ctx: ctx, out: make(chan *nodepb.SessionOut, 16), broken: make(chan struct{})}, p.alive()
}

// simSession is one node's end of one session.
type simSession struct {
	grpc.ClientStream
	proc   *simProc
	ctx    context.Context
	out    chan *nodepb.SessionOut
	once   sync.Once
	broken chan struct{}
	start  *nodepb.Start
	fault  simFault
}

func (s *simSession) Recv() (*nodepb.SessionOut, error) {
	select {
	case m := <-s.out:
		return m, nil
	default:
	}
	select {
	case m := <-s.out:
		return m, nil
	case <-s.broken:
		return nil, io.ErrUnexpectedEOF
	case <-s.proc.gone:
		return nil, io.ErrUnexpectedEOF
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *simSession) fail(f *nodepb.Failure) {
	s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Failure{Failure: f}}
}

func (s *simSession) Send(m *nodepb.SessionIn) error {
	if err := s.proc.alive(); err != nil {
		return err
	}
	switch {
	case m.GetStart() != nil:
		s.begin(m.GetStart())
	case m.GetHellos() != nil && s.fault == faultNone:
		s.finish(m.GetHellos())
	}
	return nil
}

func (s *simSession) CloseSend() error { return nil }

func (s *simSession) begin(start *nodepb.Start) {
	w := s.proc.world
	w.mu.Lock()
	w.sessions++
	s.fault = w.faults[s.proc.name]
	delete(w.faults, s.proc.name)
	w.mu.Unlock()
	s.start = start
	if f := s.proc.released(start); f != nil {
		s.fail(f)
		return
	}
	if len(start.GetEnvelope()) > 0 {
		if f := s.proc.open(start.GetRecord(), start.GetEnvelope(), mpc.Index(start.GetSelf()), start.GetOperation()); f != nil {
			s.fail(f)
			return
		}
	}
	switch s.fault {
	case faultStart:
		s.fail(&nodepb.Failure{Reason: nodepb.Failure_PROTOCOL, Text: "simulated"})
		return
	case faultHSM:
		s.fail(&nodepb.Failure{Reason: nodepb.Failure_HSM_UNAVAILABLE, Text: "simulated"})
		return
	case faultRefuses:
		s.fail(&nodepb.Failure{Reason: nodepb.Failure_REFUSED, Text: "simulated lie"})
		return
	}
	nonce := make([]byte, 32)
	rand.Read(nonce)
	s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Hello{Hello: &nodepb.Hello{
		Index: start.GetSelf(), Nonce: nonce, Ephemeral: make([]byte, 32), Signature: make([]byte, 64)}}}
	if s.fault == faultHello {
		s.once.Do(func() { close(s.broken) })
	}
}

// finish computes the outcome; all members compute the same.
func (s *simSession) finish(hellos *nodepb.Hellos) {
	nonces := make(map[uint32][]byte)
	for _, h := range hellos.GetHellos() {
		nonces[h.GetIndex()] = h.GetNonce()
	}
	h := sha256.New()
	for i := uint32(1); i <= mpc.MaxShares; i++ {
		h.Write(nonces[i])
	}
	id := h.Sum(nil)
	s.proc.mu.Lock()
	outcome := &nodepb.Outcome{SessionId: id, WrappingVersion: s.start.GetWrappingVersion()}
	s.proc.mu.Unlock()
	if s.start.GetOperation() == "sign" {
		record, err := mpc.ParsePublicRecord(s.start.GetRecord())
		if err != nil {
			s.fail(&nodepb.Failure{Reason: nodepb.Failure_REFUSED, Text: err.Error()})
			return
		}
		sig := ed25519.Sign(accountKey(record.AccountID[:]), s.start.GetInput())
		outcome.Signature, outcome.R, outcome.S, outcome.RecoveryId = sig, sig[:32], sig[32:], -1
	} else if err := s.newEpoch(outcome, id); err != nil {
		s.fail(&nodepb.Failure{Reason: nodepb.Failure_REFUSED, Text: err.Error()})
		return
	}
	s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Outcome{Outcome: outcome}}
}

func (s *simSession) newEpoch(outcome *nodepb.Outcome, session []byte) error {
	var next mpc.PublicRecord
	if s.start.GetOperation() == "refresh" {
		old, err := mpc.ParsePublicRecord(s.start.GetRecord())
		if err != nil {
			return err
		}
		next = *old
		next.PublicShares = nil
	} else {
		next = mpc.PublicRecord{Algorithm: mpc.Algorithm(s.start.GetAlgorithm()), Threshold: int(s.start.GetThreshold()), Shares: int(s.start.GetShares())}
		copy(next.AccountID[:], s.start.GetAccountId())
		copy(next.RecipientsHash[:], s.start.GetRecipientsHash())
		copy(next.PolicyHash[:], s.start.GetPolicyHash())
		next.PublicKey = accountKey(next.AccountID[:]).Public().(ed25519.PublicKey)
	}
	if key := s.start.GetCustodyKey(); len(key) > 0 {
		next.Custody = mpc.CustodyHash(key)
	}
	next.Epoch++
	sum := sha256.Sum256(append([]byte("epoch"), session...))
	copy(next.EpochID[:], sum[:])
	for i := range next.Shares {
		share := sha256.Sum256(append([]byte{byte(i)}, session...))
		next.PublicShares = append(next.PublicShares, share[:])
	}
	index := mpc.Index(s.start.GetSelf())
	w := s.proc.world
	w.hand(next.EpochID, s.proc.id(), index, s.start.GetOperation())
	w.mu.Lock()
	garbage := w.garbage[index] && s.start.GetOperation() == "refresh"
	delete(w.garbage, index)
	w.mu.Unlock()
	envelope, err := simEnvelope{Epoch: next.EpochID.String(), Index: index, Custody: next.HasCustody(), Garbage: garbage && !next.HasCustody()}.write(outcome.GetWrappingVersion())
	if err != nil {
		return err
	}
	outcome.Record, outcome.Envelope = next.Marshal(), envelope
	s.proc.mu.Lock()
	defer s.proc.mu.Unlock()
	outcome.Endorsement = mpc.Endorse(s.proc.identity, &next)
	return nil
}
