package frost

import (
	"errors"
	"fmt"

	"github.com/cronokirby/saferith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/party"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
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

// publicKey decodes a record's public key. A BIP-340 key is x-only and stands
// for the point with an even y.
func publicKey(record *mpc.PublicRecord) (libcurve.Point, error) {
	group, err := curve.For(record.Algorithm)
	if err != nil {
		return nil, err
	}
	b := record.PublicKey
	if record.Algorithm == mpc.BIP340Secp256k1 {
		b = append([]byte{2}, b...)
	}
	p, err := curve.ParsePoint(group, b)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return p, nil
}

// publicShares decodes X₁…Xₙ into fresh points.
func publicShares(record *mpc.PublicRecord) (map[party.ID]libcurve.Point, error) {
	group, err := curve.For(record.Algorithm)
	if err != nil {
		return nil, err
	}
	out := make(map[party.ID]libcurve.Point, record.Shares)
	for i, b := range record.PublicShares {
		p, err := curve.ParsePoint(group, b)
		if err != nil {
			return nil, fmt.Errorf("public share %d: %w", i+1, err)
		}
		out[handler.PartyID(mpc.Index(i+1))] = p
	}
	return out, nil
}

// parseShare decodes a private share into a fresh scalar and checks xᵢ·G = Xᵢ.
// The caller clears it with curve.WipeScalar.
func parseShare(record *mpc.PublicRecord, i mpc.Index, share *secret.Bytes) (libcurve.Scalar, error) {
	group, err := curve.For(record.Algorithm)
	if err != nil {
		return nil, err
	}
	public, err := curve.ParsePoint(group, record.PublicShare(i))
	if err != nil {
		return nil, fmt.Errorf("public share %d: %w", i, err)
	}
	x, err := curve.ParseScalar(group, share)
	if err != nil {
		return nil, mpc.ErrShareMismatch
	}
	if !x.ActOnBase().Equal(public) {
		curve.WipeScalar(x)
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
	curve.WipeScalar(x)
	return nil
}

// CheckRecord verifies that the public shares lie on one polynomial of degree
// t−1 whose value at 0 is the public key, and that every point has prime order.
// With mpc.PublicRecord.Check, which it calls, it is what a new epoch must pass
// before anybody relies on it.
func CheckRecord(record *mpc.PublicRecord) error {
	if err := record.Check(); err != nil {
		return err
	}
	key, err := publicKey(record)
	if err != nil {
		return err
	}
	shares, err := publicShares(record)
	if err != nil {
		return err
	}
	points := make([]libcurve.Point, record.Shares)
	for i := range points {
		points[i] = shares[handler.PartyID(mpc.Index(i+1))]
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
func interpolate(points []libcurve.Point, x int) libcurve.Point {
	group := points[0].Curve()
	small := func(n int) libcurve.Scalar {
		return group.NewScalar().SetNat(new(saferith.Nat).SetUint64(uint64(n)))
	}
	sum := group.NewPoint()
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
