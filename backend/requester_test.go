package backend

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

// TestRequesterIsNoApproverBesides: a session whose authenticator opens the account's
// identity and that of an approver does not ask as the one, to approve as the other.
func TestRequesterIsNoApproverBesides(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	home, work := alice.founds("home"), alice.founds("work")
	ben := approvaltest.New(t, "ben")
	ben.Requesters = []string{"identity:" + work.Manifest.Identity.String()}
	policy := approvaltest.Policy(t, 1, ben, approvaltest.New(t, "carl")).Marshal()
	ctx := inSession(t.Context(), &session{name: "alice", authenticator: alice.a.ID})
	v := &signable{custody: &custodyRecord{Identity: home.Manifest.Identity.String()}, policy: policy}
	for _, requester := range []string{"home", "work"} {
		if requester == "work" { // the approver's own request counts as such
			v.custody.Identity = work.Manifest.Identity.String()
			id, _, err := m.b.requesterFor(ctx, &logical.Request{}, v.custody)
			m.ok(err)
			m.ok(m.b.noOtherSelf(ctx, id, policy))
			continue
		}
		if _, err := m.b.newRequest(ctx, &logical.Request{}, "treasury", v); err == nil || !strings.Contains(err.Error(), "approver \"ben\"") {
			t.Errorf("as %s: %v", requester, err)
		}
	}
	other := approvaltest.Policy(t, 1, approvaltest.New(t, "carl")).Marshal()
	m.ok(m.b.noOtherSelf(ctx, "identity:"+home.Manifest.Identity.String(), other))
}
