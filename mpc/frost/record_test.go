package frost

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"testing"

	"filippo.io/edwards25519"
	"github.com/cronokirby/saferith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/mpc/handler"
)

// checkSlowly is CheckRecord in its simplest form: every point is decoded with
// every check, and the polynomial is interpolated by Lagrange.
func checkSlowly(record *mpc.PublicRecord) error {
	if err := record.Check(); err != nil {
		return err
	}
	group, err := curve.For(record.Algorithm)
	if err != nil {
		return err
	}
	points := make([]libcurve.Point, record.Shares+1)
	for i, b := range slices.Concat([][]byte{encodedKey(record)}, record.PublicShares) {
		if points[i], err = curve.ParsePoint(group, b); err != nil {
			return err
		}
	}
	for x, p := range points {
		if !lagrange(points[1:record.Threshold+1], x).Equal(p) {
			return fmt.Errorf("point %d is not on the polynomial", x)
		}
	}
	return nil
}

// lagrange returns the value at x of the polynomial in the exponent through
// (1, points[0]), (2, points[1]), …. Its numbers are announced at full length.
func lagrange(points []libcurve.Point, x int) libcurve.Point {
	group := points[0].Curve()
	number := func(n int) libcurve.Scalar {
		return group.NewScalar().SetNat(new(saferith.Nat).SetBig(big.NewInt(int64(n)), 256))
	}
	sum := group.NewPoint()
	for i := range points {
		num, den := number(1), number(1)
		for j := range points {
			if i != j {
				num.Mul(number(x).Sub(number(j + 1)))
				den.Mul(number(i + 1).Sub(number(j + 1)))
			}
		}
		sum = sum.Add(num.Mul(den.Invert()).Act(points[i]))
	}
	return sum
}

func copied(record *mpc.PublicRecord) *mpc.PublicRecord {
	r := *record
	r.PublicKey = bytes.Clone(record.PublicKey)
	r.PublicShares = slices.Clone(record.PublicShares)
	for i, b := range r.PublicShares {
		r.PublicShares[i] = bytes.Clone(b)
	}
	return &r
}

// TestCheckRecordAgrees: for all small sizes and the largest, CheckRecord takes and
// refuses what Lagrange's formula takes and refuses: honest records, those of a
// lower degree and those of a higher one, and records with one point exchanged,
// whichever it is.
func TestCheckRecordAgrees(t *testing.T) {
	compare := func(t *testing.T, what string, record *mpc.PublicRecord, want bool) {
		t.Helper()
		quick, slow := CheckRecord(record), checkSlowly(record)
		if (quick == nil) != (slow == nil) || (quick == nil) != want {
			t.Fatalf("%s, %d of %d: %v, by Lagrange: %v", what, record.Threshold, record.Shares, quick, slow)
		}
	}
	for _, a := range mpc.Algorithms() {
		t.Run(string(a), func(t *testing.T) {
			for n := 2; n <= mpc.MaxShares; n++ {
				for threshold := 2; threshold <= n; threshold++ {
					if n > 6 && (n < mpc.MaxShares || threshold%7 != 2) {
						continue // of the large ones 2, 9 and 16 of 16
					}
					record, other := dealt(t, a, threshold, n), dealt(t, a, threshold, n)
					compare(t, "honest", record, true)
					if threshold < n {
						higher := copied(record)
						higher.Threshold++
						compare(t, "lower degree than it might have", higher, true)
					}
					if threshold > 2 {
						lower := copied(record)
						lower.Threshold--
						compare(t, "higher degree than it may have", lower, false)
					}
					// Exchange one point by a point of prime order.
					for _, k := range []int{0, 1, threshold, n, mathrand.IntN(n + 1)} {
						changed := copied(record)
						if k == 0 {
							changed.PublicKey = other.PublicKey
						} else {
							changed.PublicShares[k-1] = other.PublicShares[k-1]
						}
						compare(t, fmt.Sprintf("point %d exchanged", k), changed, false)
					}
				}
			}
		})
	}
}

