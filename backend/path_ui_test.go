package backend

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/ui"
)

func TestPagesAreServedRaw(t *testing.T) {
	m := configured(t)
	for name, contentType := range map[string]string{
		ui.Show: "text/html; charset=utf-8", ui.Phone: "text/html; charset=utf-8", "app.css": "text/css; charset=utf-8", "qr/decode.js": "text/javascript; charset=utf-8",
	} {
		resp, status, msg := m.do(logical.ReadOperation, "ui/"+name, nil)
		if status != http.StatusOK || resp == nil {
			t.Fatalf("ui/%s: %d %s", name, status, msg)
		}
		want, _, _ := ui.Page(name)
		body, isBytes := resp.Data[logical.HTTPRawBody].([]byte)
		if !isBytes || !slices.Equal(body, want) {
			t.Errorf("ui/%s: the body is not the file's bytes", name)
		}
		if resp.Data[logical.HTTPContentType] != contentType || resp.Data[logical.HTTPStatusCode] != http.StatusOK {
			t.Errorf("ui/%s: type %v, status %v", name, resp.Data[logical.HTTPContentType], resp.Data[logical.HTTPStatusCode])
		}
		csp := strings.Join(resp.Headers["Content-Security-Policy"], " ")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || resp.Headers["X-Content-Type-Options"][0] != "nosniff" {
			t.Errorf("ui/%s: headers %v", name, resp.Headers)
		}
	}
	m.fails(logical.ReadOperation, "ui/nothing.js", nil, http.StatusNotFound, "there is no page")
	m.fails(logical.ReadOperation, "ui/qr/../show", nil, http.StatusNotFound, "there is no page")
	m.fails(logical.UpdateOperation, "ui/show", nil, http.StatusMethodNotAllowed, "")
}

// TestPagesNeedNoToken: browsers bring none, and nothing else loses its token by it.
func TestPagesNeedNoToken(t *testing.T) {
	open := inert(t).PathsSpecial.Unauthenticated
	if !slices.Contains(open, "ui/*") {
		t.Errorf("without a token: %v", open)
	}
}
