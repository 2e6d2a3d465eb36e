package mpctest_test

import (
	"bytes"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/mpctest"
)

// stub is a party of a protocol with one round: everybody says its index, and
// who has heard everybody is done. bad breaks it on the first message.
type stub struct {
	self  mpc.Index
	heard map[mpc.Index]bool
	peers int
	tag   [32]byte // of the session
	fails error
	bad   func(s *stub, m mpc.Message) ([]mpc.Message, error)
}

func (s *stub) Start() ([]mpc.Message, error) {
	return []mpc.Message{{From: s.self, Broadcast: true, Round: 2, Transcript: s.tag, Data: bytes.Repeat([]byte{byte(s.self)}, 4)}}, nil
}

func (s *stub) Step(m mpc.Message) ([]mpc.Message, error) {
	if s.bad != nil {
		return s.bad(s, m)
	}
	if s.fails != nil {
		return nil, s.fails
	}
	if !bytes.Equal(m.Data, bytes.Repeat([]byte{byte(m.From)}, 4)) || m.Round != 2 || !m.Broadcast || m.To != 0 || m.Transcript != s.tag || len(m.Echo) != 0 {
		s.fails = &mpc.AbortError{Culprits: []mpc.Index{m.From}, Err: errors.New("malformed")}
		return nil, s.fails
	}
	s.heard[m.From] = true
	return nil, nil
}

func (s *stub) Done() bool { return s.fails == nil && len(s.heard) == s.peers }
func (s *stub) Wipe()      {}

func stubs(bad func(s *stub, m mpc.Message) ([]mpc.Message, error)) map[mpc.Index]mpc.Party {
	out := map[mpc.Index]mpc.Party{}
	var tag [32]byte
	_, _ = cryptorand.Read(tag[:])
	for i := mpc.Index(1); i <= 3; i++ {
		out[i] = &stub{self: i, heard: map[mpc.Index]bool{}, peers: 2, tag: tag}
	}
	out[2].(*stub).bad = bad
	return out
}

