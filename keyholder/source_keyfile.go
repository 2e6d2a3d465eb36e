package keyholder

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// keyFileHeader is the first line of a key file; the second is the standard
// base64 of 32 random bytes.
const keyFileHeader = "MPC KEY FILE 1"

type keyFileSource struct {
	asker
	path string
}

// KeyFile takes the information from a file. For a new authenticator the file is
// made if it does not exist (mode 0600); one that exists is used as it is.
func KeyFile(p Prompter, path string) Source { return keyFileSource{asker{p}, path} }

func (keyFileSource) Method() identity.Method { return identity.KeyFile }

func (s keyFileSource) New(_ context.Context, _ *Registering) (*secret.Bytes, error) {
	info, err := readKeyFile(s.path, s.p.Show)
	if !errors.Is(err, fs.ErrNotExist) {
		return info, err
	}
	info = random(informationSize)
	if err := writeKeyFile(s.path, info); err != nil {
		info.Wipe()
		return nil, fmt.Errorf("the key file cannot be written, so nothing was made: %w", err)
	}
	s.p.Show("The key file " + s.path + " is new. Keep a copy in another place: who loses it cannot log in, who copies it can.")
	return info, nil
}

func (s keyFileSource) Get(_ context.Context, _ *Challenge) (*Answer, error) {
	info, err := readKeyFile(s.path, s.p.Show)
	return &Answer{Information: info}, err
}

func readKeyFile(path string, warn func(string)) (*secret.Bytes, error) {
	raw, err := readSmall(path, 1024)
	if err != nil {
		return nil, fmt.Errorf("the key file cannot be read: %w", err)
	}
	defer secret.Wipe(raw)
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		warn("Warning: " + path + " can be read by other users of this machine: chmod 600 it.")
	}
	header, rest, _ := bytes.Cut(raw, []byte("\n"))
	rest = bytes.TrimSpace(rest)
	key := make([]byte, base64.StdEncoding.DecodedLen(len(rest)))
	n, err := base64.StdEncoding.Strict().Decode(key, rest)
	if string(bytes.TrimRight(header, "\r")) != keyFileHeader || err != nil || n != informationSize {
		secret.Wipe(key)
		return nil, fmt.Errorf("%s is not a key file: its first line is %q and its second has %d bytes in base64", path, keyFileHeader, informationSize)
	}
	return secret.New(key[:n]), nil
}

func writeKeyFile(path string, info *secret.Bytes) error {
	content := make([]byte, 0, 128)
	content = append(content, keyFileHeader...)
	content = append(content, '\n')
	content = base64.StdEncoding.AppendEncode(content, info.Expose())
	content = append(content, '\n')
	defer func() { secret.Wipe(content) }()
	return writeNew(path, content)
}

// writeNew writes a file that must not exist yet, for its owner only. After an
// error there is none.
func writeNew(path string, content []byte) error {
	path = filepath.Clean(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// readSmall reads a file of at most `most` bytes.
func readSmall(path string, most int) ([]byte, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// One buffer that never grows: nothing of a secret stays behind in others.
	b := make([]byte, most+1)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		secret.Wipe(b)
		return nil, err
	}
	if n > most {
		secret.Wipe(b)
		return nil, fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return b[:n], nil
}
