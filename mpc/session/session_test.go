package session

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
)

// trio is three parties with fresh identities and the same terms.
func trio(t *testing.T) (Terms, map[mpc.Index]ed25519.PrivateKey) {
	t.Helper()
	terms := Terms{Operation: "sign", Inputs: [32]byte{7}}
	keys := map[mpc.Index]ed25519.PrivateKey{}
	for i := mpc.Index(1); i <= 3; i++ {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = private
		terms.Members = append(terms.Members, Member{Index: i, NodeID: string('a' + rune(i)), Identity: mpc.NodeIdentity(public)})
	}
	return terms, keys
}

// open runs the handshake; change may alter a hello on its way to a party.
func open(t *testing.T, terms map[mpc.Index]Terms, keys map[mpc.Index]ed25519.PrivateKey,
	change func(to, from mpc.Index, h *Hello)) (map[mpc.Index]*Channel, error) {
	t.Helper()
	shakes, hellos := map[mpc.Index]*Handshake{}, map[mpc.Index]Hello{}
	for i, k := range keys {
		s, h, err := Begin(terms[i], i, k)
		if err != nil {
			return nil, err
		}
		shakes[i], hellos[i] = s, h
	}
	channels := map[mpc.Index]*Channel{}
	for i, s := range shakes {
		mine := map[mpc.Index]Hello{}
		for from, h := range hellos {
			if change != nil {
				change(i, from, &h)
			}
			mine[from] = h
		}
		c, err := s.Complete(mine)
		if err != nil {
			return nil, err
		}
		channels[i] = c
	}
	return channels, nil
}

func same(terms Terms) map[mpc.Index]Terms {
	return map[mpc.Index]Terms{1: terms, 2: terms, 3: terms}
}

