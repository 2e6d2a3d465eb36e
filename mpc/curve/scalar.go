package curve

import (
	"fmt"
	"io"
	"math/bits"
	"slices"

	"github.com/cronokirby/saferith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
)

// redacted is how a scalar prints, with every verb: the library formats what it
// was given into panics.
const redacted = "[scalar]"

func printRedacted(f fmt.State) { _, _ = io.WriteString(f, redacted) }

// reduce returns x modulo m as 32 bytes, big-endian, in constant time but for
// the announced length of x. m has at most 256 bits.
func reduce(x *saferith.Nat, m *saferith.Modulus) (out [ScalarSize]byte) {
	new(saferith.Nat).Mod(x, m).FillBytes(out[:])
	return out
}

// reversed turns big-endian into little-endian and back.
func reversed(b [ScalarSize]byte) [ScalarSize]byte {
	slices.Reverse(b[:])
	return b
}

// greater compares two big-endian numbers in constant time.
func greater(a, b *[ScalarSize]byte) bool {
	var borrow uint64 // of b − a, from the lowest byte up
	for i := ScalarSize - 1; i >= 0; i-- {
		_, borrow = bits.Sub64(uint64(b[i]), uint64(a[i]), borrow)
	}
	return borrow == 1
}

// mismatch is the panic for an element of another group. The library's
// interfaces leave no other way, and callers recover (mpc/handler). It names
// types only.
func mismatch(want, got any) string {
	return fmt.Sprintf("curve: %T where a %T is needed", got, want)
}

// Both groups implement the library's interfaces.
var (
	_ libcurve.Curve  = P256{}
	_ libcurve.Scalar = (*P256Scalar)(nil)
	_ libcurve.Point  = (*P256Point)(nil)
	_ libcurve.Curve  = Edwards25519{}
	_ libcurve.Scalar = (*Edwards25519Scalar)(nil)
	_ libcurve.Point  = (*Edwards25519Point)(nil)
)
