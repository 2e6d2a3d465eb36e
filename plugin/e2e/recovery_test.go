//go:build e2e

package e2e_test

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestRecoveryDocument runs the commands of docs/recovery.md in order, and
// between them loses the HSM: the token of the first mount is removed before the
// ceremony.
func TestRecoveryDocument(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	v.Enable(t, "mpc")
	first := &engine{v, "mpc"}
	first.write(t, "config/nodes", map[string]any{"local": 3})
	v.ConfigHSM(t, "mpc")
	first.waitNodes(t, 3)
	keys := map[string]any{}
	for name, algorithm := range map[string]string{"treasury": bip340, "hot": "ed25519", "contracts": ecdsaCurve} {
		keys[name] = first.create(t, name, algorithm, 2, 3)["public_key_hex"]
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "passphrase"), []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sh := newShell(t, v)
	sh.dir = dir
	lost := false
	promised := map[string]string{
		"mpckms authority show":          "alice",
		"vault read -field=recovery_rec": "[alice bob carol]",
		"mpckms recovery export":         "any 2 of alice, bob, carol",
		"mpckms recovery deal":           "Dealt",
		"mpckms account sign":            "Signature",
	}
	kept := map[string]bool{}
	for _, command := range console(t, "docs/recovery.md") {
		if strings.HasPrefix(command, "vault read -field=recovery_recipients") {
			first.awaitCaughtUp(t)
		}
		if !lost && strings.Contains(command, "--mount rebuilt") {
			lost = true
			first.loseHSM(t)
		}
		out := sh.run(t, command, "")
		for prefix, text := range promised {
			if strings.HasPrefix(command, prefix) {
				kept[prefix] = true
				if !strings.Contains(out, text) {
					t.Errorf("$ %s\n%s\ndoes not say %q", command, out, text)
				}
			}
		}
	}
	for prefix := range promised {
		if !kept[prefix] {
			t.Errorf("the document has no command %s", prefix)
		}
	}
	second := &engine{v, "rebuilt"}
	if got := second.read(t, "accounts/treasury")["public_key_hex"]; got != keys["treasury"] {
		t.Errorf("the rebuilt account has the key %v, it was %v", got, keys["treasury"])
	}
	second.sign(t, "treasury", []byte("after the loss"))
	second.write(t, "accounts/treasury/refresh", nil)
	second.sign(t, "treasury", []byte("after its refresh"))

	// An account that needs auxiliary keys, by other custodians.
	for _, who := range []string{"bob", "carol"} {
		sh.run(t, "mpckms recovery deal --key "+who+".key --bundle bundles/contracts.bundle --target target.signed.json --authority authority.key.pub --out "+who+"2.deal --passphrase-file passphrase", "")
	}
	sh.run(t, "mpckms recovery import contracts --mount rebuilt --bundle bundles/contracts.bundle --target target.signed.json bob2.deal carol2.deal", "")
	second.waitAuxiliary(t)
	second.sign(t, "contracts", []byte("after the loss"))

	t.Run("refusals", func(t *testing.T) {
		read := func(name string) string {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		bundle, target := read("bundles/treasury.bundle"), read("target.signed.json")
		alice, carol := read("alice.deal"), read("carol.deal")
		deals := func(d ...any) []any { return d }
		for what, x := range map[string]struct {
			path string
			body map[string]any
			text string
		}{
			"one deal":            {"recovery/import/again", map[string]any{"bundle": bundle, "target": target, "deals": deals(alice)}, "2 custodians"},
			"the same deal twice": {"recovery/import/again", map[string]any{"bundle": bundle, "target": target, "deals": deals(alice, alice)}, "two deals"},
			"another account":     {"recovery/import/again", map[string]any{"bundle": read("bundles/hot.bundle"), "target": target, "deals": deals(alice, carol)}, "another account"},
			"an unsigned target":  {"recovery/import/again", map[string]any{"bundle": bundle, "target": read("target.json"), "deals": deals(alice, carol)}, "target"},
			"no bundle":           {"recovery/import/again", map[string]any{"target": target, "deals": deals(alice, carol)}, "bundle"},
			"no deals":            {"recovery/import/again", map[string]any{"bundle": bundle, "target": target}, "2 custodians"},
			"text as deals":       {"recovery/import/again", map[string]any{"bundle": bundle, "target": target, "deals": deals("x", "y")}, "deals: number 1"},
		} {
			second.refuse(t, x.path, x.body, badRequest, x.text)
			_ = what
		}
		second.refuse(t, "recovery/import/contracts", map[string]any{"bundle": bundle, "target": target, "deals": deals(alice, carol)}, 409, "another account")
		second.refuse(t, "recovery/import/treasury", map[string]any{"bundle": bundle, "target": target, "deals": deals(alice, carol)}, 409, "share epoch")
		second.refuse(t, "recovery/import/again", map[string]any{"bundle": bundle, "target": target, "deals": deals(alice, carol)}, 409, "under the name", "treasury")
		second.refuse(t, "config/authority", map[string]any{"public_key": "abc"}, badRequest, "hex digits")
		second.refuse(t, "config/recovery", map[string]any{"set": "{}"}, badRequest, "set")
		first.refuse(t, "config/authority", map[string]any{"public_key": hex.EncodeToString(make([]byte, 32))}, badRequest, "another authority is pinned")
		first.refuse(t, "config/recovery", map[string]any{"set": strings.Replace(read("recipients.json"), `"signature":"`, `"signature":"A`, 1)}, badRequest, "set")
		first.refuse(t, "accounts/toomany", map[string]any{"algorithm": bip340, "threshold": 2, "shares": 4}, badRequest, "4")
	})
	t.Run("another authority", func(t *testing.T) {
		// Whoever could replace the authority would make himself custodian.
		sh.run(t, "mpckms authority init --out new.key --passphrase-file passphrase", "")
		for _, e := range []*engine{first, second} {
			e.refuse(t, "config/authority", map[string]any{"public_key": readText(t, dir, "new.key.pub")}, badRequest, "another authority is pinned", "nothing was changed")
		}
		sh.run(t, "mpckms authority pin authority.key.pub --mount rebuilt", "") // the same, again
		sh.run(t, "mpckms recovery set --mount rebuilt recipients.json", "")
		second.awaitCaughtUp(t)
		if a := second.read(t, "accounts/treasury"); a["recipients_current"] != true {
			t.Errorf("after the set: %v", a)
		}
		second.sign(t, "treasury", []byte("with recipients"))
	})
}

func readText(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// awaitCaughtUp waits until every account has been refreshed at once.
func (e *engine) awaitCaughtUp(t testing.TB) {
	t.Helper()
	e.await(t, 30*time.Second, "the end of the catch-up", func() bool {
		state, _ := e.read(t, "config/rotation")["catch_up"].(map[string]any)
		done, _ := state["finished_time"].(string)
		return done != ""
	})
}

// loseHSM removes the token of the first mount for good and enables the engine
// at rebuilt, on a fresh token.
func (e *engine) loseHSM(t testing.TB) {
	t.Helper()
	tokens := filepath.Join(e.Dir, "tokens")
	if err := os.RemoveAll(tokens); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	fresh := e.AddToken(t, "fresh")
	e.Enable(t, "rebuilt")
	second := &engine{e.Vault, "rebuilt"}
	second.write(t, "config/nodes", map[string]any{"local": 3})
	second.write(t, "config/hsm", map[string]any{"uri": fresh.URI(), "pin": fresh.PIN})
	second.waitNodes(t, 3)
}
