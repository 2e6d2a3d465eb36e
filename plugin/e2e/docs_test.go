//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
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

// promises is what a document says, or lets expect, of a command: the pattern
// matches what it prints. Commands are named by their beginning.
type promises map[string]string

// runDocument runs the commands of a document's console blocks in order.
// Before each, prepare, where not nil, may put this machine's places into it and
// returns what it reads from standard input; after each, then may wait for
// something. Every promise must belong to a command and be kept.
func (s shell) runDocument(t *testing.T, document string, promised promises,
	prepare func(command string) (here, stdin string), then func(command, out string)) {
	t.Helper()
	kept := map[string]bool{}
	for _, command := range console(t, document) {
		here, stdin := command, ""
		if prepare != nil {
			here, stdin = prepare(command)
		}
		started := time.Now()
		out := s.run(t, here, stdin)
		t.Logf("%6.2f s  $ %s", time.Since(started).Seconds(), command)
		for beginning, pattern := range promised {
			if !strings.HasPrefix(command, beginning) {
				continue
			}
			kept[beginning] = true
			if match := regexp.MustCompile(pattern).MatchString; !match(strings.TrimSpace(out)+"\n") && !match(strings.TrimSpace(out)) {
				t.Errorf("$ %s\nshould match %s:\n%s", command, pattern, out)
			}
		}
		if then != nil {
			then(command, out)
		}
	}
	for beginning := range promised {
		if !kept[beginning] {
			t.Errorf("%s has no command %q any more: remove its promise from the test", document, beginning)
		}
	}
}

