package frost

import (
	"errors"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
)

// TestHostileMessages: the messages that make the library panic or hang end the
// session with an error instead.
func TestHostileMessages(t *testing.T) {
	for name, change := range map[string]func(m *mpc.Message){
		"empty data":         func(m *mpc.Message) { m.Data = nil },
		"garbage":            func(m *mpc.Message) { m.Data = []byte("garbage") },
		"truncated":          func(m *mpc.Message) { m.Data = m.Data[:len(m.Data)/2] },
		"round 0":            func(m *mpc.Message) { m.Round = 0 },
		"round 9":            func(m *mpc.Message) { m.Round = 9 },
		"no recipient":       func(m *mpc.Message) { m.Broadcast = false },
		"other session":      func(m *mpc.Message) { m.Transcript[0] ^= 1 },
		"oversized":          func(m *mpc.Message) { m.Data = make([]byte, mpc.MaxMessageSize+1) },
		"short echo":         func(m *mpc.Message) { m.Echo = []byte{1} },
		"empty map":          func(m *mpc.Message) { m.Data = []byte{0xa0} },
		"huge polynomial":    func(m *mpc.Message) { m.Data = hugePolynomial },
		"not in the session": func(m *mpc.Message) { m.From = 9 },
	} {
		t.Run(name, func(t *testing.T) {
			id := sessionID(t)
			parties := map[mpc.Index]mpc.Party{}
			for _, i := range allIndices(3) {
				p, err := NewKeygen(KeyConfig{Self: i, Algorithm: mpc.BIP340Secp256k1, Threshold: 2, Shares: 3, SessionID: id})
				if err != nil {
					t.Fatal(err)
				}
				parties[i] = p
			}
			err := route(t, parties, func(to mpc.Index, m mpc.Message) *mpc.Message {
				if to == 2 && m.From == 1 && m.Round == 2 {
					change(&m)
				}
				return &m
			})
			var abort *mpc.AbortError
			if !errors.As(err, &abort) {
				t.Fatalf("got %v, want an abort", err)
			}
			if len(abort.Culprits) != 1 || (abort.Culprits[0] != 1 && abort.Culprits[0] != 9) {
				t.Fatalf("blamed %v, want the sender: %v", abort.Culprits, err)
			}
		})
	}
}

// hugePolynomial is {"Phi_i": ff ff ff f0 a0}: the library would allocate four
// billion points for it.
var hugePolynomial = []byte("\xa1\x65Phi_i\x45\xff\xff\xff\xf0\xa0")

// TestEquivocation: a party that broadcasts different things to different
// parties is caught by the echo in the next round.
func TestEquivocation(t *testing.T) {
	id := sessionID(t)
	parties := map[mpc.Index]mpc.Party{}
	for _, i := range allIndices(3) {
		p, err := NewKeygen(KeyConfig{Self: i, Algorithm: mpc.BIP340Secp256k1, Threshold: 2, Shares: 3, SessionID: id})
		if err != nil {
			t.Fatal(err)
		}
		parties[i] = p
	}
	// A second run of share 1 in the same session: valid, but different.
	twin, err := NewKeygen(KeyConfig{Self: 1, Algorithm: mpc.BIP340Secp256k1, Threshold: 2, Shares: 3, SessionID: id})
	if err != nil {
		t.Fatal(err)
	}
	out, err := twin.Start()
	if err != nil {
		t.Fatal(err)
	}
	err = route(t, parties, func(to mpc.Index, m mpc.Message) *mpc.Message {
		if to == 2 && m.From == 1 && m.Round == 2 {
			return &out[0]
		}
		return &m
	})
	if err == nil {
		t.Fatal("equivocation passed")
	}
}
