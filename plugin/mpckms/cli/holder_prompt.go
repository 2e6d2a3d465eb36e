package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/term"

	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/secret"
)

// secretFiles are files that answer in place of a person: first lines of each.
type secretFiles struct {
	passphrase, pin, answer, tokenPIN, code string
	// fresh, where it is not nil, answers for secrets that are new beside others
	// that are not.
	fresh *secretFiles
}

// of returns the file for a question and the flag that names one.
func (f *secretFiles) of(q keyholder.Question) (path, flag string) {
	if q.Fresh && f.fresh != nil {
		path, flag = f.fresh.of(keyholder.Question{Topic: q.Topic})
		return path, "--new-" + flag[2:]
	}
	switch q.Topic {
	case keyholder.TopicPIN:
		return f.pin, "--pin-file"
	case keyholder.TopicAnswer:
		return f.answer, "--answer-file"
	case keyholder.TopicTokenPIN:
		return f.tokenPIN, "--token-pin-file"
	}
	return f.passphrase, "--passphrase-file"
}

// prompter asks on the terminal, or reads the files.
type prompter struct{ a *app }

var _ keyholder.Prompter = prompter{}

// Ask reads a line from standard input, which need not be a terminal: what is
// asked for is good once.
func (p prompter) Ask(ctx context.Context, text string) (string, error) {
	if path := p.a.files.code; path != "" {
		raw, err := readFile(path, 1024)
		line, _, _ := strings.Cut(string(raw), "\n")
		return strings.TrimSpace(line), err
	}
	p.a.bar.beside(func() { _, _ = io.WriteString(p.a.stderr, clean(text)+": ") })
	// Reading cannot be interrupted from here; a second Ctrl-C ends the process.
	stop := context.AfterFunc(ctx, func() { _, _ = io.WriteString(p.a.stderr, "\nInterrupted: press Enter to end.\n") })
	defer stop()
	line, err := p.a.readLine(ctx)
	if err != nil {
		return "", fmt.Errorf("no answer was given to %q: %w", text, err)
	}
	return line, nil
}

// maxLine bounds what is read of a line, in bytes.
const maxLine = 1024

// readLine reads one line and nothing after it.
func (a *app) readLine(ctx context.Context) (string, error) {
	var line []byte
	for one := make([]byte, 1); len(line) < maxLine; {
		n, err := a.stdin.Read(one)
		if n == 1 && one[0] == '\n' {
			break
		}
		line = append(line, one[:n]...)
		if errors.Is(err, io.EOF) && len(line) > 0 {
			break
		}
		if err != nil {
			return "", err
		}
	}
	return strings.TrimSpace(string(line)), ctx.Err()
}

// AskSecret implements keyholder.Prompter. Secrets come from a terminal that does
// not show them or from a file, never from arguments or the environment.
func (p prompter) AskSecret(ctx context.Context, q keyholder.Question) (*secret.Bytes, error) {
	path, flag := p.a.files.of(q)
	if path != "" {
		return p.a.passphraseFromFile(path)
	}
	f, ok := p.a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, fmt.Errorf("%w (%s): use %s", errNoTerminal, q.Text, flag)
	}
	prompt := clean(q.Text) + ": "
	s, err := p.a.askHidden(ctx, f, prompt)
	if err != nil || !q.Fresh {
		return s, err
	}
	again, err := p.a.askHidden(ctx, f, "Once more: ")
	defer again.Wipe()
	if err == nil && !again.Equal(s) {
		err = errors.New("the two differ: nothing was made")
	}
	if err != nil {
		s.Wipe()
		return nil, err
	}
	return s, nil
}

// Show implements keyholder.Prompter: several lines on stderr.
func (p prompter) Show(text string) {
	out := p.a.strike(strings.TrimRight(cleanLines(text), "\n")) + "\n"
	p.a.bar.beside(func() { _, _ = io.WriteString(p.a.stderr, out) })
}

// OpenURL starts the desktop's own program for addresses and does not wait for it.
// The address holds no code and nothing that opens anything: other users of this host
// may see it among the arguments. A passkey's page keeps them out by itself.
func (p prompter) OpenURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return errors.New("not an address of the web")
	}
	if _, ok := p.a.stdin.(*os.File); !ok || !p.a.interactive() {
		return errors.New("nobody is at a terminal")
	}
	name, args := "xdg-open", []string{u.String()}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", u.String()}
	}
	cmd := exec.Command(name, args...)
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// interactive reports whether a person is at the terminal.
func (a *app) interactive() bool {
	f, ok := a.stdin.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
