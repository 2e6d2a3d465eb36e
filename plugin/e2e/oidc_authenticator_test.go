//go:build e2e

package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestOIDCAuthenticator logs in with a third party's account: Vault's own provider,
// and this test in place of the browser and the person before it.
func TestOIDCAuthenticator(t *testing.T) {
	e := enable(t, harness.Shared(t), "accounts-of-others", 3)
	p := newProvider(t, e)
	dan := newUser(t, e)
	pin := dan.file(t, "pin", "8261\n")

	create := func(name, who string, more ...string) *running {
		r := dan.start(t, e.RootToken, append([]string{"authenticator", "create", name, "--kind", "oidc", "--provider", "corp"}, more...)...)
		p.browse(t, r, who)
		return r
	}
	ok(t, create("dan", "dan", "--pin", "--pin-file", pin).wait(t), "Authenticator dan was made")
	ok(t, create("dan-trusting", "dan").wait(t), "server-trusting")
	owned(t, e, "acme", "dan", "dan-trusting")

	login := func(name, who, pinFile string) e2e.Result {
		r := dan.start(t, "", "login", "--authenticator", name, "--pin-file", pinFile, "-o", "json")
		p.browse(t, r, who)
		return r.wait(t)
	}
	opens(t, login("dan", "dan", pin), "dan", "acme")
	opens(t, login("dan-trusting", "dan", pin), "dan-trusting", "acme")
	// Somebody else's account, or a wrong PIN, opens nothing.
	for _, r := range []e2e.Result{
		login("dan-trusting", "eve", pin), login("dan", "eve", pin), login("dan", "dan", dan.file(t, "wrong", "8262\n")),
	} {
		if r.Code != 1 {
			t.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
	}
}

// provider is Vault's OIDC provider with two people.
type provider struct {
	e      *engine
	tokens map[string]string // of people, by name
}

func newProvider(t *testing.T, e *engine) *provider {
	t.Helper()
	p := &provider{e, map[string]string{}}
	l := e.Client.Logical()
	write := func(path string, data map[string]any) map[string]any {
		t.Helper()
		s, err := l.Write(path, data)
		if err != nil {
			t.Fatalf("write %s: %v", path, err)
		}
		if s == nil {
			return nil
		}
		return s.Data
	}
	if err := e.Client.Sys().EnableAuthWithOptions("people", &api.EnableAuthOptions{Type: "userpass"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dan", "eve"} {
		write("auth/people/users/"+name, map[string]any{"password": "a password of " + name})
		s, err := l.Write("auth/people/login/"+name, map[string]any{"password": "a password of " + name})
		if err != nil {
			t.Fatal(err)
		}
		p.tokens[name] = s.Auth.ClientToken
	}
	// A public client: PKCE, and no secret.
	write("identity/oidc/client/mpckms", map[string]any{
		"client_type": "public", "redirect_uris": []string{"http://127.0.0.1/callback"}, "assignments": []string{"allow_all"},
	})
	write("identity/oidc/provider/corp", map[string]any{"issuer": e.Addr, "allowed_client_ids": []string{"*"}})
	s, err := l.Read("identity/oidc/client/mpckms")
	if err != nil {
		t.Fatal(err)
	}
	e.write(t, "config/identities/oidc/corp", map[string]any{
		"issuer": e.Addr + "/v1/identity/oidc/provider/corp", "client_id": s.Data["client_id"],
	})
	return p
}

var loginPage = regexp.MustCompile(`https?://\S+/authorize\?\S+`)

// browse waits for mpckms to show the page to log in on, logs in there as somebody
// and follows the way back.
func (p *provider) browse(t *testing.T, r *running, who string) {
	t.Helper()
	var page string
	await(t, "the page to log in on", func() bool {
		page = loginPage.FindString(r.said())
		return page != ""
	})
	u, err := url.Parse(page)
	if err != nil {
		t.Fatal(err)
	}
	// The page is of Vault's web interface, which asks this for the person.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.e.Addr+"/v1/identity/oidc/provider/corp/authorize?"+u.RawQuery, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", p.tokens[who])
	var answer struct{ Code, State string }
	if body := fetch(t, req); json.Unmarshal(body, &answer) != nil || answer.Code == "" {
		t.Fatalf("the provider answered %s", body)
	}
	back := u.Query().Get("redirect_uri")
	// Another page in the browser, which knows the port at most, gets nowhere.
	if req, err = http.NewRequestWithContext(t.Context(), http.MethodGet, back+"?code=stolen&state=guessed", nil); err != nil {
		t.Fatal(err)
	}
	if body := fetch(t, req); !strings.Contains(string(body), "not the login") {
		t.Errorf("a guessed state was answered with %s", body)
	}
	if req, err = http.NewRequestWithContext(t.Context(), http.MethodGet, back+"?"+url.Values{"code": {answer.Code}, "state": {answer.State}}.Encode(), nil); err != nil {
		t.Fatal(err)
	}
	if body := fetch(t, req); !strings.Contains(string(body), "Go back to mpckms") {
		t.Errorf("the way back was answered with %s", body)
	}
}

func fetch(t *testing.T, req *http.Request) []byte {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(fmt.Errorf("reading the answer: %w", err))
	}
	return body
}
