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

// What the documents show is run, so that it stays true.

const repository = "../.."

// block is one fenced block of a document.
type block struct {
	language string
	lines    []string // continuation lines joined, comments and blank lines left out
}

func blocks(t testing.TB, document string) []block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, document))
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, []byte("\\\n"), nil)
	var all []block
	inside := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if language, fence := strings.CutPrefix(line, "```"); fence {
			if inside = !inside; inside {
				all = append(all, block{language: language})
			}
			continue
		}
		line, _, _ = strings.Cut(line, " # ")
		if line = strings.TrimSpace(line); inside && line != "" {
			b := &all[len(all)-1]
			b.lines = append(b.lines, strings.Join(strings.Fields(line), " "))
		}
	}
	if inside {
		t.Fatalf("%s: a block is not closed", document)
	}
	return all
}

// console returns the commands of a document's console blocks in order.
func console(t testing.TB, document string) (commands []string) {
	t.Helper()
	for _, b := range blocks(t, document) {
		if b.language != "console" {
			continue
		}
		for _, line := range b.lines {
			command, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				t.Errorf("%s: a console block has a line that is no command: %s", document, line)
				continue
			}
			commands = append(commands, command)
		}
	}
	return commands
}

// shell runs a line in bash against a Vault, with `vault` and `mpckms` on PATH.
type shell struct {
	dir string
	env []string
}

func newShell(t testing.TB, v *e2e.Vault, more ...string) shell {
	t.Helper()
	bin := t.TempDir()
	for name, target := range map[string]string{"vault": harness.VaultBin, "mpckms": harness.CLIBin} {
		if err := os.Symlink(target, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return shell{dir: repository, env: append([]string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "VAULT_ADDR=" + v.Addr, "VAULT_TOKEN=" + v.RootToken,
	}, more...)}
}

// run returns standard output and error together. Bash stops at the first
// failure, also inside of a pipe.
func (s shell) run(t testing.TB, line, stdin string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eu", "-o", "pipefail", "-c", line)
	cmd.Dir, cmd.Env, cmd.Stdin = s.dir, s.env, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("$ %s\n%s\n%v", line, out, err)
	}
	return string(out)
}

// promises are what the README says, or lets expect, of its commands.
var promises = map[string]string{ // read only
	`vault read mpc/config/hsm`:                           `(?m)^pin_set +true$`,
	`vault list mpc/nodes`:                                `(?s)local-1.*local-5`,
	`vault list mpc/accounts`:                             `(?s)payments.*treasury`,
	`vault read mpc/accounts/treasury`:                    `(?s)BEGIN PUBLIC KEY.*share_epoch +1\n`,
	`vault write mpc/sign/treasury input=`:                `(?m)^signers .*index:\d node:local-\d.*index:\d node:local-\d`,
	`vault write mpc/verify/treasury input=`:              `(?m)^valid +true$`,
	`vault read mpc/nodes/local-1`:                        `(?s)aux_progress +\d+.*state +ready`,
	`mpckms status`:                                       `(?s)demo.*local-5 +ready`,
	`mpckms account sign payments`:                        `(?s)Signature +M.*Signers +local-\d \(share \d\), local-\d \(share \d\)`,
	`vault write mpc/accounts/payments presign=2`:         `(?m)^presign +2$`,
	`vault read -field=presignatures mpc/accounts/paymen`: `^\d+\n$`,
	`vault write mpc/accounts/treasury/derive`:            `(?s)BEGIN PUBLIC KEY.*public_key_hex +[0-9a-f]{64}`,
	`mpckms account derive payments`:                      `(?m)^Public key +0[23][0-9a-f]{64}$`,
	`vault write -f mpc/accounts/treasury/refresh`:        `(?m)^share_epoch +2$`,
	`vault write mpc/config/rotation refresh_period=5m`:   `(?s)aux_period +2h.*refresh_period +5m\n`,
	`vault read -field=share_epoch mpc/accounts/treasury`: `^2\n$`,
	`vault write -f mpc/wrapping-keys/rotate`:             `(?m)^version +2$`,
	`mpckms wrapping-key list`:                            `2 +live, newest`,
	`mpckms rotation status`:                              `sealed to version 2`,
	`vault delete mpc/destroy/treasury`:                   `Success`,
}

