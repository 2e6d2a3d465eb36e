package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/daemon"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// pair is two daemons and the coordinator that a test is.
type pair struct {
	t     *testing.T
	own   tls.Certificate
	mount []byte
	hosts []*nodeHost
	procs []*running
	pins  [][32]byte
	ids   [][]byte
	links []*nodelink.Link
	key   *nodepb.WrappingKey
}

// newPair enrols and attaches two nodes on one token.
func newPair(t *testing.T) *pair {
	t.Helper()
	token := hsmtest.SoftHSM(t)
	p := &pair{t: t, mount: bytes.Repeat([]byte{7}, 16)}
	own, pin := client(t)
	p.own = own
	var tokens []*nodelink.EnrolToken
	for _, name := range []string{"eu-1", "eu-2"} {
		h := nodeHostWith(t, token, name)
		enrol, err := nodelink.ParseEnrolToken(h.ok("enrol"))
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, enrol)
		p.hosts, p.pins, p.ids = append(p.hosts, h), append(p.pins, enrol.Pin), append(p.ids, enrol.Identity[:])
	}
	for i, h := range p.hosts {
		r := h.serve()
		p.procs = append(p.procs, r)
		l := dial(t, h.ready(r).Listen, own, p.pins[i])
		request := &nodepb.EnrolRequest{NodeId: h.name, MountId: p.mount, Peers: p.members()}
		request.Proof = nodelink.EnrolProof(tokens[i].Secret.Expose(), request, pin, p.pins[i])
		if _, err := l.Enrolment().Enrol(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		tokens[i].Secret.Wipe()
		p.links = append(p.links, l)
	}
	for i := range p.hosts {
		p.setup(i)
	}
	made, err := p.links[0].Client().MakeWrappingKey(t.Context(), &nodepb.MakeWrappingKeyRequest{Version: 1, Suites: []uint32{uint32(hsm.SuiteHPKEP256)}})
	if err != nil || made.GetFailure() != nil {
		t.Fatal(err, made.GetFailure())
	}
	p.key = made.GetWrappingKey()
	for i := range p.hosts {
		p.keys(i)
	}
	return p
}

func (p *pair) members() []*nodepb.Member {
	var out []*nodepb.Member
	for i, h := range p.hosts {
		out = append(out, &nodepb.Member{Index: uint32(i + 1), NodeId: h.name, Identity: p.ids[i]})
	}
	return out
}

func (p *pair) setup(i int) {
	p.t.Helper()
	reply, err := p.links[i].Client().Setup(p.t.Context(), &nodepb.SetupRequest{NodeId: p.hosts[i].name, MountId: p.mount})
	if err != nil || reply.GetFailure() != nil {
		p.t.Fatal(err, reply.GetFailure())
	}
}

func (p *pair) keys(i int) {
	p.t.Helper()
	reply, err := p.links[i].Client().SetWrappingKeys(p.t.Context(), &nodepb.SetWrappingKeysRequest{WrappingKeys: []*nodepb.WrappingKey{p.key}})
	if err != nil || reply.GetFailure() != nil {
		p.t.Fatal(err, reply.GetFailure())
	}
}

// restart kills a daemon, starts it again and attaches.
func (p *pair) restart(i int) {
	p.t.Helper()
	if err := p.procs[i].cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.procs[i].done
	p.procs[i] = p.hosts[i].serve()
	p.links[i] = dial(p.t, p.hosts[i].ready(p.procs[i]).Listen, p.own, p.pins[i])
	p.setup(i)
	p.keys(i)
}

