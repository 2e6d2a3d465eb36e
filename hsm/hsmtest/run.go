package hsmtest

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// Token is what a holder of wrapping keys offers.
type Token interface {
	hsm.PrivateKeys
	GenerateWrappingKey(ctx context.Context, r hsm.KeyRequest) (hsm.WrappingKey, error)
	Bind(ctx context.Context, key hsm.WrappingKey) error
	DestroyWrappingKey(ctx context.Context, id []byte) error
	Close() error
}

// Harness gives Run a token to test.
type Harness struct {
	Label, PIN string
	// Open opens the token as a process that was not logged in yet would. Run
	// closes one Token before it opens the next.
	Open func(ctx context.Context, label string, pin *secret.Bytes) (Token, error)
	// Plant puts a foreign key pair under an ID that may be in use. Nil if the
	// token refuses that.
	Plant func(t *testing.T, id []byte)
}

// Run is the conformance suite. It leaves no keys behind.
func Run(t *testing.T, h Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"seal and open", sealAndOpen},
		{"derives like software", derivesLikeSoftware},
		{"changed envelope", changedEnvelope},
		{"unknown key version", unknownVersion},
		{"rewrap", rewrap},
		{"destroyed key", destroyedKey},
		{"absent key", absentKey},
		{"another public key", anotherPublicKey},
		{"planted pair", plantedPair},
		{"keys survive closing", survivesClosing},
		{"unknown token", unknownToken},
		{"wrong PIN", wrongPIN},
		{"concurrent use", concurrentUse},
		{"caller gave up", callerGaveUp},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, h) })
	}
}

func (h Harness) open(t *testing.T) Token {
	t.Helper()
	pin := secret.Copy([]byte(h.PIN))
	defer pin.Wipe()
	tok, err := h.Open(t.Context(), h.Label, pin)
	if err != nil {
		t.Fatalf("opening the token: %v", err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Errorf("closing the token: %v", err)
		}
	})
	return tok
}

// newKey makes a key that is destroyed with the test.
func newKey(t *testing.T, tok Token, version uint32) hsm.WrappingKey {
	t.Helper()
	key, err := tok.GenerateWrappingKey(t.Context(), hsm.KeyRequest{Domain: hsm.DefaultDomain, Version: version, Label: "conformance", Suites: []hsm.Suite{hsm.SuiteHPKEP256}})
	if err != nil {
		t.Fatalf("making a key: %v", err)
	}
	t.Cleanup(func() {
		err := tok.DestroyWrappingKey(context.Background(), key.ID)
		if err != nil && !errors.Is(err, hsm.ErrKeyNotFound) {
			t.Errorf("destroying a key: %v", err)
		}
	})
	if err := key.Check(); err != nil {
		t.Fatal(err)
	}
	return key
}

