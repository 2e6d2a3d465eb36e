package node

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/mpctest"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
	"vault-plugin-secrets-mpc/mpc/verify"
)

func shareContext(i uint32, record *mpc.PublicRecord) hsm.Context {
	return hsm.ShareContext(uint8(i), record.Hash())
}

// signed checks every signature that nodes released.
func (g *rig) signed(a *account, ends map[uint32]ending) {
	g.t.Helper()
	for i, e := range ends {
		if e.outcome != nil && !verify.Signature(a.record.Algorithm, a.record.PublicKey, []byte("pay bob"), e.outcome.GetSignature()) {
			g.t.Errorf("node %d released a signature that does not verify", i)
		}
	}
}

// ended checks that every node said how its session ended, and blames nobody
// but culprit (0: nobody at all).
func (g *rig) ended(ends map[uint32]ending, culprit uint32) (finished int) {
	g.t.Helper()
	for i, e := range ends {
		switch {
		case e.outcome != nil && e.failure == nil && e.err == nil:
			finished++
		case e.failure != nil && e.outcome == nil && e.err == nil:
			if e.failure.GetText() == "" || e.failure.GetReason() == nodepb.Failure_UNKNOWN {
				g.t.Errorf("node %d does not say why it ended: %v", i, e.failure)
			}
			for _, c := range e.failure.GetCulprits() {
				if c != culprit {
					g.t.Errorf("node %d blames %d: %v", i, c, e.failure)
				}
			}
		default:
			g.t.Errorf("node %d: outcome %v, failure %v, error %v", i, e.outcome != nil, e.failure, e.err)
		}
	}
	return finished
}

// deliverAs wraps messages for a node.
func deliverAs(all ...*nodepb.Sealed) (out []*nodepb.SessionIn) {
	for _, m := range all {
		out = append(out, &nodepb.SessionIn{Kind: &nodepb.SessionIn_Message{Message: m}})
	}
	return out
}

// hurry is the limit of sessions that are going to wait for ever.
const hurry = 300 * time.Millisecond

