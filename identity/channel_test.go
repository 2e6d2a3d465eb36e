package identity

import (
	"bytes"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"vault-plugin-secrets-mpc/secret"
)

func channels(t *testing.T) (client, server *Channel) {
	t.Helper()
	key := secret.New(bytes.Repeat([]byte{3}, SessionKeySize))
	return NewChannel(key, true), NewChannel(key, false)
}

func TestChannel(t *testing.T) {
	client, server := channels(t)
	greeting, err := server.Seal(0, nil, []byte("welcome"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := client.Open(0, nil, greeting); err != nil || string(b) != "welcome" {
		t.Fatal("the greeting does not arrive:", err)
	}
	for i := uint64(1); i < 4; i++ {
		up, err := client.Seal(i, []byte("read"), []byte("question"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := server.Open(i, []byte("write"), up); !errors.Is(err, ErrOpen) {
			t.Errorf("with another clear part: %v", err)
		}
		if _, err := server.Open(i+1, []byte("read"), up); !errors.Is(err, ErrOpen) {
			t.Errorf("as a later message: %v", err)
		}
		if _, err := client.Open(i, []byte("read"), up); !errors.Is(err, ErrOpen) {
			t.Errorf("reflected: %v", err)
		}
		bad := bytes.Clone(up)
		bad[0] ^= 1
		if _, err := server.Open(i, []byte("read"), bad); !errors.Is(err, ErrOpen) {
			t.Errorf("changed: %v", err)
		}
		// None of these kept the real one from being taken, once.
		if b, err := server.Open(i, []byte("read"), up); err != nil || string(b) != "question" {
			t.Fatal(err)
		}
		if _, err := server.Open(i, []byte("read"), up); !errors.Is(err, ErrReplay) {
			t.Errorf("again: %v", err)
		}
		if _, err := server.Open(i-1, []byte("read"), up); !errors.Is(err, ErrReplay) {
			t.Errorf("as an earlier message: %v", err)
		}
		down, err := server.Seal(i, nil, []byte("answer"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Open(i, nil, down); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Seal(i, nil, []byte("other")); !errors.Is(err, ErrReplay) {
			t.Errorf("a number is used twice: %v", err)
		}
	}
	// A request that was lost: the next one goes through, and the lost one does not
	// any more.
	lost, err := client.Seal(10, nil, []byte("lost"))
	if err != nil {
		t.Fatal(err)
	}
	next, err := client.Seal(11, nil, []byte("next"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Open(11, nil, next); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Open(10, nil, lost); !errors.Is(err, ErrReplay) {
		t.Errorf("a late message: %v", err)
	}
	// Another session's message.
	other := NewChannel(secret.New(bytes.Repeat([]byte{4}, SessionKeySize)), true)
	foreign, err := other.Seal(12, nil, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Open(12, nil, foreign); !errors.Is(err, ErrOpen) {
		t.Errorf("another session's: %v", err)
	}
	if _, err := client.Seal(math.MaxUint64, nil, nil); !errors.Is(err, ErrRecord) {
		t.Errorf("the last number: %v", err)
	}
	if _, err := client.Seal(12, nil, make([]byte, MaxChannelMessage+1)); !errors.Is(err, ErrRecord) {
		t.Errorf("too long: %v", err)
	}
	client.Wipe()
	if _, err := client.Seal(20, nil, nil); err == nil {
		t.Error("a channel that was wiped still seals")
	}
	if _, err := client.Open(20, nil, nil); err == nil {
		t.Error("a channel that was wiped still opens")
	}
}

// TestChannelOnce: of many that take one message, one gets it.
func TestChannelOnce(t *testing.T) {
	client, server := channels(t)
	m, err := client.Seal(1, nil, []byte("once"))
	if err != nil {
		t.Fatal(err)
	}
	var taken atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			switch _, err := server.Open(1, nil, m); {
			case err == nil:
				taken.Add(1)
			case !errors.Is(err, ErrReplay):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if taken.Load() != 1 {
		t.Errorf("taken %d times", taken.Load())
	}
}

func FuzzChannel(f *testing.F) {
	key := secret.New(bytes.Repeat([]byte{3}, SessionKeySize))
	m, err := NewChannel(key, true).Seal(1, []byte("clear"), []byte("body"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint64(1), []byte("clear"), m)
	f.Add(uint64(0), []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, sequence uint64, clear, message []byte) {
		server := NewChannel(key, false)
		if _, err := server.Open(sequence, clear, message); (err == nil) != (sequence == 1 && string(clear) == "clear" && bytes.Equal(message, m)) {
			t.Errorf("message %x as number %d: %v", message, sequence, err)
		}
	})
}
