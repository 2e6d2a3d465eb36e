package pool

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// fakeHost runs fake nodes in this process. Their protocol has one round: each
// sends a message to every other member and is done when it has one of each.
type fakeHost struct {
	t  testing.TB
	mu sync.Mutex
	// acts says how nodes behave that are not honest; see fakeSession.act.
	acts    map[string]string
	running map[string]*fakeProcess
	starts  map[string]int
	// hold, where not nil, keeps honest nodes from answering until it is closed.
	hold chan struct{}
	// log holds the members of every session, from the Start of the first
	// member.
	log [][]string
}

type memoryKeys struct {
	mu sync.Mutex
	by map[string]NodeKeys
}

func (m *memoryKeys) NodeKeys(_ context.Context, id string) (*NodeKeys, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k, ok := m.by[id]; ok {
		return &k, nil
	}
	return nil, nil
}

func (m *memoryKeys) PutNodeKeys(_ context.Context, id string, k *NodeKeys) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.by[id] = *k
	return nil
}

// fakePool is a pool of n fake nodes, all ready.
func fakePool(t testing.TB, n int) (*Pool, *fakeHost, Settings) {
	t.Helper()
	h := &fakeHost{t: t, acts: map[string]string{}, running: map[string]*fakeProcess{}, starts: map[string]int{}}
	p := New(Config{Store: &memoryKeys{by: map[string]NodeKeys{}}, Logger: hclog.NewNullLogger(), Launcher: h,
		RestartMin: time.Millisecond, RestartMax: 5 * time.Millisecond})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	s := Settings{Token: Token{Module: "none", Label: "none", PIN: secret.New([]byte("1234"))},
		WrappingKeys: []hsm.WrappingKey{{Domain: hsm.DefaultDomain, Version: 1}}, Local: n}
	if err := p.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all nodes ready", func() bool { nodes, _, _, _ := p.ready(); return len(nodes) == n })
	return p, h, s
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func (h *fakeHost) Start(name string) (Process, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.running[name]; old != nil && !old.Exited() {
		h.t.Errorf("two processes of %s at once", name)
	}
	p := &fakeProcess{host: h, name: name, gone: make(chan struct{})}
	h.running[name] = p
	h.starts[name]++
	return p, nil
}

func (h *fakeHost) set(name, act string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acts[name] = act
}

func (h *fakeHost) started(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.starts[name]
}

func (h *fakeHost) sessions() [][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log
}

func (h *fakeHost) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = nil
}

// fakeProcess is a node and the client to it.
type fakeProcess struct {
	nodepb.NodeClient
	host *fakeHost
	name string
	once sync.Once
	gone chan struct{}
}

func (p *fakeProcess) Client() nodepb.NodeClient { return p }
func (p *fakeProcess) PID() int                  { return 1 }
func (p *fakeProcess) Stop()                     { p.once.Do(func() { close(p.gone) }) }
func (p *fakeProcess) Exited() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

func (p *fakeProcess) Setup(_ context.Context, r *nodepb.SetupRequest, _ ...grpc.CallOption) (*nodepb.SetupReply, error) {
	seed := r.GetIdentityEnvelope()
	if len(seed) == 0 {
		seed = make([]byte, ed25519.SeedSize)
		rand.Read(seed)
	}
	public := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	return &nodepb.SetupReply{Version: "v0", Identity: public, IdentityEnvelope: seed}, nil
}

func (p *fakeProcess) SetRoster(context.Context, *nodepb.SetRosterRequest, ...grpc.CallOption) (*nodepb.SetRosterReply, error) {
	return &nodepb.SetRosterReply{}, nil
}

func (p *fakeProcess) Status(context.Context, *nodepb.StatusRequest, ...grpc.CallOption) (*nodepb.StatusReply, error) {
	return &nodepb.StatusReply{Hsm: hsmOK}, nil
}

func (p *fakeProcess) MakeAuxiliary(ctx context.Context, _ *nodepb.MakeAuxiliaryRequest, _ ...grpc.CallOption) (*nodepb.MakeAuxiliaryReply, error) {
	<-ctx.Done() // it never has any
	return nil, ctx.Err()
}

func (p *fakeProcess) Session(ctx context.Context, _ ...grpc.CallOption) (nodepb.Node_SessionClient, error) {
	if p.Exited() {
		return nil, errors.New("gone")
	}
	return &fakeSession{proc: p, ctx: ctx, out: make(chan *nodepb.SessionOut, 1024), cut: make(chan struct{})}, nil
}

// fakeSession is a node's end of a session.
type fakeSession struct {
	grpc.ClientStream
	proc  *fakeProcess
	ctx   context.Context
	out   chan *nodepb.SessionOut
	cut   chan struct{}
	start *nodepb.Start
	act   string
	got   map[uint32]bool
}

func (s *fakeSession) CloseSend() error { return nil }

func (s *fakeSession) Recv() (*nodepb.SessionOut, error) {
	select {
	case m := <-s.out:
		return m, nil
	default:
	}
	select {
	case m := <-s.out:
		return m, nil
	case <-s.cut:
	case <-s.proc.gone:
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
	return nil, io.ErrUnexpectedEOF
}

func (s *fakeSession) fail(reason nodepb.Failure_Reason, culprits ...uint32) error {
	s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Failure{Failure: &nodepb.Failure{
		Reason: reason, Text: "fake " + s.act, Culprits: culprits}}}
	return nil
}

func (s *fakeSession) message(to uint32, body string) {
	s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Message{Message: &nodepb.Sealed{
		From: s.start.GetSelf(), To: to, Body: []byte(body)}}}
}

