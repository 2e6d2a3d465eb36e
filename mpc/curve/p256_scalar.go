package curve

import (
	"crypto/subtle"
	"encoding/hex"
	"fmt"

	"filippo.io/bigmod"
	"filippo.io/nistec"
	"github.com/cronokirby/saferith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
)

// p256N is the order of P-256, FIPS 186 (SP 800-186, section 3.2.1.3).
const p256N = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"

// Constants derived from the order; nothing writes to them.
var (
	p256Order   = saferith.ModulusFromBytes(p256Bytes(0))
	p256Modulus = mustModulus(p256Bytes(0))
	p256Inverse = p256Bytes(2)                  // n − 2
	p256Half    = halve([32]byte(p256Bytes(1))) // (n − 1) / 2
)

// p256Bytes returns n − less, for less at most the last byte of n.
func p256Bytes(less byte) []byte {
	b, err := hex.DecodeString(p256N)
	if err != nil {
		panic("curve: the order of P-256 is not hex")
	}
	b[31] -= less
	return b
}

func mustModulus(b []byte) *bigmod.Modulus {
	m, err := bigmod.NewModulus(b)
	if err != nil {
		panic("curve: the order of P-256 is no modulus")
	}
	return m
}

// halve shifts a big-endian number right by one bit.
func halve(b [ScalarSize]byte) [ScalarSize]byte {
	for i := ScalarSize - 1; i > 0; i-- {
		b[i] = b[i]>>1 | b[i-1]<<7
	}
	b[0] >>= 1
	return b
}

// P256Scalar is a number modulo the order of P-256. The zero value is 0.
//
// It is stored as its encoding and computed on by filippo.io/bigmod, which is
// the constant-time arithmetic of Go's crypto/ecdsa and crypto/rsa. saferith,
// which the protocol library brings, is constant time as well, but it
// reallocates as it computes and leaves copies that nobody can wipe.
type P256Scalar struct {
	b     [ScalarSize]byte // big-endian, below the order
	small index            // the same number, if it is a share index
}

func p256Scalar(s libcurve.Scalar) *P256Scalar {
	x, ok := s.(*P256Scalar)
	if !ok {
		panic(mismatch((*P256Scalar)(nil), s))
	}
	return x
}

// nat returns the number for computing; release takes the result back.
func (s *P256Scalar) nat() *bigmod.Nat {
	n, err := bigmod.NewNat().SetBytes(s.b[:], p256Modulus)
	if err != nil {
		panic("curve: a P-256 scalar is not below the order")
	}
	return n
}

// release stores n in s and clears it and the other operands. What comes out of
// a computation is no index.
func (s *P256Scalar) release(n *bigmod.Nat, operands ...*bigmod.Nat) *P256Scalar {
	b := n.Bytes(p256Modulus)
	copy(s.b[:], b)
	s.small = 0
	clear(b)
	clear(n.Bits())
	for _, o := range operands {
		clear(o.Bits())
	}
	return s
}

// Format implements fmt.Formatter and shows nothing.
func (s *P256Scalar) Format(f fmt.State, _ rune) { printRedacted(f) }

// Curve returns P256{}.
func (*P256Scalar) Curve() libcurve.Curve { return P256{} }

// MarshalBinary writes 32 bytes, big-endian.
func (s *P256Scalar) MarshalBinary() ([]byte, error) { return append([]byte(nil), s.b[:]...), nil }

// UnmarshalBinary reads 32 bytes, big-endian, below the order; 0 is allowed.
// After an error s is unchanged.
func (s *P256Scalar) UnmarshalBinary(b []byte) error {
	if len(b) != ScalarSize {
		return ErrScalar
	}
	n, err := bigmod.NewNat().SetBytes(b, p256Modulus)
	if err != nil {
		return ErrScalar
	}
	s.release(n)
	return nil
}

// Add sets s to s + t and returns it.
func (s *P256Scalar) Add(t libcurve.Scalar) libcurve.Scalar {
	x, y := s.nat(), p256Scalar(t).nat()
	return s.release(x.Add(y, p256Modulus), y)
}

// Sub sets s to s − t and returns it.
func (s *P256Scalar) Sub(t libcurve.Scalar) libcurve.Scalar {
	x, y := s.nat(), p256Scalar(t).nat()
	return s.release(x.Sub(y, p256Modulus), y)
}

// Negate sets s to −s and returns it.
func (s *P256Scalar) Negate() libcurve.Scalar {
	x, zero := s.nat(), new(P256Scalar).nat()
	return s.release(zero.Sub(x, p256Modulus), x)
}

// Mul sets s to s · t and returns it.
func (s *P256Scalar) Mul(t libcurve.Scalar) libcurve.Scalar {
	x, y := s.nat(), p256Scalar(t).nat()
	return s.release(x.Mul(y, p256Modulus), y)
}

// Invert sets s to s⁻¹ = sⁿ⁻² (Fermat) and returns it; 0 stays 0.
func (s *P256Scalar) Invert() libcurve.Scalar {
	x := s.nat()
	return s.release(bigmod.NewNat().Exp(x, p256Inverse, p256Modulus), x)
}

// Equal compares in constant time.
func (s *P256Scalar) Equal(t libcurve.Scalar) bool {
	return subtle.ConstantTimeCompare(s.b[:], p256Scalar(t).b[:]) == 1
}

// IsZero compares in constant time.
func (s *P256Scalar) IsZero() bool { return s.Equal(new(P256Scalar)) }

// Set sets s to t and returns it.
func (s *P256Scalar) Set(t libcurve.Scalar) libcurve.Scalar {
	s.b, s.small = p256Scalar(t).b, 0
	return s
}

// SetNat sets s to x modulo the order and returns it. An x of at most 8
// announced bits is a share index (see index).
func (s *P256Scalar) SetNat(x *saferith.Nat) libcurve.Scalar {
	s.b, s.small = reduce(x, p256Order), indexOf(x)
	return s
}

// Act returns s · P. For a share index it is quick and takes a time that
// depends on the index, which is public, and on nothing else.
func (s *P256Scalar) Act(p libcurve.Point) libcurve.Point {
	if s.small != 0 {
		q := p256Point(p)
		return &P256Point{multiple(nistec.NewP256Point().Set(q), q, s.small)}
	}
	q, err := nistec.NewP256Point().ScalarMult(p256Point(p), s.b[:])
	if err != nil {
		panic(errP256)
	}
	return &P256Point{q}
}

// ActOnBase returns s · G.
func (s *P256Scalar) ActOnBase() libcurve.Point {
	q, err := nistec.NewP256Point().ScalarBaseMult(s.b[:])
	if err != nil {
		panic(errP256)
	}
	return &P256Point{q}
}

// IsOverHalfOrder reports whether s > (n − 1) / 2.
func (s *P256Scalar) IsOverHalfOrder() bool { return greater(&s.b, &p256Half) }
