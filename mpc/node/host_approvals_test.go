package node

import (
	"bytes"
	"crypto/sha256"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// refusesAll demands that nobody released anything and that every node that was
// asked says why.
func (h *hosts) refusesAll(start *nodepb.Start, from *held, reason nodepb.Failure_Reason, text string) {
	h.t.Helper()
	hand := hooks{}
	if from != nil {
		hand = handing(from.envelopes)
	}
	hasty := h.hasty
	h.hasty = 0 // everybody answers, however busy the machine is
	results := h.session(start, hand)
	h.hasty = hasty
	for i, r := range results {
		if r.outcome != nil || !saysSo(r.failure, reason, text) {
			h.t.Errorf("share %d: released %t, %v; want %v, %q", i, r.outcome != nil, r.failure, reason, text)
		}
	}
	if len(results) != len(start.GetMembers()) {
		h.t.Errorf("%d of %d nodes answered", len(results), len(start.GetMembers()))
	}
}

// TestHostileApprovals: a coordinator that has no approvals for a signature gets
// none, whatever else it has, and an honest signature follows.
func TestHostileApprovals(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	p := newApprovers(t)
	evil := newApprovers(t) // the coordinator's own
	a, other, unused, plain := h.strict(p), h.strict(p), h.strict(p), h.make(h.keygen(), nil)
	h.signs(a)
	subject := func() *approval.Subject { return signature(a.record, h.signing(a)) }
	// with is a request with these approvals.
	with := func(s *approval.Subject, given ...approval.Given) *nodepb.Start {
		start := h.signing(a)
		start.Approvals = approvaltest.Bundle(s, given...).Marshal()
		return start
	}
	both := func(s *approval.Subject) *nodepb.Start { return with(s, p.alice.Give(t, s), p.bob.Give(t, s)) }
	changed := func(change func(*approval.Subject)) *nodepb.Start {
		s := subject()
		change(s)
		return both(s)
	}
	sent := func(change func(*nodepb.Start)) *nodepb.Start { s := h.signing(a); change(s); return s }
	// bundled is a request whose bundle was changed after the approvers signed.
	bundled := func(change func(*approval.Bundle)) *nodepb.Start {
		s := subject()
		b := approvaltest.Bundle(s, p.alice.Give(t, s), p.bob.Give(t, s))
		change(b)
		start := h.signing(a)
		start.Approvals = b.Marshal()
		return start
	}
	under := func(policy *approval.Policy) []byte { return policy.Marshal() }
	emptied, softened := *p.policy, *p.policy
	emptied.Approvers, emptied.Quorum = nil, 0
	softened.Quorum = 1
	stolen := func() *nodepb.Start { // evil's key in alice's name
		s := subject()
		st := &approval.Statement{Subject: *s, Decision: approval.Approve, Approver: p.alice.ID}
		forged := p.alice.Give(t, s)
		forged.Signatures[0].Signature = evil.alice.Sign(t, approval.Device, st).Signature
		return with(s, forged, p.bob.Give(t, s))
	}
	given := func(who *approvaltest.Approver, s *approval.Subject, decision approval.Decision) approval.Given {
		g := approval.Given{Approver: who.ID}
		for _, kind := range []approval.Kind{approval.Device, approval.Passkey} {
			g.Signatures = append(g.Signatures, who.Sign(t, kind, &approval.Statement{Subject: *s, Decision: decision, Approver: who.ID}))
		}
		return g
	}
	as := func(g approval.Given, id approval.ID) approval.Given { g.Approver = id; return g }
	// told is a record that names another policy, with approvals under that.
	told := func(a *held, policy *approvers, change func(*mpc.PublicRecord)) *nodepb.Start {
		r := *a.record
		r.PolicyHash = policy.policy.Hash()
		if change != nil {
			change(&r)
		}
		start := h.signing(a)
		start.Record = r.Marshal()
		policy.approve(&r, start)
		return start
	}
	const missing, wrong = "approvals are missing", "not over this request"
	for what, c := range map[string]struct {
		start  *nodepb.Start
		reason nodepb.Failure_Reason
		text   string
	}{
		"no policy and no approvals": {sent(func(s *nodepb.Start) { s.Policy, s.Approvals = nil, nil }), nodepb.Failure_APPROVALS, "was not sent"},
		"no approvals":               {sent(func(s *nodepb.Start) { s.Approvals = nil }), nodepb.Failure_APPROVALS, missing + ": 0 of 2"},
		"an empty bundle":            {with(subject()), nodepb.Failure_APPROVALS, missing + ": none of 2"},
		"garbage":                    {sent(func(s *nodepb.Start) { s.Approvals = []byte("garbage") }), nodepb.Failure_APPROVALS, "not approvals"},
		"a bundle with something behind": {sent(func(s *nodepb.Start) { s.Approvals = append(s.Approvals, 0) }), nodepb.Failure_APPROVALS,
			"malformed"},
		"a forged device key": {stolen(), nodepb.Failure_APPROVALS, `approver "alice", device "alice's device": a signature is ` + wrong},
		"a forged passkey": {bundled(func(b *approval.Bundle) {
			b.Given[1].Signatures[1].ClientData = bytes.Replace(b.Given[1].Signatures[1].ClientData, []byte(`"challenge":"`), []byte(`"challenge":"AA`), 1)
		}), nodepb.Failure_APPROVALS, `approver "bob", passkey`},
		"expired": {changed(func(s *approval.Subject) { s.Expires = time.Now().Add(-2 * time.Second).Unix() }), nodepb.Failure_APPROVALS,
			"have expired"},
		"valid for too long": {changed(func(s *approval.Subject) { s.Expires = time.Now().Add(p.policy.Expiry + 2*time.Minute).Unix() }), nodepb.Failure_APPROVALS,
			"longer than the 10m0s that the policy allows"},
		"valid for longer than was signed": {bundled(func(b *approval.Bundle) { b.Expires++ }), nodepb.Failure_APPROVALS, wrong},
		"another message's":                {changed(func(s *approval.Subject) { s.Message = sha256.Sum256([]byte("pay eve")) }), nodepb.Failure_APPROVALS, wrong},
		"for another message": {sent(func(s *nodepb.Start) { s.Input = []byte("pay eve") }), nodepb.Failure_APPROVALS,
			wrong},
		"for another kind of message": {sent(func(s *nodepb.Start) { s.HashAlgorithm = "sha2-256" }), nodepb.Failure_APPROVALS, wrong},
		"for a child key":             {sent(func(s *nodepb.Start) { s.DerivationPath = "m/7" }), nodepb.Failure_APPROVALS, wrong},
		"for a tweaked key":           {sent(func(s *nodepb.Start) { s.TaprootTweak = "bip86" }), nodepb.Failure_APPROVALS, wrong},
		"another account's":           {both(signature(other.record, h.signing(other))), nodepb.Failure_APPROVALS, wrong},
		"another mount's":             {changed(func(s *approval.Subject) { s.Mount[0] ^= 1 }), nodepb.Failure_APPROVALS, wrong},
		"another key's":               {changed(func(s *approval.Subject) { s.PublicKey = other.record.PublicKey }), nodepb.Failure_APPROVALS, wrong},
		"another request's":           {bundled(func(b *approval.Bundle) { b.Request[0] ^= 1 }), nodepb.Failure_APPROVALS, wrong},
		"another requester's":         {bundled(func(b *approval.Bundle) { b.Requester = "entity:erin" }), nodepb.Failure_APPROVALS, wrong},
		"another name's":              {bundled(func(b *approval.Bundle) { b.RequesterName = "Erin" }), nodepb.Failure_APPROVALS, wrong},
		"too few":                     {bundled(func(b *approval.Bundle) { b.Given = b.Given[:1] }), nodepb.Failure_APPROVALS, missing + ": 1 of 2"},
		"one approver twice":          {bundled(func(b *approval.Bundle) { b.Given[1] = b.Given[0] }), nodepb.Failure_APPROVALS, "is there twice: nobody counts for two"},
		"two keys of one person, each as an approver": {bundled(func(b *approval.Bundle) {
			two := b.Given[0]
			b.Given = []approval.Given{{Approver: two.Approver, Signatures: two.Signatures[:1]}, {Approver: two.Approver, Signatures: two.Signatures[1:]}}
		}), nodepb.Failure_APPROVALS, missing},
		"one person's keys under two names": {bundled(func(b *approval.Bundle) { b.Given[1] = as(b.Given[0], p.bob.ID) }), nodepb.Failure_APPROVALS,
			`approver "bob" has no key`},
		"one factor twice": {bundled(func(b *approval.Bundle) { b.Given[1].Signatures[1] = b.Given[1].Signatures[0] }), nodepb.Failure_APPROVALS,
			`approver "bob" gives two signatures of kind device`},
		"one factor": {bundled(func(b *approval.Bundle) { b.Given[1].Signatures = b.Given[1].Signatures[:1] }), nodepb.Failure_APPROVALS,
			`approver "bob" signed with 1 kinds of factors`},
		"the requester's own": {changed(func(s *approval.Subject) { s.Requester = "entity:alice" }), nodepb.Failure_APPROVALS,
			"nobody approves a request of their own"},
		"strangers'": {func() *nodepb.Start { s := subject(); return with(s, evil.alice.Give(t, s), evil.bob.Give(t, s)) }(), nodepb.Failure_APPROVALS,
			"is no approver of this account"},
		"of who refused": {func() *nodepb.Start {
			s := subject()
			return with(s, p.alice.Give(t, s), given(p.bob, s, approval.Refuse))
		}(), nodepb.Failure_APPROVALS, `approver "bob", device`},
		"of a change of policy": {func() *nodepb.Start {
			s := of(approval.PolicySubject([16]byte(mount), a.record, asked(evil.policy, 1)))
			return both(s)
		}(), nodepb.Failure_APPROVALS, wrong},
		"an emptied policy":            {sent(func(s *nodepb.Start) { s.Policy = under(&emptied) }), nodepb.Failure_APPROVALS, "is not the one with hash"},
		"an easier policy":             {sent(func(s *nodepb.Start) { s.Policy = under(&softened) }), nodepb.Failure_APPROVALS, "is not the one with hash"},
		"the coordinator's approvers":  {sent(func(s *nodepb.Start) { evil.approve(a.record, s) }), nodepb.Failure_APPROVALS, "is not the one with hash"},
		"a policy to come":             {sent(func(s *nodepb.Start) { s.NextPolicy = under(p.policy) }), nodepb.Failure_REFUSED, "changes no policy"},
		"and a record that names them": {told(a, evil, nil), nodepb.Failure_BELOW_FLOOR, "another record"},
		"approvals where none are asked": {func() *nodepb.Start {
			s := h.signing(plain)
			p.approve(plain.record, s)
			return s
		}(), nodepb.Failure_REFUSED, "demands no approvals comes with"},
		"a policy where there is none": {func() *nodepb.Start { s := h.signing(plain); s.Policy = under(p.policy); return s }(), nodepb.Failure_REFUSED,
			"demands no approvals comes with"},
	} {
		t.Run(what, func(t *testing.T) {
			h.t, h.world.t = t, t
			from := a
			if c.reason == nodepb.Failure_REFUSED && len(c.start.GetNextPolicy()) == 0 {
				from = plain
			}
			h.refusesAll(c.start, from, c.reason, c.text)
			h.signs(a)
		})
	}
	h.t, h.world.t = t, t
	for what, start := range map[string]*nodepb.Start{
		// What the floors cannot know the share says: it is sealed under its record.
		"a record with their policy, of an account not used yet": told(unused, evil, nil),
		"and of a later epoch": told(unused, evil, func(r *mpc.PublicRecord) { r.Epoch += 7 }),
	} {
		h.t.Logf("%s", what)
		h.refusesAll(start, unused, nodepb.Failure_SHARE_UNUSABLE, "")
	}
	dropped := h.signing(unused)
	none := *unused.record
	none.PolicyHash = mpc.EmptySetHash()
	dropped.Record, dropped.Policy, dropped.Approvals = none.Marshal(), nil, nil
	h.refusesAll(dropped, unused, nodepb.Failure_SHARE_UNUSABLE, "")
	h.signs(unused)
	h.signs(plain)

	// All members check the same approvals: one cannot be shown others.
	h.refuses(h.session(h.signing(a), hooks{start: func(self uint32, s *nodepb.Start) {
		if s.Envelope = a.envelopes[self]; self == 3 {
			p.approve(a.record, s)
		}
	}}), nodepb.Failure_PROTOCOL, "did not sign these terms")
	// Others of the approvers will do, and approvals serve again for the same message.
	s := subject()
	again := with(s, p.carol.Give(t, s), p.bob.Give(t, s, approval.Certificate, approval.Device))
	for range 2 {
		for i, r := range h.session(again, handing(a.envelopes)) {
			if r.outcome == nil {
				t.Errorf("share %d with carol's and bob's approvals: %v", i, r.failure)
			}
		}
	}
	if n := h.counts.of(nodepb.Failure_APPROVALS); n < 60 {
		t.Errorf("%d refusals were counted", n)
	}
}

// TestClockOfApprovals: approvals expire by the node's own clock.
func TestClockOfApprovals(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	a := h.strict(newApprovers(t))
	for _, c := range []struct {
		ahead time.Duration
		text  string
	}{{time.Hour, "have expired"}, {-time.Hour, "longer than the 10m0s"}} {
		h.now = func() time.Time { return time.Now().Add(c.ahead) }
		h.attach("n3")
		h.refuses(h.session(h.signing(a), handing(a.envelopes)), nodepb.Failure_APPROVALS, c.text)
		h.refuses(h.session(h.signing(a), handing(a.envelopes)), nodepb.Failure_APPROVALS, "By this node's clock it is "+h.now().UTC().Format("2006-01-02T15"))
		h.now = nil
		h.attach("n3")
		h.signs(a)
	}
}

// TestPolicyOfNewAccounts: an account is made with the policy that its record names,
// which all its nodes have read.
func TestPolicyOfNewAccounts(t *testing.T) {
	h := newHosts(t, "a", "b", "c")
	p := newApprovers(t)
	with := func(change func(*nodepb.Start)) *nodepb.Start { s := h.keygenUnder(p); change(s); return s }
	unfulfillable := *p.policy
	unfulfillable.Quorum = 4
	broken := unfulfillable.Marshal()
	hash := sha256.Sum256(broken)
	empty := mpc.EmptySetHash()
	for what, c := range map[string]struct {
		start  *nodepb.Start
		reason nodepb.Failure_Reason
		text   string
	}{
		"a policy that nobody saw":        {with(func(s *nodepb.Start) { s.Policy = nil }), nodepb.Failure_APPROVALS, "was not sent"},
		"another policy":                  {with(func(s *nodepb.Start) { s.Policy = newApprovers(t).policy.Marshal() }), nodepb.Failure_APPROVALS, "is not the one"},
		"a policy that the record leaves": {with(func(s *nodepb.Start) { s.PolicyHash = empty[:] }), nodepb.Failure_APPROVALS, "is to have none"},
		"one that cannot be fulfilled":    {with(func(s *nodepb.Start) { s.Policy, s.PolicyHash = broken, hash[:] }), nodepb.Failure_APPROVALS, "quorum"},
		"one asked for later": {with(func(s *nodepb.Start) {
			later := asked(p.policy, 1)
			hash := later.Hash()
			s.Policy, s.PolicyHash = later.Marshal(), hash[:]
		}), nodepb.Failure_APPROVALS, "was asked for in epoch 1"},
		"no hash":          {with(func(s *nodepb.Start) { s.PolicyHash = nil }), nodepb.Failure_REFUSED, "malformed"},
		"approvals":        {with(func(s *nodepb.Start) { s.Approvals = []byte{1} }), nodepb.Failure_REFUSED, "without any approvals"},
		"a policy to come": {with(func(s *nodepb.Start) { s.NextPolicy = p.policy.Marshal() }), nodepb.Failure_REFUSED, "without any approvals"},
	} {
		h.t.Logf("%s", what)
		h.refusesAll(c.start, nil, c.reason, c.text)
	}
	a := h.strict(p)
	if a.record.PolicyHash != p.policy.Hash() {
		t.Error("the record names another policy")
	}
	h.signs(a)
}
