package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// fakeToken lets nodes in this process use one software token; the real one is
// used by the tests of mpc/pool and the end-to-end suite.
type fakeToken struct {
	*hsmtest.FakeToken
	label string
}

func (f fakeToken) Info() pkcs11.TokenInfo {
	return pkcs11.TokenInfo{Label: f.label, Serial: "1", PINChecked: true}
}

// world is n nodes behind gRPC, set up on one token and introduced.
type world struct {
	t       testing.TB
	token   *hsmtest.Fake
	key     *nodepb.WrappingKey
	clients map[string]nodepb.NodeClient
	setups  map[string]*nodepb.SetupReply
	ids     []string
	nodes   map[string]*Node
	// algorithm of the account that keygen makes; patience is how long session
	// waits for the next message before it calls a node stuck.
	algorithm mpc.Algorithm
	patience  time.Duration
	limit     time.Duration // of a session, of nodes that are served from now on
	hasty     time.Duration // patience once a node has failed; 0: as before
	authority []byte        // that nodes pin
}

var mount = bytes.Repeat([]byte{7}, 16)

func newWorld(t testing.TB, n int) *world {
	t.Helper()
	return newWorldOf(t, n, nil)
}

// newWorldOf pins an authority.
func newWorldOf(t testing.TB, n int, authority []byte) *world {
	t.Helper()
	w := &world{authority: authority, t: t, token: hsmtest.NewFake("fake", "1234"), clients: map[string]nodepb.NodeClient{}, setups: map[string]*nodepb.SetupReply{},
		nodes: map[string]*Node{}, algorithm: mpc.BIP340Secp256k1, patience: time.Second}
	probing, _ := w.serve()
	probe, err := probing.Probe(w.ctx(), &nodepb.ProbeRequest{Token: w.wireToken("1234"), MountId: mount, CreateVersion: 1, Suites: []uint32{uint32(hsm.SuiteHPKEP256)}})
	if err != nil || probe.GetFailure() != nil {
		t.Fatal(err, probe.GetFailure())
	}
	w.key = probe.GetWrappingKey()
	roster := &nodepb.SetRosterRequest{}
	for i := 1; i <= n; i++ {
		id := fmt.Sprintf("n%d", i)
		w.ids = append(w.ids, id)
		w.clients[id], w.nodes[id] = w.serve()
		w.setups[id], err = w.clients[id].Setup(w.ctx(), w.setupRequest(id))
		if err != nil || w.setups[id].GetFailure() != nil {
			t.Fatal(err, w.setups[id].GetFailure())
		}
		roster.Members = append(roster.Members, &nodepb.Member{NodeId: id, Identity: w.setups[id].GetIdentity()})
	}
	for _, id := range w.ids {
		if _, err := w.clients[id].SetRoster(w.ctx(), roster); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) wireToken(pin string) *nodepb.Token {
	return &nodepb.Token{Module: "fake", Label: "fake", Pin: []byte(pin)}
}

func (w *world) setupRequest(id string) *nodepb.SetupRequest {
	return &nodepb.SetupRequest{NodeId: id, MountId: mount, Token: w.wireToken("1234"), WrappingKeys: []*nodepb.WrappingKey{w.key}, Authority: w.authority}
}

// serve starts a fresh node and returns a client of it.
func (w *world) serve() (nodepb.NodeClient, *Node) {
	w.t.Helper()
	return w.serveAs(Config{Version: "test", Modules: "fake=/fake", SessionTime: w.limit, OpenToken: func(_ context.Context, c pkcs11.Config) (Token, error) {
		tok, err := w.token.Open(c.Label, c.PIN)
		if err != nil {
			return nil, err
		}
		return fakeToken{tok, c.Label}, nil
	}})
}

func (w *world) serveAs(cfg Config) (nodepb.NodeClient, *Node) {
	w.t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	n := New(cfg)
	nodepb.RegisterNodeServer(server, n)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	w.t.Cleanup(func() {
		server.Stop()
		<-done
		_ = n.Close()
	})
	conn, err := grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return nodepb.NewNodeClient(conn), n
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*w.patience)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) members(indices ...int) []*nodepb.Member {
	var out []*nodepb.Member
	for _, i := range indices {
		id := w.ids[i-1]
		out = append(out, &nodepb.Member{Index: uint32(i), NodeId: id, Identity: w.setups[id].GetIdentity()})
	}
	return out
}