// TestReadmeCommands runs every command of the README's console blocks in
// order, on a fresh Vault.
func TestReadmeCommands(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	token := v.AddToken(t, "demo")
	v.Enable(t, "mpc")
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(token.PIN), 0o600); err != nil {
		t.Fatal(err)
	}
	sh := newShell(t, v, "HSM_PIN_FILE="+pin) // as `make dev` sets it; see TestDevServer
	kept := map[string]bool{}
	for _, b := range blocks(t, "README.md") {
		if b.language != "console" {
			continue
		}
		for _, line := range b.lines {
			command, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				t.Errorf("a console block has a line that is no command: %s", line)
				continue
			}
			started := time.Now()
			out := sh.run(t, command, "")
			t.Logf("%6.2f s  $ %s", time.Since(started).Seconds(), command)
			for beginning, promise := range promises {
				if !strings.HasPrefix(command, beginning) {
					continue
				}
				kept[beginning] = true
				if !regexp.MustCompile(promise).MatchString(strings.TrimSpace(out)+"\n") && !regexp.MustCompile(promise).MatchString(strings.TrimSpace(out)) {
					t.Errorf("$ %s\nshould match %s:\n%s", command, promise, out)
				}
			}
		}
	}
	for beginning := range promises {
		if !kept[beginning] {
			t.Errorf("the README has no command %q any more: remove its promise here", beginning)
		}
	}
	if s, _ := v.Client.Logical().Read("mpc/accounts/treasury"); s != nil {
		t.Error("the destroyed account is still there")
	}
}

// elsewhere says where commands are run that TestReadmeCommands does not run.
// One ending in a space stands for every command that begins so.
var elsewhere = map[string]map[string]string{ // read only
	"README.md": {
		"make demo":                            "TestDemo runs its script",
		"make test":                            "this is part of it",
		"install -m 0755 ":                     "TestProductionInstall",
		"vault plugin register ":               "TestProductionInstall",
		"vault secrets enable ":                "TestProductionInstall",
		"vault write mpc/config/hsm ":          "TestProductionInstall",
		"vault path-help mpc":                  "TestPathHelp",
		"vault path-help mpc/sign/x":           "TestPathHelp",
		"make dev":                             "TestDevServer runs its script",
		"make help":                            "TestMakeTargets",
		"make bench":                           "takes minutes; TestBench runs it with QUICK=1",
		"vault write -f mpc/recovery/restored": "TestRestoredStorage writes the same path",
	},
	"CONTRIBUTING.md": {
		"make setup":                           "a step of make test",
		"make build":                           "a step of make test",
		"make unit":                            "a step of make test",
		"make race":                            "a step of make test",
		"make e2e":                             "this is part of it",
		"make test":                            "this is part of it",
		"make lint":                            "a step of make test",
		"make fuzz":                            "takes minutes: run by hand and at night",
		"make soak":                            "takes minutes; TestSoak has twenty seconds of it",
		"make soak DURATION=10m":               "takes minutes; TestSoak has twenty seconds of it",
		"make e2e ARGS='-run TestFailover -v'": "a part of this",
		"make bench":                           "takes minutes; TestBench runs it with QUICK=1",
		"make dev":                             "TestDevServer runs its script",
	},
	"docs/hsm.md": {
		"vault write -f mpc/destroy/wrapping-keys": "TestHSMDocument writes the same path",
		"vault secrets disable mpc":                "TestChangedPIN and others disable their mounts",
	},
	"docs/recovery.md": {
		"mpckms recovery set": "from the document itself, with a file",
	},
	"SECURITY.md": {
		"make dev":                             "TestDevServer runs its script",
		"make vuln":                            "a step of make lint",
		"mpckms version":                       "TestMpckms",
		"vault write -f mpc/recovery/restored": "TestRestoredStorage writes the same path",
		"vault plugin info -version=… secret mpc": "TestDemo: scripts/demo.sh runs it",
	},
}

// inlineCommand is a command in running text.
var inlineCommand = regexp.MustCompile("`((?:make|vault|mpckms) [^`]*)`")

// TestEveryShownCommandIsRun: a command in a document is either run from it or
// in the table above, and the table has nothing else.
func TestEveryShownCommandIsRun(t *testing.T) {
	for document, table := range elsewhere {
		var commands []string
		for _, b := range blocks(t, document) {
			for _, line := range b.lines {
				first, _, _ := strings.Cut(line, " ")
				if b.language == "sh" || b.language == "" && slices.Contains([]string{"make", "vault", "mpckms", "go"}, first) {
					commands = append(commands, line)
				} else if b.language != "console" && b.language != "" {
					t.Errorf("%s: a block in %q: use sh, console or nothing", document, b.language)
				}
			}
		}
		text, err := os.ReadFile(filepath.Join(repository, document))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range inlineCommand.FindAllStringSubmatch(string(text), -1) {
			commands = append(commands, strings.Join(strings.Fields(m[1]), " "))
		}
		used := map[string]bool{}
		for _, c := range commands {
			found := false
			for entry := range table {
				if c == entry || strings.HasSuffix(entry, " ") && strings.HasPrefix(c, entry) {
					found, used[entry] = true, true
				}
			}
			if !found {
				t.Errorf("%s shows %q: run it in a test, or say in the table why not", document, c)
			}
		}
		for entry := range table {
			if !used[entry] {
				t.Errorf("%s does not show %q any more", document, entry)
			}
		}
	}
}

