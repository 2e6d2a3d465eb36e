//go:build e2e

package e2e_test

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// nssToken makes an NSS database and returns the entry for the module list, its
// PIN and its folder.
func nssToken(t *testing.T) (module, pin, dir string) {
	t.Helper()
	matches, _ := filepath.Glob("/usr/lib/*/nss/libsoftokn3.so")
	more, _ := filepath.Glob("/usr/lib/*/libsoftokn3.so")
	matches = append(matches, append(more, "/usr/lib64/libsoftokn3.so")...)
	for _, m := range matches {
		if _, err := os.Stat(m); err == nil && module == "" {
			module = m
		}
	}
	if module == "" {
		t.Fatal("libsoftokn3.so not found; run make setup")
	}
	dir, pin = t.TempDir(), "nss-test-pin"
	file := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(file, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("certutil", "-N", "-d", "sql:"+dir, "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("certutil (libnss3-tools, run make setup): %v: %s", err, out)
	}
	args := fmt.Sprintf("configDir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' flags=", dir)
	return "nss=" + module + ";init-args=" + url.PathEscape(args), pin, dir
}

// TestNSS runs a mount on another token than SoftHSM, with each suite: keys,
// signatures, refreshes, a new wrapping key, and the token away and back.
func TestNSS(t *testing.T) {
	module, pin, dir := nssToken(t)
	v := harness.StartVault(t, e2e.Options{MoreModules: module})
	v.Enable(t, "nss")
	e := &engine{v, "nss"}
	e.write(t, "config/nodes", map[string]any{"local": 3})
	const uri = "pkcs11:token=NSS%20Certificate%20DB?module-name=nss"
	e.refuse(t, "config/hsm", map[string]any{"uri": uri, "pin": "wrong"}, badRequest, "refused the PIN")
	e.refuse(t, "config/hsm", map[string]any{"uri": uri, "pin": pin, "suite": "rsa3072-oaep-sha1-for-tests"}, badRequest, "suite")
	answer := e.write(t, "config/hsm", map[string]any{"uri": uri, "pin": pin})
	if answer["suite"] != "hpke-p256" {
		t.Errorf("auto chose %v", answer["suite"])
	}
	e.waitNodes(t, 3)
	e.create(t, "alice", bip340, 2, 3)
	e.sign(t, "alice", []byte("sealed by ECDH"))

	// An explicit change of suite holds for the next wrapping key.
	e.write(t, "config/hsm", map[string]any{"suite": "rsa3072-oaep-sha256"})
	e.await(t, 30*time.Second, "nodes with the new settings", func() bool {
		_, err := e.trySign("alice", []byte("still by ECDH"))
		return err == nil
	})
	rotated := e.write(t, "wrapping-keys/rotate", nil)
	if rotated["suite"] != "rsa3072-oaep-sha256" {
		t.Errorf("the new wrapping key is of %v", rotated["suite"])
	}
	e.write(t, "accounts/alice/refresh", nil)
	if got := number(t, e.read(t, "accounts/alice")["wrapping_version"]); got != 2 {
		t.Errorf("alice is sealed to version %d", got)
	}
	e.sign(t, "alice", []byte("sealed by RSA"))
	e.create(t, "bob", ed25519, 2, 3)
	e.sign(t, "bob", []byte("sealed by RSA"))

	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	_, away := e.trySign("alice", []byte("away"))
	t.Logf("with the database away: %v", away)
	if away != nil && !strings.Contains(away.Error(), "HSM unavailable") {
		t.Errorf("while the token is away: %v", away)
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	e.await(t, 30*time.Second, "signatures after the token came back", func() bool {
		_, err := e.trySign("bob", []byte("back"))
		return err == nil
	})
	e.waitNodes(t, 3)
	e.sign(t, "alice", []byte("back"))
}

// TestRSAForTests: the suite that SoftHSM can do with RSA is behind a flag in
// the host's list.
func TestRSAForTests(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{AllowSHA1: true})
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 3})
	e.refuse(t, "config/hsm", map[string]any{"uri": v.Token.URI(), "pin": v.Token.PIN, "suite": "rsa3072-oaep-sha256"}, badRequest, "nothing")
	e.write(t, "config/hsm", map[string]any{"uri": v.Token.URI(), "pin": v.Token.PIN, "suite": "rsa3072-oaep-sha1-for-tests"})
	e.waitNodes(t, 3)
	e.create(t, "alice", bip340, 2, 3)
	e.sign(t, "alice", []byte("through crypto11"))
	e.write(t, "accounts/alice/refresh", nil)
	e.sign(t, "alice", []byte("after a refresh"))
}
