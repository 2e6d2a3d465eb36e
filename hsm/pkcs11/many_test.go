//go:build cgo

package pkcs11

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
)

// TestTenThousandObjects: other users' keys crowd the token. They are one real
// pair whose object files were copied 5,000 times, which is what SoftHSM's
// store looks like with so many pairs; our own keys are made among them. Keys
// in use are not searched for, and no search collects more than it may.
func TestTenThousandObjects(t *testing.T) {
	const objects = 10_000
	soft := hsmtest.SoftHSM(t)
	cfg := Config{Module: soft.Module, Label: soft.Label, PIN: soft.PIN(), Timeout: 20 * time.Second}
	f := &faulty{}
	start := func() *Token {
		tok, err := open(t.Context(), cfg, func(cfg Config) (library, error) {
			m, err := loadModule(cfg.Module, "")
			f.module = m
			return library{module: f}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	tok := start()
	if _, err := tok.GenerateWrappingKey(t.Context(), KeyRequest{Domain: "default", Version: 1, Label: "crowd", Suites: []hsm.Suite{hsm.SuiteHPKEP256}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tok.Close(), f.module.(*p11.Ctx).Finalize()); err != nil {
		t.Fatal(err)
	}
	crowd(t, soft, objects)

	began := time.Now()
	tok = start()
	defer tok.Close()
	t.Logf("open: %v", time.Since(began).Round(time.Millisecond))
	count, err := withSession(t.Context(), tok, true, func(s p11.SessionHandle) (int, error) {
		all, err := search(tok.mod, s, 1<<20, nil)
		return len(all), err
	}, nil)
	if err != nil || count != objects {
		t.Fatalf("%d objects, %v", count, err)
	}

	const made = 2
	var keys []hsm.WrappingKey
	began = time.Now()
	for range made {
		key, err := tok.GenerateWrappingKey(t.Context(), request(1))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	t.Logf("make a key: %v", (time.Since(began) / made).Round(time.Millisecond))
	tok.forget(keys[0].ID)
	began = time.Now()
	if err := tok.Bind(t.Context(), keys[0]); err != nil {
		t.Fatal(err)
	}
	t.Logf("bind: %v", time.Since(began).Round(time.Millisecond))

	eph, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.set(func() { f.calls = nil })
	const derivations = 500
	began = time.Now()
	for i := range derivations {
		key := keys[i%len(keys)]
		z, err := tok.ECDH(t.Context(), key, eph.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		right(t, key, eph, z)
	}
	t.Logf("derive: %v", (time.Since(began) / derivations).Round(time.Microsecond))
	if n := f.called("find"); n != 0 {
		t.Errorf("%d searches for keys that are in use", n)
	}

	found, err := tok.FindByLabel(t.Context(), "crowd")
	if err != nil || len(found) != 1 {
		t.Fatalf("%d IDs, %v", len(found), err)
	}
	if o := found[0]; o.Private < maxByLabel || o.Private > maxByLabel+16 || o.Public < maxByLabel || o.Public > maxByLabel+16 {
		t.Errorf("looked at %d and %d objects, not at about %d", o.Private, o.Public, maxByLabel)
	}
	p, err := withSession(t.Context(), tok, true, func(s p11.SessionHandle) (pair, error) { return findPair(tok.mod, s, found[0].ID) }, nil)
	if err != nil || len(p.private) < 2 || len(p.private) > 80 {
		t.Errorf("found %d private keys with one ID, %v", len(p.private), err)
	}
	for _, key := range keys {
		if err := tok.DestroyWrappingKey(t.Context(), key.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// crowd copies the two object files of a token until there are n.
func crowd(t *testing.T, soft hsmtest.SoftToken, n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(soft.Dir, "tokens", "*", "*.object"))
	if err != nil {
		t.Fatal(err)
	}
	var pair []string
	for _, file := range files {
		if filepath.Base(file) != "token.object" {
			pair = append(pair, file)
		}
	}
	if len(pair) != 2 {
		t.Fatalf("%d objects, not a pair", len(pair))
	}
	for _, file := range pair {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for range n/2 - 1 {
			var u [16]byte
			_, _ = rand.Read(u[:])
			name := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
			for suffix, b := range map[string][]byte{".object": content, ".lock": nil} {
				if err := os.WriteFile(filepath.Join(filepath.Dir(file), name+suffix), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
