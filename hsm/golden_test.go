package hsm_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// Golden envelopes were made once and must open for ever. The private key is
// a test key and public.
const goldenDir = "../testdata/golden"

var writeGolden = flag.Bool("write-golden", false, "make golden envelopes that are not there yet; existing ones are never changed")

type golden struct {
	PrivateKey string `json:"private_key_hex"` // P-256 scalar, 32 bytes
	KeyID      string `json:"key_id_hex"`
	Domain     string `json:"domain"`
	KeyVersion uint32 `json:"key_version"`
	Context    string `json:"context_hex"`
	Plaintext  string `json:"plaintext_hex"`
	Custody    bool   `json:"needs_custody_key"`
}

// softKey is a software key, without the checks of hsm.SoftwareKey.
type softKey struct{ priv *ecdh.PrivateKey }

func (k softKey) ECDH(_ context.Context, _ hsm.WrappingKey, peer *ecdh.PublicKey) (*secret.Bytes, error) {
	z, err := k.priv.ECDH(peer)
	return secret.New(z), err
}

func (k softKey) DecryptOAEP(context.Context, hsm.WrappingKey, []byte) (*secret.Bytes, error) {
	return nil, errors.New("this is a P-256 key")
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
	for _, name := range []string{"envelope-v1", "envelope-v1-custody"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(goldenDir, name)
			if _, err := os.Stat(path + ".bin"); *writeGolden && os.IsNotExist(err) {
				makeGolden(t, path, name == "envelope-v1-custody")
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
			priv, err := ecdh.P256().NewPrivateKey(unhex(t, g.PrivateKey))
			if err != nil {
				t.Fatal(err)
			}
			key := hsm.WrappingKey{Domain: g.Domain, Version: g.KeyVersion, Suite: hsm.SuiteHPKEP256, ID: unhex(t, g.KeyID), PublicKey: priv.PublicKey().Bytes()}
			got, version, err := hsm.Open(t.Context(), softKey{priv}, []hsm.WrappingKey{key}, c, envelope)
			if g.Custody {
				if !errors.Is(err, hsm.ErrNeedsCustodyKey) {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil || version != g.KeyVersion || !bytes.Equal(got.Expose(), unhex(t, g.Plaintext)) {
				t.Fatalf("does not open: version %d, error %v", version, err)
			}
		})
	}
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
	text, err := json.MarshalIndent(golden{
		PrivateKey: hex.EncodeToString(priv.Bytes()), KeyID: hex.EncodeToString(id),
		Domain: key.Domain, KeyVersion: key.Version,
		Context: hex.EncodeToString(goldenContext()), Plaintext: hex.EncodeToString(plaintext), Custody: custody,
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{path + ".bin": envelope, path + ".json": append(text, '\n')} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
