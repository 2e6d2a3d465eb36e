//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

const pluginName = "vault-plugin-secrets-mpc"

// Enable enables the engine at a path. On first use it registers the plugin as
// an operator would: by SHA-256, version and environment.
func (v *Vault) Enable(t testing.TB, path string) {
	t.Helper()
	v.registerOnce.Do(func() { v.registerErr = v.register() })
	if v.registerErr != nil {
		t.Fatalf("registering the plugin: %v", v.registerErr)
	}
	v.Mount(t, path, "mpc")
}

// Mount enables any secrets engine of the catalog at a path.
func (v *Vault) Mount(t testing.TB, path, engine string) {
	t.Helper()
	if err := v.Client.Sys().Mount(path, &api.MountInput{Type: engine}); err != nil {
		t.Fatalf("enabling %s at %s: %v", engine, path, err)
	}
}

// ConfigHSM points a mount of the engine at the Vault's token.
func (v *Vault) ConfigHSM(t testing.TB, path string) {
	t.Helper()
	_, err := v.Client.Logical().Write(path+"/config/hsm", map[string]any{"uri": v.Token.URI(), "pin": v.Token.PIN})
	if err != nil {
		t.Fatalf("writing %s/config/hsm: %v", path, err)
	}
}

func (v *Vault) register() error {
	sum, err := v.install()
	if err != nil {
		return err
	}
	module := "softhsm=" + v.Token.Module
	if v.opts.PINFile != "" {
		module += ";pin-file=" + v.opts.PINFile
	}
	if v.opts.AllowSHA1 {
		module += ";oaep-sha1=for-tests"
	}
	if v.opts.MoreModules != "" {
		module += "," + v.opts.MoreModules
	}
	return v.Client.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name:    "mpc",
		Type:    api.PluginTypeSecrets,
		Command: pluginName,
		SHA256:  hex.EncodeToString(sum[:]),
		Version: v.harness.PluginVersion,
		Env: append([]string{
			"MPC_PKCS11_MODULES=" + module,
			"SOFTHSM2_CONF=" + v.Token.Conf,
		}, v.opts.PluginEnv...),
	})
}

// install puts the plugin into this server's folder and returns its SHA-256.
func (v *Vault) install() (sum [sha256.Size]byte, err error) {
	dir := v.harness.PluginDir
	if v.opts.PluginDir != "" {
		dir = v.opts.PluginDir
	}
	if dir == "" {
		return sum, errors.New("MPC_PLUGIN_DIR is not set; run the suite with make e2e")
	}
	binary, err := os.ReadFile(filepath.Join(dir, pluginName))
	if err != nil {
		return sum, err
	}
	// A copy: a build during the tests must not change what Vault checked.
	return sha256.Sum256(binary), os.WriteFile(filepath.Join(v.Dir, "plugins", pluginName), binary, 0o700)
}

// MountUUID returns the UUID under which Vault stores a mount's data.
func (v *Vault) MountUUID(t testing.TB, path string) string {
	t.Helper()
	mounts, err := v.Client.Sys().ListMounts()
	if err != nil {
		t.Fatalf("listing mounts: %v", err)
	}
	m, ok := mounts[strings.TrimSuffix(path, "/")+"/"]
	if !ok || m.UUID == "" {
		t.Fatalf("no mount at %s", path)
	}
	return m.UUID
}

// RawList lists the keys of a mount's storage, to any depth.
func (v *Vault) RawList(t testing.TB, mount string) []string {
	t.Helper()
	root := "sys/raw/logical/" + v.MountUUID(t, mount) + "/"
	var keys []string
	for folders := []string{""}; len(folders) > 0; {
		folder := folders[0]
		folders = folders[1:]
		list, err := v.Client.Logical().List(root + folder)
		if err != nil {
			t.Fatalf("listing %s%s: %v", root, folder, err)
		}
		if list == nil {
			continue
		}
		names, _ := list.Data["keys"].([]any)
		for _, n := range names {
			key := folder + n.(string)
			if strings.HasSuffix(key, "/") {
				folders = append(folders, key)
			} else {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// RawRead returns the bytes that the plugin stored under a key of RawList:
// what a thief of storage has who broke Vault's own encryption.
func (v *Vault) RawRead(t testing.TB, mount, key string) []byte {
	t.Helper()
	path := "sys/raw/logical/" + v.MountUUID(t, mount) + "/" + key
	entry, err := v.Client.Logical().ReadWithData(path, map[string][]string{"encoding": {"base64"}})
	if err != nil {
		t.Fatalf("reading %s: %v", path, err)
	}
	if entry == nil {
		t.Fatalf("reading %s: not there", path)
		return nil // staticcheck does not know that Fatalf of a TB ends here
	}
	text, _ := entry.Data["value"].(string)
	value, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatalf("reading %s: %v", path, err)
	}
	return value
}

// Result is what a command left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// CLI runs the real vault command against this Vault with the root token.
func (v *Vault) CLI(t testing.TB, args ...string) Result {
	t.Helper()
	return v.command(t, v.harness.VaultBin, args)
}

// Mpckms runs the built mpckms against this Vault with the root token.
func (v *Vault) Mpckms(t testing.TB, args ...string) Result {
	t.Helper()
	if v.harness.CLIBin == "" {
		t.Fatal("MPC_CLI_BIN is not set; run the suite with make e2e")
	}
	return v.command(t, v.harness.CLIBin, args)
}

func (v *Vault) command(t testing.TB, binary string, args []string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(v.Dir, "home"), "VAULT_ADDR=" + v.Addr, "VAULT_TOKEN=" + v.RootToken}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := start(v.opts.Network, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%s %s: %v", filepath.Base(binary), strings.Join(args, " "), err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// Log returns everything Vault, the plugins and the nodes have logged.
func (v *Vault) Log(t testing.TB) []byte {
	t.Helper()
	log, err := os.ReadFile(v.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// logOnFailure prints the log from now on, should the test fail.
func (v *Vault) logOnFailure(t testing.TB) {
	var from int64
	if info, err := os.Stat(v.LogPath); err == nil {
		from = info.Size()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Vault's log of this test (its end, if long):\n%s", v.logTail(from))
		}
	})
}

// logTail returns at most the last 8 KiB of the log after an offset.
func (v *Vault) logTail(from int64) []byte {
	const limit = 8 << 10
	log, err := os.ReadFile(v.LogPath)
	if err != nil {
		return fmt.Appendf(nil, "(no log: %v)", err)
	}
	log = log[min(int(from), len(log)):]
	return log[max(0, len(log)-limit):]
}

// RawWrite puts bytes under a key of RawList behind the plugin's back.
func (v *Vault) RawWrite(t testing.TB, mount, key string, value []byte) {
	t.Helper()
	path := "sys/raw/logical/" + v.MountUUID(t, mount) + "/" + key
	_, err := v.Client.Logical().Write(path, map[string]any{"value": base64.StdEncoding.EncodeToString(value), "encoding": "base64"})
	if err != nil {
		t.Fatalf("writing %s: %v", path, err)
	}
}

// RawDelete removes a key of RawList behind the plugin's back.
func (v *Vault) RawDelete(t testing.TB, mount, key string) {
	t.Helper()
	path := "sys/raw/logical/" + v.MountUUID(t, mount) + "/" + key
	if _, err := v.Client.Logical().Delete(path); err != nil {
		t.Fatalf("deleting %s: %v", path, err)
	}
}
