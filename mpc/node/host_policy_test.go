package node

import (
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// asked is a policy as it is asked for in an epoch.
func asked(p *approval.Policy, epoch uint64) *approval.Policy {
	q := *p
	q.Since = epoch
	return &q
}

// changing begins a refresh that brings another policy, asked for in the present
// epoch.
func (h *hosts) changing(a *held, next *approval.Policy) *nodepb.Start {
	s := h.refresh(a)
	next.Since = a.record.Epoch
	s.NextPolicy = next.Marshal()
	return s
}

// change is what approvers are asked for such a refresh.
func change(r *mpc.PublicRecord, next *approval.Policy) *approval.Subject {
	return of(approval.PolicySubject([16]byte(mount), r, next))
}

// changes is such a refresh with alice's and bob's approval.
func (p *approvers) changes(h *hosts, a *held, next *approval.Policy) *nodepb.Start {
	s := h.changing(a, next)
	s.Policy, s.Approvals = p.policy.Marshal(), p.both(change(a.record, next))
	return s
}

// TestHostilePolicy: a refresh keeps an account's policy, or brings the one that its
// approvers agreed to, and nobody takes it away.
func TestHostilePolicy(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	p, evil := newApprovers(t), newApprovers(t)
	next := newApprovers(t)
	a, plain := h.strict(p), h.make(h.keygen(), nil)
	first := a
	h.signs(a)
	with := func(change func(*nodepb.Start)) *nodepb.Start { s := p.changes(h, a, next.policy); change(s); return s }
	emptied, unfulfillable := *next.policy, *next.policy
	emptied.Approvers, emptied.Quorum = nil, 0
	unfulfillable.Factors = 1
	const wrong = "not over this request"
	for what, c := range map[string]struct {
		start  *nodepb.Start
		reason nodepb.Failure_Reason
		text   string
	}{
		"no approvals": {with(func(s *nodepb.Start) { s.Approvals = nil }), nodepb.Failure_APPROVALS, "missing: 0 of 2; nothing was opened and the account keeps its policy"},
		"no policy, as if there were none": {with(func(s *nodepb.Start) { s.Policy, s.Approvals = nil, nil }), nodepb.Failure_APPROVALS,
			"was not sent"},
		"the new approvers' approvals": {func() *nodepb.Start { s := next.changes(h, a, next.policy); s.Policy = p.policy.Marshal(); return s }(),
			nodepb.Failure_APPROVALS, "is no approver of this account"},
		"the new approvers' policy": {next.changes(h, a, next.policy), nodepb.Failure_APPROVALS, "is not the one with hash"},
		"the coordinator's":         {evil.changes(h, a, evil.policy), nodepb.Failure_APPROVALS, "is not the one with hash"},
		"approvals of a signature":  {with(func(s *nodepb.Start) { s.Approvals = p.both(signature(a.record, h.signing(a))) }), nodepb.Failure_APPROVALS, wrong},
		"of another policy to come": {with(func(s *nodepb.Start) { s.NextPolicy = evil.policy.Marshal() }), nodepb.Failure_APPROVALS, wrong},
		"of another epoch": {with(func(s *nodepb.Start) {
			u := change(a.record, next.policy)
			u.Epoch++
			s.Approvals = p.both(u)
		}), nodepb.Failure_APPROVALS, wrong},
		"of one asked for in another epoch": {with(func(s *nodepb.Start) { s.Approvals = p.both(change(a.record, asked(next.policy, 9))) }),
			nodepb.Failure_APPROVALS, wrong},
		"of a policy asked for later than now": {with(func(s *nodepb.Start) {
			later := asked(next.policy, a.record.Epoch+1)
			s.NextPolicy, s.Approvals = later.Marshal(), p.both(change(a.record, later))
		}), nodepb.Failure_APPROVALS, "was asked for in epoch 2, and the account is in epoch 1"},
		"of a policy asked for before the present one": {with(func(s *nodepb.Start) {
			u := change(a.record, next.policy)
			s.NextPolicy, s.Approvals = asked(next.policy, 0).Marshal(), p.both(u)
		}), nodepb.Failure_APPROVALS, "ask for the change again"},
		"of another account": {with(func(s *nodepb.Start) {
			r := *a.record
			r.AccountID[0] ^= 1
			s.Approvals = p.both(change(&r, next.policy))
		}), nodepb.Failure_APPROVALS, wrong},
		"the requester's own": {with(func(s *nodepb.Start) {
			u := change(a.record, next.policy)
			u.Requester = "entity:bob"
			s.Approvals = p.both(u)
		}), nodepb.Failure_APPROVALS, "of their own"},
		"too few": {with(func(s *nodepb.Start) {
			u := change(a.record, next.policy)
			s.Approvals = approvaltest.Bundle(u, p.carol.Give(t, u)).Marshal()
		}), nodepb.Failure_APPROVALS, "1 of 2"},
		"of who refused": {with(func(s *nodepb.Start) {
			u := change(a.record, next.policy)
			g := approval.Given{Approver: p.bob.ID}
			for _, k := range []approval.Kind{approval.Device, approval.Passkey} {
				g.Signatures = append(g.Signatures, p.bob.Sign(t, k, &approval.Statement{Subject: *u, Decision: approval.Refuse, Approver: p.bob.ID}))
			}
			s.Approvals = approvaltest.Bundle(u, p.alice.Give(t, u), g).Marshal()
		}), nodepb.Failure_APPROVALS, `approver "bob", device`},
		"no approvers to come":  {p.changes(h, a, &emptied), nodepb.Failure_REFUSED, "a policy needs approvers"},
		"one factor to come":    {p.changes(h, a, &unfulfillable), nodepb.Failure_REFUSED, "two different kinds"},
		"garbage to come":       {with(func(s *nodepb.Start) { s.NextPolicy = []byte("none") }), nodepb.Failure_REFUSED, "the account keeps the one it has"},
		"the same policy":       {with(func(s *nodepb.Start) { s.NextPolicy = p.policy.Marshal() }), nodepb.Failure_REFUSED, "the one that the account has"},
		"a policy without next": {with(func(s *nodepb.Start) { s.NextPolicy, s.Approvals = nil, nil }), nodepb.Failure_REFUSED, "keeps the account's policy comes with"},
		"approvals without next": {with(func(s *nodepb.Start) { s.NextPolicy, s.Policy = nil, nil }), nodepb.Failure_REFUSED,
			"keeps the account's policy comes with"},
	} {
		h.t.Logf("%s", what)
		h.refusesAll(c.start, a, c.reason, c.text)
	}
	h.signs(a)

	// A hash beside it, as key generation has one, changes nothing.
	s := h.refresh(a)
	none := mpc.EmptySetHash()
	s.PolicyHash = none[:]
	kept := h.make(s, a)
	if kept.record.PolicyHash != p.policy.Hash() {
		t.Fatal("a refresh dropped the policy")
	}
	// Approved in epoch 1: one that somebody keeps, and one that a refresh comes before.
	other := newApprovers(t)
	early, ahead := p.changes(h, a, other.policy), p.changes(h, a, next.policy)
	a = kept
	h.signs(a)
	// Only some of the nodes hear of it.
	h.refuses(h.session(h.refresh(plain), hooks{start: func(self uint32, s *nodepb.Start) {
		if s.Envelope = plain.envelopes[self]; self == 2 {
			s.NextPolicy = evil.policy.Marshal()
		}
	}}), nodepb.Failure_PROTOCOL, "did not sign these terms")

	// What was approved is done, and then counts: the new approvers approve, also the
	// next change; the old ones' word is over.
	before := a
	ahead.Record = before.record.Marshal()
	a = next.on(h.make(ahead, before))
	if a.record.PolicyHash != next.policy.Hash() || a.record.Epoch != before.record.Epoch+1 {
		t.Fatal("the new epoch does not name the new policy")
	}
	h.signs(a)
	stale := h.signing(a)
	p.approve(a.record, stale)
	h.refusesAll(stale, a, nodepb.Failure_APPROVALS, "is not the one with hash")
	// The policy of an older epoch: with its own record, with the new one made to name
	// it, and as a later epoch, under which no share opens.
	h.refuses(h.session(h.signing(before), handing(before.envelopes)), nodepb.Failure_BELOW_FLOOR, "has been used")
	h.refuses(h.session(h.signing(first), handing(first.envelopes)), nodepb.Failure_BELOW_FLOOR, "has been used")
	for epoch, reason := range map[uint64]nodepb.Failure_Reason{a.record.Epoch: nodepb.Failure_BELOW_FLOOR, a.record.Epoch + 1: nodepb.Failure_SHARE_UNUSABLE} {
		r := *a.record
		r.PolicyHash, r.Epoch = p.policy.Hash(), epoch
		s := h.signing(a)
		s.Record = r.Marshal()
		p.approve(&r, s)
		h.refuses(h.session(s, handing(a.envelopes)), reason, "")
	}
	h.signs(a)
	// n2 took part in the change and in nothing since; the others have signed.
	p, next = next, p
	third := p.changes(h, a, next.policy)
	a = next.on(h.make(third, a))
	h.signs(a)
	p, next = next, p
	// The policy says again what it said at first; approvals of that time are for a
	// change that can be made no more.
	early.Record = a.record.Marshal()
	h.refusesAll(early, a, nodepb.Failure_APPROVALS, "is not the one with hash")
	early.Policy = p.policy.Marshal()
	h.refusesAll(early, a, nodepb.Failure_APPROVALS, "ask for the change again")
	late := asked(other.policy, a.record.Epoch)
	early.NextPolicy = late.Marshal()
	h.refusesAll(early, a, nodepb.Failure_APPROVALS, wrong)
	h.signs(a)

	// From none to some needs nobody's approval, and brings none.
	for what, s := range map[string]*nodepb.Start{"approvals": p.changes(h, plain, p.policy), "a policy": func() *nodepb.Start {
		s := h.changing(plain, p.policy)
		s.Policy = p.policy.Marshal()
		return s
	}()} {
		h.t.Logf("%s", what)
		h.refusesAll(s, plain, nodepb.Failure_REFUSED, "has no policy")
	}
	tomorrow := h.changing(plain, p.policy)
	tomorrow.NextPolicy = asked(p.policy, 2).Marshal()
	h.refusesAll(tomorrow, plain, nodepb.Failure_REFUSED, "the account is in epoch 1")
	h.signs(plain)
	given := h.make(h.changing(plain, p.policy), plain)
	h.refusesAll(h.signing(given), given, nodepb.Failure_APPROVALS, "was not sent")
	h.signs(p.on(given))
	h.refuses(h.session(h.signing(plain), handing(plain.envelopes)), nodepb.Failure_BELOW_FLOOR, "has been used")
}

// TestPolicyOnOtherNodes: the floor of a node that took no part in a change of policy
// lets the new epoch through, and nothing older once it has worked with it.
func TestPolicyOnOtherNodes(t *testing.T) {
	h := newHosts(t, "a", "b", "c", "c")
	p, next := newApprovers(t), newApprovers(t)
	a := h.strict(p)
	h.signs(a) // n1 and n3
	changed := next.on(h.make(p.changes(h, a, next.policy), a))
	h.signs(a) // until a node has worked with the new epoch: a change that could not be stored strands nobody
	// n4, which has the domain of n3 and has seen nothing of the account yet, serves
	// share 3.
	fourth := func(a *held) *nodepb.Start {
		s := h.signing(a)
		s.Members = h.members(1, 4)
		s.Members[1].Index = 3
		return s
	}
	for i, r := range h.session(fourth(changed), handing(changed.envelopes)) {
		if r.outcome == nil {
			t.Errorf("share %d after the change: %v", i, r.failure)
		}
	}
	h.refusesAll(fourth(a), a, nodepb.Failure_BELOW_FLOOR, "has been used")
	h.signs(changed)
}
