package session_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/mpctest"
	"vault-plugin-secrets-mpc/mpc/session"
)

var trio = []mpc.Index{1, 2, 3}

func channels(t testing.TB) map[mpc.Index]*session.Channel {
	t.Helper()
	c, err := mpctest.Channels(trio)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func seal(t testing.TB, c *session.Channel, to mpc.Index, body []byte) []byte {
	t.Helper()
	sealed, err := c.Seal(to, body)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// refuse demands an error that says what happened and blames nobody: whoever
// routes messages can have made it.
func refuse(t testing.TB, c *session.Channel, from mpc.Index, sealed []byte, format string, args ...any) {
	t.Helper()
	body, err := c.Open(from, sealed)
	if !errors.Is(err, session.ErrMessage) || body != nil || len(mpctest.Culprits(err)) > 0 {
		t.Fatalf("%s: opened %d bytes, %v", fmt.Sprintf(format, args...), len(body), err)
	}
}

// TestEveryBit flips every bit of a sealed message, cuts it at every length and
// lengthens it. None of that opens, and none of it spoils the right message,
// which arrives last and is opened once.
func TestEveryBit(t *testing.T) {
	c := channels(t)
	for _, body := range [][]byte{{}, []byte("short"), bytes.Repeat([]byte{7}, 300)} {
		sealed := seal(t, c[1], 2, body)
		for k := range len(sealed) * 8 {
			bad := bytes.Clone(sealed)
			bad[k/8] ^= 1 << (k % 8)
			refuse(t, c[2], 1, bad, "bit %d", k)
		}
		for n := range len(sealed) {
			refuse(t, c[2], 1, sealed[:n], "%d bytes", n)
			refuse(t, c[2], 1, sealed[n+1:], "the last %d bytes", len(sealed)-n-1)
		}
		refuse(t, c[2], 1, append(bytes.Clone(sealed), 0), "a byte more")
		refuse(t, c[2], 1, append(bytes.Clone(sealed), sealed...), "twice")
		if got, err := c[2].Open(1, sealed); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("the right message: %x, %v", got, err)
		}
		refuse(t, c[2], 1, sealed, "again")
	}
}

// TestWrongPlace offers every message to every party in every name: it opens at
// its recipient, from its sender, in its session, and nowhere else.
func TestWrongPlace(t *testing.T) {
	here, there := channels(t), channels(t)
	for _, from := range trio {
		for _, to := range trio {
			if from == to {
				continue
			}
			sealed := seal(t, here[from], to, []byte("body"))
			for _, at := range trio {
				for claimed := mpc.Index(0); claimed <= 5; claimed++ {
					refuse(t, there[at], claimed, sealed, "%d→%d in another session at %d from %d", from, to, at, claimed)
					if at != to || claimed != from {
						refuse(t, here[at], claimed, sealed, "%d→%d at %d from %d", from, to, at, claimed)
					}
				}
			}
			if _, err := here[to].Open(from, sealed); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// keygen makes the parties of a key generation, whose messages the router
// below gets its hands on.
func keygen(id mpc.SessionID) (map[mpc.Index]mpc.Party, error) {
	out := map[mpc.Index]mpc.Party{}
	for _, i := range trio {
		p, err := frost.NewKeygen(frost.KeyConfig{Self: i, Algorithm: mpc.Ed25519, Threshold: 2, Shares: 3, SessionID: id})
		if err != nil {
			return nil, err
		}
		out[i] = p
	}
	return out, nil
}

// routers are hostile ones. Those that deliver the right message too, whatever
// else, cannot stop honest parties that drop what they refuse.
func routers(earlier []mpctest.Sealed) map[string]struct {
	router mpctest.Router
	passes bool
} {
	type entry = struct {
		router mpctest.Router
		passes bool
	}
	var seen []mpctest.Sealed
	some := func(f func(r *rand.Rand, m mpctest.Sealed) []mpctest.Sealed) mpctest.Router {
		return func(r *rand.Rand, m mpctest.Sealed) ([]mpctest.Sealed, bool) {
			if r.IntN(3) > 0 {
				return []mpctest.Sealed{m}, false
			}
			return f(r, m), false
		}
	}
	also := func(f func(r *rand.Rand, m mpctest.Sealed) mpctest.Sealed) mpctest.Router {
		return func(r *rand.Rand, m mpctest.Sealed) ([]mpctest.Sealed, bool) {
			return []mpctest.Sealed{f(r, m), m}, false
		}
	}
	with := func(m mpctest.Sealed, body []byte) mpctest.Sealed { m.Body = body; return m }
	flip := func(r *rand.Rand, m mpctest.Sealed) mpctest.Sealed {
		b := bytes.Clone(m.Body)
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return with(m, b)
	}
	return map[string]entry{
		"honest":     {func(_ *rand.Rand, m mpctest.Sealed) ([]mpctest.Sealed, bool) { return []mpctest.Sealed{m}, false }, true},
		"drops some": {some(func(*rand.Rand, mpctest.Sealed) []mpctest.Sealed { return nil }), false},
		"drops all":  {func(*rand.Rand, mpctest.Sealed) ([]mpctest.Sealed, bool) { return nil, false }, false},
		"flips some": {some(func(r *rand.Rand, m mpctest.Sealed) []mpctest.Sealed { return []mpctest.Sealed{flip(r, m)} }), false},
		"swaps recipients": {func(_ *rand.Rand, m mpctest.Sealed) ([]mpctest.Sealed, bool) {
			m.To = 6 - m.From - m.To
			return []mpctest.Sealed{m}, false
		}, false},
		"swaps senders": {func(_ *rand.Rand, m mpctest.Sealed) ([]mpctest.Sealed, bool) {
			m.From = 6 - m.From - m.To
			return []mpctest.Sealed{m}, false
		}, false},
		"reflects": {func(_ *rand.Rand, m mpctest.Sealed) ([]mpctest.Sealed, bool) {
			m.From, m.To = m.To, m.From
			return []mpctest.Sealed{m}, false
		}, false},
		"delays some": {func(r *rand.Rand, m mpctest.Sealed) ([]mpctest.Sealed, bool) {
			return []mpctest.Sealed{m}, r.IntN(2) == 0
		}, true},
		"repeats":       {also(func(_ *rand.Rand, m mpctest.Sealed) mpctest.Sealed { return m }), true},
		"flips, too":    {also(flip), true},
		"cuts, too":     {also(func(r *rand.Rand, m mpctest.Sealed) mpctest.Sealed { return with(m, m.Body[:r.IntN(len(m.Body))]) }), true},
		"empties, too":  {also(func(_ *rand.Rand, m mpctest.Sealed) mpctest.Sealed { return with(m, nil) }), true},
		"floods, too":   {also(func(_ *rand.Rand, m mpctest.Sealed) mpctest.Sealed { return with(m, make([]byte, 1<<18)) }), true},
		"reflects, too": {also(func(_ *rand.Rand, m mpctest.Sealed) mpctest.Sealed { m.From, m.To = m.To, m.From; return m }), true},
		"mixes in an earlier session": {also(func(r *rand.Rand, m mpctest.Sealed) mpctest.Sealed {
			old := earlier[r.IntN(len(earlier))]
			return with(m, old.Body)
		}), true},
		"repeats what was earlier": {also(func(r *rand.Rand, m mpctest.Sealed) mpctest.Sealed {
			seen = append(seen, m)
			return seen[r.IntN(len(seen))]
		}), true},
	}
}

// TestHostileRouter: whatever the router does, no honest party ends with an
// error of the protocol, and those that drop what does not open finish if the
// right messages come as well.
func TestHostileRouter(t *testing.T) {
	recorded, err := mpctest.RunSealed(mpctest.SealedConfig{Members: trio, New: keygen})
	if err != nil || len(recorded.Done) != 3 || len(recorded.Violations) > 0 || len(recorded.Sent) == 0 {
		t.Fatalf("%+v, %v", recorded, err)
	}
	for name, c := range routers(recorded.Sent) {
		t.Run(name, func(t *testing.T) {
			runs, refused := 10, 0
			for seed := range uint64(runs) {
				for _, strict := range []bool{false, true} {
					var parties map[mpc.Index]mpc.Party
					r, err := mpctest.RunSealed(mpctest.SealedConfig{Members: trio, Seed: seed, Router: c.router, Strict: strict,
						New: func(id mpc.SessionID) (_ map[mpc.Index]mpc.Party, err error) {
							parties, err = keygen(id)
							return parties, err
						}})
					if err != nil {
						t.Fatal(err)
					}
					for _, v := range r.Violations {
						t.Errorf("seed %d: %s", seed, v)
					}
					if c.passes && !strict && len(r.Done) != 3 {
						t.Errorf("seed %d: only %v finished: %v", seed, r.Done, r.Errors)
					}
					refused += r.Refused
					sameResult(t, parties, r.Done)
				}
			}
			if quiet := []string{"honest", "drops some", "drops all", "delays some"}; (refused == 0) != slices.Contains(quiet, name) {
				t.Errorf("%d messages refused", refused)
			}
		})
	}
}

func sameResult(t *testing.T, parties map[mpc.Index]mpc.Party, done []mpc.Index) {
	t.Helper()
	var key []byte
	for _, i := range done {
		k, err := parties[i].(*frost.KeyParty).Result()
		if err != nil {
			t.Fatal(err)
		}
		k.Share.Wipe()
		if key == nil {
			key = k.PublicKey
		}
		if !bytes.Equal(key, k.PublicKey) {
			t.Fatal("honest parties made different keys")
		}
	}
}
