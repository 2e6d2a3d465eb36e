package backend

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestConfigUI(t *testing.T) {
	m := configured(t)
	got := m.must(logical.ReadOperation, "config/ui", nil)
	if got["public_url"] != "" || got["rp_id"] != "" || got["qr_period"] != int64(2) || len(got["origins"].([]string)) != 0 {
		t.Errorf("defaults are %v", got)
	}
	if p := m.testUI().page("mpc/", "phone"); p != "mpc:" {
		t.Errorf("without a page links begin with %q", p)
	}
	for _, c := range []struct {
		in      map[string]any
		url, rp string
		origins []string
		period  int64
	}{
		{map[string]any{"public_url": "https://vault.example.com:8200/"}, "https://vault.example.com:8200", "vault.example.com", []string{"https://vault.example.com:8200"}, 2},
		{map[string]any{"qr_period": "1s"}, "https://vault.example.com:8200", "vault.example.com", []string{"https://vault.example.com:8200"}, 1},
		{map[string]any{"rp_id": "example.com", "origins": "https://vault.example.com:8200,https://a.example.com"}, "https://vault.example.com:8200", "example.com", []string{"https://vault.example.com:8200", "https://a.example.com"}, 1},
		// What followed from the old address goes with it.
		{map[string]any{"public_url": "HTTPS://Other.Example.org:443", "qr_period": 60}, "https://other.example.org", "other.example.org", []string{"https://other.example.org"}, 60},
		{map[string]any{"public_url": "http://localhost:8200"}, "http://localhost:8200", "localhost", []string{"http://localhost:8200"}, 60},
		// No page; the period is for mpckms as well.
		{map[string]any{"public_url": ""}, "", "", nil, 60},
		{map[string]any{"qr_period": "5s"}, "", "", nil, 5},
		{map[string]any{"public_url": "https://vault", "qr_period": 60}, "https://vault", "vault", []string{"https://vault"}, 60},
	} {
		got := m.must(logical.UpdateOperation, "config/ui", c.in)
		if got["public_url"] != c.url || got["rp_id"] != c.rp || !slices.Equal(got["origins"].([]string), c.origins) || got["qr_period"] != c.period {
			t.Errorf("%v: %v", c.in, got)
		}
		if again := m.must(logical.ReadOperation, "config/ui", nil); again["rp_id"] != c.rp {
			t.Errorf("%v: read %v", c.in, again)
		}
	}
	if p := m.testUI().page("team/mpc/", "show"); p != "https://vault/v1/team/mpc/ui/show" {
		t.Errorf("the page is %q", p)
	}
}

// TestConfigUIRefuses: nothing is stored that browsers would refuse later.
func TestConfigUIRefuses(t *testing.T) {
	m := configured(t)
	m.fails(logical.UpdateOperation, "config/ui", map[string]any{"rp_id": "example.com"}, http.StatusBadRequest, "public_url is missing")
	m.fails(logical.UpdateOperation, "config/ui", map[string]any{"origins": "https://example.com"}, http.StatusBadRequest, "public_url is missing")
	for _, c := range []struct{ url, text string }{
		{"http://vault.example.com", "must begin with https"},
		{"http://127.0.0.1:8200", "IP address"},
		{"https://127.0.0.1:8200", "http://localhost"},
		{"https://[::1]:8200", "IP address"},
		{"https://10.1", "IP address"},
		{"https://0x7f.1", "IP address"},
		{"http://localhost.example.com", "must begin with https"},
		{"https://vault.example.com/vault", "no path"},
		{"https://vault.example.com?", "no path"},
		{"https://vault.example.com#", "no path"},
		{"https://user:pw@vault.example.com", "user name or password"},
		{"vault.example.com", "must be such as"},
		{"https://", "must be such as"},
		{"https://vault.example.com:", "without a port"},
		{"https://vault.example.com:0", "is not a number"},
		{"https://vault.example.com:70000", "is not a number"},
		{"https://vau_lt.example.com", "is not a host name"},
		{"https://väult.example.com", "is not a host name"},
		{"https://vault.example.com.", "is not a host name"},
		{"ftp://vault.example.com", "must begin with https"},
		{"javascript:alert(1)", "must be such as"},
		{"https://vault.example.com" + strings.Repeat("a", 600), "more than"},
	} {
		m.fails(logical.UpdateOperation, "config/ui", map[string]any{"public_url": c.url}, http.StatusBadRequest, c.text)
	}
	const url = "https://vault.example.com"
	for _, c := range []struct {
		in   map[string]any
		text string
	}{
		{map[string]any{"rp_id": "other.com"}, "neither the host"},
		{map[string]any{"rp_id": "ault.example.com"}, "neither the host"},
		{map[string]any{"rp_id": "com"}, "neither the host"},
		{map[string]any{"rp_id": "a.vault.example.com"}, "neither the host"},
		{map[string]any{"rp_id": "https://vault.example.com"}, "is not a domain"},
		{map[string]any{"rp_id": "Vault.example.com"}, "is not a domain"},
		{map[string]any{"origins": "https://other.com"}, "neither the host"},
		{map[string]any{"origins": "https://vault.example.com:8443"}, "not among origins"},
		{map[string]any{"origins": url + "," + url}, "twice"},
		{map[string]any{"origins": url + ",http://a.vault.example.com"}, "must begin with https"},
		{map[string]any{"origins": slices.Repeat([]string{url}, 9)}, "more than 8"},
		{map[string]any{"qr_period": 0}, "1s to 60s"},
		{map[string]any{"qr_period": "61s"}, "1s to 60s"},
		{map[string]any{"qr_period": -5}, "must be a duration"},
		{map[string]any{"page": "x"}, "unknown field"},
	} {
		c.in["public_url"] = url
		m.fails(logical.UpdateOperation, "config/ui", c.in, http.StatusBadRequest, c.text)
	}
	if got := m.must(logical.ReadOperation, "config/ui", nil); got["public_url"] != "" {
		t.Errorf("something was stored: %v", got)
	}
}

// TestConfigUIWarns: passkeys stay with the site that they were made for.
func TestConfigUIWarns(t *testing.T) {
	m := approvable(t)
	m.newPhone().enrols("alice")
	resp, status, _ := m.do(logical.UpdateOperation, "config/ui", map[string]any{"qr_period": "3s"})
	if status != http.StatusOK || len(resp.Warnings) != 0 {
		t.Errorf("%d %v", status, resp.Warnings)
	}
	resp, status, _ = m.do(logical.UpdateOperation, "config/ui", map[string]any{"public_url": "https://new.example.com"})
	if status != http.StatusOK || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "alice") {
		t.Errorf("%d %v", status, resp.Warnings)
	}
}

func FuzzOrigin(f *testing.F) {
	f.Add("https://vault.example.com:8200")
	f.Add("http://localhost")
	f.Add("https://[::1]:1")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parseOrigin("origin", text)
		if err != nil {
			return
		}
		again, err := parseOrigin("origin", o.text)
		if err != nil || again != o {
			t.Errorf("%q becomes %q, which becomes %q: %v", text, o.text, again.text, err)
		}
		if !strings.HasPrefix(o.text, "https://") && o.host != "localhost" {
			t.Errorf("%q is taken", text)
		}
	})
}
