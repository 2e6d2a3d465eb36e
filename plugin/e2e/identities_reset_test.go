//go:build e2e

package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestIdentityLoss takes an identity with a custody account through loss, freeze
// and reset; the reset is killed a few times on its way.
func TestIdentityLoss(t *testing.T) {
	e := shared(t)
	ada, drawer, ben := acme(t, e.Vault, "loss")
	ada.operates(t, "account", "create", "loss-gold", "--algorithm", bip340, "--custody", "loss/gold", "--role", "treasury")
	before := e.read(t, "accounts/loss-gold")
	ada.does(t, "account", "sign", "loss-gold", "--input", "one")
	ben.refused(t, []string{"loss-gold"}, "account", "sign", "loss-gold", "--input", "one")
	e.refuse(t, "sign/loss-gold", map[string]any{"input": "b25l"}, 409, "custody")

	// Lost: at once, and told only to who has its secret.
	e.write(t, "authenticators/loss-ada/lost", map[string]any{"reason": "laptop stolen"})
	ada.refused(t, []string{"reported lost"}, "account", "sign", "loss-gold", "--input", "two")
	stranger := *ada
	stranger.secrets = []string{"--passphrase-file", writeFile(t, "a guess of it\n")}
	if r := stranger.run(t, nil, nil, "login"); r.Code != 1 || strings.Contains(r.Stderr, "lost") {
		t.Errorf("a stranger learns that it was lost: %s", r.Stderr)
	}

	// Frozen: nobody opens it, none of its accounts sign, nothing is reset.
	e.write(t, "identities/loss/freeze", map[string]any{"reason": "looking into it"})
	for _, args := range [][]string{{"secret", "show", "loss/dns"}, {"account", "sign", "loss-gold", "--input", "two"}, {"identity", "reset", "loss", "--lost", "loss-ada"}} {
		drawer.refused(t, []string{"frozen"}, args...)
	}
	drawer.does(t, "identity", "unfreeze", "loss")

	// Reset, killed on its way: while roles have two sets of keys, and while the
	// account has two custody keys.
	drawer.killed(t, "roles have two sets of keys", func() bool { return e.read(t, "identities/loss")["reset_pending"] == true },
		"identity", "reset", "loss", "--lost", "loss-ada")
	ben.shows(t, "loss/dns", "dns token") // meanwhile
	drawer.killed(t, "the account has two custody keys", func() bool { return e.read(t, "accounts/loss-gold")["custody_pending"] == true },
		"identity", "reset", "loss", "--lost", "loss-ada")
	drawer.does(t, "account", "sign", "loss-gold", "--input", "meanwhile")
	out := drawer.run(t, nil, nil, "identity", "reset", "loss", "--lost", "loss-ada")
	if out.Code != 0 && !strings.Contains(out.Stderr, "no reset is unfinished") {
		t.Fatalf("exit %d: %s%s", out.Code, out.Stdout, out.Stderr)
	}

	after := e.read(t, "accounts/loss-gold")
	custody := func(acc map[string]any) any { return acc["custody"].(map[string]any)["public_key"] }
	if custody(after) == custody(before) || after["public_key_hex"] != before["public_key_hex"] || after["custody_pending"] != false {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
	facts := e.read(t, "identities/loss")
	if facts["reset_pending"] != false || len(facts["grants"].([]any)) != 2 {
		t.Errorf("after the reset: %v", facts)
	}
	drawer.shows(t, "loss/dns", "dns token")
	drawer.shows(t, "loss/safe", "safe code")
	ben.shows(t, "loss/dns", "dns token")
	drawer.does(t, "account", "sign", "loss-gold", "--input", "three")
	drawer.does(t, "account", "refresh", "loss-gold")
	drawer.does(t, "account", "sign", "loss-gold", "--input", "four")

	// A found authenticator opens nothing of it any more.
	e.write(t, "authenticators/loss-ada/found", nil)
	ada.refused(t, []string{"loss"}, "secret", "show", "loss/dns")
	ada.refused(t, []string{"loss-gold"}, "account", "sign", "loss-gold", "--input", "five")
}

// killed runs a command and kills it once the server is in some state on the way.
func (p *person) killed(t *testing.T, what string, state func() bool, args ...string) {
	t.Helper()
	cmd := exec.Command(harness.CLIBin, append(args, p.secrets...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.home, "MPCKMS_HOME=" + filepath.Join(p.home, "mpckms"), "VAULT_ADDR=" + p.address}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			t.Logf("not killed while %s: it was done before that was seen (%v)", what, err)
			return
		case <-time.After(2 * time.Millisecond):
		}
		if state() {
			_ = cmd.Process.Kill() // it may just be done
			t.Logf("killed while %s: %v", what, <-ended)
			return
		}
	}
}
