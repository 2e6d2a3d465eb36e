//go:build e2e

package e2e_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// nextVersion is what docs/operations.md upgrades to, here: no release.
const nextVersion = "v99.0.0-next"

var operationsPromises = promises{ // read only
	"vault write mpc/config/hsm":                         `(?s)pin_set +false.*pin_source +host`,
	"mpckms status":                                      `(?s)prod.*local-\d +ready`,
	"vault write mpc/sign/payments":                      `(?m)^signers .*local-\d`,
	"vault read -field=version mpc/nodes/local-1":        `^` + regexp.QuoteMeta(nextVersion) + `$`,
	"vault write mpc/config/rotation retire_after":       `(?m)^retire_after +2678400$`,
	"vault write -f mpc/recovery/restored":               `(?m)^accounts_affected +1$`,
	"vault write mpc/config/rotation refresh_period":     `(?s)idle_refresh_period +24h.*rate +50`,
	"vault write mpc/config/nodes":                       `(?m)^sessions_per_node +16$`,
	"vault read mpc/config/rotation":                     `(?m)^waiting_in_backoff +0$`,
	"vault list mpc/nodes":                               `(?s)local-1.*local-5`,
	"vault read mpc/nodes/local-2":                       `(?m)^state +ready$`,
	"vault write mpc/accounts/payments/freeze":           `(?m)^state +frozen$`,
	"vault read -field=state mpc/accounts/payments":      `^frozen$`,
	"vault write -f mpc/accounts/payments/unfreeze":      `(?m)^state +active$`,
	"vault write -f mpc/destroy/wrapping-keys":           `(?m)^destroyed +\[1\]$`,
	"vault plugin deregister -version=v0.1.0 secret mpc": `Success`,
}

