package frost

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
)

// CheckRecord verifies that the public shares lie on one polynomial of degree
// t−1 whose value at 0 is the public key, and that every point has prime order.
// With mpc.PublicRecord.Check, which it calls, it is what a new epoch must pass
// before anybody relies on it.
//
// Only X₁…X_t are decoded, with every check. They determine the others and the
// key, which are compared as they are encoded: what equals a sum of multiples of
// points of prime order, and is not the identity, is such a point itself, and
// its encoding the canonical one.
func CheckRecord(record *mpc.PublicRecord) error {
	if err := record.Check(); err != nil {
		return err
	}
	group, err := curve.For(record.Algorithm)
	if err != nil {
		return err
	}
	basis := make([]libcurve.Point, record.Threshold)
	for i, b := range record.PublicShares[:record.Threshold] {
		if basis[i], err = curve.ParsePoint(group, b); err != nil {
			return fmt.Errorf("public share %d: %w", i+1, err)
		}
	}
	upwards := differences(basis)
	for i := record.Threshold; i < record.Shares; i++ {
		if !isEncoded(upwards.next(), record.PublicShares[i]) {
			return fmt.Errorf("public share %d is not on the polynomial of the others", i+1)
		}
	}
	slices.Reverse(basis)
	if !isEncoded(differences(basis).next(), encodedKey(record)) {
		return errors.New("the public shares do not give the public key")
	}
	return nil
}

// encodedKey is a record's public key as its group encodes points. A BIP-340
// key is x-only and stands for the point with an even y.
func encodedKey(record *mpc.PublicRecord) []byte {
	if record.Algorithm == mpc.BIP340Secp256k1 {
		return append([]byte{2}, record.PublicKey...)
	}
	return record.PublicKey
}

// isEncoded reports whether b is the encoding of p, and p not the identity,
// which has none.
func isEncoded(p libcurve.Point, b []byte) bool {
	if p.IsIdentity() {
		return false
	}
	own, err := p.MarshalBinary()
	return err == nil && bytes.Equal(own, b)
}

// sequence continues the values of a polynomial in the exponent at consecutive
// numbers. A polynomial of degree t−1 is determined by t values, and its
// (t−1)-th differences are all the same; so with the differences at the last
// value at hand, t−1 additions give the next one (Newton, backward differences).
// It has no scalars in it, and goes down as well as up.
type sequence struct {
	// last holds t points: last[t−1−k] is the k-th difference at the last value,
	// last[t−1] the value itself.
	last []libcurve.Point
}

// differences starts a sequence from t values in order. It leaves them alone.
func differences(values []libcurve.Point) sequence {
	d := slices.Clone(values)
	// Pass k turns (k−1)-th differences into k-th ones, one fewer, and leaves
	// the last of the former behind them.
	for k := 1; k < len(d); k++ {
		for i := range len(d) - k {
			d[i] = d[i+1].Sub(d[i])
		}
	}
	return sequence{d}
}

// next moves to the next value and returns it.
func (s sequence) next() libcurve.Point {
	for i := 1; i < len(s.last); i++ {
		s.last[i] = s.last[i].Add(s.last[i-1])
	}
	return s.last[len(s.last)-1]
}
