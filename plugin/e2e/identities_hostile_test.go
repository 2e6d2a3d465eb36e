//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

func writeFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHostileStorage: who owns Vault's storage puts older records, or those of
// another identity, in the place of the newest ones. The server serves what it
// finds and verifies; the clients notice.
func TestHostileStorage(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.File})
	e := enable(t, v, "mpc", 3)
	ada, drawer, ben := acme(t, v, "host")
	var id struct {
		ID string `json:"id"`
	}
	ada.asks(t, &id, "identity", "show", "host")
	manifest, dns, safe := "identities/host", "assets/"+id.ID+"/dns", "assets/"+id.ID+"/safe"
	old := map[string][]byte{}
	for _, key := range []string{manifest, dns, safe} {
		old[key] = v.RawRead(t, "mpc", key)
	}
	ada.put(t, "host/dns", "newer token")
	ben.shows(t, "host/dns", "newer token")
	ada.does(t, "identity", "revoke", "host", ben.authenticator)
	drawer.does(t, "identity", "show", "host")

	restart := func() {
		v.Stop(t)
		v.Restart(t) // its caches are the server's own
		e.waitNodes(t, 3)
	}
	now := map[string][]byte{}
	for key := range old {
		now[key] = v.RawRead(t, "mpc", key)
	}
	lie := func(what, key string, value []byte, says []string, args ...string) {
		t.Helper()
		rawWrite(t, v, "mpc", key, value)
		restart()
		ada.refused(t, says, args...)
		rawWrite(t, v, "mpc", key, now[key])
	}
	lie("an older manifest, in which ben is granted still", manifest, old[manifest], []string{"older or another state"}, "secret", "show", "host/dns")
	lie("an older asset", dns, old[dns], []string{"older or another state"}, "secret", "show", "host/dns")
	lie("another asset", dns, now[safe], []string{"cannot"}, "secret", "show", "host/dns")
	restart()
	ada.shows(t, "host/dns", "newer token")

	// A restore of Vault is no attack: who knows of it has his home forget.
	rawWrite(t, v, "mpc", dns, old[dns])
	restart()
	ada.refused(t, []string{"older or another state", "secret forget"}, "secret", "show", "host/dns")
	ada.does(t, "secret", "forget", "host/dns")
	ada.shows(t, "host/dns", "dns token")
	rawWrite(t, v, "mpc", manifest, old[manifest])
	restart()
	ada.refused(t, []string{"older or another state", "identity forget"}, "secret", "show", "host/dns")
	ada.does(t, "identity", "forget", "host")
	ada.shows(t, "host/dns", "dns token")
}

// tamperer is an HTTP proxy before Vault that changes answers.
type tamperer struct {
	mu     sync.Mutex
	path   string
	change func(data map[string]any)
	hits   int
}

func (x *tamperer) set(path string, change func(map[string]any)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.path, x.change, x.hits = path, change, 0
}

func (x *tamperer) answer(resp *http.Response) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.change == nil || !strings.HasSuffix(resp.Request.URL.Path, x.path) {
		return nil
	}
	x.hits++
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var body map[string]any
	if json.Unmarshal(raw, &body) == nil {
		if data, ok := body["data"].(map[string]any); ok {
			x.change(data)
			raw, _ = json.Marshal(body)
		}
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
	resp.Header.Set("Content-Length", "")
	resp.Header.Del("Content-Length")
	return nil
}

