//go:build e2e

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestHSMDocument runs the commands of docs/hsm.md in order.
func TestHSMDocument(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	token := v.AddToken(t, "demo")
	v.Enable(t, "mpc")
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(token.PIN), 0o600); err != nil {
		t.Fatal(err)
	}
	sh := newShell(t, v, "HSM_PIN_FILE="+pin)
	e := &engine{v, "mpc"}
	for _, command := range console(t, "docs/hsm.md") {
		out := sh.run(t, command, "")
		switch {
		case strings.HasPrefix(command, "vault write mpc/config/hsm"):
			e.waitNodes(t, 5)
			e.create(t, "treasury", bip340, 2, 3)
		case strings.HasPrefix(command, "mpckms wrapping-key list"):
			if !strings.Contains(out, "live, newest") || !strings.Contains(out, "retired") {
				t.Errorf("$ %s\n%s", command, out)
			}
		case strings.HasPrefix(command, "mpckms rotation status"):
			if !strings.Contains(out, "sealed to version 2") {
				t.Errorf("$ %s\n%s", command, out)
			}
		}
	}
	e.sign(t, "treasury", []byte("after all of it"))
	e.refuse(t, "destroy/wrapping-keys", nil, 409, "treasury")
	if _, err := v.Client.Logical().Delete("mpc/destroy/treasury"); err != nil {
		t.Fatal(err)
	}
	before := objects(t, v)
	answer := e.write(t, "destroy/wrapping-keys", nil)
	if got := fmt.Sprint(answer["destroyed"]); got != "[1 2]" {
		t.Errorf("destroyed %s: %v", got, answer)
	}
	if after := objects(t, v); before-after != 4 {
		t.Errorf("the token had %d objects and has %d, two key pairs should be gone", before, after)
	}
	e.refuse(t, "wrapping-keys/rotate", nil, badRequest, "config/hsm")
	// The mount can begin anew, with a version that was never used.
	e.write(t, "config/hsm", map[string]any{"uri": token.URI(), "pin": token.PIN})
	e.waitNodes(t, 5)
	if got := number(t, e.read(t, "config/hsm")["wrapping_version"]); got != 3 {
		t.Errorf("it begins again with version %d", got)
	}
	e.create(t, "again", bip340, 2, 3)
	e.sign(t, "again", []byte("anew"))
}

// objects counts what SoftHSM stores, one file each.
func objects(t testing.TB, v *e2e.Vault) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(v.Dir, "tokens", "*", "*.object"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestDestroyedVersionOpensNothing keeps an account's entry from before a
// rotation, as a thief of a snapshot would, and puts it back once the version
// that it was sealed to is destroyed.
func TestDestroyedVersionOpensNothing(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 3})
	v.ConfigHSM(t, "mpc")
	e.waitNodes(t, 3)
	e.write(t, "config/rotation", map[string]any{"refresh_period": "24h", "retire_after": "2s"})
	e.create(t, "alice", bip340, 2, 3)
	e.create(t, "bob", ed25519, 2, 3)
	old := v.RawRead(t, "mpc", "accounts/alice")
	pids := e.pids(t)
	before := objects(t, v)
	e.write(t, "wrapping-keys/rotate", nil)
	e.sign(t, "alice", []byte("right after the rotation"))
	e.await(t, 60*time.Second, "the end of version 1", func() bool {
		e.sign(t, "bob", []byte("meanwhile"))
		return e.read(t, "wrapping-keys/1")["state"] == "destroyed"
	})
	if now := e.pids(t); fmt.Sprint(now) != fmt.Sprint(pids) {
		t.Errorf("nodes were started again: %v, then %v", pids, now)
	}
	if after := objects(t, v); after != before {
		t.Errorf("the token had %d objects before the rotation and has %d after it", before, after)
	}
	for _, name := range []string{"alice", "bob"} {
		e.sign(t, name, []byte("sealed to version 2"))
		if got := number(t, e.read(t, "accounts/"+name)["wrapping_version"]); got != 2 {
			t.Errorf("%s is sealed to version %d", name, got)
		}
	}
	v.RawWrite(t, "mpc", "accounts/alice", old)
	v.Kill9(t)
	v.Restart(t)
	e.waitNodes(t, 3)
	e.sign(t, "bob", []byte("not affected"))
	if answer, err := e.trySign("alice", []byte("stolen")); err == nil {
		t.Fatalf("an envelope of a destroyed version opens: %v", answer)
	} else {
		t.Logf("as it should: %v", err)
	}
	if !slices.Contains(v.RawList(t, "mpc"), "accounts/alice") {
		t.Error("the entry is gone: the test tests nothing")
	}
}
