package keyholder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/identity"
)

// Folders and files of a Home.
const (
	homeIdentities     = "identities"     // NAME.json: identity.Pin
	homeAuthenticators = "authenticators" // NAME.json: Known
	homeBindings       = "bindings"       // NAME.json: a device binding, as package identity writes it
	homeKeyring        = "keyring"        // NAME: see FileKeyring
	homeRoster         = "nodes.json"     // Roster
	homeLock           = "lock"
)

// maxHomeFile bounds what is read, in bytes; bindings are the largest.
const maxHomeFile = 4 << 20

// Home is the folder in which one user of one mount keeps what his client
// remembers. It holds no key in clear, except where FileKeyring is used. Folders
// have the mode 0700 and files 0600; files are replaced, never written into.
// Several processes may use it at once.
type Home struct{ dir string }

// OpenHome uses the folder, which is made if need be; an empty path stands for
// mpckms below the user's configuration folder.
func OpenHome(dir string) (*Home, error) {
	dir, err := homeDir(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o022 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("others may write to %s (mode %04o), so what it holds cannot be believed: chmod 700 it after looking who did", dir, info.Mode().Perm())
	}
	h := &Home{dir: dir}
	for _, sub := range []string{homeIdentities, homeAuthenticators, homeBindings} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// HomeExists reports whether OpenHome would find a folder, and makes none.
func HomeExists(dir string) bool {
	dir, err := homeDir(dir)
	if err != nil {
		return false
	}
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}

func homeDir(dir string) (string, error) {
	if dir == "" {
		base, err := os.UserConfigDir()
		if err != nil {
			return "", fmt.Errorf("there is no folder for what mpckms remembers: give one with --home: %w", err)
		}
		dir = filepath.Join(base, "mpckms")
	}
	return filepath.Abs(dir)
}

// Dir is where the home is.
func (h *Home) Dir() string { return h.dir }

// Pins keeps the newest state of identities that was seen.
type Pins interface {
	// Pin returns what is known of the identity of that name; the zero Pin for
	// nothing.
	Pin(name string) (identity.Pin, error)
	// SetPin keeps a pin that is not older than the one that is kept.
	SetPin(name string, p identity.Pin) error
}

var _ Pins = (*Home)(nil)

// Pin implements Pins.
func (h *Home) Pin(name string) (p identity.Pin, err error) {
	_, err = h.read(homeIdentities, name, &p)
	return p, err
}

// SetPin implements Pins. A pin of an older generation than the one on disk, which
// another process may have written meanwhile, is dropped.
func (h *Home) SetPin(name string, p identity.Pin) error {
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	have, err := h.Pin(name)
	if err != nil {
		return err
	}
	if have.Identity == p.Identity && have.Generation > p.Generation {
		return nil
	}
	return h.write(homeIdentities, name, p)
}

// ForgetPin forgets an identity, after it was deleted or after its owner has made
// sure that a server is right to show another one.
func (h *Home) ForgetPin(name string) error { return h.remove(homeIdentities, name) }

// Known is an authenticator that was made or used here, and how to use it again.
type Known struct {
	Name   string          `json:"name"`
	ID     identity.ID     `json:"id,omitzero"` // zero before the first login
	Method identity.Method `json:"method"`
	// KeyFile is the path of a key file; Certificate and Key those of a
	// certificate; TokenURI (RFC 7512) and Module those of a key in a token.
	KeyFile     string `json:"key_file,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
	TokenURI    string `json:"token_uri,omitempty"`
	Module      string `json:"module,omitempty"`
	// FileKeyring: the device's secret is in a file of this home, because the
	// operating system had no keyring.
	FileKeyring bool `json:"file_keyring,omitempty"`
	// Identities are those that it opened at its last login.
	Identities []string `json:"identities,omitempty"`
}

// Authenticator returns what is known of one; ok is false for nothing.
func (h *Home) Authenticator(name string) (k Known, ok bool, err error) {
	ok, err = h.read(homeAuthenticators, name, &k)
	return k, ok, err
}

// Authenticators lists the known ones by name.
func (h *Home) Authenticators() ([]Known, error) {
	names, err := h.names(homeAuthenticators)
	if err != nil {
		return nil, err
	}
	out := make([]Known, 0, len(names))
	for _, name := range names {
		k, ok, err := h.Authenticator(name)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, k)
		}
	}
	return out, nil
}

// SetAuthenticator remembers an authenticator.
func (h *Home) SetAuthenticator(k Known) error { return h.write(homeAuthenticators, k.Name, k) }

// ForgetAuthenticator forgets one.
func (h *Home) ForgetAuthenticator(name string) error { return h.remove(homeAuthenticators, name) }

// Binding returns the binding of this device to an identity, or fs.ErrNotExist.
// Package identity reads and writes its form.
func (h *Home) Binding(identityName string) ([]byte, error) {
	path, err := h.path(homeBindings, identityName)
	if err != nil {
		return nil, err
	}
	return readSmall(path, maxHomeFile)
}

// Bindings lists the identities that this device is bound to.
func (h *Home) Bindings() ([]string, error) { return h.names(homeBindings) }

// SetBinding stores a binding.
func (h *Home) SetBinding(identityName string, binding []byte) error {
	path, err := h.path(homeBindings, identityName)
	if err != nil {
		return err
	}
	return replaceFile(path, binding)
}

// ForgetBinding removes a binding. The file is overwritten by no one: a disk that
// was copied keeps what it had.
func (h *Home) ForgetBinding(identityName string) error { return h.remove(homeBindings, identityName) }

func (h *Home) path(sub, name string) (string, error) {
	if err := identity.CheckName("file", name); err != nil {
		return "", err
	}
	return filepath.Join(h.dir, sub, name+".json"), nil
}

// read decodes a file; ok is false where there is none.
func (h *Home) read(sub, name string, into any) (ok bool, err error) {
	path, err := h.path(sub, name)
	if err != nil {
		return false, err
	}
	return readJSON(path, into)
}

func readJSON(path string, into any) (bool, error) {
	raw, err := readSmall(path, maxHomeFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return false, fmt.Errorf("%s is damaged: restore it from a copy, or remove it and with it what it remembers: %w", path, err)
	}
	return true, nil
}

func (h *Home) write(sub, name string, v any) error {
	path, err := h.path(sub, name)
	if err != nil {
		return err
	}
	return writeJSON(path, v)
}

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(path, append(raw, '\n'))
}

func (h *Home) remove(sub, name string) error {
	path, err := h.path(sub, name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (h *Home) names(sub string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(h.dir, sub))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && identity.CheckName("file", name) == nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// replaceFile writes a file of mode 0600 as a whole or not at all.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
