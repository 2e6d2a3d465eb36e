package identity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The decoders take what a server or a disk gives them. Signatures are not checked
// where that would stop a fuzzer at the first byte: what these targets look for is
// a record that is read and written differently, a rule that panics, and a check
// that lets something through which cannot be signed again.

// fuzzSeeds adds the golden records' inner bytes.
func fuzzSeeds(f *testing.F, names ...string) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[`))
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join(goldenDir, name))
		if err != nil {
			f.Fatal(err)
		}
		var inner struct{ Manifest, Asset, Authenticator []byte }
		if err := json.Unmarshal(raw, &inner); err != nil {
			f.Fatal(err)
		}
		f.Add(append(append(inner.Manifest, inner.Asset...), inner.Authenticator...))
	}
}

// sameAgain fails unless v is written as it was read.
func sameAgain(t *testing.T, v any, raw []byte) {
	t.Helper()
	if again, err := json.Marshal(v); err != nil || !bytes.Equal(again, raw) {
		t.Errorf("read as %q, written as %q: %v", raw, again, err)
	}
}

func FuzzManifest(f *testing.F) {
	fuzzSeeds(f, "manifest-1.json", "manifest-3.json")
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _ = (&SignedManifest{Manifest: raw}).Verify()
		m := &Manifest{}
		if decodeStrict("manifest", raw, MaxManifest, m) != nil {
			return
		}
		if m.check() != nil {
			return
		}
		sameAgain(t, m, raw)
		for _, r := range m.Roles {
			m.openers(r.Name)
			if r.Past != nil && r.Past.Generation+1 != r.Generation {
				t.Error("past keys that are not those before")
			}
			if m.Role(r.Name).Name != r.Name {
				t.Error("a role is not found")
			}
		}
		if err := CheckCustody(m, []string{OwnerRole}); err != nil {
			t.Error("a server-trusting authenticator opens the owner role:", err)
		}
	})
}

func FuzzAsset(f *testing.F) {
	fuzzSeeds(f, "asset-bank-1.json", "asset-coins-2.json")
	raw, err := os.ReadFile(filepath.Join(goldenDir, "manifest-4.json"))
	if err != nil {
		f.Fatal(err)
	}
	var s SignedManifest
	if err := json.Unmarshal(raw, &s); err != nil {
		f.Fatal(err)
	}
	m, err := s.Verify()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := (&SignedAsset{Asset: raw}).Verify(m); err == nil {
			t.Error("an asset without a signature verifies")
		}
		a := &Asset{}
		if decodeStrict("asset", raw, MaxAsset, a) != nil || a.check() != nil {
			return
		}
		sameAgain(t, a, raw)
		Stale(m, a)
		next := a.clone()
		if next.Generation++; next.Generation != 0 && next.Writer == OwnerRole && next.Follows(a) != nil {
			t.Error("the same asset, one generation later, does not follow")
		}
		if a.Kind == AccountAsset && (a.Key(CustodyKey) == nil || len(a.Key(CustodyKey).Public) != 65) {
			t.Error("an account's asset without a custody key")
		}
	})
}

func FuzzAuthenticator(f *testing.F) {
	fuzzSeeds(f, "authenticator-alice.json", "authenticator-card.json", "authenticator-third.json", "authenticator-passkey.json")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := (&SignedAuthenticator{Authenticator: raw}).Verify(); err == nil {
			t.Error("an authenticator without a signature verifies")
		}
		a := &Authenticator{}
		if decodeStrict("authenticator", raw, MaxAuthenticator, a) != nil || a.check() != nil {
			return
		}
		sameAgain(t, a, raw)
		if a.KDF.Memory < DefaultKDF().Memory || a.ServerTrusting() && !a.Method.HasServerPart() || len(a.Fingerprint()) != 39 {
			t.Errorf("%+v passes", a)
		}
	})
}

// FuzzBinding changes a binding around its signed records, for which stand "@0",
// "@1" and so on: bytes spent on them would only break a signature.
func FuzzBinding(f *testing.F) {
	raw, err := os.ReadFile(filepath.Join(goldenDir, "binding.json"))
	if err != nil {
		f.Fatal(err)
	}
	b, err := ParseBinding(raw)
	if err != nil {
		f.Fatal(err)
	}
	var there, away []string
	for i, record := range append([][]byte{b.Manifest.Manifest, b.Manifest.Signature}, b.Assets[0].Asset, b.Assets[0].Signature, b.Assets[1].Asset, b.Assets[1].Signature) {
		text, mark := string(mustJSON(f, record)), fmt.Sprintf(`"@%d"`, i)
		there, away = append(there, mark, text), append(away, text, mark)
	}
	f.Add([]byte(strings.NewReplacer(away...).Replace(string(raw))))
	back := strings.NewReplacer(there...)
	f.Fuzz(func(t *testing.T, part []byte) {
		raw := []byte(back.Replace(string(part)))
		b, err := ParseBinding(raw)
		if err != nil {
			return
		}
		if again, err := b.Marshal(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("read as %q, written as %q: %v", raw, again, err)
		}
	})
}

// FuzzOpen gives ciphertexts that nobody made to everything that opens some.
func FuzzOpen(f *testing.F) {
	keys := drawKeys(f)
	c := AuthenticatorContext(ID{1})
	sealed, err := Seal(keys.Public(), c, keys.Seed())
	if err != nil {
		f.Fatal(err)
	}
	wrapped, err := Wrap(keys.Seed(), c, keys.Seed())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed, keys.Public().Seal)
	f.Add(wrapped, make([]byte, 32))
	f.Fuzz(func(t *testing.T, b, public []byte) {
		if _, err := keys.Open(c, b); err == nil && !bytes.Equal(b, sealed) {
			t.Error("a ciphertext that nobody sealed opens")
		}
		if _, err := Unwrap(keys.Seed(), c, b); err == nil && !bytes.Equal(b, wrapped) {
			t.Error("a ciphertext that nobody wrapped opens")
		}
		k := PublicKeys{Seal: public, Sign: b}
		if k.Check() == nil {
			if _, err := Seal(k, c, keys.Seed()); err != nil {
				t.Error("a key that was checked cannot be sealed to:", err)
			}
		}
	})
}
