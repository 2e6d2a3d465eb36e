package frost

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cronokirby/saferith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/secret"
)

// Resharing without a session: t holders of shares each deal theirs anew to n
// receivers, and each receiver adds up what it was dealt (Desmedt and Jajodia,
// "Redistributing secret shares to new access structures", 1997; made
// verifiable with Feldman's commitments by Wong, Wang and Wing, "Verifiable
// secret redistribution for archive systems", 2002). Holder i takes a random
// polynomial fᵢ of degree t−1 with fᵢ(0) = xᵢ; the new share j is
// Σ λᵢ·fᵢ(j) over the t holders, λᵢ the Lagrange coefficients at 0. The key is
// not put together anywhere, and t−1 old and t−1 new shares together say
// nothing about it.

// Dealing is what one holder of a share deals.
type Dealing struct {
	// Commitments are the coefficients of the polynomial in the exponent, from
	// the constant up, t points encoded as public shares are. The first is the
	// holder's public share.
	Commitments [][]byte
	// SubShares are the polynomial's values at 1…n, 32 bytes each, big-endian,
	// for one receiver each. The caller wipes them.
	SubShares []*secret.Bytes
}

// Wipe clears the sub-shares.
func (d *Dealing) Wipe() {
	for _, s := range d.SubShares {
		s.Wipe()
	}
}

// Deal deals share i of record anew, to as many receivers and with the same
// threshold. It checks that the share belongs to the record. Randomness comes
// from crypto/rand.
func Deal(record *mpc.PublicRecord, i mpc.Index, share *secret.Bytes) (*Dealing, error) {
	if err := CheckRecord(record); err != nil {
		return nil, err
	}
	constant, err := parseShare(record, i, share)
	if err != nil {
		return nil, err
	}
	group := constant.Curve()
	coefficients := []libcurve.Scalar{constant}
	defer func() {
		for _, c := range coefficients {
			curve.WipeScalar(c)
		}
	}()
	for len(coefficients) < record.Threshold {
		c, err := randomScalar(group)
		if err != nil {
			return nil, err
		}
		coefficients = append(coefficients, c)
	}
	d := &Dealing{}
	for _, c := range coefficients {
		b, err := c.ActOnBase().MarshalBinary()
		if err != nil {
			return nil, err
		}
		d.Commitments = append(d.Commitments, b)
	}
	for j := range record.Shares {
		value, err := evaluate(coefficients, j+1).MarshalBinary()
		if err != nil {
			d.Wipe()
			return nil, err
		}
		d.SubShares = append(d.SubShares, secret.New(value))
	}
	return d, nil
}

// randomScalar draws a scalar other than 0, by rejection.
func randomScalar(group libcurve.Curve) (libcurve.Scalar, error) {
	for {
		b := secret.New(make([]byte, curve.ScalarSize))
		if _, err := io.ReadFull(rand.Reader, b.Expose()); err != nil {
			return nil, err
		}
		s, err := curve.ParseScalar(group, b)
		if err != nil && group.Name() == (curve.Edwards25519{}).Name() {
			// The order is just above 2^252: without the top bits every other
			// try is below it.
			b.Expose()[0] &= 0x1f
			s, err = curve.ParseScalar(group, b)
		}
		b.Wipe()
		if err == nil {
			return s, nil
		}
	}
}

// evaluate returns the polynomial's value at x, by Horner's rule.
func evaluate(coefficients []libcurve.Scalar, x int) libcurve.Scalar {
	group := coefficients[0].Curve()
	sum := group.NewScalar()
	for _, c := range slices.Backward(coefficients) {
		sum.Mul(smallScalar(group, x)).Add(c)
	}
	return sum
}

// smallScalar returns n, at most 255, as the index that it is: announced with
// one byte, points are multiplied by it quickly (mpc/curve).
func smallScalar(group libcurve.Curve, n int) libcurve.Scalar {
	return group.NewScalar().SetNat(new(saferith.Nat).SetBytes([]byte{byte(n)}))
}

// Dealer is what everybody may know of a holder's dealing.
type Dealer struct {
	Index       mpc.Index
	Commitments [][]byte
}

// resharing holds the decoded commitments of exactly t dealers.
type resharing struct {
	group   libcurve.Curve
	dealers []Dealer
	points  [][]libcurve.Point // by dealer, then coefficient
	lambda  []libcurve.Scalar  // Lagrange coefficients at 0, by dealer
}

// DealerError names a dealer whose dealing is wrong.
type DealerError struct {
	Index mpc.Index
	Err   error
}

