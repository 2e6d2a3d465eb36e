//go:build e2e

package e2e_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"vault-plugin-secrets-mpc/ui"
)

// servePages serves the pages below /v1/mpc/ui/ as Vault does, with their headers, and
// everything else by api.
func servePages(t *testing.T, api http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, page := strings.CutPrefix(r.URL.Path, "/v1/mpc/ui/")
		if !page {
			api.ServeHTTP(w, r)
			return
		}
		body, contentType, ok := ui.Page(name)
		if !ok || r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		for header, values := range ui.Headers() {
			w.Header()[header] = values
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	return server
}

// localServer is a server's address by the name for which browsers give keys to pages
// without HTTPS.
func localServer(server *httptest.Server) string {
	return strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
}

// openTab is a new tab of a browser, with a context that ends with the test.
func openTab(t *testing.T, browser string) context.Context {
	t.Helper()
	allocator, cancelAllocator := chromedp.NewRemoteAllocator(t.Context(), browser, chromedp.NoModifyURL)
	t.Cleanup(cancelAllocator)
	tab, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	tab, cancelTimeout := context.WithTimeout(tab, 3*time.Minute)
	t.Cleanup(cancelTimeout)
	return tab
}

// mirrored runs every vector through ui/src/approval.js, and lists what differs.
const mirrored = `(async () => {
  const a = await import("./approval.js");
  const { hex, unhex, sha256 } = await import("./bytes.js");
  const { policy, statements, forms, open, enrolments } = vectors;
  const wrong = [];
  let checks = 0;
  const same = (what, got, want) => { checks++; if (got !== want) wrong.push(what + ": " + got + ", want " + want); };
  const refused = async (what, f) => { checks++; try { await f(); wrong.push(what + " was taken"); } catch {} };

  const p = await a.parsePolicy(unhex(policy.bytes));
  same("policy hash", hex(await sha256(unhex(policy.bytes))), policy.hash);
  same("policy", [p.quorum, p.factors, p.signatureFactors, p.expiry, p.since].join(), [policy.quorum, policy.factors, policy.signature_factors, policy.expiry_seconds, policy.since].join());
  same("approvers", JSON.stringify(p.approvers.map((x) => ({ id: hex(x.id), name: x.name, requesters: x.requesters, checked: x.checked,
    keys: x.keys.map((k) => ({ kind: k.kind, name: k.name, public: hex(k.public), rp_id: k.rpID, origins: k.origins, credential: hex(k.credential), id: hex(k.id) })) }))),
    JSON.stringify(policy.approvers.map((x) => ({ id: x.id, name: x.name, requesters: x.requesters, checked: x.checked ?? [],
    keys: x.keys.map((k) => ({ kind: k.kind, name: k.name, public: k.public, rp_id: k.rp_id, origins: k.origins ?? [], credential: k.credential, id: k.id })) }))));
  await refused("a policy that is cut off", () => a.parsePolicy(unhex(policy.bytes.slice(0, -2))));
  await refused("a policy that goes on", () => a.parsePolicy(unhex(policy.bytes + "00")));
  await refused("another label", () => a.parsePolicy(unhex(policy.bytes.replace("706f6c696379207631", "706f6c696379207632"))));

  for (const s of statements) {
    const m = a.marshalStatement({
      action: s.action, decision: s.decision, approver: unhex(s.approver), mount: unhex(s.mount_id), account: unhex(s.account_id), publicKey: unhex(s.public_key),
      request: unhex(s.request), requester: s.requester, requesterName: s.requester_name, algorithm: s.algorithm, messageType: s.message_type, hash: s.hash_algorithm,
      message: s.action === "sign" ? await sha256(unhex(s.input)) : undefined, derivationPath: s.derivation_path, taprootTweak: s.taproot_tweak,
      policy: unhex(s.policy), nextPolicy: unhex(s.next_policy), epoch: s.epoch, expires: s.expires });
    same("statement", hex(m), s.bytes);
    same("its hash", hex(await sha256(m)), s.hash);
    same("device message", hex(a.deviceMessage(await sha256(m))), s.device_message);
    for (const x of s.signatures.filter((x) => x.kind === "device")) {
      const key = await crypto.subtle.importKey("spki", p.approvers.flatMap((y) => y.keys).find((k) => hex(k.id) === x.key).public, { name: "ECDSA", namedCurve: "P-256" }, false, ["verify"]);
      same("device signature", await crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, unhex(x.signature), a.deviceMessage(await sha256(m))), true);
    }
  }
  for (const f of forms.forms) {
    const n = a.period(forms.created_unix_ms, f.now_unix_ms, forms.period_ms);
    same("period", n, f.number);
    const form = await a.formAt(unhex(forms.seed), unhex(forms.request), n);
    same("form", hex(form), f.form);
    same("link", a.link(forms.link_base, unhex(forms.request), form), f.link);
    const back = a.parseLink(f.link);
    same("link read", hex(back.request) + hex(back.form), forms.request + f.form);
    same("link named twice", a.parseLink(f.link + "&r=" + forms.request), undefined);
  }
  same("progress proof", hex(await a.progressProof(unhex(forms.seed), unhex(forms.request))), forms.progress_proof);
  same("open message", hex(a.openMessage(unhex(open.mount_id), unhex(open.request), unhex(open.form), unhex(open.key), open.time)), open.bytes);
  for (const e of enrolments) {
    const ids = [];
    for (const k of e.keys) ids.push(await a.keyID({ kind: k.kind, public: unhex(k.public), rpID: k.rp_id, credential: unhex(k.credential) }));
    same("key IDs", ids.map(hex).join(), e.keys.map((k) => k.id).join());
    const m = a.enrolMessage(unhex(e.mount_id), unhex(e.enrolment), unhex(e.approver), ids.reverse());
    same("enrolment", hex(m), e.bytes);
    same("its code", await a.enrolCode(m), e.code);
  }
  return { checks, wrong };
})()`

// TestPageEncodings holds the pages' mirror of package approval to the vectors of
// testdata/golden/approval-v1, in the browser that runs it.
func TestPageEncodings(t *testing.T) {
	vectors := map[string]json.RawMessage{}
	for _, name := range []string{"policy", "statements", "forms", "open", "enrolments"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "testdata", "golden", "approval-v1", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		vectors[name] = b
	}
	encoded, err := json.Marshal(vectors)
	if err != nil {
		t.Fatal(err)
	}
	server := servePages(t, http.NotFoundHandler())
	tab := openTab(t, harness.StartBrowser(t).WebSocket)
	var result struct {
		Checks int
		Wrong  []string
	}
	wait := func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
	if err := chromedp.Run(tab, chromedp.Navigate(localServer(server)+"/v1/mpc/ui/show"), chromedp.WaitVisible("h1"),
		chromedp.Evaluate("globalThis.vectors = "+string(encoded)+"; 0", nil), chromedp.Evaluate(mirrored, &result, wait)); err != nil {
		t.Fatal(err)
	}
	if result.Checks < 60 {
		t.Errorf("%d comparisons: the test looks at the wrong place", result.Checks)
	}
	for _, w := range result.Wrong {
		t.Error(w)
	}
}
