//go:build e2e

package e2e_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/plugin/e2e"
)

// attempt is one request, and whether a policy allows it.
type attempt struct {
	op, path string // "GET", "LIST", "POST" or "DELETE"
	data     map[string]any
	allowed  bool
}

// TestExamplePolicies: a token with one of the example policies, and nothing else, can do
// what the policy says and is refused the rest.
func TestExamplePolicies(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	e := enable(t, v, "mpc", 3)
	for _, name := range []string{"app-shop", "payments", "other", "to-freeze", "to-rename", "to-delete"} {
		e.create(t, name, bip340, 2, 3)
	}
	hello := map[string]any{"input": b64([]byte("hello"))}
	signed := func(name string) map[string]any {
		return map[string]any{"input": hello["input"], "signature": e.sign(t, name, []byte("hello"))["signature"]}
	}
	child := map[string]any{"derivation_path": "m/0/7"}
	alice := enrol(t, e, "alice-password", identity.Password, "correct horse battery staple", nil)
	enrol(t, e, "to-delete", identity.Password, "correct horse battery staple", nil)
	o := e.makes(t, alice, "alice")
	e.write(t, "identities/alice/assets/mail", assetBody(t, o, o.NewAsset("mail", identity.SecretAsset), "password", nil, []byte("x"), "owner"))
	again := assetBody(t, o, e.asset(t, o, "mail"), "password", nil, []byte("y"), "owner")
	bob, bobsBody := register(t, e, "bob-password", identity.Password, "correct horse battery staple", nil)
	bobs := manifestBody(newIdentity(t, bob, "bob"))
	changed, err := o.Change(time.Now(), identity.AddRole{Name: "more"})
	if err != nil {
		t.Fatal(err)
	}
	device := map[string]any{"identity": "alice", "label": "laptop", "device": strings.Repeat("ab", 16)}
	request := map[string]any{"id": strings.Repeat("cd", 16), "request": b64(opaqueRequest(t))}
	nobody := map[string]any{"no_entity": true}
	newTerminalApprover(t, e, "there", true)
	e.write(t, "accounts/guarded", map[string]any{"algorithm": ed25519, "threshold": 2, "shares": 3, "approvers": "there"})
	another := map[string]any{"approvers": "there", "request_expiry": "1h"}
	asker := newTerminalAsker(t, e, "carol")
	asks := func(message string) string {
		return printedAs[terminalRequest](t, asker.asks(t, "sign", "guarded", "--input", message, "-o", "json")).Request
	}
	waiting, cancelled := asks("to be seen"), asks("to be cancelled")
	pin := map[string]any{"uri": v.Token.URI(), "pin": v.Token.PIN}
	for policy, attempts := range map[string][]attempt{
		"application": {
			{"POST", "sign/app-shop", hello, true},
			{"POST", "sign/payments", hello, true},
			{"POST", "sign/app-shop", map[string]any{"batch_input": []any{hello}}, true},
			{"POST", "verify/app-shop", signed("app-shop"), true},
			{"POST", "verify/payments", signed("payments"), true},
			{"GET", "accounts/app-shop", nil, true},
			{"GET", "accounts/payments", nil, true},
			{"GET", "accounts/app-shop/addresses", nil, true},
			{"GET", "accounts/payments/addresses", nil, true},
			{"POST", "accounts/payments/addresses", child, true},
			{"POST", "accounts/payments/derive", child, true},

			{"POST", "sign/other", hello, false},
			{"POST", "verify/other", signed("other"), false},
			{"GET", "accounts/other", nil, false},
			{"GET", "accounts/other/addresses", nil, false},
			{"POST", "accounts/other/derive", child, false},
			{"POST", "accounts/app-shop/derive", child, false},
			{"LIST", "accounts", nil, false},
			{"POST", "accounts/app-new", map[string]any{"algorithm": bip340}, false},
			{"POST", "accounts/app-shop", map[string]any{"presign": 0}, false},
			{"POST", "accounts/payments", map[string]any{"metadata": map[string]any{"a": "b"}}, false},
			{"POST", "accounts/app-shop/refresh", nil, false},
			{"POST", "accounts/app-shop/freeze", nil, false},
			{"POST", "accounts/payments/unfreeze", nil, false},
			{"POST", "accounts/payments/rename", map[string]any{"new_name": "x"}, false},
			{"POST", "accounts/payments/csr", map[string]any{"common_name": "x"}, false},
			{"DELETE", "accounts/app-shop", nil, false},
			{"DELETE", "accounts/payments", nil, false},
			{"DELETE", "destroy/app-shop", nil, false},
			{"POST", "destroy/payments", nil, false},
			{"GET", "config/hsm", nil, false},
			{"GET", "config/nodes", nil, false},
			{"LIST", "nodes", nil, false},
			{"LIST", "wrapping-keys", nil, false},
			{"GET", "recovery/export/app-shop", nil, false},
			{"GET", "metrics", nil, false},
			{"LIST", "identities", nil, false},
			{"GET", "identities/alice", nil, false},
			{"GET", "identities/alice/assets/mail", nil, false},
			{"POST", "identities/alice/freeze", nil, false},
			{"LIST", "authenticators", nil, false},
			{"GET", "authenticators/alice-password", nil, false},
			{"POST", "authenticators/bob-password/register", request, false},
			{"POST", "authenticators/alice-password/lost", nil, false},
		},
		"user": {
			{"POST", "authenticators/bob-password/register", request, true},
			{"POST", "authenticators/bob-password", bobsBody, true},
			{"POST", "identities/bob", bobs, true},
			{"GET", "authenticators/alice-password", nil, true}, // its public keys, to grant it something
			{"GET", "identities/alice", nil, true},

			{"POST", "authenticators/alice-password", bobsBody, false},
			{"POST", "identities/alice", manifestBody(changed), false},
			{"DELETE", "identities/alice", nil, false},
			{"DELETE", "identities/bob", nil, false},
			{"DELETE", "authenticators/bob-password", nil, false},
			{"POST", "identities/alice/freeze", nil, false},
			{"POST", "identities/alice/unfreeze", nil, false},
			{"LIST", "identities", nil, false},
			{"LIST", "identities/alice/assets", nil, false},
			{"GET", "identities/alice/assets/mail", nil, false},
			{"POST", "identities/alice/assets/mail", again, false},
			{"DELETE", "identities/alice/assets/mail", nil, false},
			{"LIST", "authenticators", nil, false},
			{"POST", "authenticators/alice-password/lost", nil, false},
			{"POST", "authenticators/alice-password/found", nil, false},
			{"POST", "authenticators/alice-password/unlock", nil, false},
			{"POST", "authenticators/alice-password/devices", device, false},
			{"LIST", "authenticators/alice-password/devices", nil, false},
			{"LIST", "accounts", nil, false},
			{"GET", "accounts/other", nil, false},
			{"POST", "sign/other", hello, false},
			{"POST", "accounts/user-made", map[string]any{"algorithm": bip340}, false},
			{"GET", "config/identities", nil, false},
			{"GET", "metrics", nil, false},
		},
		"operator": {
			{"GET", "config/hsm", nil, true},
			{"POST", "config/hsm", pin, true},
			{"POST", "config/nodes", map[string]any{"session_timeout": "40s"}, true},
			{"POST", "config/rotation", map[string]any{"rate": 20}, true},
			{"GET", "config/accounts", nil, true},
			{"POST", "recovery/restored", nil, true},
			{"LIST", "accounts", nil, true},
			{"POST", "accounts/app-made", map[string]any{"algorithm": bip340}, true},
			{"POST", "accounts/app-made", map[string]any{"refresh_period": "1h"}, true},
			{"GET", "accounts/other", nil, true},
			{"POST", "accounts/other/refresh", nil, true},
			{"POST", "accounts/to-freeze/freeze", map[string]any{"reason": "tried"}, true},
			{"POST", "accounts/to-freeze/unfreeze", nil, true},
			{"POST", "accounts/to-rename/rename", map[string]any{"new_name": "renamed"}, true},
			{"DELETE", "accounts/to-delete", nil, true},
			{"POST", "accounts/to-delete/restore", nil, true},
			{"POST", "verify/other", signed("other"), true},
			{"LIST", "nodes", nil, true},
			{"GET", "nodes/local-1", nil, true},
			{"POST", "rotation/catch-up", nil, true},
			{"POST", "wrapping-keys/rotate", nil, true},
			{"LIST", "wrapping-keys", nil, true},
			{"GET", "wrapping-keys/1", nil, true},
			{"GET", "metrics", nil, true},
			{"LIST", "identities", nil, true},
			{"GET", "identities/alice", nil, true},
			{"LIST", "identities/alice/assets", nil, true},
			{"GET", "identities/alice/assets/mail", nil, true},
			{"POST", "identities/alice/freeze", map[string]any{"reason": "tried"}, true},
			{"POST", "identities/alice/unfreeze", nil, true},
			{"LIST", "authenticators", nil, true},
			{"GET", "authenticators/alice-password", nil, true},
			{"POST", "authenticators/alice-password/lost", map[string]any{"reason": "tried"}, true},
			{"POST", "authenticators/alice-password/found", nil, true},
			{"POST", "authenticators/alice-password/unlock", nil, true},
			{"DELETE", "authenticators/to-delete", nil, true},

			{"POST", "approvers/operators", nobody, false},
			{"POST", "approvers/there/enrol", nil, false},
			{"DELETE", "approvers/there", nil, false},
			{"POST", "requests/" + waiting + "/cancel", nil, false},
			{"POST", "identities/alice", manifestBody(changed), false},
			{"DELETE", "identities/alice", nil, false},
			{"POST", "identities/alice/assets/mail", again, false},
			{"DELETE", "identities/alice/assets/mail", nil, false},
			{"POST", "authenticators/bob-password/register", request, false},
			{"POST", "authenticators/alice-password", bobsBody, false},
			{"POST", "authenticators/alice-password/devices", device, false},
			{"POST", "config/accounts", map[string]any{"deletion_wait": "1m"}, false},
			{"POST", "sign/app-shop", hello, false},
			{"POST", "sign/other", hello, false},
			{"POST", "accounts/other/csr", map[string]any{"common_name": "x"}, false},
			{"DELETE", "destroy/other", nil, false},
			{"POST", "destroy/other", nil, false},
			{"POST", "destroy/wrapping-keys", nil, false},
		},
		"approvers": {
			{"POST", "approvers/made", nobody, true},
			{"GET", "approvers/made", nil, true},
			{"POST", "approvers/made/enrol", map[string]any{"label": "phone"}, true},
			{"LIST", "approvers/made/enrolments", nil, true},
			{"POST", "approvers/made/totp", nil, true},
			{"DELETE", "approvers/made", nil, true},
			{"LIST", "approvers", nil, true},
			{"LIST", "accounts", nil, true},
			{"GET", "accounts/guarded/policy", nil, true},
			{"LIST", "requests", nil, true},
			{"GET", "requests/" + waiting, nil, true},
			{"GET", "config/ui", nil, true},
			{"POST", "config/ui", map[string]any{"public_url": "https://vault.example.com:8200"}, true},

			{"POST", "accounts/guarded/policy", another, false},
			{"POST", "accounts/other/policy", another, false},
			{"POST", "accounts/approvers-made", map[string]any{"algorithm": bip340}, false},
			{"POST", "requests/" + waiting + "/cancel", nil, false},
			{"POST", "requests/" + waiting + "/code", nil, false},
			{"POST", "sign/guarded", hello, false},
			{"POST", "sign/other", hello, false},
			{"GET", "accounts/other", nil, false},
			{"GET", "config/hsm", nil, false},
			{"DELETE", "accounts/guarded", nil, false},
			{"DELETE", "destroy/guarded", nil, false},
			{"LIST", "identities", nil, false},
			{"GET", "metrics", nil, false},
		},
		"requester": {
			{"POST", "sign/other", hello, true},
			{"POST", "verify/other", signed("other"), true},
			{"GET", "accounts/other", nil, true},
			{"GET", "accounts/guarded/policy", nil, true},
			{"LIST", "requests", nil, true},
			{"GET", "requests/" + waiting, nil, true},
			{"POST", "requests/" + waiting + "/wait", map[string]any{"timeout": "0s"}, true},
			{"POST", "requests/" + cancelled + "/cancel", nil, true},

			{"POST", "sign/guarded", hello, false},                // by the engine: this token has no entity
			{"POST", "requests/" + waiting + "/code", nil, false}, // by the engine: the request is somebody else's
			{"LIST", "accounts", nil, false},
			{"POST", "accounts/requesters-made", map[string]any{"algorithm": bip340}, false},
			{"POST", "accounts/other/refresh", nil, false},
			{"POST", "accounts/guarded/csr", map[string]any{"common_name": "x"}, false},
			{"DELETE", "accounts/guarded", nil, false},
			{"LIST", "approvers", nil, false},
			{"GET", "approvers/there", nil, false},
			{"POST", "approvers/requesters", nobody, false},
			{"POST", "approvers/there/enrol", nil, false},
			{"GET", "config/ui", nil, false},
			{"GET", "metrics", nil, false},
		},
		"auditor": {
			{"GET", "config/hsm", nil, true},
			{"GET", "config/nodes", nil, true},
			{"GET", "config/rotation", nil, true},
			{"GET", "config/accounts", nil, true},
			{"LIST", "accounts", nil, true},
			{"GET", "accounts/other", nil, true},
			{"GET", "accounts/other/addresses", nil, true},
			{"POST", "accounts/other/addresses", child, true},
			{"POST", "accounts/other/derive", child, true},
			{"POST", "verify/other", signed("other"), true},
			{"LIST", "nodes", nil, true},
			{"GET", "nodes/local-1", nil, true},
			{"LIST", "wrapping-keys", nil, true},
			{"GET", "wrapping-keys/1", nil, true},
			{"GET", "metrics", nil, true},
			{"LIST", "identities", nil, true},
			{"GET", "identities/alice", nil, true},
			{"LIST", "identities/alice/assets", nil, true},
			{"GET", "identities/alice/assets/mail", nil, true},
			{"LIST", "authenticators", nil, true},
			{"GET", "authenticators/alice-password", nil, true},
			{"LIST", "approvers", nil, true},
			{"GET", "approvers/there", nil, true},
			{"LIST", "requests", nil, true},
			{"GET", "accounts/guarded/policy", nil, true},
			{"GET", "requests/" + waiting, nil, true},
			{"GET", "config/ui", nil, true},

			{"POST", "approvers/auditors", nobody, false},
			{"POST", "approvers/there/enrol", nil, false},
			{"DELETE", "approvers/there", nil, false},
			{"POST", "accounts/guarded/policy", another, false},
			{"POST", "requests/" + waiting + "/cancel", nil, false},
			{"POST", "requests/" + waiting + "/code", nil, false},
			{"POST", "identities/alice", manifestBody(changed), false},
			{"POST", "identities/alice/freeze", nil, false},
			{"DELETE", "identities/alice", nil, false},
			{"POST", "identities/alice/assets/mail", again, false},
			{"POST", "authenticators/alice-password/lost", nil, false},
			{"POST", "authenticators/alice-password/unlock", nil, false},
			{"POST", "authenticators/bob-password/register", request, false},
			{"DELETE", "authenticators/alice-password", nil, false},
			{"POST", "config/hsm", pin, false},
			{"POST", "config/nodes", map[string]any{"local": 4}, false},
			{"POST", "config/rotation", map[string]any{"rate": 20}, false},
			{"POST", "accounts/made", map[string]any{"algorithm": bip340}, false},
			{"POST", "accounts/other", map[string]any{"presign": 0}, false},
			{"POST", "accounts/other/refresh", nil, false},
			{"POST", "accounts/other/freeze", nil, false},
			{"POST", "accounts/other/rename", map[string]any{"new_name": "x"}, false},
			{"POST", "accounts/other/csr", map[string]any{"common_name": "x"}, false},
			{"DELETE", "accounts/other", nil, false},
			{"POST", "sign/other", hello, false},
			{"POST", "nodes/local-1/renew", nil, false},
			{"POST", "rotation/catch-up", nil, false},
			{"POST", "wrapping-keys/rotate", nil, false},
			{"DELETE", "destroy/other", nil, false},
			{"POST", "recovery/restored", nil, false},
			{"GET", "recovery/export/other", nil, false},
		},
	} {
		t.Run(policy, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(repository, "docs", "policies", policy+".hcl"))
			if err != nil {
				t.Fatal(err)
			}
			client, err := v.Client.Clone()
			if err != nil {
				t.Fatal(err)
			}
			client.SetToken(tokenWith(t, v, policy, string(text)))
			client.SetMaxRetries(0)
			for _, a := range attempts {
				a.check(t, client, "mpc/"+a.path)
			}
		})
	}
	if files, err := filepath.Glob(filepath.Join(repository, "docs", "policies", "*")); err != nil || len(files) != 6 {
		t.Errorf("docs/policies has %q: each needs its table here", files)
	}

	// sudo is what keeps the prefixes apart: the same policy without it.
	text, err := os.ReadFile(filepath.Join(repository, "docs", "policies", "operator.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := v.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(tokenWith(t, v, "no-sudo", strings.ReplaceAll(string(text), `, "sudo"`, "")))
	for _, a := range []attempt{
		{"GET", "config/hsm", nil, false}, {"POST", "config/nodes", map[string]any{"local": 4}, false}, {"POST", "recovery/restored", nil, false},
		{"LIST", "accounts", nil, true},
	} {
		a.check(t, client, "mpc/"+a.path)
	}
}

// check sends the request. What is allowed must also work, so that a refusal by
// the engine is not taken for one by the policy.
func (a attempt) check(t *testing.T, client *api.Client, path string) {
	t.Helper()
	var err error
	switch a.op {
	case "GET":
		if strings.HasSuffix(path, "/metrics") { // no JSON
			_, err = client.Logical().ReadRaw(path)
			break
		}
		_, err = client.Logical().Read(path)
	case "LIST":
		_, err = client.Logical().List(path)
	case "POST":
		_, err = client.Logical().Write(path, a.data)
	case "DELETE":
		_, err = client.Logical().Delete(path)
	}
	var answer *api.ResponseError
	refused := errors.As(err, &answer) && answer.StatusCode == http.StatusForbidden
	switch {
	case a.allowed && err != nil:
		t.Errorf("%s %s: %v, want it to work", a.op, path, err)
	case !a.allowed && !refused:
		t.Errorf("%s %s: %v, want 403", a.op, path, err)
	}
}
