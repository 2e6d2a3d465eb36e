//go:build e2e

package e2e_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestResetSurvivesVault: two authenticators are lost at once, one account of the
// identity was destroyed, and Vault is killed in the middle of the reset. Run
// again, it goes on; with the wrapping key rotated, and after seal and unseal, the
// others still get in, and custody accounts sign.
func TestResetSurvivesVault(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	e := enable(t, v, "mpc", 3)
	ada, drawer, ben := acme(t, v, "fire")
	for _, name := range []string{"gold", "lead"} {
		ada.operates(t, "account", "create", "fire-"+name, "--algorithm", bip340, "--shares", "3", "--custody", "fire/"+name, "--role", "treasury")
	}
	e.write(t, "destroy/fire-lead", nil)
	e.write(t, "authenticators/fire-ada/lost", map[string]any{"reason": "burnt"})
	e.write(t, "authenticators/fire-ben/lost", map[string]any{"reason": "burnt"})
	before := e.read(t, "accounts/fire-gold")
	back := func() {
		t.Helper()
		e.await(t, 30*time.Second, "answer from the engine", func() bool {
			_, err := v.Client.Logical().Read("mpc/nodes/local-1")
			return err == nil
		})
	}

	reset := []string{"identity", "reset", "fire", "--lost", "fire-ada", "--lost", "fire-ben"}
	for _, state := range []func() bool{
		func() bool { return e.read(t, "identities/fire")["reset_pending"] == true },
		func() bool { return e.read(t, "accounts/fire-gold")["custody_pending"] == true },
	} {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan e2e.Result, 1)
		go func() { defer cancel(); ended <- drawer.run(t, nil, nil, reset...) }()
		for ctx.Err() == nil && !state() {
			time.Sleep(2 * time.Millisecond)
		}
		below := v.Kill9(t)
		r := <-ended
		t.Logf("Vault was killed; exit %d: %s", r.Code, firstLine(r.Stderr))
		e2e.WaitGone(t, below, gone)
		v.Restart(t)
		back()
	}
	r := drawer.run(t, nil, nil, reset...)
	if r.Code != 0 && !strings.Contains(r.Stderr, "no reset is unfinished") {
		t.Fatalf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	facts := e.read(t, "identities/fire")
	if facts["reset_pending"] != false || len(facts["grants"].([]any)) != 1 {
		t.Errorf("after the reset: %v", facts)
	}
	after := e.read(t, "accounts/fire-gold")
	key := func(acc map[string]any) any { return acc["custody"].(map[string]any)["public_key"] }
	if key(after) == key(before) || after["public_key_hex"] != before["public_key_hex"] || after["custody_pending"] != false {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
	works := func(when string) {
		t.Helper()
		drawer.shows(t, "fire/safe", "safe code")
		drawer.does(t, "account", "sign", "fire-gold", "--input", when)
		ben.refused(t, nil, "secret", "show", "fire/dns")
	}
	works("after the reset")

	e.write(t, "wrapping-keys/rotate", nil)
	e.await(t, 60*time.Second, "seal of identity and node keys to the new version", func() bool {
		refs := e.read(t, "wrapping-keys/1")["references"].(map[string]any)
		return number(t, refs["identity_keys"]) == 0 && number(t, refs["node_keys"]) == 0
	})
	works("with the new wrapping key")
	v.Seal(t)
	v.Unseal(t)
	back()
	works("after seal and unseal")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
