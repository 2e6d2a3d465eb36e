package hsm_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// softRSA is an RSA key in software.
type softRSA struct{ priv *rsa.PrivateKey }

func (k softRSA) public(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.priv.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (k softRSA) ECDH(context.Context, hsm.WrappingKey, *ecdh.PublicKey) (*secret.Bytes, error) {
	return nil, errors.New("this is an RSA key")
}

func (k softRSA) DecryptOAEP(_ context.Context, key hsm.WrappingKey, ciphertext []byte) (*secret.Bytes, error) {
	hash, _ := key.Suite.OAEPHash()
	plaintext, err := rsa.DecryptOAEP(hash.New(), nil, k.priv, ciphertext, nil)
	if err != nil {
		return nil, hsm.ErrOpen
	}
	return secret.New(plaintext), nil
}

func newSoftRSA(t testing.TB, domain string, version uint32) (softRSA, hsm.WrappingKey) {
	t.Helper()
	priv, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	soft := softRSA{priv}
	return soft, hsm.WrappingKey{Domain: domain, Version: version, Suite: hsm.SuiteRSA3072OAEPSHA256, ID: make([]byte, 16), PublicKey: soft.public(t)}
}

// TestRSASeal takes a seal apart: what it holds is part of the format.
func TestRSASeal(t *testing.T) {
	soft, key := newSoftRSA(t, "default", 258)
	c := hsm.ShareContext(1, [32]byte{})
	e, err := hsm.Seal(c, secret.Copy([]byte("share")), []hsm.WrappingKey{key})
	if err != nil {
		t.Fatal(err)
	}
	seals, err := hsm.Seals(e)
	if err != nil || len(seals) != 1 || seals[0].Suite != hsm.SuiteRSA3072OAEPSHA256 || seals[0].Version != 258 || seals[0].Domain != "default" {
		t.Fatalf("%+v, %v", seals, err)
	}
	plaintext, err := rsa.DecryptOAEP(sha256.New(), nil, soft.priv, seals[0].Sealed, nil)
	if err != nil || len(plaintext) != 64 {
		t.Fatalf("%d bytes, %v", len(plaintext), err)
	}
	info := "\x00\x00\x00\x15mpc hsm sealed key v1\x00\x00\x00\x01\x02\x00\x00\x00\x07default\x00\x00\x00\x04\x00\x00\x01\x02"
	joined := string([]byte{0, 0, 0, byte(len(info))}) + info + string([]byte{0, 0, 0, byte(len(c))}) + string(c)
	if want := sha256.Sum256([]byte(joined)); !bytes.Equal(plaintext[32:], want[:]) {
		t.Fatal("bound to something else than info and context")
	}
	if _, err := hsm.Seals(e[1:]); !errors.Is(err, hsm.ErrEnvelope) {
		t.Fatal(err)
	}

	// One envelope for both kinds of token: either opens it, and rewrapping
	// goes from one to the other.
	x, ec := newSoftKey(t, "eu", 1)
	if e, err = hsm.Rewrap(t.Context(), soft, []hsm.WrappingKey{key}, c, e, []hsm.WrappingKey{key, ec}); err != nil {
		t.Fatal(err)
	}
	for k, x := range map[*hsm.WrappingKey]hsm.PrivateKeys{&key: soft, &ec: x} {
		if got, _, err := hsm.Open(t.Context(), x, []hsm.WrappingKey{*k}, c, e); err != nil || string(got.Expose()) != "share" {
			t.Errorf("%s: %v", k.Suite, err)
		}
	}
}

// TestRSAOtherContext: a seal that decrypts but was made for another context,
// and one whose plaintext has another form.
func TestRSAOtherContext(t *testing.T) {
	soft, key := newSoftRSA(t, "default", 1)
	c := hsm.ShareContext(1, [32]byte{})
	e, err := hsm.Seal(c, secret.Copy([]byte("share")), []hsm.WrappingKey{key})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := hsm.Open(t.Context(), soft, []hsm.WrappingKey{key}, hsm.ShareContext(2, [32]byte{}), e); !errors.Is(err, hsm.ErrOpen) {
		t.Fatal(err)
	}
	for _, n := range []int{0, 32, 63, 65} {
		parsed, err := hsm.ParseEnvelope(e)
		if err != nil {
			t.Fatal(err)
		}
		if parsed.Holders[0].Seals[0].Sealed, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &soft.priv.PublicKey, make([]byte, n), nil); err != nil {
			t.Fatal(err)
		}
		changed, err := parsed.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := hsm.Open(t.Context(), soft, []hsm.WrappingKey{key}, c, changed); !errors.Is(err, hsm.ErrOpen) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

func TestParseRSAPublicKey(t *testing.T) {
	soft, key := newSoftRSA(t, "default", 1)
	if len(key.PublicKey) != 422 {
		t.Errorf("%d bytes", len(key.PublicKey))
	}
	if pub, err := hsm.ParseRSAPublicKey(key.PublicKey); err != nil || !pub.Equal(soft.priv.Public()) {
		t.Fatal(err)
	}
	der := func(n *big.Int, e int) []byte {
		b, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: e})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	n := soft.priv.N
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.MarshalPKIXPublicKey(curve.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty":           nil,
		"exponent 3":      der(n, 3),
		"3071 bits":       der(new(big.Int).Rsh(n, 1), 65537),
		"3073 bits":       der(new(big.Int).SetBit(n, 3072, 1), 65537),
		"2048 bits":       der(new(big.Int).Rsh(n, 1024), 65537),
		"even":            der(new(big.Int).SetBit(n, 0, 0), 65537),
		"4096 bits":       der(new(big.Int).Lsh(n, 1024), 65537),
		"P-256":           other,
		"trailing byte":   append(bytes.Clone(key.PublicKey), 0),
		"cut":             key.PublicKey[:421],
		"PKCS #1":         x509.MarshalPKCS1PublicKey(&soft.priv.PublicKey),
		"not DER":         bytes.Replace(key.PublicKey, []byte{0x30, 0x82}, []byte{0x30, 0x83, 0}, 1),
		"a point":         append([]byte{4}, make([]byte, 64)...),
		"larger than any": make([]byte, 1<<20),
	} {
		if pub, err := hsm.ParseRSAPublicKey(b); err == nil || pub != nil {
			t.Errorf("%s: accepted", name)
		}
		k := key
		k.PublicKey = b
		if _, err := hsm.Seal(hsm.ShareContext(1, [32]byte{}), secret.Copy([]byte("x")), []hsm.WrappingKey{k}); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
}

func TestSoftwareKey(t *testing.T) {
	x, key := newSoftKey(t, "recovery:alice", 1)
	_, other := newSoftKey(t, "recovery:alice", 1)
	key.ID = nil // a recipient outside any token
	c := hsm.ShareContext(1, [32]byte{})
	e, err := hsm.Seal(c, secret.Copy([]byte("share")), []hsm.WrappingKey{key})
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := hsm.Open(t.Context(), x, []hsm.WrappingKey{key}, c, e); err != nil || string(got.Expose()) != "share" {
		t.Fatal(err)
	}
	if _, _, err := hsm.Open(t.Context(), x, []hsm.WrappingKey{other}, c, e); !errors.Is(err, hsm.ErrKeyMismatch) {
		t.Fatal(err)
	}
	if _, _, err := hsm.Open(t.Context(), hsm.SoftwareKey(nil), []hsm.WrappingKey{key}, c, e); !errors.Is(err, hsm.ErrKeyMismatch) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := hsm.Open(ctx, x, []hsm.WrappingKey{key}, c, e); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	_, rsaKey := newSoftRSA(t, "default", 1)
	if _, err := x.DecryptOAEP(t.Context(), rsaKey, make([]byte, 384)); !errors.Is(err, hsm.ErrKeyMismatch) {
		t.Fatal(err)
	}
}

func TestSuites(t *testing.T) {
	for s, name := range map[hsm.Suite]string{1: "hpke-p256", 2: "rsa3072-oaep-sha256", 3: "rsa3072-oaep-sha1-for-tests"} {
		got, err := hsm.ParseSuite(name)
		if err != nil || got != s || s.String() != name {
			t.Errorf("%d: %s, %v", s, s, err)
		}
	}
	for _, name := range []string{"", "suite(0)", "hpke", "HPKE-P256", "rsa3072-oaep-sha1"} {
		if s, err := hsm.ParseSuite(name); err == nil || s != 0 || !strings.Contains(err.Error(), "hpke-p256, rsa3072-oaep-sha256") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if hsm.Suite(0).String() != "suite(0)" || hsm.Suite(4).String() != "suite(4)" {
		t.Error("an unknown suite has a name")
	}
}

// FuzzParseRSAPublicKey: what is accepted is the one encoding of a key that can
// be sealed to.
func FuzzParseRSAPublicKey(f *testing.F) {
	soft, key := newSoftRSA(f, "default", 1)
	f.Add(key.PublicKey)
	f.Add(key.PublicKey[:100])
	f.Add(x509.MarshalPKCS1PublicKey(&soft.priv.PublicKey))
	f.Add([]byte{0x30, 0x82, 0xff, 0xff})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		pub, err := hsm.ParseRSAPublicKey(der)
		if err != nil {
			if pub != nil {
				t.Fatal("a key with an error")
			}
			return
		}
		again, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil || !bytes.Equal(again, der) || pub.N.BitLen() != 3072 || pub.E != 65537 {
			t.Fatalf("accepted %x", der)
		}
		k := key
		k.PublicKey = der
		if _, err := hsm.Seal(hsm.ShareContext(1, [32]byte{}), secret.Copy([]byte("x")), []hsm.WrappingKey{k}); err != nil {
			t.Fatal(err)
		}
	})
}