// outcome is what one node said at the end of its stream.
type outcome struct {
	outcome *nodepb.Outcome
	failure *nodepb.Failure
}

// hooks let a test play a hostile coordinator.
type hooks struct {
	start  func(self uint32, s *nodepb.Start)
	hellos func(self uint32, h *nodepb.Hellos)
	// message returns what the recipient gets instead of m.
	message func(m *nodepb.Sealed) []*nodepb.Sealed
}

// session routes one session until every node has ended it or the world's
// patience has ended without any message, which is how a node that waits for ever shows.
func (w *world) session(start *nodepb.Start, h hooks) map[uint32]outcome {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx())
	defer cancel()
	type event struct {
		self uint32
		out  *nodepb.SessionOut
		err  error
	}
	events := make(chan event, 1024)
	streams := map[uint32]nodepb.Node_SessionClient{}
	for _, m := range start.GetMembers() {
		stream, err := w.clients[m.GetNodeId()].Session(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		streams[m.GetIndex()] = stream
		mine := cloneStart(start)
		mine.Self = m.GetIndex()
		if h.start != nil {
			h.start(m.GetIndex(), mine)
		}
		// io.EOF: the node has refused already, and Recv says why.
		if err := stream.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Start{Start: mine}}); err != nil && !errors.Is(err, io.EOF) {
			w.t.Fatal(err)
		}
		go func() {
			for {
				out, err := stream.Recv()
				select {
				case events <- event{m.GetIndex(), out, err}:
				case <-ctx.Done():
					return
				}
				if err != nil {
					return
				}
			}
		}()
	}
	results := map[uint32]outcome{}
	var hellos []*nodepb.Hello
	for len(results) < len(streams) {
		select {
		case e := <-events:
			switch {
			case e.err != nil:
				if !errors.Is(e.err, io.EOF) {
					results[e.self] = outcome{failure: &nodepb.Failure{Text: e.err.Error()}}
				}
			case e.out.GetHello() != nil:
				if hellos = append(hellos, e.out.GetHello()); len(hellos) < len(streams) {
					break
				}
				for self, s := range streams {
					all := &nodepb.Hellos{Hellos: append([]*nodepb.Hello(nil), hellos...)}
					if h.hellos != nil {
						h.hellos(self, all)
					}
					_ = s.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Hellos{Hellos: all}})
				}
			case e.out.GetMessage() != nil:
				deliver := []*nodepb.Sealed{e.out.GetMessage()}
				if h.message != nil {
					deliver = h.message(e.out.GetMessage())
				}
				for _, m := range deliver {
					if s := streams[m.GetTo()]; s != nil {
						_ = s.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Message{Message: m}})
					}
				}
			default:
				results[e.self] = outcome{e.out.GetOutcome(), e.out.GetFailure()}
			}
		case <-time.After(w.waits(results)):
			return results
		}
	}
	return results
}

// waits is how long session waits for the next message. Where a node has failed
// and the test wants only that, the others' silence is not waited out.
func (w *world) waits(results map[uint32]outcome) time.Duration {
	for _, r := range results {
		if w.hasty > 0 && r.failure != nil {
			return min(w.hasty, w.patience)
		}
	}
	return w.patience
}

func cloneStart(s *nodepb.Start) *nodepb.Start {
	return &nodepb.Start{Operation: s.Operation, Members: s.Members, AccountId: s.AccountId, Algorithm: s.Algorithm,
		Threshold: s.Threshold, Shares: s.Shares, RecipientsHash: s.RecipientsHash, PolicyHash: s.PolicyHash,
		Record: s.Record, Envelope: s.Envelope, Input: s.Input, MessageType: s.MessageType, HashAlgorithm: s.HashAlgorithm,
		DerivationPath: s.DerivationPath, TaprootTweak: s.TaprootTweak, Presignature: s.Presignature, LifetimeMs: s.LifetimeMs,
		WrappingVersion: s.WrappingVersion, Recipients: s.Recipients, OldRecipients: s.OldRecipients,
		CustodyKey: s.CustodyKey, ReleaseId: s.ReleaseId, Release: s.Release, SealTo: s.SealTo,
		Policy: s.Policy, Approvals: s.Approvals, NextPolicy: s.NextPolicy}
}

func (w *world) keygen() *nodepb.Start {
	set := mpc.EmptySetHash()
	return &nodepb.Start{Operation: "keygen", Members: w.members(1, 2, 3), AccountId: bytes.Repeat([]byte{1}, 16),
		Algorithm: string(w.algorithm), Threshold: 2, Shares: 3, RecipientsHash: set[:], PolicyHash: set[:]}
}

