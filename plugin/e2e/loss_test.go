//go:build e2e

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// custodians are three people and an authority, with their files in a folder.
type custodians struct {
	dir string
	sh  shell
}

const withPassphrase = " --passphrase-file passphrase"

func newCustodians(t *testing.T, v *e2e.Vault) *custodians {
	t.Helper()
	c := &custodians{dir: t.TempDir(), sh: newShell(t, v)}
	c.sh.dir = c.dir
	if err := os.WriteFile(filepath.Join(c.dir, "passphrase"), []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(t, "mpckms authority init --out authority.key"+withPassphrase)
	for _, name := range []string{"alice", "bob", "carol"} {
		c.run(t, "mpckms recovery keygen --name "+name+" --out "+name+".key"+withPassphrase)
	}
	c.run(t, "mpckms authority sign-set alice.key.pub bob.key.pub carol.key.pub --serial 1 --key authority.key --out recipients.json --yes"+withPassphrase)
	return c
}

func (c *custodians) run(t *testing.T, command string) {
	t.Helper()
	c.sh.run(t, command, "")
}

// rebuild has two custodians rebuild an account of a bundle on a mount, which
// may be another Vault's.
func (c *custodians) rebuild(t *testing.T, e *engine, account, bundle, tag string) {
	t.Helper()
	sh := newShell(t, e.Vault)
	sh.dir = c.dir
	run := func(format string, args ...any) { sh.run(t, fmt.Sprintf(format, args...), "") }
	run("mpckms authority pin authority.key.pub --mount %s", e.path)
	run("mpckms recovery target --mount %s --out %s.json", e.path, tag)
	run("mpckms authority sign-target %s.json --key authority.key --out %s.signed --yes"+withPassphrase, tag, tag)
	for _, who := range []string{"bob", "carol"} {
		run("mpckms recovery deal --key %s.key --bundle %s --target %s.signed --authority authority.key.pub --out %s.%s.deal"+withPassphrase, who, bundle, tag, who, tag)
	}
	run("mpckms recovery import %s --mount %s --bundle %s --target %s.signed bob.%s.deal carol.%s.deal", account, e.path, bundle, tag, tag, tag)
}

// TestLosses goes through the losses in docs/recovery.md that TestRecoveryDocument
// does not: a snapshot that is older than its wrapping keys, and all of Vault.
func TestLosses(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	v.Enable(t, "mpc")
	e := &engine{v, "mpc"}
	e.write(t, "config/nodes", map[string]any{"local": 3})
	v.ConfigHSM(t, "mpc")
	e.waitNodes(t, 3)
	key := e.create(t, "treasury", bip340, 2, 3)["public_key_hex"]
	c := newCustodians(t, v)
	c.run(t, "mpckms authority pin authority.key.pub")
	c.run(t, "mpckms recovery set recipients.json")
	e.awaitCaughtUp(t)

	// A snapshot, and after it the end of the wrapping key that it needs.
	file := filepath.Join(c.dir, "raft.snapshot")
	if r := v.CLI(t, "operator", "raft", "snapshot", "save", file); r.Code != 0 {
		t.Fatalf("saving the snapshot: %+v", r)
	}
	e.write(t, "config/rotation", map[string]any{"refresh_period": "24h", "retire_after": "2s"})
	e.write(t, "wrapping-keys/rotate", nil)
	e.await(t, 60*time.Second, "the end of version 1", func() bool { return e.read(t, "wrapping-keys/1")["state"] == "destroyed" })
	c.run(t, "mpckms recovery export treasury --out kept.bundle") // for the last loss
	family := e.family(t)
	if r := v.CLI(t, "operator", "raft", "snapshot", "restore", file); r.Code != 0 {
		t.Fatalf("restoring the snapshot: %+v", r)
	}
	e2e.WaitGone(t, family, gone)
	e.await(t, 30*time.Second, "the restored account", func() bool {
		a, err := v.Client.Logical().Read("mpc/accounts/treasury")
		return err == nil && a != nil
	})
	if answer, err := e.trySign("treasury", []byte("too old")); err == nil {
		t.Fatalf("a snapshot whose wrapping key is destroyed signs: %v", answer)
	} else {
		t.Logf("the restored mount: %v", err)
	}
	c.run(t, "mpckms recovery export treasury --out restored.bundle")
	v.Enable(t, "rebuilt")
	rebuilt := &engine{v, "rebuilt"}
	rebuilt.write(t, "config/nodes", map[string]any{"local": 3})
	v.ConfigHSM(t, "rebuilt")
	rebuilt.waitNodes(t, 3)
	c.rebuild(t, rebuilt, "treasury", "restored.bundle", "snapshot")
	rebuilt.sign(t, "treasury", []byte("after the snapshot"))

	// Vault and its HSM are gone; what was kept outside of them is a bundle.
	v.Stop(t)
	other := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	other.Enable(t, "mpc")
	second := &engine{other, "mpc"}
	second.write(t, "config/nodes", map[string]any{"local": 3})
	other.ConfigHSM(t, "mpc")
	second.waitNodes(t, 3)
	c.rebuild(t, second, "treasury", "kept.bundle", "other")
	if now := second.read(t, "accounts/treasury")["public_key_hex"]; now != key {
		t.Errorf("the key is %v, it was %v", now, key)
	}
	second.sign(t, "treasury", []byte("in another Vault"))
	second.write(t, "accounts/treasury/refresh", nil)
	second.sign(t, "treasury", []byte("after a refresh there"))
}
