package backend

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
)

// TestAuditFields: docs/audit.md decides about every field that can be sent, and
// names only fields that there are. A new field needs a thought: whether it may
// stand in an audit log in clear.
func TestAuditFields(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "docs", "audit.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(raw), "\\\n", "") // continuation lines
	list := func(flag string) []string {
		m := regexp.MustCompile(flag + `=%s ' ([^)]+)\)`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("docs/audit.md does not say %s", flag)
		}
		return strings.Fields(m[1])
	}
	clearRequest, clearResponse := list("-audit-non-hmac-request-keys"), list("-audit-non-hmac-response-keys")
	var hashed []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*`) \\|").FindAllStringSubmatch(text, -1) {
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[1], -1) {
			hashed = append(hashed, m[1])
		}
	}
	requests, responses := map[string]*framework.FieldSchema{}, map[string]bool{}
	for _, p := range published(inert(t)) {
		for name, f := range p.Fields {
			if !captured(p, name) {
				requests[name] = f
			}
		}
		for _, h := range p.Operations {
			for _, rs := range h.Properties().Responses {
				for _, r := range rs {
					for name := range r.Fields {
						responses[name] = true
					}
				}
			}
		}
	}
	for name, f := range requests {
		shown, kept := slices.Contains(clearRequest, name), slices.Contains(hashed, name)
		if shown == kept {
			t.Errorf("docs/audit.md: field %s in clear: %v, hashed: %v; decide", name, shown, kept)
		}
		if shown && f.DisplayAttrs != nil && f.DisplayAttrs.Sensitive {
			t.Errorf("docs/audit.md shows %s, which is secret", name)
		}
	}
	for _, name := range append(slices.Clone(clearRequest), hashed...) {
		if requests[name] == nil {
			t.Errorf("docs/audit.md names %s, which no path takes", name)
		}
	}
	for _, name := range clearResponse {
		// A key in signers, and two in grants: Vault goes by the innermost.
		if !responses[name] && !slices.Contains([]string{"node", "level", "authenticator"}, name) {
			t.Errorf("docs/audit.md names %s, which no path answers", name)
		}
		if slices.Contains([]string{"signature", "signature_hex", "r", "s", "v", "digest", "batch_results", "key_info", "bundle", "jwk_json", "csr"}, name) {
			t.Errorf("docs/audit.md shows %s of answers", name)
		}
	}
}
