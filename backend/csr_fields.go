package backend

import (
	"crypto/x509"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/framework"
)

// Bounds on the values of a certificate request. Those of names are the upper
// bounds of RFC 5280, appendix A.1, in characters.
const (
	maxCommonName   = 64
	maxOrganization = 64 // ub-organization-name and ub-organizational-unit-name
	maxLocality     = 128
	maxProvince     = 128 // ub-state-name
	maxEmail        = 254 // bytes; RFC 5321, errata 1690
	maxEmailLocal   = 64  // bytes before the @
	maxDNSName      = 253 // RFC 1035 §2.3.4 without the root
	maxDNSLabel     = 63
	maxAltURI       = 2048
	maxAltNames     = 128 // of all kinds together
	maxSubjectParts = 8   // values of one kind in the subject
)

// parseCSRFields returns what the request is made from, and what was left out of
// it.
func parseCSRFields(data *framework.FieldData) (*x509.CertificateRequest, []string, error) {
	if text, sent := data.GetOk("csr"); sent {
		for name := range data.Raw {
			if _, ours := data.Schema[name]; ours && name != "csr" && name != "name" {
				return nil, nil, invalid("csr takes the place of the other fields: leave out %s, or csr", name)
			}
		}
		return parseTemplate(text.(string))
	}
	r := &x509.CertificateRequest{}
	s := &r.Subject
	if text, sent := data.GetOk("common_name"); sent {
		s.CommonName = text.(string)
		if err := checkText("common_name", s.CommonName, maxCommonName); err != nil {
			return nil, nil, err
		}
	}
	for _, part := range []struct {
		field string
		most  int // characters
		into  *[]string
	}{
		{"organization", maxOrganization, &s.Organization},
		{"organizational_unit", maxOrganization, &s.OrganizationalUnit},
		{"country", 2, &s.Country},
		{"locality", maxLocality, &s.Locality},
		{"province", maxProvince, &s.Province},
	} {
		values, _ := data.Get(part.field).([]string)
		if len(values) > maxSubjectParts {
			return nil, nil, invalid("%s has %d values, at most %d are allowed", part.field, len(values), maxSubjectParts)
		}
		for _, v := range values {
			if err := checkText(part.field, v, part.most); err != nil {
				return nil, nil, err
			}
			if part.field == "country" && !isCountry(v) {
				return nil, nil, invalid("country %q is not two capital letters of ISO 3166, as in DE or US", clip(v))
			}
		}
		*part.into = values
	}
	if err := addAltNames(r, data); err != nil {
		return nil, nil, err
	}
	if s.CommonName == "" && !hasNames(r) {
		return nil, nil, invalid("the request names nobody: send common_name, alt_names, ip_sans or uri_sans, or a template as csr")
	}
	return r, nil, nil
}

// addAltNames reads alt_names, ip_sans and uri_sans.
func addAltNames(r *x509.CertificateRequest, data *framework.FieldData) error {
	names, _ := data.Get("alt_names").([]string)
	ips, _ := data.Get("ip_sans").([]string)
	uris, _ := data.Get("uri_sans").([]string)
	if n := len(names) + len(ips) + len(uris); n > maxAltNames {
		return invalid("%d alternative names, at most %d are allowed", n, maxAltNames)
	}
	for _, name := range names {
		switch {
		case strings.Contains(name, "@"):
			if !isEmail(name) {
				return invalid("alt_names: %q is not an e-mail address of the form name@example.com", clip(name))
			}
			r.EmailAddresses = append(r.EmailAddresses, name)
		case isIP(name):
			return invalid("alt_names: %q is an IP address: send it in ip_sans", clip(name))
		case !isDNSName(name, true):
			return invalid("alt_names: %q is neither a DNS name (letters, digits and dashes between dots, a first label * allowed, other scripts as xn--…) nor an e-mail address", clip(name))
		default:
			r.DNSNames = append(r.DNSNames, name)
		}
	}
	for _, text := range ips {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" {
			return invalid("ip_sans: %q is not an IP address", clip(text))
		}
		r.IPAddresses = append(r.IPAddresses, net.IP(ip.Unmap().AsSlice()))
	}
	for _, text := range uris {
		u, ok := parseURI(text)
		if !ok {
			return invalid("uri_sans: %q is not a URI with a scheme, as in spiffe://example.org/web", clip(text))
		}
		r.URIs = append(r.URIs, u)
	}
	return nil
}

// checkText takes 1 to most characters, none of them a control character.
func checkText(field, s string, most int) error {
	switch {
	case s == "" || strings.TrimSpace(s) != s:
		return invalid("%s %q is empty or has spaces around it: leave the field out, or send the text alone", field, clip(s))
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return invalid("%s has control characters or is not UTF-8", field)
	case utf8.RuneCountInString(s) > most:
		return invalid("%s has %d characters, at most %d are allowed (RFC 5280)", field, utf8.RuneCountInString(s), most)
	}
	return nil
}

func isCountry(s string) bool {
	return len(s) == 2 && s[0] >= 'A' && s[0] <= 'Z' && s[1] >= 'A' && s[1] <= 'Z'
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// isDNSName takes the preferred syntax of RFC 1034 §3.5 as RFC 1123 §2.1 widens
// it, without a dot at the end; with wildcard also * as the whole first label
// (RFC 6125 §6.4.3).
func isDNSName(s string, wildcard bool) bool {
	if len(s) > maxDNSName {
		return false
	}
	labels := strings.Split(s, ".")
	if wildcard && len(labels) > 1 && labels[0] == "*" {
		labels = labels[1:]
	}
	for _, label := range labels {
		if label == "" || len(label) > maxDNSLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
				return false
			}
		}
	}
	return true
}

// isEmail takes an address of RFC 5280 §4.2.1.6: ASCII, without a display name
// or comments, with a DNS name after the @.
func isEmail(s string) bool {
	at := strings.LastIndexByte(s, '@')
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && a.Name == "" && len(s) <= maxEmail && at <= maxEmailLocal &&
		isASCII(s) && isDNSName(s[at+1:], false)
}

// parseURI takes an absolute URI of RFC 3986; where it has an authority, with a
// DNS name or an IP address as its host (RFC 5280 §4.2.1.6).
func parseURI(s string) (*url.URL, bool) {
	if len(s) > maxAltURI || !isASCII(s) {
		return nil, false
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || (u.Host == "" && u.Opaque == "" && u.Path == "") || u.String() != s {
		return nil, false
	}
	if h := u.Hostname(); h != "" && !isIP(h) && !isDNSName(h, false) {
		return nil, false
	}
	return u, true
}

// isASCII takes printable ASCII without spaces.
func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
