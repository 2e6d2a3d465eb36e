package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const areaApprovals = "approvals"

// pageHeaders are what the pages for approvers answer with. Vault passes a plugin's
// headers on only where the mount names them; without them the pages' own policy, in a
// tag, still holds.
var pageHeaders = []string{"Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Permissions-Policy", "Cache-Control"} // read only

// pageTimeout bounds the look at the page.
const pageTimeout = 5 * time.Second

// uiSettings are those of config/ui.
type uiSettings struct {
	PublicURL string   `json:"public_url"`
	RPID      string   `json:"rp_id"`
	Origins   []string `json:"origins"`
}

// examineApprovals looks at the pages for approvers, and whether accounts' policies can
// be kept.
func (x *examination) examineApprovals() {
	ui := &uiSettings{}
	_, err := x.ask(request{path: "config/ui"}, ui)
	x.examinePages(ui, err)
	if missing(err) {
		return
	}
	if err != nil {
		ui = nil
	}
	x.examinePolicies(ui)
}

// examinePages looks at how the pages are reached, and whether their headers get
// through. Without config/ui there are none, and codes are for mpckms alone. err is
// that of reading config/ui.
func (x *examination) examinePages(ui *uiSettings, err error) {
	a := x.report.In(areaApprovals)
	switch {
	case missing(err):
		a.Skip("pages", "the engine there knows no approvals")
		return
	case err != nil:
		skip(a, "pages", err)
		return
	case ui.PublicURL == "":
		a.OK("pages", "none: config/ui has no public_url, so that codes are for mpckms and nobody has a passkey")
		return
	}
	mend := fmt.Sprintf("vault write %s/config/ui public_url=https://…", x.client.mount)
	u, err := url.Parse(ui.PublicURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && localHost(u.Hostname())) {
		a.Problem("public_url", fmt.Sprintf("%s is neither https nor of this host: browsers have no passkeys there", ui.PublicURL), mend)
		return
	}
	a.OK("public_url", fmt.Sprintf("%s, passkeys for %s on %s", ui.PublicURL, ui.RPID, strings.Join(ui.Origins, ", ")))
	x.examinePage(strings.TrimSuffix(ui.PublicURL, "/")+"/v1/"+x.client.mount+"/ui/phone", mend)
	x.examineHeaders()
}

func localHost(name string) bool {
	ip := net.ParseIP(name)
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || ip != nil && ip.IsLoopback()
}

// examinePage fetches the phone's page as a browser does. That this machine does not
// reach it need not mean that phones do not.
func (x *examination) examinePage(page, mend string) {
	a := x.report.In(areaApprovals)
	ctx, cancel := context.WithTimeout(x.ctx, pageTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		a.Problem("page", brief(err), mend)
		return
	}
	client, err := webClient() // trusts what VAULT_CACERT names as well
	if err != nil {
		a.Skip("page", brief(err))
		return
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		a.Warn("page", fmt.Sprintf("this machine does not reach %s: %s", page, brief(err)), "See that phones do, and trust its certificate; or: "+mend)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		a.Problem("page", fmt.Sprintf("%s answers with status %d: it is not this mount's page", page, resp.StatusCode), mend)
		return
	}
	var lacks []string
	for _, h := range pageHeaders {
		if resp.Header.Get(h) == "" {
			lacks = append(lacks, h)
		}
	}
	if len(lacks) > 0 {
		a.Warn("page", fmt.Sprintf("%s is there, without the headers %s", page, strings.Join(lacks, ", ")), x.tuneHeaders())
		return
	}
	a.OK("page", page+" is there, with all its headers")
}

// tuneHeaders is the command that lets the headers through. Tuning replaces the list.
func (x *examination) tuneHeaders() string {
	return "vault secrets tune -allowed-response-headers=" + strings.Join(pageHeaders, " -allowed-response-headers=") + " " + x.client.mount
}

// examineHeaders looks at how the mount is tuned.
func (x *examination) examineHeaders() {
	a := x.report.In(areaApprovals)
	var tuned struct {
		Allowed []string `json:"allowed_response_headers"`
	}
	if _, err := x.ask(request{sys: true, path: "sys/mounts/" + x.client.mount + "/tune"}, &tuned); err != nil {
		skip(a, "headers", err)
		return
	}
	var lacks []string
	for _, h := range pageHeaders {
		if !slices.ContainsFunc(tuned.Allowed, func(have string) bool { return strings.EqualFold(have, h) }) {
			lacks = append(lacks, h)
		}
	}
	if len(lacks) > 0 {
		a.Warn("headers", "the mount keeps back what the pages answer with: "+strings.Join(lacks, ", "), x.tuneHeaders())
		return
	}
	a.OK("headers", "the mount lets the pages' headers through")
}
