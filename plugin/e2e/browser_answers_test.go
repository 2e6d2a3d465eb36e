//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
)

// TestBrowserAnswers goes through what else can happen on the way from a request to a
// signature, with two approvers whose phones are browsers. Codes change once a minute
// here, unless staleness is what is tested.
func TestBrowserAnswers(t *testing.T) {
	e := approvals(t)
	b := harness.StartBrowser(t)
	bea, cid, desk := newPhone(t, b, "bea"), newPhone(t, b, "cid"), newDesk(t, b, "desk-answers")
	eve, self := e.pageAsker(t, "eve"), e.pageAsker(t, "bea")
	enrolPhone(t, e, bea, "bea", map[string]any{"entity_ids": self.entity})
	enrolPhone(t, e, cid, "cid", map[string]any{"no_entity": true})
	policy := func(quorum int) map[string]any {
		return map[string]any{"algorithm": ed25519, "threshold": 2, "shares": 3, "approvers": "bea,cid", "quorum": quorum, "signature_factors": 2, "request_expiry": "60s"}
	}
	e.write(t, "accounts/one", policy(1))
	e.write(t, "accounts/both", policy(2))
	slow := func(t *testing.T) {
		t.Helper()
		e.write(t, "config/ui", map[string]any{"public_url": browserAddress(e.Vault), "rp_id": "localhost", "origins": []string{browserAddress(e.Vault)}, "qr_period": "60s"})
	}
	quick := func(t *testing.T) {
		t.Helper()
		e.write(t, "config/ui", map[string]any{"public_url": browserAddress(e.Vault), "rp_id": "localhost", "origins": []string{browserAddress(e.Vault)}, "qr_period": "1s"})
	}
	slow(t)
	t.Cleanup(func() { quick(t) })
	// begin asks for a signature and shows its code.
	begin := func(t *testing.T, a *pageAsker, account, message, name string) (id, link string) {
		t.Helper()
		id, display := a.ask(t, account, []byte(message))
		desk.open(t, display)
		desk.waitText(t, "Scan to approve", account)
		return id, desk.scan(t, name)
	}
	expiring, expiringPage := eve.ask(t, "one", []byte("never answered"))
	var expires time.Time
	if when, err := time.Parse(time.RFC3339, text(eve.read(t, "requests/"+expiring), "expires_time")); err != nil {
		t.Fatal(err)
	} else {
		expires = when
	}

	t.Run("a second approver is missing, then there", func(t *testing.T) {
		message := "needs both"
		id, link := begin(t, eve, "both", message, "1-both")
		bea.follow(t, link)
		bea.waitText(t, "Sign this?", message, "0 of 2")
		bea.click(t, "Approve")
		bea.waitText(t, "You approved", "It needs 1 more approval")
		bea.seen(t, "5-one-more")
		desk.waitText(t, "1 of 2", "bea", "approved")
		desk.seen(t, "2-one-of-two")
		if r := eve.read(t, "requests/"+id); r["state"] != "pending" || r["result"] != nil {
			t.Errorf("with one of two approvals: %v", r)
		}
		// A form that nobody was shown leads nowhere, whoever has answered.
		bea.follow(t, "#r="+id+"&f=AAAAAAAAAAAAAAAAAAAAAA")
		bea.waitText(t, "Scan the code again")
		cid.follow(t, link) // the form of another device is not used up by the first
		cid.waitText(t, "Sign this?", message, "1 of 2")
		cid.seen(t, "5-second")
		cid.click(t, "Approve")
		cid.waitText(t, "You approved")
		signed := eve.awaitState(t, id, "signed")
		result, _ := signed["result"].(map[string]any)
		e.check(t, "both", []byte(message), result)
		desk.waitText(t, "Signed")
	})
	t.Run("refused", func(t *testing.T) {
		id, link := begin(t, eve, "both", "better not", "3-refused")
		cid.follow(t, link)
		cid.waitText(t, "Sign this?", "better not")
		cid.click(t, "Refuse")
		cid.waitText(t, "Refuse this request?")
		cid.seen(t, "6-refuse")
		cid.click(t, "Yes, refuse")
		cid.waitText(t, "You refused")
		desk.waitText(t, "Refused", "will not be signed")
		desk.seen(t, "4-refused")
		if r := eve.awaitState(t, id, "refused"); r["result"] != nil {
			t.Errorf("a refused request: %v", r)
		}
	})
	t.Run("a form is good once on a device", func(t *testing.T) {
		id, link := begin(t, eve, "one", "opened twice", "5-replay")
		bea.follow(t, link)
		bea.waitText(t, "Sign this?", "opened twice")
		bea.follow(t, link)
		bea.waitText(t, "Scan the code again")
		bea.seen(t, "6-scan-again")
		if r := eve.read(t, "requests/"+id); r["state"] != "pending" {
			t.Errorf("after a replay: %v", r)
		}
	})
	t.Run("a stale form", func(t *testing.T) {
		quick(t)
		defer slow(t)
		id, display := eve.ask(t, "one", []byte("too late"))
		desk.open(t, display)
		desk.waitText(t, "Scan to approve")
		old := desk.scan(t, "6-stale")
		// Two other forms later the first is neither the present nor the previous one.
		seen := map[string]bool{}
		for end := time.Now().Add(pageTimeout); len(seen) < 4 && time.Now().Before(end); {
			seen[desk.scan(t, "7-stale-later")] = true
		}
		if len(seen) < 4 {
			t.Fatalf("the code had %d forms", len(seen))
		}
		bea.follow(t, old)
		bea.waitText(t, "Scan the code again")
		if r := eve.read(t, "requests/"+id); r["state"] != "pending" {
			t.Errorf("after a stale code: %v", r)
		}
	})
	t.Run("a form of another request", func(t *testing.T) {
		first, link := begin(t, eve, "one", "this one", "8-other")
		second, _ := eve.ask(t, "one", []byte("that one"))
		bea.follow(t, strings.Replace(link, first, second, 1))
		bea.waitText(t, "Scan the code again")
	})
	t.Run("nobody approves a request of their own", func(t *testing.T) {
		id, link := begin(t, self, "one", "for myself", "9-own")
		bea.follow(t, link)
		bea.waitText(t, "You asked for this yourself")
		bea.seen(t, "7-own")
		cid.follow(t, link)
		cid.waitText(t, "Sign this?", "for myself")
		cid.click(t, "Approve")
		cid.waitText(t, "You approved")
		self.awaitState(t, id, "signed")
	})
	t.Run("the passkey does not know its user", func(t *testing.T) {
		id, link := begin(t, eve, "one", "not verified", "10-unverified")
		verified := func(yes bool) {
			bea.run(t, chromedp.ActionFunc(func(ctx context.Context) error { return webauthn.SetUserVerified(bea.authenticator, yes).Do(ctx) }))
		}
		verified(false)
		bea.follow(t, link)
		bea.waitText(t, "Sign this?", "not verified")
		bea.click(t, "Approve")
		bea.waitText(t, "The passkey was not used")
		bea.seen(t, "8-unverified")
		verified(true)
		bea.click(t, "Approve")
		bea.waitText(t, "You approved")
		eve.awaitState(t, id, "signed")
	})
	t.Run("a server that shows one message and means another", func(t *testing.T) {
		id, link := begin(t, eve, "one", "pay 5000 to mallory", "11-tampered")
		// What approve/open answers is changed on its way to the page: the phone shows
		// another message, and so its statement is about that one.
		cid.eval(t, `(() => { const real = window.fetch; window.fetch = async (url, init) => {
			const r = await real(url, init);
			if (!String(url).endsWith("approve/open") || !r.ok) return r;
			const j = await r.json();
			j.data.input = btoa("pay 5 to alice"); delete j.data.digest; delete j.data.signing_digest;
			window.fetch = real;
			return new Response(JSON.stringify(j), { status: r.status, headers: r.headers });
		}; return true; })()`, nil)
		cid.follow(t, link)
		cid.waitText(t, "Sign this?", "pay 5 to alice")
		cid.click(t, "Approve")
		said := cid.waitText(t, "not over this request")
		if strings.Contains(said, "You approved") {
			t.Errorf("an approval of another message was taken:\n%s", said)
		}
		cid.seen(t, "7-tampered")
		if r := eve.read(t, "requests/"+id); r["state"] != "pending" || fmt.Sprint(r["approvals"]) != "0" {
			t.Errorf("after an approval of another message: %v", r)
		}
	})
	t.Run("the camera reads the code", func(t *testing.T) {
		id, display := eve.ask(t, "one", []byte("seen by the camera"))
		desk.open(t, display)
		desk.waitText(t, "Scan to approve")
		link := desk.scan(t, "12-camera") // what the camera sees is made from it
		bea.open(t, strings.SplitN(link, "#", 2)[0])
		bea.waitText(t, "Ready to approve")
		film(t, b.Camera, link)
		bea.click(t, "Scan a code")
		bea.waitText(t, "Sign this?", "seen by the camera")
		bea.click(t, "Approve")
		bea.waitText(t, "You approved")
		eve.awaitState(t, id, "signed")
	})
	t.Run("expired", func(t *testing.T) {
		desk.open(t, expiringPage)
		desk.waitText(t, "Scan to approve")
		time.Sleep(time.Until(expires))
		eve.awaitState(t, expiring, "expired")
		desk.waitText(t, "Expired")
		desk.seen(t, "13-expired")
	})
}
