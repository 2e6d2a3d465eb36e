package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// expiryMargin is how long before the nodes drop a presignature the coordinator
// stops using it: clocks run at slightly different rates. It is a tenth of short
// lifetimes.
const expiryMargin = 2 * time.Second

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
	claim := p.stock.begin(record.AccountID, record.Hash())
	defer p.stock.end(claim)
	made := presignature{account: record.AccountID, recordHash: record.Hash()}
	encoded := record.Marshal()
	// Of the session that runs now: when it began and with which processes.
	incarnations := map[mpc.Index]uint64{}
	j := &job{
		pool: p, operation: "presign", account: record.AccountID, background: true,
		n: record.Shares, count: record.Threshold, need: record.Threshold,
		where: sitingOf(&r.Account),
		seen:  maps.Clone(r.Account.Exposures), noSpares: r.Account.NoSpares, expose: r.Expose,
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
	j.check = sameSession
	p.demandAuxiliary(j)
	chosen, outcomes, err := j.run(ctx)
	if err != nil {
		return err
	}
	for _, a := range chosen {
		made.session = mpc.SessionID(outcomes[a.index].GetSessionId())
		made.members = append(made.members, presignMember{index: a.index, node: a.node, incarnation: incarnations[a.index]})
	}
	if !p.stock.add(claim, &made) {
		// Its nodes hold it since a moment ago, and nobody else will tell them.
		p.dropOnNodes(ctx, made.account, p.stock.sessions(made.account))
		return errors.New("presign: the account's presignatures were dropped while one was made; it will not be used")
	}
	return nil
}

// sameSession is a job's check that all nodes name the same session. With
// different names any of them may be wrong.
func sameSession(chosen []assignment, outcomes map[mpc.Index]*nodepb.Outcome) ([]mpc.Index, error) {
	var all []mpc.Index
	var err error
	for _, a := range chosen {
		all = append(all, a.index)
		if !bytes.Equal(outcomes[a.index].GetSessionId(), outcomes[chosen[0].index].GetSessionId()) {
			err = fmt.Errorf("%s and %s name different sessions", chosen[0].node.id, a.node.id)
		}
	}
	if err != nil {
		return all, err
	}
	return nil, nil
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
