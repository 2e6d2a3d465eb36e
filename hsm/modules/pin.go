package modules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"vault-plugin-secrets-mpc/secret"
)

// MaxPIN bounds a PIN, in bytes.
const MaxPIN = 255

// ErrPINFile says that the host's PIN file cannot be used. No PIN was tried.
var ErrPINFile = errors.New("the host's PIN file cannot be used")

// ReadPIN reads the PIN that the host provides: the one line of PINFile without
// its newline, 1 to MaxPIN bytes. The file must be a regular one that nobody
// but its owner may read or write; a symbolic link to such a file will do. The
// caller wipes the result. It is read anew each time, so that a PIN can be
// changed without a restart. Errors wrap ErrPINFile and never hold the content.
func (m Module) ReadPIN() (*secret.Bytes, error) {
	if m.PINFile == "" {
		return nil, fmt.Errorf("%w: module %s has no %s in %s", ErrPINFile, m.Name, keyPINFile, Variable)
	}
	// O_NONBLOCK: a pipe nobody writes to must not hang the node.
	f, err := os.OpenFile(m.PINFile, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; no PIN was tried", ErrPINFile, err)
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, not of what the path leads to by now
	if err != nil {
		return nil, fmt.Errorf("%w: %w; no PIN was tried", ErrPINFile, err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a regular file; no PIN was tried", ErrPINFile, m.PINFile)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%w: others than its owner may use %s (mode %04o), so no PIN was tried; change it with chmod 0600, and change the PIN if somebody may have read it",
			ErrPINFile, m.PINFile, info.Mode().Perm())
	}
	// One buffer that is never grown: nothing of the PIN stays behind.
	buf := make([]byte, MaxPIN+len("\r\n")+1)
	defer secret.Wipe(buf)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: reading %s: %w; no PIN was tried", ErrPINFile, m.PINFile, err)
	}
	line := bytes.TrimSuffix(buf[:n], []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(line) == 0:
		return nil, fmt.Errorf("%w: %s is empty; no PIN was tried", ErrPINFile, m.PINFile)
	case len(line) > MaxPIN:
		return nil, fmt.Errorf("%w: %s has more than one line of %d bytes; no PIN was tried", ErrPINFile, m.PINFile, MaxPIN)
	case bytes.ContainsAny(line, "\n\r\x00"):
		return nil, fmt.Errorf("%w: %s has more than one line; no PIN was tried", ErrPINFile, m.PINFile)
	}
	return secret.Copy(line), nil
}
