package frost

import (
	"errors"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
)

// recorded is an honest session up to the point where share 1 has started and
// got what belongs before a message.
type recorded struct {
	name    string
	parties func(t testing.TB) map[mpc.Index]mpc.Party
}

func recordings(f *testing.F) []recorded {
	var out []recorded
	for _, a := range mpc.Algorithms() {
		out = append(out, recorded{string(a) + " keygen", func(t testing.TB) map[mpc.Index]mpc.Party { return keygenParties(t, a, 2, 2) }})
		record, shares := account(f, a, 2, 2)
		out = append(out, recorded{string(a) + " refresh", func(t testing.TB) map[mpc.Index]mpc.Party { return refreshParties(t, record, shares) }})
		if !a.IsECDSA() {
			out = append(out, recorded{string(a) + " sign", func(t testing.TB) map[mpc.Index]mpc.Party {
				return signParties(t, record, shares, []mpc.Index{1, 2})
			}})
		}
	}
	return out
}

// FuzzMessages puts arbitrary data into one message of an honest session, for
// every protocol of this package. Whatever it is, nothing panics, inside the
// library or outside, and a result is as good as without it.
func FuzzMessages(f *testing.F) {
	all := recordings(f)
	for k, r := range all {
		if err := route(f, r.parties(f), func(to mpc.Index, m mpc.Message) *mpc.Message {
			if to == 1 {
				f.Add(uint8(k), m.Round, m.Broadcast, m.Data)
			}
			return &m
		}); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, k, round uint8, broadcast bool, data []byte) {
		r := all[int(k)%len(all)]
		parties := r.parties(t)
		changed := false
		err := route(t, parties, func(to mpc.Index, m mpc.Message) *mpc.Message {
			if to == 1 && m.Round == round && m.Broadcast == broadcast && string(m.Data) != string(data) {
				m.Data, changed = data, true
			}
			return &m
		})
		if errors.Is(err, mpc.ErrPanic) {
			t.Fatalf("%s: the library panicked", r.name)
		}
		if !changed && err != nil {
			t.Fatalf("%s: an honest session failed: %v", r.name, err)
		}
		// Every byte of every message is bound: by a proof, a commitment, or
		// the equation that a share has to satisfy.
		if changed && err == nil && parties[1].Done() {
			t.Fatalf("%s: share 1 finished with a message that nobody sent", r.name)
		}
	})
}

// FuzzCheck drives the shape checks alone, much faster: what they accept is the
// only encoding of what they read.
func FuzzCheck(f *testing.F) {
	type check struct {
		name string
		f    func(mpc.Message) error
	}
	var checks []check
	for _, a := range mpc.Algorithms() {
		for _, refresh := range []bool{false, true} {
			p := &KeyParty{cfg: KeyConfig{Algorithm: a, Threshold: 2, Shares: 2}, refresh: refresh}
			checks = append(checks, check{string(a), p.checkMessage})
		}
	}
	checks = append(checks, check{"bip340", checkBIP340})
	all := recordings(f)
	for _, r := range all {
		if err := route(f, r.parties(f), func(_ mpc.Index, m mpc.Message) *mpc.Message {
			for k := range checks {
				f.Add(uint8(k), m.Round, m.Broadcast, m.Data)
			}
			return &m
		}); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, k, round uint8, broadcast bool, data []byte) {
		c := checks[int(k)%len(checks)]
		m := mpc.Message{Round: round, Broadcast: broadcast, Data: data}
		if c.f(m) != nil {
			return
		}
		if len(data) > 512 {
			t.Fatalf("%s: accepted %d bytes", c.name, len(data))
		}
		m.Data = append(append([]byte(nil), data...), 0)
		if c.f(m) == nil {
			t.Fatalf("%s: accepted a trailing byte", c.name)
		}
	})
}