// account makes a key and returns its record and envelopes by index.
func (w *world) account() (*mpc.PublicRecord, map[uint32][]byte) {
	w.t.Helper()
	envelopes := map[uint32][]byte{}
	var record []byte
	for i, r := range w.session(w.keygen(), hooks{}) {
		if r.outcome == nil {
			w.t.Fatalf("share %d: %v", i, r.failure)
		}
		if record != nil && !bytes.Equal(record, r.outcome.GetRecord()) {
			w.t.Fatal("the nodes disagree")
		}
		record, envelopes[i] = r.outcome.GetRecord(), r.outcome.GetEnvelope()
	}
	parsed, err := mpc.ParsePublicRecord(record)
	if err != nil || len(envelopes) != 3 {
		w.t.Fatalf("%d envelopes, %v", len(envelopes), err)
	}
	return parsed, envelopes
}

func (w *world) sign(record *mpc.PublicRecord, envelopes map[uint32][]byte, h hooks) map[uint32]outcome {
	hand := h.start
	h.start = func(self uint32, s *nodepb.Start) {
		s.Envelope = envelopes[self]
		if hand != nil {
			hand(self, s)
		}
	}
	return w.session(&nodepb.Start{Operation: "sign", Members: w.members(1, 3), Record: record.Marshal(),
		Input: []byte("pay bob"), MessageType: "raw", HashAlgorithm: "none"}, h)
}

func TestKeygenAndSign(t *testing.T) {
	w := newWorld(t, 3)
	record, envelopes := w.account()
	for i, r := range w.sign(record, envelopes, hooks{}) {
		if r.outcome == nil || !verify.BIP340(record.PublicKey, []byte("pay bob"), r.outcome.GetSignature()) {
			t.Fatalf("share %d: %v", i, r.failure)
		}
	}
}

