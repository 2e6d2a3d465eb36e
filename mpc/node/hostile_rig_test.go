package node

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/mpctest"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
	"vault-plugin-secrets-mpc/secret"
)

// rig is three nodes on one software token whose sessions a test routes, without
// gRPC in between. One of them can be played by the test: the others have its
// identity pinned and cannot tell.
type rig struct {
	t     *testing.T
	nodes map[uint32]*Node
	owner *ecdh.PrivateKey // of accounts with user custody
}

func newRig(t *testing.T) *rig {
	t.Helper()
	g := &rig{t: t, nodes: map[uint32]*Node{}}
	token := hsmtest.NewFake("fake", "1234")
	open := func(_ context.Context, c pkcs11.Config) (Token, error) {
		view, err := token.Open(c.Label, c.PIN)
		if err != nil {
			return nil, err
		}
		return fakeToken{view, c.Label}, nil
	}
	wire := func() *nodepb.Token { return &nodepb.Token{Module: "fake", Label: "fake", Pin: []byte("1234")} }
	probe, err := New(Config{OpenToken: open, Modules: "fake=/fake"}).Probe(t.Context(), &nodepb.ProbeRequest{Token: wire(), MountId: mount, CreateVersion: 1, Suites: []uint32{uint32(hsm.SuiteHPKEP256)}})
	if err != nil || probe.GetFailure() != nil {
		t.Fatal(err, probe.GetFailure())
	}
	roster := &nodepb.SetRosterRequest{}
	for i := uint32(1); i <= 3; i++ {
		n := New(Config{OpenToken: open, Modules: "fake=/fake"})
		reply, err := n.Setup(t.Context(), &nodepb.SetupRequest{NodeId: name(i), MountId: mount, Token: wire(), WrappingKeys: []*nodepb.WrappingKey{probe.GetWrappingKey()}})
		if err != nil || reply.GetFailure() != nil {
			t.Fatal(err, reply.GetFailure())
		}
		t.Cleanup(func() { _ = n.Close() })
		g.nodes[i] = n
		roster.Members = append(roster.Members, &nodepb.Member{NodeId: name(i), Identity: reply.GetIdentity()})
	}
	for _, n := range g.nodes {
		if _, err := n.SetRoster(t.Context(), roster); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func name(i uint32) string { return fmt.Sprint("n", i) }

func (g *rig) members(indices ...uint32) []*nodepb.Member {
	var out []*nodepb.Member
	for _, i := range indices {
		id := g.nodes[i].self()
		out = append(out, &nodepb.Member{Index: i, NodeId: name(i), Identity: id[:]})
	}
	return out
}

// account is a key in one epoch.
type account struct {
	record    *mpc.PublicRecord
	envelopes map[uint32][]byte
}

func (g *rig) keygen(a mpc.Algorithm) *nodepb.Start {
	set := mpc.EmptySetHash()
	return &nodepb.Start{Operation: opKeygen, Members: g.members(1, 2, 3), AccountId: bytes.Repeat([]byte{1}, 16),
		Algorithm: string(a), Threshold: 2, Shares: 3, RecipientsHash: set[:], PolicyHash: set[:]}
}

func (g *rig) refresh(a *account) *nodepb.Start {
	return &nodepb.Start{Operation: opRefresh, Members: g.members(1, 2, 3), Record: a.record.Marshal()}
}

func (g *rig) sign(a *account, signers ...uint32) *nodepb.Start {
	return &nodepb.Start{Operation: opSign, Members: g.members(signers...), Record: a.record.Marshal(),
		Input: []byte("pay bob"), MessageType: string(mpc.MessageRaw), HashAlgorithm: string(mpc.HashNone)}
}

// faults are what a test does to a session. Nil does nothing.
type faults struct {
	seed uint64
	// limit ends the nodes' sessions; default one minute.
	limit time.Duration
	// start and hellos change what one node is told.
	start  func(self uint32, s *nodepb.Start)
	hellos func(self uint32, h *nodepb.Hellos)
	// route returns what is delivered instead of a message; its recipient is in
	// each. Messages are taken up in random order.
	route func(r *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn
	// cheat, if not nil, is played by the test in place of that node.
	cheat *cheat
}

// cheat is a member with a pinned identity that follows the protocol, except
// that tamper decides what each of its messages becomes: sealed bodies, in its
// own name. A confirmation is a message like any other.
type cheat struct {
	index  uint32
	tamper func(r *rand.Rand, to mpc.Index, m *mpc.Message, body []byte) [][]byte
}

// ending is how one node's session ended.
type ending struct {
	outcome *nodepb.Outcome
	failure *nodepb.Failure
	err     error // of the stream
}

// pipe is a node's end of a session.
type pipe struct {
	grpc.ServerStream // never used
	self              uint32
	ctx               context.Context
	in                chan *nodepb.SessionIn
	out               chan<- event
}

type event struct {
	self uint32
	out  *nodepb.SessionOut // nil: Session has returned
	err  error
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Send(m *nodepb.SessionOut) error {
	select {
	case p.out <- event{p.self, m, nil}:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *pipe) Recv() (*nodepb.SessionIn, error) {
	select {
	case m, ok := <-p.in:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

// conduct is one session under way.
type conduct struct {
	*rig
	start   *nodepb.Start
	old     *account
	f       faults
	random  *rand.Rand
	pipes   map[uint32]*pipe
	events  chan event
	hellos  []*nodepb.Hello
	queue   []*nodepb.Sealed
	endings map[uint32]ending
	player  *player
}

// run routes a session until every node has ended it. It fails the test if one
// does not end long after its limit.
func (g *rig) run(start *nodepb.Start, old *account, f faults) map[uint32]ending {
	g.t.Helper()
	if f.limit == 0 {
		f.limit = time.Minute
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := &conduct{rig: g, start: start, old: old, f: f, random: mpctest.Random(f.seed), pipes: map[uint32]*pipe{},
		events: make(chan event, 4096), endings: map[uint32]ending{}}
	for _, m := range start.GetMembers() {
		i := m.GetIndex()
		mine := cloneStart(start)
		mine.Self = i
		if old != nil {
			mine.Envelope = old.envelopes[i]
		}
		if f.cheat != nil && f.cheat.index == i {
			c.player = g.play(mine, f.cheat)
			c.hellos = append(c.hellos, c.player.hello)
			continue
		}
		if f.start != nil {
			f.start(i, mine)
		}
		p := &pipe{self: i, ctx: ctx, in: make(chan *nodepb.SessionIn, 4096), out: c.events}
		p.in <- &nodepb.SessionIn{Kind: &nodepb.SessionIn_Start{Start: mine}}
		c.pipes[i] = p
		n := g.nodes[i]
		n.cfg.SessionTime = f.limit
		n.cfg.LastWords = 20 * time.Second // every node is to say how it ended, on a busy machine too
		go func() { c.events <- event{i, nil, n.Session(p)} }()
	}
	running := len(c.pipes)
	timeout := time.After(f.limit + 30*time.Second)
	for running > 0 {
		// What nodes say is taken up first, so that there is a choice of
		// messages to deliver.
		select {
		case e := <-c.events:
			running -= c.take(e)
			continue
		default:
		}
		if len(c.queue) > 0 {
			c.deliver()
			continue
		}
		select {
		case e := <-c.events:
			running -= c.take(e)
		case <-time.After(time.Millisecond):
		case <-timeout:
			b := make([]byte, 1<<16)
			g.t.Fatalf("a node never ended its session\n%s", b[:runtime.Stack(b, true)])
		}
	}
	return c.endings
}

func (c *conduct) take(e event) (ended int) {
	switch {
	case e.out == nil:
		end := c.endings[e.self]
		end.err = e.err
		c.endings[e.self] = end
		return 1
	case e.out.GetHello() != nil:
		c.hellos = append(c.hellos, e.out.GetHello())
		if len(c.hellos) == len(c.start.GetMembers()) {
			c.introduce()
		}
	case e.out.GetMessage() != nil:
		c.queue = append(c.queue, e.out.GetMessage())
	default:
		c.endings[e.self] = ending{outcome: e.out.GetOutcome(), failure: e.out.GetFailure()}
	}
	return 0
}

func (c *conduct) introduce() {
	for _, i := range []uint32{1, 2, 3} {
		p := c.pipes[i]
		if p == nil {
			continue
		}
		all := &nodepb.Hellos{Hellos: slices.Clone(c.hellos)}
		if c.f.hellos != nil {
			c.f.hellos(i, all)
		}
		p.in <- &nodepb.SessionIn{Kind: &nodepb.SessionIn_Hellos{Hellos: all}}
	}
	if c.player != nil {
		c.queue = append(c.queue, c.player.begin(c.random, c.hellos)...)
	}
}

func (c *conduct) deliver() {
	k := c.random.IntN(len(c.queue))
	m := c.queue[k]
	c.queue = slices.Delete(c.queue, k, k+1)
	instead := []*nodepb.SessionIn{{Kind: &nodepb.SessionIn_Message{Message: m}}}
	if c.f.route != nil {
		instead = c.f.route(c.random, m)
	}
	for _, in := range instead {
		to := m.GetTo()
		if in.GetMessage() != nil {
			to = in.GetMessage().GetTo()
		}
		if c.player != nil && to == c.player.index {
			c.queue = append(c.queue, c.player.step(c.random, in.GetMessage())...)
		}
		if p := c.pipes[to]; p != nil {
			select {
			case p.in <- in:
			default: // a flood that nobody reads
			}
		}
	}
}

// player is the test in the place of a node.
type player struct {
	*cheat
	t       *testing.T
	task    *nodepb.Start
	members []session.Member
	shake   *session.Handshake
	hello   *nodepb.Hello
	channel *session.Channel
	party   mpc.Party
	record  *mpc.PublicRecord
	share   *secret.Bytes
}

func (g *rig) play(start *nodepb.Start, c *cheat) *player {
	g.t.Helper()
	n := g.nodes[c.index]
	t, terms, err := n.prepare(g.t.Context(), start)
	if err != nil {
		g.t.Fatal(err)
	}
	t.wipe()
	p := &player{cheat: c, t: g.t, task: start, members: terms.Members}
	if len(start.GetRecord()) > 0 {
		if p.record, err = mpc.ParsePublicRecord(start.GetRecord()); err != nil {
			g.t.Fatal(err)
		}
		if p.share, err = n.open(g.t.Context(), shareContext(c.index, p.record), start.GetEnvelope()); err != nil {
			g.t.Fatal(err)
		}
	}
	var hello session.Hello
	if p.shake, hello, err = session.Begin(terms, mpc.Index(c.index), n.identity); err != nil {
		g.t.Fatal(err)
	}
	p.hello = &nodepb.Hello{Index: c.index, Nonce: hello.Nonce[:], Ephemeral: hello.Ephemeral[:], Signature: hello.Signature[:]}
	return p
}

// begin completes the handshake and returns the first messages.
func (p *player) begin(r *rand.Rand, all []*nodepb.Hello) []*nodepb.Sealed {
	hellos := map[mpc.Index]session.Hello{}
	for _, h := range all {
		hellos[mpc.Index(h.GetIndex())] = session.Hello{Nonce: [32]byte(h.GetNonce()), Ephemeral: [32]byte(h.GetEphemeral()), Signature: [64]byte(h.GetSignature())}
	}
	var err error
	if p.channel, err = p.shake.Complete(hellos); err != nil {
		p.t.Fatal(err)
	}
	if p.party, err = p.newParty(); err != nil {
		p.t.Fatal(err)
	}
	out, err := p.party.Start()
	if err != nil {
		p.t.Fatal(err)
	}
	return p.seal(r, out)
}

func (p *player) newParty() (mpc.Party, error) {
	self, id := mpc.Index(p.index), p.channel.ID()
	switch p.task.GetOperation() {
	case opKeygen:
		return frost.NewKeygen(frost.KeyConfig{Self: self, Algorithm: mpc.Algorithm(p.task.GetAlgorithm()), Threshold: 2, Shares: 3, SessionID: id})
	case opRefresh:
		return frost.NewRefresh(frost.KeyConfig{Self: self, Algorithm: p.record.Algorithm, Threshold: 2, Shares: 3, SessionID: id}, p.record, p.share)
	}
	var signers []mpc.Index
	for _, m := range p.members {
		signers = append(signers, m.Index)
	}
	return frost.NewSign(frost.SignConfig{Self: self, Signers: signers, Record: p.record, Share: p.share, Message: p.task.GetInput(), SessionID: id})
}

// step takes what the player gets. Its own errors do not matter.
func (p *player) step(r *rand.Rand, m *nodepb.Sealed) []*nodepb.Sealed {
	if p.channel == nil {
		return nil
	}
	plain, err := p.channel.Open(mpc.Index(m.GetFrom()), m.GetBody())
	if err != nil {
		return nil
	}
	body, err := session.Decode(plain, mpc.Index(m.GetFrom()), mpc.Index(p.index))
	if err != nil {
		return nil
	}
	if body.Kind == session.KindConfirm {
		// Everybody is told what it wants to hear: its own record.
		return p.sealBodies(mpc.Index(m.GetFrom()), p.tamper(r, mpc.Index(m.GetFrom()), nil, plain))
	}
	out, err := p.party.Step(body.Message)
	if err != nil {
		return nil
	}
	return p.seal(r, out)
}

func (p *player) seal(r *rand.Rand, out []mpc.Message) (sealed []*nodepb.Sealed) {
	for _, m := range out {
		for _, to := range p.members {
			if to.Index == mpc.Index(p.index) || (!m.Broadcast && m.To != to.Index) {
				continue
			}
			body, err := session.EncodeProtocol(m)
			if err != nil {
				p.t.Fatal(err)
			}
			copied := m
			sealed = append(sealed, p.sealBodies(to.Index, p.tamper(r, to.Index, &copied, body))...)
		}
	}
	return sealed
}

func (p *player) sealBodies(to mpc.Index, bodies [][]byte) (out []*nodepb.Sealed) {
	for _, b := range bodies {
		sealed, err := p.channel.Seal(to, b)
		if err != nil {
			return out // more messages than a session allows
		}
		out = append(out, &nodepb.Sealed{From: p.index, To: uint32(to), Body: sealed})
	}
	return out
}

// newAccount makes a key with honest nodes.
func (g *rig) newAccount(a mpc.Algorithm) *account {
	g.t.Helper()
	return g.mustFinish(g.keygen(a), nil)
}

// mustFinish runs an honest key generation or refresh.
func (g *rig) mustFinish(start *nodepb.Start, old *account) *account {
	g.t.Helper()
	ends := g.run(start, old, faults{})
	made, err := g.agreed(ends, old)
	if err != nil || made == nil || len(made.envelopes) != 3 {
		g.t.Fatalf("an honest %s: %v, %v", start.GetOperation(), err, ends)
	}
	return made
}

// agreed checks what the nodes with an outcome arrived at; nil if there is none.
func (g *rig) agreed(ends map[uint32]ending, old *account) (*account, error) {
	var made *account
	for i, e := range ends {
		if e.outcome == nil {
			continue
		}
		record, err := mpc.ParsePublicRecord(e.outcome.GetRecord())
		if err == nil {
			err = frost.CheckRecord(record)
		}
		if err != nil {
			return nil, err
		}
		if made == nil {
			made = &account{record, map[uint32][]byte{}}
		}
		if record.Hash() != made.record.Hash() {
			return nil, errors.New("honest nodes finished with different records")
		}
		if !mpc.VerifyEndorsement(g.nodes[i].self(), record, e.outcome.GetEndorsement()) {
			return nil, fmt.Errorf("node %d did not endorse the record", i)
		}
		if old != nil && (!bytes.Equal(old.record.PublicKey, record.PublicKey) || record.Epoch != old.record.Epoch+1 || record.ChainCode != old.record.ChainCode) {
			return nil, errors.New("the refresh changed the key")
		}
		made.envelopes[i] = e.outcome.GetEnvelope()
		if err := g.opens(i, made); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// opens asks a node whether its share opens and belongs to the record.
func (g *rig) opens(i uint32, a *account) error {
	if a.record.HasCustody() {
		return g.opensForOwner(i, a)
	}
	r, err := g.nodes[i].OpenShare(g.t.Context(), &nodepb.OpenShareRequest{Record: a.record.Marshal(), Index: i, Envelope: a.envelopes[i]})
	if err == nil && r.GetFailure() != nil {
		err = fmt.Errorf("share %d: %s", i, r.GetFailure().GetText())
	}
	return err
}

// usable signs with honest nodes: nothing that happened before has harmed them
// or the account.
func (g *rig) usable(a *account) {
	g.t.Helper()
	for i := range g.nodes {
		if err := g.opens(i, a); err != nil {
			g.t.Errorf("afterwards: %v", err)
		}
	}
	ends := g.run(g.sign(a, 1, 3), a, faults{})
	for i, e := range ends {
		if e.outcome == nil {
			g.t.Errorf("afterwards node %d cannot sign: %v, %v", i, e.failure, e.err)
		}
	}
	g.signed(a, ends)
}

// quiet fails the test if goroutines that were not there before stay.
func quiet(t *testing.T, before int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b := make([]byte, 1<<16)
	t.Errorf("%d goroutines before, %d afterwards\n%s", before, runtime.NumGoroutine(), b[:runtime.Stack(b, true)])
}

// baseline is the number of goroutines before a test's sessions.
func baseline() int { return runtime.NumGoroutine() }
