//go:build e2e

package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

// TestBrowser goes the whole way of an approval in two browser contexts: a desktop
// that shows the moving code and a phone that enrols, reads the code off the
// desktop's screen, shows what is asked for, and approves with device key and passkey.
func TestBrowser(t *testing.T) {
	e := approvals(t)
	b := harness.StartBrowser(t)
	phone, desk := newPhone(t, b, "phone"), newDesk(t, b, "desk")
	enrolPhone(t, e, phone, "ann", map[string]any{"no_entity": true})

	account := e.write(t, "accounts/guarded", map[string]any{"algorithm": ed25519, "threshold": 2, "shares": 3, "approvers": "ann", "signature_factors": 2})
	eve := e.pageAsker(t, "eve")
	message := []byte("Pay 12.50 € to Zoë, invoice 2026-117")
	id, display := eve.ask(t, "guarded", message)

	desk.open(t, display)
	desk.waitText(t, "Scan to approve", "0 of 1", "Nobody has answered yet", "guarded")
	first := desk.scan(t, "1-code")
	// The code moves, and is made on the page.
	second := first
	for end := time.Now().Add(pageTimeout); second == first; {
		if time.Now().After(end) {
			t.Fatal("the code on the page does not change")
		}
		second = desk.scan(t, "2-next-code")
	}
	for _, link := range []string{first, second} {
		if !strings.HasPrefix(link, browserAddress(e.Vault)+"/v1/"+e.path+"/ui/phone#r="+id+"&f=") {
			t.Errorf("the code says %q", link)
		}
	}

	phone.follow(t, desk.scan(t, "3-scanned"))
	digest := sha256.Sum256(message)
	said := phone.waitText(t, "Sign this?", "guarded", string(message), "Time left", "0 of 1")
	phone.seen(t, "5-request")
	phone.seenWhole(t, "6-request-whole")
	for _, want := range []string{hex.EncodeToString(digest[:])[:8], "eve", text(account, "algorithm")} {
		if !strings.Contains(said, want) {
			t.Errorf("the phone does not show %q:\n%s", want, said)
		}
	}
	phone.click(t, "Approve")
	phone.waitText(t, "You approved")
	phone.seen(t, "7-approved")

	signed := eve.awaitState(t, id, "signed")
	desk.waitText(t, "Signed")
	desk.seen(t, "4-signed")
	result, _ := signed["result"].(map[string]any)
	e.check(t, "guarded", message, result)
	t.Logf("answers: %v", signed["answers"])
}
