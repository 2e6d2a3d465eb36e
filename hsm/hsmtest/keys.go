package hsmtest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/secret"
)

// choiceOfSuite: the first wanted suite that the token does is taken and said,
// and none is made up.
func choiceOfSuite(t *testing.T, h Harness) {
	tok := h.open(t)
	make := func(suites ...hsm.Suite) (hsm.WrappingKey, error) {
		key, err := tok.GenerateWrappingKey(t.Context(), hsm.KeyRequest{Domain: "d", Version: 1, Label: keyLabel, Suites: suites})
		if err == nil {
			t.Cleanup(func() {
				if err := tok.DestroyWrappingKey(context.Background(), key.ID); err != nil {
					t.Error(err)
				}
			})
		}
		return key, err
	}
	for _, suite := range h.Refused {
		_, err := make(suite)
		is(t, err, hsm.ErrNoSuite)
	}
	if key, err := make(append(h.Refused, h.Suites[0])...); err != nil || key.Suite != h.Suites[0] {
		t.Errorf("got %s, %v", key.Suite, err)
	}
	for _, bad := range []hsm.KeyRequest{
		{Version: 1, Suites: h.Suites}, {Domain: "d", Suites: h.Suites}, {Domain: "d", Version: 1},
	} {
		if _, err := tok.GenerateWrappingKey(t.Context(), bad); err == nil {
			t.Errorf("made %+v", bad)
		}
	}
	if left, err := tok.FindByLabel(t.Context(), keyLabel); err != nil || len(left) != 1 {
		t.Errorf("%d keys are there, not 1: %v", len(left), err)
	}
}

// destroyedKey: somebody who kept an old envelope, the record of the key and
// access to the token opens nothing.
func destroyedKey(t *testing.T, b *bench) {
	tok := b.open(t)
	key := b.newKey(t, tok, 1)
	e := seal(t, testContext(1), "share", key)
	opens(t, tok, key, testContext(1), e, "share")
	if err := tok.DestroyWrappingKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	kept := bytes.Clone(e)
	fails(t, hsm.ErrKeyNotFound, tok, key, testContext(1), kept)
	fails(t, hsm.ErrKeyNotFound, tok, key, testContext(1), kept) // not only the first time
	is(t, tok.DestroyWrappingKey(t.Context(), key.ID), hsm.ErrKeyNotFound)

	// Nor does a new key under the old name, version and label.
	again := b.newKey(t, tok, 1)
	fails(t, hsm.ErrOpen, tok, again, testContext(1), kept)
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	fresh := b.open(t)
	fails(t, hsm.ErrKeyNotFound, fresh, key, testContext(1), kept)
	if err := fresh.DestroyWrappingKey(t.Context(), again.ID); err != nil {
		t.Fatal(err)
	}
	opens(t, fresh, b.one, testContext(1), seal(t, testContext(1), "share", b.one), "share")
}

func absentKey(t *testing.T, b *bench) {
	tok := b.open(t)
	key := b.one
	key.ID = make([]byte, 16)
	// Bind waits for it as long as it may; long enough for a look on a busy
	// machine.
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	is(t, tok.Bind(ctx, key), hsm.ErrKeyNotFound)
	fails(t, hsm.ErrKeyNotFound, tok, key, testContext(1), seal(t, testContext(1), "share", key))
	if left, err := tok.FindByLabel(t.Context(), "no such label"); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

func anotherPublicKey(t *testing.T, b *bench) {
	tok := b.open(t)
	one := b.one
	one.PublicKey = b.two.PublicKey
	is(t, tok.Bind(t.Context(), one), hsm.ErrKeyMismatch)
	fails(t, hsm.ErrKeyMismatch, tok, one, testContext(1), seal(t, testContext(1), "share", one))
}

// plantedID: somebody with the PIN adds a pair under our ID. Tokens keep both,
// or replace ours. It must neither be used nor make us guess, and destroying
// removes all.
func plantedID(t *testing.T, b *bench) {
	tok := b.open(t)
	key := b.newKey(t, tok, 1)
	if err := tok.Close(); err != nil { // forgets handles
		t.Fatal(err)
	}
	tok = b.open(t)
	b.Plant(t, key.ID, plantLabel, b.suite)
	is(t, tok.Bind(t.Context(), key), hsm.ErrKeyMismatch)
	fails(t, hsm.ErrKeyMismatch, tok, key, testContext(1), seal(t, testContext(1), "share", key))
	if err := tok.DestroyWrappingKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	fails(t, hsm.ErrKeyNotFound, tok, key, testContext(1), seal(t, testContext(1), "share", key))
}

// plantedInUse: the same while we know where our key is. What was sealed to our
// key opens with it or not at all.
func plantedInUse(t *testing.T, b *bench) {
	tok := b.open(t)
	key := b.newKey(t, tok, 1)
	c := testContext(1)
	e := seal(t, c, "share", key)
	opens(t, tok, key, c, e, "share")
	b.Plant(t, key.ID, plantLabel, b.suite)
	got, _, err := hsm.Open(t.Context(), tok, []hsm.WrappingKey{key}, c, e)
	if err == nil && string(got.Expose()) != "share" {
		t.Fatal("opened something else")
	}
	if err != nil {
		is(t, err, hsm.ErrOpen, hsm.ErrKeyMismatch)
	}
	if err := tok.DestroyWrappingKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	fails(t, hsm.ErrKeyNotFound, tok, key, c, e)
}

// plantedLabel: labels are for people. Another pair under ours is seen by
// FindByLabel and disturbs nothing.
func plantedLabel(t *testing.T, b *bench) {
	tok := b.open(t)
	id := bytes.Repeat([]byte{0xee}, 16)
	b.Plant(t, id, keyLabel, b.suite)
	t.Cleanup(func() {
		if err := tok.DestroyWrappingKey(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
	if err := tok.Bind(t.Context(), b.one); err != nil {
		t.Fatal(err)
	}
	opens(t, tok, b.one, testContext(1), seal(t, testContext(1), "share", b.one), "share")
	found, err := tok.FindByLabel(t.Context(), keyLabel)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{string(b.one.ID): true, string(b.two.ID): true, string(id): true}
	for _, o := range found {
		if !want[string(o.ID)] || o.Private != 1 || o.Public != 1 {
			t.Errorf("found %+v", o)
		}
		delete(want, string(o.ID))
	}
	if len(want) > 0 {
		t.Errorf("%d keys were not found", len(want))
	}
}

func survivesClosing(t *testing.T, b *bench) {
	first := b.open(t)
	e := seal(t, testContext(1), "share", b.one)
	opens(t, first, b.one, testContext(1), e, "share")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, hsm.ErrUnavailable, first, b.one, testContext(1), e)
	is(t, first.Alive(t.Context()), hsm.ErrUnavailable)
	_, err := first.FindByLabel(t.Context(), keyLabel)
	is(t, err, hsm.ErrUnavailable)
	is(t, first.DestroyWrappingKey(t.Context(), b.one.ID), hsm.ErrUnavailable)
	opens(t, b.open(t), b.one, testContext(1), e, "share")
}

func unknownToken(t *testing.T, h Harness) {
	_, err := h.Open(t.Context(), "no such token", secret.Copy([]byte(h.PIN)))
	is(t, err, hsm.ErrTokenNotFound)
}

func wrongPIN(t *testing.T, h Harness) {
	_, err := h.Open(t.Context(), h.Label, secret.Copy([]byte("not the PIN")))
	is(t, err, hsm.ErrPINIncorrect)
	if errors.Is(err, hsm.ErrUnavailable) {
		t.Fatal(err)
	}
	h.open(t) // one mistake does no harm
}
