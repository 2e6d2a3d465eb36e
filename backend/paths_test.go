package backend

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// What every path has, checked over the table of paths, so that it also holds
// for the next one.

// computed are the paths that take fields and change nothing: they are answered
// from storage alone, by any server.
var computed = []string{"accounts/:name/addresses", "accounts/:name/derive", "verify/:name"} // read only

// created are the paths outside of config/ whose objects a caller creates by name.
var created = []string{"accounts/:name", "approvers/:name", "authenticators/:name", "identities/:name", "identities/:name/assets/:asset_name"} // read only

// live are reads of what only the active server has in memory, and of requests for
// approval, which end at the look that finds their time over.
var live = []string{"config/rotation", "metrics", "nodes/", "nodes/:id", "requests/", "requests/:request", "wrapping-keys/", "wrapping-keys/:version"} // read only

func TestEveryPathIsComplete(t *testing.T) {
	b := inert(t)
	paths := published(b)
	if len(paths) < 25 {
		t.Fatalf("%d paths: the test looks at the wrong place", len(paths))
	}
	for _, p := range paths {
		name := pathName(p)
		if p.HelpSynopsis == "" || !strings.HasSuffix(p.HelpSynopsis, ".") || strings.Contains(p.HelpSynopsis, "\n") {
			t.Errorf("%s: the synopsis is one line and ends with a dot: %q", name, p.HelpSynopsis)
		}
		if !regexp.MustCompile(`(?m)^  \$ (vault|mpckms|curl) `).MatchString(p.HelpDescription) {
			t.Errorf("%s: the help has no example", name)
		}
		if p.DisplayAttrs == nil || p.DisplayAttrs.OperationPrefix != operationPrefix || p.DisplayAttrs.OperationVerb == "" && p.DisplayAttrs.OperationSuffix == "" {
			t.Errorf("%s: no display attributes: %+v", name, p.DisplayAttrs)
		}
		for field, f := range p.Fields {
			if f.Description == "" {
				t.Errorf("%s: field %s has no description", name, field)
			}
			secret := regexp.MustCompile(`^(pin|password|secret|id_token$|code$|token$|private_key$|ticket$|totp$)|_header$`).MatchString(field)
			if sensitive := f.DisplayAttrs != nil && f.DisplayAttrs.Sensitive; secret != sensitive {
				t.Errorf("%s: field %s: secret %v, marked as sensitive %v", name, field, secret, sensitive)
			}
			if captured(p, field) != fromPath(f) {
				t.Errorf("%s: field %s: comes from the path: %v, and fromPath says otherwise", name, field, captured(p, field))
			}
		}
		for op, h := range p.Operations {
			checkOperation(t, b, name+" "+string(op), h.Properties())
		}
		creates := p.Operations[logical.CreateOperation] != nil
		if creates != (p.ExistenceCheck != nil) {
			t.Errorf("%s: creates %v, has an existence check %v: Vault asks for the capability that fits", name, creates, p.ExistenceCheck != nil)
		}
		if p.ExistenceCheck != nil && !slices.Contains(created, name) && !strings.HasPrefix(name, "config/") {
			t.Errorf("%s: an existence check costs every request a call", name)
		}
		if creates && p.Operations[logical.UpdateOperation] == nil {
			t.Errorf("%s: what is created can be updated", name)
		}
		checkForwarding(t, p)
	}
}

func checkOperation(t *testing.T, b *backend, what string, props framework.OperationProperties) {
	t.Helper()
	if props.Summary == "" || !strings.HasSuffix(props.Summary, ".") {
		t.Errorf("%s: summary %q", what, props.Summary)
	}
	if len(props.Responses) != 1 {
		t.Errorf("%s: %d responses are described, want the one of success", what, len(props.Responses))
	}
	for status, responses := range props.Responses {
		for _, r := range responses {
			switch {
			case r.Description == "":
				t.Errorf("%s: response %d is not described", what, status)
			case status == http.StatusNoContent && len(r.Fields) > 0, status != http.StatusNoContent && len(r.Fields) == 0 && r.Example == nil:
				t.Errorf("%s: response %d has %d fields", what, status, len(r.Fields))
			}
			for field, f := range r.Fields {
				if f.Description == "" {
					t.Errorf("%s: field %s of the response has no description", what, field)
				}
			}
		}
	}
}

