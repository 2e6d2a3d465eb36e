package pool

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

func (n *stubNode) PrepareRelease(_ context.Context, r *nodepb.PrepareReleaseRequest, _ ...grpc.CallOption) (*nodepb.PrepareReleaseReply, error) {
	return call(n, func() (*nodepb.PrepareReleaseReply, error) {
		n.world.step("offer:%s", n.id)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.world.mu.Lock()
		fault := n.world.offers[n.id]
		n.world.mu.Unlock()
		purpose := [32]byte(r.GetPurpose())
		switch fault {
		case "refuse":
			return &nodepb.PrepareReleaseReply{Failure: &nodepb.Failure{Reason: nodepb.Failure_REFUSED, Text: "I do not want to"}}, nil
		case "busy":
			return &nodepb.PrepareReleaseReply{Failure: &nodepb.Failure{Reason: nodepb.Failure_BUSY, Text: "too many"}}, nil
		case "another":
			purpose[0] ^= 1
		}
		o := custody.Offer{Index: mpc.Index(r.GetIndex()), Node: mpc.NodeIdentity(n.identity.Public().(ed25519.PublicKey)),
			PublicKey: make([]byte, 32), Expires: time.Now().Add(custody.OfferLifetime).Truncate(time.Millisecond)}
		_, _ = rand.Read(o.ReleaseID[:])
		_, _ = rand.Read(o.PublicKey)
		custody.SignOffer(n.identity, purpose, &o)
		switch fault {
		case "unsigned":
			o.Signature = make([]byte, len(o.Signature))
		case "short":
			return &nodepb.PrepareReleaseReply{ReleaseId: o.ReleaseID[:3], PublicKey: o.PublicKey, ExpiresUnixMs: uint64(o.Expires.UnixMilli()), Signature: o.Signature}, nil
		}
		return &nodepb.PrepareReleaseReply{ReleaseId: o.ReleaseID[:], PublicKey: o.PublicKey, ExpiresUnixMs: uint64(o.Expires.UnixMilli()), Signature: o.Signature}, nil
	})
}

// custodyRig is a pool whose nodes can all sign, and an account with user custody of
// two of three shares, which the first three nodes have seen.
type custodyRig struct {
	*stubPool
	ledger  *stubLedger
	request CustodyRequest
}

func newCustodyRig(t *testing.T, local int) *custodyRig {
	t.Helper()
	f := startStubs(t, local, nil)
	f.await(t, "settled pool", f.settled)
	a := f.account(t, 2, 3)
	a.Record.Custody = [32]byte{7}
	ledger := &stubLedger{by: mpc.Exposures{}}
	for id, i := range a.Exposures {
		ledger.by[id] = i
	}
	return &custodyRig{f, ledger, CustodyRequest{Operation: custody.OpSign, Account: a, Expose: ledger.expose,
		Input: []byte("hello"), MessageType: mpc.MessageRaw, Hash: mpc.HashSHA256}}
}

func (r *custodyRig) prepare(t *testing.T) *CustodyOffer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o, err := r.PrepareCustody(ctx, r.request)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func releasesOf(o *CustodyOffer) map[mpc.Index][]byte {
	out := map[mpc.Index][]byte{}
	for _, m := range o.Members {
		out[m.Index] = fmt.Appendf(nil, "release of %d", m.Index)
	}
	return out
}

func (r *custodyRig) run(t *testing.T, o *CustodyOffer) (*CustodyResult, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return r.RunCustody(ctx, o, releasesOf(o))
}

// sessions returns the Starts that came with releases.
func (r *custodyRig) sessions() []*nodepb.Start {
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	return slices.Clone(r.world.starts)
}

