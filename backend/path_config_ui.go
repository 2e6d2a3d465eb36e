package backend

import (
	"context"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Bounds of config/ui.
const (
	minQRPeriod   = time.Second
	maxQRPeriod   = time.Minute
	maxUIOrigins  = 8   // as a policy holds of a passkey
	maxUIAddress  = 512 // bytes
	maxHostLength = 253
)

func (b *backend) pathConfigUI() []*framework.Path {
	answer := map[string]*framework.FieldSchema{
		"public_url": field(framework.TypeString, "How browsers reach Vault; empty where it was never said: then there are no links and no passkeys."),
		"rp_id":      field(framework.TypeString, "Relying party's ID of passkeys; empty where there is no public_url."),
		"origins":    field(framework.TypeStringSlice, "Origins of the pages that may use passkeys."),
		"qr_period":  field(framework.TypeInt64, "How long a form of the moving code is shown, in seconds."),
	}
	write := b.handle("config/ui", scanTimeout, b.configUIWrite)
	return []*framework.Path{{
		Pattern: "config/ui$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "ui-configuration",
		},
		Fields: map[string]*framework.FieldSchema{
			"public_url": {
				Type:         framework.TypeString,
				Description:  "How browsers and phones reach Vault, such as https://vault.example.com:8200: https and a host name, no path. http is taken for localhost only; empty for no page.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Public URL"},
			},
			"rp_id": {
				Type:         framework.TypeString,
				Description:  "Relying party's ID of passkeys: the host of every origin, or a parent domain of all; default the host of public_url.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Relying party ID"},
			},
			"origins": {
				Type:         framework.TypeCommaStringSlice,
				Description:  "Origins of the pages that may use passkeys, up to 8; default that of public_url.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Origins"},
			},
			"qr_period": {
				Type:         framework.TypeDurationSecond,
				Description:  "How long a form of the moving code is shown, 1s to 60s; default 2s.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "QR period", Value: "2s"},
			},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, _ *framework.FieldData) (bool, error) {
			entry, err := b.store.s.Get(ctx, keyUI)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Configure the pages for approvers.", true, write, answer),
			logical.UpdateOperation: b.operation("Configure the pages for approvers.", true, write, answer),
			logical.ReadOperation:   b.operation("Read how browsers reach the pages for approvers.", false, b.handle("config/ui", 0, b.configUIRead), answer),
		},
		HelpSynopsis: "How browsers reach the pages on which people approve.",
		HelpDescription: `
Says how browsers and phones reach Vault, so that links and codes lead to the pages
of this mount, and passkeys can be enrolled there:

  $ vault write mpc/config/ui public_url=https://vault.example.com:8200

Browsers use passkeys on pages of https only, under a name and not an IP address; on
one's own host http://localhost does as well. A passkey belongs to rp_id and works on
pages of the origins, both of which are copied into policies: passkeys that were
enrolled before keep what they were enrolled with. How fast the moving code changes:

  $ vault write mpc/config/ui qr_period=1s

The path needs the sudo capability.
`,
	}}
}

func (b *backend) configUIRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.ui(ctx)
	if err != nil {
		return nil, err
	}
	return uiAnswer(r), nil
}

func uiAnswer(r *uiRecord) *logical.Response {
	return &logical.Response{Data: map[string]any{
		"public_url": r.PublicURL, "rp_id": r.RPID, "origins": append([]string{}, r.Origins...), "qr_period": r.QRPeriod / 1000,
	}}
}