// checkForwarding: what has effects outside storage runs on the active server,
// and what only reads storage does not burden it.
func checkForwarding(t *testing.T, p *framework.Path) {
	t.Helper()
	name := pathName(p)
	for op, h := range p.Operations {
		props := h.Properties()
		reads := op == logical.ReadOperation || op == logical.ListOperation
		forward := !reads && !slices.Contains(computed, name) || reads && slices.Contains(live, name)
		if props.ForwardPerformanceStandby != forward || props.ForwardPerformanceSecondary != forward {
			t.Errorf("%s %s: forwards from a standby %v, from a secondary %v, want %v", name, op, props.ForwardPerformanceStandby, props.ForwardPerformanceSecondary, forward)
		}
	}
}

// TestForwardingTablesAreCurrent: they name paths that exist.
func TestForwardingTablesAreCurrent(t *testing.T) {
	names := pathNames(inert(t).Paths)
	for _, name := range append(slices.Clone(computed), live...) {
		if !slices.Contains(names, name) {
			t.Errorf("there is no path %s any more", name)
		}
	}
}

func TestOperationIDs(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(openAPIDocument(t, inert(t)), &doc); err != nil {
		t.Fatal(err)
	}
	used := map[string]string{}
	for path, item := range doc.Paths {
		for _, method := range []string{"get", "post", "delete", "patch"} {
			if item[method] == nil {
				continue
			}
			var op struct{ OperationID, Summary string }
			if err := json.Unmarshal(item[method], &op); err != nil {
				t.Fatal(err)
			}
			where := method + " " + path
			if other, taken := used[op.OperationID]; taken || !regexp.MustCompile(`^mpc-[a-z]+(-[a-z0-9]+)*$`).MatchString(op.OperationID) {
				t.Errorf("%s: operation ID %q (also of %q)", where, op.OperationID, other)
			}
			used[op.OperationID] = where
		}
	}
	for _, id := range []string{"mpc-sign", "mpc-verify", "mpc-list-accounts", "mpc-read-account", "mpc-write-account", "mpc-read-metrics", "mpc-freeze-account"} {
		if used[id] == "" {
			t.Errorf("no operation is called %s", id)
		}
	}
}

// TestIgnoredFields: nothing that was sent is passed over.
func TestIgnoredFields(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	warned := func(op logical.Operation, path string, data map[string]any, text string) {
		t.Helper()
		resp, status, msg := m.do(op, path, data)
		if status != http.StatusOK || resp == nil {
			t.Errorf("%s %s %v: %d %s", op, path, data, status, msg)
			return
		}
		if all := strings.Join(resp.Warnings, "\n"); (text == "") != (all == "") || !strings.Contains(all, text) {
			t.Errorf("%s %s %v: warnings %q, want one with %q", op, path, data, all, text)
		}
	}
	warned(logical.ReadOperation, "accounts/alice", nil, "")
	warned(logical.ReadOperation, "accounts/alice", map[string]any{"presign": "3"}, "presign")
	warned(logical.ReadOperation, "config/nodes", map[string]any{"colour": "blue"}, "colour")
	warned(logical.ReadOperation, "nodes/local-1", map[string]any{"id": "local-1"}, "id")

	warned(logical.UpdateOperation, "accounts/alice", map[string]any{"presign": 0}, "")
	warned(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1", "shares": 3}, "exists already")
	warned(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI}, "")
	warned(logical.UpdateOperation, "config/hsm", map[string]any{"suite": "rsa3072-oaep-sha256"}, "wrapping-keys/rotate")
	warned(logical.UpdateOperation, "config/hsm", map[string]any{"suite": "hpke-p256"}, "")

	m.fails(logical.UpdateOperation, "accounts/alice/freeze", map[string]any{"name": "bob"}, http.StatusBadRequest, "name is in the path (alice)")
	m.fails(logical.DeleteOperation, "destroy/alice", map[string]any{"all": true}, http.StatusBadRequest, "unknown field")
	m.must(logical.UpdateOperation, "accounts/alice/unfreeze", map[string]any{"name": "alice"}) // says the same
}