func TestCustodySign(t *testing.T) {
	r := newCustodyRig(t, 4)
	for range 10 {
		r.world.mu.Lock()
		r.world.starts = nil
		r.world.mu.Unlock()
		o := r.prepare(t)
		result, err := r.run(t, o)
		if err != nil {
			t.Fatal(err)
		}
		if len(o.Members) != 2 || len(result.Signature.Signers) != 2 || result.Signature.Attempts != 1 {
			t.Fatalf("%d nodes prepared, %+v", len(o.Members), result.Signature)
		}
		starts := r.sessions()
		if len(starts) != 2 {
			t.Fatalf("%d nodes got a release", len(starts))
		}
		for _, s := range starts {
			k := slices.IndexFunc(o.Members, func(m CustodyMember) bool { return uint32(m.Index) == s.GetSelf() })
			m := o.Members[k]
			if string(s.GetReleaseId()) != string(m.ReleaseID[:]) || string(s.GetRelease()) != fmt.Sprintf("release of %d", m.Index) ||
				s.GetMembers()[k].GetNodeId() != m.NodeID || len(s.GetCustodyKey()) > 0 || string(s.GetInput()) != "hello" {
				t.Errorf("share %d got another's release, or other terms", s.GetSelf())
			}
		}
		for _, m := range o.Members {
			if r.ledger.copy()[m.Node] != m.Index {
				t.Errorf("%s has share %d and is not noted with it", m.NodeID, m.Index)
			}
		}
	}
}