func seal(t *testing.T, c hsm.Context, text string, keys ...hsm.WrappingKey) []byte {
	t.Helper()
	e, err := hsm.Seal(c, secret.New([]byte(text)), keys)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func opens(t *testing.T, x hsm.PrivateKeys, key hsm.WrappingKey, c hsm.Context, envelope []byte, want string) {
	t.Helper()
	got, version, err := hsm.Open(t.Context(), x, []hsm.WrappingKey{key}, c, envelope)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	defer got.Wipe()
	if string(got.Expose()) != want || version != key.Version {
		t.Fatalf("opened something else, with version %d", version)
	}
}

func fails(t *testing.T, want error, x hsm.PrivateKeys, key hsm.WrappingKey, c hsm.Context, envelope []byte) {
	t.Helper()
	got, _, err := hsm.Open(t.Context(), x, []hsm.WrappingKey{key}, c, envelope)
	if !errors.Is(err, want) || got != nil {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func testContext(index uint8) hsm.Context {
	return hsm.ShareContext(index, [32]byte{1, 2, 3})
}

func sealAndOpen(t *testing.T, h Harness) {
	tok := h.open(t)
	key := newKey(t, tok, 1)
	if err := tok.Bind(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 32, hsm.MaxPlaintext} {
		text := string(make([]byte, n))
		opens(t, tok, key, testContext(1), seal(t, testContext(1), text, key), text)
	}
	fails(t, hsm.ErrOpen, tok, key, testContext(2), seal(t, testContext(1), "share", key))
}

// derivesLikeSoftware repeats ECDH often enough that shared secrets with a
// leading zero byte turn up (one in 256).
func derivesLikeSoftware(t *testing.T, h Harness) {
	tok := h.open(t)
	key := newKey(t, tok, 1)
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
}

func changedEnvelope(t *testing.T, h Harness) {
	tok := h.open(t)
	key := newKey(t, tok, 1)
	c := testContext(1)
	e := seal(t, c, "a share of thirty-two bytes long", key)
	for n := range e {
		fails(t, hsm.ErrEnvelope, tok, key, c, e[:n])
	}
	fails(t, hsm.ErrEnvelope, tok, key, c, append(e[:len(e):len(e)], 0))
	for i := range e {
		for _, bit := range []byte{1, 0x80} {
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

func unknownVersion(t *testing.T, h Harness) {
	tok := h.open(t)
	one, two := newKey(t, tok, 1), newKey(t, tok, 2)
	c := testContext(1)
	e := seal(t, c, "share", one)
	fails(t, hsm.ErrUnknownKeyVersion, tok, two, c, e)
	opens(t, tok, two, c, seal(t, c, "share", two, one), "share")

	// The right name with the wrong key behind it must not open.
	liar := two
	liar.Version = 1
	fails(t, hsm.ErrOpen, tok, liar, c, e)
}

func rewrap(t *testing.T, h Harness) {
	tok := h.open(t)
	one, two := newKey(t, tok, 1), newKey(t, tok, 2)
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
}

func destroyedKey(t *testing.T, h Harness) {
	tok := h.open(t)
	key := newKey(t, tok, 1)
	e := seal(t, testContext(1), "share", key)
	opens(t, tok, key, testContext(1), e, "share")
	if err := tok.DestroyWrappingKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	fails(t, hsm.ErrKeyNotFound, tok, key, testContext(1), e)
	is(t, tok.DestroyWrappingKey(t.Context(), key.ID), hsm.ErrKeyNotFound)
}

func absentKey(t *testing.T, h Harness) {
	tok := h.open(t)
	key := newKey(t, tok, 1)
	key.ID = make([]byte, 16)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	is(t, tok.Bind(ctx, key), hsm.ErrKeyNotFound)
}

func anotherPublicKey(t *testing.T, h Harness) {
	tok := h.open(t)
	one, two := newKey(t, tok, 1), newKey(t, tok, 2)
	one.PublicKey = two.PublicKey
	is(t, tok.Bind(t.Context(), one), hsm.ErrKeyMismatch)
	fails(t, hsm.ErrKeyMismatch, tok, one, testContext(1), seal(t, testContext(1), "share", one))
}

// plantedPair: somebody with the PIN adds a pair under our ID. It must neither
// be used nor make us guess, and destroying removes both.
func plantedPair(t *testing.T, h Harness) {
	if h.Plant == nil {
		t.Skip("the token refuses a second key pair with the same ID")
	}
	tok := h.open(t)
	key := newKey(t, tok, 1)
	h.Plant(t, key.ID)
	is(t, tok.Bind(t.Context(), key), hsm.ErrKeyMismatch)
	if err := tok.DestroyWrappingKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	is(t, tok.Bind(ctx, key), hsm.ErrKeyNotFound)
}

func survivesClosing(t *testing.T, h Harness) {
	first := h.open(t)
	key, err := first.GenerateWrappingKey(t.Context(), hsm.KeyRequest{Domain: "elsewhere", Version: 7, Label: "conformance", Suites: []hsm.Suite{hsm.SuiteHPKEP256}})
	if err != nil {
		t.Fatal(err)
	}
	e := seal(t, testContext(1), "share", key)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, hsm.ErrUnavailable, first, key, testContext(1), e)

	second := h.open(t)
	opens(t, second, key, testContext(1), e, "share")
	if err := second.DestroyWrappingKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
}

func unknownToken(t *testing.T, h Harness) {
	_, err := h.Open(t.Context(), "no such token", secret.Copy([]byte(h.PIN)))
	is(t, err, hsm.ErrTokenNotFound)
}

func wrongPIN(t *testing.T, h Harness) {
	_, err := h.Open(t.Context(), h.Label, secret.Copy([]byte("not the PIN")))
	is(t, err, hsm.ErrPINIncorrect)
	h.open(t) // one mistake does no harm
}

// concurrentUse opens envelopes from more goroutines than there are sessions
// while keys come and go.
func concurrentUse(t *testing.T, h Harness) {
	tok := h.open(t)
	key := newKey(t, tok, 1)
	c := testContext(1)
	e := seal(t, c, "share", key)
	const workers, rounds = 16, 20
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
		for range 5 {
			k, err := tok.GenerateWrappingKey(t.Context(), hsm.KeyRequest{Domain: hsm.DefaultDomain, Version: 9, Label: "churn", Suites: []hsm.Suite{hsm.SuiteHPKEP256}})
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

func callerGaveUp(t *testing.T, h Harness) {
	tok := h.open(t)
	key := newKey(t, tok, 1)
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