func (b *backend) configUIWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	release, err := b.busy.reserve(keyUI, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.ui(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.set(data); err != nil {
		return nil, err
	}
	r.Version = recordVersion
	if err := b.store.put(ctx, keyUI, r); err != nil {
		return nil, err
	}
	resp := uiAnswer(r)
	others, err := b.otherPasskeys(ctx, r)
	if err != nil {
		resp.AddWarning("it is written, but whether approvers have passkeys of another site could not be read: " + err.Error())
	} else if len(others) > 0 {
		resp.AddWarning("passkeys of these approvers were enrolled for another rp_id or other origins and go on working there only; enrol their devices again, then change the policies that name them: " + shownNames(others))
	}
	return resp, nil
}

// otherPasskeys lists the approvers who have passkeys that pages of this
// configuration cannot use.
func (b *backend) otherPasskeys(ctx context.Context, u *uiRecord) (out []string, err error) {
	names, err := b.store.approverNames(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		r, err := b.store.approver(ctx, name)
		if err != nil {
			return nil, err
		}
		if r != nil && slices.ContainsFunc(r.Keys, func(k approverKeyRecord) bool {
			return k.RPID != "" && (k.RPID != u.RPID || slices.ContainsFunc(u.Origins, func(o string) bool { return !slices.Contains(k.Origins, o) }))
		}) {
			out = append(out, name)
		}
	}
	return out, nil
}

// set takes what was sent. Where public_url changes, what follows from it does too,
// unless it was sent.
func (r *uiRecord) set(data *framework.FieldData) error {
	_, idSent := data.GetOk("rp_id")
	_, originsSent := data.GetOk("origins")
	if v, ok := data.GetOk("public_url"); ok {
		text := ""
		if v := strings.TrimSuffix(v.(string), "/"); v != "" {
			page, err := parseOrigin("public_url", v)
			if err != nil {
				return err
			}
			text = page.text
		}
		if text != r.PublicURL {
			r.PublicURL, r.RPID, r.Origins = text, "", nil
		}
	}
	if idSent {
		r.RPID = data.Get("rp_id").(string)
	}
	if originsSent {
		r.Origins = data.Get("origins").([]string)
	}
	if err := r.setSite(); err != nil {
		return err
	}
	if v, ok := data.GetOk("qr_period"); ok {
		seconds := int64(v.(int))
		if !within(seconds, minQRPeriod, maxQRPeriod) {
			return invalid("qr_period must be 1s to 60s, not %s", shortSeconds(seconds))
		}
		r.QRPeriod = seconds * 1000
	}
	return nil
}

// setSite completes what belongs to public_url, and verifies it. Without one there
// is nothing that could.
func (r *uiRecord) setSite() error {
	if r.PublicURL == "" {
		if r.RPID != "" || len(r.Origins) > 0 {
			return invalid("public_url is missing: how browsers reach Vault, such as https://vault.example.com:8200; rp_id and origins go with it")
		}
		return nil
	}
	page, err := parseOrigin("public_url", r.PublicURL)
	if err != nil {
		return err
	}
	if r.RPID == "" {
		r.RPID = page.host
	}
	if len(r.Origins) == 0 {
		r.Origins = []string{page.text}
	}
	return r.checkSite(page)
}

// checkSite verifies what browsers will: that pages of the origins may use the
// relying party's ID (WebAuthn Level 3, section 5.1.3, step 8).
func (r *uiRecord) checkSite(page origin) error {
	if !hostName.MatchString(r.RPID) || len(r.RPID) > maxHostLength || isAddress(r.RPID) {
		return invalid("rp_id %q is not a domain: it is a name such as vault.example.com or example.com, in lower case, without scheme and port", clip(r.RPID))
	}
	if len(r.Origins) > maxUIOrigins {
		return invalid("%d origins, more than %d", len(r.Origins), maxUIOrigins)
	}
	var all []string
	for _, text := range r.Origins {
		o, err := parseOrigin("origin", text)
		if err != nil {
			return err
		}
		if r.RPID != o.host && (!strings.HasSuffix(o.host, "."+r.RPID) || !strings.Contains(r.RPID, ".")) {
			return invalid("rp_id %q is neither the host of origin %s nor a parent domain of it: browsers would refuse passkeys there. Nothing was changed; name the origins' common domain, or leave rp_id out", clip(r.RPID), o.text)
		}
		if slices.Contains(all, o.text) {
			return invalid("origin %s is there twice", o.text)
		}
		all = append(all, o.text)
	}
	if !slices.Contains(all, page.text) {
		return invalid("the origin of public_url, %s, is not among origins: nobody could use a passkey on the pages of this mount. Nothing was changed; add it", page.text)
	}
	r.Origins = all
	return nil
}

// origin is scheme, host and port as a browser writes them.
type origin struct{ text, host string }

// hostName is one or more labels of letters, digits and dashes. Names in other
// scripts are written as browsers send them (xn--…).
var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`) // read only

// isAddress: also 127.1 and 0x7f.1, which browsers read as addresses: all that has a
// number for a last label (URL Standard, section 3.5).
func isAddress(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	return net.ParseIP(host) != nil || numeric.MatchString(last)
}

var numeric = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`) // read only

// parseOrigin takes https and a name, or http and localhost.
func parseOrigin(what, text string) (origin, error) {
	u, err := url.Parse(text)
	switch {
	case len(text) > maxUIAddress:
		return origin{}, invalid("%s has more than %d bytes", what, maxUIAddress)
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return origin{}, invalid("%s must be such as https://vault.example.com:8200", what)
	case u.User != nil:
		return origin{}, invalid("%s must not hold a user name or password", what)
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery || strings.ContainsAny(text, "?#"):
		return origin{}, invalid("%s must be scheme, host and port only, such as https://vault.example.com:8200: no path and nothing behind it", what)
	}
	scheme, host, port := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()
	switch {
	case net.ParseIP(host) != nil || isAddress(host):
		return origin{}, invalid("%s names the IP address %s, and browsers use passkeys under a host name only: use a name, or http://localhost on one's own host", what, clip(host))
	case !hostName.MatchString(host) || len(host) > maxHostLength:
		return origin{}, invalid("%s: %q is not a host name; write names in other scripts as xn--…", what, clip(host))
	case scheme != "https" && (scheme != "http" || host != "localhost"):
		return origin{}, invalid("%s must begin with https://: browsers use passkeys on encrypted pages only, and on http://localhost", what)
	case strings.HasSuffix(u.Host, ":"):
		return origin{}, invalid("%s has a colon without a port", what)
	}
	if port != "" {
		if n, ok := portNumber(port); !ok {
			return origin{}, invalid("%s: port %q is not a number of 1 to 65535", what, clip(port))
		} else if scheme == "https" && n == 443 || scheme == "http" && n == 80 {
			port = "" // as browsers write it
		}
	}
	o := origin{text: scheme + "://" + host, host: host}
	if port != "" {
		o.text += ":" + port
	}
	return o, nil
}

// portNumber reads 1 to 65535 without leading zeros.
func portNumber(s string) (int, bool) {
	n := 0
	for _, c := range s {
		if c < '0' || c > '9' || n > 65535 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, n >= 1 && n <= 65535 && s[0] != '0'
}