func (s *fakeSession) others() (out []uint32) {
	for _, m := range s.start.GetMembers() {
		if m.GetIndex() != s.start.GetSelf() {
			out = append(out, m.GetIndex())
		}
	}
	return out
}

func (s *fakeSession) Send(in *nodepb.SessionIn) error {
	if s.proc.Exited() {
		return io.EOF
	}
	if s.start == nil {
		return s.begin(in.GetStart())
	}
	switch {
	case in.GetHellos() != nil:
		return s.open()
	case in.GetMessage() != nil:
		return s.hear(in.GetMessage())
	}
	return nil
}

// begin answers a Start, perhaps with a lie.
func (s *fakeSession) begin(start *nodepb.Start) error {
	h := s.proc.host
	h.mu.Lock()
	s.act = h.acts[s.proc.name]
	if start.GetMembers()[0].GetIndex() == start.GetSelf() {
		var names []string
		for _, m := range start.GetMembers() {
			names = append(names, m.GetNodeId())
		}
		h.log = append(h.log, names)
	}
	h.mu.Unlock()
	if s.act == "varies" {
		for s.act == "varies" || s.act == "" {
			if lie := lies[mathrand.IntN(len(lies))]; !lie.slow {
				s.act = lie.act
			}
		}
	}
	s.start, s.got = start, map[uint32]bool{}
	others := s.others()
	switch s.act {
	case "refuses":
		return s.fail(nodepb.Failure_REFUSED)
	case "blames all":
		return s.fail(nodepb.Failure_PROTOCOL, others...)
	case "blames one":
		return s.fail(nodepb.Failure_PROTOCOL, others[0])
	case "blames nobody":
		return s.fail(nodepb.Failure_UNKNOWN)
	case "no HSM":
		return s.fail(nodepb.Failure_HSM_UNAVAILABLE, others...)
	case "busy":
		return s.fail(nodepb.Failure_BUSY)
	case "unpinned":
		return s.fail(nodepb.Failure_UNPINNED)
	case "aux pending":
		return s.fail(nodepb.Failure_AUX_PENDING)
	case "below floor":
		return s.fail(nodepb.Failure_BELOW_FLOOR)
	case "unapproved":
		return s.fail(nodepb.Failure_APPROVALS)
	case "switched off":
		return s.fail(nodepb.Failure_SWITCHED_OFF)
	case "draining":
		return s.fail(nodepb.Failure_DRAINING)
	case "share unusable":
		return s.fail(nodepb.Failure_SHARE_UNUSABLE)
	case "breaks off":
		close(s.cut)
		return nil
	case "mute":
		return nil
	}
	s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Hello{Hello: &nodepb.Hello{Index: start.GetSelf()}}}
	return nil
}

// open answers the Hellos: all members are there.
func (s *fakeSession) open() error {
	switch s.act {
	case "silent":
		return nil
	case "floods":
		for range 2 * queueLength {
			select {
			case s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Message{Message: &nodepb.Sealed{
				From: s.start.GetSelf(), To: s.others()[0], Body: []byte("flood")}}}:
			default:
			}
		}
		return nil
	case "forges":
		s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Message{Message: &nodepb.Sealed{From: s.others()[0], To: s.start.GetSelf()}}}
		return nil
	case "bad outcome":
		s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Outcome{Outcome: &nodepb.Outcome{Signature: []byte("bad")}}}
		return nil
	}
	body := "good"
	if s.act == "cheats" {
		body = "bad"
	}
	for _, i := range s.others() {
		s.message(i, body)
	}
	return nil
}

func (s *fakeSession) hear(m *nodepb.Sealed) error {
	if s.act != "" || string(m.GetBody()) == "flood" {
		return nil // it has lied already, or nothing that counts was said
	}
	if string(m.GetBody()) == "bad" {
		return s.fail(nodepb.Failure_PROTOCOL, m.GetFrom())
	}
	if s.got[m.GetFrom()] = true; len(s.got) < len(s.others()) {
		return nil
	}
	s.proc.host.mu.Lock()
	hold := s.proc.host.hold
	s.proc.host.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-s.ctx.Done():
			return s.ctx.Err()
		case <-s.proc.gone:
			return io.EOF
		}
	}
	s.out <- &nodepb.SessionOut{Kind: &nodepb.SessionOut_Outcome{Outcome: &nodepb.Outcome{Signature: []byte("good")}}}
	return nil
}

// fakeJob is a signature with t of n shares, of which node i holds share i. It
// notes how many spares each attempt costs.
type fakeJob struct {
	job
	sessions int
	spares   []int
}

func newFakeJob(p *Pool, threshold, shares int) *fakeJob {
	f := &fakeJob{job: job{pool: p, operation: "sign", account: mpc.AccountID{1}, n: shares, count: threshold, need: 1, seen: mpc.Exposures{}}}
	for i := 1; i <= shares; i++ {
		c, _ := p.node(LocalNodeID(i)).candidate()
		f.seen[c.identity] = mpc.Index(i)
	}
	stored := map[mpc.NodeIdentity]mpc.Index{}
	f.expose = func(_ context.Context, added mpc.Exposures) error {
		f.spares = append(f.spares, len(added))
		for id, i := range added {
			if _, ok := stored[id]; ok {
				return fmt.Errorf("node %s is no spare for share %d", id, i)
			}
			stored[id] = i
		}
		return nil
	}
	f.start = func(a assignment, members []*nodepb.Member) *nodepb.Start {
		if uint32(a.index) == members[0].GetIndex() {
			f.sessions++
		}
		return &nodepb.Start{Members: members, Self: uint32(a.index)}
	}
	f.accept = func(o *nodepb.Outcome) error {
		if string(o.GetSignature()) != "good" {
			return errors.New("a bad signature")
		}
		return nil
	}
	return f
}
