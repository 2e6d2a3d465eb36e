package keyholder

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

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
	if err := sessionBus(); err != nil {
		return err
	}
	return keyring.Set(systemService, k.account(name), base64.StdEncoding.EncodeToString(s.Expose()))
}

func (k systemKeyring) Get(name string) (*secret.Bytes, error) {
	if err := sessionBus(); err != nil {
		return nil, err
	}
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
	if err := sessionBus(); err != nil {
		return err
	}
	if err := keyring.Delete(systemService, k.account(name)); err != nil && !errors.Is(err, keyring.ErrNotFound) {
		return err
	}
	return nil
}

// sessionBus fails where this user has no message bus. The library would start one,
// and with it a keyring that no later login finds again, which outlives this process
// and takes the secret with it.
func sessionBus() error {
	switch runtime.GOOS {
	case "darwin", "windows":
		return nil // their keyrings need none
	}
	if address := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); address != "" && address != "autolaunch:" {
		return nil
	}
	dir := filepath.Join("/run/user", strconv.Itoa(os.Getuid()))
	for _, name := range []string{"bus", "dbus-session"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: there is no message bus of this session (DBUS_SESSION_BUS_ADDRESS)", ErrNoKeyring)
}

// ErrNoKeyring: the operating system has no keyring that this process can reach.
var ErrNoKeyring = errors.New("the operating system has no keyring that this process can use")

// ProbeKeyring says whether the keyring can be reached, by asking for a name that
// it does not have. Errors wrap ErrNoKeyring.
func ProbeKeyring(k Keyring) error {
	s, err := k.Get("no-such-authenticator")
	s.Wipe()
	switch {
	case err == nil || errors.Is(err, ErrNoSecret):
		return nil
	case errors.Is(err, ErrNoKeyring): // says so already
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoKeyring, err)
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
