package node

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/secret"
)

// TestEd25519 signs with the algorithm that no other test of this file uses.
func TestEd25519(t *testing.T) {
	w := newWorld(t, 3)
	w.algorithm = mpc.Ed25519
	record, envelopes := w.account()
	for i, r := range w.sign(record, envelopes, hooks{}) {
		if r.outcome == nil || !verify.Signature(record.Algorithm, record.PublicKey, []byte("pay bob"), r.outcome.GetSignature()) {
			t.Fatalf("share %d: %v", i, r.failure)
		}
	}
}

// deafStream is a coordinator that does not read what the node sends.
type deafStream struct {
	nodepb.Node_SessionServer
	start *nodepb.Start
	sends atomic.Int32
	ended chan struct{} // closed once the handler has returned, as gRPC does
}

func (d *deafStream) Context() context.Context { return context.Background() }

func (d *deafStream) Recv() (*nodepb.SessionIn, error) {
	if s := d.start; s != nil {
		d.start = nil
		return &nodepb.SessionIn{Kind: &nodepb.SessionIn_Start{Start: s}}, nil
	}
	<-d.ended
	return nil, io.EOF
}

func (d *deafStream) Send(*nodepb.SessionOut) error {
	d.sends.Add(1)
	<-d.ended
	return errors.New("the stream has ended")
}

// TestDeafCoordinator: a coordinator that reads nothing holds a session no
// longer than its time, and what the session had is let go of.
func TestDeafCoordinator(t *testing.T) {
	w := newWorld(t, 3)
	record, envelopes := w.account()
	n := w.nodes["n1"]
	n.cfg.SessionTime = 200 * time.Millisecond
	d := &deafStream{ended: make(chan struct{}), start: &nodepb.Start{Operation: "sign", Members: w.members(1, 3), Self: 1,
		Record: record.Marshal(), Envelope: envelopes[1], Input: []byte("x"), MessageType: "raw", HashAlgorithm: "none"}}
	began := time.Now()
	err := n.Session(d)
	if took := time.Since(began); status.Code(err) != codes.DeadlineExceeded || d.sends.Load() == 0 || took > 10*time.Second {
		t.Errorf("ended after %v and %d messages with %v", took, d.sends.Load(), err)
	}
	if len(n.sessions) != 1 {
		t.Errorf("%d sessions count while one waits for its stream", len(n.sessions))
	}
	close(d.ended)
	n.running.Wait()
	if len(n.sessions) != 0 {
		t.Errorf("%d sessions count afterwards", len(n.sessions))
	}
}

// panickingToken is what nobody hopes for.
type panickingToken struct{ Token }

func (panickingToken) ECDH(context.Context, hsm.WrappingKey, *ecdh.PublicKey) (*secret.Bytes, error) {
	panic("a secret")
}

// TestPanicWhileOpening: a share is opened on a goroutine of its own; a panic
// there ends the session and not the process.
func TestPanicWhileOpening(t *testing.T) {
	w := newWorld(t, 3)
	record, envelopes := w.account()
	n := w.nodes["n1"]
	good := n.token
	n.token = panickingToken{good}
	results := w.sign(record, envelopes, hooks{})
	if f := results[1].failure; f.GetReason() != nodepb.Failure_PROTOCOL || f.GetText() != mpc.ErrPanic.Error() {
		t.Errorf("%v", results)
	}
	n.token = good
	for i, r := range w.sign(record, envelopes, hooks{}) {
		if r.outcome == nil {
			t.Errorf("share %d afterwards: %v", i, r.failure)
		}
	}
}

// TestClose: Close ends sessions that wait, waits for them, and leaves a node
// that does nothing.
func TestClose(t *testing.T) {
	w := newWorld(t, 3)
	record, envelopes := w.account()
	stream, err := w.clients["n1"].Session(w.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&nodepb.SessionIn{Kind: &nodepb.SessionIn_Start{Start: &nodepb.Start{Operation: "sign", Members: w.members(1, 3), Self: 1,
		Record: record.Marshal(), Envelope: envelopes[1], Input: []byte("x"), MessageType: "raw", HashAlgorithm: "none"}}}); err != nil {
		t.Fatal(err)
	}
	if out, err := stream.Recv(); err != nil || out.GetHello() == nil {
		t.Fatal(out, err)
	}
	n := w.nodes["n1"]
	for range 2 {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := stream.Recv(); err != nil || out.GetFailure() == nil {
		t.Errorf("the session that ran: %v, %v", out, err)
	}
	if len(n.sessions) != 0 {
		t.Errorf("%d sessions run in a closed node", len(n.sessions))
	}
	if f := w.sign(record, envelopes, hooks{})[1].failure; f.GetReason() != nodepb.Failure_HSM_UNAVAILABLE {
		t.Errorf("a session on a closed node: %v", f)
	}
	if reply, err := w.clients["n1"].Setup(w.ctx(), w.setupRequest("n1")); err == nil {
		t.Errorf("a closed node was set up: %v", reply)
	}
	fresh := New(Config{})
	if err := fresh.Close(); err != nil {
		t.Error(err)
	}
	if bytes.Equal(w.setups["n1"].GetIdentity(), w.setups["n2"].GetIdentity()) {
		t.Error("two nodes with one identity")
	}
}
