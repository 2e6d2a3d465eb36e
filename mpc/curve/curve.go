// Package curve adds P-256 and edwards25519 to the groups of the
// multi-party-sig library, which brings only secp256k1, and reads points and
// scalars from bytes strictly for all three.
//
// The arithmetic is that of filippo.io/nistec, filippo.io/edwards25519 and
// filippo.io/bigmod, the libraries behind Go's own crypto/ecdsa and
// crypto/ed25519. Everything that a secret scalar goes through takes constant
// time; the library's secp256k1 does not (its group operations are variable
// time), which is a reason why shares are used in processes of their own.
//
// Encodings. Scalars: 32 bytes, big-endian, below the group's order, for every
// curve. Points: 33 bytes SEC 1 compressed on secp256k1 and P-256, 32 bytes as
// in RFC 8032 on edwards25519. Decoders take the one canonical encoding of a
// point of prime order and nothing else.
//
// Border: group arithmetic and encodings; it knows no protocol.
package curve

import (
	"errors"
	"fmt"

	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// ScalarSize is the length in bytes of an encoded scalar on every curve.
const ScalarSize = 32

// Errors of the decoders. They never show what was decoded: scalars are secret.
var (
	ErrPoint  = errors.New("not the canonical encoding of a point of prime order on the curve")
	ErrScalar = errors.New("not a scalar of 32 bytes, big-endian, above 0 and below the order of the group")
)

// For returns the group of an algorithm's keys.
func For(a mpc.Algorithm) (libcurve.Curve, error) {
	switch a {
	case mpc.BIP340Secp256k1, mpc.ECDSASecp256k1:
		return libcurve.Secp256k1{}, nil
	case mpc.ECDSAP256:
		return P256{}, nil
	case mpc.Ed25519:
		return Edwards25519{}, nil
	}
	return nil, fmt.Errorf("%w %q", mpc.ErrUnknownAlgorithm, a)
}

// ByName is the inverse of a group's Name.
func ByName(name string) (libcurve.Curve, bool) {
	for _, group := range []libcurve.Curve{libcurve.Secp256k1{}, P256{}, Edwards25519{}} {
		if group.Name() == name {
			return group, true
		}
	}
	return nil, false
}

// PointSize is the length in bytes of an encoded point.
func PointSize(group libcurve.Curve) int {
	if group.Name() == edwards25519Name {
		return 32
	}
	return 33
}

// ParsePoint reads a point other than the identity. Every point has one
// encoding: the decoders refuse coordinates that are not reduced, and of the
// first byte of SEC 1, which the library's own decoder for secp256k1 does not
// look at, only 2 and 3 are taken (no point of either curve has y = 0, so each
// names another point).
func ParsePoint(group libcurve.Curve, b []byte) (libcurve.Point, error) {
	if len(b) != PointSize(group) || (len(b) == 33 && b[0] != 2 && b[0] != 3) {
		return nil, ErrPoint
	}
	p := group.NewPoint()
	if err := p.UnmarshalBinary(b); err != nil || p.IsIdentity() {
		return nil, ErrPoint
	}
	return p, nil
}

// ParseVouchedPoint is ParsePoint without the check of a point's order, which
// on edwards25519 is most of the work; on the other curves they are the same.
// b has passed ParsePoint before, in this process or in another that this one
// has reason to believe, and cannot have changed since: see
// ParseVouchedEdwards25519. It is never for what a message brings.
func ParseVouchedPoint(group libcurve.Curve, b []byte) (libcurve.Point, error) {
	if group.Name() != edwards25519Name {
		return ParsePoint(group, b)
	}
	p, err := ParseVouchedEdwards25519(b)
	if err != nil {
		return nil, err
	}
	return &Edwards25519Point{p}, nil
}

// ParseScalar reads a scalar other than 0 into a new object, for the caller to
// clear with WipeScalar; b stays the caller's to wipe.
func ParseScalar(group libcurve.Curve, b *secret.Bytes) (libcurve.Scalar, error) {
	if b.Len() != ScalarSize {
		return nil, ErrScalar
	}
	s := group.NewScalar()
	if err := s.UnmarshalBinary(b.Expose()); err != nil || s.IsZero() {
		WipeScalar(s)
		return nil, ErrScalar
	}
	return s, nil
}

// WipeScalar overwrites a scalar with 0. Nil is allowed.
func WipeScalar(s libcurve.Scalar) {
	switch x := s.(type) {
	case *libcurve.Secp256k1Scalar:
		if x != nil {
			x.Set(new(libcurve.Secp256k1Scalar))
		}
	case *P256Scalar:
		if x != nil {
			*x = P256Scalar{}
		}
	case *Edwards25519Scalar:
		if x != nil {
			x.Set(new(Edwards25519Scalar))
		}
	}
}
