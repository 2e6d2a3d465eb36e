//go:build e2e

package e2e_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	secp256k1 "github.com/decred/dcrd/dcrec/secp256k1/v4"

	"vault-plugin-secrets-mpc/mpc/eip712"
)

// TestBrowserTyped signs typed data that is approved on the phone's page: it shows the
// fields and a digest of its own making, which is the one that nodes sign. Where the
// server names another digest, or shows a document that the page cannot read, the page
// does not approve.
func TestBrowserTyped(t *testing.T) {
	e := approvals(t)
	e.waitAuxiliary(t)
	b := harness.StartBrowser(t)
	phone, desk := newPhone(t, b, "phone-typed"), newDesk(t, b, "desk-typed")
	enrolPhone(t, e, phone, "tia", map[string]any{"no_entity": true})
	e.write(t, "accounts/typed", map[string]any{"algorithm": ecdsaCurve, "threshold": 2, "shares": 3, "approvers": "tia", "signature_factors": 2})
	own, err := secp256k1.ParsePubKey(unhex(t, e.read(t, "accounts/typed")["public_key_hex"]))
	if err != nil {
		t.Fatal(err)
	}
	eve := e.pageAsker(t, "eve-typed")
	request := map[string]any{"input": b64([]byte(typedData)), "message_type": "eip712"}
	made, err := eip712.Digest([]byte(typedData))
	if err != nil {
		t.Fatal(err)
	}
	digest := hex.EncodeToString(made[:])
	id, display := eve.askFor(t, "typed", request)
	desk.open(t, display)
	desk.waitText(t, "Scan to approve", "typed")

	// opened shows the request with an answer of approve/open that was changed on its way.
	last := ""
	opened := func(change string, texts ...string) string {
		t.Helper()
		link := desk.scan(t, "1-code")
		for link == last { // each form is good once on a device
			link = desk.scan(t, "1-code")
		}
		last = link
		phone.eval(t, `(() => { const real = window.fetch; window.fetch = async (url, init) => {
			const r = await real(url, init);
			if (!String(url).endsWith("approve/open") || !r.ok) return r;
			const j = await r.json();
			window.fetch = real;
			window.named = j.data.digest;
			`+change+`;
			return new Response(JSON.stringify(j), { status: r.status, headers: r.headers });
		}; return true; })()`, nil)
		phone.follow(t, link)
		return phone.waitText(t, append([]string{"Sign this?"}, texts...)...)
	}
	disabled := func(want bool) {
		t.Helper()
		var is bool
		phone.eval(t, "[...document.querySelectorAll('button')].find((b) => b.textContent === 'Approve').disabled", &is)
		if is != want {
			t.Errorf("Approve is disabled: %v", is)
		}
	}
	opened(fmt.Sprintf("j.data.digest = %q", strings.Repeat("5e", 32)), "The server names another digest", "cannot be approved here")
	phone.seen(t, "5-other-digest")
	disabled(true)
	// Here the server's digest is of what it means, and the document is read twice.
	opened(fmt.Sprintf("j.data.input = btoa(%q)", strings.Replace(typedData, `"amount":`, `"amount":"1","amount":`, 1)), "cannot work out what would be signed", "“message.amount” is there twice.")
	phone.seen(t, "6-unreadable")
	disabled(true)
	if r := eve.read(t, "requests/"+id); r["state"] != "pending" || fmt.Sprint(r["approvals"]) != "0" {
		t.Errorf("after nothing was approved: %v", r)
	}

	// The page needs no digest of the server's.
	said := opened("delete j.data.digest", "Example Pay", "250000000000000000", "Invoice 1042", "typed")
	for _, not := range []string{"cannot be approved", "As the server says"} {
		if strings.Contains(said, not) {
			t.Errorf("the phone says %q:\n%s", not, said)
		}
	}
	var shown, named string
	phone.eval(t, fact("Digest"), &shown)
	phone.eval(t, "window.named", &named)
	if shown != digest || named != digest {
		t.Errorf("the page's digest is %s, the server's %s, want %s", shown, named, digest)
	}
	phone.seen(t, "7-request")
	phone.seenWhole(t, "8-request-whole")
	disabled(false)
	phone.click(t, "Approve")
	phone.waitText(t, "You approved")

	signed := eve.awaitState(t, id, "signed")
	result, _ := signed["result"].(map[string]any)
	if result["digest"] != digest {
		t.Errorf("signed %v, want %s", result["digest"], digest)
	}
	if got := recovered(t, made[:], result); got != address(own) {
		t.Errorf("recovered %s, want %s", got, address(own))
	}
	if !e.verified(t, "typed", request, result) {
		t.Error("verify/ does not know it")
	}
}