// TestCustodyExposesFirst: what a node is to see is stored before it is asked for
// anything, and not at all where storing fails.
func TestCustodyExposesFirst(t *testing.T) {
	r := newCustodyRig(t, 4)
	r.kill2(t) // so that a spare has to take a share over
	stored := make(chan struct{})
	r.world.mu.Lock()
	r.world.hook = func(step string) {
		if step == "offer:local-4" {
			select {
			case <-stored:
			default:
				r.world.mu.Lock()
				r.world.wrong("local-4 was asked before its exposure was stored")
				r.world.mu.Unlock()
			}
		}
	}
	r.world.mu.Unlock()
	r.request.Expose = func(ctx context.Context, added mpc.Exposures) error {
		err := r.ledger.expose(ctx, added)
		close(stored)
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r.toRefresh()
	if o, err := r.PrepareCustody(ctx, r.request); err != nil || len(o.Members) != 3 {
		t.Fatalf("%+v %v", o, err)
	}
	select {
	case <-stored:
	default:
		t.Error("no spare was needed: the test tests nothing")
	}
}

// kill2 keeps local-2 from coming back.
func (r *custodyRig) kill2(t *testing.T) {
	t.Helper()
	r.world.mu.Lock()
	victim := r.world.live["local-2"]
	r.world.mu.Unlock()
	r.mu.Lock()
	n := r.nodes["local-2"]
	r.mu.Unlock()
	n.cancel()
	victim.Stop()
	<-n.done
	r.await(t, "end of local-2", func() bool { return !n.isReady() })
}

func (r *custodyRig) toRefresh() {
	r.request.Operation, r.request.NextCustody = custody.OpRefresh, slices.Repeat([]byte{4}, mpc.CustodyKeySize)
	r.request.Input, r.request.MessageType, r.request.Hash = nil, "", ""
}

func TestCustodyRefresh(t *testing.T) {
	r := newCustodyRig(t, 4)
	r.toRefresh()
	o := r.prepare(t)
	o.Request.Recipients = []byte("what a release is not bound to")
	result, err := r.run(t, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Members) != 3 || result.Key.Account.Record.Epoch != 2 || len(result.Key.Account.Shares) != 3 || result.Signature != nil {
		t.Errorf("%d nodes, %+v", len(o.Members), result)
	}
	for _, s := range r.sessions() {
		if string(s.GetCustodyKey()) != string(r.request.NextCustody) || string(s.GetRecipients()) != "what a release is not bound to" || s.GetWrappingVersion() != 1 {
			t.Errorf("share %d: custody key %x", s.GetSelf(), s.GetCustodyKey())
		}
	}
	if len(r.sessions()) != 3 {
		t.Errorf("%d of 3 nodes took part", len(r.sessions()))
	}
}

func TestCustodyOffersThatAreBad(t *testing.T) {
	r := newCustodyRig(t, 4)
	for _, fault := range []string{"unsigned", "another", "short", "busy", "refuse"} {
		t.Run(fault, func(t *testing.T) {
			r.world.mu.Lock()
			r.world.offers["local-1"] = fault
			r.world.mu.Unlock()
			for range 8 {
				o := r.prepare(t)
				if slices.ContainsFunc(o.Members, func(m CustodyMember) bool { return m.NodeID == "local-1" }) {
					t.Fatal("the bad offer was taken")
				}
				if _, err := r.run(t, o); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	everywhere := func(fault string) error {
		r.world.mu.Lock()
		for i := range 4 {
			r.world.offers[LocalNodeID(i+1)] = fault
		}
		r.world.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := r.PrepareCustody(ctx, r.request)
		return err
	}
	var busy *BusyError
	if err := everywhere("busy"); !errors.As(err, &busy) {
		t.Errorf("all nodes busy: %v", err)
	}
	var refused *RefusedError
	if err := everywhere("refuse"); !errors.As(err, &refused) {
		t.Errorf("all nodes refuse: %v", err)
	}
}

func TestCustodyRunRefuses(t *testing.T) {
	r := newCustodyRig(t, 4)
	var lost *CustodyLostError
	fails := func(what string, change func(*CustodyOffer, map[mpc.Index][]byte), isLost bool) {
		t.Helper()
		o := r.prepare(t)
		releases := releasesOf(o)
		change(o, releases)
		if _, err := r.RunCustody(t.Context(), o, releases); err == nil || errors.As(err, &lost) != isLost {
			t.Errorf("%s: %v, to be begun again: %v", what, err, isLost)
		}
		if len(r.sessions()) > 0 {
			t.Errorf("%s: nodes were told of it", what)
		}
	}
	fails("a message that was exchanged", func(o *CustodyOffer, _ map[mpc.Index][]byte) { o.Request.Input = []byte("more") }, false)
	fails("another epoch", func(o *CustodyOffer, _ map[mpc.Index][]byte) { o.Request.Account.Record.EpochID[0] ^= 1 }, false)
	fails("a release is missing", func(o *CustodyOffer, r map[mpc.Index][]byte) { delete(r, o.Members[0].Index) }, false)
	fails("its time is over", func(o *CustodyOffer, _ map[mpc.Index][]byte) { o.Expires = time.Now() }, true)
	fails("a node was started again", func(o *CustodyOffer, _ map[mpc.Index][]byte) {
		n := r.node(o.Members[0].NodeID)
		before := n.incarnation()
		r.world.kill(o.Members[0].NodeID)
		r.await(t, "another process", func() bool { now := n.incarnation(); return n.isReady() && now != before && now != 0 })
	}, true)

	plain := r.request
	plain.Account.Record.Custody = [32]byte{}
	if _, err := r.PrepareCustody(t.Context(), plain); err == nil {
		t.Error("an account without user custody")
	}
	refresh := r.request
	refresh.Operation = custody.OpRefresh
	if _, err := r.PrepareCustody(t.Context(), refresh); err == nil {
		t.Error("a refresh to no custody key")
	}
}

// TestCustodyOtherSession: another session was faster with a spare.
func TestCustodyOtherSession(t *testing.T) {
	r := newCustodyRig(t, 5)
	other := r.ledger.copy()
	spare := r.nodes["local-4"]
	c, _ := spare.candidate()
	r.kill2(t)
	conflicts := 0
	r.toRefresh()
	r.request.Expose = func(ctx context.Context, added mpc.Exposures) error {
		if _, takes := added[c.identity]; takes && conflicts == 0 {
			conflicts++
			other[c.identity] = 1
			return &ExposedError{Node: c.identity, Seen: 1, Want: added[c.identity], Current: other}
		}
		return r.ledger.expose(ctx, added)
	}
	for range 12 { // until the spare is the one that is chosen first
		o := r.prepare(t)
		for _, m := range o.Members {
			if conflicts > 0 && m.Node == c.identity && m.Index != 1 {
				t.Fatalf("local-4 has share 1 and got share %d", m.Index)
			}
		}
		if conflicts > 0 {
			return
		}
		r.ledger.by = map[mpc.NodeIdentity]mpc.Index{}
		for id, i := range r.request.Account.Exposures {
			r.ledger.by[id] = i
		}
	}
	t.Error("the spare was never chosen: the test tests nothing")
}
