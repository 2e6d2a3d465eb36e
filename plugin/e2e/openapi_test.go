//go:build e2e

package e2e_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// openAPI is as much of a document as is compared.
type openAPI struct {
	Paths      map[string]map[string]any
	Components struct{ Schemas map[string]any }
}

// operation is one with what may differ left out: docs/openapi.json completes
// summaries where one operation stands for two, and Vault (1.21.0) loses every
// reference of an external plugin's document to a schema, though it keeps the
// schemas.
func (d openAPI) operation(path, method string) map[string]any {
	op, _ := d.Paths[path][method].(map[string]any)
	op, _ = withoutReferences(op).(map[string]any)
	delete(op, "summary")
	return op
}

func withoutReferences(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			if key != "$ref" {
				out[key] = withoutReferences(value)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = withoutReferences(v[i])
		}
		return out
	}
	return v
}

// TestOpenAPI: what a real Vault says about a mount is what docs/openapi.json says.
func TestOpenAPI(t *testing.T) {
	e := shared(t)
	raw, err := os.ReadFile(filepath.Join(repository, "docs", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	var ours, vaults openAPI
	if err := json.Unmarshal(raw, &ours); err != nil {
		t.Fatal(err)
	}
	resp, err := e.Client.Logical().ReadRawWithData("sys/internal/specs/openapi", map[string][]string{"generic_mount_paths": {"true"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&vaults); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, path := range slices.Sorted(maps.Keys(ours.Paths)) {
		if vaults.Paths[path] == nil {
			t.Errorf("Vault does not have %s", path)
			continue
		}
		for _, method := range []string{"get", "post", "delete", "patch"} {
			mine, its := ours.operation(path, method), vaults.operation(path, method)
			delete(mine, "security") // that no token is needed is not in Vault's document
			if !reflect.DeepEqual(mine, its) {
				t.Errorf("%s %s: docs/openapi.json has\n%v\nand Vault\n%v", method, path, mine, its)
			}
			if len(mine) > 0 {
				compared++
			}
		}
		if ours.Paths[path]["x-vault-sudo"] != vaults.Paths[path]["x-vault-sudo"] {
			t.Errorf("%s: needs sudo: %v, with Vault %v", path, ours.Paths[path]["x-vault-sudo"], vaults.Paths[path]["x-vault-sudo"])
		}
	}
	if compared < 30 {
		t.Errorf("%d operations were compared", compared)
	}
	for path := range vaults.Paths {
		if strings.HasPrefix(path, "/{mpc_mount_path}/") && ours.Paths[path] == nil && !strings.Contains(path, "?P<") {
			t.Errorf("Vault has %s besides", path)
		}
	}
	for name, schema := range ours.Components.Schemas {
		if !reflect.DeepEqual(schema, vaults.Components.Schemas[name]) {
			t.Errorf("schema %s: docs/openapi.json has\n%v\nand Vault\n%v", name, schema, vaults.Components.Schemas[name])
		}
	}
}
