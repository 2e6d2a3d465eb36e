//go:build e2e

package e2e_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
)

// approver enrols somebody with a device key and a passkey, in software.
func (e *engine) approver(t testing.TB, name string) {
	t.Helper()
	e.write(t, "approvers/"+name, map[string]any{"no_entity": true})
	phone, l := newEnrollee(t, e, true), opensLink(t, e, name)
	body, code := phone.offer(t, l)
	phone.finishes(t, body)
	e.write(t, "approvers/"+name+"/confirm", map[string]any{"code": code})
}

// clientOf returns a client whose token is an entity's, with an operator's rights.
func (e *engine) clientOf(t testing.TB, name string) *api.Client {
	t.Helper()
	if err := e.Client.Sys().PutPolicy("account-policies", `path "`+e.path+`/*" { capabilities = ["create", "read", "update", "list"] }`); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Client.Logical().Write("auth/token/roles/account-policies", map[string]any{"allowed_entity_aliases": name, "allowed_policies": "account-policies", "orphan": true}); err != nil {
		t.Fatal(err)
	}
	s, err := e.Client.Logical().Write("auth/token/create/account-policies", map[string]any{"entity_alias": name, "policies": []string{"account-policies"}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := e.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(s.Auth.ClientToken)
	return c
}

// TestAccountPolicies: real nodes make an account with a policy, give an older account
// its first with new shares, keep both through refreshes and a restart, and sign
// nothing that nobody has approved.
func TestAccountPolicies(t *testing.T) {
	e := enable(t, harness.Shared(t), "account-policies", 3)
	e.write(t, "config/ui", map[string]any{"public_url": "https://vault.example.com:8200"})
	for _, name := range []string{"ann", "ben", "carl"} {
		e.approver(t, name)
	}
	made := e.write(t, "accounts/treasury", map[string]any{"algorithm": "ed25519", "approvers": "ann,ben,carl", "quorum": 2})
	hash, _ := made["policy_hash"].(string)
	if summary, _ := made["policy"].(string); len(hash) != 64 || !strings.HasPrefix(summary, "2 of ann, ben, carl") {
		t.Fatalf("made with policy %v, %v", made["policy_hash"], made["policy"])
	}

	// An account that signs, and then does so no more by itself.
	message := []byte("before there was a policy")
	old := e.create(t, "old", "bip340-secp256k1", 2, 3)
	e.check(t, "old", message, e.sign(t, "old", message))
	given := e.write(t, "accounts/old/policy", map[string]any{"approvers": []string{"ann", "ben"}, "quorum": 1, "signature_factors": 2, "request_expiry": "1h"})
	now := e.read(t, "accounts/old")
	if now["public_key_hex"] != old["public_key_hex"] || number(t, now["share_epoch"]) != number(t, old["share_epoch"])+1 || now["epoch_id"] == old["epoch_id"] ||
		now["record_hash"] == old["record_hash"] || now["policy_hash"] != given["policy_hash"] || given["session_id"] == nil || old["policy_hash"] != nil {
		t.Errorf("its first policy %v made %v of %v", given, now, old)
	}
	if again := e.write(t, "accounts/old/policy", map[string]any{"approvers": []string{"ann", "ben"}, "quorum": 1, "signature_factors": 2, "request_expiry": "1h"}); again["policy_hash"] != given["policy_hash"] || again["session_id"] != nil {
		t.Errorf("the same policy again: %v", again)
	}
	e.refuse(t, "accounts/old/policy", map[string]any{"approvers": ""}, http.StatusBadRequest, "none can be taken away")
	e.refuse(t, "accounts/old/policy", map[string]any{"approvers": "ann", "factors": 3}, http.StatusBadRequest, `approver "ann" has no certificate`)

	// The root token is nobody, so it cannot ask; an entity can, and gets a request.
	e.refuse(t, "accounts/old/policy", map[string]any{"approvers": "ann,ben,carl"}, http.StatusForbidden)
	olga := e.clientOf(t, "olga")
	s, err := olga.Logical().Write(e.path+"/accounts/old/policy", map[string]any{"approvers": "ann,ben,carl"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Data["state"] != "pending" || s.Data["action"] != "policy" || s.Data["policy_hash"] != given["policy_hash"] || number(t, s.Data["epoch"]) != number(t, now["share_epoch"]) {
		t.Errorf("another policy is asked for by %v", s.Data)
	}
	for _, name := range []string{"old", "treasury"} {
		e.write(t, "accounts/"+name+"/refresh", nil)
		if s, err := olga.Logical().Write(e.path+"/sign/"+name, map[string]any{"input": b64(message)}); err != nil || s.Data["signature"] != nil || s.Data["state"] != "pending" {
			t.Errorf("signing with %s: %v, %v", name, s, err)
		}
	}
	e.refuse(t, "accounts/treasury/csr", map[string]any{"common_name": "x"}, http.StatusConflict, "could not see what they sign")
	if r := e.CLI(t, "write", "sys/plugins/reload/backend", "mounts="+e.path); r.Code != 0 {
		t.Fatalf("reload: %+v", r)
	}
	e.waitNodes(t, 3)
	for name, want := range map[string]any{"old": given["policy_hash"], "treasury": hash} {
		d := e.read(t, "accounts/"+name+"/policy")
		if d["policy_hash"] != want || d["required"] != true {
			t.Errorf("after a restart the policy of %s is %v, want %v", name, d["policy_hash"], want)
		}
		e.write(t, "accounts/"+name+"/refresh", nil)
	}
	if left := e.read(t, "requests/"+s.Data["request"].(string)); left["state"] != "pending" {
		t.Errorf("after refreshes and a restart the request is %v", left)
	}
}
