// Package ui holds the pages for people who approve, as files: "show" with the
// moving code of a request, and "phone", an approver's device in a browser.
//
// Everything that a browser loads is here: the sources in src are served as they
// are, without a build step, and so is the QR library in third_party. Nothing is
// loaded from elsewhere. The border: this package knows names, types and headers of
// the files; who serves them, and the API that they call, is the backend's.
//
// src/approval.js is a mirror of package mpc/approval, and src/json.js with
// src/eip712.js of mpc/eip712. Shared vectors and random documents hold them to
// that; see plugin/e2e.
package ui

import (
	"embed"
	"path"
	"strings"
)

// Files are all files that the pages are made of, with the licences of third-party
// code: src/<file> and third_party/qr/<file>.
//
//go:embed src third_party/qr
var Files embed.FS

// The two pages, by the names under which they are asked for.
const (
	Show  = "show"
	Phone = "phone"
)

// Policy is the Content-Security-Policy of both pages. Each has it in a meta tag; as
// a header it counts for framing, too.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"

// Page returns a page or another file and its content type. name is what stands
// behind ui/ in the address: "show", "phone", "app.css" or "qr/decode.js". ok is
// false for names that there are not.
func Page(name string) (body []byte, contentType string, ok bool) {
	file := path.Join("src", name)
	switch {
	case name != path.Clean(name): // no second name for anything
		return nil, "", false
	case name == Show || name == Phone:
		file += ".html"
	case path.Ext(name) == ".html":
		return nil, "", false
	case strings.HasPrefix(name, "qr/"):
		file = path.Join("third_party", name)
	}
	contentType, ok = types()[path.Ext(file)]
	if !ok {
		return nil, "", false
	}
	body, err := Files.ReadFile(file)
	return body, contentType, err == nil
}

func types() map[string]string {
	return map[string]string{
		".html": "text/html; charset=utf-8",
		".js":   "text/javascript; charset=utf-8",
		".css":  "text/css; charset=utf-8",
		".svg":  "image/svg+xml",
	}
}

// Headers go with every file. Vault passes them on to browsers once they are named
// in the mount's allowed_response_headers.
func Headers() map[string][]string {
	return map[string][]string{
		"Content-Security-Policy": {Policy + "; frame-ancestors 'none'"},
		"X-Content-Type-Options":  {"nosniff"},
		"X-Frame-Options":         {"DENY"},
		"Referrer-Policy":         {"no-referrer"},
		"Permissions-Policy":      {"camera=(self), publickey-credentials-create=(self), publickey-credentials-get=(self)"},
		"Cache-Control":           {"no-store"},
	}
}
