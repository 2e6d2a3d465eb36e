package backend

import (
	"context"
	"encoding/hex"
	"slices"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// subject returns what is asked for as approvers sign it, and the policy. It fails
// where the account has another policy by now, or is not there any more.
func (q *approvalRequests) subject(ctx context.Context, r *requestRecord) (approval.Subject, *approval.Policy, error) {
	return q.cfg.Subject(ctx, r)
}

// give adds one approver's answer. Who calls it has checked the factors; signatures
// are verified here once more, before anything is stored. The request is approved by
// the answer that makes the quorum, and refused by the one that leaves too few.
func (q *approvalRequests) give(ctx context.Context, id string, g givenRecord) (*requestRecord, error) {
	r, err := q.get(ctx, id)
	if err != nil {
		return nil, err
	}
	subject, policy, err := q.subject(ctx, r)
	if err != nil {
		return nil, q.endIfOver(ctx, id, err)
	}
	if err := checkGiven(policy, subject, r, &g); err != nil {
		return nil, err
	}
	return q.update(ctx, id, func(r *requestRecord) error {
		if r.State != requestPending {
			return conflict("request %s is %s%s: it takes no answers any more", id, r.State, because(r.Reason))
		}
		if r.answeredBy(g.Approver) {
			return conflict("approver %q has answered request %s already: each answers once", g.Name, id)
		}
		if g.Time.IsZero() {
			g.Time = q.cfg.now().UTC()
		}
		r.Given = append(r.Given, g)
		if len(q.bundle(r).Marshal()) > approval.MaxBundle {
			return invalid("the signatures of all approvers together have more than %d bytes: nothing was stored", approval.MaxBundle)
		}
		now := q.cfg.now()
		switch {
		case r.count(approval.Approve) >= policy.Quorum:
			if err := q.cfg.step(ctx, stepRequestQuorum); err != nil {
				return err
			}
			r.State, r.Approved = requestApproved, now.UTC()
		case r.count(approval.Refuse) > r.eligible(policy)-policy.Quorum:
			r.end(requestRefused, now, "")
		}
		return nil
	})
}

// endIfOver ends the request where err says that it cannot be done, and returns what
// to answer.
func (q *approvalRequests) endIfOver(ctx context.Context, id string, err error) error {
	reason := overReason(err)
	if reason == "" {
		return err
	}
	_, endErr := q.update(ctx, id, func(r *requestRecord) error {
		if r.State.ended() || q.isDoing(id) {
			return errUnchanged
		}
		r.end(requestFailed, q.cfg.now(), reason)
		return nil
	})
	if endErr != nil {
		return endErr
	}
	return conflict("request %s has failed (%s)", id, reason)
}

// checkGiven verifies one answer against policy and subject.
func checkGiven(p *approval.Policy, subject approval.Subject, r *requestRecord, g *givenRecord) error {
	id, err := approval.ParseID(g.Approver)
	if err != nil {
		return err
	}
	a := p.Approver(id)
	switch {
	case a == nil:
		return forbidden("this approver is not one of request %s", r.ID)
	case slices.Contains(a.Requesters, r.Requester):
		return forbidden("approver %q asked for request %s: nobody approves a request of their own", a.Name, r.ID)
	case g.Decision != approval.Approve && g.Decision != approval.Refuse:
		return invalid("the decision is approve or refuse")
	}
	given, err := g.given()
	if err != nil {
		return err
	}
	kinds := map[approval.Kind]bool{}
	for i := range given.Signatures {
		s := &given.Signatures[i]
		k := a.Key(s.Key)
		if k == nil {
			return forbidden("approver %q has no key %s in the policy of request %s", a.Name, s.Key, r.ID)
		}
		if kinds[k.Kind] { // approval.Verify would refuse the whole bundle
			return invalid("two signatures are of kind %s, and each kind counts once: nothing was stored", k.Kind)
		}
		if err := k.Verify(&approval.Statement{Subject: subject, Decision: g.Decision, Approver: id}, s); err != nil {
			return &fault{status: 403, msg: "a signature is not one over this request by a key of the policy: nothing was stored", err: err}
		}
		kinds[k.Kind] = true
	}
	signed := len(kinds)
	for _, k := range g.Kinds {
		if slices.Contains(a.Checked, k) {
			kinds[k] = true
		}
	}
	switch {
	case signed == 0:
		return forbidden("no signature came with the answer: nothing was stored")
	case g.Decision == approval.Approve && (signed < p.SignatureFactors || len(kinds) < p.Factors):
		return forbidden("the answer has %d kinds of factors, %d of them signatures, and the policy asks for %d and %d: nothing was stored", len(kinds), signed, p.Factors, p.SignatureFactors)
	}
	return nil
}

// given is the record as nodes get it.
func (g *givenRecord) given() (approval.Given, error) {
	id, err := approval.ParseID(g.Approver)
	if err != nil {
		return approval.Given{}, err
	}
	out := approval.Given{Approver: id}
	for _, s := range g.Signatures {
		key, err := approval.ParseID(s.Key)
		if err != nil {
			return approval.Given{}, err
		}
		out.Signatures = append(out.Signatures, approval.Signature{
			Key: key, Signature: s.Signature, AuthenticatorData: s.AuthenticatorData, ClientData: s.ClientData,
		})
	}
	return out, nil
}

// bundle is what nodes get with a request: all who approved. Answers that cannot be
// read are left out, so that what there is does not make the quorum.
func (q *approvalRequests) bundle(r *requestRecord) *approval.Bundle { return r.bundle() }

func (r *requestRecord) bundle() *approval.Bundle {
	b := &approval.Bundle{Requester: r.Requester, RequesterName: r.RequesterName, Expires: r.Expires.Unix()}
	b.Request, _ = approval.ParseID(r.ID) // check has parsed it
	for i := range r.Given {
		if r.Given[i].Decision != approval.Approve {
			continue
		}
		if g, err := r.Given[i].given(); err == nil {
			b.Given = append(b.Given, g)
		}
	}
	return b
}

func (r *requestRecord) answeredBy(approver string) bool {
	return slices.ContainsFunc(r.Given, func(g givenRecord) bool { return g.Approver == approver })
}

func (r *requestRecord) count(d approval.Decision) int {
	n := 0
	for _, g := range r.Given {
		if g.Decision == d {
			n++
		}
	}
	return n
}

// eligible is how many approvers may answer: all but the requester.
func (r *requestRecord) eligible(p *approval.Policy) int {
	n := 0
	for i := range p.Approvers {
		if r.mayAnswer(&p.Approvers[i]) {
			n++
		}
	}
	return n
}

func (r *requestRecord) mayAnswer(a *approval.Approver) bool {
	return !slices.Contains(a.Requesters, r.Requester)
}

// policyHash names the policy that was in force when it was asked, hex.
func (r *requestRecord) policyHash() string {
	h := hashOf(r.Policy)
	return hex.EncodeToString(h[:])
}
