package mpctest

import (
	"bytes"
	"math/rand/v2"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
)

// Expectation is what a fault on one message must lead to at its receiver.
type Expectation int

const (
	// Ignored: every party finishes.
	Ignored Expectation = iota
	// Noticed: the receiver must not finish, at once or when echoes are
	// compared.
	Noticed
	// Named: the receiver must end with an error that names the sender.
	Named
)

// Fault is one way to treat a message of the hostile party.
type Fault struct {
	Name   string
	Expect Expectation
	// Apply returns what arrives instead of the message, nil for nothing, and
	// false if the fault cannot be made from this message.
	Apply func(c *Cheat, p Packet) (instead []Packet, ok bool)
}

// Cheat is what the hostile party knows when it applies a fault.
type Cheat struct {
	Random *rand.Rand
	// Twin is what a second run of the hostile party sends at the same place of
	// this session: valid by itself, but not what others are told.
	Twin *mpc.Message
	// Other holds what the hostile party sent in an earlier session of the same
	// parties, Own what it has sent in this one so far.
	Other, Own []mpc.Message
}

// change makes a fault that replaces the message.
func change(name string, e Expectation, f func(c *Cheat, m *mpc.Message) bool) Fault {
	return Fault{name, e, func(c *Cheat, p Packet) ([]Packet, bool) {
		p.Message = clone(p.Message)
		if !f(c, &p.Message) {
			return nil, false
		}
		return []Packet{p}, true
	}}
}

// always is change for what can be done to any message.
func always(name string, e Expectation, f func(m *mpc.Message)) Fault {
	return change(name, e, func(_ *Cheat, m *mpc.Message) bool { f(m); return true })
}

// Faults are those that any message can suffer. What is inside a message is
// FieldFaults' concern.
func Faults() []Fault {
	return slices.Concat(delivery(), header(), content(), otherRuns())
}

func delivery() []Fault {
	return []Fault{
		{"dropped", Noticed, func(*Cheat, Packet) ([]Packet, bool) { return nil, true }},
		{"duplicated", Ignored, func(_ *Cheat, p Packet) ([]Packet, bool) { return []Packet{p, p, p}, true }},
		{"delayed", Ignored, func(_ *Cheat, p Packet) ([]Packet, bool) { p.Late = true; return []Packet{p}, true }},
		{"corrected later", Named, func(_ *Cheat, p Packet) ([]Packet, bool) {
			bad := p
			bad.Message = clone(p.Message)
			bad.Message.Data = bad.Message.Data[1:]
			return []Packet{bad, p}, true
		}},
	}
}

func header() []Fault {
	return []Fault{
		always("round 0", Named, func(m *mpc.Message) { m.Round = 0 }),
		always("next round", Named, func(m *mpc.Message) { m.Round++ }),
		always("round of aborts", Named, func(m *mpc.Message) { m.Round += 6 }),
		always("round 255", Named, func(m *mpc.Message) { m.Round = 255 }),
		always("other transcript", Named, func(m *mpc.Message) { m.Transcript[31] ^= 1 }),
		always("no transcript", Named, func(m *mpc.Message) { m.Transcript = [32]byte{} }),
		always("to nobody or somebody", Named, func(m *mpc.Message) {
			if m.Broadcast {
				m.To = 1
			} else {
				m.To = 0
			}
		}),
		always("to itself", Named, func(m *mpc.Message) { m.To = m.From }),
		always("broadcast or not", Named, func(m *mpc.Message) { m.Broadcast = !m.Broadcast }),
		always("short echo", Named, func(m *mpc.Message) { m.Echo = []byte{1} }),
		always("huge echo", Named, func(m *mpc.Message) { m.Echo = make([]byte, 1<<16) }),
		change("false echo", Noticed, func(_ *Cheat, m *mpc.Message) bool {
			if len(m.Echo) == 0 {
				return false
			}
			m.Echo[63] ^= 1
			return true
		}),
		change("no echo", Noticed, func(_ *Cheat, m *mpc.Message) bool {
			had := len(m.Echo) > 0
			m.Echo = nil
			return had
		}),
	}
}

