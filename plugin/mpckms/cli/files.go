package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Bounds on what is read, in bytes.
const (
	maxKeyFile   = 16 << 10
	maxInputFile = 1 << 20
)

// readFile reads a file of bounded size.
func readFile(path string, most int) ([]byte, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > most {
		return nil, fmt.Errorf("%s is longer than %d bytes, the most that is taken", path, most)
	}
	return b, nil
}

// absent fails if one of the files exists. Commands ask before they begin;
// writeNew is what makes sure.
func absent(paths ...string) error {
	for _, path := range paths {
		if _, err := os.Lstat(filepath.Clean(path)); err == nil {
			return fmt.Errorf("%s exists already and is not overwritten: choose another name", path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writeNew writes a file that must not exist yet: an overwritten key is lost.
// After an error there is no new file.
func writeNew(path string, content []byte, mode os.FileMode) error {
	path = filepath.Clean(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
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

// writeKeyPair writes the two halves of a fresh key, the private one for its
// owner only. After an error there is neither.
func writeKeyPair(private string, sealed []byte, public string, open []byte) error {
	if err := absent(private, public); err != nil {
		return err
	}
	if err := writeNew(private, sealed, 0o600); err != nil {
		return err
	}
	if err := writeNew(public, open, 0o644); err != nil {
		return errors.Join(err, os.Remove(filepath.Clean(private)))
	}
	return nil
}
