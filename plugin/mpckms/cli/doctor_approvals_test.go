package cli

import (
	"net/http"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/plugin/mpckms/doctor"
)

// The pages for approvers: what is said of them, and how it is mended.
func TestDoctorApprovals(t *testing.T) {
	all := `{"allowed_response_headers":["` + strings.ToLower(strings.Join(pageHeaders, `","`)) + `"]}`
	page := func(headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Vault-Token") != "" {
				t.Error("the page was asked for with a token")
			}
			for _, h := range headers {
				w.Header().Set(h, "x")
			}
		}
	}
	for _, test := range []struct {
		name, url, tuned string // url "" is the fake server's
		page             http.HandlerFunc
		check            string
		result           doctor.Result
		says             string
	}{
		{"good", "", all, page(pageHeaders...), "page", doctor.OK, "with all its headers"},
		{"tuned", "", all, page(pageHeaders...), "headers", doctor.OK, "lets the pages' headers through"},
		{"not tuned", "", `{"allowed_response_headers":["Cache-Control"]}`, page("Cache-Control"), "headers", doctor.Warning, "vault secrets tune -allowed-response-headers=Content-Security-Policy"},
		{"headers lost on the way", "", all, page(pageHeaders[1:]...), "page", doctor.Warning, "without the headers Content-Security-Policy"},
		{"another page", "", all, fails(404), "page", doctor.Problem, "status 404"},
		{"nobody there", "http://localhost:1", all, page(), "page", doctor.Warning, "does not reach"},
		{"not https", "http://vault.example.com", all, page(), "public_url", doctor.Problem, "neither https"},
		{"this host", "http://localhost:1", all, page(), "public_url", doctor.OK, "localhost"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := healthy(t)
			url := test.url
			if url == "" {
				url = s.URL
			}
			s.on("GET mpc/config/ui", data(`{"public_url":"`+url+`","rp_id":"localhost","origins":["`+url+`"],"qr_period":2}`))
			s.on("GET mpc/ui/phone", test.page)
			s.on("GET sys/mounts/mpc/tune", data(test.tuned))
			_, doc := examineWith(t)
			f := finding(t, doc, areaApprovals, test.check)
			if f.Result != test.result || !strings.Contains(f.Says+"\n"+f.Mend, test.says) {
				t.Errorf("%s: %s\n%s\nwant %s with %q", f.Result, f.Says, f.Mend, test.result, test.says)
			}
		})
	}
	s := healthy(t)
	s.on("GET mpc/config/ui", fails(403, "permission denied"))
	_, doc := examineWith(t)
	if f := finding(t, doc, areaApprovals, "pages"); f.Result != doctor.NotChecked {
		t.Errorf("%+v", f)
	}
}
