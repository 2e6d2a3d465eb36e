package keyholder

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zalando/go-keyring"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// systemService is under which name the operating system shows the secrets.
const systemService = "mpckms"

type systemKeyring struct{ scope string }

// SystemKeyring is the keyring of the operating system: Secret Service on Linux,
// Keychain on macOS, Credential Manager on Windows. The scope keeps homes of one
// user apart. The library takes and gives strings, which Go cannot wipe.
func SystemKeyring(scope string) Keyring { return systemKeyring{scope} }

func (systemKeyring) Where() string { return "the keyring of the operating system" }

func (k systemKeyring) account(name string) string { return k.scope + "/" + name }

func (k systemKeyring) Set(name string, s *secret.Bytes) error {
	return keyring.Set(systemService, k.account(name), base64.StdEncoding.EncodeToString(s.Expose()))
}

func (k systemKeyring) Get(name string) (*secret.Bytes, error) {
	text, err := keyring.Get(systemService, k.account(name))
	if errors.Is(err, keyring.ErrNotFound) {
		return nil, ErrNoSecret
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be used: %w", k.Where(), err)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != informationSize {
		return nil, fmt.Errorf("%s has something else under the name of authenticator %s", k.Where(), name)
	}
	return secret.New(raw), nil
}

func (k systemKeyring) Delete(name string) error {
	if err := keyring.Delete(systemService, k.account(name)); err != nil && !errors.Is(err, keyring.ErrNotFound) {
		return err
	}
	return nil
}

// ErrNoKeyring: the operating system has no keyring that this process can reach.
var ErrNoKeyring = errors.New("the operating system has no keyring that this process can use")

// ProbeKeyring says whether the keyring can be reached, by asking for a name that
// it does not have. Errors wrap ErrNoKeyring.
func ProbeKeyring(k Keyring) error {
	s, err := k.Get("no-such-authenticator")
	s.Wipe()
	if err != nil && !errors.Is(err, ErrNoSecret) {
		return fmt.Errorf("%w: %w", ErrNoKeyring, err)
	}
	return nil
}

type fileKeyring struct{ dir string }

// FileKeyring keeps the secrets in files of a home that only their owner may read,
// for hosts without a keyring. Who can read the user's files has them.
func FileKeyring(h *Home) Keyring { return fileKeyring{filepath.Join(h.dir, homeKeyring)} }

func (k fileKeyring) Where() string { return "the folder " + k.dir }

func (k fileKeyring) path(name string) (string, error) {
	return filepath.Join(k.dir, name), identity.CheckName("authenticator", name)
}

func (k fileKeyring) Set(name string, s *secret.Bytes) error {
	path, err := k.path(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	return writeKeyFile(path, s)
}

func (k fileKeyring) Get(name string) (*secret.Bytes, error) {
	path, err := k.path(name)
	if err != nil {
		return nil, err
	}
	s, err := readKeyFile(path, func(string) {})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoSecret
	}
	return s, err
}

func (k fileKeyring) Delete(name string) error {
	path, err := k.path(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
