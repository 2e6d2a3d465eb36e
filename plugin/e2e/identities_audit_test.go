//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestAuditOfIdentities: with the settings of docs/audit.md the log shows each step
// after a loss, and neither telephone numbers nor what clients write.
func TestAuditOfIdentities(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	log := filepath.Join(v.Dir, "audit.log")
	if err := v.Client.Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": log}}); err != nil {
		t.Fatal(err)
	}
	e := enable(t, v, "mpc", 3)
	sh := newShell(t, v)
	sh.runDocument(t, "docs/audit.md", promises{
		"vault secrets tune": "Success",
		"vault write -field": `^hmac-sha256:[0-9a-f]{64}\n?$`,
	}, nil, nil)

	alice := enrol(t, e, "alice-password", identity.Password, "correct horse battery staple", nil)
	phone := enrol(t, e, "alice-phone", identity.Phone, "", map[string]any{"phone": "+41441234567"})
	o := e.makes(t, alice, "alice")
	mail := assetBody(t, o, o.NewAsset("mail", identity.SecretAsset), "password", nil, []byte("hunter2"), "owner")
	e.write(t, "identities/alice/assets/mail", mail)
	manifest := e.read(t, "identities/alice")["manifest"].(string)
	e.write(t, "authenticators/alice-phone/lost", map[string]any{"reason": "INC-42"})
	e.write(t, "identities/alice/freeze", map[string]any{"reason": "INC-43"})
	e.refuse(t, "identities/alice/assets/mail", mail, http.StatusConflict, "frozen")
	e.write(t, "identities/alice/unfreeze", nil)
	e.write(t, "authenticators/alice-phone/found", nil)
	e.remove(t, "authenticators/alice-phone")
	e.remove(t, "identities/alice")

	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for what, hidden := range map[string]string{
		"the number": "+41441234567", "the asset": mail["asset"].(string), "the manifest": manifest, "the wrapped seed": b64(phone.a.Wrapped), "the secret": "hunter2",
	} {
		if bytes.Contains(raw, []byte(hidden)) {
			t.Errorf("the audit log shows %s", what)
		}
	}
	var steps []string
	reasons := map[string]any{}
	states := map[string]any{}
	for _, line := range bytes.Split(bytes.TrimSpace(raw), []byte("\n")) {
		var entry auditEntry
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Type == "request" {
			steps = append(steps, entry.Request.Operation+" "+entry.Request.Path)
			if reason, ok := entry.Request.Data["reason"]; ok {
				reasons[entry.Request.Path] = reason
			}
		} else if state, ok := entry.Response.Data["state"]; ok {
			states[entry.Request.Path] = state
		}
	}
	at := 0
	for _, want := range []string{
		"create mpc/authenticators/alice-password", "create mpc/identities/alice", "create mpc/identities/alice/assets/mail",
		"update mpc/authenticators/alice-phone/lost", "update mpc/identities/alice/freeze", "update mpc/identities/alice/unfreeze",
		"update mpc/authenticators/alice-phone/found", "delete mpc/authenticators/alice-phone", "delete mpc/identities/alice",
	} {
		for at < len(steps) && steps[at] != want {
			at++
		}
		if at == len(steps) {
			t.Fatalf("the audit log does not show %s in its order: %q", want, steps)
		}
	}
	if reasons["mpc/authenticators/alice-phone/lost"] != "INC-42" || reasons["mpc/identities/alice/freeze"] != "INC-43" {
		t.Errorf("reasons: %v", reasons)
	}
	if states["mpc/authenticators/alice-phone/lost"] != "lost" || states["mpc/identities/alice/freeze"] != "frozen" {
		t.Errorf("states: %v", states)
	}
}