func (e *DealerError) Error() string {
	return fmt.Sprintf("what the holder of share %d dealt: %v", e.Index, e.Err)
}
func (e *DealerError) Unwrap() error { return e.Err }

// newResharing checks dealers against the record of the shares that they deal
// anew: t of them, in ascending order, each with t commitments of which the
// first is its public share.
func newResharing(old *mpc.PublicRecord, dealers []Dealer) (*resharing, error) {
	if err := CheckRecord(old); err != nil {
		return nil, err
	}
	group, err := curve.For(old.Algorithm)
	if err != nil {
		return nil, err
	}
	if len(dealers) != old.Threshold {
		return nil, fmt.Errorf("%d dealings, not %d", len(dealers), old.Threshold)
	}
	r := &resharing{group: group, dealers: dealers}
	for k, d := range dealers {
		switch {
		case d.Index < 1 || int(d.Index) > old.Shares:
			return nil, &DealerError{d.Index, errors.New("there is no such share")}
		case k > 0 && d.Index <= dealers[k-1].Index:
			return nil, &DealerError{d.Index, errors.New("dealt twice, or out of order")}
		case len(d.Commitments) != old.Threshold:
			return nil, &DealerError{d.Index, fmt.Errorf("%d commitments instead of %d", len(d.Commitments), old.Threshold)}
		case !slices.Equal(d.Commitments[0], old.PublicShare(d.Index)):
			return nil, &DealerError{d.Index, errors.New("it is not a dealing of that share")}
		}
		var points []libcurve.Point
		for _, b := range d.Commitments {
			p, err := curve.ParsePoint(group, b)
			if err != nil {
				return nil, &DealerError{d.Index, err}
			}
			points = append(points, p)
		}
		r.points = append(r.points, points)
	}
	for _, d := range dealers {
		num, den := smallScalar(group, 1), smallScalar(group, 1)
		for _, e := range dealers {
			if e.Index != d.Index {
				num.Mul(smallScalar(group, int(e.Index)))
				den.Mul(smallScalar(group, int(e.Index)).Sub(smallScalar(group, int(d.Index))))
			}
		}
		r.lambda = append(r.lambda, num.Mul(den.Invert()))
	}
	return r, nil
}

// at returns fᵢ(x)·G for the dealer at place k.
func (r *resharing) at(k, x int) libcurve.Point {
	sum := r.group.NewPoint()
	for _, c := range slices.Backward(r.points[k]) {
		sum = smallScalar(r.group, x).Act(sum).Add(c)
	}
	return sum
}

// Reshare returns the public shares that follow from what exactly t dealers
// have committed to. Everybody who computes it from the same dealers arrives at
// the same.
func Reshare(old *mpc.PublicRecord, dealers []Dealer) ([][]byte, error) {
	r, err := newResharing(old, dealers)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for j := range old.Shares {
		sum := r.group.NewPoint()
		for k := range dealers {
			sum = sum.Add(r.lambda[k].Act(r.at(k, j+1)))
		}
		if sum.IsIdentity() {
			return nil, fmt.Errorf("the new share %d would be 0: have one of the dealers deal again", j+1)
		}
		b, err := sum.MarshalBinary()
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// AddSubShares makes new share j out of the sub-shares that the dealers dealt
// for it, in their order. A sub-share that does not fit its dealer's
// commitments is a *DealerError. The caller wipes the result; the sub-shares
// stay the caller's.
func AddSubShares(old *mpc.PublicRecord, dealers []Dealer, j mpc.Index, subShares []*secret.Bytes) (*secret.Bytes, error) {
	r, err := newResharing(old, dealers)
	if err != nil {
		return nil, err
	}
	if j < 1 || int(j) > old.Shares || len(subShares) != len(dealers) {
		return nil, errors.New("sub-shares for a share that does not exist, or not one of each dealer")
	}
	sum := r.group.NewScalar()
	defer curve.WipeScalar(sum)
	for k, b := range subShares {
		s, err := curve.ParseScalar(r.group, b)
		if err != nil {
			return nil, &DealerError{dealers[k].Index, errors.New("the sub-share is no scalar")}
		}
		if !s.ActOnBase().Equal(r.at(k, int(j))) {
			curve.WipeScalar(s)
			return nil, &DealerError{dealers[k].Index, errors.New("the sub-share does not fit the commitments")}
		}
		sum.Add(s.Mul(r.lambda[k]))
		curve.WipeScalar(s)
	}
	value, err := sum.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return secret.New(value), nil
}
