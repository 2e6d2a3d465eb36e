package backend

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// pathUnknown answers what no other path takes. Vault's own answer would be
// "unsupported path".
func (b *backend) pathUnknown() []*framework.Path {
	answer := func(data *framework.FieldData) error {
		return unknown("there is no path %q here; paths are %s: see vault path-help <mount>",
			clip(data.Get("path").(string)), strings.Join(pathNames(b.Paths), ", "))
	}
	// b.handle would refuse fields first, and all fields are unknown here.
	handler := func(_ context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		started := time.Now()
		resp, err := b.translate("unknown path", answer(data))
		b.metrics.answered("unknown path", req, time.Since(started), resp, err)
		return resp, err
	}
	operations := map[logical.Operation]framework.OperationHandler{}
	for _, op := range []logical.Operation{logical.ReadOperation, logical.ListOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation} {
		operations[op] = &framework.PathOperation{Callback: handler, Summary: "Answers 404.", Unpublished: true}
	}
	return []*framework.Path{{
		Pattern: "(?P<path>.*)",
		Fields: map[string]*framework.FieldSchema{
			"path": {Type: framework.TypeString, Description: "Any path."},
		},
		DisplayAttrs:        &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "unknown-path"},
		TakesArbitraryInput: true,
		Operations:          operations,
		HelpSynopsis:        "Answers 404 for paths that do not exist.",
		HelpDescription: `
Everything that is not a path of this engine. To see the paths there are:

  $ vault path-help mpc

A first account: vault write mpc/accounts/alice algorithm=bip340-secp256k1
`,
	}}
}

// capture is a part of a pattern that takes a name: (?P<name>[^/]+), without
// parentheses inside.
var capture = regexp.MustCompile(`\(\?P<(\w+)>[^()]*\)`) // read only

// pathName is a path as people write it: accounts/:name/derive.
func pathName(p *framework.Path) string {
	// The framework anchors patterns when it compiles them.
	s := strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(p.Pattern, "^"), "$"), "?")
	return capture.ReplaceAllString(s, ":$1")
}

// pathNames lists the paths that there are, configuration first.
func pathNames(paths []*framework.Path) (names []string) {
	for _, p := range paths {
		if !p.TakesArbitraryInput { // not this one
			names = append(names, pathName(p))
		}
	}
	return names
}
