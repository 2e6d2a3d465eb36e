//go:build cgo

package pkcs11

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"errors"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
)

func rsaRequest() KeyRequest {
	return KeyRequest{Domain: "default", Version: 1, Suites: []hsm.Suite{hsm.SuiteRSA3072OAEPSHA1}}
}

// encrypted returns a ciphertext for key.
func encrypted(t *testing.T, key hsm.WrappingKey, text string) []byte {
	t.Helper()
	pub, err := hsm.ParseRSAPublicKey(key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func decrypts(t *testing.T, tok *Token, key hsm.WrappingKey) {
	t.Helper()
	got, err := tok.DecryptOAEP(t.Context(), key, encrypted(t, key, "text"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Expose()) != "text" {
		t.Fatal("decrypted to something else")
	}
}

func allowSHA1(c *Config) { c.AllowSHA1, c.Timeout = true, 10*time.Second }

// TestDecryptRetriesOnceByClass is TestRetriesOnceByClass for RSA through the
// raw layer, where the token is also asked whose fault it is.
func TestDecryptRetriesOnceByClass(t *testing.T) {
	f := &faulty{}
	tok, err := openFaulty(t, f, allowSHA1)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tok.GenerateWrappingKey(t.Context(), rsaRequest())
	if err != nil {
		t.Fatal(err)
	}
	if h, err := tok.known(key); err != nil || h.private == 0 || h.lent != nil {
		t.Fatal("crypto11 has got hold of a module in a wrapper")
	}
	for _, test := range []struct {
		code  uint
		times int // how often the module answers so
		want  error
		calls int // of C_DecryptInit, proofs included
	}{
		{p11.CKR_SESSION_HANDLE_INVALID, 1, nil, 3}, // the second proves the key, found again
		{p11.CKR_SESSION_HANDLE_INVALID, 9, ErrUnavailable, 2},
		{p11.CKR_OPERATION_ACTIVE, 1, nil, 3},
		{p11.CKR_KEY_HANDLE_INVALID, 1, nil, 3},
		{p11.CKR_USER_NOT_LOGGED_IN, 1, nil, 2},
		{p11.CKR_DEVICE_REMOVED, 9, ErrUnavailable, 3}, // the second asks whose fault it is, the third proves the key, found again
		{p11.CKR_FUNCTION_FAILED, 9, p11.Error(p11.CKR_FUNCTION_FAILED), 3},
		{p11.CKR_FUNCTION_FAILED, 1, hsm.ErrOpen, 2}, // only this ciphertext fails
		{p11.CKR_ENCRYPTED_DATA_INVALID, 1, hsm.ErrOpen, 2},
		{p11.CKR_DEVICE_ERROR, 1, hsm.ErrOpen, 2},
	} {
		t.Run(p11.Error(test.code).Error(), func(t *testing.T) {
			f.set(func() { f.decrypt = nil })
			decrypts(t, tok, key) // bound
			left := test.times
			f.set(func() {
				f.calls = nil
				f.decrypt = func() error {
					if left--; left >= 0 {
						return p11.Error(test.code)
					}
					return nil
				}
			})
			z, err := tok.DecryptOAEP(t.Context(), key, encrypted(t, key, "text"))
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v", err)
			}
			if err == nil && string(z.Expose()) != "text" {
				t.Fatal("decrypted to something else")
			}
			if n := f.called("decrypt"); n != test.calls {
				t.Errorf("%d decryptions, want %d", n, test.calls)
			}
		})
	}
}

func TestSHA1NeedsPermission(t *testing.T) {
	soft := hsmtest.SoftHSM(t)
	cfg := Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN(), AllowSHA1: true}
	tok, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tok.GenerateWrappingKey(t.Context(), rsaRequest())
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.AllowSHA1 = false
	if tok, err = Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	if _, err := tok.GenerateWrappingKey(t.Context(), rsaRequest()); !errors.Is(err, ErrNoSuite) {
		t.Errorf("made: %v", err)
	}
	if err := tok.Bind(t.Context(), key); !errors.Is(err, ErrKeyMismatch) {
		t.Errorf("bound: %v", err)
	}
	if _, err := tok.DecryptOAEP(t.Context(), key, encrypted(t, key, "text")); !errors.Is(err, ErrKeyMismatch) {
		t.Errorf("decrypted: %v", err)
	}
}
