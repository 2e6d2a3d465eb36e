package hsmtest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// Token is what a holder of wrapping keys offers.
type Token interface {
	hsm.PrivateKeys
	GenerateWrappingKey(ctx context.Context, r hsm.KeyRequest) (hsm.WrappingKey, error)
	Bind(ctx context.Context, key hsm.WrappingKey) error
	DestroyWrappingKey(ctx context.Context, id []byte) error
	FindByLabel(ctx context.Context, label string) ([]hsm.KeyObject, error)
	Alive(ctx context.Context) error
	Close() error
}

// Harness gives Run a token to test.
type Harness struct {
	Label, PIN string
	// Suites are what the token can do: each is tested. Refused are suites that
	// it cannot do, or that its host does not allow.
	Suites, Refused []hsm.Suite
	// Open opens the token as a process that was not logged in yet would. Run
	// closes one Token before it opens the next.
	Open func(ctx context.Context, label string, pin *secret.Bytes) (Token, error)
	// Plant makes a foreign key pair for a suite under an ID that may be in use
	// and a label. If the token replaces what has that ID, it may.
	Plant func(t *testing.T, id []byte, label string, suite hsm.Suite)
}

// bench is what a test of one suite works with.
type bench struct {
	Harness
	suite hsm.Suite
	// Two keys that all tests of the suite share, since RSA keys take long to
	// make: they may be used and not destroyed.
	one, two hsm.WrappingKey
}

// Run is the conformance suite, for each suite of h. It leaves no keys behind.
func Run(t *testing.T, h Harness) {
	if len(h.Suites) == 0 || h.Plant == nil {
		t.Fatal("a harness without suites or Plant tests nothing")
	}
	for _, suite := range h.Suites {
		t.Run(suite.String(), func(t *testing.T) { runSuite(t, h, suite) })
	}
	t.Run("choice of suite", func(t *testing.T) { choiceOfSuite(t, h) })
	t.Run("unknown token", func(t *testing.T) { unknownToken(t, h) })
	t.Run("wrong PIN", func(t *testing.T) { wrongPIN(t, h) })
}

func runSuite(t *testing.T, h Harness, suite hsm.Suite) {
	b := &bench{Harness: h, suite: suite}
	tok := b.open(t)
	b.one, b.two = b.newKey(t, tok, 1), b.newKey(t, tok, 2)
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	// newKey's clean-up ran on a Token that is closed by then.
	t.Cleanup(func() {
		tok := b.open(t)
		defer tok.Close()
		for _, k := range []hsm.WrappingKey{b.one, b.two} {
			if err := tok.DestroyWrappingKey(context.Background(), k.ID); err != nil {
				t.Errorf("destroying a key: %v", err)
			}
		}
		for _, label := range []string{keyLabel, plantLabel} {
			if left, err := tok.FindByLabel(context.Background(), label); err != nil || len(left) > 0 {
				t.Errorf("label %q: %d keys are left, %v", label, len(left), err)
			}
		}
	})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *bench)
	}{
		{"seal and open", sealAndOpen},
		{"computes like software", likeSoftware},
		{"changed envelope", changedEnvelope},
		{"unknown key version", unknownVersion},
		{"wrong suite", wrongSuite},
		{"rewrap", rewrap},
		{"user custody", userCustody},
		{"destroyed key", destroyedKey},
		{"absent key", absentKey},
		{"another public key", anotherPublicKey},
		{"planted under the ID", plantedID},
		{"planted under the ID of a key in use", plantedInUse},
		{"planted under the label", plantedLabel},
		{"keys survive closing", survivesClosing},
		{"concurrent use", concurrentUse},
		{"caller gave up", callerGaveUp},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, b) })
	}
}

const (
	keyLabel   = "conformance"
	plantLabel = "planted"
)

func (h Harness) open(t *testing.T) Token {
	t.Helper()
	pin := secret.Copy([]byte(h.PIN))
	defer pin.Wipe()
	tok, err := h.Open(context.Background(), h.Label, pin) // also in clean-ups, when t's context is over
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

func (b *bench) request(version uint32) hsm.KeyRequest {
	return hsm.KeyRequest{Domain: hsm.DefaultDomain, Version: version, Label: keyLabel, Suites: []hsm.Suite{b.suite}}
}

// newKey makes a key that is destroyed with the test, unless tok was closed.
func (b *bench) newKey(t *testing.T, tok Token, version uint32) hsm.WrappingKey {
	t.Helper()
	key, err := tok.GenerateWrappingKey(t.Context(), b.request(version))
	if err != nil {
		t.Fatalf("making a key: %v", err)
	}
	t.Cleanup(func() {
		err := tok.DestroyWrappingKey(context.Background(), key.ID)
		if err != nil && !errors.Is(err, hsm.ErrKeyNotFound) && !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("destroying a key: %v", err)
		}
	})
	if err := key.Check(); err != nil {
		t.Fatal(err)
	}
	if key.Suite != b.suite || key.Version != version || key.Label != keyLabel || key.Domain != hsm.DefaultDomain {
		t.Fatalf("made %+v", key)
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

func is(t *testing.T, err error, wants ...error) {
	t.Helper()
	if !slices.ContainsFunc(wants, func(want error) bool { return errors.Is(err, want) }) {
		t.Fatalf("got error %v, want %v", err, wants)
	}
}

func testContext(index uint8) hsm.Context {
	return hsm.ShareContext(index, [32]byte{1, 2, 3})
}
