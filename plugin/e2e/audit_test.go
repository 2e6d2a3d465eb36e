//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// auditEntry is a line of a file audit device, as far as it matters here.
type auditEntry struct {
	Type              string
	Request, Response struct {
		ID, Path, Operation string
		Data                map[string]any
	}
}

// TestAuditDocument runs the commands of docs/audit.md on a Vault with a file
// audit device, and looks at what the device has written.
func TestAuditDocument(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	log := filepath.Join(v.Dir, "audit.log")
	if err := v.Client.Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": log}}); err != nil {
		t.Fatal(err)
	}
	e := enable(t, v, "mpc", 3)
	e.create(t, "alice", bip340, 2, 3)
	sh := newShell(t, v)
	hash := ""
	sh.runDocument(t, "docs/audit.md", promises{
		"vault secrets tune": "Success",
		"vault write -field": `^hmac-sha256:[0-9a-f]{64}\n?$`,
	}, nil, func(command, out string) {
		if strings.HasPrefix(command, "vault write -field=hash") {
			hash = strings.TrimSpace(out)
		}
	})

	answer := e.write(t, "sign/alice", map[string]any{
		"input": b64([]byte("hello")), "derivation_path": "m/0/7", "request_id": "order-1", "message_type": "raw",
	})
	e.write(t, "sign/alice", map[string]any{"batch_input": []any{map[string]any{"input": b64([]byte("one of a batch")), "reference": "a"}}})
	e.write(t, "accounts/alice/freeze", map[string]any{"reason": "INC-42"})
	e.write(t, "config/hsm", map[string]any{"pin": v.Token.PIN})
	if out := v.CLI(t, "read", "-format=raw", "mpc/metrics"); out.Code != 0 {
		t.Fatalf("metrics: %+v", out)
	}

	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{
		v.Token.PIN, b64([]byte("hello")), b64([]byte("one of a batch")), answer["signature"].(string), answer["signature_hex"].(string), "mpc_nodes",
	} {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("the audit log holds %q in clear", secret)
		}
	}
	entries := map[string]auditEntry{} // by kind and path
	for _, line := range bytes.Split(bytes.TrimSpace(raw), []byte("\n")) {
		var entry auditEntry
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatal(err)
		}
		if _, batch := entry.Request.Data["batch_input"]; !batch {
			entries[entry.Type+" "+entry.Request.Path] = entry
		}
	}
	request, response := entries["request mpc/sign/alice"].Request.Data, entries["response mpc/sign/alice"].Response.Data
	for field, want := range map[string]any{"derivation_path": "m/0/7", "request_id": "order-1", "message_type": "raw", "input": hash} {
		if request[field] != want {
			t.Errorf("the request's %s is %v, want %v", field, request[field], want)
		}
	}
	for _, field := range []string{"session_id", "public_key", "derivation_path", "request_id", "signature_format"} {
		if response[field] != answer[field] || answer[field] == nil {
			t.Errorf("the answer's %s is %v, want %v", field, response[field], answer[field])
		}
	}
	if signers, _ := json.Marshal(response["signers"]); !bytes.Contains(signers, []byte("local-")) {
		t.Errorf("the answer's signers are %s", signers)
	}
	for _, field := range []string{"signature", "signature_hex"} {
		if text, _ := response[field].(string); !strings.HasPrefix(text, "hmac-sha256:") {
			t.Errorf("the answer's %s is %v", field, response[field])
		}
	}
	if pin, _ := entries["request mpc/config/hsm"].Request.Data["pin"].(string); !strings.HasPrefix(pin, "hmac-sha256:") {
		t.Errorf("the PIN is logged as %q", pin)
	}
	if frozen := entries["request mpc/accounts/alice/freeze"].Request.Data; frozen["reason"] != "INC-42" {
		t.Errorf("a freeze is logged as %v", frozen)
	}
}