// TestChildren: nodes sign for children of a key, refuse what is no child, and
// notice when they are told different ones.
func TestChildren(t *testing.T) {
	w := newWorld(t, 3)
	record, envelopes := w.account()
	for _, d := range []mpc.Derivation{{Path: "m/0/7"}, {TaprootTweak: derive.BIP86}, {Path: "m/3", TaprootTweak: strings.Repeat("07", 32)}} {
		child, err := derive.Derive(record, d)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range w.sign(record, envelopes, hooks{start: func(_ uint32, s *nodepb.Start) {
			s.DerivationPath, s.TaprootTweak = d.Path, d.TaprootTweak
		}}) {
			if r.outcome == nil || !verify.BIP340(child.PublicKey, []byte("pay bob"), r.outcome.GetSignature()) {
				t.Fatalf("%v: share %d: %v", d, i, r.failure)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(self uint32, s *nodepb.Start)
		reason nodepb.Failure_Reason
	}{
		"hardened":           {func(_ uint32, s *nodepb.Start) { s.DerivationPath = "m/0'" }, nodepb.Failure_REFUSED},
		"no tweak":           {func(_ uint32, s *nodepb.Start) { s.TaprootTweak = "00" }, nodepb.Failure_REFUSED},
		"different children": {func(i uint32, s *nodepb.Start) { s.DerivationPath = fmt.Sprintf("m/%d", i) }, nodepb.Failure_PROTOCOL},
		"different tweaks": {func(i uint32, s *nodepb.Start) {
			if i == 1 {
				s.TaprootTweak = derive.BIP86
			}
		}, nodepb.Failure_PROTOCOL},
	} {
		results := w.sign(record, envelopes, hooks{start: c.change})
		noticed := false
		for i, r := range results {
			noticed = noticed || r.failure.GetReason() == c.reason
			if r.outcome != nil {
				t.Errorf("%s: share %d signed", name, i)
			}
		}
		if !noticed {
			t.Errorf("%s: %v", name, results)
		}
	}
}

// TestSessionTime: a node ends a session by itself, whatever time its
// coordinator gives it, and works on.
func TestSessionTime(t *testing.T) {
	w := newWorld(t, 3)
	w.limit = 100 * time.Millisecond
	client, n := w.serve()
	if reply, err := client.Setup(w.ctx(), w.setupRequest("n9")); err != nil || reply.GetFailure() != nil {
		t.Fatal(err, reply.GetFailure())
	}
	for range 3 {
		stream, err := client.Session(w.ctx())
		if err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		out, err := stream.Recv()
		if err != nil || out.GetFailure() == nil {
			t.Fatalf("%v %v", out, err)
		}
		if took := time.Since(started); took < w.limit/2 || took > maxSessionTime/2 {
			t.Errorf("the session took %v", took)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after the failure: %v", err)
		}
	}
	if running := len(n.sessions); running != 0 {
		t.Errorf("%d sessions still run", running)
	}
}

// TestHostileCoordinator: whatever the coordinator does to a signing session,
// no node releases anything; where it says so, every honest node says why.
func TestHostileCoordinator(t *testing.T) {
	w := newWorld(t, 3)
	record, envelopes := w.account()
	otherRecord, otherEnvelopes := w.account()
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b }

	var recorded []*nodepb.Sealed // of an earlier session
	w.sign(record, envelopes, hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
		recorded = append(recorded, m)
		return []*nodepb.Sealed{m}
	}})
	for name, c := range map[string]struct {
		hooks  hooks
		reason nodepb.Failure_Reason // of the node that notices
	}{
		"another message for one signer": {hooks{start: func(self uint32, s *nodepb.Start) {
			if self == 3 {
				s.Input = []byte("pay eve")
			}
		}}, nodepb.Failure_PROTOCOL},
		"another record for one signer": {hooks{start: func(self uint32, s *nodepb.Start) {
			if self == 3 {
				s.Record = otherRecord.Marshal()
			}
		}}, nodepb.Failure_PROTOCOL},
		"another account's envelope": {hooks{start: func(self uint32, s *nodepb.Start) {
			s.Envelope = otherEnvelopes[self]
		}}, nodepb.Failure_SHARE_UNUSABLE},
		"another share's envelope": {hooks{start: func(self uint32, s *nodepb.Start) {
			s.Envelope = envelopes[2]
		}}, nodepb.Failure_SHARE_UNUSABLE},
		"a weaker policy": {hooks{start: func(self uint32, s *nodepb.Start) {
			r := *record
			r.PolicyHash[0] ^= 1
			s.Record = r.Marshal()
		}}, nodepb.Failure_APPROVALS},
		"too few signers demanded": {hooks{start: func(self uint32, s *nodepb.Start) {
			s.Members = w.members(1, 2, 3)
		}}, nodepb.Failure_REFUSED},
		"itself as a peer": {hooks{start: func(self uint32, s *nodepb.Start) {
			s.Members = w.members(1, 3)
			for _, m := range s.Members {
				if m.Index != self {
					m.Identity = bytes.Repeat([]byte{9}, 32)
				}
			}
		}}, nodepb.Failure_REFUSED},
		"a stranger as a peer": {hooks{start: func(self uint32, s *nodepb.Start) {
			s.Members = w.members(1, 3)
			for _, m := range s.Members {
				if m.Index != self {
					m.NodeId = "stranger"
				}
			}
		}}, nodepb.Failure_UNPINNED},
		"a node's own hello reflected": {hooks{hellos: func(self uint32, h *nodepb.Hellos) {
			var own *nodepb.Hello
			for _, x := range h.Hellos {
				if x.Index == self {
					own = x
				}
			}
			h.Hellos = nil
			for _, m := range w.members(1, 3) {
				h.Hellos = append(h.Hellos, &nodepb.Hello{Index: m.Index, Nonce: own.Nonce, Ephemeral: own.Ephemeral, Signature: own.Signature})
			}
		}}, nodepb.Failure_PROTOCOL},
		"a session key of its own": {hooks{hellos: func(self uint32, h *nodepb.Hellos) {
			for k, x := range h.Hellos {
				if x.Index != self {
					h.Hellos[k] = &nodepb.Hello{Index: x.Index, Nonce: x.Nonce, Ephemeral: flip(x.Ephemeral), Signature: x.Signature}
				}
			}
		}}, nodepb.Failure_PROTOCOL},
		"no hellos": {hooks{hellos: func(self uint32, h *nodepb.Hellos) { h.Hellos = nil }}, nodepb.Failure_PROTOCOL},
		"a damaged message": {hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			return []*nodepb.Sealed{{From: m.From, To: m.To, Body: flip(m.Body)}}
		}}, nodepb.Failure_PROTOCOL},
		"a message sent back": {hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			return []*nodepb.Sealed{{From: m.To, To: m.From, Body: m.Body}}
		}}, nodepb.Failure_PROTOCOL},
		"every message twice": {hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			return []*nodepb.Sealed{m, m}
		}}, nodepb.Failure_PROTOCOL},
		"messages of an earlier session": {hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			for _, old := range recorded {
				if old.To == m.To {
					return []*nodepb.Sealed{old}
				}
			}
			return nil
		}}, nodepb.Failure_PROTOCOL},
		"an empty message": {hooks{message: func(m *nodepb.Sealed) []*nodepb.Sealed {
			return []*nodepb.Sealed{{From: m.From, To: m.To}}
		}}, nodepb.Failure_PROTOCOL},
	} {
		t.Run(name, func(t *testing.T) {
			noticed := false
			for i, r := range w.sign(record, envelopes, c.hooks) {
				if r.outcome != nil {
					t.Fatalf("share %d released a signature", i)
				}
				noticed = noticed || r.failure.GetReason() == c.reason && r.failure.GetText() != ""
			}
			if !noticed {
				t.Errorf("no node ended with %s", c.reason)
			}
		})
	}
	// The nodes are unharmed.
	for i, r := range w.sign(record, envelopes, hooks{}) {
		if r.outcome == nil {
			t.Errorf("share %d afterwards: %v", i, r.failure)
		}
	}
}