// elsewhere says where commands are run that no test runs from the document
// itself. An entry ending in a space stands for every command that begins so.
var elsewhere = map[string]map[string]string{ // read only
	"README.md": {
		"make demo":                  "TestDemo runs its script",
		"make test":                  "this is part of it",
		"vault path-help mpc":        "TestPathHelp",
		"vault path-help mpc/sign/x": "TestPathHelp",
		"make dev":                   "TestDevServer runs its script",
		"make help":                  "TestMakeTargets",
		"make bench":                 "takes minutes; TestBench runs it with QUICK=1",
	},
	"docs/operations.md": {
		"systemctl daemon-reload":                     "no systemd in tests; TestSystemdDropIn checks what it would read",
		"systemctl restart vault":                     "the same",
		"mpckms status":                               "a command of its blocks",
		"mpckms doctor":                               "TestDoctor",
		"mpckms rotation catch-up --all":              "a command of its blocks",
		"mpckms authority init":                       "TestRecoveryDocument, with flags",
		"mpckms recovery keygen":                      "TestRecoveryDocument, with flags",
		"mpckms authority sign-set":                   "TestRecoveryDocument, with flags",
		"mpckms authority pin":                        "TestRecoveryDocument, with flags",
		"mpckms recovery set":                         "TestRecoveryDocument, with flags",
		"mpckms recovery export --all":                "TestRecoveryDocument, with flags",
		"vault secrets move":                          "TestMoved moves its mount",
		"mpckms authenticator unlock":                 "TestChangeAuthenticator, with a name",
		"mpckms account policy set":                   "TestApprovalsDocument, with names",
		"vault delete mpc/approvers/NAME/factors/KEY": "TestApprovers, with the names",
	},
	"CONTRIBUTING.md": {
		"make test-cluster":                    "a step of make test",
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
	"docs/api.md": {
		"make api":              "TestAPIDocuments in backend compares its outcome",
		"vault path-help mpc/…": "TestPathHelp",
	},
	"docs/hsm.md": {
		"vault write -f mpc/destroy/wrapping-keys": "TestHSMDocument writes the same path",
		"vault secrets disable mpc":                "TestChangedPIN and others disable their mounts",
	},
	"docs/identities.md": {
		"mpckms login":           "a command of its blocks, with a name",
		"mpckms identity show":   "a command of its blocks, with a name",
		"mpckms device sync":     "a command of its blocks, with a name",
		"mpckms identity revoke": "TestIdentityCommands, with names",
		`mpckms authenticator create ada-card --kind certificate --module card --token "pkcs11:token=Ada;object=KEY"`: "TestCertificateAuthenticators, with another token",
		"mpckms authenticator create ada-laptop --kind device":                                                        "TestDeviceAuthenticator, with other names",
		"mpckms authenticator create ada-corp --kind oidc --provider corp --pin":                                      "TestOIDCAuthenticator, with other names",
		"mpckms authenticator create ada-phone --kind phone --phone +49170123456 --pin":                               "TestPhoneAuthenticator, with another number",
		"vault write mpc/config/identities/oidc/corp issuer=URL client_id=ID":                                         "TestOIDCAuthenticator, with Vault's own provider",
		"vault write mpc/config/identities phone_webhook=URL":                                                         "TestPhoneAuthenticator, with a server of its own",
		"vault write mpc/config/identities passkey_relying_party=localhost":                                           "TestPasskeyAuthenticator, by the API",
		"mpckms authenticator create ada-passkey --kind passkey":                                                      "TestPasskeyAuthenticator, with another name",
		"mpckms login --authenticator ada-passkey":                                                                    "TestPasskeyAuthenticator, with another name",
		"mpckms login --authenticator ada-passkey --kind passkey":                                                     "TestPasskeyAuthenticator, with another name",
		"mpckms authenticator change ada-passkey":                                                                     "TestPasskeyAuthenticator, with another name",
		"mpckms identity forget acme":                                                                                 "TestHostileStorage, with another name",
		"mpckms identity level set NAME LEVEL --role ROLE --server-trusting":                                          "TestIdentityCommands, with names",
	},
	"docs/approvals.md": {
		"mpckms request qr REQUEST":                     "a command of its blocks, with an ID",
		"mpckms account sign safe --input … --wait":     "TestDeviceApprovals, with another message",
		"mpckms account policy set":                     "a command of its blocks, with names",
		"mpckms account refresh NAME --request REQUEST": "TestApprovalsCustodyPolicy, with an account",
		"mpckms doctor":                                 "TestDoctor",
		"mpckms approver confirm":                       "a command of its blocks, with a name",
	},
	"docs/recovery.md": {
		"mpckms recovery set":            "from the document itself, with a file",
		"vault read mpc/nodes/NAME":      "TestRemoteDocument reads it, with names",
		"vault read mpc/config/recovery": "TestDoctor: it reads the same",
	},
	"docs/remote-nodes.md": {
		"vault write mpc/config/coordinator certificate=@mpc.crt private_key=@mpc.key": "TestCoordinator in backend",
		"vault read mpc/nodes/NAME":                     "a command of its blocks, with names",
		"vault write mpc/config/nodes/NAME":             "a command of its blocks, with names",
		"vault delete mpc/config/nodes/NAME force=true": "TestRemoveRemote in backend",
		"mpckms rotation catch-up --all":                "TestOperationsDocument",
		"mpckms status":                                 "TestMpckms",
		"vault read mpc/nodes/eu-1":                     "a command of its blocks, with other names",
		"make dev":                                      "TestDevServer runs its script",
		"make bench-cluster":                            "takes minutes: run by hand",
	},
	"docs/threat-model.md": {
		"mpckms device factors":      "TestApprovalsDocument, with a home",
		"mpckms account policy show": "TestApprovalsDocument, with a name",
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
// in the table above, and the table has nothing else. Examples bring their own
// tests; the changelog tells what was.
func TestEveryShownCommandIsRun(t *testing.T) {
	for document := range elsewhere {
		if !slices.Contains(documents(t), document) {
			t.Errorf("the table has %s, which is no document", document)
		}
	}
	for _, document := range documents(t) {
		if dir := filepath.Dir(document); dir != "." && dir != "docs" || document == "CHANGELOG.md" {
			continue
		}
		table := elsewhere[document]
		var commands []string
		for _, b := range blocks(t, document) {
			for _, line := range b.lines {
				first, _, _ := strings.Cut(line, " ")
				if b.language == "sh" || b.language == "" && slices.Contains([]string{"make", "vault", "mpckms", "go"}, first) {
					commands = append(commands, line)
				}
			}
			if slices.Contains([]string{"bash", "shell", "sh-session", "shell-session"}, b.language) {
				t.Errorf("%s: a block in %q: commands go into console, sh, or a block without a language", document, b.language)
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
	for _, document := range documents(t) {
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