// TestOperationsDocument runs the commands of docs/operations.md in order on a
// Vault on Raft storage, from the first installation to the last deregistration:
// an upgrade to another build of the plugin and back, and a restored snapshot.
func TestOperationsDocument(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	token := v.AddToken(t, "prod")
	before := objects(t, v)
	e := &engine{v, "mpc"}
	next := buildPlugin(t, nextVersion)
	sh := newShell(t, v)
	sh.dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(sh.dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	docs, err := filepath.Abs(filepath.Join(repository, "docs"))
	if err != nil {
		t.Fatal(err)
	}
	link(t, docs, filepath.Join(sh.dir, "docs"))
	release := filepath.Join(sh.dir, "bin", "plugins")
	link(t, harness.PluginDir, release)

	here := strings.NewReplacer(
		"/etc/vault.d/plugins", filepath.Join(v.Dir, "plugins"),
		"/etc/vault.d", v.Dir,
		"/etc/systemd/system", sh.dir,
		"-o vault -g vault ", "", // no such user here
		"/usr/lib/vendor/libpkcs11.so", token.Module,
		// SoftHSM needs its configuration besides, a vendor's module may not.
		"-env='MPC_", "-env=SOFTHSM2_CONF="+token.Conf+" -env='MPC_",
		"v0.1.0", harness.PluginVersion, "v0.2.0", nextVersion)
	prepare := func(command string) (string, string) {
		if strings.HasPrefix(command, "install ") && strings.Contains(command, "v0.2.0") {
			if err := os.Remove(release); err != nil {
				t.Fatal(err)
			}
			link(t, next, release) // what the next release brings
		}
		stdin := ""
		if strings.Contains(command, "/dev/stdin") {
			stdin = token.PIN + "\n"
		}
		return here.Replace(command), stdin
	}
	var key string
	then := func(command, _ string) {
		switch {
		case strings.HasPrefix(command, "vault write mpc/config/hsm"), strings.HasPrefix(command, "vault write sys/plugins/reload"),
			strings.HasPrefix(command, "vault operator raft snapshot restore"):
			e.settled(t, 5)
		case strings.HasPrefix(command, "vault write tenant-b/config/hsm"):
			(&engine{v, "tenant-b"}).settled(t, 3)
		case strings.HasPrefix(command, "vault write mpc/accounts/payments algorithm"):
			key = fmt.Sprint(e.read(t, "accounts/payments")["public_key_hex"])
		}
		if key == "" || strings.Contains(command, "freeze") || strings.Contains(command, "-field=state") || strings.Contains(command, "destroy") {
			return
		}
		if s, err := v.Client.Logical().Read("mpc/accounts/payments"); err != nil || s == nil {
			return // after the account's end
		}
		e.sign(t, "payments", []byte("after "+command))
		if now := e.read(t, "accounts/payments")["public_key_hex"]; now != key {
			t.Errorf("after %s the account has the key %v, it was %s", command, now, key)
		}
	}
	sh.runDocument(t, "docs/operations.md", operationsPromises, prepare, then)
	if left := objects(t, v) - before; left != 0 {
		t.Errorf("%d objects are left in the tokens", left)
	}
	if mounts, err := v.Client.Sys().ListMounts(); err != nil || mounts["mpc/"] != nil || mounts["tenant-b/"] != nil {
		t.Errorf("mounts are left: %v, %v", mounts, err)
	}
	if strings.Contains(string(v.Log(t)), token.PIN) {
		t.Error("the PIN is in the log")
	}
}

// TestUpgradeByFailover: in a cluster the active server changes after the mount
// was switched to another version; the server that takes over runs that one, with
// the nodes' keys as they were.
func TestUpgradeByFailover(t *testing.T) {
	c := harness.StartCluster(t, 3)
	c.Enable(t, "mpc")
	first := &engine{c.Leader(t), "mpc"}
	first.write(t, "config/nodes", map[string]any{"local": 3})
	first.ConfigHSM(t, "mpc")
	first.settled(t, 3)
	key := first.create(t, "payments", ed25519, 2, 3)["public_key_hex"]
	identity := first.nodes(t)["local-1"]["identity"]

	file := "vault-plugin-secrets-mpc-" + nextVersion
	binary, err := os.ReadFile(filepath.Join(buildPlugin(t, nextVersion), "vault-plugin-secrets-mpc"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range c.Servers { // first of all, and to every server
		if err := os.WriteFile(filepath.Join(v.Dir, "plugins", file), binary, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"plugin", "register", "-command=" + file, "-version=" + nextVersion, fmt.Sprintf("-sha256=%x", sha256.Sum256(binary)),
			"-env=SOFTHSM2_CONF=" + c.Token.Conf, "-env=MPC_PKCS11_MODULES=softhsm=" + c.Token.Module, "secret", "mpc"},
		{"secrets", "tune", "-plugin-version=" + nextVersion, "mpc"},
	} {
		if r := first.CLI(t, args...); r.Code != 0 {
			t.Fatalf("vault %s: %+v", strings.Join(args, " "), r)
		}
	}
	first.sign(t, "payments", []byte("tuned, not reloaded"))
	if v := first.nodes(t)["local-1"]["version"]; v != harness.PluginVersion {
		t.Errorf("before the failover nodes run %v", v)
	}
	old, below := c.StepDown(t)
	e2e.WaitGone(t, below, 30*time.Second)
	second := &engine{c.AwaitElection(t, old).Leader, "mpc"}
	second.settled(t, 3)
	for id, n := range second.nodes(t) {
		if n["version"] != nextVersion {
			t.Errorf("%s runs %v after the failover", id, n["version"])
		}
	}
	if now := second.nodes(t)["local-1"]["identity"]; now != identity {
		t.Errorf("local-1 has the identity %v, it was %v", now, identity)
	}
	second.sign(t, "payments", []byte("by the next version"))
	if now := second.read(t, "accounts/payments")["public_key_hex"]; now != key {
		t.Errorf("the key is %v, it was %v", now, key)
	}
}

// settled waits until the mount answers and all its nodes are ready; until then
// it may not answer at all, after a reload or a restore.
func (e *engine) settled(t testing.TB, nodes int) {
	t.Helper()
	e.await(t, 60*time.Second, fmt.Sprintf("%d ready nodes of a mount that answers", nodes), func() bool {
		s, err := e.Client.Logical().List(e.path + "/nodes")
		if err != nil || s == nil {
			return false
		}
		info, _ := s.Data["key_info"].(map[string]any)
		ready := 0
		for _, n := range info {
			if n.(map[string]any)["state"] == "ready" {
				ready++
			}
		}
		return ready == nodes
	})
}

// buildPlugin builds the plugin as another version and returns its folder.
func buildPlugin(t testing.TB, version string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath",
		"-ldflags", "-X main.version="+strings.TrimPrefix(version, "v"),
		"-o", filepath.Join(dir, "vault-plugin-secrets-mpc"), "./plugin/vault-plugin-secrets-mpc")
	cmd.Dir, cmd.Env = repository, append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	return dir
}

func link(t testing.TB, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// TestSystemdDropIn: every setting of the drop-in is one that systemd knows, in a
// section where it has an effect.
func TestSystemdDropIn(t *testing.T) {
	const dropIn = "docs/systemd/vault-hsm.conf"
	text, err := os.ReadFile(filepath.Join(repository, dropIn))
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	section := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch name, value, found := strings.Cut(line, "="); {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		case !found || section != "[Service]":
			t.Errorf("%q in section %q", line, section)
		default:
			settings[name] = value
		}
	}
	want := map[string]string{"PrivateDevices": "no", "DevicePolicy": "closed", "DeviceAllow": "char-usb_device rw",
		"ProtectHome": "read-only", "ReadWritePaths": "-/var/lib/softhsm/tokens", "LimitMEMLOCK": "infinity", "LimitCORE": "0"}
	if fmt.Sprint(settings) != fmt.Sprint(want) {
		t.Errorf("settings %v, want %v", settings, want)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("no systemd-analyze here: names were compared with a list only")
		return
	}
	dir := t.TempDir()
	unit := filepath.Join(dir, "vault.service")
	if err := os.WriteFile(unit, []byte("[Unit]\nDescription=Vault\n[Service]\nExecStart=/bin/true\nPrivateDevices=yes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(unit+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	check := func(text string) []string {
		if err := os.WriteFile(filepath.Join(unit+".d", "hsm.conf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		// Its exit code also judges this machine; what it says of the file counts.
		out, _ := exec.CommandContext(t.Context(), analyze, "verify", unit).CombinedOutput()
		return slices.DeleteFunc(strings.Split(string(out), "\n"), func(l string) bool { return !strings.Contains(l, "hsm.conf") })
	}
	if faults := check(string(text)); len(faults) > 0 {
		t.Errorf("systemd-analyze: %q", faults)
	}
	if faults := check("[Service]\nPrivateDevice=no\n"); len(faults) == 0 {
		t.Error("systemd-analyze does not find a wrong name: the check above cannot fail")
	}
}
