package backend

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

func TestApproverDirectory(t *testing.T) {
	m := approvable(t)
	got := m.must(logical.ReadOperation, "approvers/alice", nil)
	if !slices.Equal(got["requesters"].([]string), []string{"entity:" + testEntity}) || got["no_entity"] != false {
		t.Errorf("alice is %v", got)
	}
	m.must(logical.UpdateOperation, "approvers/robot", map[string]any{"no_entity": true})
	if got := m.must(logical.ListOperation, "approvers/", nil); !slices.Equal(got["keys"].([]string), []string{"alice", "robot"}) {
		t.Errorf("there are %v", got)
	}
	name, r, err := m.b.approverByID(t.Context(), got["id"].(string))
	if err != nil || name != "alice" || r == nil {
		t.Errorf("%q %v %v", name, r, err)
	}
	if _, err := r.approver("alice"); err == nil || !strings.Contains(err.Error(), "no device yet") {
		t.Errorf("an approver without keys goes into a policy: %v", err)
	}
	// An entity more takes back that there is none.
	if got := m.must(logical.UpdateOperation, "approvers/robot", map[string]any{"entity_ids": []string{testEntity}}); got["no_entity"] != false {
		t.Errorf("robot is %v", got)
	}
	m.must(logical.DeleteOperation, "approvers/robot", nil)
	m.fails(logical.ReadOperation, "approvers/robot", nil, http.StatusNotFound, "there is no approver")
	if _, r, err := m.b.approverByID(t.Context(), strings.Repeat("ab", 16)); err != nil || r != nil {
		t.Errorf("%v %v", r, err)
	}
}

func TestApproverRefuses(t *testing.T) {
	m := approvable(t)
	many := make([]string, 16)
	for i := range many {
		many[i] = fmt.Sprintf("7d2e3179-f69b-450c-7179-ac8ee8bd8c%02x", i)
	}
	for _, c := range []struct {
		in   map[string]any
		text string
	}{
		{nil, "it is not said who the approver is"},
		{map[string]any{"entity_ids": ""}, "it is not said who the approver is"},
		{map[string]any{"no_entity": false}, "it is not said who the approver is"},
		{map[string]any{"no_entity": true, "entity_ids": testEntity}, "send one of them"},
		{map[string]any{"entity_ids": "root"}, "is not the ID of a Vault entity"},
		{map[string]any{"entity_ids": strings.ToUpper(testEntity)}, "is not the ID of a Vault entity"},
		{map[string]any{"entity_ids": many}, "more than 15"},
		{map[string]any{"identity": "nobody"}, "there is no identity"},
		{map[string]any{"identity": "../x"}, "cannot be the name"},
		{map[string]any{"entitiy_ids": testEntity}, "unknown field"},
	} {
		status, msg := m.statusOfSend("approvers/bob", c.in)
		if status != http.StatusBadRequest && status != http.StatusNotFound || !strings.Contains(msg, c.text) {
			t.Errorf("%v: %d %s", c.in, status, msg)
		}
	}
	m.fails(logical.UpdateOperation, "approvers/Bob", map[string]any{"no_entity": true}, http.StatusBadRequest, "cannot be the name of an approver")
	m.fails(logical.ReadOperation, "approvers/bob", nil, http.StatusNotFound, "there is no approver")
	m.fails(logical.DeleteOperation, "approvers/bob", nil, http.StatusNotFound, "there is no approver")
	// What alice was, she still is.
	m.fails(logical.UpdateOperation, "approvers/alice", map[string]any{"entity_ids": "x"}, http.StatusBadRequest, "is not the ID")
	if got := m.must(logical.ReadOperation, "approvers/alice", nil); len(got["entity_ids"].([]string)) != 1 {
		t.Errorf("alice is %v", got)
	}
}

// policyNaming is a policy with the approvers that are named, as the directory has them.
func policyNaming(t *testing.T, m *mount, names ...string) *approval.Policy {
	t.Helper()
	p := &approval.Policy{Quorum: 1, Factors: 2, SignatureFactors: 1, Expiry: approval.MinExpiry}
	for _, name := range names {
		r, err := m.b.store.approver(t.Context(), name)
		m.ok(err)
		a, err := r.approver(name)
		m.ok(err)
		p.Approvers = append(p.Approvers, a)
	}
	m.ok(p.Check())
	return p
}

// TestStillNamed: what is deleted here is not deleted in policies, and the answer
// says where it still is.
func TestStillNamed(t *testing.T) {
	m := approvable(t)
	out := m.newPhone().enrols("alice")
	m.must(logical.UpdateOperation, "accounts/gold", map[string]any{"algorithm": "ed25519", "approvers": "alice"})
	m.create("silver", "ed25519")

	names := func(op logical.Operation, path string, in map[string]any) {
		t.Helper()
		resp, status, msg := m.do(op, path, in)
		if status != http.StatusOK || len(resp.Warnings) == 0 || !strings.Contains(resp.Warnings[0], "gold") || strings.Contains(resp.Warnings[0], "silver") {
			t.Errorf("%s: %d %s %v", path, status, msg, resp)
		}
		if accounts, ok := resp.Data["accounts"].([]string); op == logical.DeleteOperation && (!ok || !slices.Equal(accounts, []string{"gold"})) {
			t.Errorf("%s: %v", path, resp.Data)
		}
	}
	names(logical.UpdateOperation, "approvers/alice", map[string]any{"entity_ids": "", "no_entity": true})
	key := out["factors"].([]map[string]any)[0]["key_id"].(string)
	names(logical.DeleteOperation, "approvers/alice/factors/"+key, nil)
	m.fails(logical.DeleteOperation, "approvers/alice/factors/"+key, nil, http.StatusNotFound, "has no key")
	m.fails(logical.DeleteOperation, "approvers/alice/factors/xyz", nil, http.StatusBadRequest, "32 hex digits")
	if left := m.must(logical.ReadOperation, "approvers/alice", nil)["factors"].([]map[string]any); len(left) != 1 {
		t.Errorf("left are %v", left)
	}
	names(logical.DeleteOperation, "approvers/alice", nil)
}

// TestPolicyTakesCopies: the record's slices are not shared with policies.
func TestPolicyTakesCopies(t *testing.T) {
	m := approvable(t)
	m.newPhone().enrols("alice")
	r, err := m.b.store.approver(t.Context(), "alice")
	m.ok(err)
	a, err := r.approver("alice")
	m.ok(err)
	before := a.Keys[0].ID()
	r.Keys[0].Public[10] ^= 1
	if a.Keys[0].ID() != before {
		t.Error("a policy changes with the directory")
	}
}