// TestCheckRecordSpecialPolynomials: where differences are the identity, and
// where points double in additions.
func TestCheckRecordSpecialPolynomials(t *testing.T) {
	for _, a := range mpc.Algorithms() {
		t.Run(string(a), func(t *testing.T) {
			group, err := curve.For(a)
			if err != nil {
				t.Fatal(err)
			}
			for name, c := range map[string]struct {
				values []int64 // at 0, 1, 2, 3, times the base point
				ok     bool
			}{
				"constant":                     {[]int64{5, 5, 5, 5}, true},
				"multiples":                    {[]int64{2, 4, 6, 8}, true},
				"downwards":                    {[]int64{8, 6, 4, 2}, true},
				"opposite":                     {[]int64{3, 1, -1, -3}, true},
				"one too far":                  {[]int64{8, 6, 4, 1}, false},
				"key is zero":                  {[]int64{0, 1, 2, 3}, false},
				"first share is zero":          {[]int64{-1, 0, 1, 2}, false},
				"second share is zero":         {[]int64{-2, -1, 0, 1}, false},
				"third share is zero":          {[]int64{-3, -2, -1, 0}, false},
				"all zero":                     {[]int64{0, 0, 0, 0}, false},
				"other sign of the third":      {[]int64{8, 6, 4, -2}, false},
				"other sign of the first":      {[]int64{8, -6, 4, 2}, false},
				"square":                       {[]int64{1, 2, 5, 10}, false},
				"third difference of a square": {[]int64{1, 2, 5, 8}, false},
			} {
				r := &mpc.PublicRecord{AccountID: mpc.AccountID{1}, Algorithm: a, Threshold: 2, Shares: 3, Epoch: 1,
					EpochID: mpc.EpochID{1}, RecipientsHash: mpc.EmptySetHash(), PolicyHash: mpc.EmptySetHash()}
				var all [][]byte
				for _, v := range c.values {
					n := new(big.Int).Mod(big.NewInt(v), group.Order().Big())
					b, err := group.NewScalar().SetNat(new(saferith.Nat).SetBig(n, 256)).ActOnBase().MarshalBinary()
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, b)
				}
				r.PublicKey, r.PublicShares = all[0], all[1:]
				if a == mpc.BIP340Secp256k1 {
					if r.PublicKey[0] == 3 { // the same with every sign changed
						for _, b := range r.PublicShares {
							b[0] ^= 1
						}
					}
					r.PublicKey = r.PublicKey[1:]
				}
				if err := CheckRecord(r); (err == nil) != c.ok {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// torsions are the points of small order but the identity.
func torsions(t testing.TB) []*edwards25519.Point {
	t.Helper()
	// y of a point of order 8 (RFC 7748's list of small orders).
	b := []byte{0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05}
	eight, err := new(edwards25519.Point).SetBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	var out []*edwards25519.Point
	for p := new(edwards25519.Point).Set(eight); p.Equal(edwards25519.NewIdentityPoint()) != 1; p = new(edwards25519.Point).Add(p, eight) {
		out = append(out, p)
	}
	if len(out) != 7 {
		t.Fatalf("%d points of small order", len(out))
	}
	return out
}

// shifted adds n·p to an encoded point.
func shifted(t testing.TB, b []byte, p *edwards25519.Point, n int) []byte {
	t.Helper()
	q, err := new(edwards25519.Point).SetBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		q.Add(q, p)
	}
	return q.Bytes()
}

// TestCheckRecordRefusesTorsion: no point with a small-order component gets
// through, alone or in company. Shifts by i·T for share i, or by one T for all,
// keep every difference as it was: only the order of the points betrays them.
func TestCheckRecordRefusesTorsion(t *testing.T) {
	record := dealt(t, mpc.Ed25519, 3, 5)
	if err := CheckRecord(record); err != nil {
		t.Fatal(err)
	}
	for k, torsion := range torsions(t) {
		each := func(multiple func(i int) int) *mpc.PublicRecord {
			r := copied(record)
			r.PublicKey = shifted(t, r.PublicKey, torsion, multiple(0))
			for i, b := range r.PublicShares {
				r.PublicShares[i] = shifted(t, b, torsion, multiple(i+1))
			}
			return r
		}
		cases := map[string]*mpc.PublicRecord{
			"all shifted":     each(func(int) int { return 1 }),
			"share i by i":    each(func(i int) int { return i }),
			"share i by i²":   each(func(i int) int { return i * i }),
			"share i by 1+3i": each(func(i int) int { return 1 + 3*i }),
		}
		for name, r := range cases {
			if !consistent(t, r) {
				t.Fatalf("%s: the differences show it, so this tests nothing", name)
			}
		}
		for i := range 6 {
			cases[fmt.Sprintf("point %d shifted", i)] = each(func(j int) int { return b2i(i == j) })
			small := copied(record)
			if i == 0 {
				small.PublicKey = torsion.Bytes()
			} else {
				small.PublicShares[i-1] = torsion.Bytes()
			}
			cases[fmt.Sprintf("point %d of small order", i)] = small
		}
		for name, r := range cases {
			if err := CheckRecord(r); err == nil {
				t.Errorf("torsion %d, %s: accepted", k, name)
			}
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// consistent reports whether a record passes all of CheckRecord but the check of
// order.
func consistent(t testing.TB, record *mpc.PublicRecord) bool {
	t.Helper()
	points, err := publicShares(record, allIndices(record.Shares), true)
	if err != nil {
		t.Fatal(err)
	}
	var basis []libcurve.Point
	for _, i := range allIndices(record.Threshold) {
		basis = append(basis, points[handler.PartyID(i)])
	}
	up := differences(basis)
	for _, b := range record.PublicShares[record.Threshold:] {
		if !isEncoded(up.next(), b) {
			return false
		}
	}
	slices.Reverse(basis)
	return isEncoded(differences(basis).next(), encodedKey(record))
}

// TestCheckRecordEncodings: a point has one encoding, wherever in the record.
func TestCheckRecordEncodings(t *testing.T) {
	for _, a := range mpc.Algorithms() {
		record := dealt(t, a, 2, 4)
		for i := range 5 {
			place := func(r *mpc.PublicRecord) []byte {
				if i == 0 {
					return r.PublicKey
				}
				return r.PublicShares[i-1]
			}
			for name, change := range map[string]func(b []byte){
				"zeros":      func(b []byte) { clear(b) },
				"ones":       func(b []byte) { copy(b, bytes.Repeat([]byte{0xff}, len(b))) },
				"first bit":  func(b []byte) { b[0] ^= 1 },
				"third bit":  func(b []byte) { b[0] ^= 4 },
				"last bit":   func(b []byte) { b[len(b)-1] ^= 0x80 },
				"other sign": func(b []byte) { b[0] ^= b2i8(len(b) == 33); b[len(b)-1] ^= 0x80 * b2i8(len(b) == 32) },
			} {
				r := copied(record)
				change(place(r))
				quick, slow := CheckRecord(r), checkSlowly(r)
				if quick == nil || slow == nil {
					t.Errorf("%s, point %d, %s: %v, by Lagrange: %v", a, i, name, quick, slow)
				}
			}
		}
	}
}

func b2i8(b bool) byte { return byte(b2i(b)) }

// TestRefreshedCoefficientsAreChecked: in a refresh, a coefficient shifted by the
// point of order 2 gives the holders of even shares exactly what they expect,
// since 2·T = 0. It is refused as it is decoded.
func TestRefreshedCoefficientsAreChecked(t *testing.T) {
	record, shares := account(t, mpc.Ed25519, 2, 3)
	for k, torsion := range torsions(t) {
		later := false
		err := route(t, refreshParties(t, record, shares), func(to mpc.Index, m mpc.Message) *mpc.Message {
			later = later || m.Round > 2
			if m.From == 1 && m.Round == 2 {
				var body keyCommit
				if err := decodeExactly(m.Data, &body); err != nil {
					t.Fatal(err)
				}
				var phi polynomial
				if err := decodeExactly(body.Polynomial[4:], &phi); err != nil {
					t.Fatal(err)
				}
				coefficient := phi.Coefficients[0]
				inCBOR("Phi_i", bytes.Replace(body.Polynomial, coefficient, shifted(t, coefficient, torsion, 1), 1))(&m)
			}
			return &m
		})
		var abort *mpc.AbortError
		if !errors.As(err, &abort) || !slices.Equal(abort.Culprits, []mpc.Index{1}) || later {
			t.Errorf("torsion %d: %v; a later round: %v", k, err, later)
		}
	}
}
