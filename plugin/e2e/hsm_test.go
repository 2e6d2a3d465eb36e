//go:build e2e

package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestTokenAway: the token vanishes under a running mount and comes back.
// Meanwhile errors say that the HSM is unavailable, and nodes/ shows it, also
// if nobody asks for a signature; afterwards everything works again, in the same
// Vault.
func TestTokenAway(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 3})
	v.ConfigHSM(t, "mpc")
	e.waitNodes(t, 3)
	e.create(t, "alice", bip340, 2, 3)
	e.create(t, "bob", "ed25519", 2, 3)
	e.sign(t, "alice", []byte("before"))
	e.sign(t, "bob", []byte("before"))

	tokens := filepath.Join(v.Dir, "tokens")
	away := tokens + "-away"
	if err := os.Rename(tokens, away); err != nil {
		t.Fatal(err)
	}
	e.await(t, 20*time.Second, "every node showing that the token is away", func() bool {
		for _, n := range e.nodes(t) {
			if n["hsm"] == "ok" {
				return false
			}
		}
		return true
	})
	_, err := v.Client.Logical().Write("mpc/sign/alice", map[string]any{"input": b64([]byte("away"))})
	if !answers(err, http.StatusServiceUnavailable) || !strings.Contains(fmt.Sprint(err), "HSM unavailable") {
		t.Errorf("while the token is away: %v", err)
	}
	for id, n := range e.nodes(t) {
		if s := fmt.Sprint(n["hsm"]); !strings.Contains(s, "unavailable") {
			t.Errorf("%s says of its HSM: %s", id, s)
		}
	}
	if err := os.Rename(away, tokens); err != nil {
		t.Fatal(err)
	}
	// A request that comes now waits for the nodes.
	failures := 0
	start := time.Now()
	for {
		_, err := v.Client.Logical().Write("mpc/sign/alice", map[string]any{"input": b64([]byte("back"))})
		if err == nil {
			break
		}
		failures++
		if time.Since(start) > 60*time.Second {
			t.Fatalf("the token is back for a minute: %v", err)
		}
	}
	t.Logf("signed again %v after the token came back, %d requests had failed", time.Since(start).Round(time.Millisecond), failures)
	e.sign(t, "bob", []byte("after"))
	e.waitNodes(t, 3)
	e.write(t, "accounts/alice/refresh", nil)
	e.sign(t, "alice", []byte("after the refresh"))
}

// TestTokenBlink: the token is away for a moment only. Nobody may see more than
// one failed request for it.
func TestTokenBlink(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 3})
	v.ConfigHSM(t, "mpc")
	e.waitNodes(t, 3)
	e.create(t, "alice", bip340, 2, 3)
	tokens := filepath.Join(v.Dir, "tokens")
	for range 3 {
		if err := os.Rename(tokens, tokens+"-away"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		if err := os.Rename(tokens+"-away", tokens); err != nil {
			t.Fatal(err)
		}
		failed := 0
		for range 5 {
			if _, err := v.Client.Logical().Write("mpc/sign/alice", map[string]any{"input": b64([]byte("blink"))}); err != nil {
				t.Logf("after a blink: %v", err)
				failed++
			}
		}
		if failed > 1 {
			t.Errorf("%d of 5 requests failed after the token was away for 0.2 s", failed)
		}
	}
}

// TestPINFromHost: the node host provides the PIN; Vault stores none, and the
// file is read anew when config/hsm is written.
func TestPINFromHost(t *testing.T) {
	pin := filepath.Join(t.TempDir(), "pin")
	v := harness.StartVault(t, e2e.Options{PINFile: pin, Storage: e2e.Raft})
	if err := os.WriteFile(pin, []byte(v.Token.PIN+"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(pin, 0o640); err != nil {
		t.Fatal(err)
	}
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 3})
	e.refuse(t, "config/hsm", map[string]any{"uri": v.Token.URI(), "pin": v.Token.PIN}, badRequest, "pin is not taken", "pin-file")
	e.refuse(t, "config/hsm", map[string]any{"uri": v.Token.URI()}, badRequest, "others than its owner", "nothing was stored")
	if err := os.Chmod(pin, 0o400); err != nil {
		t.Fatal(err)
	}
	answer := e.write(t, "config/hsm", map[string]any{"uri": v.Token.URI()})
	if answer["pin_set"] != false || answer["pin_source"] != "host" {
		t.Errorf("config/hsm: %v", answer)
	}
	e.waitNodes(t, 3)
	e.create(t, "alice", bip340, 2, 3)
	e.sign(t, "alice", []byte("with the host's PIN"))
	for _, key := range v.RawList(t, "mpc") {
		if strings.Contains(string(v.RawRead(t, "mpc", key)), v.Token.PIN) {
			t.Errorf("storage holds the PIN under %s", key)
		}
	}
	v.Kill9(t)
	v.Restart(t)
	e.waitNodes(t, 3)
	e.sign(t, "alice", []byte("after a restart"))
}

// TestRefusedPINIsRemembered: the token refuses the stored PIN; neither a new
// plugin process nor a new Vault tries it again.
func TestRefusedPINIsRemembered(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 3})
	v.ConfigHSM(t, "mpc")
	e.waitNodes(t, 3)
	e.create(t, "alice", bip340, 2, 3)
	newPIN := v.Token.PIN[:8] + "-changed"
	if err := setPIN(t, v.Token, newPIN); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(e.pids(t)["local-1"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.await(t, 15*time.Second, "a node that the token refuses", func() bool { return e.nodes(t)["local-1"]["state"] == "failed" })
	e.await(t, 10*time.Second, "the refusal in storage", func() bool {
		return strings.Contains(fmt.Sprint(e.read(t, "config/hsm")["pin_refused"]), "refused the PIN")
	})
	v.Kill9(t)
	from := len(v.Log(t))
	v.Restart(t)
	e.await(t, 30*time.Second, "nodes that do not try the PIN", func() bool {
		for _, n := range e.nodes(t) {
			if n["state"] != "failed" || !strings.Contains(fmt.Sprint(n["last_error"]), "was not tried again") {
				return false
			}
		}
		return len(e.nodes(t)) == 3
	})
	if log := string(v.Log(t)[from:]); strings.Contains(log, "CKR_PIN_INCORRECT") {
		t.Error("the token was asked with the refused PIN after the restart")
	}
	e.write(t, "config/hsm", map[string]any{"pin": newPIN})
	e.waitNodes(t, 3)
	e.sign(t, "alice", []byte("with the right PIN"))
	if refused := e.read(t, "config/hsm")["pin_refused"]; refused != "" {
		t.Errorf("pin_refused: %v", refused)
	}
}

// answers reports whether err is an answer of Vault with that status.
func answers(err error, status int) bool {
	var response *api.ResponseError
	return errors.As(err, &response) && response.StatusCode == status
}
