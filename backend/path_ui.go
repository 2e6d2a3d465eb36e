package backend

import (
	"context"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/ui"
)

// pathUI serves the pages for approvers to browsers, which bring no token: there is
// nothing in them that is not in this repository.
func (b *backend) pathUI() []*framework.Path {
	read := b.operation("Get a page, or a file that a page needs.", false, b.handle("ui", 0, b.uiRead), nil)
	read.Responses = map[int][]framework.Response{
		http.StatusOK: {{Description: "The file.", MediaType: "text/html", Example: &logical.Response{Data: map[string]any{
			"text": "<!doctype html>",
		}}}},
	}
	return []*framework.Path{{
		Pattern: "ui/(?P<file>.+)$",
		Fields: map[string]*framework.FieldSchema{
			"file": {
				Type:         framework.TypeString,
				Description:  "show, phone, or a file that they load.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "File", Identifier: true},
			},
		},
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "page",
		},
		Operations:   map[logical.Operation]framework.OperationHandler{logical.ReadOperation: read},
		HelpSynopsis: "The pages for people who approve.",
		HelpDescription: strings.TrimLeft(`
mpc/ui/show has the moving code of a request and its progress; mpc/ui/phone is an
approver's device in a browser. Both are opened by links that other paths answer
with, and need no token: they are the same for everybody, and what they call is
authenticated by itself.

  $ curl --silent --fail "$VAULT_ADDR/v1/mpc/ui/phone"

Browsers get the pages' security headers once the mount lets them through:

  $ vault secrets tune -allowed-response-headers=Content-Security-Policy -allowed-response-headers=X-Content-Type-Options -allowed-response-headers=X-Frame-Options -allowed-response-headers=Referrer-Policy -allowed-response-headers=Permissions-Policy mpc

Without that the pages still have their Content-Security-Policy, in a meta tag, and
show nothing inside another page's frame.
`, "\n"),
	}}
}

func (b *backend) uiRead(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get("file").(string)
	body, contentType, ok := ui.Page(name)
	if !ok {
		return nil, unknown("there is no page %q; there are ui/%s and ui/%s", clip(name), ui.Show, ui.Phone)
	}
	return &logical.Response{
		Headers: ui.Headers(),
		Data: map[string]any{
			logical.HTTPContentType:        contentType,
			logical.HTTPRawBody:            body, // bytes: Vault decodes text that parses as base64
			logical.HTTPStatusCode:         http.StatusOK,
			logical.HTTPCacheControlHeader: "no-store",
		},
	}, nil
}
