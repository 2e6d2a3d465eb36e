package backend

import (
	"net/http"
	"testing"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

// TestApproveKindsOnce: nodes refuse a bundle in which somebody signs twice with one
// kind of key, so such an answer is not recorded: one approver alone would otherwise
// end a request that the others have approved.
func TestApproveKindsOnce(t *testing.T) {
	second := p256(t)
	var alice *approvaltest.Approver
	d := newDeskRig(t, func(p *approval.Policy) {
		alice = &approvaltest.Approver{Approver: p.Approvers[0]}
		alice.Add(t, approval.Device, second)
		p.Approvers[0] = alice.Approver
	})
	laptop := alice.Keys[len(alice.Keys)-1]
	r := d.asks("entity:dave")
	for _, decision := range []approval.Decision{approval.Approve, approval.Refuse} {
		st := d.statement(d.alice, r, decision)
		in := d.answer(d.alice, d.opens(d.alice, r)["ticket"], st, approval.Device, approval.Passkey)
		in["signatures"] = append(in["signatures"].([]any), factorOf(alice.SignWith(t, &laptop, st)))
		d.answerFails(string(decision), in, http.StatusBadRequest, "each kind counts once")
	}
	if who := d.given(r); len(who) != 0 {
		t.Errorf("recorded: %v", who)
	}
	// Nor does give take it from anybody.
	st := d.statement(d.alice, r, approval.Approve)
	g := givenRecord{Approver: d.alice.ID.String(), Name: "alice", Decision: approval.Approve, Kinds: []approval.Kind{approval.Device, approval.Passkey}}
	for _, s := range []approval.Signature{d.alice.Sign(t, approval.Device, st), d.alice.Sign(t, approval.Passkey, st), alice.SignWith(t, &laptop, st)} {
		g.Signatures = append(g.Signatures, signedFactor{Key: s.Key.String(), Signature: s.Signature, AuthenticatorData: s.AuthenticatorData, ClientData: s.ClientData})
	}
	if _, err := d.requests().give(t.Context(), r.ID, g); err == nil {
		t.Error("it was given")
	}
	d.approves(d.alice, r)
}
