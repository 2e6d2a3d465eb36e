package backend

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// TestApproveLogin: the factor login comes through a session of the approver's
// identity, is fresh, and is for one request.
func TestApproveLogin(t *testing.T) {
	d := newDeskRig(t, nil)
	owner := d.enrol("alice", identity.Password, "correct horse", "", nil)
	home := owner.founds("home", "mail")
	eve := d.enrol("eve", identity.Password, "battery staple", "", nil)
	eve.founds("work")
	record := d.directory(d.alice)
	record.Identity, record.Entities = home.Manifest.Identity.String(), nil
	d.ok(d.b.store.putApprover(t.Context(), "alice", record))
	r, other := d.asks("entity:dave"), d.asks("entity:dave")
	path := "requests/" + r.ID + "/login"

	if _, status, msg := d.send(path, nil); status != http.StatusForbidden || !strings.Contains(msg, "through a session") {
		t.Errorf("with a Vault token: %d %s", status, msg)
	}
	stranger := eve.login()
	for _, p := range []string{path, "requests/" + strings.Repeat("ab", 16) + "/login", "requests/x/login"} {
		if _, status := stranger.call(identity.WriteOperation, p, nil); status != http.StatusForbidden {
			t.Errorf("eve, %s: %d", p, status)
		}
	}
	s := owner.login()
	for _, p := range []string{"requests/" + r.ID, "requests/" + r.ID + "/cancel", "requests/" + r.ID + "/code", "requests/" + strings.Repeat("ab", 16) + "/login"} {
		if _, status := s.call(identity.WriteOperation, p, nil); status != http.StatusForbidden {
			t.Errorf("alice, %s: %d", p, status)
		}
	}
	if _, status := s.call(identity.ReadOperation, path, nil); status != http.StatusForbidden {
		t.Errorf("reading: %d", status)
	}
	approve := func(r *requestRecord, ticket any) map[string]any {
		return d.answer(d.alice, ticket, d.statement(d.alice, r, approval.Approve), approval.Device)
	}
	ticket := d.opens(d.alice, r)["ticket"]
	d.answerFails("before the login", approve(r, ticket), http.StatusBadRequest, "login")
	got := s.does(identity.WriteOperation, path, nil)
	if names, _ := got["approvers"].([]any); len(names) != 1 || names[0] != "alice" {
		t.Errorf("%v", got)
	}
	if d.opens(d.alice, other)["login"] != false {
		t.Error("a login for another request counts")
	}
	d.must(logical.UpdateOperation, "approve/answer", approve(r, ticket))
	if who := d.given(r); !slices.Equal(who, []string{"alice approve device, login"}) {
		t.Errorf("%v", who)
	}
	if a, status := s.call(identity.WriteOperation, path, nil); status != http.StatusConflict {
		t.Errorf("after the answer: %d %v", status, a)
	}

	// Old when the request is opened; old when it is said.
	s.does(identity.WriteOperation, "requests/"+other.ID+"/login", nil)
	d.clock.pass(maxLoginAge - 10*time.Second)
	if out := d.opens(d.alice, other); out["login"] != true {
		t.Errorf("%v", out["login"])
	}
	d.clock.pass(20 * time.Second)
	out := d.opens(d.alice, other)
	if out["login"] != false {
		t.Errorf("%v", out["login"])
	}
	d.answerFails("with an old login", approve(other, out["ticket"]), http.StatusBadRequest, "nothing was recorded")
	if a, status := s.call(identity.WriteOperation, "requests/"+other.ID+"/login", nil); status != http.StatusForbidden || !strings.Contains(strings.Join(a.Errors, " "), "log in again") {
		t.Errorf("an old session: %d %v", status, a)
	}

	// The policy has to take logins of this approver; a frozen identity does nothing.
	owner.login().does(identity.WriteOperation, "requests/"+other.ID+"/login", nil)
	d.must(logical.UpdateOperation, "identities/home/freeze", nil)
	if _, status := owner.login().call(identity.WriteOperation, "requests/"+other.ID+"/login", nil); status != http.StatusForbidden {
		t.Errorf("frozen: %d", status)
	}
	d.must(logical.UpdateOperation, "identities/home/unfreeze", nil)
	d.policy.Approvers[0].Checked = []approval.Kind{approval.TOTP}
	d.record.PolicyHash = d.policy.Hash()
	third := d.asks("entity:dave")
	if _, status := owner.login().call(identity.WriteOperation, "requests/"+third.ID+"/login", nil); status != http.StatusForbidden {
		t.Errorf("not in the policy: %d", status)
	}
}
