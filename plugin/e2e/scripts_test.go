//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// scripted copies scripts/ to a folder of its own, so that what the scripts
// leave behind (bin/dev.state) meets nobody else's, and returns the folder and
// the scripts' environment with a fresh TMPDIR.
func scripted(t testing.TB) (root, tmp string, env []string) {
	t.Helper()
	root, tmp = t.TempDir(), t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "scripts"), os.DirFS(filepath.Join(repository, "scripts"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(harness.PluginDir, filepath.Join(root, "bin", "plugins")); err != nil {
		t.Fatal(err)
	}
	return root, tmp, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + tmp,
		"MPC_VAULT_BIN=" + harness.VaultBin, "VERSION=" + strings.TrimPrefix(harness.PluginVersion, "v"),
		"MPC_SOFTHSM_MODULE=" + os.Getenv("MPC_SOFTHSM_MODULE")}
}

func checkEmpty(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", e.Name())
	}
}

// watchVaults hands servers that a script started over to the reaper.
func watchVaults(t testing.TB, below []e2e.Process, watched map[int]bool) {
	t.Helper()
	for _, p := range below {
		if len(p.Cmdline) > 1 && p.Cmdline[1] == "server" && !watched[p.PID] {
			watched[p.PID] = true
			harness.EndWithSuite(t, p)
		}
	}
}

// TestDemo: the tour ends well, shows what it promises and leaves neither a
// process nor a file.
func TestDemo(t *testing.T) {
	root, tmp, env := scripted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "scripts/demo.sh")
	cmd.Dir, cmd.Env = root, env
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it then cleans up
	cmd.WaitDelay = 20 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	seen, watched := map[int]e2e.Process{}, map[int]bool{}
	var err error
	for running := true; running; {
		select {
		case err = <-done:
			running = false
		case <-time.After(50 * time.Millisecond):
			below := e2e.ProcessTree(t, cmd.Process.Pid)
			watchVaults(t, below, watched)
			for _, p := range below {
				seen[p.PID] = p
			}
		}
	}
	if err != nil {
		t.Fatalf("demo.sh: %v\n%s", err, out.Bytes())
	}
	nodes := 0
	for _, p := range seen {
		if len(p.Cmdline) == 2 && p.Cmdline[1] == "node" {
			nodes++
		}
		if p.Alive() {
			t.Errorf("left over: %v", p)
		}
	}
	if len(watched) != 1 || nodes < 6 { // five, and the one that came back
		t.Errorf("saw %d Vaults and %d nodes: the look at processes is broken", len(watched), nodes)
	}
	checkEmpty(t, tmp)
	shown := out.String()
	for _, step := range []string{
		"vault plugin info -version=", "sha256 ", "vault secrets enable -path=mpc mpc", "vault write mpc/config/hsm ", "vault list mpc/nodes",
		"algorithm=bip340-secp256k1 threshold=2 shares=3", "algorithm=ecdsa-secp256k1 threshold=2 shares=3",
		"vault write mpc/sign/alice ", "vault write mpc/verify/alice ", "vault write mpc/sign/bob ", "vault write mpc/verify/bob ",
		"vault read mpc/accounts/alice", "kill -KILL ", " is back as process ", "vault write -f mpc/accounts/alice/refresh",
		"epoch 1 became 2, the public key is the same", "all entries of the mount:", "accounts/bob", "/accounts/alice\n{\"version\":7",
		"Done.",
	} {
		before, rest, ok := strings.Cut(shown, step)
		if !ok {
			t.Errorf("the demo does not show %q after\n%s", step, before[max(0, len(before)-300):])
			continue
		}
		shown = rest
	}
	if n := strings.Count(out.String(), "valid    true"); n < 8 {
		t.Errorf("%d signatures were verified, want 8", n)
	}
}

