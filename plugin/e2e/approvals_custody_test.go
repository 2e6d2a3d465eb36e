//go:build e2e

package e2e_test

import (
	"net/http"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/plugin/e2e"
)

// approvalHolder is the owner of an identity, who logs in with a password and has no
// Vault token.
type approvalHolder struct {
	*user
	authenticator string
	secret        string
	file          string // holds the password
}

// newApprovalHolder makes an identity of one person with one role of that name.
func newApprovalHolder(t *testing.T, u *user, name string) *approvalHolder {
	t.Helper()
	h := &approvalHolder{user: u, authenticator: name + "-key", secret: "the password of " + name}
	h.file = u.file(t, name+"-password", h.secret+"\n")
	ok(t, u.admin(t, "authenticator", "create", h.authenticator, "--kind", "password", "--passphrase-file", h.file))
	ok(t, u.admin(t, "identity", "create", name, "--role", "gold", "--authenticator", h.authenticator, "--passphrase-file", h.file))
	return h
}

// does runs a command that logs in as the identity.
func (h *approvalHolder) does(t *testing.T, args ...string) e2e.Result {
	t.Helper()
	return h.run(t, append(args, "--authenticator", h.authenticator, "--passphrase-file", h.file)...)
}

// session logs in and returns the session for calls that mpckms does not make.
func (h *approvalHolder) session(t *testing.T) *keyholder.Session {
	t.Helper()
	return logIn(t, outside(t, h.e), h.authenticator, password(h.secret))
}

// asOwner makes what devices scan come from the owner's session.
func (h *approvalHolder) scan(t *testing.T, request string) string {
	t.Helper()
	r := h.does(t, "request", "qr", request, "--once")
	ok(t, r)
	return readTerminalCode(t, r.Stdout)
}

// answers approves what the owner shows.
func (h *approvalHolder) approvedBy(t *testing.T, request string, approvers ...*terminalApprover) {
	t.Helper()
	for _, a := range approvers {
		ok(t, a.run(t, append([]string{"device", "approve", h.scan(t, request), "--yes", "-o", "json"}, a.flag...)...), `"decision": "approved"`)
	}
}

// TestApprovalsCustody: what an account with user custody signs needs its approvers
// and its owner, and neither does without the other.
func TestApprovalsCustody(t *testing.T) {
	e := enable(t, harness.Shared(t), "approvals-custody", 3)
	e.write(t, "config/ui", map[string]any{"public_url": "https://vault.example.com:8200", "qr_period": "20s"})
	alice, ben := newTerminalApprover(t, e, "alice", true), newTerminalApprover(t, e, "ben", true)
	olga := newApprovalHolder(t, newUser(t, e, "DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent"), "olga")
	const account = "heirloom"
	ok(t, olga.admin(t, "account", "create", account, "--algorithm", bip340, "--custody", "olga/heirloom", "--role", "gold",
		"--approver", "alice", "--approver", "ben", "--authenticator", olga.authenticator, "--passphrase-file", olga.file))
	if a := e.read(t, "accounts/"+account); a["custody"] == nil || a["policy_hash"] == nil {
		t.Fatalf("the account has custody %v and policy %v", a["custody"], a["policy_hash"])
	}
	sign := func(message, id string, more ...string) e2e.Result {
		t.Helper()
		return olga.does(t, append([]string{"account", "sign", account, "--input", message, "--request-id", id, "-o", "json"}, more...)...)
	}
	asked := func(message, id string) string {
		t.Helper()
		q := printedAs[terminalRequest](t, sign(message, id))
		if q.State != "pending" || q.Signature != "" || q.Quorum != 2 {
			t.Fatalf("%+v", q)
		}
		return q.Request
	}
	begin := func(s *keyholder.Session, message string, request any) error {
		t.Helper()
		body := map[string]any{"operation": "sign", "input": b64([]byte(message))}
		if request != nil {
			body["request"] = request
		}
		return s.Call(t.Context(), keyholder.Write, "custody/"+account+"/begin", body, nil)
	}

	request := asked("pay 5 to Bob", "order-1")
	// The owner alone gets nothing to release to.
	s := olga.session(t)
	refusedBy(t, "without a request", begin(s, "pay 5 to Bob", nil), http.StatusConflict, "approval policy")
	refusedBy(t, "before anybody approved", begin(s, "pay 5 to Bob", request), http.StatusConflict, "pending")
	olga.approvedBy(t, request, alice)
	refusedBy(t, "with one of two", begin(s, "pay 5 to Bob", request), http.StatusConflict, "pending")
	olga.approvedBy(t, request, ben)
	// The approvers alone sign nothing either: the request waits for its owner.
	if r := e.read(t, "requests/"+request); r["state"] != "approved" || r["by_owner"] != true || r["result"] != nil {
		t.Fatalf("after both approvals: %v", r)
	}
	refusedBy(t, "another message", begin(s, "pay 500 to Eve", request), http.StatusConflict, "not for this message")
	e.refuse(t, "custody/"+account+"/begin", map[string]any{"operation": "sign", "input": b64([]byte("pay 5 to Bob")), "request": request}, http.StatusForbidden, "somebody else")
	// With the same request ID another message is not even asked for.
	refusedWith(t, sign("pay 500 to Eve", "order-1"), 1, "another payload")
	signed := printedAs[terminalRequest](t, sign("pay 5 to Bob", "order-1"))
	if signed.Signature == "" {
		t.Fatalf("%+v", signed)
	}
	ok(t, olga.admin(t, "account", "verify", account, "--input", "pay 5 to Bob", "--signature", signed.Signature))
	// Used up: the answer is repeated, and nothing else begins with it.
	if again := printedAs[terminalRequest](t, sign("pay 5 to Bob", "order-1")); again.Signature != signed.Signature {
		t.Errorf("the same request ID answers %+v", again)
	}
	refusedBy(t, "a request that was signed", begin(s, "pay 5 to Bob", request), http.StatusConflict, "signed")

	t.Run("waiting", func(t *testing.T) {
		waiting := olga.start(t, "", "account", "sign", account, "--input", "while she waits", "--request-id", "order-2", "--wait", "-o", "json",
			"--authenticator", olga.authenticator, "--passphrase-file", olga.file)
		const says = "mpckms request qr "
		await(t, "the request's ID", func() bool { return strings.Contains(waiting.said(), says) })
		_, id, _ := strings.Cut(waiting.said(), says)
		olga.approvedBy(t, strings.TrimRight(id[:32], "'"), alice, ben)
		done := printedAs[terminalRequest](t, waiting.wait(t))
		ok(t, olga.admin(t, "account", "verify", account, "--input", "while she waits", "--signature", done.Signature))
	})
	t.Run("refused", func(t *testing.T) {
		request := asked("not this", "order-3")
		ok(t, ben.run(t, append([]string{"device", "refuse", olga.scan(t, request)}, deviceFlag(ben)...)...))
		refusedBy(t, "a request that was refused", begin(s, "not this", request), http.StatusConflict, "refused")
		// Asking again under the ID does not say that it may still come.
		refusedWith(t, sign("not this", "order-3"), 1, "is refused")
		refusedWith(t, sign("not this", "order-3", "--wait"), 1, "is refused")
	})
}
