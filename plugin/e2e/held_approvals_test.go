//go:build e2e

package e2e_test

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestHeldApprovals: an account is frozen between asking and approving. Nothing is
// signed then, nor by itself when the freeze is over, but when who asked asks again.
// Beside it: the code of an enrolment's link, and what status and doctor say.
func TestHeldApprovals(t *testing.T) {
	e := enable(t, harness.Shared(t), "approvals-held", 3)
	e.write(t, "config/ui", map[string]any{"public_url": "https://vault.example.com:8200", "qr_period": "20s"})
	hedda, hugo := newTerminalAsker(t, e, "hedda"), newTerminalAsker(t, e, "hugo")
	ina := newTerminalApprover(t, e, "ina", true)

	shown := hedda.admin(t, "approver", "enrol", "ina", "--label", "phone", "--qr")
	ok(t, shown, "The link and its code are a secret until the device has used it")
	link := regexp.MustCompile(`(?m)^https://vault\.example\.com:8200/v1/approvals-held/ui/phone#e=[0-9a-f]{32}&s=\S+$`).FindString(shown.Stdout)
	if got := readTerminalCode(t, shown.Stdout); link == "" || got != link {
		t.Errorf("the code is of another link than the one printed:\n%s", shown.Stdout)
	}

	ok(t, hedda.admin(t, "account", "create", "gold", "--algorithm", "ed25519", "--approver", "ina"))
	again := []string{"sign", "gold", "--input", "pay 5 to Bob"}
	q := printedAs[terminalRequest](t, hedda.asks(t, append(again, "-o", "json")...))
	again = append(again, "--request", q.Request)
	ok(t, hedda.admin(t, "status"), "People", "Approvers  1", "Requests   1 pending")

	ok(t, hedda.admin(t, "account", "freeze", "gold", "--reason", "lost laptop"))
	ok(t, ina.approves(t, hedda, q.Request), `"decision": "approved"`)
	refusedWith(t, hedda.asks(t, "request", "wait", q.Request, "--timeout", "1m"), 1, "approved and held")
	refusedWith(t, hedda.asks(t, again...), 1, "lost laptop")
	ok(t, hedda.admin(t, "account", "unfreeze", "gold"))
	for range 3 { // each look would set off what is not held
		d := printedAs[terminalRequest](t, hedda.asks(t, "request", "show", q.Request, "-o", "json"))
		if d.State != "approved" || d.Result != nil {
			t.Fatalf("after the freeze it went on by itself: %+v", d)
		}
		time.Sleep(300 * time.Millisecond)
	}
	refusedWith(t, hugo.asks(t, again...), 1, "somebody else")
	refusedWith(t, hedda.asks(t, "sign", "gold", "--input", "pay 6 to Bob", "--request", q.Request), 1, "not for this message")
	signed := printedAs[terminalRequest](t, hedda.asks(t, append(again, "--wait", "-o", "json")...))
	if signed.Signature == "" {
		t.Fatalf("asked again: %+v", signed)
	}
	ok(t, hedda.asks(t, "account", "verify", "gold", "--input", "pay 5 to Bob", "--signature", signed.Signature))

	// Doctor notices who has gone; their keys count on, as the policy has them.
	if r := hedda.admin(t, "doctor", "-o", "json"); !strings.Contains(r.Stdout, "none of 1 account with a policy lacks") || strings.Contains(r.Stdout, "former approvers") {
		t.Errorf("doctor: %s%s", r.Stdout, r.Stderr)
	}
	ok(t, hedda.admin(t, "approver", "delete", "ina"), "gold")
	if r := hedda.admin(t, "doctor", "-o", "json"); !strings.Contains(r.Stdout, "goes on counting approvers, or keys, that were deleted: gold") || !strings.Contains(r.Stdout, "none of 1 account with a policy lacks") {
		t.Errorf("doctor after the approver was deleted: %s%s", r.Stdout, r.Stderr)
	}
}
