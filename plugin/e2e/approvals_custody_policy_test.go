//go:build e2e && linux

package e2e_test

import (
	"net/http"
	"strings"
	"testing"
)

// TestApprovalsCustodyPolicy: another policy of an account with user custody needs the
// present one's approvers and the owner, who sees what is agreed to, on a terminal.
func TestApprovalsCustodyPolicy(t *testing.T) {
	e := enable(t, harness.Shared(t), "approvals-custody-policy", 3)
	e.write(t, "config/ui", map[string]any{"public_url": "https://vault.example.com:8200", "qr_period": "20s"})
	dina, self := newTerminalAsker(t, e, "dina"), newTerminalAsker(t, e, "alma")
	alice, ben, cora := newTerminalApprover(t, e, "alice", true), newTerminalApprover(t, e, "ben", true), newTerminalApprover(t, e, "cora", true)
	who, err := e.Client.Auth().Token().Lookup(self.token)
	if err != nil {
		t.Fatal(err)
	}
	e.write(t, "approvers/alice", map[string]any{"entity_ids": who.Data["entity_id"], "no_entity": false})
	olga := newApprovalHolder(t, newUser(t, e, "DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent"), "olena")
	const account = "legacy"
	ok(t, olga.admin(t, "account", "create", account, "--algorithm", bip340, "--custody", "olena/legacy", "--role", "gold",
		"--approver", "alice", "--approver", "ben", "--authenticator", olga.authenticator, "--passphrase-file", olga.file))
	first := e.read(t, "accounts/"+account)["policy_hash"]
	epoch := func() int { t.Helper(); return number(t, e.read(t, "accounts/"+account)["share_epoch"]) }
	began := epoch()
	unchanged := func(when string) {
		t.Helper()
		if now := e.read(t, "accounts/"+account)["policy_hash"]; now != first {
			t.Fatalf("%s: the policy is %v, and was %v", when, now, first)
		}
	}
	set := func(approvers ...string) []string {
		args := []string{"account", "policy", "set", account, "-o", "json"}
		for _, a := range approvers {
			args = append(args, "--approver", a)
		}
		return args
	}
	approve := func(request string, approvers ...*terminalApprover) {
		t.Helper()
		for _, a := range approvers {
			shown := dina.asks(t, "request", "qr", request, "--once")
			ok(t, shown)
			r := a.run(t, append([]string{"device", "approve", readTerminalCode(t, shown.Stdout), "--yes", "-o", "json"}, a.flag...)...)
			ok(t, r, `"decision": "approved"`)
			if !strings.Contains(r.Stderr, "+") || !strings.Contains(r.Stderr, "cora") {
				t.Errorf("%s's device does not show what changes:\n%s", a.name, r.Stderr)
			}
		}
	}
	refresh := func(more ...string) []string { return append([]string{"account", "refresh", account}, more...) }

	// Who asks does not approve: alice is one of two who have to.
	refusedWith(t, self.asks(t, set("ben", "cora")...), 1, "nobody approves a request of their own")
	q := printedAs[terminalRequest](t, dina.asks(t, set("ben", "cora")...))
	if q.State != "pending" || q.Action != "policy" || q.Quorum != 2 {
		t.Fatalf("asked for: %+v", q)
	}
	// The owner without the approvers.
	refusedWith(t, olga.does(t, refresh("--request", q.Request, "--yes")...), 1, "is pending")
	approve(q.Request, alice)
	refusedWith(t, olga.does(t, refresh("--request", q.Request, "--yes")...), 1, "is pending")
	approve(q.Request, ben)
	// The approvers without the owner: it waits, and says for whom.
	waited := dina.asks(t, "request", "wait", q.Request, "-o", "json")
	if d := printedAs[terminalRequest](t, waited); d.State != "approved" || !strings.Contains(oneLine(waited.Stderr), "mpckms account refresh "+account+" --request "+q.Request) {
		t.Fatalf("approved, and waiting: %+v\n%s", d, waited.Stderr)
	}
	e.refuse(t, "accounts/"+account+"/refresh", nil, http.StatusConflict, "user custody")
	unchanged("before the owner agreed")
	// A refresh that says nothing of it keeps the policy.
	ok(t, olga.does(t, refresh()...))
	unchanged("after a plain refresh")
	if now := epoch(); now != began+1 {
		t.Errorf("epoch %d, want %d", now, began+1)
	}
	// Nothing is agreed to by accident.
	refusedWith(t, olga.does(t, refresh("--request", q.Request)...), 2, "--yes")
	refusedWith(t, olga.does(t, refresh("--yes")...), 2, "--request")
	refusedWith(t, olga.does(t, refresh("--request", "0a")...), 2, "32 lower-case hex digits")
	person := &terminalAsker{olga.user, ""}
	asked := func(answer string) (string, int) {
		t.Helper()
		s := person.onScreen(t, 120, append(refresh("--request", q.Request), "--authenticator", olga.authenticator, "--passphrase-file", olga.file)...)
		await(t, "the question", func() bool { return strings.Contains(s.shown(), "Type yes to go on") })
		if _, err := s.keys.WriteString(answer + "\n"); err != nil {
			t.Fatal(err)
		}
		code := s.end(t)
		return s.shown(), code
	}
	shown, code := asked("no")
	if code != 1 || !strings.Contains(oneLine(shown), "keeps its policy") {
		t.Errorf("no: exit %d\n%s", code, shown)
	}
	unchanged("after the owner said no")
	shown, code = asked("yes")
	next := e.read(t, "accounts/"+account)["policy_hash"].(string)
	if code != 0 || next == first || !strings.Contains(shown, "alice") || !strings.Contains(shown, "cora") || !strings.Contains(shown, next) {
		t.Fatalf("yes: exit %d, policy %s\n%s", code, next, shown)
	}
	if now := epoch(); now != began+2 {
		t.Errorf("epoch %d, want %d", now, began+2)
	}
	if d := printedAs[terminalRequest](t, dina.asks(t, "request", "wait", q.Request, "-o", "json")); d.State != "signed" || d.Result["policy_hash"] != next {
		t.Errorf("the request: %+v", d)
	}
	refusedWith(t, olga.does(t, refresh("--request", q.Request, "--yes")...), 1, "is done")

	// cora counts now and alice does not; the owner is needed as before.
	sign := []string{"account", "sign", account, "--input", "pay 5 to Bob", "--request-id", "order-1", "-o", "json"}
	order := printedAs[terminalRequest](t, olga.does(t, sign...))
	if len(order.Approvers) != 2 || strings.Join(order.Approvers, " ") != "ben cora" {
		t.Fatalf("who may approve now: %+v", order)
	}
	refusedWith(t, alice.run(t, append([]string{"device", "approve", olga.scan(t, order.Request), "--yes"}, alice.flag...)...), 1)
	olga.approvedBy(t, order.Request, ben, cora)
	signed := printedAs[terminalRequest](t, olga.does(t, sign...))
	ok(t, olga.admin(t, "account", "verify", account, "--input", "pay 5 to Bob", "--signature", signed.Signature))

	// One refusal ends a change that needs both; the owner cannot help it.
	q = printedAs[terminalRequest](t, dina.asks(t, set("alice", "ben")...))
	ok(t, cora.run(t, append([]string{"device", "refuse", readTerminalCode(t, dina.asks(t, "request", "qr", q.Request, "--once").Stdout)}, deviceFlag(cora)...)...))
	refusedWith(t, olga.does(t, refresh("--request", q.Request, "--yes")...), 1, "is refused")
	if now := e.read(t, "accounts/"+account)["policy_hash"]; now != next {
		t.Errorf("the policy is %v", now)
	}
	// With --yes, for scripts.
	q = printedAs[terminalRequest](t, dina.asks(t, set("cora", "ben")...))
	approve(q.Request, ben, cora)
	type refreshed struct {
		Epoch  int    `json:"share_epoch"`
		Policy string `json:"policy_hash"`
	}
	if d := printedAs[refreshed](t, olga.does(t, refresh("--request", q.Request, "--yes", "-o", "json")...)); d.Epoch != began+3 || d.Policy == next || d.Policy == "" {
		t.Errorf("with --yes: %+v", d)
	}
	// An account without a policy gets its first one from its owner: who may write
	// policies and does not open the custody key gives it none.
	ok(t, olga.admin(t, "account", "create", "bare", "--algorithm", bip340, "--custody", "olena/bare", "--role", "gold", "--authenticator", olga.authenticator, "--passphrase-file", olga.file))
	e.refuse(t, "accounts/bare/policy", map[string]any{"approvers": "ben"}, http.StatusConflict, "its owner brings the first one")
	refusedWith(t, dina.asks(t, "account", "policy", "set", "bare", "--approver", "ben", "--yes"), 2, "its owner brings it", "no authenticator is known")
	give := []string{"account", "policy", "set", "bare", "--approver", "ben", "--approver", "cora", "--quorum", "1"}
	refusedWith(t, olga.does(t, give...), 2, "--yes")
	if p := e.read(t, "accounts/bare/policy"); p["required"] != false {
		t.Fatalf("it has a policy: %v", p)
	}
	type policy struct {
		Hash   string `json:"policy_hash"`
		Quorum int    `json:"quorum"`
	}
	given := printedAs[policy](t, olga.does(t, append(give, "--yes", "-o", "json")...))
	if p := e.read(t, "accounts/bare/policy"); p["policy_hash"] != given.Hash || given.Quorum != 1 || number(t, p["quorum"]) != 1 {
		t.Errorf("given %+v, and it is %v", given, p)
	}
	refusedWith(t, olga.does(t, append(give, "--yes")...), 1, "whose approvers approve another one")
	order = printedAs[terminalRequest](t, olga.does(t, "account", "sign", "bare", "--input", "hello", "-o", "json"))
	if order.State != "pending" || order.Quorum != 1 {
		t.Errorf("under its first policy: %+v", order)
	}
}
