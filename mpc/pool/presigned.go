package pool

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

const (
	// maxPresigned bounds the presignatures that one request uses up before it
	// makes its signature in full.
	maxPresigned = 3
	// presignedTimeout is far above the few milliseconds that a signature with
	// a presignature takes: nodes that need longer are in trouble.
	presignedTimeout = 2 * time.Second
	// presignedWait is how long a request waits for the nodes of a presignature
	// to be free. Making the signature in full costs more than that.
	presignedWait = 200 * time.Millisecond
)

// signPresigned tries to sign with presignatures. It returns nil, and how many
// sessions it has run, where the signature has to be made in full. The error is
// a *BusyError, that the pool cannot be used, or ErrApprovals where two nodes have
// said so: what they miss no other presignature and no other node has.
//
// A presignature that has been taken out of the stock is put back only where no
// node has been sent anything for it; after that it is gone, whatever happened.
func (p *Pool) signPresigned(ctx context.Context, r *SignRequest, check func(*nodepb.Outcome) (*mpc.Signature, error)) (*SignResult, int, error) {
	record := &r.Account.Record
	encoded := record.Marshal()
	avoid := map[string]bool{} // nodes that failed in this request
	attempts := 0
	if r.Account.Record.PolicyHash != mpc.EmptySetHash() && len(r.Approvals) == 0 {
		return nil, 0, nil // nodes will refuse, and no presignature is spent to hear it
	}
	unapproved := map[string]bool{} // nodes that miss approvals
	for attempts < maxPresigned && ctx.Err() == nil {
		l, err := p.takePresignature(ctx, &r.Account, avoid)
		if l == nil || err != nil {
			return nil, attempts, err
		}
		j := &job{pool: p, start: func(a assignment, members []*nodepb.Member) *nodepb.Start {
			return &nodepb.Start{
				Operation: "sign", Members: members, Self: uint32(a.index), Record: encoded,
				Input: r.Input, MessageType: string(r.MessageType), HashAlgorithm: string(r.Hash),
				Presignature: l.taken.session[:], Policy: r.Policy, Approvals: r.Approvals,
			}
		}}
		clients, ok := j.clients(l.chosen)
		if !ok || ctx.Err() != nil {
			l.putBack()
			continue // a node has just gone, and perhaps its part with it
		}
		var signature *mpc.Signature
		accept := func(o *nodepb.Outcome) (err error) {
			signature, err = check(o)
			return err
		}
		attempts++
		session, cancel := context.WithTimeout(ctx, min(attemptTime(ctx), presignedTimeout))
		end := runSession(session, j.participants(l.chosen, clients), 1, accept)
		cancel()
		l.used()
		if end.err == nil {
			for _, o := range end.outcomes {
				result := signResult(signature, o, l.chosen)
				result.Attempts, result.Presigned = attempts, true
				return result, attempts, nil
			}
		}
		p.cfg.Logger.Debug("signing with a presignature failed; it is dropped", "made_in", l.taken.session, "error", end.err)
		for _, a := range l.chosen {
			if slices.Contains(end.suspects, a.index) {
				avoid[a.node.id] = true
			}
			if end.failure.GetReason() == nodepb.Failure_APPROVALS && a.index == end.reporter {
				avoid[a.node.id], unapproved[a.node.id] = true, true
			}
		}
		if len(unapproved) > 1 {
			return nil, attempts, &SessionError{Operation: "sign", Attempts: attempts, Err: fmt.Errorf("%w: %w", ErrApprovals, end.err)}
		}
	}
	return nil, attempts, nil
}

// loan is a presignature taken out of the stock, with a slot on each of its
// nodes. One of putBack and used must be called.
type loan struct {
	pool   *Pool
	ticket *ticket
	taken  *presignature
	claim  *claim
	chosen []assignment
}

func (l *loan) putBack() {
	l.pool.stock.putBack(l.claim, l.taken)
	l.pool.stock.end(l.claim)
	l.ticket.leave()
}

func (l *loan) used() {
	l.pool.stock.end(l.claim)
	l.ticket.leave()
	l.pool.presignatureUsed(l.taken.account)
}

// takePresignature waits a moment until all nodes of some presignature of the
// account are free, and takes it. It returns nil where there is none: then it is
// better to begin with a signature in full than to wait.
func (p *Pool) takePresignature(ctx context.Context, a *mpc.Account, avoid map[string]bool) (*loan, error) {
	id, hash := a.Record.AccountID, a.Record.Hash()
	if p.stock.count(id, hash, time.Now(), p.alive()) == 0 {
		return nil, nil
	}
	l := &loan{pool: p}
	dropped := 0 // like all of l, written by place only
	// hope is whether one would do if its nodes were free.
	var hope atomic.Bool
	hope.Store(true)
	w := &wish{count: a.Record.Threshold, place: func(free func(string) bool) []assignment {
		n, busy := 0, false
		l.taken, l.claim, n = p.stock.take(id, hash, time.Now(), p.alive(), func(s *presignature) verdict {
			v := s.judge(a)
			if v == use && slices.ContainsFunc(s.members, func(m presignMember) bool { return avoid[m.node.id] }) {
				return leave
			}
			if v == use && slices.ContainsFunc(s.members, func(m presignMember) bool { return !free(m.node.id) }) {
				busy = true
				return leave
			}
			return v
		})
		dropped += n
		hope.Store(busy)
		if l.taken == nil {
			return nil
		}
		for _, m := range l.taken.members {
			l.chosen = append(l.chosen, assignment{index: m.index, node: m.node})
		}
		return l.chosen
	}}
	for nodeID := range p.alive() {
		if !avoid[nodeID] {
			w.nodes = append(w.nodes, nodeID)
		}
	}
	if len(w.nodes) < w.count {
		return nil, nil
	}
	t, err := p.sched.join(id, false, w)
	if err != nil {
		return nil, err
	}
	l.ticket = t
	granted := t.await(ctx, func() bool { return hope.Load() && p.stock.count(id, hash, time.Now(), p.alive()) > 0 })
	if !granted {
		t.leave() // from here on place is not called any more
		if l.taken != nil {
			l.putBack() // it was granted in the last moment
		}
	}
	if dropped > 0 {
		p.presignatureUsed(id)
	}
	if !granted {
		return nil, nil
	}
	return l, nil
}

// await reports whether t was started in time: within presignedWait, and while
// there is hope.
func (t *ticket) await(ctx context.Context, hope func() bool) bool {
	late := time.NewTimer(presignedWait)
	defer late.Stop()
	look := time.NewTicker(presignedWait / 20)
	defer look.Stop()
	for {
		select {
		case <-t.started:
			return true
		case <-look.C:
			if !hope() {
				select {
				case <-t.started: // that is why there is none left
					return true
				default:
					return false
				}
			}
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// judge compares s with the exposures of the account that wants to use it.
func (s *presignature) judge(a *mpc.Account) verdict {
	for _, m := range s.members {
		switch i, ok := a.Exposures[m.node.identity]; {
		case ok && i != m.index, !ok && a.NoSpares:
			return drop // these nodes must not sign together for this share
		case !ok:
			return leave // the account was read before this was made
		}
	}
	return use
}

func (p *Pool) presignatureUsed(id mpc.AccountID) {
	if p.cfg.OnPresignatureUsed != nil {
		p.cfg.OnPresignatureUsed(id)
	}
}
