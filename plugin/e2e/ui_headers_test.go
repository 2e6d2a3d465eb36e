//go:build e2e

package e2e_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/ui"
)

// TestPagesThroughVault: pages arrive as they are, without a token, and with their
// headers once the mount lets these through.
func TestPagesThroughVault(t *testing.T) {
	v := harness.Shared(t)
	v.Enable(t, "pages")
	get := func(file string) (*http.Response, string) {
		t.Helper()
		resp, err := http.Get(v.Addr + "/v1/pages/ui/" + file)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	for _, file := range []string{ui.Show, ui.Phone, "app.css", "icon.svg", "phone.js", "qr/index.js", "qr/decode.js"} {
		want, contentType, _ := ui.Page(file)
		resp, body := get(file)
		if resp.StatusCode != http.StatusOK || body != string(want) || resp.Header.Get("Content-Type") != contentType {
			t.Errorf("%s: status %d, type %q, %d bytes of %d", file, resp.StatusCode, resp.Header.Get("Content-Type"), len(body), len(want))
		}
		if cache := resp.Header.Get("Cache-Control"); cache != "no-store" {
			t.Errorf("%s: Cache-Control %q", file, cache)
		}
	}
	if resp, _ := get("nothing.js"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a file that there is not: %d", resp.StatusCode)
	}
	args := []string{"secrets", "tune"}
	for header := range ui.Headers() {
		args = append(args, "-allowed-response-headers="+header)
	}
	if result := v.CLI(t, append(args, "pages")...); result.Code != 0 {
		t.Fatalf("tuning: %+v", result)
	}
	resp, _ := get(ui.Phone)
	for header, want := range ui.Headers() {
		if got := resp.Header.Get(header); got != strings.Join(want, ", ") {
			t.Errorf("%s is %q, want %q", header, got, want)
		}
	}
}
