package hsmtest

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

func sealAndOpen(t *testing.T, b *bench) {
	tok, key := b.open(t), b.one
	if err := tok.Bind(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 32, hsm.MaxPlaintext} {
		text := string(make([]byte, n))
		opens(t, tok, key, testContext(1), seal(t, testContext(1), text, key), text)
	}
	fails(t, hsm.ErrOpen, tok, key, testContext(2), seal(t, testContext(1), "share", key))
	if err := tok.Alive(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// likeSoftware compares the token with the standard library.
func likeSoftware(t *testing.T, b *bench) {
	tok := b.open(t)
	if _, ok := b.suite.OAEPHash(); ok {
		decryptsLikeSoftware(t, tok, b.one)
		return
	}
	derivesLikeSoftware(t, tok, b.one)
}

// derivesLikeSoftware repeats ECDH often enough that shared secrets with a
// leading zero byte turn up (one in 256).
func derivesLikeSoftware(t *testing.T, tok Token, key hsm.WrappingKey) {
	pub, err := ecdh.P256().NewPublicKey(key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for zeros := 0; zeros < 2; {
		eph, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		want, err := eph.ECDH(pub)
		if err != nil {
			t.Fatal(err)
		}
		if want[0] == 0 {
			zeros++
		} else if want[1]&0x1f != 0 { // a software ECDH picks the cases worth the token's time
			continue
		}
		got, err := tok.ECDH(t.Context(), key, eph.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Expose()) != string(want) {
			t.Fatalf("the token derived another secret (leading byte %d)", want[0])
		}
	}
	other, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.ECDH(t.Context(), key, other.PublicKey()); err == nil {
		t.Fatal("derived with a key on another curve")
	}
	_, err = tok.DecryptOAEP(t.Context(), key, make([]byte, 384))
	is(t, err, hsm.ErrKeyMismatch)
}

// decryptsLikeSoftware covers the lengths that OAEP allows, and what must not
// decrypt: every such case is ErrOpen, whatever code the token has for it.
func decryptsLikeSoftware(t *testing.T, tok Token, key hsm.WrappingKey) {
	pub, err := hsm.ParseRSAPublicKey(key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	hash, _ := key.Suite.OAEPHash()
	var last []byte
	for _, n := range []int{1, 64, pub.Size() - 2*hash.Size() - 2} {
		want := make([]byte, n)
		_, _ = rand.Read(want)
		if last, err = rsa.EncryptOAEP(hash.New(), rand.Reader, pub, want, nil); err != nil {
			t.Fatal(err)
		}
		got, err := tok.DecryptOAEP(t.Context(), key, last)
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Expose()) != string(want) {
			t.Fatalf("%d bytes: decrypted to something else", n)
		}
	}
	labelled, err := rsa.EncryptOAEP(hash.New(), rand.Reader, pub, []byte("x"), []byte("label"))
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 the old padding is here to be refused
	pkcs1, err := rsa.EncryptPKCS1v15(rand.Reader, pub, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for name, ciphertext := range map[string][]byte{
		"empty": nil, "short": last[1:], "long": append([]byte{0}, last...), "zero": make([]byte, 384), "one": append(make([]byte, 383), 1),
		"the modulus": pub.N.Bytes(), "other label": labelled, "PKCS #1 v1.5": pkcs1,
	} {
		if _, err := tok.DecryptOAEP(t.Context(), key, ciphertext); !errors.Is(err, hsm.ErrOpen) {
			t.Errorf("%s: %v", name, err)
		}
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tok.ECDH(t.Context(), key, peer.PublicKey())
	is(t, err, hsm.ErrKeyMismatch)
}

func changedEnvelope(t *testing.T, b *bench) {
	tok, key := b.open(t), b.one
	c := testContext(1)
	e := seal(t, c, "a share of thirty-two bytes long", key)
	for n := range e {
		fails(t, hsm.ErrEnvelope, tok, key, c, e[:n])
	}
	fails(t, hsm.ErrEnvelope, tok, key, c, append(e[:len(e):len(e)], 0))
	bits := []byte{1, 0x80}
	step := 1
	if _, ok := b.suite.OAEPHash(); ok { // slow, and 384 bytes are all alike
		bits, step = bits[:1], 19
	}
	for i := 0; i < len(e); i += step {
		for _, bit := range bits {
			changed := append([]byte(nil), e...)
			changed[i] ^= bit
			got, _, err := hsm.Open(t.Context(), tok, []hsm.WrappingKey{key}, c, changed)
			ok := errors.Is(err, hsm.ErrOpen) || errors.Is(err, hsm.ErrEnvelope) || errors.Is(err, hsm.ErrUnknownKeyVersion)
			if !ok || got != nil {
				t.Fatalf("byte %d changed: error %v", i, err)
			}
		}
	}
	opens(t, tok, key, c, e, "a share of thirty-two bytes long")
}

func unknownVersion(t *testing.T, b *bench) {
	tok, one, two := b.open(t), b.one, b.two
	c := testContext(1)
	e := seal(t, c, "share", one)
	fails(t, hsm.ErrUnknownKeyVersion, tok, two, c, e)
	opens(t, tok, two, c, seal(t, c, "share", two, one), "share")

	// The right name with the wrong key behind it must not open.
	liar := two
	liar.Version = 1
	fails(t, hsm.ErrOpen, tok, liar, c, e)
}

// wrongSuite: a key is for one suite, whatever its record says.
func wrongSuite(t *testing.T, b *bench) {
	tok := b.open(t)
	for _, other := range []hsm.Suite{hsm.SuiteHPKEP256, hsm.SuiteRSA3072OAEPSHA256, hsm.SuiteRSA3072OAEPSHA1, 9} {
		if other == b.suite {
			continue
		}
		key := b.one
		key.Suite = other
		if err := tok.Bind(t.Context(), key); err == nil {
			// The two RSA suites differ in the hash only, and a token that does
			// both can use one key for either; the record says for which.
			_, rsa := b.suite.OAEPHash()
			if _, alsoRSA := other.OAEPHash(); !rsa || !alsoRSA {
				t.Fatalf("bound as %s", other)
			}
		}
		if _, _, err := hsm.Open(t.Context(), tok, []hsm.WrappingKey{key}, testContext(1), seal(t, testContext(1), "share", b.one)); err == nil {
			t.Fatalf("opened as %s", other)
		}
	}
}

func rewrap(t *testing.T, b *bench) {
	tok, one, two := b.open(t), b.one, b.two
	c := testContext(1)
	old := seal(t, c, "share", one)
	e, err := hsm.Rewrap(t.Context(), tok, []hsm.WrappingKey{one}, c, old, []hsm.WrappingKey{two})
	if err != nil {
		t.Fatal(err)
	}
	opens(t, tok, two, c, e, "share")
	fails(t, hsm.ErrUnknownKeyVersion, tok, one, c, e)
	_, err = hsm.Rewrap(t.Context(), tok, []hsm.WrappingKey{one}, testContext(2), old, []hsm.WrappingKey{two})
	is(t, err, hsm.ErrOpen)

	seals, err := hsm.Seals(e)
	if err != nil || len(seals) != 1 || seals[0].Version != 2 || seals[0].Suite != b.suite {
		t.Fatalf("seals %+v, %v", seals, err)
	}
}

// userCustody: the token and the custody key open together and neither alone, and
// the token's layer is replaced without the custody key.
func userCustody(t *testing.T, b *bench) {
	tok, one, two := b.open(t), b.one, b.two
	c := testContext(1)
	owner, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	share := secret.Copy([]byte("share"))
	e, sealed, err := hsm.SealCustody(c, share, []hsm.WrappingKey{one}, owner.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	fails(t, hsm.ErrNeedsCustodyKey, tok, one, c, e)
	k2, err := hsm.OpenCustodySeal(owner, c, e)
	if err != nil || !k2.Equal(sealed) {
		t.Fatalf("the custody part: %v", err)
	}
	with := func(key hsm.WrappingKey, e []byte, k2 *secret.Bytes) error {
		got, _, err := hsm.OpenWith(t.Context(), tok, []hsm.WrappingKey{key}, c, e, k2)
		if err == nil && !got.Equal(share) {
			t.Fatal("opened to something else")
		}
		return err
	}
	if err := with(one, e, k2); err != nil {
		t.Fatal(err)
	}
	is(t, with(one, e, secret.New(make([]byte, hsm.CustodyPartSize))), hsm.ErrCustodyPart)
	again, err := hsm.Rewrap(t.Context(), tok, []hsm.WrappingKey{one}, c, e, []hsm.WrappingKey{two})
	if err != nil {
		t.Fatal(err)
	}
	if err := hsm.CheckRewrapped(t.Context(), tok, []hsm.WrappingKey{one, two}, c, e, again); err != nil {
		t.Fatal(err)
	}
	fails(t, hsm.ErrNeedsCustodyKey, tok, two, c, again)
	is(t, with(one, again, k2), hsm.ErrUnknownKeyVersion)
	if err := with(two, again, k2); err != nil {
		t.Fatal(err)
	}
}

// concurrentUse opens envelopes from more goroutines than there are sessions
// while keys come and go.
func concurrentUse(t *testing.T, b *bench) {
	tok, key := b.open(t), b.one
	c := testContext(1)
	e := seal(t, c, "share", key)
	workers, rounds, churn := 16, 20, 5
	if _, ok := b.suite.OAEPHash(); ok {
		rounds, churn = 5, 1
	}
	errs := make(chan error, workers+1)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				got, _, err := hsm.Open(t.Context(), tok, []hsm.WrappingKey{key}, c, e)
				if err != nil || string(got.Expose()) != "share" {
					errs <- fmt.Errorf("opening while others do: %w", err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range churn {
			k, err := tok.GenerateWrappingKey(t.Context(), b.request(9))
			if err == nil {
				err = tok.DestroyWrappingKey(t.Context(), k.ID)
			}
			if err != nil {
				errs <- fmt.Errorf("making keys while others open: %w", err)
				return
			}
		}
	})
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func callerGaveUp(t *testing.T, b *bench) {
	tok, key := b.open(t), b.one
	e := seal(t, testContext(1), "share", key)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 { // far more than there are sessions: none may be lost
		_, _, err := hsm.Open(ctx, tok, []hsm.WrappingKey{key}, testContext(1), e)
		if err != nil { // a call that was quick enough may have won
			is(t, err, context.Canceled)
		}
	}
	opens(t, tok, key, testContext(1), e, "share")
}
