//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Token is a fresh SoftHSM token in a private folder.
type Token struct {
	Label  string
	PIN    string // of a token that lives for one test run
	Conf   string // path for SOFTHSM2_CONF
	Module string // path of the PKCS#11 library

	objects map[string][]byte // token.object files as they were made, by path
}

// URI is what config/hsm takes, with the module name that Enable registers.
func (t Token) URI() string { return "pkcs11:token=" + t.Label + "?module-name=softhsm" }

// newToken makes a token in a store, and so a configuration, of its own. The
// tokens of one Vault must share one: more of them are made by AddToken.
func newToken(dir, label string) (Token, error) {
	module, err := softhsmModule()
	if err != nil {
		return Token{}, err
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		return Token{}, err
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return Token{}, err
	}
	return addToken(conf, module, label)
}

// addToken makes one more token in the store that conf names.
func addToken(conf, module, label string) (Token, error) {
	t := Token{Label: label, PIN: randomHex(8), Conf: conf, Module: module}
	// softhsm2-util takes PINs from arguments or a terminal only: fit for a
	// token that is thrown away, and for no other.
	cmd := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", t.PIN, "--so-pin", randomHex(8))
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		return Token{}, fmt.Errorf("softhsm2-util: %w: %s", err, strings.ReplaceAll(string(out), t.PIN, "(PIN)"))
	}
	files, err := t.objectFiles()
	if err != nil {
		return Token{}, err
	}
	t.objects = map[string][]byte{}
	for _, file := range files {
		if t.objects[file], err = os.ReadFile(file); err != nil {
			return Token{}, err
		}
	}
	return t, nil
}

func (t Token) objectFiles() ([]string, error) {
	return filepath.Glob(filepath.Join(filepath.Dir(t.Conf), "tokens", "*", "token.object"))
}

// Mend brings back tokens of the store that SoftHSM 2.6.1 has lost: it writes
// token.object anew at each login, and a process that is killed between truncating
// and writing leaves it empty, for ever (two or three kills in the middle of logins
// are enough). A real HSM does no such thing. It returns how many were mended; call
// it now and then where processes are killed.
func (t Token) Mend() (mended int, err error) {
	empty := func() (out []string, err error) {
		files, err := t.objectFiles()
		for _, file := range files {
			if info, err := os.Stat(file); err == nil && info.Size() == 0 && t.objects[file] != nil {
				out = append(out, file)
			}
		}
		return out, err
	}
	files, err := empty()
	if err != nil || len(files) == 0 {
		return 0, err
	}
	time.Sleep(200 * time.Millisecond) // a login that lives has written by then
	still, err := empty()
	for _, file := range still {
		if !slices.Contains(files, file) {
			continue
		}
		fresh := file + ".mended"
		if err := os.WriteFile(fresh, t.objects[file], 0o600); err != nil {
			return mended, err
		}
		if err := os.Rename(fresh, file); err != nil {
			return mended, err
		}
		mended++
	}
	return mended, err
}

// softhsmModule finds SoftHSM's library in the places scripts/softhsm.sh knows.
func softhsmModule() (string, error) {
	candidates := []string{os.Getenv("MPC_SOFTHSM_MODULE"), "/usr/lib/softhsm/libsofthsm2.so"}
	multiarch, _ := filepath.Glob("/usr/lib/*/softhsm/libsofthsm2.so")
	candidates = append(candidates, multiarch...)
	candidates = append(candidates, "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so")
	for _, c := range candidates {
		if info, err := os.Stat(c); c != "" && err == nil && info.Mode().IsRegular() {
			return c, nil
		}
	}
	return "", fmt.Errorf("libsofthsm2.so not found; run make setup, or set MPC_SOFTHSM_MODULE")
}

// randomHex returns n random bytes as 2n hex digits.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// AddToken makes one more token that this Vault's plugins can reach.
func (v *Vault) AddToken(t testing.TB, label string) Token {
	t.Helper()
	token, err := addToken(v.Token.Conf, v.Token.Module, label)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TakeAway makes the tokens of this store vanish, as a network HSM does that
// cannot be reached. The function returned brings them back; call it once.
func (t Token) TakeAway() (back func() error, err error) {
	tokens := filepath.Join(filepath.Dir(t.Conf), "tokens")
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		return nil, err
	}
	return func() error { return os.Rename(tokens+".away", tokens) }, nil
}

// NewToken makes a token in a store of its own, as on a host of its own. Its
// folder is removed when the test ends.
func (h *Harness) NewToken(t testing.TB, label string) Token {
	t.Helper()
	dir, err := h.tempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	token, err := newToken(dir, label)
	if err != nil {
		t.Fatal(err)
	}
	return token
}
