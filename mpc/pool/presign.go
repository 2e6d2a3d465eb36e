package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
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
	// expiryMargin is how long before the nodes drop a presignature the
	// coordinator stops using it: clocks run at slightly different rates. It
	// is a tenth of short lifetimes.
	expiryMargin = 2 * time.Second
)

// Presign makes one presignature on signers chosen at random and adds it to the
// stock from which Sign takes. It waits behind requests of people.
func (p *Pool) Presign(ctx context.Context, r PresignRequest) error {
	record := &r.Account.Record
	switch {
	case !record.Algorithm.IsECDSA():
		return fmt.Errorf("pool: %s accounts have no presignatures", record.Algorithm)
	case r.Lifetime < time.Millisecond || r.Lifetime > MaxPresignLifetime:
		return fmt.Errorf("pool: a presignature's lifetime is between a millisecond and %v, not %v", MaxPresignLifetime, r.Lifetime)
	case len(r.Account.Shares) != record.Shares:
		return errIncompleteShares
	}
	claim := p.stock.begin(record.AccountID)
	defer p.stock.end(claim)
	made := presignature{account: record.AccountID, recordHash: record.Hash()}
	encoded := record.Marshal()
	// Of the session that runs now: when it began and with which processes.
	incarnations := map[mpc.Index]uint64{}
	j := &job{
		pool: p, operation: "presign", account: record.AccountID, background: true,
		n: record.Shares, count: record.Threshold, need: record.Threshold,
		seen: maps.Clone(r.Account.Exposures), noSpares: r.Account.NoSpares, expose: r.Expose,
		accept: func(o *nodepb.Outcome) error {
			if len(o.GetSessionId()) != len(made.session) {
				return errors.New("a malformed session ID")
			}
			return nil
		},
		start: func(a assignment, members []*nodepb.Member) *nodepb.Start {
			// Nodes begin to count the lifetime after this, so they hold it
			// at least as long.
			now := time.Now()
			made.expires = now.Add(r.Lifetime - min(expiryMargin, r.Lifetime/10))
			p.stock.expect(made.account, now, now.Add(r.Lifetime+expiryMargin))
			if n := p.node(a.node.id); n != nil {
				incarnations[a.index] = n.incarnation()
			}
			return &nodepb.Start{
				Operation: "presign", Members: members, Self: uint32(a.index), Record: encoded,
				Envelope:   r.Account.Shares[a.index-1].Envelope,
				LifetimeMs: uint64(r.Lifetime.Milliseconds()),
			}
		},
	}
	p.demandAuxiliary(j)
	chosen, outcomes, err := j.run(ctx)
	if err != nil {
		return err
	}
	for _, a := range chosen {
		id := mpc.SessionID(outcomes[a.index].GetSessionId())
		if made.session == (mpc.SessionID{}) {
			made.session = id
		}
		if id != made.session {
			return fmt.Errorf("presign: %s made it in another session; it will not be used", a.node.id)
		}
		made.members = append(made.members, presignMember{index: a.index, node: a.node, incarnation: incarnations[a.index]})
	}
	if !p.stock.add(claim, &made) {
		return errors.New("presign: the account's presignatures were dropped while one was made; it will not be used")
	}
	return nil
}

// Presignatures says how many presignatures Sign could use now for the account
// with that record hash: those that are not expired and whose nodes all run.
func (p *Pool) Presignatures(id mpc.AccountID, recordHash [32]byte) int {
	return p.stock.count(id, recordHash, time.Now(), p.alive())
}

// ForgetPresignatures drops all presignatures of an account. The coordinator
// never uses them from the moment of the call; nodes are told, as far as they
// answer soon, and drop the rest when their lifetime ends.
func (p *Pool) ForgetPresignatures(ctx context.Context, id mpc.AccountID) {
	if kept, tell := p.stock.forget(id, nil, time.Now()); tell {
		p.dropOnNodes(ctx, id, kept)
	}
}

// supersede drops the presignatures of an account that belong to another record
// than this. Telling the nodes does not hold up the caller.
func (p *Pool) supersede(record *mpc.PublicRecord) {
	hash := record.Hash()
	kept, tell := p.stock.forget(record.AccountID, &hash, time.Now())
	if !tell {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		p.dropOnNodes(p.ctx, record.AccountID, kept)
	}()
}

// dropOnNodes tells all nodes to drop the account's presignatures but those of
// the sessions named. It takes statusTimeout at most.
func (p *Pool) dropOnNodes(ctx context.Context, id mpc.AccountID, keep []mpc.SessionID) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	r := &nodepb.DropPresignaturesRequest{AccountId: id[:]}
	for _, s := range keep {
		r.Keep = append(r.Keep, s[:])
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, n := range p.all() {
		client := n.client()
		if client == nil {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := client.DropPresignatures(ctx, r); err != nil {
				p.cfg.Logger.Debug("presignatures stay on a node until their lifetime ends", "node", n.id, "error", err)
			}
		}()
	}
}

// alive returns the nodes that can use what is in their memory.
func (p *Pool) alive() alive {
	nodes, _, _, err := p.ready()
	if err != nil {
		return nil
	}
	out := alive{}
	for _, n := range nodes {
		c, ok := n.candidate()
		if number := n.incarnation(); ok && number != 0 {
			out[c.id] = presignNode{c.identity, number}
		}
	}
	return out
}

// signPresigned tries to sign with presignatures. It returns nil, and how many
// sessions it has run, where the signature has to be made in full. The error is
// a *BusyError, or that the pool cannot be used.
//
// A presignature that has been taken out of the stock is put back only where no
// node has been sent anything for it; after that it is gone, whatever happened.
func (p *Pool) signPresigned(ctx context.Context, r *SignRequest, check func(*nodepb.Outcome) (*mpc.Signature, error)) (*SignResult, int, error) {
	record := &r.Account.Record
	encoded := record.Marshal()
	avoid := map[string]bool{} // nodes that failed in this request
	attempts := 0
	for attempts < maxPresigned && ctx.Err() == nil {
		l, err := p.takePresignature(ctx, &r.Account, avoid)
		if l == nil || err != nil {
			return nil, attempts, err
		}
		j := &job{pool: p, start: func(a assignment, members []*nodepb.Member) *nodepb.Start {
			return &nodepb.Start{
				Operation: "sign", Members: members, Self: uint32(a.index), Record: encoded,
				Input: r.Input, MessageType: string(r.MessageType), HashAlgorithm: string(r.Hash),
				Presignature: l.taken.session[:],
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
