//go:build e2e

package e2e_test

import (
	"net/http"
	"testing"

	"vault-plugin-secrets-mpc/keyholder"
)

// TestApprovalsLogin: an approver who is an identity approves with a device key and a
// login, both in one home, and nobody else's login counts for theirs.
func TestApprovalsLogin(t *testing.T) {
	e := enable(t, harness.Shared(t), "approvals-login", 3)
	e.write(t, "config/ui", map[string]any{"public_url": "https://vault.example.com:8200", "qr_period": "8s"})
	carol := newTerminalAsker(t, e, "lena")
	home := newUser(t, e, "DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent")
	ida := newApprovalHolder(t, home, "ida")
	eve := newApprovalHolder(t, newUser(t, e, "DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent"), "eve")
	ok(t, ida.admin(t, "approver", "create", "ida", "--identity", "ida"))

	// Her device comes in with her identity's login, and with no other.
	link := printedAs[struct{ Link string }](t, ida.admin(t, "approver", "enrol", "ida", "--label", "laptop", "-o", "json")).Link
	made := printedAs[struct{ Code string }](t, ida.run(t, "device", "enrol", link, "--name", "laptop", "-o", "json"))
	refusedWith(t, ida.admin(t, "approver", "confirm", "ida", "--code", made.Code), 1, "its owner confirms")
	refusedWith(t, eve.does(t, "approver", "confirm", "ida", "--code", made.Code), 1, "may not do that")
	ok(t, ida.does(t, "approver", "confirm", "ida", "--code", made.Code), "The device is confirmed")
	ok(t, ida.admin(t, "account", "create", "gold", "--algorithm", bip340, "--approver", "ida"))

	ask := func(message string) string {
		t.Helper()
		q := printedAs[terminalRequest](t, carol.asks(t, "sign", "gold", "--input", message, "-o", "json"))
		if q.State != "pending" || q.Signature != "" {
			t.Fatalf("%+v", q)
		}
		return q.Request
	}
	// approve answers with a form that this device has not used yet.
	shown := ""
	link2 := func(request string) (link string) {
		t.Helper()
		await(t, "another form", func() bool { link = carol.scan(t, request); return link != shown })
		shown = link
		return link
	}
	request := ask("pay 5 to Bob")
	// The device alone is one factor, and somebody else's login is none.
	refusedWith(t, ida.run(t, "device", "approve", link2(request), "--yes"), 1, "nothing was signed", "login")
	asEve := []string{"--authenticator", eve.authenticator, "--passphrase-file", eve.file}
	ok(t, ida.run(t, append([]string{"login", "--kind", "password"}, asEve...)...))
	refusedWith(t, ida.run(t, append([]string{"device", "approve", link2(request), "--yes", "--login"}, asEve...)...), 1, "cannot log in for the request", "may not do that")
	note := func(s *keyholder.Session) error {
		return s.Call(t.Context(), keyholder.Write, "requests/"+request+"/login", map[string]any{}, nil)
	}
	refusedBy(t, "another identity's session", note(eve.session(t)), http.StatusForbidden, "may not do that")
	e.refuse(t, "requests/"+request+"/login", nil, http.StatusForbidden, "not with a Vault token")
	if q := e.read(t, "requests/"+request); q["state"] != "pending" || number(t, q["approvals"]) != 0 {
		t.Fatalf("after that: %v", q)
	}
	ok(t, ida.does(t, "device", "approve", link2(request), "--yes", "--login"), "was approved by you")
	signed := printedAs[terminalRequest](t, carol.asks(t, "request", "wait", request, "--timeout", "1m", "-o", "json"))
	signature, _ := signed.Result["signature"].(string)
	if signed.State != "signed" || len(signed.Answers) != 1 || signed.Answers[0].CheckedBy["device"] != "nodes" || signed.Answers[0].CheckedBy["login"] != "coordinator" {
		t.Fatalf("%+v", signed)
	}
	ok(t, carol.asks(t, "account", "verify", "gold", "--input", "pay 5 to Bob", "--signature", signature))

	// A login is for one request, and does not come from one that was before.
	second := ask("pay 6 to Bob")
	refusedWith(t, ida.run(t, "device", "approve", link2(second), "--yes"), 1, "login")
	// A frozen identity is nobody's.
	e.write(t, "identities/ida/freeze", map[string]any{"reason": "lost"})
	r := ida.does(t, "device", "approve", link2(second), "--yes", "--login")
	if q := e.read(t, "requests/"+second); r.Code != 1 || q["state"] != "pending" {
		t.Errorf("with a frozen identity: exit %d, %v: %s", r.Code, q["state"], r.Stderr)
	}
	t.Logf("a frozen identity: %s", oneLine(r.Stderr))
	e.write(t, "identities/ida/unfreeze", nil)
	ok(t, carol.asks(t, "request", "cancel", second))
}
