package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal: tests type at keys, the program reads from tty.
type terminal struct {
	keys, tty *os.File
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { keys.Close() })
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return &terminal{keys, tty}
}

func (p *terminal) echoes(t *testing.T) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// prompts is a stderr that types an answer at each prompt.
type prompts struct {
	b       bytes.Buffer // not embedded: its WriteString would go past Write
	t       *testing.T
	p       *terminal
	answers []string
}

func (w *prompts) Write(b []byte) (int, error) {
	if strings.HasSuffix(string(b), ": ") && len(w.answers) > 0 {
		answer := w.answers[0]
		w.answers = w.answers[1:]
		// The terminal keeps what is typed until it is read; x/term drops
		// nothing when it turns the echo off.
		if _, err := w.p.keys.WriteString(answer); err != nil {
			w.t.Error(err)
		}
	}
	return w.b.Write(b)
}

// atTerminal runs a command with a terminal as standard input. ctx may end it.
func atTerminal(t *testing.T, ctx context.Context, p *terminal, args []string, answers ...string) (int, string) {
	t.Helper()
	w := &prompts{t: t, p: p, answers: answers}
	var out bytes.Buffer
	code := Run(ctx, Config{Args: args, Stdin: p.tty, Stdout: &out, Stderr: w, scryptWork: fastScrypt,
		StoredToken: func() (string, error) { return "", nil }})
	if !p.echoes(t) {
		t.Error("the terminal no longer shows what is typed")
	}
	if strings.Contains(out.String()+w.b.String(), testPassphrase) {
		t.Errorf("the passphrase was printed:\n%s%s", out.String(), w.b.String())
	}
	return code, w.b.String()
}

func TestPassphraseFromTerminal(t *testing.T) {
	d, p := goldenDesk(t), newTerminal(t)
	initAt := func() []string { return []string{"authority", "init", "--out", d.path("a.key")} }

	if code, said := atTerminal(t, t.Context(), p, initAt(), testPassphrase+"\n", "something else entirely\n"); code != 2 || !strings.Contains(said, "the two passphrases differ") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if code, said := atTerminal(t, t.Context(), p, initAt(), "short\n", "short\n"); code != 2 || !strings.Contains(said, "12 to 1024") {
		t.Errorf("exit code %d: %s", code, said)
	}
	d.missing("a.key", "a.key.pub")
	if code, said := atTerminal(t, t.Context(), p, initAt(), testPassphrase+"\n", testPassphrase+"\n"); code != 0 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	sign := []string{"authority", "sign-target", d.path("target.json"), "--key", d.path("a.key"), "--out", d.path("signed"), "--yes"}
	if code, said := atTerminal(t, t.Context(), p, sign, "not the passphrase\n"); code != 2 || !strings.Contains(said, "the passphrase is another one") {
		t.Errorf("exit code %d: %s", code, said)
	}
	d.missing("signed")
	// A key whose passphrase is typed twice the same opens with it, from a file, too.
	d.ok(words("authority sign-target @target.json --key @a.key --out @by-file --yes %s", bySecret)...)
	if code, said := atTerminal(t, t.Context(), p, sign, testPassphrase+"\n"); code != 0 {
		t.Errorf("exit code %d: %s", code, said)
	}
}

// TestPromptInterrupted: after a first Ctrl-C the terminal shows what is typed
// again, before anything is read, and nothing is made.
func TestPromptInterrupted(t *testing.T) {
	d, p := newDesk(t), newTerminal(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	type ended struct {
		code int
		said string
	}
	done := make(chan ended, 1)
	w := &prompts{t: t, p: p}
	go func() {
		var out bytes.Buffer
		code := Run(ctx, Config{Args: []string{"authority", "init", "--out", d.path("a.key")}, Stdin: p.tty, Stdout: &out, Stderr: w, scryptWork: fastScrypt})
		done <- ended{code, w.b.String()}
	}()
	await := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("waited for 20 s: " + what)
			}
		}
	}
	await("the terminal still shows what is typed", func() bool { return !p.echoes(t) })
	interrupt()
	await("the terminal does not show what is typed again", func() bool { return p.echoes(t) })
	if _, err := p.keys.WriteString(testPassphrase + "\n"); err != nil {
		t.Fatal(err)
	}
	if e := <-done; e.code == 0 || !strings.Contains(e.said, "press Enter") || !strings.Contains(e.said, "no passphrase was read") {
		t.Errorf("exit code %d: %s", e.code, e.said)
	}
	d.missing("a.key", "a.key.pub")
}
