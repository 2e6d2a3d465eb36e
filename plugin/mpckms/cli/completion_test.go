package cli

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// completions asks as the shells' scripts do: mpckms __complete ARGS.
func completions(t *testing.T, args ...string) []string {
	t.Helper()
	res := run(t, append([]string{"__complete"}, args...)...)
	if res.code != 0 {
		t.Fatalf("%v: exit code %d: %s", args, res.code, res.stderr)
	}
	var words []string
	for line := range strings.Lines(res.stdout) {
		word, _, _ := strings.Cut(strings.TrimRight(line, "\n"), "\t")
		words = append(words, word)
	}
	if last := words[len(words)-1]; !strings.HasPrefix(last, ":") {
		t.Errorf("%v: no directive: %q", args, words)
	}
	return words[:len(words)-1]
}

func TestCompletion(t *testing.T) {
	engine(t)
	for _, test := range []struct{ args, want string }{
		{"account sign |", "hot treasury"},
		{"account sign tr|", "treasury"},
		{"account show |", "hot treasury"},
		{"account rename |", "hot treasury"},
		{"account rename hot |", ""},
		{"account sign-batch h|", "hot"},
		{"node renew |", "local-1 local-2 local-3"},
		{"account create x --algorithm ecdsa-|", "ecdsa-secp256k1 ecdsa-p256"},
		{"account list --state |", "active frozen deleted"},
		{"account sign hot --format |", "der compact ethereum jws"},
		{"account sign hot --hash sha2-3|", "sha2-384"},
		{"account sign hot --message-type eip|", "eip191 eip712"},
		{"account verify hot --format e|", "ethereum"},
		{"status -o |", "table json"},
		{"recovery export |", "hot treasury"},
	} {
		before, typed, _ := strings.Cut(test.args, "|")
		args := strings.Fields(before)
		if strings.HasSuffix(before, " ") {
			args = append(args, typed)
		}
		got := completions(t, args...)
		kept := got[:0]
		for _, word := range got { // cobra leaves the shell to filter fixed words
			if strings.HasPrefix(word, args[len(args)-1]) {
				kept = append(kept, word)
			}
		}
		if strings.Join(kept, " ") != test.want {
			t.Errorf("%s: %q, want %q", test.args, kept, test.want)
		}
	}
}

// Somebody is typing: whatever is wrong, completion is silent and quick.
func TestCompletionIsSilent(t *testing.T) {
	s := engine(t)
	release := make(chan struct{})
	defer close(release)
	for what, answer := range map[string]http.HandlerFunc{
		"denied": fails(403, "permission denied"), "sealed": fails(503, "Vault is sealed"), "not Vault": raw(200, "<html>"),
		"a name that is none": data(`{"keys":["$(reboot)","../x"]}`), "never": func(http.ResponseWriter, *http.Request) { <-release },
	} {
		s.on("LIST mpc/accounts", answer)
		started := time.Now()
		if got := completions(t, "account", "show", ""); len(got) != 0 {
			t.Errorf("%s: %q", what, got)
		}
		t.Logf("%s: %v", what, time.Since(started))
	}
	if n := len(s.called("LIST mpc/accounts")); n != 5 {
		t.Errorf("%d requests for five completions", n)
	}
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	res := run(t, "__complete", "account", "show", "")
	if res.code != 0 || strings.Contains(res.stderr, "refused") || strings.Contains(res.stdout, "Error") {
		t.Errorf("%+v", res)
	}
	t.Setenv(envMount, "../sys")
	if got := completions(t, "account", "show", ""); len(got) != 0 {
		t.Errorf("a wrong mount: %q", got)
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		res := run(t, "completion", shell)
		res.want(t, 0)
		if !strings.Contains(res.stdout, "__complete") {
			t.Errorf("%s: no script", shell)
		}
	}
	run(t, "completion", "csh").want(t, 2, "csh")
}

// TestBashCompletion sources the script in a real bash and asks it for words.
func TestBashCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here")
	}
	res := run(t, "completion", "bash")
	dir := t.TempDir()
	script := filepath.Join(dir, "completion.bash")
	if err := os.WriteFile(script, []byte(res.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	// The script calls mpckms by the word on the line: a function stands in for
	// the program, with the answers this package gave for the same arguments.
	engine(t)
	answer := func(args ...string) string {
		r := run(t, append([]string{"__complete"}, args...)...)
		return r.stdout
	}
	answers := map[string]string{
		"account sign ":  answer("account", "sign", ""),
		"account sign t": answer("account", "sign", "t"),
		"account fr":     answer("account", "fr"),
	}
	var program strings.Builder
	program.WriteString("mpckms() { shift; case \"$*\" in\n")
	for args, out := range answers {
		file := filepath.Join(dir, fmt.Sprintf("answer%d", program.Len()))
		if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&program, "%q) cat %s ;;\n", args, file)
	}
	program.WriteString("*) echo \"not asked for: $*\" >&2; return 1 ;; esac; }\n")
	// bash-completion's helper, in as much as the script needs it.
	program.WriteString(`_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]}; prev=${COMP_WORDS[COMP_CWORD-1]}; words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; }
__ltrim_colon_completions() { :; }
compopt() { :; } # works under Tab only
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; COMPREPLY=(); __start_mpckms; echo "${COMPREPLY[*]}"; }
source ` + script + `
ask mpckms account sign ""
ask mpckms account sign t
ask mpckms account fr
`)
	cmd := exec.CommandContext(t.Context(), bash, "--norc", "--noprofile", "-c", program.String())
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Join(strings.Fields(string(out)), " ") != "hot treasury treasury freeze" {
		t.Errorf("%v: %q", err, out)
	}
}