// TestBench: make bench measures everything it names, prints it and leaves
// nothing behind. What it measures here is no figure to rely on.
func TestBench(t *testing.T) {
	tmp := t.TempDir()
	results := filepath.Join(t.TempDir(), "bench.json")
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "scripts/bench.sh")
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "QUICK=1", "JSON="+results, "TMPDIR="+tmp, "MPC_VAULT_BIN="+harness.VaultBin,
		"VERSION="+strings.TrimPrefix(harness.PluginVersion, "v"))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("bench.sh: %v\n%s\n%s", err, stdout.Bytes(), stderr.Bytes())
	}
	checkEmpty(t, tmp)
	var figures struct {
		Machine struct{ Vault, CPU string }
		Process []struct {
			Name, Who string
			Count     int
			CPU       float64 `json:"cpu_ms"`
		} `json:"in_process"`
		Requests []struct {
			Name           string
			Clients, Count int
			Rate           float64 `json:"per_second"`
			Ratio          float64
		}
		Memory map[string]float64 `json:"memory_mb"`
	}
	raw, err := os.ReadFile(results)
	if err == nil {
		err = json.Unmarshal(raw, &figures)
	}
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, o := range figures.Process {
		seen[o.Name+" "+o.Who] = o.Count > 0 && o.CPU >= 0
	}
	for _, r := range figures.Requests {
		seen[fmt.Sprintf("%s %d", r.Name, r.Clients)] = r.Count > 0 && r.Rate > 0
	}
	for _, want := range []string{"sign BIP-340 multi-party-sig", "sign BIP-340 engine", "sign Ed25519 engine", "sign Ed25519 tss-lib",
		"refresh, ed25519 engine", "transit ed25519 1", "transit ecdsa-p256 16", "sign ed25519 1", "sign ed25519 16", "sign bip340 4",
		"create ed25519 4", "refresh 16", "sign ecdsa, nothing ahead 1", "sign ecdsa, presigned 1"} {
		if !seen[want] {
			t.Errorf("%q was not measured", want)
		}
	}
	for _, process := range []string{"vault", "plugin", "node"} {
		if figures.Memory[process] < 5 {
			t.Errorf("memory of %s: %v MB", process, figures.Memory[process])
		}
	}
	if figures.Machine.Vault == "" || figures.Machine.CPU == "" || !strings.Contains(stdout.String(), figures.Machine.Vault) {
		t.Errorf("the machine is not named: %+v", figures.Machine)
	}
}

// TestDevServer: dev.sh leaves a Vault that works with the environment it
// prints, says so when it runs already, and its stop leaves nothing.
func TestDevServer(t *testing.T) {
	root, tmp, env := scripted(t)
	sh := shell{dir: root, env: env}
	ended := false
	t.Cleanup(func() {
		if !ended {
			cmd := exec.Command("scripts/dev.sh", "stop")
			cmd.Dir, cmd.Env = root, env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("dev.sh stop: %v\n%s", err, out)
			}
		}
	})
	out := sh.run(t, "scripts/dev.sh start", "")
	state, err := os.ReadFile(filepath.Join(root, "bin", "dev.state"))
	if err != nil {
		t.Fatal(err)
	}
	running := sessionOf(t, string(state))
	harness.EndWithSuite(t, running[0])
	// The script returns when the token is configured; nodes may still start.
	for end := time.Now().Add(10 * time.Second); len(running) != 7 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		running = sessionOf(t, string(state))
	}
	if len(running) != 7 {
		t.Errorf("%d processes, want Vault, its plugin and five nodes: %v", len(running), running)
	}

	m := regexp.MustCompile(`(?m)^  (source \S+/env)$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("dev.sh start does not say what to source:\n%s", out)
	}
	if !strings.Contains(out, "Stop: make dev-stop") {
		t.Errorf("dev.sh start does not say how to stop:\n%s", out)
	}
	tried := 0
	for _, line := range regexp.MustCompile(`(?m)^  (vault .*)$`).FindAllStringSubmatch(out, -1) {
		sh.run(t, m[1]+"; "+line[1], "")
		tried++
	}
	if tried != 2 {
		t.Errorf("dev.sh start shows %d commands to try, want 2:\n%s", tried, out)
	}
	// The README's first command, with the variable that only this sets.
	for _, b := range blocks(t, "README.md") {
		if b.language == "console" {
			sh.run(t, m[1]+"; "+strings.TrimPrefix(b.lines[0], "$ "), "")
			break
		}
	}
	if again := sh.run(t, "scripts/dev.sh start", ""); !strings.Contains(again, "already running") || !strings.Contains(again, m[1]) {
		t.Errorf("the second start says\n%s", again)
	}
	ended = true
	if out := sh.run(t, "scripts/dev.sh stop", ""); !strings.Contains(out, "dev: stopped") {
		t.Errorf("dev.sh stop says %s", out)
	}
	for _, p := range running {
		if p.Alive() {
			t.Errorf("left over: %v", p)
		}
	}
	checkEmpty(t, tmp)
	if _, err := os.Stat(filepath.Join(root, "bin", "dev.state")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file: %v", err)
	}
	if out := sh.run(t, "scripts/dev.sh stop", ""); !strings.Contains(out, "not running") {
		t.Errorf("the second stop says %s", out)
	}
}

// sessionOf returns the Vault that bin/dev.state names, and what runs below it.
func sessionOf(t testing.TB, state string) []e2e.Process {
	t.Helper()
	first, _, _ := strings.Cut(state, " ")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatalf("bin/dev.state: %q", state)
	}
	all := e2e.ProcessTree(t, 0) // of every process; Vault is an orphan
	i := slices.IndexFunc(all, func(p e2e.Process) bool { return p.PID == pid })
	if i < 0 {
		t.Fatalf("Vault, process %d, does not run", pid)
	}
	return append([]e2e.Process{all[i]}, e2e.ProcessTree(t, pid)...)
}
