//go:build e2e

package e2e_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// The harness is tested with Vault's own key-value engine, so that a fault of
// the engine under test cannot hide one of the harness.

func TestSharedVaultShowsItsStorage(t *testing.T) {
	v := harness.Shared(t)
	v.Mount(t, "harness-kv", "kv")
	if _, err := v.Client.Logical().Write("harness-kv/folder/a", map[string]any{"colour": "blue"}); err != nil {
		t.Fatal(err)
	}
	keys := v.RawList(t, "harness-kv")
	if !slices.Contains(keys, "folder/a") {
		t.Fatalf("keys in storage: %q", keys)
	}
	if got := v.RawRead(t, "harness-kv", "folder/a"); !bytes.Contains(got, []byte(`"colour":"blue"`)) {
		t.Errorf("stored bytes: %q", got)
	}
	if harness.Shared(t) != v {
		t.Error("the shared Vault is not shared")
	}
}

func TestCLIReturnsWhatTheCommandLeft(t *testing.T) {
	v := harness.Shared(t)
	v.Mount(t, "harness-cli", "kv")
	if got := v.CLI(t, "write", "harness-cli/a", "colour=blue"); got.Code != 0 || !strings.Contains(got.Stdout, "Success!") {
		t.Errorf("write: %+v", got)
	}
	if got := v.CLI(t, "read", "-field=colour", "harness-cli/a"); got.Code != 0 || got.Stdout != "blue\n" && got.Stdout != "blue" {
		t.Errorf("read: %+v", got)
	}
	if got := v.CLI(t, "read", "harness-cli/missing"); got.Code != 2 || !strings.Contains(got.Stderr, "No value found") {
		t.Errorf("reading what is not there: %+v", got)
	}
}

func TestKilledVaultStartsAgainOnItsData(t *testing.T) {
	for name, storage := range map[string]e2e.Storage{"file": e2e.File, "raft": e2e.Raft} {
		t.Run(name, func(t *testing.T) {
			v := harness.StartVault(t, e2e.Options{Storage: storage})
			v.Mount(t, "kv", "kv")
			if _, err := v.Client.Logical().Write("kv/a", map[string]any{"colour": "blue"}); err != nil {
				t.Fatal(err)
			}
			before := v.PID()
			v.Kill9(t)
			if _, err := v.Client.Logical().Read("kv/a"); err == nil {
				t.Fatal("a killed Vault answers")
			}
			v.Restart(t)
			if v.PID() == before {
				t.Error("the same process after the restart")
			}
			got, err := v.Client.Logical().Read("kv/a")
			if err != nil || got == nil || got.Data["colour"] != "blue" {
				t.Errorf("after the restart: %+v, %v", got, err)
			}
			if !bytes.Contains(v.Log(t), []byte("core: vault is unsealed")) {
				t.Error("the log does not hold Vault's output")
			}
		})
	}
}

// victimEnv makes TestVictim play its part; see the test after it.
const victimEnv = "MPC_E2E_VICTIM"

func TestVictim(t *testing.T) {
	if os.Getenv(victimEnv) == "" {
		t.Skip("run by TestNothingSurvivesAKilledTestProcess")
	}
	v := harness.StartVault(t, e2e.Options{})
	fmt.Printf("victim %d %s\n", v.PID(), v.Dir)
	time.Sleep(time.Minute) // until killed
}

func TestNothingSurvivesAKilledTestProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestVictim$", "-test.v")
	cmd.Env = append(os.Environ(), victimEnv+"=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // killed
	defer cmd.Process.Kill()

	var pid int
	var dir string
	for lines := bufio.NewScanner(stdout); pid == 0 && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "victim %d %s", &pid, &dir)
	}
	if pid == 0 {
		t.Fatal("the victim started no Vault")
	}
	below := e2e.ProcessTree(t, cmd.Process.Pid)
	i := slices.IndexFunc(below, func(p e2e.Process) bool { return p.PID == pid })
	if i < 0 || !below[i].Alive() {
		t.Fatalf("Vault %d is not among the victim's processes %v", pid, below)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	e2e.WaitGone(t, below, 5*time.Second) // Vault and the victim's reaper
	if _, err := os.Stat(filepath.Join(dir, "vault.hcl")); !os.IsNotExist(err) {
		t.Errorf("the victim's folder %s is still there: %v", dir, err)
	}
}
