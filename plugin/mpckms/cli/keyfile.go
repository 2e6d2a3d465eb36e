package cli

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vault-plugin-secrets-mpc/secret"
)

// Key files hold a private key of the authority or of a custodian, encrypted by
// age (https://age-encryption.org/v1) under a passphrase: any age program opens
// them, so a key does not depend on this one.

// Kinds of key files.
const (
	kindAuthority = "mpc-authority-key-1"
	kindCustodian = "mpc-custodian-key-1"
)

const (
	maxKeyFile    = 16 << 10
	maxInputFile  = 1 << 20
	minPassphrase = 12 // characters; scrypt slows guessing down, no more
	maxPassphrase = 1024
)

// keyFile is what is encrypted.
type keyFile struct {
	Kind    string `json:"kind"`
	Name    string `json:"name,omitempty"` // of a custodian
	Version uint32 `json:"version,omitempty"`
	Private string `json:"private"` // base64: Ed25519 seed, or P-256 scalar
}

// sealKey encrypts a key file.
func sealKey(k keyFile, passphrase *secret.Bytes) ([]byte, error) {
	recipient, err := age.NewScryptRecipient(string(passphrase.Expose()))
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(plain)
	var out bytes.Buffer
	armored := armor.NewWriter(&out)
	w, err := age.Encrypt(armored, recipient)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// openKey decrypts a key file of a kind.
func openKey(path, kind string, passphrase *secret.Bytes) (*keyFile, error) {
	raw, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	identity, err := age.NewScryptIdentity(string(passphrase.Expose()))
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(raw)), identity)
	if err != nil {
		return nil, fmt.Errorf("%s does not open: the passphrase is another one, or it is no key file", path)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: restore it from its copy", path)
	}
	defer secret.Wipe(plain)
	k := &keyFile{}
	if err := json.Unmarshal(plain, k); err != nil || k.Kind != kind {
		return nil, fmt.Errorf("%s is a key file of another kind", path)
	}
	return k, nil
}

// authorityKey returns the Ed25519 key of an authority's key file.
func (k *keyFile) authorityKey() (ed25519.PrivateKey, error) {
	seed, err := base64.StdEncoding.DecodeString(k.Private)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, errors.New("the key file does not hold an Ed25519 key")
	}
	defer secret.Wipe(seed)
	return ed25519.NewKeyFromSeed(seed), nil
}

// custodianKey returns the P-256 key of a custodian's key file.
func (k *keyFile) custodianKey() (*ecdh.PrivateKey, error) {
	scalar, err := base64.StdEncoding.DecodeString(k.Private)
	if err != nil {
		return nil, errors.New("the key file does not hold a P-256 key")
	}
	defer secret.Wipe(scalar)
	key, err := ecdh.P256().NewPrivateKey(scalar)
	if err != nil {
		return nil, errors.New("the key file does not hold a P-256 key")
	}
	return key, nil
}

// passphraseFlags adds the flag that names a file with the passphrase.
func passphraseFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "passphrase-file", "", "read the passphrase from the first line of this file instead of the terminal")
}

// passphrase asks for the passphrase of a key file, twice where it is new.
func (a *app) passphrase(path string, fresh bool) (*secret.Bytes, error) {
	p, err := a.readPassphrase(path, fresh)
	if err != nil {
		return nil, err
	}
	if n := p.Len(); fresh && n < minPassphrase || n == 0 || n > maxPassphrase {
		p.Wipe()
		return nil, fmt.Errorf("the passphrase must have %d to %d characters: who copies the key file can try passphrases for ever", minPassphrase, maxPassphrase)
	}
	return p, nil
}

func (a *app) readPassphrase(path string, fresh bool) (*secret.Bytes, error) {
	if path != "" {
		raw, err := readFile(path, maxPassphrase+2)
		if err != nil {
			return nil, err
		}
		line, _, _ := bytes.Cut(raw, []byte("\n"))
		p := secret.Copy(bytes.TrimRight(line, "\r"))
		secret.Wipe(raw)
		return p, nil
	}
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, errors.New("there is no terminal to ask for the passphrase: use --passphrase-file")
	}
	ask := func(prompt string) (*secret.Bytes, error) {
		fmt.Fprint(a.stderr, prompt)
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.stderr)
		return secret.New(b), err
	}
	p, err := ask("Passphrase: ")
	if err != nil || !fresh {
		return p, err
	}
	again, err := ask("Once more: ")
	defer again.Wipe()
	if err != nil || !again.Equal(p) {
		p.Wipe()
		return nil, errors.Join(errors.New("the two passphrases differ: nothing was made"), err)
	}
	return p, nil
}

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
		return nil, fmt.Errorf("%s is longer than %d bytes, more than any valid file", path, most)
	}
	return b, nil
}

// writeNew writes a file that must not exist yet: an overwritten key is lost.
func writeNew(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(filepath.Clean(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}