func content() []Fault {
	return []Fault{
		always("no data", Named, func(m *mpc.Message) { m.Data = nil }),
		always("one byte", Named, func(m *mpc.Message) { m.Data = m.Data[:1] }),
		always("half", Named, func(m *mpc.Message) { m.Data = m.Data[:len(m.Data)/2] }),
		always("a byte less", Named, func(m *mpc.Message) { m.Data = m.Data[:len(m.Data)-1] }),
		always("a byte more", Named, func(m *mpc.Message) { m.Data = append(m.Data, 0) }),
		always("twice", Named, func(m *mpc.Message) { m.Data = append(m.Data, m.Data...) }),
		always("zeros", Noticed, func(m *mpc.Message) { clear(m.Data) }),
		always("ones", Noticed, func(m *mpc.Message) {
			for k := range m.Data {
				m.Data[k] = 0xff
			}
		}),
		always("oversized", Named, func(m *mpc.Message) { m.Data = make([]byte, mpc.MaxMessageSize+1) }),
		always("largest", Named, func(m *mpc.Message) { m.Data = make([]byte, mpc.MaxMessageSize) }),
		// CBOR headers that promise 2³²−16 or more items or bytes.
		always("huge string", Named, func(m *mpc.Message) { m.Data = []byte("\x5a\xff\xff\xff\xf0\x00") }),
		always("huge array", Named, func(m *mpc.Message) { m.Data = []byte("\x9a\xff\xff\xff\xf0\x00") }),
		always("huge map", Named, func(m *mpc.Message) { m.Data = []byte("\xba\xff\xff\xff\xf0\x00") }),
		always("endless map", Named, func(m *mpc.Message) { m.Data = []byte("\xbf\x61a\x40") }),
		always("deep nesting", Named, func(m *mpc.Message) { m.Data = bytes.Repeat([]byte{0x81}, 1<<16) }),
		change("flipped bit", Noticed, func(c *Cheat, m *mpc.Message) bool {
			m.Data[c.Random.IntN(len(m.Data))] ^= 1 << c.Random.IntN(8)
			return true
		}),
		change("noise", Noticed, func(c *Cheat, m *mpc.Message) bool {
			for k := range m.Data {
				m.Data[k] = byte(c.Random.Uint32())
			}
			return true
		}),
	}
}

func otherRuns() []Fault {
	find := func(all []mpc.Message, m *mpc.Message) *mpc.Message {
		for k := range all {
			if placeOf(all[k]) == placeOf(*m) {
				return &all[k]
			}
		}
		return nil
	}
	return []Fault{
		change("of another session", Named, func(c *Cheat, m *mpc.Message) bool {
			old := find(c.Other, m)
			if old != nil {
				*m = clone(*old)
			}
			return old != nil
		}),
		// The data of another session is valid by itself: whether it fits is
		// seen at once, or when the echoes are compared.
		change("data of another session", Noticed, func(c *Cheat, m *mpc.Message) bool {
			old := find(c.Other, m)
			if old == nil || bytes.Equal(old.Data, m.Data) {
				return false
			}
			m.Data = bytes.Clone(old.Data)
			return true
		}),
		change("data of another round", Named, func(c *Cheat, m *mpc.Message) bool {
			for _, own := range c.Own {
				if own.Round != m.Round || own.Broadcast != m.Broadcast {
					m.Data = bytes.Clone(own.Data)
					return true
				}
			}
			return false
		}),
		change("equivocation", Noticed, func(c *Cheat, m *mpc.Message) bool {
			if c.Twin == nil || bytes.Equal(c.Twin.Data, m.Data) {
				return false
			}
			m.Data = bytes.Clone(c.Twin.Data)
			return true
		}),
	}
}