// session routes one session between both nodes. starts is what each is told; the
// answer is what each ended with.
func (p *pair) session(start func(self uint32) *nodepb.Start) [2]*nodepb.SessionOut {
	p.t.Helper()
	type event struct {
		from int
		out  *nodepb.SessionOut
		err  error
	}
	events := make(chan event)
	var streams [2]nodepb.Node_SessionClient
	var wait sync.WaitGroup
	for i := range streams {
		stream, err := p.links[i].Client().Session(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		streams[i] = stream
		s := start(uint32(i + 1))
		s.Self, s.Members = uint32(i+1), p.members()
		if err := stream.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Start{Start: s}}); err != nil {
			p.t.Fatal(err)
		}
		wait.Go(func() {
			for {
				out, err := stream.Recv()
				events <- event{i, out, err}
				if err != nil {
					return
				}
			}
		})
	}
	defer func() {
		go func() { wait.Wait(); close(events) }()
		for range events { // so that no reader waits for ever
		}
	}()
	var ends [2]*nodepb.SessionOut
	hellos := &nodepb.Hellos{}
	for open := 2; open > 0; {
		e := <-events
		switch {
		case e.err != nil:
			open--
		case e.out.GetHello() != nil:
			if hellos.Hellos = append(hellos.Hellos, e.out.GetHello()); len(hellos.Hellos) == 2 {
				for _, s := range streams {
					_ = s.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Hellos{Hellos: hellos}})
				}
			}
		case e.out.GetMessage() != nil:
			_ = streams[1-e.from].Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Message{Message: e.out.GetMessage()}})
		default:
			ends[e.from] = e.out
			if e.out.GetFailure() != nil { // the other one waits for nothing
				_ = streams[1-e.from].CloseSend()
			}
		}
	}
	return ends
}

// TestFloorOfProcesses makes a key with two daemons, signs and refreshes; the floor
// that this leaves survives a kill, refuses what is older, and can be lowered.
func TestFloorOfProcesses(t *testing.T) {
	p := newPair(t)
	set := mpc.EmptySetHash()
	account := bytes.Repeat([]byte{5}, 16)
	ends := p.session(func(uint32) *nodepb.Start {
		return &nodepb.Start{Operation: "keygen", AccountId: account, Algorithm: string(mpc.Ed25519), Threshold: 2, Shares: 2,
			RecipientsHash: set[:], PolicyHash: set[:], WrappingVersion: 1}
	})
	old, err := outcomes(ends)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(o [2]*nodepb.Outcome) [2]*nodepb.SessionOut {
		return p.session(func(self uint32) *nodepb.Start {
			return &nodepb.Start{Operation: "sign", Record: o[0].GetRecord(), Envelope: o[self-1].GetEnvelope(), Input: []byte("pay bob"),
				MessageType: string(mpc.MessageRaw), HashAlgorithm: string(mpc.HashNone)}
		})
	}
	if _, err := outcomes(sign(old)); err != nil {
		t.Fatal(err)
	}
	fresh, err := outcomes(p.session(func(self uint32) *nodepb.Start {
		return &nodepb.Start{Operation: "refresh", Record: old[0].GetRecord(), Envelope: old[self-1].GetEnvelope(), WrappingVersion: 1}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outcomes(sign(fresh)); err != nil {
		t.Fatal(err)
	}
	look := func(h *nodeHost) daemon.FloorLine {
		t.Helper()
		var lines []daemon.FloorLine
		if err := json.Unmarshal([]byte(h.ok("floor", "list", "--json")), &lines); err != nil || len(lines) != 1 {
			t.Fatalf("%v, %v", lines, err)
		}
		return lines[0]
	}
	for i, h := range p.hosts {
		if l := look(h); l.Epoch != 2 || l.Account != mpc.AccountID(account).String() {
			t.Errorf("node %d: %+v", i+1, l)
		}
		p.restart(i)
		if l := look(h); l.Epoch != 2 {
			t.Errorf("node %d after a kill: %+v", i+1, l)
		}
	}
	if _, err := outcomes(sign(fresh)); err != nil {
		t.Errorf("the present epoch after a kill: %v", err)
	}
	for i, end := range sign(old) {
		f := end.GetFailure()
		if f.GetReason() != nodepb.Failure_BELOW_FLOOR || !strings.Contains(f.GetText(), "epoch 1 and this node has worked with epoch 2") || !strings.Contains(f.GetText(), "floor lower") {
			t.Errorf("node %d signs with an older epoch: %v", i+1, end)
		}
		p.procs[i].wait("the refusal is not in its log", func() bool { return strings.Contains(p.procs[i].text(), "BELOW_FLOOR") })
		p.hosts[i].ok("floor", "lower", mpc.AccountID(account).String(), "--epoch", "1")
	}
	if _, err := outcomes(sign(old)); err != nil {
		t.Errorf("after the floor was lowered: %v", err)
	}
}

// outcomes takes the ends of a session that succeeded.
func outcomes(ends [2]*nodepb.SessionOut) (out [2]*nodepb.Outcome, err error) {
	for i, end := range ends {
		if out[i] = end.GetOutcome(); out[i] == nil {
			err = errors.Join(err, errors.New(end.String()))
		}
	}
	return out, err
}