func TestChannel(t *testing.T) {
	terms, keys := trio(t)
	c, err := open(t, same(terms), keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c[1].ID() != c[2].ID() || c[2].ID() != c[3].ID() {
		t.Fatal("the parties have different session IDs")
	}
	again, err := open(t, same(terms), keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again[1].ID() == c[1].ID() {
		t.Fatal("two sessions have one ID")
	}

	first, err := c[1].Seal(2, []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := c[1].Seal(2, []byte("second"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(first, []byte("first")) {
		t.Fatal("not sealed")
	}
	for _, m := range []struct {
		sealed []byte
		want   string
	}{{second, "second"}, {first, "first"}} { // order does not matter
		got, err := c[2].Open(1, m.sealed)
		if err != nil || string(got) != m.want {
			t.Fatalf("%q, %v", got, err)
		}
	}

	flipped := bytes.Clone(first)
	flipped[len(flipped)-1] ^= 1
	renumbered := bytes.Clone(first)
	renumbered[3] = 9
	for name, open := range map[string]func() ([]byte, error){
		"repeated":           func() ([]byte, error) { return c[2].Open(1, first) },
		"damaged":            func() ([]byte, error) { return c[2].Open(1, flipped) },
		"renumbered":         func() ([]byte, error) { return c[2].Open(1, renumbered) },
		"forged sender":      func() ([]byte, error) { return c[2].Open(3, first) },
		"wrong recipient":    func() ([]byte, error) { return c[3].Open(1, first) },
		"reflected":          func() ([]byte, error) { return c[1].Open(2, first) },
		"from ourselves":     func() ([]byte, error) { return c[2].Open(2, first) },
		"of another session": func() ([]byte, error) { return again[2].Open(1, first) },
		"empty":              func() ([]byte, error) { return c[2].Open(1, nil) },
		"huge number":        func() ([]byte, error) { return c[2].Open(1, append([]byte{255, 0, 0, 0}, first[4:]...)) },
	} {
		if _, err := open(); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v, want ErrMessage", name, err)
		}
	}
}

func TestHandshakeRefuses(t *testing.T) {
	terms, keys := trio(t)
	for name, change := range map[string]func(to, from mpc.Index, h *Hello){
		"other key":       func(to, from mpc.Index, h *Hello) { h.Ephemeral[0] ^= 1 },
		"other nonce":     func(to, from mpc.Index, h *Hello) { h.Nonce[0] ^= 1 },
		"other signature": func(to, from mpc.Index, h *Hello) { h.Signature[0] ^= 1 },
		"empty":           func(to, from mpc.Index, h *Hello) { *h = Hello{} },
	} {
		_, err := open(t, same(terms), keys, func(to, from mpc.Index, h *Hello) {
			if to == 2 && from == 1 {
				change(to, from, h)
			}
		})
		if !errors.Is(err, ErrHello) {
			t.Errorf("%s: %v, want ErrHello", name, err)
		}
	}

	t.Run("one party was told other inputs", func(t *testing.T) {
		told := same(terms)
		other := terms
		other.Inputs[0] ^= 1
		told[3] = other
		if _, err := open(t, told, keys, nil); !errors.Is(err, ErrHello) {
			t.Fatalf("%v, want ErrHello", err)
		}
	})
	t.Run("an identity that is not the pinned one", func(t *testing.T) {
		_, stranger, _ := ed25519.GenerateKey(nil)
		if _, _, err := Begin(terms, 1, stranger); err == nil {
			t.Fatal("accepted")
		}
	})
	t.Run("one node with two shares", func(t *testing.T) {
		twice := terms
		twice.Members = append([]Member(nil), terms.Members...)
		twice.Members[1].Identity = twice.Members[0].Identity
		if _, _, err := Begin(twice, 3, keys[3]); err == nil {
			t.Fatal("accepted")
		}
	})
	t.Run("a hello is missing", func(t *testing.T) {
		h, _, err := Begin(terms, 1, keys[1])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Complete(nil); !errors.Is(err, ErrHello) {
			t.Fatalf("%v, want ErrHello", err)
		}
	})
}

func TestMessageLimit(t *testing.T) {
	terms, keys := trio(t)
	c, err := open(t, same(terms), keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < maxMessages; i++ {
		if _, err := c[1].Seal(2, []byte("m")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c[1].Seal(2, []byte("m")); err == nil {
		t.Fatal("no limit")
	}
}

func TestBodies(t *testing.T) {
	m := mpc.Message{Round: 2, Broadcast: true, Transcript: [32]byte{1}, Echo: bytes.Repeat([]byte{2}, 64), Data: []byte("data")}
	b, err := EncodeProtocol(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got.Message.From != 1 || got.Message.To != 0 || !got.Message.Broadcast || got.Message.Round != 2 ||
		!bytes.Equal(got.Message.Echo, m.Echo) || !bytes.Equal(got.Message.Data, m.Data) || got.Message.Transcript != m.Transcript {
		t.Fatalf("%+v", got.Message)
	}
	if body, err := Decode(EncodeConfirm([32]byte{5}), 1, 2); err != nil || body.Record != [32]byte{5} {
		t.Fatalf("%+v %v", body, err)
	}
	for _, bad := range [][]byte{nil, {0}, {9, 9}, {2, 1}, b[:20], append([]byte{1, 2, 8}, b[3:]...)} {
		if _, err := Decode(bad, 1, 2); !errors.Is(err, ErrMessage) {
			t.Errorf("%x: %v, want ErrMessage", bad, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, _ := EncodeProtocol(mpc.Message{Round: 2, Data: []byte("d"), Echo: make([]byte, 64)})
	f.Add(b)
	f.Add(EncodeConfirm([32]byte{1}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := Decode(b, 1, 2)
		if err != nil {
			return
		}
		again := EncodeConfirm(body.Record)
		if body.Kind == KindProtocol {
			if again, err = EncodeProtocol(body.Message); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(b, again) {
			t.Fatalf("not canonical: %x, again %x", b, again)
		}
	})
}
