package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vault-plugin-secrets-mpc/secret"
)

// Bounds on a passphrase, in bytes. scrypt slows guessing down, no more.
const (
	minPassphrase = 12
	maxPassphrase = 1024
)

func passphraseFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "passphrase-file", "", "read the passphrase from the first line of this file instead of the terminal")
}

// passphrase gets the passphrase of a key file; one that is new is asked for
// twice. The caller wipes it.
func (a *app) passphrase(ctx context.Context, path string, fresh bool) (*secret.Bytes, error) {
	p, err := a.readPassphrase(ctx, path, fresh)
	if err != nil {
		return nil, err
	}
	if n := p.Len(); fresh && n < minPassphrase || n == 0 || n > maxPassphrase {
		p.Wipe()
		return nil, fmt.Errorf("the passphrase must have %d to %d characters: who copies the key file can try passphrases for ever", minPassphrase, maxPassphrase)
	}
	return p, nil
}

func (a *app) readPassphrase(ctx context.Context, path string, fresh bool) (*secret.Bytes, error) {
	if path != "" {
		return a.passphraseFromFile(path)
	}
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, errors.New("there is no terminal to ask for the passphrase: use --passphrase-file")
	}
	p, err := a.askHidden(ctx, f, "Passphrase: ")
	if err != nil || !fresh {
		return p, err
	}
	again, err := a.askHidden(ctx, f, "Once more: ")
	defer again.Wipe()
	if err == nil && !again.Equal(p) {
		err = errors.New("the two passphrases differ: nothing was made")
	}
	if err != nil {
		p.Wipe()
		return nil, err
	}
	return p, nil
}

func (a *app) passphraseFromFile(path string) (*secret.Bytes, error) {
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		a.note("Warning: %s can be read by other users of this machine: chmod 600 it", path)
	}
	raw, err := readFile(path, maxInputFile)
	if err != nil {
		return nil, fmt.Errorf("the passphrase cannot be read: %w", err)
	}
	defer secret.Wipe(raw)
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	return secret.Copy(bytes.TrimRight(line, "\r")), nil
}

// askHidden reads a line from a terminal that does not show it. Reading cannot
// be interrupted from here; a first Ctrl-C makes the terminal show what is typed
// again, so that a second one, which ends the process, leaves it in order.
func (a *app) askHidden(ctx context.Context, f *os.File, prompt string) (*secret.Bytes, error) {
	fd := int(f.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	_, _ = io.WriteString(a.stderr, prompt)
	restored := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(restored)
		// An error leaves the terminal as ReadPassword restores it.
		_ = term.Restore(fd, before)
		_, _ = io.WriteString(a.stderr, "\nInterrupted: press Enter to end.\n")
	})
	b, err := term.ReadPassword(fd)
	if !stop() {
		<-restored
	}
	_, _ = io.WriteString(a.stderr, "\n")
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		secret.Wipe(b)
		return nil, fmt.Errorf("no passphrase was read: %w", err)
	}
	return secret.New(b), nil
}

// confirm reads one line and goes on with "yes" only.
func (a *app) confirm(ctx context.Context, prompt string) error {
	_, _ = io.WriteString(a.stderr, prompt)
	// Reading cannot be interrupted from here; a second Ctrl-C ends the process.
	stop := context.AfterFunc(ctx, func() { _, _ = io.WriteString(a.stderr, "\nInterrupted: press Enter to end.\n") })
	defer stop()
	var answer [8]byte
	n, _ := a.stdin.Read(answer[:]) // whatever the error, nothing but yes will do
	if ctx.Err() != nil || string(bytes.TrimSpace(answer[:n])) != "yes" {
		return errors.New("not confirmed: nothing was signed")
	}
	return nil
}
