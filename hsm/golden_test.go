package hsm_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// Golden envelopes were made once and must open for ever. The private key is
// a test key and public.
const goldenDir = "../testdata/golden"

var goldenNames = []string{"envelope-v1", "envelope-v1-custody", "envelope-v1-custody-sealed", "envelope-v1-rsa3072-oaep-sha256", "envelope-v1-rsa3072-oaep-sha1-for-tests"}

var writeGolden = flag.Bool("write-golden", false, "make golden envelopes that are not there yet; existing ones are never changed")

type golden struct {
	PrivateKey string `json:"private_key_hex"` // P-256 scalar, 32 bytes; or PKCS #8 (RSA)
	Suite      string `json:"suite,omitempty"` // default hpke-p256
	KeyID      string `json:"key_id_hex"`
	Domain     string `json:"domain"`
	KeyVersion uint32 `json:"key_version"`
	Context    string `json:"context_hex"`
	Plaintext  string `json:"plaintext_hex"`
	Custody    bool   `json:"needs_custody_key"`
	CustodyKey string `json:"custody_private_key_hex,omitempty"` // P-256 scalar, 32 bytes
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGolden(t *testing.T) {
	for _, name := range goldenNames {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(goldenDir, name)
			if _, err := os.Stat(path + ".bin"); *writeGolden && os.IsNotExist(err) {
				if suite, ok := strings.CutPrefix(name, "envelope-v1-rsa"); ok {
					makeGoldenRSA(t, path, "rsa"+suite)
				} else if name == "envelope-v1-custody-sealed" {
					makeGoldenCustody(t, path)
				} else {
					makeGolden(t, path, name == "envelope-v1-custody")
				}
			}
			var g golden
			text, err := os.ReadFile(path + ".json")
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &g); err != nil {
				t.Fatal(err)
			}
			envelope, err := os.ReadFile(path + ".bin")
			if err != nil {
				t.Fatal(err)
			}
			e, err := hsm.ParseEnvelope(envelope)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := e.Marshal(); err != nil || !bytes.Equal(again, envelope) {
				t.Fatalf("encodes to other bytes (error %v)", err)
			}
			c := hsm.Context(unhex(t, g.Context))
			if !bytes.Equal(c, goldenContext()) {
				t.Fatal("ShareContext gives other bytes than it did")
			}
			x, key := g.key(t)
			got, version, err := hsm.Open(t.Context(), x, []hsm.WrappingKey{key}, c, envelope)
			if g.Custody {
				if !errors.Is(err, hsm.ErrNeedsCustodyKey) {
					t.Fatalf("got %v", err)
				}
				if g.CustodyKey == "" {
					return
				}
				custody, err := ecdh.P256().NewPrivateKey(unhex(t, g.CustodyKey))
				if err != nil {
					t.Fatal(err)
				}
				k2, err := hsm.OpenCustodySeal(custody, c, envelope)
				if err != nil {
					t.Fatal(err)
				}
				got, version, err = hsm.OpenWith(t.Context(), x, []hsm.WrappingKey{key}, c, envelope, k2)
				if err != nil || version != g.KeyVersion || !bytes.Equal(got.Expose(), unhex(t, g.Plaintext)) {
					t.Fatalf("does not open: version %d, error %v", version, err)
				}
				return
			}
			if err != nil || version != g.KeyVersion || !bytes.Equal(got.Expose(), unhex(t, g.Plaintext)) {
				t.Fatalf("does not open: version %d, error %v", version, err)
			}
		})
	}
}