// TestHostileServer: somebody between client and server, or the server itself,
// changes answers. Each time the client says so, and nothing is opened.
func TestHostileServer(t *testing.T) {
	e := shared(t)
	ada, drawer, _ := acme(t, e.Vault, "mitm")
	other := newPerson(t, e.Vault, "mpc", "mitm-other")
	other.operates(t, "identity", "create", "mitm-2", "--kind", "person")
	target, err := url.Parse(e.Addr)
	if err != nil {
		t.Fatal(err)
	}
	x := &tamperer{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, ModifyResponse: x.answer}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	ada.address, drawer.address = server.URL, server.URL
	ada.shows(t, "mitm/dns", "dns token") // through the honest proxy

	first := e.read(t, "identities/mitm")
	second := e.read(t, "identities/mitm-2")
	ada.does(t, "identity", "role", "add", "mitm", "mail")
	for what, c := range map[string]struct {
		path   string
		change func(map[string]any)
		says   string
		args   []string
	}{
		"an older manifest": {"identities/mitm", func(d map[string]any) { d["manifest"], d["signature"] = first["manifest"], first["signature"] },
			"older or another state", []string{"identity", "show", "mitm"}},
		"another identity's manifest": {"identities/mitm", func(d map[string]any) { d["manifest"], d["signature"] = second["manifest"], second["signature"] },
			"in its place", []string{"identity", "show", "mitm"}},
		"a changed signature": {"identities/mitm", func(d map[string]any) { d["signature"] = second["signature"] },
			"does not verify", []string{"identity", "show", "mitm"}},
		"a weaker password hash": {"login/challenge", func(d map[string]any) {
			d["kdf"] = map[string]any{"time": 1, "memory_kib": 8, "threads": 1}
		}, "", []string{"secret", "show", "mitm/dns"}},
		"another login ID":           {"login/challenge", func(d map[string]any) { d["login_id"] = strings.Repeat("ab", 16) }, "", []string{"secret", "show", "mitm/dns"}},
		"a message of a session":     {"session/call", func(d map[string]any) { d["message"] = flip(d["message"].(string)) }, "does not open", []string{"secret", "show", "mitm/dns"}},
		"a status of a session's":    {"session/call", func(d map[string]any) { d["message"] = "" }, "does not open", []string{"secret", "show", "mitm/dns"}},
		"what a login answers":       {"login/finish", func(d map[string]any) { d["message"] = flip(d["message"].(string)) }, "does not open", []string{"secret", "show", "mitm/dns"}},
		"the server's half of login": {"login/start", func(d map[string]any) { d["ke2"] = flip(d["ke2"].(string)) }, "", []string{"secret", "show", "mitm/dns"}},
	} {
		t.Run(what, func(t *testing.T) {
			x.set(c.path, c.change)
			defer x.set("", nil)
			env := []string(nil)
			if c.path == "identities/mitm" {
				env = ada.withToken("") // outside of a session
			}
			r := ada.run(t, env, nil, c.args...)
			if r.Code != 1 || r.Stdout != "" || !strings.Contains(strings.ReplaceAll(r.Stderr, "\n", " "), c.says) || strings.Contains(r.Stderr, "dns token") || x.hits == 0 {
				t.Errorf("exit %d after %d changes, should say %q: %s%s", r.Code, x.hits, c.says, r.Stdout, r.Stderr)
			}
		})
	}
	// A server that puts its own key in a grantee's place is caught by the
	// fingerprint that people compare.
	x.set("authenticators/mitm-other", func(d map[string]any) { d["public"] = map[string]any{"seal": "AQ==", "sign": "AQ=="} })
	if r := ada.run(t, ada.withToken(""), nil, "identity", "grant", "mitm", "mitm-other", "--level", "staff", "--yes"); r.Code != 1 {
		t.Errorf("granted to a key that is none: %s", r.Stdout)
	}
	x.set("", nil)
	if r := ada.run(t, ada.withToken(""), nil, "identity", "grant", "mitm", "mitm-other", "--level", "staff", "--fingerprint", "0000 1111"); r.Code != 1 || !strings.Contains(r.Stderr, "Nothing was granted") {
		t.Errorf("granted to another fingerprint: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	ada.shows(t, "mitm/dns", "dns token")
}

// flip changes one character in the middle of base64 text.
func flip(s string) string {
	if s == "" {
		return "AAAA"
	}
	b := []byte(s)
	if b[len(b)/2] == 'A' {
		b[len(b)/2] = 'B'
	} else {
		b[len(b)/2] = 'A'
	}
	return string(b)
}
