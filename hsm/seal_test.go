package hsm_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

func newSoftKey(t testing.TB, domain string, version uint32) (hsm.PrivateKeys, hsm.WrappingKey) {
	t.Helper()
	priv, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return hsm.SoftwareKey(priv), hsm.WrappingKey{Domain: domain, Version: version, Suite: hsm.SuiteHPKEP256, ID: make([]byte, 16), PublicKey: priv.PublicKey().Bytes()}
}

func TestContexts(t *testing.T) {
	mount := [16]byte{0xaa}
	seen := map[string]string{}
	for name, c := range map[string]hsm.Context{
		"share 1":             hsm.ShareContext(1, [32]byte{}),
		"share 2":             hsm.ShareContext(2, [32]byte{}),
		"share 1, other hash": hsm.ShareContext(1, [32]byte{1}),
		"identity":            hsm.NodeKeyContext(hsm.NodeKeyIdentity, mount, "local-1", 1),
		"auxiliary":           hsm.NodeKeyContext(hsm.NodeKeyAuxiliary, mount, "local-1", 1),
		"other node":          hsm.NodeKeyContext(hsm.NodeKeyIdentity, mount, "local-11", 1),
		"other generation":    hsm.NodeKeyContext(hsm.NodeKeyIdentity, mount, "local-1", 2),
		"deal":                hsm.DealContext(mount, [32]byte{}, 1, 2),
		"deal, other way":     hsm.DealContext(mount, [32]byte{}, 2, 1),
		"deal, other account": hsm.DealContext([16]byte{}, [32]byte{}, 1, 2),
		"deal, other target":  hsm.DealContext(mount, [32]byte{1}, 1, 2),
		"other mount":         hsm.NodeKeyContext(hsm.NodeKeyIdentity, [16]byte{}, "local-1", 1),
	} {
		if twin, ok := seen[string(c)]; ok || len(c) == 0 {
			t.Errorf("%q has the context of %q", name, twin)
		}
		seen[string(c)] = name
	}
	// The encoding is part of what golden envelopes promise.
	got := hex.EncodeToString(hsm.NodeKeyContext(hsm.NodeKeyIdentity, mount, "n", 258))
	want := "0000001b" + hex.EncodeToString([]byte("mpc hsm context node key v1")) +
		"00000008" + hex.EncodeToString([]byte("identity")) +
		"00000010" + "aa000000000000000000000000000000" + "00000001" + "6e" + "00000008" + "0000000000000102"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	got = hex.EncodeToString(hsm.DealContext(mount, [32]byte{31: 7}, 3, 4))
	want = "00000017" + hex.EncodeToString([]byte("mpc hsm context deal v1")) +
		"00000010" + "aa000000000000000000000000000000" + "00000020" + strings.Repeat("00", 31) + "07" + "00000001" + "03" + "00000001" + "04"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, c := range []hsm.Context{
		hsm.NodeKeyContext("other", mount, "n", 1), hsm.NodeKeyContext(hsm.NodeKeyIdentity, mount, "", 1), nil,
		make(hsm.Context, 1025),
	} {
		x, key := newSoftKey(t, "default", 1)
		if _, err := hsm.Seal(c, secret.Copy([]byte("x")), []hsm.WrappingKey{key}); err == nil {
			t.Error("sealed in a bad context")
		}
		if _, _, err := hsm.Open(t.Context(), x, []hsm.WrappingKey{key}, c, goldenBytes(t)); err == nil {
			t.Error("opened in a bad context")
		}
	}
}

