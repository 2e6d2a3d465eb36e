package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
)

// maxSessionTime bounds a session, whatever time its coordinator allows. An
// ECDSA signature of many signers on a busy machine takes tens of seconds.
const maxSessionTime = 2 * time.Minute

// Session runs one protocol session. It always ends with one Outcome or one
// Failure, unless the stream itself breaks. A panic ends the session, not the
// node.
func (n *Node) Session(stream nodepb.Node_SessionServer) (err error) {
	defer func() {
		if r := recover(); r != nil {
			// The value may hold secrets of the session: say only that it was.
			n.cfg.Logger.Error("a session panicked and was ended")
			err = stream.Send(outFailure(mpc.ErrPanic))
		}
	}()
	select {
	case n.sessions <- struct{}{}:
		defer func() { <-n.sessions }()
	default:
		return stream.Send(&nodepb.SessionOut{Kind: &nodepb.SessionOut_Failure{Failure: &nodepb.Failure{
			Reason: nodepb.Failure_BUSY, Text: fmt.Sprintf("the node runs %d sessions already", maxSessions)}}})
	}
	ctx, cancel := context.WithTimeout(stream.Context(), n.cfg.SessionTime)
	defer cancel()
	outcome, err := n.session(ctx, &conversation{stream: stream, in: receive(ctx, stream)})
	if err != nil {
		if ctxErr := stream.Context().Err(); ctxErr != nil {
			return ctxErr // the coordinator is gone or no longer interested
		}
		return stream.Send(outFailure(err))
	}
	return stream.Send(&nodepb.SessionOut{Kind: &nodepb.SessionOut_Outcome{Outcome: outcome}})
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
	party(id mpc.SessionID) (mpc.Party, error)
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

// conversation is a stream whose Recv ends with a context.
type conversation struct {
	stream nodepb.Node_SessionServer
	in     <-chan received
}

type received struct {
	in  *nodepb.SessionIn
	err error
}

// receive reads a stream until it breaks or ctx ends. A Recv that waits cannot
// be given up before the handler has returned; it ends at once then, and with
// it this goroutine.
func receive(ctx context.Context, stream nodepb.Node_SessionServer) <-chan received {
	out := make(chan received)
	go func() {
		for {
			in, err := stream.Recv()
			select {
			case out <- received{in, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}

func (c *conversation) recv(ctx context.Context) (*nodepb.SessionIn, error) {
	select {
	case r := <-c.in:
		return r.in, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
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
	t, terms, err := n.prepare(start)
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

// run is one session after its handshake. It belongs to one goroutine.
type run struct {
	*conversation
	channel   *session.Channel
	party     mpc.Party
	task      task
	self      mpc.Index
	members   []session.Member
	confirmed map[mpc.Index][32]byte // by peers, perhaps before we are done
	record    *[32]byte              // ours, once we are done
}

// work runs the party from its first message to its result. It carries messages
// until the party is done and, where the operation asks for it, every other
// party has confirmed the same record.
func (r *run) work(ctx context.Context) (err error) {
	if r.party, err = r.task.party(r.channel.ID()); err != nil {
		return err
	}
	out, err := r.party.Start()
	if err != nil {
		return err
	}
	for {
		if err := r.send(out); err != nil {
			return err
		}
		if r.party.Done() {
			done, err := r.confirm()
			if err != nil || done {
				return err
			}
		}
		in, err := r.recv(ctx)
		if err != nil {
			return err
		}
		if out, err = r.receive(in.GetMessage()); err != nil {
			return err
		}
	}
}

// send seals each message to each of its recipients.
func (r *run) send(out []mpc.Message) error {
	for _, m := range out {
		body, err := session.EncodeProtocol(m)
		if err != nil {
			return err
		}
		for _, member := range r.members {
			if member.Index == r.self || (!m.Broadcast && member.Index != m.To) {
				continue
			}
			if err := r.sendBody(member.Index, body); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) sendBody(to mpc.Index, body []byte) error {
	sealed, err := r.channel.Seal(to, body)
	if err != nil {
		return err
	}
	return r.stream.Send(&nodepb.SessionOut{Kind: &nodepb.SessionOut_Message{Message: &nodepb.Sealed{
		From: uint32(r.self), To: uint32(to), Body: sealed}}})
}

// receive opens one message and hands it to the party.
func (r *run) receive(sealed *nodepb.Sealed) ([]mpc.Message, error) {
	if sealed == nil || sealed.GetFrom() < 1 || sealed.GetFrom() > mpc.MaxShares {
		return nil, session.ErrMessage
	}
	from := mpc.Index(sealed.GetFrom())
	plain, err := r.channel.Open(from, sealed.GetBody())
	if err != nil {
		return nil, err
	}
	body, err := session.Decode(plain, from, r.self)
	if err != nil {
		return nil, &mpc.AbortError{Culprits: []mpc.Index{from}, Err: err}
	}
	if body.Kind == session.KindConfirm {
		r.confirmed[from] = body.Record
		return nil, nil
	}
	return r.party.Step(body.Message)
}

// confirm tells the others which record we arrived at, once, and reports
// whether all of them have said the same. It closes the gap the library leaves:
// the last round's broadcasts are not echoed, so without it two halves of the
// parties could end with different results.
func (r *run) confirm() (bool, error) {
	if !r.task.confirms() {
		return true, nil
	}
	if r.record == nil {
		hash, err := r.task.record(r.channel.ID())
		if err != nil {
			return false, err
		}
		r.record = &hash
		for _, m := range r.members {
			if m.Index != r.self {
				if err := r.sendBody(m.Index, session.EncodeConfirm(hash)); err != nil {
					return false, err
				}
			}
		}
	}
	for _, m := range r.members {
		if m.Index == r.self {
			continue
		}
		hash, ok := r.confirmed[m.Index]
		if !ok {
			return false, nil
		}
		if hash != *r.record {
			return false, &mpc.AbortError{Err: errDisagree}
		}
	}
	return true, nil
}

var errDisagree = errors.New("the parties arrived at different public records")