// TestMakeTargets: every make target that a document names exists, and `make`
// lists it.
func TestMakeTargets(t *testing.T) {
	cmd := exec.Command("make", "--no-print-directory", "-C", repository, "help")
	list, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("make help: %v\n%s", err, list)
	}
	for _, document := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"} {
		text, err := os.ReadFile(filepath.Join(repository, document))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?m)(?:^|`)make ([a-z][a-z0-9-]*)").FindAllStringSubmatch(string(text), -1) {
			if !bytes.Contains(list, []byte("  make "+m[1]+" ")) {
				t.Errorf("%s names make %s, which `make help` does not list", document, m[1])
			}
		}
	}
}

// TestProductionInstall runs the README's commands for a production Vault,
// with this machine's places in them.
func TestProductionInstall(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft})
	i := slices.IndexFunc(blocks(t, "README.md"), func(b block) bool {
		return b.language == "sh" && strings.Contains(strings.Join(b.lines, "\n"), "vault plugin register")
	})
	if i < 0 {
		t.Fatal("the README does not say how to register the plugin")
	}
	text := strings.Join(blocks(t, "README.md")[i].lines, "\n")
	for shown, here := range map[string]string{
		"bin/plugins/":         harness.PluginDir + "/",
		"/etc/vault.d/plugins": filepath.Join(v.Dir, "plugins"),
		"-version=v0.1.0":      "-version=" + harness.PluginVersion,
		// SoftHSM needs its configuration besides, a vendor's module may not.
		"/usr/lib/vendor/libpkcs11.so": v.Token.Module + " -env=SOFTHSM2_CONF=" + v.Token.Conf,
		"token=prod;serial=0123456789": "token=" + v.Token.Label + ";serial=" + serial(t, v.Token),
	} {
		if !strings.Contains(text, shown) {
			t.Fatalf("the commands have no %q any more", shown)
		}
		text = strings.ReplaceAll(text, shown, here)
	}
	sh := newShell(t, v)
	for line := range strings.Lines(text) {
		sh.run(t, line, v.Token.PIN) // pin=- reads it
	}
	e := &engine{v, "mpc"}
	e.waitNodes(t, 5)
	e.create(t, "alice", bip340, 2, 3)
	e.sign(t, "alice", []byte("in production"))
	if c := e.read(t, "config/hsm"); c["module"] != "hsm" {
		t.Errorf("config/hsm: %v", c)
	}
}

// serial asks SoftHSM's own tool.
func serial(t testing.TB, token e2e.Token) string {
	t.Helper()
	cmd := exec.Command("softhsm2-util", "--show-slots")
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+token.Conf)
	out, err := cmd.CombinedOutput()
	m := regexp.MustCompile(`Serial number: +(\S+)[\s\S]*?Label: +(\S+)`).FindSubmatch(out)
	if err != nil || m == nil || string(m[2]) != token.Label {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	return string(m[1])
}

// TestPathHelp: the mount and every path under it explain themselves with an
// example.
func TestPathHelp(t *testing.T) {
	e := shared(t)
	help := func(path string) string {
		t.Helper()
		r := e.CLI(t, "path-help", path)
		if r.Code != 0 || !strings.Contains(r.Stdout, "  $ vault ") && !strings.Contains(r.Stdout, "  $ mpckms ") {
			t.Errorf("path-help %s: exit %d, no example in\n%s%s", path, r.Code, r.Stdout, r.Stderr)
		}
		return r.Stdout
	}
	patterns := regexp.MustCompile(`(?m)^    \^(.+)\$$`).FindAllStringSubmatch(help("mpc"), -1)
	if len(patterns) < 12 {
		t.Errorf("the mount's help lists %d paths", len(patterns))
	}
	for _, p := range patterns {
		path := regexp.MustCompile(`\(\?P<\w+>[^)]*\)`).ReplaceAllString(p[1], "x")
		help("mpc/" + strings.TrimSuffix(path, "?"))
	}
}

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
		"epoch 1 became 2, the public key is the same", "all entries of the mount:", "accounts/bob", "/accounts/alice\n{\"version\":3",
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
