//go:build cgo

package pkcs11_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/secret"
)

// TestPersonKey uses keys that somebody else made, with IDs as smart cards have
// them, on both modules: SoftHSM knows OAEP with SHA-1 only, so its RSA key is used
// bare; NSS does OAEP itself.
func TestPersonKey(t *testing.T) {
	t.Run("SoftHSM", func(t *testing.T) {
		soft := hsmtest.SoftHSM(t)
		tok := openPerson(t, pkcs11.Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN()})
		personKeys(t, tok, soft.Module, soft.Label)
	})
	t.Run("NSS", func(t *testing.T) {
		nss := hsmtest.NSS(t)
		tok := openPerson(t, pkcs11.Config{Module: nss.Module, InitArgs: nss.InitArgs, Label: nss.Label, PIN: nss.PIN()})
		personKeys(t, tok, nss.Module, nss.Label)
	})
}

func openPerson(t *testing.T, cfg pkcs11.Config) *pkcs11.Token {
	t.Helper()
	defer cfg.PIN.Wipe()
	cfg.Sessions, cfg.Timeout = 1, patience
	tok, err := pkcs11.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	return tok
}

func personKeys(t *testing.T, tok *pkcs11.Token, module, label string) {
	c, _, s := session(t, module, label)
	hsmtest.PlantRaw(t, c, s, []byte{1}, "ada", hsm.SuiteHPKEP256)
	hsmtest.PlantRaw(t, c, s, []byte{2}, "ada rsa", hsm.SuiteRSA3072OAEPSHA256)

	k, err := tok.PersonKey(t.Context(), "ada", []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := k.Public().(*ecdsa.PublicKey).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want, err := other.ECDH(pub)
	if err != nil {
		t.Fatal(err)
	}
	if z, err := k.ECDH(t.Context(), other.PublicKey()); err != nil || !bytes.Equal(z.Expose(), want) {
		t.Fatal("ECDH of the token is another than that of its public key:", err)
	}
	if _, err := k.DecryptOAEP(t.Context(), make([]byte, 384)); err == nil {
		t.Error("a P-256 key decrypted")
	}

	if k, err = tok.PersonKey(t.Context(), "", []byte{2}); err != nil {
		t.Fatal(err)
	}
	public := k.Public().(*rsa.PublicKey)
	for _, plain := range [][]byte{[]byte("32 bytes and more that it stands for"), {}, {1}, {0, 1, 0, 1}} {
		sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, plain, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.DecryptOAEP(t.Context(), sealed); err != nil || !got.Equal(secret.Copy(plain)) {
			t.Fatalf("%q does not decrypt: %v", plain, err)
		}
		sealed[7] ^= 1
		if got, err := k.DecryptOAEP(t.Context(), sealed); err == nil {
			t.Fatalf("what was changed decrypts to %d bytes", got.Len())
		}
	}
	if sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, []byte("x"), []byte("another label")); err != nil {
		t.Fatal(err)
	} else if _, err := k.DecryptOAEP(t.Context(), sealed); err == nil {
		t.Error("another label decrypts")
	}
	if _, err := k.ECDH(t.Context(), other.PublicKey()); err == nil {
		t.Error("an RSA key does ECDH")
	}

	_, err = tok.PersonKey(t.Context(), "nobody", nil)
	wantError(t, err, pkcs11.ErrKeyNotFound)
	_, err = tok.PersonKey(t.Context(), "", nil)
	wantError(t, err, pkcs11.ErrKeyNotFound)
	hsmtest.PlantRaw(t, c, s, []byte{3}, "ada", hsm.SuiteHPKEP256)
	_, err = tok.PersonKey(t.Context(), "ada", nil)
	wantError(t, err, pkcs11.ErrKeyMismatch)
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}