func TestSealRefuses(t *testing.T) {
	_, good := newSoftKey(t, "default", 1)
	with := func(change func(k *hsm.WrappingKey)) []hsm.WrappingKey {
		k := good
		k.PublicKey = bytes.Clone(good.PublicKey)
		change(&k)
		return []hsm.WrappingKey{good, k}
	}
	var many []hsm.WrappingKey
	for v := range uint32(17) {
		many = append(many, with(func(k *hsm.WrappingKey) { k.Version = v + 2 })[1])
	}
	for name, keys := range map[string][]hsm.WrappingKey{
		"no key":           nil,
		"the same twice":   {good, good},
		"too many":         many,
		"unknown suite":    with(func(k *hsm.WrappingKey) { k.Version, k.Suite = 2, 9 }),
		"no domain":        with(func(k *hsm.WrappingKey) { k.Domain = "" }),
		"version 0":        with(func(k *hsm.WrappingKey) { k.Version = 0 }),
		"no public key":    with(func(k *hsm.WrappingKey) { k.Version, k.PublicKey = 2, nil }),
		"infinity":         with(func(k *hsm.WrappingKey) { k.Version, k.PublicKey = 2, []byte{0} }),
		"not on the curve": with(func(k *hsm.WrappingKey) { k.Version = 2; k.PublicKey[64] ^= 1 }),
		"compressed":       with(func(k *hsm.WrappingKey) { k.Version = 2; k.PublicKey = append([]byte{2}, k.PublicKey[1:33]...) }),
	} {
		if _, err := hsm.Seal(hsm.ShareContext(1, [32]byte{}), secret.Copy([]byte("x")), keys); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
	for _, n := range []int{0, hsm.MaxPlaintext + 1} {
		if _, err := hsm.Seal(hsm.ShareContext(1, [32]byte{}), secret.New(make([]byte, n)), []hsm.WrappingKey{good}); err == nil {
			t.Errorf("sealed %d bytes", n)
		}
	}
}

// TestSealsAreBoundToNames moves a seal to another domain, version and
// envelope, all of the same key pair.
func TestSealsAreBoundToNames(t *testing.T) {
	x, key := newSoftKey(t, "default", 1)
	t.Run(key.Suite.String(), func(t *testing.T) { boundToNames(t, x, key) })
	y, rsa := newSoftRSA(t, "default", 1)
	t.Run(rsa.Suite.String(), func(t *testing.T) { boundToNames(t, y, rsa) })
}

func boundToNames(t *testing.T, x hsm.PrivateKeys, key hsm.WrappingKey) {
	c := hsm.ShareContext(1, [32]byte{})
	sealed := func() *hsm.Envelope {
		b, err := hsm.Seal(c, secret.Copy([]byte("share")), []hsm.WrappingKey{key})
		if err != nil {
			t.Fatal(err)
		}
		e, err := hsm.ParseEnvelope(b)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for name, change := range map[string]func(e *hsm.Envelope, k *hsm.WrappingKey){
		"domain":  func(e *hsm.Envelope, k *hsm.WrappingKey) { k.Domain = "eu"; e.Holders[0].Seals[0].Domain = "eu" },
		"version": func(e *hsm.Envelope, k *hsm.WrappingKey) { k.Version = 2; e.Holders[0].Seals[0].Version = 2 },
		"seal of another envelope": func(e *hsm.Envelope, _ *hsm.WrappingKey) {
			e.Holders[0].Seals = sealed().Holders[0].Seals
		},
		"content of another envelope": func(e *hsm.Envelope, _ *hsm.WrappingKey) {
			o := sealed()
			e.Nonce, e.Ciphertext = o.Nonce, o.Ciphertext
		},
	} {
		e, k := sealed(), key
		change(e, &k)
		b, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := hsm.Open(t.Context(), x, []hsm.WrappingKey{k}, c, b); !errors.Is(err, hsm.ErrOpen) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenPrefersFirstKeyAndRefusesOtherSuite(t *testing.T) {
	x, key := newSoftKey(t, "default", 1)
	newer := key
	newer.Version = 2
	c := hsm.ShareContext(1, [32]byte{})
	b, err := hsm.Seal(c, secret.Copy([]byte("share")), []hsm.WrappingKey{key, newer})
	if err != nil {
		t.Fatal(err)
	}
	if _, v, err := hsm.Open(t.Context(), x, []hsm.WrappingKey{newer, key}, c, b); err != nil || v != 2 {
		t.Fatalf("version %d, %v", v, err)
	}
	other := key
	other.Suite = 2
	if _, _, err := hsm.Open(t.Context(), x, []hsm.WrappingKey{other, newer}, c, b); !errors.Is(err, hsm.ErrEnvelope) {
		t.Fatalf("fell back to another key: %v", err)
	}
}

// broken is a token that fails, or lies about lengths.
type broken struct{ err error }

func (b broken) ECDH(context.Context, hsm.WrappingKey, *ecdh.PublicKey) (*secret.Bytes, error) {
	if b.err != nil {
		return nil, b.err
	}
	return secret.Copy(make([]byte, 31)), nil
}

func (b broken) DecryptOAEP(context.Context, hsm.WrappingKey, []byte) (*secret.Bytes, error) {
	if b.err != nil {
		return nil, b.err
	}
	return secret.Copy(make([]byte, 63)), nil
}

func TestOpenPassesTokenErrors(t *testing.T) {
	_, ec := newSoftKey(t, "default", 1)
	_, rsa := newSoftRSA(t, "default", 1)
	for _, key := range []hsm.WrappingKey{ec, rsa} {
		t.Run(key.Suite.String(), func(t *testing.T) { passesTokenErrors(t, key) })
	}
}

func passesTokenErrors(t *testing.T, key hsm.WrappingKey) {
	c := hsm.ShareContext(1, [32]byte{})
	b, err := hsm.Seal(c, secret.Copy([]byte("share")), []hsm.WrappingKey{key})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = hsm.Open(t.Context(), broken{fmt.Errorf("%w: CKR_DEVICE_REMOVED", hsm.ErrUnavailable)}, []hsm.WrappingKey{key}, c, b)
	if !errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, hsm.ErrOpen) {
		t.Errorf("got %v", err)
	}
	// What has the wrong length is the token's fault with ECDH, and perhaps the
	// sealer's with RSA, where it decides over the length.
	_, isRSA := key.Suite.OAEPHash()
	if _, _, err = hsm.Open(t.Context(), broken{}, []hsm.WrappingKey{key}, c, b); err == nil || errors.Is(err, hsm.ErrOpen) != isRSA {
		t.Errorf("a short secret: %v", err)
	}
}
