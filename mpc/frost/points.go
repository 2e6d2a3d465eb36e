package frost

import (
	"errors"
	"fmt"

	"github.com/cronokirby/saferith"
	"github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/party"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/handler"
	"vault-plugin-secrets-mpc/secret"
)

func allIndices(n int) []mpc.Index {
	out := make([]mpc.Index, n)
	for i := range out {
		out[i] = mpc.Index(i + 1)
	}
	return out
}

// parsePoint reads a compressed point. The identity has no such encoding.
func parsePoint(b []byte) (*curve.Secp256k1Point, error) {
	if len(b) != 33 || (b[0] != 2 && b[0] != 3) {
		return nil, errors.New("not a compressed curve point")
	}
	p := new(curve.Secp256k1Point)
	if err := p.UnmarshalBinary(b); err != nil {
		return nil, fmt.Errorf("not a point on the curve: %w", err)
	}
	if p.IsIdentity() {
		return nil, errors.New("the identity is no public share")
	}
	return p, nil
}

// publicShares decodes X₁…Xₙ into fresh points.
func publicShares(record *mpc.PublicRecord) (map[party.ID]*curve.Secp256k1Point, error) {
	out := make(map[party.ID]*curve.Secp256k1Point, record.Shares)
	for i := range record.PublicShares {
		p, err := parsePoint(record.PublicShares[i])
		if err != nil {
			return nil, fmt.Errorf("public share %d: %w", i+1, err)
		}
		out[handler.PartyID(mpc.Index(i+1))] = p
	}
	return out, nil
}

// parseShare decodes a private share into a fresh scalar and checks xᵢ·G = Xᵢ.
func parseShare(record *mpc.PublicRecord, i mpc.Index, share *secret.Bytes) (*curve.Secp256k1Scalar, error) {
	public, err := parsePoint(record.PublicShare(i))
	if err != nil {
		return nil, fmt.Errorf("public share %d: %w", i, err)
	}
	x := new(curve.Secp256k1Scalar)
	if share.Len() != 32 {
		return nil, mpc.ErrShareMismatch
	}
	if err := x.UnmarshalBinary(share.Expose()); err != nil || x.IsZero() {
		return nil, mpc.ErrShareMismatch
	}
	if !x.ActOnBase().Equal(public) {
		wipeScalar(x)
		return nil, mpc.ErrShareMismatch
	}
	return x, nil
}

// CheckShare reports whether share is share i of record.
func CheckShare(record *mpc.PublicRecord, i mpc.Index, share *secret.Bytes) error {
	x, err := parseShare(record, i, share)
	if err != nil {
		return err
	}
	wipeScalar(x)
	return nil
}

// CheckRecord verifies that the public shares lie on one polynomial of degree
// t−1 whose value at 0 is the public key. With mpc.PublicRecord.Check it is
// what a new epoch must pass before anybody relies on it.
func CheckRecord(record *mpc.PublicRecord) error {
	if err := record.Check(); err != nil {
		return err
	}
	points := make([]curve.Point, record.Shares)
	for i := range points {
		p, err := parsePoint(record.PublicShares[i])
		if err != nil {
			return fmt.Errorf("public share %d: %w", i+1, err)
		}
		points[i] = p
	}
	var key curve.Point
	if record.Algorithm == mpc.BIP340Secp256k1 {
		p, err := curve.Secp256k1{}.LiftX(record.PublicKey)
		if err != nil {
			return fmt.Errorf("public key: %w", err)
		}
		key = p
	} else {
		p, err := parsePoint(record.PublicKey)
		if err != nil {
			return fmt.Errorf("public key: %w", err)
		}
		key = p
	}
	basis := points[:record.Threshold]
	if !interpolate(basis, 0).Equal(key) {
		return errors.New("the public shares do not give the public key")
	}
	for i := record.Threshold; i < record.Shares; i++ {
		if !interpolate(basis, i+1).Equal(points[i]) {
			return fmt.Errorf("public share %d is not on the polynomial of the others", i+1)
		}
	}
	return nil
}

// interpolate returns the value at x of the polynomial in the exponent through
// (1, points[0]), (2, points[1]), ….
func interpolate(points []curve.Point, x int) curve.Point {
	sum := curve.Point(new(curve.Secp256k1Point))
	for i := range points {
		num, den := small(1), small(1)
		for j := range points {
			if i != j {
				num.Mul(small(x).Sub(small(j + 1)))
				den.Mul(small(i + 1).Sub(small(j + 1)))
			}
		}
		sum = sum.Add(num.Mul(den.Invert()).Act(points[i]))
	}
	return sum
}

func small(n int) curve.Scalar {
	return new(curve.Secp256k1Scalar).SetNat(new(saferith.Nat).SetUint64(uint64(n)))
}

// wipeScalar overwrites a scalar with zero; the library has no other way.
func wipeScalar(s curve.Scalar) {
	switch x := s.(type) {
	case nil:
	case *curve.Secp256k1Scalar:
		if x != nil {
			x.Set(new(curve.Secp256k1Scalar))
		}
	}
}