// TestHostileRouter: whatever is done to sealed messages on their way, every
// node ends its session by its deadline, blames nobody, releases nothing bad,
// and works afterwards with the shares it had.
func TestHostileRouter(t *testing.T) {
	sealedAs := func(from, to uint32, body []byte) *nodepb.Sealed {
		return &nodepb.Sealed{From: from, To: to, Body: body}
	}
	flip := func(r *rand.Rand, b []byte) []byte {
		b = bytes.Clone(b)
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return b
	}
	var earlier []*nodepb.Sealed
	// finishes: honest nodes finish all the same.
	routes := map[string]struct {
		f        faults
		finishes bool
	}{
		"reorders":   {faults{}, true},
		"drops all":  {faults{limit: hurry, route: func(*rand.Rand, *nodepb.Sealed) []*nodepb.SessionIn { return nil }}, false},
		"drops most": {faults{limit: hurry, route: func(r *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn { return deliverAs(m)[:r.IntN(50)/49] }}, false},
		"flips a bit": {faults{limit: hurry, route: func(r *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
			return deliverAs(sealedAs(m.From, m.To, flip(r, m.Body)))
		}}, false},
		"truncates": {faults{limit: hurry, route: func(r *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
			return deliverAs(sealedAs(m.From, m.To, m.Body[:r.IntN(len(m.Body))]))
		}}, false},
		"repeats": {faults{limit: hurry, route: func(_ *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn { return deliverAs(m, m) }}, false},
		"forges senders": {faults{limit: hurry, route: func(_ *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
			return deliverAs(sealedAs(6-m.From-m.To, m.To, m.Body))
		}}, false},
		"forges impossible senders": {faults{limit: hurry, route: func(r *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
			return deliverAs(sealedAs([]uint32{0, 4, 17, 256 + m.From, 1 << 31}[r.IntN(5)], m.To, m.Body))
		}}, false},
		"swaps recipients": {faults{limit: hurry, route: func(_ *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
			return deliverAs(sealedAs(m.From, 6-m.From-m.To, m.Body))
		}}, false},
		"reflects": {faults{limit: hurry, route: func(_ *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
			return deliverAs(sealedAs(m.To, m.From, m.Body))
		}}, false},
		"replays another session": {faults{limit: hurry, route: func(_ *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
			k := slices.IndexFunc(earlier, func(o *nodepb.Sealed) bool { return o.To == m.To && o.From == m.From })
			if k < 0 {
				return nil
			}
			return deliverAs(earlier[k])
		}}, false},
		"sends nothing instead": {faults{limit: hurry, route: func(_ *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
			return deliverAs(sealedAs(m.From, m.To, nil))
		}}, false},
		"sends a megabyte": {faults{limit: hurry, route: func(_ *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
			return deliverAs(sealedAs(m.From, m.To, make([]byte, 1<<20)))
		}}, false},
		"sends empty frames": {faults{limit: hurry, route: func(*rand.Rand, *nodepb.Sealed) []*nodepb.SessionIn {
			return []*nodepb.SessionIn{{}}
		}}, false},
		"starts again": {faults{limit: hurry, route: func(*rand.Rand, *nodepb.Sealed) []*nodepb.SessionIn {
			return []*nodepb.SessionIn{{Kind: &nodepb.SessionIn_Start{Start: &nodepb.Start{}}}}
		}}, false},
		"introduces again": {faults{limit: hurry, route: func(*rand.Rand, *nodepb.Sealed) []*nodepb.SessionIn {
			return []*nodepb.SessionIn{{Kind: &nodepb.SessionIn_Hellos{Hellos: &nodepb.Hellos{}}}}
		}}, false},
		"no hellos":   {faults{limit: hurry, hellos: func(_ uint32, h *nodepb.Hellos) { h.Hellos = nil }}, false},
		"a nil hello": {faults{limit: hurry, hellos: func(_ uint32, h *nodepb.Hellos) { h.Hellos[0] = nil }}, false},
		"hello cut": {faults{limit: hurry, hellos: func(_ uint32, h *nodepb.Hellos) {
			h.Hellos[0] = &nodepb.Hello{Index: h.Hellos[0].Index, Nonce: h.Hellos[0].Nonce[1:]}
		}}, false},
		"hellos moved": {faults{limit: hurry, hellos: func(_ uint32, h *nodepb.Hellos) {
			moved := &nodepb.Hellos{}
			for _, x := range h.Hellos {
				moved.Hellos = append(moved.Hellos, &nodepb.Hello{Index: x.Index%3 + 1, Nonce: x.Nonce, Ephemeral: x.Ephemeral, Signature: x.Signature})
			}
			h.Hellos = moved.Hellos
		}}, false},
	}
	g := newRig(t)
	a := g.newAccount(mpc.BIP340Secp256k1)
	g.run(g.refresh(a), a, faults{route: func(_ *rand.Rand, m *nodepb.Sealed) []*nodepb.SessionIn {
		earlier = append(earlier, m)
		return deliverAs(m)
	}})
	for name, c := range routes {
		for _, op := range []string{opKeygen, opRefresh, opSign} {
			t.Run(name+"/"+op, func(t *testing.T) {
				g.t = t
				before := baseline()
				for seed := range uint64(2) {
					c.f.seed = seed
					start, old := g.keygen(mpc.Ed25519), (*account)(nil)
					switch op {
					case opRefresh:
						start, old = g.refresh(a), a
					case opSign:
						start, old = g.sign(a, 1, 3), a
					}
					ends := g.run(start, old, c.f)
					finished := g.ended(ends, 0)
					if (finished == len(ends)) != c.finishes {
						t.Errorf("%d of %d nodes finished", finished, len(ends))
					}
					if op == opSign {
						g.signed(a, ends)
					} else if _, err := g.agreed(ends, old); err != nil {
						t.Error(err)
					}
				}
				g.usable(a)
				quiet(t, before)
			})
		}
	}
}

// cheats are what a member that seals correctly can do. Those that the others
// see at once must get it named.
func cheats() map[string]struct {
	tamper func(r *rand.Rand, to mpc.Index, m *mpc.Message, body []byte) [][]byte
	named  bool
} {
	type entry = struct {
		tamper func(r *rand.Rand, to mpc.Index, m *mpc.Message, body []byte) [][]byte
		named  bool
	}
	replace := func(f func(body []byte) []byte) func(*rand.Rand, mpc.Index, *mpc.Message, []byte) [][]byte {
		return func(_ *rand.Rand, _ mpc.Index, _ *mpc.Message, body []byte) [][]byte {
			return [][]byte{f(bytes.Clone(body))}
		}
	}
	confirm := func(f func(to mpc.Index, body []byte) [][]byte) func(*rand.Rand, mpc.Index, *mpc.Message, []byte) [][]byte {
		return func(_ *rand.Rand, to mpc.Index, m *mpc.Message, body []byte) [][]byte {
			if m != nil {
				return [][]byte{body}
			}
			return f(to, body)
		}
	}
	return map[string]entry{
		"honest":        {replace(func(b []byte) []byte { return b }), false},
		"empty bodies":  {replace(func([]byte) []byte { return nil }), true},
		"unknown kind":  {replace(func(b []byte) []byte { b[0] = 9; return b }), true},
		"unknown flags": {replace(func(b []byte) []byte { b[2] = 0xff; return b }), true},
		"short header":  {replace(func(b []byte) []byte { return b[:20] }), true},
		"echo length":   {replace(func(b []byte) []byte { b[min(35, len(b)-1)] = 63; return b }), true},
		"longest body":  {replace(func(b []byte) []byte { return append(b, make([]byte, mpc.MaxMessageSize)...) }), true},
		"silence":       {func(*rand.Rand, mpc.Index, *mpc.Message, []byte) [][]byte { return nil }, false},
		"silence to one": {func(_ *rand.Rand, to mpc.Index, _ *mpc.Message, b []byte) [][]byte {
			return slices.Repeat([][]byte{b}, int(to)%2)
		}, false},
		"everything 60 ×": {func(_ *rand.Rand, _ mpc.Index, _ *mpc.Message, b []byte) [][]byte {
			return slices.Repeat([][]byte{b}, 15)
		}, false},
		"confirms another record": {confirm(func(_ mpc.Index, b []byte) [][]byte {
			return [][]byte{session.EncodeConfirm([32]byte{1})}
		}), false},
		"confirms to one only": {confirm(func(to mpc.Index, b []byte) [][]byte {
			if to == 1 {
				return nil
			}
			return [][]byte{b}
		}), false},
		"confirms to one falsely": {confirm(func(to mpc.Index, b []byte) [][]byte {
			if to == 1 {
				return [][]byte{session.EncodeConfirm([32]byte{2})}
			}
			return [][]byte{b}
		}), false},
		"confirms twice, the second time falsely": {confirm(func(_ mpc.Index, b []byte) [][]byte {
			return [][]byte{b, session.EncodeConfirm([32]byte{3})}
		}), false},
		"confirms before the end": {func(_ *rand.Rand, _ mpc.Index, m *mpc.Message, b []byte) [][]byte {
			if m != nil && m.Round == 2 {
				return [][]byte{session.EncodeConfirm([32]byte{}), b}
			}
			return [][]byte{b}
		}, false},
		"confirms instead of its last messages": {func(_ *rand.Rand, _ mpc.Index, m *mpc.Message, b []byte) [][]byte {
			if m != nil && m.Round == 3 {
				return [][]byte{session.EncodeConfirm([32]byte{4})}
			}
			return [][]byte{b}
		}, false},
	}
}

// TestHostileMember: one member of three cheats in its own name.
func TestHostileMember(t *testing.T) {
	g := newRig(t)
	a := g.newAccount(mpc.BIP340Secp256k1)
	run := func(t *testing.T, op string, seed uint64, limit time.Duration, c *cheat) (ends map[uint32]ending, finished int) {
		start, old := g.keygen(mpc.Ed25519), (*account)(nil)
		switch op {
		case opRefresh:
			start, old = g.refresh(a), a
		case opSign:
			start, old = g.sign(a, 1, c.index), a
		}
		ends = g.run(start, old, faults{seed: seed, limit: limit, cheat: c})
		finished = g.ended(ends, c.index)
		if op == opSign {
			g.signed(a, ends)
		} else if _, err := g.agreed(ends, old); err != nil {
			t.Error(err)
		}
		return ends, finished
	}
	for name, c := range cheats() {
		for _, op := range []string{opKeygen, opRefresh, opSign} {
			t.Run(name+"/"+op, func(t *testing.T) {
				g.t = t
				before := baseline()
				limit := hurry
				if c.named || name == "honest" {
					limit = 0 // ends by itself
				}
				ends, finished := run(t, op, 1, limit, &cheat{index: 2, tamper: c.tamper})
				if c.named {
					if finished > 0 {
						t.Errorf("%d nodes finished", finished)
					}
					for i, e := range ends {
						if !slices.Equal(e.failure.GetCulprits(), []uint32{2}) {
							t.Errorf("node %d does not name the cheater: %v", i, e.failure)
						}
					}
				}
				// What nobody has confirmed to a node truly, it must not release.
				for _, i := range map[string][]uint32{"confirms another record": {1, 3}, "confirms to one only": {1},
					"confirms to one falsely": {1}, "confirms instead of its last messages": {1, 3}, "silence": {1, 3}}[name] {
					if e, there := ends[i]; there && e.outcome != nil && (op != opSign || name == "silence") {
						t.Errorf("node %d finished", i)
					}
				}
				if name == "honest" && finished != len(ends) {
					t.Errorf("%d nodes finished: %v", finished, ends)
				}
				g.usable(a)
				quiet(t, before)
			})
		}
	}
	// Every fault of mpctest at a random message: through a node's session.
	for _, op := range []string{opKeygen, opRefresh, opSign} {
		t.Run("any fault/"+op, func(t *testing.T) {
			g.t = t
			before := baseline()
			for k, f := range mpctest.Faults() {
				if f.Name == "dropped" || f.Name == "delayed" {
					continue // the router's
				}
				r := rand.New(rand.NewPCG(uint64(k), 1))
				at := r.IntN(4)
				_, _ = run(t, op, uint64(k), hurry, &cheat{index: 2 + uint32(k)%2, tamper: func(r *rand.Rand, to mpc.Index, m *mpc.Message, body []byte) [][]byte {
					if at--; m == nil || at >= 0 {
						return [][]byte{body}
					}
					instead, ok := f.Apply(&mpctest.Cheat{Random: r}, mpctest.Packet{To: to, Message: *m})
					if !ok {
						return [][]byte{body}
					}
					var out [][]byte
					for _, p := range instead {
						b, err := session.EncodeProtocol(p.Message)
						if err != nil {
							b = append(body, p.Message.Data...) // too long to encode: send it all the same
						}
						out = append(out, b)
					}
					return out
				}})
				if t.Failed() {
					t.Fatal(f.Name)
				}
			}
			g.usable(a)
			quiet(t, before)
		})
	}
}

// TestRefreshInBetween: a cheater that lets one node finish a refresh and not the
// other leaves the old epoch usable by everybody, and the new one by nobody that
// did not finish.
func TestRefreshInBetween(t *testing.T) {
	g := newRig(t)
	a := g.newAccount(mpc.Ed25519)
	ends := g.run(g.refresh(a), a, faults{limit: 3 * time.Second, cheat: &cheat{index: 2, tamper: func(_ *rand.Rand, to mpc.Index, m *mpc.Message, body []byte) [][]byte {
		if m == nil && to == 1 {
			return nil
		}
		return [][]byte{body}
	}}})
	if ends[1].failure == nil || ends[3].outcome == nil {
		t.Fatalf("%v", ends)
	}
	half, err := g.agreed(ends, a)
	if err != nil || len(half.envelopes) != 1 {
		t.Fatal(err)
	}
	g.usable(a)
	// Shares of the two epochs do not work together, whoever offers them.
	for name, mixed := range map[string]*account{
		"new record": {half.record, map[uint32][]byte{1: a.envelopes[1], 3: half.envelopes[3]}},
		"old record": {a.record, map[uint32][]byte{1: a.envelopes[1], 3: half.envelopes[3]}},
	} {
		ends := g.run(g.sign(mixed, 1, 3), mixed, faults{limit: hurry})
		if finished := g.ended(ends, 0); finished > 0 {
			t.Errorf("%s: %d nodes signed", name, finished)
		}
	}
	next := g.mustFinish(g.refresh(a), a)
	g.usable(next)
}

// TestEquivocation: a member that tells one peer something else than the other, as
// a coordinator can with a node of its own, gets no key out of it, wherever in a
// broadcast the difference is.
func TestEquivocation(t *testing.T) {
	g := newRig(t)
	a := g.newAccount(mpc.BIP340Secp256k1)
	for _, op := range []string{opKeygen, opRefresh} {
		told := 0
		for seed := range uint64(6) {
			start, old := g.keygen(mpc.BIP340Secp256k1), (*account)(nil)
			if op == opRefresh {
				start, old = g.refresh(a), a
			}
			ends := g.run(start, old, faults{seed: seed, limit: 2 * time.Second, cheat: &cheat{index: 2, tamper: func(_ *rand.Rand, to mpc.Index, m *mpc.Message, body []byte) [][]byte {
				if m == nil || !m.Broadcast || to != 3 || len(m.Data) == 0 {
					return [][]byte{body}
				}
				other := *m
				other.Data = bytes.Clone(m.Data)
				other.Data[len(other.Data)-1-int(seed)*len(other.Data)/8] ^= 1
				b, err := session.EncodeProtocol(other)
				if err != nil {
					t.Error(err)
				}
				told++
				return [][]byte{b}
			}}})
			if finished := g.ended(ends, 2); finished > 0 {
				t.Errorf("%s: %d nodes finished with a member that told them different things", op, finished)
			}
		}
		if told == 0 {
			t.Errorf("%s: nobody was told anything else", op)
		}
	}
	g.usable(a)
}
