//go:build e2e

package e2e_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// awaited evaluates a script and waits for the promise that it may return.
func awaited(script string, out any) chromedp.Action {
	return chromedp.Evaluate(script, out, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) })
}

// approvalsMount is the mount of the tests with browsers, and approvalsLogin the auth
// method of the people who ask.
const (
	approvalsMount = "approvals"
	approvalsLogin = "approvals-people"
)

var (
	approvalsOnce   sync.Once
	approvalsEngine *engine
)

// approvals returns a mount whose pages are at http://localhost:port: browsers allow
// passkeys there without HTTPS.
func approvals(t *testing.T) *engine {
	t.Helper()
	v := harness.Shared(t)
	approvalsOnce.Do(func() {
		e := enable(t, v, approvalsMount, 3)
		e.write(t, "config/ui", map[string]any{"public_url": browserAddress(v), "rp_id": "localhost", "origins": []string{browserAddress(v)}, "qr_period": "2s"})
		if err := v.Client.Sys().EnableAuthWithOptions(approvalsLogin, &api.EnableAuthOptions{Type: "userpass"}); err != nil {
			t.Fatal(err)
		}
		rules := fmt.Sprintf("path %q { capabilities = [\"create\", \"update\", \"read\", \"list\"] }", approvalsMount+"/*")
		if err := v.Client.Sys().PutPolicy("approvals-asks", rules); err != nil {
			t.Fatal(err)
		}
		approvalsEngine = e
	})
	if approvalsEngine == nil {
		t.Fatal("the mount for approvals could not be configured; see the first failure")
	}
	return approvalsEngine
}

// browserAddress is the Vault's address as browsers need it.
func browserAddress(v *e2e.Vault) string { return strings.Replace(v.Addr, "127.0.0.1", "localhost", 1) }

// pageAsker is somebody with a login in Vault, and so an entity, who asks for signatures.
type pageAsker struct {
	client *api.Client
	path   string
	entity string
}

func (e *engine) pageAsker(t testing.TB, name string) *pageAsker {
	t.Helper()
	user := "auth/" + approvalsLogin + "/users/" + name
	if _, err := e.Client.Logical().Write(user, map[string]any{"password": "only for tests", "token_policies": "approvals-asks"}); err != nil {
		t.Fatal(err)
	}
	s, err := e.Client.Logical().Write("auth/"+approvalsLogin+"/login/"+name, map[string]any{"password": "only for tests"})
	if err != nil {
		t.Fatal(err)
	}
	client, err := e.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(s.Auth.ClientToken)
	return &pageAsker{client, e.path, s.Auth.EntityID}
}

func (a *pageAsker) write(t testing.TB, path string, data map[string]any) map[string]any {
	t.Helper()
	s, err := a.client.Logical().Write(a.path+"/"+path, data)
	if err != nil {
		t.Fatalf("write %s: %v", path, err)
	}
	if s == nil {
		return nil
	}
	return s.Data
}

func (a *pageAsker) read(t testing.TB, path string) map[string]any {
	t.Helper()
	s, err := a.client.Logical().Read(a.path + "/" + path)
	if err != nil || s == nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return s.Data
}

// ask asks for a signature and returns the request and the page that shows its code.
func (a *pageAsker) ask(t testing.TB, account string, message []byte) (id, display string) {
	t.Helper()
	return a.askFor(t, account, map[string]any{"input": b64(message)})
}

// askFor is ask with all that sign/ takes.
func (a *pageAsker) askFor(t testing.TB, account string, data map[string]any) (id, display string) {
	t.Helper()
	asked := a.write(t, "sign/"+account, data)
	if asked["state"] != "pending" || asked["signature"] != nil {
		t.Fatalf("asking for a signature is answered with %v", asked)
	}
	id = text(asked, "request")
	return id, text(a.write(t, "requests/"+id+"/code", nil), "display_url")
}

// awaitState waits until the request is in a state, and returns what is known of it.
func (a *pageAsker) awaitState(t testing.TB, id, state string) map[string]any {
	t.Helper()
	var last map[string]any
	for end := time.Now().Add(pageTimeout); time.Now().Before(end); {
		if last = a.write(t, "requests/"+id+"/wait", map[string]any{"timeout": "2s"}); last["state"] == state {
			return last
		}
	}
	t.Fatalf("request %s is not %s but %v", id, state, last)
	return nil
}

// enrolPhone makes an approver and enrols a phone's browser as their device, with a passkey.
func enrolPhone(t *testing.T, e *engine, phone *page, name string, approver map[string]any) {
	t.Helper()
	e.write(t, "approvers/"+name, approver)
	offer := e.write(t, "approvers/"+name+"/enrol", map[string]any{"label": name + "'s phone"})
	phone.open(t, text(offer, "link"))
	phone.waitText(t, "Enrol this device", name)
	phone.seen(t, "1-enrol")
	phone.fill(t, "device", name+"'s phone")
	phone.click(t, "Enrol this device")
	phone.waitText(t, "Compare this code")
	phone.seen(t, "2-code")
	var code string
	phone.eval(t, "document.querySelector('.bigcode').textContent", &code)
	e.write(t, "approvers/"+name+"/confirm", map[string]any{"code": code, "enrolment": offer["enrolment"]})
	phone.waitText(t, "This device is enrolled")
	phone.seen(t, "3-enrolled")
	phone.click(t, "Done")
	phone.waitText(t, "Ready to approve")
	phone.seen(t, "4-ready")
}
