package cli

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"filippo.io/age/armor"

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

// keyFile is what is encrypted. Whoever has one wipes it.
type keyFile struct {
	Kind    string `json:"kind"`
	Name    string `json:"name,omitempty"` // of a custodian
	Version uint32 `json:"version,omitempty"`
	Private []byte `json:"private"` // base64: Ed25519 seed, or P-256 scalar big-endian, 32 bytes each
}

func (k *keyFile) wipe() { secret.Wipe(k.Private) }

// sealKey encrypts a key file, in age's text form.
func (a *app) sealKey(k *keyFile, passphrase *secret.Bytes) ([]byte, error) {
	// age takes the passphrase as a string, which stays in memory until this
	// short-lived process ends.
	recipient, err := age.NewScryptRecipient(string(passphrase.Expose()))
	if err != nil {
		return nil, err
	}
	if a.scryptWork != 0 {
		recipient.SetWorkFactor(a.scryptWork)
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

// openKey decrypts a key file of a kind. Its errors say nothing of the content.
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
	defer func() { secret.Wipe(plain) }()
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: restore it from its copy", path)
	}
	k := &keyFile{}
	if err := json.Unmarshal(plain, k); err != nil || k.Kind != kind {
		k.wipe()
		return nil, fmt.Errorf("%s is a key file of another kind, not %s", path, kind)
	}
	return k, nil
}

// authorityKey returns the Ed25519 key of an authority's key file, for the
// caller to wipe.
func (k *keyFile) authorityKey() (ed25519.PrivateKey, error) {
	if len(k.Private) != ed25519.SeedSize {
		return nil, errors.New("the key file does not hold an Ed25519 key")
	}
	return ed25519.NewKeyFromSeed(k.Private), nil
}

// custodianKey returns the P-256 key of a custodian's key file. The standard
// library keeps a copy that cannot be wiped.
func (k *keyFile) custodianKey() (*ecdh.PrivateKey, error) {
	key, err := ecdh.P256().NewPrivateKey(k.Private)
	if err != nil {
		return nil, errors.New("the key file does not hold a P-256 key")
	}
	return key, nil
}