// key returns the private key and the record that goes with it.
func (g golden) key(t *testing.T) (hsm.PrivateKeys, hsm.WrappingKey) {
	t.Helper()
	key := hsm.WrappingKey{Domain: g.Domain, Version: g.KeyVersion, Suite: hsm.SuiteHPKEP256, ID: unhex(t, g.KeyID)}
	if g.Suite == "" {
		priv, err := ecdh.P256().NewPrivateKey(unhex(t, g.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		key.PublicKey = priv.PublicKey().Bytes()
		return hsm.SoftwareKey(priv), key
	}
	var err error
	if key.Suite, err = hsm.ParseSuite(g.Suite); err != nil {
		t.Fatal(err)
	}
	priv, err := x509.ParsePKCS8PrivateKey(unhex(t, g.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	soft := softRSA{priv.(*rsa.PrivateKey)}
	key.PublicKey = soft.public(t)
	return soft, key
}

func goldenContext() hsm.Context {
	var hash [32]byte
	for i := range hash {
		hash[i] = byte(i)
	}
	return hsm.ShareContext(3, hash)
}

func makeGolden(t *testing.T, path string, custody bool) {
	priv, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := bytes.Repeat([]byte{0xa5}, 16)
	plaintext := []byte("0123456789abcdef0123456789ABCDEF")
	key := hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 7, Suite: hsm.SuiteHPKEP256, ID: id, PublicKey: priv.PublicKey().Bytes()}
	other := key
	other.Domain = "eu"
	envelope, err := hsm.Seal(goldenContext(), secret.Copy(plaintext), []hsm.WrappingKey{other, key})
	if err != nil {
		t.Fatal(err)
	}
	if custody {
		// Only the format is fixed yet: the custody seal opens nothing.
		e, err := hsm.ParseEnvelope(envelope)
		if err != nil {
			t.Fatal(err)
		}
		e.Holders = append(e.Holders, hsm.Holder{Kind: hsm.HolderCustody, Seals: []hsm.SealedKey{
			{Suite: hsm.SuiteHPKEP256, Domain: "custody", Version: 1, Sealed: bytes.Clone(e.Seals()[0].Sealed)}}})
		if envelope, err = e.Marshal(); err != nil {
			t.Fatal(err)
		}
	}
	writeGoldenFiles(t, path, envelope, golden{
		PrivateKey: hex.EncodeToString(priv.Bytes()), KeyID: hex.EncodeToString(id),
		Domain: key.Domain, KeyVersion: key.Version,
		Context: hex.EncodeToString(goldenContext()), Plaintext: hex.EncodeToString(plaintext), Custody: custody,
	})
}

func makeGoldenCustody(t *testing.T, path string) {
	priv, custody := newCustodyKey(t), newCustodyKey(t)
	id := bytes.Repeat([]byte{0xa5}, 16)
	plaintext := []byte("0123456789abcdef0123456789ABCDEF")
	key := hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 7, Suite: hsm.SuiteHPKEP256, ID: id, PublicKey: priv.PublicKey().Bytes()}
	envelope, _, err := hsm.SealCustody(goldenContext(), secret.Copy(plaintext), []hsm.WrappingKey{key}, custody.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	writeGoldenFiles(t, path, envelope, golden{
		PrivateKey: hex.EncodeToString(priv.Bytes()), KeyID: hex.EncodeToString(id),
		Domain: key.Domain, KeyVersion: key.Version,
		Context: hex.EncodeToString(goldenContext()), Plaintext: hex.EncodeToString(plaintext),
		Custody: true, CustodyKey: hex.EncodeToString(custody.Bytes()),
	})
}

func makeGoldenRSA(t *testing.T, path, suite string) {
	soft, key := newSoftRSA(t, hsm.DefaultDomain, 7)
	var err error
	if key.Suite, err = hsm.ParseSuite(suite); err != nil {
		t.Fatal(err)
	}
	plaintext := []byte("0123456789abcdef0123456789ABCDEF")
	// Beside a seal for P-256, as a share for two kinds of token has.
	_, other := newSoftKey(t, "eu", 7)
	envelope, err := hsm.Seal(goldenContext(), secret.Copy(plaintext), []hsm.WrappingKey{other, key})
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(soft.priv)
	if err != nil {
		t.Fatal(err)
	}
	writeGoldenFiles(t, path, envelope, golden{
		PrivateKey: hex.EncodeToString(der), Suite: suite, KeyID: hex.EncodeToString(key.ID),
		Domain: key.Domain, KeyVersion: key.Version,
		Context: hex.EncodeToString(goldenContext()), Plaintext: hex.EncodeToString(plaintext),
	})
}

func writeGoldenFiles(t *testing.T, path string, envelope []byte, g golden) {
	text, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{path + ".bin": envelope, path + ".json": append(text, '\n')} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
