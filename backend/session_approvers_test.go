package backend

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// TestApproverOfIdentity: who is an identity confirms in a session of its owner. A
// Vault token does not, as long as there is an authenticator.
func TestApproverOfIdentity(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	bob := m.enrol("bob", identity.Password, "battery staple", "", nil)
	carol := m.enrol("carol", identity.Password, "third", "", nil)
	home := alice.founds("home", "mail")
	carol.founds("work")
	next, err := home.Change(time.Now(), identity.SetLevel{Level: identity.Level{Name: "post", Roles: []string{"mail"}}}, identity.AddGrant{Authenticator: bob.a, Level: "post"})
	m.ok(err)
	a, b, c := alice.login(), bob.login(), carol.login()
	read, list, write, del := identity.ReadOperation, identity.ListOperation, identity.WriteOperation, identity.DeleteOperation
	a.does(write, "identities/home", map[string]any{"manifest": encode64(next.Manifest), "signature": encode64(next.Signature)})

	got := m.must(logical.UpdateOperation, "approvers/owner", map[string]any{"identity": "home"})
	if id := home.Manifest.Identity.String(); got["identity"] != "home" || got["identity_id"] != id || strings.Join(got["requesters"].([]string), " ") != "identity:"+id {
		t.Errorf("the approver is %v", got)
	}
	m.must(logical.UpdateOperation, "approvers/robot", map[string]any{"no_entity": true})

	p := &phone{m: m, device: p256(t)}
	opened := a.does(write, "approvers/owner/enrol", map[string]any{"label": "phone"})
	l := openedLink{opened["enrolment"].(string), opened["secret"].(string)}
	body, code := p.offer(l)
	m.must(logical.UpdateOperation, "approve/enrol/finish", body)
	in := map[string]any{"code": code}
	m.fails(logical.UpdateOperation, "approvers/owner/confirm", in, http.StatusForbidden, "its owner confirms after logging in")
	const not = "this session may not do that"
	for _, x := range []struct {
		who  *client
		op   identity.Operation
		path string
		in   map[string]any
	}{
		{b, write, "approvers/owner/confirm", in}, {b, write, "approvers/owner/enrol", nil}, {b, del, "approvers/owner/totp", nil},
		{c, write, "approvers/owner/confirm", in}, {c, read, "approvers/owner", nil}, {c, list, "approvers/owner/enrolments", nil},
		{a, write, "approvers/robot/confirm", in}, {a, read, "approvers/robot", nil}, {a, read, "approvers/none", nil},
		{a, list, "approvers", nil}, {a, write, "approvers/owner", map[string]any{"no_entity": true}}, {a, del, "approvers/owner", nil},
		{a, write, "approvers/owner/factors/x", nil}, {a, read, "config/ui", nil}, {a, write, "approve/enrol/state", l.body()},
	} {
		x.who.refused(x.op, x.path, x.in, http.StatusForbidden, not)
	}
	b.does(read, "approvers/owner", nil)
	if keys := a.does(list, "approvers/owner/enrolments", nil)["keys"].([]any); len(keys) != 1 {
		t.Errorf("there are %v", keys)
	}
	if out := a.does(write, "approvers/owner/confirm", in); len(out["factors"].([]any)) != 1 {
		t.Errorf("the factors are %v", out["factors"])
	}
	approver := func() approval.Approver {
		t.Helper()
		r, err := m.b.store.approver(t.Context(), "owner")
		m.ok(err)
		x, err := r.approver("owner")
		m.ok(err)
		return x
	}
	if all, signed := func() (int, int) { x := approver(); return x.Kinds() }(); all != 2 || signed != 1 {
		t.Errorf("it has %d kinds, %d of them of nodes", all, signed)
	}

	// One-time codes are the same.
	secret := a.does(write, "approvers/owner/totp", nil)["secret"].(string)
	otp := map[string]any{"code": codeAt(t, secret, m.b.cfg.now())}
	m.fails(logical.UpdateOperation, "approvers/owner/totp/confirm", otp, http.StatusForbidden, "its owner confirms after logging in")
	a.does(write, "approvers/owner/totp/confirm", otp)
	if all, _ := func() (int, int) { x := approver(); return x.Kinds() }(); all != 3 {
		t.Errorf("it has %d kinds", all)
	}

	// Whose factors they are does not change.
	m.fails(logical.UpdateOperation, "approvers/owner", map[string]any{"identity": "work"}, http.StatusConflict, "factors already")
	m.fails(logical.UpdateOperation, "approvers/owner", map[string]any{"identity": "", "no_entity": true}, http.StatusConflict, "factors already")
	m.must(logical.UpdateOperation, "approvers/owner", map[string]any{"entity_ids": testEntity})

	// Frozen: nothing is confirmed, by nobody.
	l = m.opensEnrolment("owner")
	p2 := &phone{m: m, device: p256(t)}
	body, code = p2.offer(l)
	m.must(logical.UpdateOperation, "approve/enrol/finish", body)
	in = map[string]any{"code": code}
	a.does(write, "identities/home/freeze", nil)
	a.refused(write, "approvers/owner/confirm", in, http.StatusConflict, "frozen")
	m.fails(logical.UpdateOperation, "approvers/owner/confirm", in, http.StatusConflict, "frozen")
	a.does(write, "identities/home/unfreeze", nil)

	// Once every authenticator is lost, whoever runs the mount confirms.
	m.must(logical.UpdateOperation, "authenticators/bob/lost", nil)
	m.fails(logical.UpdateOperation, "approvers/owner/confirm", in, http.StatusForbidden, "its owner confirms")
	m.must(logical.UpdateOperation, "authenticators/alice/lost", nil)
	m.must(logical.UpdateOperation, "approvers/owner/confirm", in)
}

// TestApproverOfDeletedIdentity: nobody confirms for an identity that is not there.
func TestApproverOfDeletedIdentity(t *testing.T) {
	m, _, _ := loginMount(t)
	alice := m.enrol("alice", identity.Password, "correct horse", "", nil)
	alice.founds("home")
	m.must(logical.UpdateOperation, "approvers/owner", map[string]any{"identity": "home"})
	l := m.opensEnrolment("owner")
	body, code := (&phone{m: m, device: p256(t)}).offer(l)
	m.must(logical.UpdateOperation, "approve/enrol/finish", body)
	m.must(logical.DeleteOperation, "identities/home", nil)
	m.fails(logical.UpdateOperation, "approvers/owner/confirm", map[string]any{"code": code}, http.StatusConflict, "not there any more")
	resp, status, _ := m.do(logical.ReadOperation, "approvers/owner", nil)
	if status != http.StatusOK || len(resp.Warnings) != 1 || resp.Data["identity"] != "" {
		t.Errorf("%d %v", status, resp)
	}
}
