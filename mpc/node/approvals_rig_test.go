package node

import (
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// approvers are three people, two of whom have to approve with device key and
// passkey.
type approvers struct {
	t                 testing.TB
	alice, bob, carol *approvaltest.Approver
	policy            *approval.Policy
}

func newApprovers(t testing.TB) *approvers {
	t.Helper()
	p := &approvers{t: t, alice: approvaltest.New(t, "alice"), bob: approvaltest.New(t, "bob"), carol: approvaltest.New(t, "carol")}
	p.policy = approvaltest.Policy(t, 2, p.alice, p.bob, p.carol)
	p.policy.SignatureFactors = 2
	return p
}

// of fills in what a request adds to a subject: dave asks, five minutes are left.
func of(s approval.Subject) *approval.Subject {
	s.Request, s.Requester, s.RequesterName = approvaltest.RandomID(), "entity:dave", "Dave"
	s.Expires = time.Now().Add(5 * time.Minute).Unix()
	return &s
}

// signature is the subject of a signature as an approver's device puts it together:
// from what it was shown, not from what a node was sent.
func signature(r *mpc.PublicRecord, s *nodepb.Start) *approval.Subject {
	return of(approval.SignSubject([16]byte(mount), r, s.GetInput(), mpc.MessageType(s.GetMessageType()), mpc.HashAlgorithm(s.GetHashAlgorithm()),
		mpc.Derivation{Path: s.GetDerivationPath(), TaprootTweak: s.GetTaprootTweak()}))
}

// both is alice's and bob's approval.
func (p *approvers) both(s *approval.Subject) []byte {
	return approvaltest.Bundle(s, p.alice.Give(p.t, s), p.bob.Give(p.t, s)).Marshal()
}

// approve has alice and bob approve a request for a signature.
func (p *approvers) approve(r *mpc.PublicRecord, s *nodepb.Start) {
	s.Policy, s.Approvals = p.policy.Marshal(), p.both(signature(r, s))
}

// keygenUnder begins key generation of an account that needs these approvers.
func (h *hosts) keygenUnder(p *approvers) *nodepb.Start {
	s, hash := h.keygen(), p.policy.Hash()
	s.PolicyHash, s.Policy = hash[:], p.policy.Marshal()
	return s
}

// strict makes such an account, whose signatures are approved from now on.
func (h *hosts) strict(p *approvers) *held {
	h.t.Helper()
	return p.on(h.make(h.keygenUnder(p), nil))
}

// on has these approvers approve an account's signatures.
func (p *approvers) on(a *held) *held {
	a.approve = p.approve
	return a
}
