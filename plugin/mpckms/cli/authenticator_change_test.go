package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// TestChangeFlags: what does not fit the authenticator is said before anybody is
// asked for a secret, and nothing is sent.
func TestChangeFlags(t *testing.T) {
	s := engine(t)
	dir := t.TempDir()
	t.Setenv("MPCKMS_HOME", dir)
	home, err := keyholder.OpenHome(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []keyholder.Known{
		{Name: "word", Method: identity.Password}, {Name: "file", Method: identity.KeyFile, KeyFile: filepath.Join(dir, "key")},
		{Name: "here", Method: identity.Device}, {Name: "card", Method: identity.Certificate},
	} {
		if err := home.SetAuthenticator(k); err != nil {
			t.Fatal(err)
		}
	}
	for args, says := range map[string]string{
		"word --key-file x":            "--key-file is for --kind key-file",
		"word --ask Q --no-question":   "not both",
		"word --ask=":                  "needs a question",
		"word --keep":                  "nothing to change",
		"file":                         "give --key-file",
		"file --keep --key-file x":     "only the question",
		"here":                         "nothing to change",
		"here --certificate x --ask Q": "only the question",
		"card --certificate x":         "--certificate and --key",
	} {
		run(t, append([]string{"authenticator", "change"}, strings.Fields(args)...)...).want(t, 2, says)
	}
	if len(s.calls) > 0 {
		t.Errorf("sent %v", s.calls)
	}
}

// TestNewSecretFiles: a fresh secret comes from its own file, and from no other.
func TestNewSecretFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a := newApp(Config{Stdin: strings.NewReader("")})
	a.files.passphrase, a.files.answer, a.files.tokenPIN = write("old"), write("answer"), write("token")
	a.files.fresh = &secretFiles{passphrase: write("new")}
	ask := func(q keyholder.Question) string {
		s, err := prompter{a}.AskSecret(t.Context(), q)
		if err != nil {
			return err.Error()
		}
		return string(s.Expose())
	}
	for want, q := range map[string]keyholder.Question{
		"old":               {Topic: keyholder.TopicPassword},
		"new":               {Topic: keyholder.TopicPassword, Fresh: true},
		"answer":            {Topic: keyholder.TopicAnswer},
		"token":             {Topic: keyholder.TopicTokenPIN},
		"--new-answer-file": {Topic: keyholder.TopicAnswer, Fresh: true},
		"--new-pin-file":    {Topic: keyholder.TopicPIN, Fresh: true},
	} {
		if got := ask(q); got != want && !(strings.HasPrefix(want, "--") && strings.Contains(got, want)) {
			t.Errorf("%+v is answered by %q, want %q", q, got, want)
		}
	}
}

// TestSignIsAccountSign: one command under two names.
func TestSignIsAccountSign(t *testing.T) {
	short, long := run(t, "sign", "--help"), run(t, "account", "sign", "--help")
	if got := strings.ReplaceAll(short.stdout, "mpckms sign", "mpckms account sign"); got != long.stdout || !strings.Contains(short.stdout, "mpckms sign gold") {
		t.Errorf("the help of sign is\n%s\nand that of account sign is\n%s", short.stdout, long.stdout)
	}
}
