package curve

import (
	"math/bits"

	"github.com/cronokirby/saferith"
)

// index marks a scalar that is a share index, 1 to 255: its value, or 0 in
// every other scalar. Points are multiplied by indices when a polynomial in the
// exponent is evaluated, a handful of additions instead of 256 doublings.
//
// Indices are public and may be branched on; secret scalars may not, not even
// to see that they are small. So the mark does not depend on a scalar's value:
// only SetNat sets it, by the announced length of what it is given, which
// saferith's contract makes public. The library announces an index with the
// one byte of its party ID, and nothing else with less than a scalar's length.
// Every operation that changes a scalar takes the mark away.
type index uint8

// indexOf returns x if it was announced with at most 8 bits, and else 0.
func indexOf(x *saferith.Nat) index {
	if x.AnnouncedLen() > 8 {
		return 0
	}
	var b [1]byte
	x.FillBytes(b[:])
	return index(b[0])
}

// adder is a point of one of our groups. Add sets its receiver to p + q and
// returns it; it takes equal points, opposite ones and the identity, too.
type adder[P any] interface{ Add(p, q P) P }

// multiple sets q, which is a copy of p, to n · p for n > 0 by doubling and
// adding, and returns it. It branches on n alone.
func multiple[P adder[P]](q, p P, n index) P {
	for bit := bits.Len8(uint8(n)) - 2; bit >= 0; bit-- {
		q.Add(q, q)
		if n>>bit&1 == 1 {
			q.Add(q, p)
		}
	}
	return q
}
