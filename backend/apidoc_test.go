package backend

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// docs/openapi.json and docs/api.md are made of the path definitions by
// `make api`, and compared with them here.

var updateDocs = flag.Bool("update-docs", false, "rewrite docs/openapi.json and docs/api.md") // read only

func TestAPIDocuments(t *testing.T) {
	b := inert(t)
	for name, text := range map[string][]byte{
		"openapi.json": openAPIDocument(t, b),
		"api.md":       apiReference(t, b),
	} {
		path := filepath.Join("..", "docs", name)
		if *updateDocs {
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(old, text) {
			t.Errorf("docs/%s does not say what the paths do: run make api, and read what it changes. First difference:\n%s", name, firstDifference(old, text))
		}
	}
}

// inert is a backend that only describes itself.
func inert(t *testing.T) *backend {
	t.Helper()
	return open(t, &logical.InmemStorage{}, newFake(t)).b
}

func firstDifference(old, text []byte) string {
	have, want := bytes.Split(old, []byte("\n")), bytes.Split(text, []byte("\n"))
	for i := range max(len(have), len(want)) {
		var h, w []byte
		if i < len(have) {
			h = have[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if !bytes.Equal(h, w) {
			return fmt.Sprintf("line %d\n- %s\n+ %s", i+1, h, w)
		}
	}
	return ""
}

// mountParameter stands for the mount's path, as in the documents that Vault
// makes with generic_mount_paths.
const mountParameter = "mpc_mount_path"

// openAPIDocument is what Vault gets from the plugin, for a mount at any path,
// with what a reader outside of Vault needs besides. Versions are left out, so
// that the document changes with the paths only.
func openAPIDocument(t *testing.T, b *backend) []byte {
	t.Helper()
	resp, err := b.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.HelpOperation, Data: map[string]any{"requestResponsePrefix": operationPrefix}, Storage: &logical.InmemStorage{},
	})
	if err != nil {
		t.Fatal(err)
	}
	made, ok := resp.Data["openapi"].(*framework.OASDocument)
	if !ok {
		t.Fatalf("the framework gave %T", resp.Data["openapi"])
	}
	// As a tree, so that it can be completed and is written in order.
	raw, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	doc["info"] = map[string]any{
		"title":       "Threshold keys for HashiCorp Vault",
		"description": "The paths of the secrets engine vault-plugin-secrets-mpc. Response schemas describe the member data of Vault's usual answer (request_id, lease_id, data, warnings, ...). Errors have the body {\"errors\": [\"...\"]}. docs/api.md explains each path.",
		"version":     "1",
		"license":     map[string]any{"name": "Mozilla Public License 2.0", "url": "https://www.mozilla.org/en-US/MPL/2.0"},
	}
	doc["servers"] = []any{map[string]any{"url": "/v1"}}
	doc["security"] = []any{map[string]any{"token": []any{}}}
	doc["components"].(map[string]any)["securitySchemes"] = map[string]any{
		"token": map[string]any{"type": "apiKey", "in": "header", "name": "X-Vault-Token"},
	}
	paths := map[string]any{}
	for path, item := range doc["paths"].(map[string]any) {
		item := item.(map[string]any)
		completeSummary(b, path, item)
		own, _ := item["parameters"].([]any)
		item["parameters"] = append([]any{map[string]any{
			"name": mountParameter, "in": "path", "required": true, "description": "Path that the engine is mounted at.",
			"schema": map[string]any{"type": "string", "default": "mpc"},
		}}, own...)
		if item["x-vault-unauthenticated"] == true {
			for _, method := range []string{"get", "post", "delete"} {
				if op, ok := item[method].(map[string]any); ok {
					op["security"] = []any{} // none is needed
				}
			}
		}
		paths["/{"+mountParameter+"}"+path] = item
	}
	doc["paths"] = paths
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

// completeSummary names both where one operation of the document stands for
// creating and for changing.
func completeSummary(b *backend, path string, item map[string]any) {
	post, ok := item["post"].(map[string]any)
	p := b.Route(strings.TrimPrefix(strings.NewReplacer("{", "", "}", "").Replace(path), "/"))
	if !ok || p == nil || p.Operations[logical.CreateOperation] == nil || p.Operations[logical.UpdateOperation] == nil {
		return
	}
	create, update := p.Operations[logical.CreateOperation].Properties().Summary, p.Operations[logical.UpdateOperation].Properties().Summary
	if create != update {
		post["summary"] = create + " " + update
	}
}

// published returns the paths that are there for callers.
func published(b *backend) (out []*framework.Path) {
	for _, p := range b.Paths {
		for _, op := range p.Operations {
			if !op.Properties().Unpublished {
				out = append(out, p)
				break
			}
		}
	}
	return out
}

// captured reports whether a field comes from the path.
func captured(p *framework.Path, field string) bool {
	return strings.Contains(p.Pattern, "(?P<"+field+">")
}

// sudo reports whether the path needs the sudo capability.
func sudo(b *backend, p *framework.Path) bool {
	return slices.ContainsFunc(b.PathsSpecial.Root, func(root string) bool {
		prefix, all := strings.CutSuffix(root, "*")
		return pathName(p) == root || all && strings.HasPrefix(pathName(p), prefix)
	})
}

// operations lists a path's published operations in the order in which they are
// shown.
func operations(p *framework.Path) (out []logical.Operation) {
	order := []logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.ReadOperation, logical.ListOperation, logical.DeleteOperation}
	for _, op := range order {
		if h := p.Operations[op]; h != nil && !h.Properties().Unpublished {
			out = append(out, op)
		}
	}
	for op := range p.Operations {
		if !slices.Contains(order, op) {
			out = append(out, op)
		}
	}
	return out
}

func sortedFields(fields map[string]*framework.FieldSchema) []string {
	return slices.Sorted(maps.Keys(fields))
}
