//go:build e2e && cgo

package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// diagnosis is what `mpckms doctor -o json` said.
type diagnosis struct {
	Problems int    `json:"problems"`
	DropIn   string `json:"drop_in"`
	Checks   []struct {
		Area   string `json:"area"`
		Check  string `json:"check"`
		Result string `json:"result"`
		Says   string `json:"says"`
		Mend   string `json:"mend"`
	} `json:"checks"`
	text string
}

// doctorAs runs doctor with a token and checks that the exit code fits.
func doctorAs(t *testing.T, v *e2e.Vault, token string, args ...string) *diagnosis {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.CLIBin, append([]string{"doctor", "-o", "json"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(v.Dir, "home"), "VAULT_ADDR=" + v.Addr, "VAULT_TOKEN=" + token}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	d := &diagnosis{text: stdout.String()}
	if err := json.Unmarshal(stdout.Bytes(), d); err != nil {
		t.Fatalf("doctor: %v\n%s%s", err, stdout.String(), stderr.String())
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 && d.Problems == 0 || code != 1 && d.Problems > 0 {
		t.Errorf("exit code %d with %d problems: %s", code, d.Problems, stderr.String())
	}
	for _, secret := range []string{token, v.Token.PIN} {
		if strings.Contains(stdout.String()+stderr.String(), secret) {
			t.Error("doctor shows a secret")
		}
	}
	return d
}

func examineHealth(t *testing.T, v *e2e.Vault, args ...string) *diagnosis {
	t.Helper()
	return doctorAs(t, v, v.RootToken, args...)
}

// says expects one check to have ended so, with that text in it.
func (d *diagnosis) says(t *testing.T, area, check, result, text string) {
	t.Helper()
	for _, c := range d.Checks {
		if c.Area == area && c.Check == check {
			if c.Result != result || !strings.Contains(c.Says+"\n"+c.Mend, text) {
				t.Errorf("%s, %s: %s: %s\n%s\nwant %s with %q", area, check, c.Result, c.Says, c.Mend, result, text)
			}
			return
		}
	}
	t.Errorf("nothing about %s, %s:\n%s", area, check, d.text)
}

// well expects no problem.
func (d *diagnosis) well(t *testing.T) {
	t.Helper()
	for _, c := range d.Checks {
		if c.Result == "problem" {
			t.Errorf("%s, %s: %s", c.Area, c.Check, c.Says)
		}
	}
}

// TestDoctor breaks one thing after the other on a real Vault and looks at what
// mpckms doctor says of it.
func TestDoctor(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	const path = "mpc"
	v.Enable(t, path)
	e := &engine{v, path}
	examineHealth(t, v).says(t, "HSM", "configured", "problem", "vault write mpc/config/hsm")

	e.write(t, "config/nodes", map[string]any{"local": 3})
	v.ConfigHSM(t, path)
	e.waitNodes(t, 3)
	e.create(t, "alice", bip340, 2, 3)
	plugin := filepath.Join(v.Dir, "plugins", "vault-plugin-secrets-mpc")
	tokens := filepath.Join(filepath.Dir(v.Token.Conf), "tokens")

	t.Run("healthy", func(t *testing.T) {
		d := examineHealth(t, v)
		d.well(t)
		d.says(t, "Vault", "unsealed", "ok", "yes")
		d.says(t, "Vault", "clock", "ok", "agree")
		d.says(t, "Vault", "audit", "warning", "vault audit enable")
		d.says(t, "token", "rights", "warning", "root token")
		d.says(t, "plugin", "registered", "ok", harness.PluginVersion)
		d.says(t, "plugin", "running build", "ok", "registered SHA-256")
		d.says(t, "plugin", "plugin file", "ok", plugin)
		d.says(t, "plugin", "mpckms version", "ok", "as the plugin")
		d.says(t, "HSM", "PIN", "ok", "not refused")
		d.says(t, "nodes", "together", "ok", "3 of 3 work")
		d.says(t, "rotation", "wrapping keys", "ok", "1 of at most 64")
		d.says(t, "rotation", "restored storage", "ok", "1 account")
		d.says(t, "recovery", "custodians", "warning", "mpckms authority init")
		// The test runs as the plugin's own user, so its list can be read.
		d.says(t, "modules", "module list", "ok", "softhsm (of the running plugin")
		d.says(t, "modules", "module softhsm", "ok", v.Token.Module)
	})

	t.Run("wrong module list", func(t *testing.T) {
		d := examineHealth(t, v, "--modules", "softhsm=/nowhere/libsofthsm2.so")
		d.says(t, "modules", "module softhsm", "problem", "is not there")
		d = examineHealth(t, v, "--modules", "hsm="+v.Token.Module)
		d.says(t, "modules", "module list", "problem", `uses module "softhsm", and the list has hsm`)
		d = examineHealth(t, v, "--modules", "softhsm="+plugin)
		d.says(t, "modules", "module softhsm", "problem", "plugin")
		d = examineHealth(t, v, "--modules", "softhsm")
		d.says(t, "modules", "module list", "problem", "not of the form")
	})

	t.Run("unit that hides the token", func(t *testing.T) {
		unit := filepath.Join(t.TempDir(), "vault.service")
		settings := "[Service]\nPrivateTmp=yes\nPrivateDevices=yes\nProtectSystem=strict\nLimitMEMLOCK=infinity\nInaccessiblePaths=" + tokens + "\n"
		if err := os.WriteFile(unit, []byte(settings), 0o600); err != nil {
			t.Fatal(err)
		}
		d := examineHealth(t, v, "--unit-file", unit, "--hsm-path", tokens)
		d.says(t, "systemd", "InaccessiblePaths", "problem", tokens)
		d.says(t, "systemd", "ProtectSystem", "warning", "read-only")
		d.says(t, "systemd", "PrivateDevices", "ok", "none was named")
		if !strings.Contains(d.DropIn, "BindPaths="+tokens) {
			t.Errorf("drop-in: %s", d.DropIn)
		}
	})

	t.Run("changed plugin file", func(t *testing.T) {
		good, err := os.ReadFile(plugin)
		if err != nil {
			t.Fatal(err)
		}
		// A new file, as an installation makes it: a running one cannot be written.
		install := func(content []byte) {
			t.Helper()
			if err := os.WriteFile(plugin+".new", content, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(plugin+".new", plugin); err != nil {
				t.Fatal(err)
			}
		}
		changed := append(bytes.Clone(good), '\n')
		install(changed)
		d := examineHealth(t, v)
		d.says(t, "plugin", "plugin file", "problem", "was changed after it was registered")
		d.says(t, "modules", "module list", "ok", "of the running plugin") // whose file is replaced

		registered := v.Client.Sys()
		register := func(content []byte) {
			t.Helper()
			sum := sha256.Sum256(content)
			if err := registered.RegisterPlugin(&api.RegisterPluginInput{Name: "mpc", Type: api.PluginTypeSecrets, Command: "vault-plugin-secrets-mpc",
				SHA256: hex.EncodeToString(sum[:]), Version: harness.PluginVersion,
				Env: []string{"MPC_PKCS11_MODULES=softhsm=" + v.Token.Module, "SOFTHSM2_CONF=" + v.Token.Conf}}); err != nil {
				t.Fatal(err)
			}
		}
		register(changed)
		d = examineHealth(t, v)
		d.says(t, "plugin", "plugin file", "ok", "registered SHA-256")
		d.says(t, "plugin", "running build", "warning", "vault plugin reload")

		if err := os.Remove(plugin); err != nil {
			t.Fatal(err)
		}
		examineHealth(t, v).says(t, "plugin", "plugin file", "problem", "is not there")
		install(good)
		register(good)
		examineHealth(t, v).well(t)
	})

	t.Run("token without rights", func(t *testing.T) {
		made, err := v.Client.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"default"}, TTL: "10m"})
		if err != nil {
			t.Fatal(err)
		}
		d := doctorAs(t, v, made.Auth.ClientToken)
		d.well(t)
		d.says(t, "token", "rights on mpc/", "warning", `path "mpc/config/hsm" { capabilities = ["read", "sudo"] }`)
		for area, check := range map[string]string{"HSM": "configured", "nodes": "all", "recovery": "custodians"} {
			d.says(t, area, check, "not checked", "the token may not")
		}
		for _, c := range d.Checks {
			if c.Result == "ok" && (c.Area == "HSM" || c.Area == "nodes" || c.Area == "rotation" || c.Area == "recovery") {
				t.Errorf("ok without a right to look: %+v", c)
			}
		}
		d = doctorAs(t, v, "hvs.no-such-token")
		d.says(t, "token", "valid", "problem", "vault login")
	})

	t.Run("killed node", func(t *testing.T) {
		pid := e.pids(t)["local-1"]
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		e.await(t, 20*time.Second, "new process", func() bool {
			n := e.nodes(t)["local-1"]
			return n["state"] == "ready" && number(t, n["pid"]) != pid
		})
		examineHealth(t, v).says(t, "nodes", "local-1", "warning", "after 1 restart")
	})

	t.Run("token away", func(t *testing.T) {
		back, err := v.Token.TakeAway()
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range e.pids(t) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be dead already
		}
		var d *diagnosis
		e.await(t, 30*time.Second, "nodes that do not work", func() bool {
			d = examineHealth(t, v)
			return strings.Contains(d.text, "0 of 3 work")
		})
		d.says(t, "nodes", "together", "problem", "a signature needs at least 2")
		if err := back(); err != nil {
			t.Fatal(err)
		}
		e.waitNodes(t, 3)
		examineHealth(t, v).well(t)
	})

	t.Run("wrong PIN", func(t *testing.T) {
		newPIN := v.Token.PIN[:8] + "-changed"
		if err := setPIN(t, v.Token, newPIN); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(e.pids(t)["local-2"], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		e.await(t, 20*time.Second, "refused PIN", func() bool { return e.read(t, "config/hsm")["pin_refused"] != "" })
		e.await(t, 20*time.Second, "failed node", func() bool { return e.nodes(t)["local-2"]["state"] == "failed" })
		d := examineHealth(t, v)
		d.says(t, "HSM", "PIN", "problem", "vault write mpc/config/hsm pin=-")
		d.says(t, "nodes", "local-2", "problem", "has failed")
		e.write(t, "config/hsm", map[string]any{"pin": newPIN})
		e.waitNodes(t, 3)
		e.await(t, 30*time.Second, "health", func() bool { return examineHealth(t, v).Problems == 0 })
	})

	t.Run("restored storage", func(t *testing.T) {
		e.write(t, "recovery/restored", nil)
		examineHealth(t, v).says(t, "rotation", "restored storage", "warning", "alice")
		r := v.Mpckms(t, "rotation", "catch-up", "--all", "--wait")
		if r.Code != 0 || !strings.Contains(r.Stdout, "finished at") {
			t.Errorf("%+v", r)
		}
		examineHealth(t, v).says(t, "rotation", "restored storage", "ok", "1 account")
	})

	t.Run("sealed", func(t *testing.T) {
		v.Seal(t)
		d := examineHealth(t, v)
		d.says(t, "Vault", "unsealed", "problem", "vault operator unseal")
		d.says(t, "nodes", "all", "not checked", "sealed")
		v.Unseal(t)
		e.waitNodes(t, 3)
		examineHealth(t, v).well(t)
	})

	t.Run("no mount", func(t *testing.T) {
		d := examineHealth(t, v, "--mount", "nothing")
		d.says(t, "plugin", "mount", "problem", "vault secrets enable -path=nothing mpc")
		d.says(t, "plugin", "registered", "ok", harness.PluginVersion)
	})

	t.Run("killed Vault", func(t *testing.T) {
		v.Kill9(t)
		d := examineHealth(t, v)
		d.says(t, "Vault", "reachable", "problem", "Is Vault running")
		d.says(t, "HSM", "all", "not checked", "not reachable")
	})
}
