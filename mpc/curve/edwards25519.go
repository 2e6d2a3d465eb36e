package curve

import (
	"filippo.io/edwards25519"
	"github.com/cronokirby/saferith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
)

const edwards25519Name = "edwards25519"

// Edwards25519 is the subgroup of prime order ℓ = 2²⁵² + 2774…8493 of
// edwards25519 (RFC 8032, section 5.1). The whole curve has 8ℓ points; the
// decoder refuses those outside the subgroup.
type Edwards25519 struct{}

// NewPoint returns the identity.
func (Edwards25519) NewPoint() libcurve.Point { return new(Edwards25519Point) }

// NewBasePoint returns the generator B.
func (Edwards25519) NewBasePoint() libcurve.Point {
	return &Edwards25519Point{edwards25519.NewGeneratorPoint()}
}

// NewScalar returns 0.
func (Edwards25519) NewScalar() libcurve.Scalar { return new(Edwards25519Scalar) }

// Name returns "edwards25519".
func (Edwards25519) Name() string { return edwards25519Name }

// ScalarBits returns the length of the order in bits.
func (Edwards25519) ScalarBits() int { return 253 }

// SafeScalarBytes returns 64, as RFC 8032 reduces 64-byte hashes.
func (Edwards25519) SafeScalarBytes() int { return 64 }

// Order returns ℓ.
func (Edwards25519) Order() *saferith.Modulus { return edwards25519Order }

// Edwards25519Point is a point. It is immutable but for UnmarshalBinary; the
// zero value is the identity.
type Edwards25519Point struct {
	p *edwards25519.Point // nil: the identity
}

func edwards25519Point(p libcurve.Point) *edwards25519.Point {
	q, ok := p.(*Edwards25519Point)
	if !ok {
		panic(mismatch((*Edwards25519Point)(nil), p))
	}
	return q.value()
}

func (p *Edwards25519Point) value() *edwards25519.Point {
	if p.p == nil {
		return edwards25519.NewIdentityPoint()
	}
	return p.p
}

// Curve returns Edwards25519{}.
func (*Edwards25519Point) Curve() libcurve.Curve { return Edwards25519{} }

// MarshalBinary writes 32 bytes as in RFC 8032, section 5.1.2; also for the
// identity, whose encoding no decoder takes.
func (p *Edwards25519Point) MarshalBinary() ([]byte, error) { return p.value().Bytes(), nil }

// UnmarshalBinary reads 32 bytes as ParseEdwards25519 does. After an error p is
// unchanged.
func (p *Edwards25519Point) UnmarshalBinary(b []byte) error {
	q, err := ParseEdwards25519(b)
	if err != nil {
		return err
	}
	p.p = q
	return nil
}

// ParseEdwards25519 reads a point of order ℓ for code that works on
// edwards25519 directly. It refuses y ≥ 2²⁵⁵ − 19, a sign bit on x = 0, the
// identity, and every point with a small-order component. Not constant time:
// points that arrive in messages and records are public.
func ParseEdwards25519(b []byte) (*edwards25519.Point, error) {
	p, err := ParseVouchedEdwards25519(b)
	if err != nil {
		return nil, err
	}
	// ℓ·P = 0 written as (ℓ − 1)·P = −P, since ℓ itself is no scalar. For the
	// multiplication the scalar is the integer ℓ − 1, whatever the order of P.
	q := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(edwards25519MinusOne, p, new(edwards25519.Scalar))
	if q.Add(q, p).Equal(edwards25519.NewIdentityPoint()) != 1 {
		return nil, ErrPoint
	}
	return p, nil
}

// ParseVouchedEdwards25519 is ParseEdwards25519 without its last check, which
// is nine tenths of the work: the point may have a small-order component. It is
// for bytes of which somebody trusted has found before that they have none, and
// that are authenticated since. Whoever calls it says who that was.
func ParseVouchedEdwards25519(b []byte) (*edwards25519.Point, error) {
	if len(b) != 32 || !edwards25519Reduced([32]byte(b)) {
		return nil, ErrPoint
	}
	p, err := new(edwards25519.Point).SetBytes(b)
	if err != nil {
		return nil, ErrPoint
	}
	return p, nil
}

// edwards25519Reduced refuses what SetBytes takes for compatibility with
// crypto/ed25519 (y ≥ p = 2²⁵⁵ − 19, and a sign on x = 0), and the identity.
// x is 0 for y = 1, the identity, and for y = p − 1, the point of order 2, and
// for no other; neither is in the group, whatever its sign. What is left has
// one encoding for every point. b is little-endian, the sign in the top bit.
func edwards25519Reduced(b [32]byte) bool {
	b[31] &= 0x7f
	if b == [32]byte{1} {
		return false
	}
	if b[0] < 0xec || b[31] != 0x7f {
		return true
	}
	for _, x := range b[1:31] {
		if x != 0xff {
			return true
		}
	}
	return false // y ≥ p − 1
}

// Add returns p + q.
func (p *Edwards25519Point) Add(q libcurve.Point) libcurve.Point {
	return &Edwards25519Point{new(edwards25519.Point).Add(p.value(), edwards25519Point(q))}
}

// Sub returns p − q.
func (p *Edwards25519Point) Sub(q libcurve.Point) libcurve.Point {
	return &Edwards25519Point{new(edwards25519.Point).Subtract(p.value(), edwards25519Point(q))}
}

// Negate returns −p.
func (p *Edwards25519Point) Negate() libcurve.Point {
	return &Edwards25519Point{new(edwards25519.Point).Negate(p.value())}
}

// Equal compares in constant time.
func (p *Edwards25519Point) Equal(q libcurve.Point) bool {
	return p.value().Equal(edwards25519Point(q)) == 1
}

// IsIdentity reports whether p is the identity; a nil p is.
func (p *Edwards25519Point) IsIdentity() bool {
	return p == nil || p.value().Equal(edwards25519.NewIdentityPoint()) == 1
}

// XScalar returns nil, as the interface allows: only ECDSA needs it.
func (*Edwards25519Point) XScalar() libcurve.Scalar { return nil }
