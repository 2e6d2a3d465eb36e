package session_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/session"
)

// altered XORs mask over b and cuts or lengthens it.
func altered(b, mask []byte, cut int16) []byte {
	b = bytes.Clone(b)
	for k := range min(len(b), len(mask)) {
		b[k] ^= mask[k]
	}
	if cut < 0 {
		return b[:max(0, len(b)+int(cut))]
	}
	return append(b, make([]byte, cut)...)
}

// FuzzOpen: a channel opens what was sealed for it, from its sender, and nothing
// else, whatever it is given before.
func FuzzOpen(f *testing.F) {
	f.Add(uint8(1), []byte{}, int16(0), []byte{})
	f.Add(uint8(3), []byte{}, int16(0), []byte{0, 0, 0, 0})
	f.Add(uint8(1), []byte{0, 0, 0, 1}, int16(0), []byte{0xff, 0xff, 0xff, 0xff})
	f.Add(uint8(1), []byte{}, int16(-1), bytes.Repeat([]byte{0}, 64))
	f.Fuzz(func(t *testing.T, from uint8, mask []byte, cut int16, raw []byte) {
		c := channels(t)
		sealed := seal(t, c[1], 2, []byte("body"))
		refuse(t, c[2], mpc.Index(from), raw, "bytes that nobody sealed")
		if try := altered(sealed, mask, cut); from != 1 || !bytes.Equal(try, sealed) {
			refuse(t, c[2], mpc.Index(from), try, "an altered message")
		}
		if body, err := c[2].Open(1, sealed); err != nil || string(body) != "body" {
			t.Fatalf("the right message afterwards: %q, %v", body, err)
		}
		refuse(t, c[2], 1, sealed, "the same again")
	})
}

// FuzzHello: a handshake completes with the hello that its peer signed, and with
// no other.
func FuzzHello(f *testing.F) {
	terms := session.Terms{Operation: "sign"}
	var keys [2]ed25519.PrivateKey
	for k := range keys {
		keys[k] = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(k + 1)}, 32))
		terms.Members = append(terms.Members, session.Member{Index: mpc.Index(k + 1), NodeID: string(rune('a' + k)),
			Identity: mpc.NodeIdentity(keys[k].Public().(ed25519.PublicKey))})
	}
	f.Add([]byte{}, uint8(2))
	f.Add([]byte{1}, uint8(2))
	f.Add(append(make([]byte, 127), 0x80), uint8(2))
	f.Add([]byte{}, uint8(1))
	f.Fuzz(func(t *testing.T, mask []byte, index uint8) {
		mine, _, err := session.Begin(terms, 1, keys[0])
		if err != nil {
			t.Fatal(err)
		}
		_, theirs, err := session.Begin(terms, 2, keys[1])
		if err != nil {
			t.Fatal(err)
		}
		// Nonce, key and signature: 32, 32 and 64 bytes.
		b := altered(append(append(theirs.Nonce[:], theirs.Ephemeral[:]...), theirs.Signature[:]...), mask, 0)
		hello := session.Hello{Nonce: [32]byte(b), Ephemeral: [32]byte(b[32:]), Signature: [64]byte(b[64:])}
		c, err := mine.Complete(map[mpc.Index]session.Hello{mpc.Index(index): hello})
		if same := hello == theirs && index == 2; same != (err == nil) {
			t.Fatalf("the same hello %v: %v", same, err)
		}
		if err != nil && (!errors.Is(err, session.ErrHello) || c != nil) {
			t.Fatal(err)
		}
	})
}
