package node

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
)

const (
	// maxSessionTime bounds a session, whatever time its coordinator allows. An
	// ECDSA signature of many signers on a busy machine takes tens of seconds.
	maxSessionTime = 2 * time.Minute
)

// Session runs one protocol session. It always ends with one Outcome or one
// Failure, unless the stream itself breaks, or the coordinator does not read.
//
// A Recv or Send that waits for the coordinator cannot be given up before the
// handler has returned, and then ends at once. So the session runs on a
// goroutine of its own and the handler returns when its time is over, whatever
// it does; Close waits for the goroutine, and until it has ended it counts as a
// session.
func (n *Node) Session(stream nodepb.Node_SessionServer) error {
	select {
	case n.sessions <- struct{}{}:
	default:
		return stream.Send(&nodepb.SessionOut{Kind: &nodepb.SessionOut_Failure{Failure: &nodepb.Failure{
			Reason: nodepb.Failure_BUSY, Text: fmt.Sprintf("the node runs %d sessions already", maxSessions)}}})
	}
	if n.draining.Load() {
		<-n.sessions
		return stream.Send(outFailure(errDraining))
	}
	if !n.enter() {
		<-n.sessions
		return stream.Send(outFailure(errNotSetUp))
	}
	ctx, cancel := context.WithTimeout(stream.Context(), n.cfg.SessionTime)
	unlink := context.AfterFunc(n.closing, cancel)
	done := make(chan error, 1)
	go func() {
		defer n.running.Done()
		defer func() { <-n.sessions }()
		defer cancel()
		defer unlink()
		done <- n.converse(ctx, stream)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	timer := time.NewTimer(n.cfg.LastWords)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return status.Error(codes.DeadlineExceeded, "the session's time on this node is over")
	}
}

// converse runs a session and sends its end. A panic ends the session, not the
// node.
func (n *Node) converse(ctx context.Context, stream nodepb.Node_SessionServer) (err error) {
	defer func() {
		if r := recover(); r != nil {
			// The value may hold secrets of the session: say only that it was.
			n.cfg.Logger.Error("a session panicked and was ended")
			err = stream.Send(outFailure(mpc.ErrPanic))
		}
	}()
	c := &conversation{stream: stream, in: receive(ctx, stream)}
	began := time.Now()
	outcome, err := n.session(ctx, c)
	n.observe(c.operation, err, time.Since(began))
	if err != nil {
		if ctxErr := stream.Context().Err(); ctxErr != nil {
			return ctxErr // the coordinator is gone or no longer interested
		}
		return stream.Send(outFailure(err))
	}
	return stream.Send(&nodepb.SessionOut{Kind: &nodepb.SessionOut_Outcome{Outcome: outcome}})
}

func (n *Node) observe(operation string, err error, took time.Duration) {
	if n.cfg.Observer == nil {
		return
	}
	reason := nodepb.Failure_UNKNOWN
	if err != nil {
		reason = failure(err).GetReason()
	}
	n.cfg.Observer.Session(operation, reason, took)
}

func outFailure(err error) *nodepb.SessionOut {
	return &nodepb.SessionOut{Kind: &nodepb.SessionOut_Failure{Failure: failure(err)}}
}

// task is an operation that has been checked and can run once the session has
// an ID.
type task interface {
	// begin starts what takes time and needs no session ID, such as a call to
	// the token. It is called once, before party.
	begin(ctx context.Context)
	// party waits for that and returns the party to run.
	party(ctx context.Context, id mpc.SessionID) (mpc.Party, error)
	// background reports whether the party's work can wait for other sessions.
	background() bool
	// confirms reports whether all parties must arrive at the same record.
	confirms() bool
	// record returns the hash of the record arrived at; only if confirms.
	record(id mpc.SessionID) ([32]byte, error)
	// outcome is called last.
	outcome(ctx context.Context, id mpc.SessionID) (*nodepb.Outcome, error)
	// wipe clears secrets, however the session ended.
	wipe()
}

func (n *Node) session(ctx context.Context, c *conversation) (*nodepb.Outcome, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	first, err := c.recv(ctx)
	if err != nil {
		return nil, err
	}
	start := first.GetStart()
	if start == nil {
		return nil, refused("a session begins with its terms")
	}
	c.operation = knownOperation(start.GetOperation())
	t, terms, err := n.prepare(ctx, start)
	if err != nil {
		return nil, err
	}
	defer t.wipe()
	t.begin(ctx)

	channel, err := n.handshake(ctx, c, terms, mpc.Index(start.GetSelf()))
	if err != nil {
		return nil, err
	}
	r := &run{conversation: c, channel: channel, task: t, self: mpc.Index(start.GetSelf()),
		members: terms.Members, confirmed: map[mpc.Index][32]byte{}}
	defer func() {
		if r.party != nil {
			r.party.Wipe()
		}
	}()
	work := func() error { return r.work(ctx) }
	if t.background() {
		err = atLowPriority(work)
	} else {
		err = work()
	}
	if err != nil {
		return nil, err
	}
	return t.outcome(ctx, channel.ID())
}

// handshake exchanges hellos over the coordinator.
func (n *Node) handshake(ctx context.Context, c *conversation, terms session.Terms, self mpc.Index) (*session.Channel, error) {
	h, hello, err := session.Begin(terms, self, n.identity)
	if err != nil {
		return nil, refusedError{err}
	}
	err = c.stream.Send(&nodepb.SessionOut{Kind: &nodepb.SessionOut_Hello{Hello: &nodepb.Hello{
		Index: uint32(self), Nonce: hello.Nonce[:], Ephemeral: hello.Ephemeral[:], Signature: hello.Signature[:]}}})
	if err != nil {
		return nil, err
	}
	in, err := c.recv(ctx)
	if err != nil {
		return nil, err
	}
	if in.GetHellos() == nil {
		return nil, session.ErrHello // the router's fault, not the request's
	}
	hellos := map[mpc.Index]session.Hello{}
	for _, w := range in.GetHellos().GetHellos() {
		var hello session.Hello
		if len(w.GetNonce()) != len(hello.Nonce) || len(w.GetEphemeral()) != len(hello.Ephemeral) ||
			len(w.GetSignature()) != len(hello.Signature) || w.GetIndex() < 1 || w.GetIndex() > mpc.MaxShares {
			return nil, session.ErrHello
		}
		copy(hello.Nonce[:], w.GetNonce())
		copy(hello.Ephemeral[:], w.GetEphemeral())
		copy(hello.Signature[:], w.GetSignature())
		hellos[mpc.Index(w.GetIndex())] = hello
	}
	return h.Complete(hellos)
}
