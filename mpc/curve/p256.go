package curve

import (
	"errors"

	"filippo.io/nistec"
	"github.com/cronokirby/saferith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
)

const p256Name = "P-256"

// P256 is the group of NIST P-256 (FIPS 186, secp256r1). Its cofactor is 1.
type P256 struct{}

// NewPoint returns the identity.
func (P256) NewPoint() libcurve.Point { return new(P256Point) }

// NewBasePoint returns the generator G.
func (P256) NewBasePoint() libcurve.Point {
	return &P256Point{nistec.NewP256Point().SetGenerator()}
}

// NewScalar returns 0.
func (P256) NewScalar() libcurve.Scalar { return new(P256Scalar) }

// Name returns "P-256".
func (P256) Name() string { return p256Name }

// ScalarBits returns the length of the order in bits.
func (P256) ScalarBits() int { return 256 }

// SafeScalarBytes returns 48: a random number of 384 bits modulo the order,
// which is 2²⁵⁶ − 2²²⁴ + …, is within 2⁻¹²⁸ of uniform. With 32 bytes it would
// be biased by 2⁻³², enough to lose ECDSA keys to lattice attacks.
func (P256) SafeScalarBytes() int { return 48 }

// Order returns n.
func (P256) Order() *saferith.Modulus { return p256Order }

// P256Point is a point. It is immutable but for UnmarshalBinary; the zero value
// is the identity.
type P256Point struct {
	p *nistec.P256Point // nil: the identity
}

func p256Point(p libcurve.Point) *nistec.P256Point {
	q, ok := p.(*P256Point)
	if !ok {
		panic(mismatch((*P256Point)(nil), p))
	}
	return q.value()
}

func (p *P256Point) value() *nistec.P256Point {
	if p.p == nil {
		return nistec.NewP256Point()
	}
	return p.p
}

// Curve returns P256{}.
func (*P256Point) Curve() libcurve.Curve { return P256{} }

// MarshalBinary writes SEC 1 compressed, 33 bytes. The identity becomes 33
// zeros, so that a transcript never misses it; no decoder takes that.
func (p *P256Point) MarshalBinary() ([]byte, error) {
	if p.IsIdentity() {
		return make([]byte, 33), nil
	}
	return p.value().BytesCompressed(), nil
}

// UnmarshalBinary reads SEC 1 compressed, 33 bytes: x below the field's prime,
// on the curve, not the identity. After an error p is unchanged.
func (p *P256Point) UnmarshalBinary(b []byte) error {
	if len(b) != 33 {
		return ErrPoint
	}
	q, err := nistec.NewP256Point().SetBytes(b)
	if err != nil || q.IsInfinity() == 1 {
		return ErrPoint
	}
	p.p = q
	return nil
}

// Add returns p + q.
func (p *P256Point) Add(q libcurve.Point) libcurve.Point {
	return &P256Point{nistec.NewP256Point().Add(p.value(), p256Point(q))}
}

// Sub returns p − q.
func (p *P256Point) Sub(q libcurve.Point) libcurve.Point { return p.Add(q.Negate()) }

// Negate returns −p.
func (p *P256Point) Negate() libcurve.Point {
	return &P256Point{nistec.NewP256Point().Negate(p.value())}
}

// Equal compares in constant time.
func (p *P256Point) Equal(q libcurve.Point) bool { return p.value().Equal(p256Point(q)) == 1 }

// IsIdentity reports whether p is the identity; a nil p is.
func (p *P256Point) IsIdentity() bool { return p == nil || p.value().IsInfinity() == 1 }

// XScalar returns the affine x modulo n, as ECDSA needs it (it is public
// there), and 0 for the identity.
func (p *P256Point) XScalar() libcurve.Scalar {
	x, err := p.value().BytesX()
	if err != nil {
		return new(P256Scalar)
	}
	return new(P256Scalar).SetNat(new(saferith.Nat).SetBytes(x))
}

// errP256 cannot happen: nistec refuses only scalars that have not 32 bytes.
var errP256 = errors.New("curve: P-256 refused a scalar of 32 bytes")
