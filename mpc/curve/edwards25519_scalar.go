package curve

import (
	"fmt"

	"filippo.io/edwards25519"
	"github.com/cronokirby/saferith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
)

// Constants derived from the order; nothing writes to them.
var (
	edwards25519MinusOne = new(edwards25519.Scalar).Negate(edwards25519One())      // ℓ − 1
	edwards25519Order    = saferith.ModulusFromBytes(edwards25519OrderBytes())     // ℓ
	edwards25519Half     = halve(reversed([32]byte(edwards25519MinusOne.Bytes()))) // (ℓ − 1) / 2
)

func edwards25519One() *edwards25519.Scalar {
	one, err := new(edwards25519.Scalar).SetCanonicalBytes(append([]byte{1}, make([]byte, 31)...))
	if err != nil {
		panic("curve: 1 is not a scalar")
	}
	return one
}

// edwards25519OrderBytes returns ℓ, big-endian. ℓ is odd, so that adding 1 to
// ℓ − 1 carries nothing.
func edwards25519OrderBytes() []byte {
	b := reversed([32]byte(edwards25519MinusOne.Bytes()))
	b[31]++
	return b[:]
}

// Edwards25519Scalar is a number modulo ℓ. The zero value is 0. Its encoding is
// big-endian as the protocol library wants it, the reverse of RFC 8032's.
type Edwards25519Scalar struct {
	s     edwards25519.Scalar
	small index // the same number, if it is a share index
}

func edwards25519Scalar(s libcurve.Scalar) *edwards25519.Scalar {
	x, ok := s.(*Edwards25519Scalar)
	if !ok {
		panic(mismatch((*Edwards25519Scalar)(nil), s))
	}
	return &x.s
}

// changing returns the number to whoever is about to change it: what comes out
// of a computation is no index.
func (s *Edwards25519Scalar) changing() *edwards25519.Scalar {
	s.small = 0
	return &s.s
}

// Format implements fmt.Formatter and shows nothing.
func (s *Edwards25519Scalar) Format(f fmt.State, _ rune) { printRedacted(f) }

// Value returns a copy for code that works on edwards25519 directly.
func (s *Edwards25519Scalar) Value() *edwards25519.Scalar { return new(edwards25519.Scalar).Set(&s.s) }

// Curve returns Edwards25519{}.
func (*Edwards25519Scalar) Curve() libcurve.Curve { return Edwards25519{} }

// MarshalBinary writes 32 bytes, big-endian.
func (s *Edwards25519Scalar) MarshalBinary() ([]byte, error) {
	b := reversed([32]byte(s.s.Bytes()))
	return b[:], nil
}

// UnmarshalBinary reads 32 bytes, big-endian, below ℓ; 0 is allowed. After an
// error s is unchanged.
func (s *Edwards25519Scalar) UnmarshalBinary(b []byte) error {
	if len(b) != ScalarSize {
		return ErrScalar
	}
	little := reversed([32]byte(b))
	defer clear(little[:])
	if _, err := s.s.SetCanonicalBytes(little[:]); err != nil {
		return ErrScalar
	}
	s.small = 0
	return nil
}

// Add sets s to s + t and returns it.
func (s *Edwards25519Scalar) Add(t libcurve.Scalar) libcurve.Scalar {
	s.changing().Add(&s.s, edwards25519Scalar(t))
	return s
}

// Sub sets s to s − t and returns it.
func (s *Edwards25519Scalar) Sub(t libcurve.Scalar) libcurve.Scalar {
	s.changing().Subtract(&s.s, edwards25519Scalar(t))
	return s
}

// Negate sets s to −s and returns it.
func (s *Edwards25519Scalar) Negate() libcurve.Scalar {
	s.changing().Negate(&s.s)
	return s
}

// Mul sets s to s · t and returns it.
func (s *Edwards25519Scalar) Mul(t libcurve.Scalar) libcurve.Scalar {
	s.changing().Multiply(&s.s, edwards25519Scalar(t))
	return s
}

// Invert sets s to s⁻¹ and returns it; 0 stays 0.
func (s *Edwards25519Scalar) Invert() libcurve.Scalar {
	s.changing().Invert(&s.s)
	return s
}

// Equal compares in constant time.
func (s *Edwards25519Scalar) Equal(t libcurve.Scalar) bool {
	return s.s.Equal(edwards25519Scalar(t)) == 1
}

// IsZero compares in constant time.
func (s *Edwards25519Scalar) IsZero() bool { return s.s.Equal(new(edwards25519.Scalar)) == 1 }

// Set sets s to t and returns it.
func (s *Edwards25519Scalar) Set(t libcurve.Scalar) libcurve.Scalar {
	s.changing().Set(edwards25519Scalar(t))
	return s
}

// SetNat sets s to x modulo ℓ and returns it. An x of at most 8 announced bits
// is a share index (see index).
func (s *Edwards25519Scalar) SetNat(x *saferith.Nat) libcurve.Scalar {
	b := reduce(x, edwards25519Order)
	if err := s.UnmarshalBinary(b[:]); err != nil {
		panic("curve: a number modulo the order is not below it")
	}
	clear(b[:])
	s.small = indexOf(x)
	return s
}

// Act returns s · P, for P of order ℓ. For a share index it is quick and takes
// a time that depends on the index, which is public, and on nothing else.
func (s *Edwards25519Scalar) Act(p libcurve.Point) libcurve.Point {
	if s.small != 0 {
		q := edwards25519Point(p)
		return &Edwards25519Point{multiple(new(edwards25519.Point).Set(q), q, s.small)}
	}
	return &Edwards25519Point{new(edwards25519.Point).ScalarMult(&s.s, edwards25519Point(p))}
}

// ActOnBase returns s · B.
func (s *Edwards25519Scalar) ActOnBase() libcurve.Point {
	return &Edwards25519Point{new(edwards25519.Point).ScalarBaseMult(&s.s)}
}

// IsOverHalfOrder reports whether s > (ℓ − 1) / 2.
func (s *Edwards25519Scalar) IsOverHalfOrder() bool {
	b := reversed([32]byte(s.s.Bytes()))
	defer clear(b[:])
	return greater(&b, &edwards25519Half)
}
