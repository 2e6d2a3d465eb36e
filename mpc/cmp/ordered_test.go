package cmp

import (
	"bytes"
	"crypto/rand"
	"errors"
	mrand "math/rand/v2"
	"testing"

	"github.com/fxamacker/cbor/v2"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/protocols/frost"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/handler"
)

// startOrdered makes a session that takes milliseconds: the library's FROST key
// generation of three, whose round-2 broadcasts hold a commitment that nothing
// checks before round 3.
func startOrdered(t *testing.T) map[mpc.Index]*ordered {
	t.Helper()
	all := []mpc.Index{1, 2, 3}
	var id mpc.SessionID
	_, _ = rand.Read(id[:])
	out := map[mpc.Index]*ordered{}
	for _, i := range all {
		var err error
		out[i], err = newOrdered(handler.Config{Self: i, Parties: all, SessionID: id, FinalRound: 3,
			Start: frost.Keygen(libcurve.Secp256k1{}, handler.PartyID(i), handler.PartyIDs(all), 1),
			Check: func(mpc.Message) error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(out[i].Wipe)
	}
	return out
}

// TestOrdered: whatever order messages come in, and twice, the session ends, and
// the library gets no message of a round before its own party has sent there.
func TestOrdered(t *testing.T) {
	early := 0
	for range 30 {
		parties := startOrdered(t)
		for _, p := range parties {
			p.received = func(m *mpc.Message) {
				if m.Round > p.sent {
					t.Errorf("a message of round %d in round %d", m.Round, p.sent)
				}
			}
		}
		var last mpc.Message
		err := route(parties, func(to mpc.Index, m *mpc.Message) {
			if m.Round > parties[to].sent {
				early++
			}
			if last.Round > 0 && mrand.IntN(2) == 0 {
				for i, p := range parties {
					if i != last.From && (last.Broadcast || i == last.To) && p.seen[place{last.From, last.Round, last.Broadcast}] {
						if out, err := p.Step(last); err != nil || len(out) != 0 {
							t.Errorf("a double: %d messages, %v", len(out), err)
						}
					}
				}
			}
			last = *m
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if early == 0 {
		t.Fatal("no message ever came early: the test tests nothing")
	}
}

// TestEquivocation: who hears of two versions of a broadcast blames nobody,
// because it cannot know who lies.
func TestEquivocation(t *testing.T) {
	for name, tamper := range map[string]func(to mpc.Index, m *mpc.Message){
		"broadcast": func(to mpc.Index, m *mpc.Message) {
			if to != 3 || m.From != 1 || m.Round != 2 || !m.Broadcast {
				return
			}
			var fields map[string]cbor.RawMessage
			if err := cbor.Unmarshal(m.Data, &fields); err != nil {
				t.Fatal(err)
			}
			fields["Commitment"] = bytes.Clone(fields["Commitment"])
			fields["Commitment"][9] ^= 1
			var err error
			if m.Data, err = cbor.Marshal(fields); err != nil {
				t.Fatal(err)
			}
		},
		"echo": func(to mpc.Index, m *mpc.Message) {
			if to == 3 && m.From == 1 && m.Round == 3 {
				m.Echo = bytes.Repeat([]byte{1}, 64)
			}
		},
		"no echo": func(to mpc.Index, m *mpc.Message) {
			if to == 3 && m.From == 1 && m.Round == 3 {
				m.Echo = nil
			}
		},
	} {
		parties := startOrdered(t)
		errs := routeAll(parties, tamper)
		var abort *mpc.AbortError
		if !errors.As(errs[3], &abort) || !errors.Is(errs[3], ErrBroadcast) || len(abort.Culprits) != 0 {
			t.Errorf("%s: got %v", name, errs[3])
		}
		if _, err := parties[3].Result(); !errors.Is(err, ErrBroadcast) {
			t.Errorf("%s: a result: %v", name, err)
		}
		if _, err := parties[3].Step(mpc.Message{}); !errors.Is(err, ErrBroadcast) {
			t.Errorf("%s: the session goes on: %v", name, err)
		}
	}
}
