package node

import (
	"context"
	"errors"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
)

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
	if r.party, err = r.task.party(ctx, r.channel.ID()); err != nil {
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
