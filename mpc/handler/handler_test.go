package handler

import (
	"bytes"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/math/polynomial"
	"github.com/taurusgroup/multi-party-sig/protocols/frost"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/mpctest"
)

// keygen makes parties of the library's FROST key generation with threshold 2
// and no check of messages, so that what the library does on its own shows.
func keygen(t testing.TB, n int) map[mpc.Index]*Party {
	t.Helper()
	var all []mpc.Index
	for i := 1; i <= n; i++ {
		all = append(all, mpc.Index(i))
	}
	var id mpc.SessionID
	_, _ = rand.Read(id[:])
	out := map[mpc.Index]*Party{}
	for _, i := range all {
		p, err := New(Config{Self: i, Parties: all, SessionID: id, FinalRound: 3,
			Start: frost.Keygen(libcurve.Secp256k1{}, PartyID(i), PartyIDs(all), 1)})
		if err != nil {
			t.Fatal(err)
		}
		out[i] = p
	}
	return out
}

func asParties(parties map[mpc.Index]*Party) map[mpc.Index]mpc.Party {
	out := map[mpc.Index]mpc.Party{}
	for i, p := range parties {
		out[i] = p
	}
	return out
}

// run carries messages, those of share 1 changed on their way.
func run(t *testing.T, parties map[mpc.Index]*Party, seed uint64, change func(p mpctest.Packet) []mpctest.Packet) *mpctest.Result {
	t.Helper()
	r, err := mpctest.Run(mpctest.Config{Parties: asParties(parties), Seed: seed, Hook: func(_ *mathrand.Rand, p mpctest.Packet, _ *mpc.Message) []mpctest.Packet {
		if p.Message.From != 1 {
			return []mpctest.Packet{p}
		}
		return change(p)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.Violations {
		t.Error(v)
	}
	return r
}

// inPhi replaces the polynomial of a round-2 broadcast.
func inPhi(t testing.TB, m mpc.Message, phi []byte) mpc.Message {
	t.Helper()
	var fields map[string]cbor.RawMessage
	if err := cbor.Unmarshal(m.Data, &fields); err != nil {
		t.Fatal(err)
	}
	raw, err := cbor.Marshal(phi)
	if err != nil {
		t.Fatal(err)
	}
	fields["Phi_i"] = raw
	if m.Data, err = cbor.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestAnyOrder: every party finishes whatever the order, and the library is
// never given a message of a round that it has not reached.
func TestAnyOrder(t *testing.T) {
	for seed := range uint64(40) {
		parties := keygen(t, 4)
		for _, p := range parties {
			p.cfg.Broadcasts = func(m mpc.Message) {
				if m.From != p.cfg.Self && m.Round > p.current {
					t.Errorf("round %d before the own round %d", m.Round, p.current)
				}
			}
		}
		r := run(t, parties, seed, func(p mpctest.Packet) []mpctest.Packet { return []mpctest.Packet{p, p} })
		if len(r.Done) != 4 {
			t.Fatalf("seed %d: %v", seed, r.Errors)
		}
		for _, p := range parties {
			if len(p.waiting) != 0 {
				t.Fatalf("%d messages were never looked at", len(p.waiting))
			}
		}
	}
}

// TestPanicOnAMessage: the library panics while it decodes a polynomial; its
// sender is named by everybody, however many take part and whenever the message
// came.
func TestPanicOnAMessage(t *testing.T) {
	for _, n := range []int{2, 3, 5} {
		for seed := range uint64(10) {
			r := run(t, keygen(t, n), seed, func(p mpctest.Packet) []mpctest.Packet {
				if p.Message.Round == 2 {
					p.Message = inPhi(t, p.Message, []byte{0, 0})
				}
				return []mpctest.Packet{p}
			})
			for i := mpc.Index(2); int(i) <= n; i++ {
				if err := r.Errors[i]; !errors.Is(err, mpc.ErrPanic) || !slices.Equal(mpctest.Culprits(err), []mpc.Index{1}) {
					t.Fatalf("%d parties, seed %d: share %d got %v", n, seed, i, err)
				}
			}
		}
	}
}

// TestFaultThatWaited: a faulty message that came a round early ends the session
// when its round is reached, in its sender's name, not in that of the message
// which ended the round before.
func TestFaultThatWaited(t *testing.T) {
	waited := false
	for seed := range uint64(30) {
		parties := keygen(t, 4)
		r := run(t, parties, seed, func(p mpctest.Packet) []mpctest.Packet {
			if p.Message.Round == 3 && !p.Message.Broadcast {
				p.Message.Data = []byte("\xa1\x64F_li\xf6") // {"F_li": null}
				waited = waited || parties[p.To].current < 3
			}
			return []mpctest.Packet{p}
		})
		for i := mpc.Index(2); i <= 4; i++ {
			if err := r.Errors[i]; !slices.Equal(mpctest.Culprits(err), []mpc.Index{1}) {
				t.Fatalf("seed %d: share %d got %v", seed, i, err)
			}
		}
	}
	if !waited {
		t.Fatal("no such message ever came early")
	}
}

// TestPanicWhileJoining: in a refresh, a polynomial of another degree passes
// every check of its sender's messages, and the library panics when it adds the
// polynomials up. With one peer it was that one's; with more nobody is named.
func TestPanicWhileJoining(t *testing.T) {
	group := libcurve.Secp256k1{}
	for _, n := range []int{2, 3} {
		made := keygen(t, n)
		run(t, made, 1, func(p mpctest.Packet) []mpctest.Packet { return []mpctest.Packet{p} })
		parties, first := map[mpc.Index]*Party{}, map[mpc.Index]mpc.Message{}
		for i, p := range made {
			result, err := p.Result()
			if err != nil {
				t.Fatal(err)
			}
			parties[i], err = New(Config{Self: i, Parties: p.cfg.Parties, SessionID: mpc.SessionID{1}, FinalRound: 3,
				Start: frost.Refresh(result.(*frost.Config), PartyIDs(p.cfg.Parties))})
			if err != nil {
				t.Fatal(err)
			}
			out, err := parties[i].Start()
			if err != nil {
				t.Fatal(err)
			}
			first[i] = out[0]
		}
		f := polynomial.NewPolynomial(group, 2, group.NewScalar())
		phi, err := polynomial.NewPolynomialExponent(f).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		first[1] = inPhi(t, first[1], phi) // the same for everybody
		second := map[mpc.Index][]mpc.Message{}
		for i, p := range parties {
			for j, m := range first {
				if i != j {
					out, err := p.Step(m)
					if err != nil {
						t.Fatal(err)
					}
					second[i] = append(second[i], out...)
				}
			}
		}
		// Share 2 gets a subshare and an echo that fit; share 1's come last.
		for j := mpc.Index(n); j >= 1; j-- {
			for _, m := range second[j] {
				if j == 2 || (!m.Broadcast && m.To != 2) {
					continue
				}
				if j == 1 {
					m.Echo = second[2][0].Echo
				}
				if j == 1 && !m.Broadcast {
					b, err := f.Evaluate(PartyID(2).Scalar(group)).MarshalBinary()
					if err != nil {
						t.Fatal(err)
					}
					if m.Data, err = cbor.Marshal(map[string][]byte{"F_li": b}); err != nil {
						t.Fatal(err)
					}
				}
				_, err = parties[2].Step(m)
			}
		}
		want := []mpc.Index{1}
		if n > 2 {
			want = nil
		}
		if !errors.Is(err, mpc.ErrPanic) || !slices.Equal(mpctest.Culprits(err), want) {
			t.Fatalf("%d parties: got %v", n, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{Self: 1, Parties: []mpc.Index{1, 2}, SessionID: mpc.SessionID{1}, FinalRound: 3,
		Start: frost.Keygen(libcurve.Secp256k1{}, PartyID(1), PartyIDs([]mpc.Index{1, 2}), 1)}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(c *Config){
		"nobody":       func(c *Config) { c.Parties = nil },
		"alone":        func(c *Config) { c.Parties = []mpc.Index{1} },
		"not a party":  func(c *Config) { c.Self = 3 },
		"index 0":      func(c *Config) { c.Parties = []mpc.Index{0, 1} },
		"descending":   func(c *Config) { c.Parties = []mpc.Index{2, 1} },
		"twice":        func(c *Config) { c.Parties = []mpc.Index{1, 1} },
		"index 17":     func(c *Config) { c.Parties = []mpc.Index{1, 17} },
		"no session":   func(c *Config) { c.SessionID = mpc.SessionID{} },
		"no protocol":  func(c *Config) { c.Start = nil },
		"no rounds":    func(c *Config) { c.FinalRound = 1 },
		"nobody, zero": func(c *Config) { *c = Config{} },
	} {
		c := good
		change(&c)
		if p, err := New(c); err == nil || p != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestLife: a party is started once, and ends for good.
func TestLife(t *testing.T) {
	parties := keygen(t, 2)
	if _, err := parties[1].Step(mpc.Message{From: 2}); err == nil {
		t.Error("a step before the start")
	}
	if _, err := parties[1].Result(); err == nil {
		t.Error("a result before the start")
	}
	r := run(t, parties, 1, func(p mpctest.Packet) []mpctest.Packet { return []mpctest.Packet{p} })
	if len(r.Done) != 2 {
		t.Fatal(r.Errors)
	}
	if _, err := parties[1].Start(); err == nil {
		t.Error("started twice")
	}
	if out, err := parties[1].Step(mpc.Message{From: 2, Round: 99}); err != nil || out != nil {
		t.Errorf("a straggler: %v, %v", out, err)
	}
	parties[1].Wipe()
	parties[1].Wipe()
	if _, err := parties[1].Result(); err == nil || parties[1].Done() {
		t.Error("a wiped party has a result")
	}
	if _, err := parties[1].Step(mpc.Message{From: 2}); err == nil {
		t.Error("a wiped party goes on")
	}

	failing, err := New(Config{Self: 1, Parties: []mpc.Index{1, 2}, SessionID: mpc.SessionID{1}, FinalRound: 3,
		Start: frost.Keygen(libcurve.Secp256k1{}, PartyID(1), PartyIDs([]mpc.Index{1, 2}), 9)})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := failing.Start(); err == nil {
			t.Fatal("a threshold of 10 with two parties")
		}
	}
}

// TestSessionSize: a peer cannot send more than the bound, in whatever it does.
func TestSessionSize(t *testing.T) {
	parties := keygen(t, 2)
	out, err := parties[1].Start()
	if err != nil {
		t.Fatal(err)
	}
	m := mpc.Message{From: 2, Broadcast: true, Round: 3, Transcript: out[0].Transcript, Data: bytes.Repeat([]byte{1}, mpc.MaxMessageSize)}
	for k := range mpc.MaxSessionSize/mpc.MaxMessageSize + 1 {
		_, err = parties[1].Step(m)
		if last := k == mpc.MaxSessionSize/mpc.MaxMessageSize; last != (err != nil) {
			t.Fatalf("message %d: %v", k, err)
		}
	}
	if !errors.Is(err, mpc.ErrMalformedMessage) || !slices.Equal(mpctest.Culprits(err), []mpc.Index{2}) {
		t.Fatal(err)
	}
}

// TestLibraryAbort: the library's own notices (round 0) neither leave a party
// nor end one.
func TestLibraryAbort(t *testing.T) {
	r := run(t, keygen(t, 3), 3, func(p mpctest.Packet) []mpctest.Packet {
		if p.Message.Round == 3 && p.To == 2 && p.Message.Broadcast {
			p.Message.Data = []byte{0xa0}
		}
		return []mpctest.Packet{p}
	})
	if err := r.Errors[2]; !slices.Equal(mpctest.Culprits(err), []mpc.Index{1}) {
		t.Fatal(err)
	}
	if r.Errors[3] != nil || len(r.Done) != 1 && len(r.Done) != 2 {
		t.Fatalf("done %v, errors %v", r.Done, r.Errors)
	}
	for _, line := range r.Trace {
		if bytes.Contains([]byte(line), []byte("round 0")) {
			t.Fatal(line)
		}
	}
}