// TestMalformedStarts: nothing a coordinator can write into a Start harms a node.
func TestMalformedStarts(t *testing.T) {
	w := newWorld(t, 3)
	record, envelopes := w.account()
	for name, change := range map[string]func(*nodepb.Start){
		"empty":             func(s *nodepb.Start) { *s = nodepb.Start{} },
		"unknown operation": func(s *nodepb.Start) { s.Operation = "export" },
		"self 0":            func(s *nodepb.Start) { s.Self = 0 },
		"self huge":         func(s *nodepb.Start) { s.Self = 1 << 30 },
		"no members":        func(s *nodepb.Start) { s.Members = nil },
		"nil member":        func(s *nodepb.Start) { s.Members = []*nodepb.Member{nil, nil} },
		"huge index":        func(s *nodepb.Start) { s.Members = w.members(1, 3); s.Members[1].Index = 257 },
		"short identity":    func(s *nodepb.Start) { s.Members = w.members(1, 3); s.Members[1].Identity = []byte{1} },
		"twice the same":    func(s *nodepb.Start) { s.Members = append(w.members(1), w.members(1)...) },
		"garbage record":    func(s *nodepb.Start) { s.Record = []byte("garbage") },
		"no envelope":       func(s *nodepb.Start) { s.Envelope = nil },
		"garbage envelope":  func(s *nodepb.Start) { s.Envelope = bytes.Repeat([]byte{0xff}, 300) },
		"no input":          func(s *nodepb.Start) { s.Input = nil },
		"unknown hash":      func(s *nodepb.Start) { s.HashAlgorithm = "md5" },
		"keygen, no ids":    func(s *nodepb.Start) { s.Operation = "keygen" },
		"keygen, 1 of 2": func(s *nodepb.Start) {
			k := w.keygen()
			k.Threshold, k.Self = 1, s.Self
			*s = nodepb.Start{Operation: k.Operation, Members: k.Members, Self: k.Self, AccountId: k.AccountId, Algorithm: k.Algorithm,
				Threshold: 1, Shares: 3, RecipientsHash: k.RecipientsHash, PolicyHash: k.PolicyHash}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i, r := range w.sign(record, envelopes, hooks{start: func(self uint32, s *nodepb.Start) { change(s) }}) {
				if r.outcome != nil {
					t.Fatalf("share %d released something", i)
				}
			}
		})
	}
	for i, r := range w.sign(record, envelopes, hooks{}) {
		if r.outcome == nil {
			t.Errorf("share %d afterwards: %v", i, r.failure)
		}
	}
}

