package node

import (
	"crypto/ecdh"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// owned is a rig of nodes on other hosts and an account that has a policy and an
// owner.
type owned struct {
	*hosts
	owner *ecdh.PrivateKey
}

// newOwned makes the account with policy p, nil for one without.
func newOwned(t *testing.T, p *approvers) (*owned, *held) {
	t.Helper()
	o := &owned{newHosts(t, "a", "b", "c"), newOwner(t)}
	start := o.keygen()
	if p != nil {
		start = o.keygenUnder(p)
	}
	start.CustodyKey = o.owner.PublicKey().Bytes()
	a := o.make(start, nil)
	if p != nil {
		a = p.on(a)
	}
	return o, a
}

// permits is what the owner of a releases for start, from fresh offers of its nodes.
func (o *owned) permits(a *held, start *nodepb.Start) map[uint32]permit {
	o.t.Helper()
	u := agreedTo(&account{record: a.record}, start)
	releases := map[uint32]permit{}
	for _, s := range u.Signers {
		offered := offer(o.t, o.nodes[o.ids[s.Index-1]], a.record, s, u.Hash())
		release, err := custody.Release(offered, u.Hash(), a.record, a.envelopes[uint32(s.Index)], o.owner)
		if err != nil {
			o.t.Fatal(err)
		}
		releases[uint32(s.Index)] = permit{offered.ReleaseID[:], release}
	}
	return releases
}

// released hands each node its envelope of a, and what the owner released for start.
func (o *owned) released(a *held, start *nodepb.Start) hooks {
	o.t.Helper()
	permits := o.permits(a, start)
	return hooks{start: func(self uint32, s *nodepb.Start) {
		s.Envelope = a.envelopes[self]
		permits[self].on(s)
	}}
}

// refresh is one that keeps policy and custody key.
func (o *owned) refresh(a *held) *nodepb.Start {
	s := o.hosts.refresh(a)
	s.CustodyKey = o.owner.PublicKey().Bytes()
	return s
}

// changes is one that brings another policy, with alice's and bob's approval.
func (o *owned) changes(p *approvers, a *held, next *approval.Policy) *nodepb.Start {
	s := p.changes(o.hosts, a, next)
	s.CustodyKey = o.owner.PublicKey().Bytes()
	return s
}

// makes runs a refresh with the owner.
func (o *owned) makes(a *held, start *nodepb.Start) *held {
	o.t.Helper()
	record, envelopes := o.made(o.session(start, o.released(a, start)))
	if len(envelopes) != 3 {
		o.t.Fatalf("%d envelopes", len(envelopes))
	}
	return &held{record: record, envelopes: envelopes, approve: a.approve}
}

// signsFor demands that an honest signature is made, with approvals and owner.
func (o *owned) signsFor(a *held) {
	o.t.Helper()
	start := o.signing(a)
	results := o.session(start, o.released(a, start))
	for i, r := range results {
		if r.outcome == nil {
			o.t.Errorf("share %d with release and approvals: %v", i, r.failure)
		}
	}
	if len(results) != 2 {
		o.t.Errorf("%d of 2 nodes answered", len(results))
	}
}

// TestApprovalsWithCustody: an owner's release does not stand for approvals, and is
// not used up where they are missing.
func TestApprovalsWithCustody(t *testing.T) {
	p := newApprovers(t)
	o, a := newOwned(t, p)
	once := o.released(a, o.signing(a))
	bare := o.signing(a)
	bare.Approvals = nil
	o.refuses(o.session(bare, once), nodepb.Failure_APPROVALS, "missing: 0 of 2")
	o.refuses(o.session(o.signing(a), handing(a.envelopes)), nodepb.Failure_REFUSED, "released nothing")
	for i, r := range o.session(o.signing(a), once) {
		if r.outcome == nil {
			t.Errorf("share %d with release and approvals: %v", i, r.failure)
		}
	}
}

// TestHostileCustodyPolicy: another policy of an account with user custody needs its
// approvers' word and its owner's, each for this very policy. A coordinator that has
// one of them, or the owner's for something else, changes nothing.
func TestHostileCustodyPolicy(t *testing.T) {
	p, next, evil := newApprovers(t), newApprovers(t), newApprovers(t)
	o, a := newOwned(t, p)
	const another = "for another operation"
	edited := func(edit func(*nodepb.Start)) *nodepb.Start {
		s := o.changes(p, a, next.policy)
		edit(s)
		return s
	}
	good := edited(func(*nodepb.Start) {})
	for what, c := range map[string]struct {
		agreed, tried *nodepb.Start // what the owner released for, nil for nothing, and what it is used for
		reason        nodepb.Failure_Reason
		text          string
	}{
		"approvals without the owner":         {nil, good, nodepb.Failure_REFUSED, "released nothing"},
		"a release for a plain refresh":       {o.refresh(a), good, nodepb.Failure_REFUSED, another},
		"a release for another policy":        {o.changes(p, a, evil.policy), good, nodepb.Failure_REFUSED, another},
		"a release for the policy, as it was": {edited(func(s *nodepb.Start) { s.NextPolicy = asked(next.policy, 0).Marshal() }), good, nodepb.Failure_REFUSED, another},
		"a release for a signature":           {o.signing(a), good, nodepb.Failure_REFUSED, ""},
		"a change taken for a plain refresh":  {good, o.refresh(a), nodepb.Failure_REFUSED, another},
		"a change taken for a signature":      {good, o.signing(a), nodepb.Failure_REFUSED, another},
		"to a custody key of its own": {good, edited(func(s *nodepb.Start) { s.CustodyKey = newOwner(t).PublicKey().Bytes() }),
			nodepb.Failure_REFUSED, another},
		"the owner without approvals": {good, edited(func(s *nodepb.Start) { s.Approvals = nil }), nodepb.Failure_APPROVALS, "missing: 0 of 2"},
		"and without a policy":        {good, edited(func(s *nodepb.Start) { s.Policy, s.Approvals = nil, nil }), nodepb.Failure_APPROVALS, "was not sent"},
		"with too few approvals": {good, edited(func(s *nodepb.Start) {
			u := change(a.record, next.policy)
			s.Approvals = approvaltest.Bundle(u, p.alice.Give(t, u)).Marshal()
		}), nodepb.Failure_APPROVALS, "1 of 2"},
		"with approvals that expired": {good, edited(func(s *nodepb.Start) {
			u := change(a.record, next.policy)
			u.Expires = time.Now().Add(-2 * time.Second).Unix()
			s.Approvals = p.both(u)
		}), nodepb.Failure_APPROVALS, ""},
		"with approvals of another policy": {good, edited(func(s *nodepb.Start) { s.Approvals = p.both(change(a.record, asked(evil.policy, 1))) }),
			nodepb.Failure_APPROVALS, "not over this request"},
		"with the new approvers' approvals": {good, edited(func(s *nodepb.Start) { s.Approvals = next.both(change(a.record, next.policy)) }),
			nodepb.Failure_APPROVALS, "is no approver"},
		"with the requester's own": {good, edited(func(s *nodepb.Start) {
			u := change(a.record, next.policy)
			u.Requester = "entity:bob"
			s.Approvals = p.both(u)
		}), nodepb.Failure_APPROVALS, "of their own"},
	} {
		t.Logf("%s", what)
		hand := handing(a.envelopes)
		if c.agreed != nil {
			hand = o.released(a, c.agreed)
		}
		hasty := o.hasty
		o.hasty = 0 // everybody answers
		results := o.session(c.tried, hand)
		o.hasty = hasty
		for i, r := range results {
			if r.outcome != nil || !saysSo(r.failure, c.reason, c.text) && c.agreed != nil && len(c.agreed.GetMembers()) == len(c.tried.GetMembers()) {
				t.Errorf("%s: share %d: released %t, %v; want %v, %q", what, i, r.outcome != nil, r.failure, c.reason, c.text)
			}
		}
		o.refuses(results, c.reason, c.text)
	}
	o.signsFor(a)

	// One node is told of the policy, the others of a plain refresh, each with a release
	// that fits; and the other way round.
	for _, odd := range []bool{true, false} {
		plain, policy := o.permits(a, o.refresh(a)), o.permits(a, good)
		o.refuses(o.session(o.refresh(a), hooks{start: func(self uint32, s *nodepb.Start) {
			s.Envelope = a.envelopes[self]
			if (self == 2) == odd {
				s.NextPolicy, s.Policy, s.Approvals = good.NextPolicy, good.Policy, good.Approvals
				policy[self].on(s)
				return
			}
			plain[self].on(s)
		}}), nodepb.Failure_PROTOCOL, "did not sign these terms")
	}

	// A release is not used up where approvals are missing. Once used it is: neither the
	// change nor anything else is done with it again.
	once := o.released(a, good)
	o.refuses(o.session(edited(func(s *nodepb.Start) { s.Approvals = nil }), once), nodepb.Failure_APPROVALS, "missing")

	// A refresh comes between approvals and consent, and keeps the policy.
	kept := o.makes(a, o.refresh(a))
	if kept.record.PolicyHash != p.policy.Hash() || kept.record.Epoch != 2 {
		t.Fatalf("after a plain refresh: epoch %d, policy %x", kept.record.Epoch, kept.record.PolicyHash)
	}
	o.signsFor(kept)
	good.Record = kept.record.Marshal()
	// What was released for the epoch before opens nothing of this one.
	o.refuses(o.session(good, hooks{start: func(self uint32, s *nodepb.Start) {
		once.start(self, s)
		s.Envelope = kept.envelopes[self]
	}}), nodepb.Failure_REFUSED, another)
	a = kept
	hand := o.released(a, good)
	record, envelopes := o.made(o.session(good, hand))
	changed := next.on(&held{record: record, envelopes: envelopes})
	if record.PolicyHash != next.policy.Hash() || record.Epoch != 3 || record.Custody != a.record.Custody {
		t.Fatalf("after the change: epoch %d, policy %x", record.Epoch, record.PolicyHash)
	}
	o.refuses(o.session(good, hand), nodepb.Failure_REFUSED, "no longer has")
	// New approvers count, old ones do not, and the owner is needed as ever.
	o.signsFor(changed)
	stale := o.signing(changed)
	p.approve(changed.record, stale)
	o.refuses(o.session(stale, o.released(changed, stale)), nodepb.Failure_APPROVALS, "is not the one with hash")
	o.refuses(o.session(o.signing(changed), handing(changed.envelopes)), nodepb.Failure_REFUSED, "released nothing")
	// The change cannot be made again, and nothing goes back to the old policy.
	good.Record = changed.record.Marshal()
	o.refuses(o.session(good, o.released(changed, o.refresh(changed))), nodepb.Failure_REFUSED, "the one that the account has")
	back := o.changes(p, changed, asked(p.policy, 3))
	o.refuses(o.session(back, o.released(changed, back)), nodepb.Failure_APPROVALS, "is not the one with hash")
	o.signsFor(changed)
}

// TestCustodyFirstPolicy: an account with user custody that was made without a policy
// is given one by its owner: nobody else can.
func TestCustodyFirstPolicy(t *testing.T) {
	p, evil := newApprovers(t), newApprovers(t)
	o, a := newOwned(t, nil)
	giving := func(p *approvers) *nodepb.Start {
		s := o.changing(a, p.policy)
		s.CustodyKey = o.owner.PublicKey().Bytes()
		return s
	}
	first := giving(p)
	o.refuses(o.session(first, handing(a.envelopes)), nodepb.Failure_REFUSED, "released nothing")
	for what, agreed := range map[string]*nodepb.Start{"a plain refresh": o.refresh(a), "another policy": giving(evil)} {
		t.Logf("released for %s", what)
		o.refuses(o.session(first, o.released(a, agreed)), nodepb.Failure_REFUSED, "for another operation")
	}
	o.refuses(o.session(o.refresh(a), o.released(a, first)), nodepb.Failure_REFUSED, "for another operation")
	with := giving(p)
	with.Policy = evil.policy.Marshal()
	o.refuses(o.session(with, o.released(a, with)), nodepb.Failure_REFUSED, "has no policy")
	o.signsFor(a)
	given := o.makes(a, first)
	if given.record.PolicyHash != p.policy.Hash() || given.record.Custody != a.record.Custody {
		t.Fatal("the new epoch does not name the policy")
	}
	bare := o.signing(given)
	o.refuses(o.session(bare, o.released(given, bare)), nodepb.Failure_APPROVALS, "was not sent")
	o.signsFor(p.on(given))
}