// TestRunSeesBadParties: the network notices every breach it claims to.
func TestRunSeesBadParties(t *testing.T) {
	failed := errors.New("failed")
	calls := 0
	for name, c := range map[string]struct {
		bad  func(s *stub, m mpc.Message) ([]mpc.Message, error)
		want string
	}{
		"panic": {func(*stub, mpc.Message) ([]mpc.Message, error) { panic("ouch") }, "a panic left share 2: ouch"},
		"another's name": {func(*stub, mpc.Message) ([]mpc.Message, error) {
			return []mpc.Message{{From: 1, Broadcast: true}}, nil
		}, "share 2 sends a message from 1"},
		"to itself": {func(*stub, mpc.Message) ([]mpc.Message, error) {
			return []mpc.Message{{From: 2, To: 2}}, nil
		}, "share 2 sends a message from 2 to 2"},
		"neither to somebody nor a broadcast": {func(*stub, mpc.Message) ([]mpc.Message, error) {
			return []mpc.Message{{From: 2}}, nil
		}, "share 2 sends a message from 2 to 0"},
		"goes on": {func(*stub, mpc.Message) ([]mpc.Message, error) {
			if calls++; calls == 1 {
				return nil, failed
			}
			return nil, nil
		}, "share 2 goes on after the error"},
		"speaks with an error": {func(*stub, mpc.Message) ([]mpc.Message, error) {
			return []mpc.Message{{From: 2, To: 1}}, failed
		}, "share 2 sends messages with the error"},
		"done with an error": {func(s *stub, m mpc.Message) ([]mpc.Message, error) {
			s.heard[m.From] = true
			return nil, failed
		}, "share 2 is done after the error"},
		"blames an honest one": {func(*stub, mpc.Message) ([]mpc.Message, error) {
			return nil, &mpc.AbortError{Culprits: []mpc.Index{3}, Err: failed}
		}, "share 2 blames share 3, which is honest"},
	} {
		r, err := mpctest.Run(mpctest.Config{Parties: stubs(c.bad), Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check(1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := mpctest.Run(mpctest.Config{Parties: stubs(nil)}); err != nil || r.Check(0) != nil || len(r.Done) != 3 {
		t.Errorf("good parties: %+v, %v", r, err)
	}
}

func TestRunEnds(t *testing.T) {
	_, err := mpctest.Run(mpctest.Config{MaxSteps: 100, Parties: stubs(func(*stub, mpc.Message) ([]mpc.Message, error) {
		return []mpc.Message{{From: 2, To: 3, Data: []byte{2}}, {From: 2, To: 1, Data: []byte{2}}}, nil
	}), Hook: func(_ *rand.Rand, p mpctest.Packet, _ *mpc.Message) []mpctest.Packet {
		p.To = 2
		return []mpctest.Packet{p, p}
	}})
	if !errors.Is(err, mpctest.ErrSteps) {
		t.Errorf("endless talk: %v", err)
	}
	hang := make(chan struct{})
	defer close(hang)
	_, err = mpctest.Run(mpctest.Config{Timeout: 50 * time.Millisecond, Parties: stubs(func(*stub, mpc.Message) ([]mpc.Message, error) {
		<-hang
		return nil, nil
	})})
	if !errors.Is(err, mpctest.ErrDeadline) || !strings.Contains(err.Error(), "network_test.go") {
		t.Errorf("a party that hangs: %v", err)
	}
}

// TestSuite: a protocol that refuses what it should passes, and enough was tried.
func TestSuite(t *testing.T) {
	s := mpctest.Suite{Nameless: func(error) bool { return false }, Session: func(testing.TB) mpctest.Session {
		return mpctest.Session{Parties: stubs(nil), Verify: func([]mpc.Index) error { return nil }}
	}}
	s.Honest(t, 3)
	if c := s.Table(t); c.Places != 1 || c.Faults < 25 || c.Sessions < c.Faults {
		t.Error(c)
	}
	if c := s.Campaign(t, 50); c.Sessions != 50 {
		t.Error(c)
	}
	s.Named(t, s.Record(t), 2, true, "no data")
}

// TestSeed: with the parties' randomness fixed, too, a run can be repeated.
func TestSeed(t *testing.T) {
	run := func(seed uint64) string {
		cryptotest.SetGlobalRandom(t, seed)
		parties := map[mpc.Index]mpc.Party{}
		for i := mpc.Index(1); i <= 3; i++ {
			p, err := frost.NewKeygen(frost.KeyConfig{Self: i, Algorithm: mpc.Ed25519, Threshold: 2, Shares: 3, SessionID: mpc.SessionID{1}})
			if err != nil {
				t.Fatal(err)
			}
			parties[i] = p
		}
		r, err := mpctest.Run(mpctest.Config{Parties: parties, Seed: seed})
		if err != nil || len(r.Done) != 3 {
			t.Fatal(r, err)
		}
		k, err := parties[1].(*frost.KeyParty).Result()
		if err != nil {
			t.Fatal(err)
		}
		k.Share.Wipe()
		return fmt.Sprintf("%x %q", k.PublicKey, r.Trace)
	}
	first := run(1)
	if again := run(1); again != first {
		t.Error("one seed, two runs")
	}
	if run(2) == first {
		t.Error("two seeds, one run")
	}
}

// TestFaultsApply: every fault changes what it is applied to, or says that it
// cannot.
func TestFaultsApply(t *testing.T) {
	// {"A": 33 bytes, "B": {"C": 4 bytes}}
	data := append([]byte("\xa2\x61A\x58\x21\x02"), make([]byte, 32)...)
	data = append(data, "\x61B\xa1\x61C\x44\x01\x02\x03\x04"...)
	m := mpc.Message{From: 1, Broadcast: true, Round: 3, Transcript: [32]byte{1}, Data: data, Echo: make([]byte, 64)}
	applied := 0
	for _, f := range slices.Concat(mpctest.Faults(), mpctest.FieldFaults(m)) {
		c := &mpctest.Cheat{Random: mpctest.Random(1), Other: []mpc.Message{{From: 1, Broadcast: true, Round: 3, Data: []byte("old")}}}
		out, ok := f.Apply(c, mpctest.Packet{To: 2, Message: m})
		if !ok {
			continue
		}
		applied++
		same := len(out) == 1 && fmt.Sprint(out[0].Message) == fmt.Sprint(m) && !out[0].Late
		if same {
			t.Errorf("%s changes nothing", f.Name)
		}
		if len(m.Data) != len(data) || string(m.Data) != string(data) {
			t.Fatalf("%s changed its input", f.Name)
		}
	}
	if applied < 90 {
		t.Errorf("only %d faults apply", applied)
	}
	if mpctest.FieldFaults(mpc.Message{Data: []byte("no CBOR map")}) != nil {
		t.Error("faults in what is no map")
	}
}