func TestSetup(t *testing.T) {
	w := newWorld(t, 2)
	t.Run("once", func(t *testing.T) {
		if _, err := w.clients["n1"].Setup(w.ctx(), w.setupRequest("n1")); err == nil {
			t.Error("a second Setup succeeded")
		}
	})
	t.Run("no probe afterwards", func(t *testing.T) {
		if _, err := w.clients["n1"].Probe(w.ctx(), &nodepb.ProbeRequest{Token: w.wireToken("wrong"), MountId: mount}); err == nil {
			t.Error("a node that is logged in probed")
		}
	})
	t.Run("pinned identities stay", func(t *testing.T) {
		_, err := w.clients["n1"].SetRoster(w.ctx(), &nodepb.SetRosterRequest{Members: []*nodepb.Member{
			{NodeId: "n2", Identity: bytes.Repeat([]byte{3}, 32)}}})
		if err == nil {
			t.Error("a pinned identity was replaced")
		}
	})
	t.Run("the stored identity comes back", func(t *testing.T) {
		r := w.setupRequest("n1")
		r.Identity, r.IdentityEnvelope = w.setups["n1"].GetIdentity(), w.setups["n1"].GetIdentityEnvelope()
		restarted, _ := w.serve()
		again, err := restarted.Setup(w.ctx(), r)
		if err != nil || again.GetFailure() != nil || !bytes.Equal(again.GetIdentity(), r.Identity) || len(again.GetIdentityEnvelope()) != 0 {
			t.Errorf("%v, %v", again, err)
		}
	})
	for name, change := range map[string]func(*nodepb.SetupRequest){
		"another node's identity": func(r *nodepb.SetupRequest) { r.IdentityEnvelope = w.setups["n2"].GetIdentityEnvelope() },
		"another mount's": func(r *nodepb.SetupRequest) {
			r.IdentityEnvelope, r.MountId = w.setups["n1"].GetIdentityEnvelope(), bytes.Repeat([]byte{8}, 16)
		},
		"not the pinned identity": func(r *nodepb.SetupRequest) {
			r.IdentityEnvelope, r.Identity = w.setups["n1"].GetIdentityEnvelope(), w.setups["n2"].GetIdentity()
		},
		"wrong PIN":              func(r *nodepb.SetupRequest) { r.Token.Pin = []byte("9999") },
		"another wrapping key":   func(r *nodepb.SetupRequest) { r.WrappingKeys[0].Id = bytes.Repeat([]byte{1}, 16) },
		"no wrapping key":        func(r *nodepb.SetupRequest) { r.WrappingKeys = nil },
		"no name":                func(r *nodepb.SetupRequest) { r.NodeId = "" },
		"short mount ID":         func(r *nodepb.SetupRequest) { r.MountId = []byte{1} },
		"no token":               func(r *nodepb.SetupRequest) { r.Token = nil },
		"substituted public key": func(r *nodepb.SetupRequest) { r.WrappingKeys[0].PublicKey[5] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			r := w.setupRequest("n1")
			r.WrappingKeys[0] = &nodepb.WrappingKey{Domain: w.key.Domain, Version: w.key.Version, Suite: w.key.Suite,
				Id: bytes.Clone(w.key.Id), PublicKey: bytes.Clone(w.key.PublicKey), Label: w.key.Label}
			change(r)
			client, _ := w.serve()
			ctx, cancel := context.WithTimeout(w.ctx(), 2*time.Second)
			defer cancel()
			reply, err := client.Setup(ctx, r)
			if err == nil && reply.GetFailure() == nil {
				t.Fatal("accepted")
			}
			if strings.Contains(fmt.Sprint(err, reply), "9999") {
				t.Error("the answer shows the PIN")
			}
			if s, err := client.Status(w.ctx(), &nodepb.StatusRequest{}); err != nil || s.GetHsm() == "ok" {
				t.Errorf("status afterwards: %v, %v", s, err)
			}
		})
	}
}

func TestOpenShare(t *testing.T) {
	w := newWorld(t, 3)
	record, envelopes := w.account()
	ask := func(index uint32, envelope []byte) *nodepb.Failure {
		t.Helper()
		r, err := w.clients["n1"].OpenShare(w.ctx(), &nodepb.OpenShareRequest{Record: record.Marshal(), Index: index, Envelope: envelope})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetFailure()
	}
	if f := ask(1, envelopes[1]); f != nil {
		t.Fatal(f)
	}
	if f := ask(1, envelopes[2]); f.GetReason() != nodepb.Failure_SHARE_UNUSABLE {
		t.Errorf("another share's envelope: %v", f)
	}
	if f := ask(9, envelopes[1]); f.GetReason() != nodepb.Failure_REFUSED {
		t.Errorf("no such share: %v", f)
	}
	if f := ask(1, []byte(hsm.DefaultDomain)); f.GetReason() != nodepb.Failure_SHARE_UNUSABLE {
		t.Errorf("garbage: %v", f)
	}
}
