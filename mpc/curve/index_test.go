package curve

import (
	"bytes"
	"crypto/rand"
	"math/big"
	"testing"

	"filippo.io/edwards25519"
	"github.com/cronokirby/saferith"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/math/sample"
	"github.com/taurusgroup/multi-party-sig/pkg/party"

	"vault-plugin-secrets-mpc/mpc"
)

// ours are the groups with index scalars.
func ours() []libcurve.Curve { return []libcurve.Curve{P256{}, Edwards25519{}} }

// markOf is a scalar's mark.
func markOf(t testing.TB, s libcurve.Scalar) index {
	t.Helper()
	switch x := s.(type) {
	case *P256Scalar:
		return x.small
	case *Edwards25519Scalar:
		return x.small
	}
	t.Fatalf("%T", s)
	return 0
}

func indexScalar(group libcurve.Curve, n uint8) libcurve.Scalar {
	return group.NewScalar().SetNat(new(saferith.Nat).SetBytes([]byte{n}))
}

// TestIndicesMultiplyAsScalarsDo: for every index there can be, and for points
// of every kind, the additions give what the general multiplication gives.
func TestIndicesMultiplyAsScalarsDo(t *testing.T) {
	for _, group := range ours() {
		t.Run(group.Name(), func(t *testing.T) {
			_, random := sample.ScalarPointPair(rand.Reader, group)
			points := map[string]libcurve.Point{
				"random": random, "base": group.NewBasePoint(), "minus base": group.NewBasePoint().Negate(),
				"identity": group.NewPoint(), "computed identity": random.Sub(random),
			}
			if group.Name() == edwards25519Name {
				// The general multiplication takes these as well: an index that
				// treated them otherwise would let them hide.
				for _, s := range smallOrder {
					torsion, err := new(edwards25519.Point).SetBytes(unhex(t, s))
					if err != nil {
						t.Fatal(err)
					}
					points[s] = &Edwards25519Point{torsion}
					points["random + "+s] = random.Add(&Edwards25519Point{torsion})
				}
			}
			for name, p := range points {
				before := encoded(t, p)
				sum := group.NewPoint()
				for n := 1; n <= 255; n++ {
					quick, slow := indexScalar(group, uint8(n)), scalar(group, big.NewInt(int64(n)))
					if markOf(t, quick) != index(n) || markOf(t, slow) != 0 {
						t.Fatalf("%d: marks %d and %d", n, markOf(t, quick), markOf(t, slow))
					}
					sum = sum.Add(p)
					got := encoded(t, quick.Act(p))
					if want := encoded(t, slow.Act(p)); got != want || got != encoded(t, sum) {
						t.Fatalf("%d · %s: %s, want %s", n, name, got, want)
					}
					if !quick.Equal(slow) || encoded(t, quick.ActOnBase()) != encoded(t, slow.ActOnBase()) {
						t.Fatalf("%d is not %d", n, n)
					}
				}
				if encoded(t, p) != before {
					t.Fatalf("%s was changed", name)
				}
			}
		})
	}
}

// TestOnlyIndicesAreMarked: a mark comes from the announced length alone. No
// scalar that can be a secret has one, however small it is: not what is drawn,
// not what is read, not what is computed.
func TestOnlyIndicesAreMarked(t *testing.T) {
	for _, group := range ours() {
		t.Run(group.Name(), func(t *testing.T) {
			for i := 1; i <= mpc.MaxShares; i++ {
				if id := party.ID([]byte{byte(i)}); markOf(t, id.Scalar(group)) != index(i) {
					t.Errorf("index %d is not marked", i)
				}
			}
			one := append(make([]byte, ScalarSize-1), 1)
			read := group.NewScalar()
			if err := read.UnmarshalBinary(one); err != nil {
				t.Fatal(err)
			}
			for name, s := range map[string]libcurve.Scalar{
				"zero value":           group.NewScalar(),
				"read":                 read,
				"drawn":                sample.Scalar(rand.Reader, group),
				"drawn, small":         sample.Scalar(bytes.NewReader(append(make([]byte, group.SafeScalarBytes()-1), 1)), group),
				"1, announced with 9":  group.NewScalar().SetNat(new(saferith.Nat).SetBig(big.NewInt(1), 9)),
				"1, announced with 64": group.NewScalar().SetNat(new(saferith.Nat).SetUint64(1)),
				"256":                  group.NewScalar().SetNat(new(saferith.Nat).SetBytes([]byte{1, 0})),
				"index 0":              indexScalar(group, 0),
				"nothing":              group.NewScalar().SetNat(new(saferith.Nat).SetBytes(nil)),
			} {
				if markOf(t, s) != 0 {
					t.Errorf("%s is marked", name)
				}
			}
		})
	}
}

// TestAMarkEndsWithItsNumber: whatever changes a scalar, it multiplies by what
// it is afterwards. An index as an argument stays one.
func TestAMarkEndsWithItsNumber(t *testing.T) {
	for _, group := range ours() {
		t.Run(group.Name(), func(t *testing.T) {
			base, other := group.NewBasePoint(), sample.Scalar(rand.Reader, group)
			encodedOther, err := other.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			for name, change := range map[string]func(s libcurve.Scalar){
				"add":         func(s libcurve.Scalar) { s.Add(other) },
				"add itself":  func(s libcurve.Scalar) { s.Add(s) },
				"sub":         func(s libcurve.Scalar) { s.Sub(other) },
				"sub itself":  func(s libcurve.Scalar) { s.Sub(s) },
				"negate":      func(s libcurve.Scalar) { s.Negate() },
				"mul":         func(s libcurve.Scalar) { s.Mul(other) },
				"mul itself":  func(s libcurve.Scalar) { s.Mul(s) },
				"mul index":   func(s libcurve.Scalar) { s.Mul(indexScalar(group, 3)) },
				"invert":      func(s libcurve.Scalar) { s.Invert() },
				"set":         func(s libcurve.Scalar) { s.Set(other) },
				"set index":   func(s libcurve.Scalar) { s.Set(indexScalar(group, 3)) },
				"set nat":     func(s libcurve.Scalar) { s.SetNat(new(saferith.Nat).SetBytes(encodedOther)) },
				"other index": func(s libcurve.Scalar) { s.SetNat(new(saferith.Nat).SetBytes([]byte{9})) },
				"index 0":     func(s libcurve.Scalar) { s.SetNat(new(saferith.Nat).SetBytes([]byte{0})) },
				"wipe":        WipeScalar,
				"read": func(s libcurve.Scalar) {
					if err := s.UnmarshalBinary(encodedOther); err != nil {
						t.Error(err)
					}
				},
				"read in vain": func(s libcurve.Scalar) {
					if s.UnmarshalBinary(bytes.Repeat([]byte{0xff}, ScalarSize)) == nil {
						t.Error("accepted")
					}
				},
				"argument": func(s libcurve.Scalar) { group.NewScalar().Add(s).Mul(s).Set(s).Sub(s) },
			} {
				for _, n := range []uint8{1, 2, 7, 16, 255} {
					s := indexScalar(group, n)
					change(s)
					if got, want := encoded(t, s.Act(base)), encoded(t, s.ActOnBase()); got != want {
						t.Errorf("%s of %d: multiplies by something else", name, n)
					}
					if m := markOf(t, s); m != 0 && number(t, s).Int64() != int64(m) {
						t.Errorf("%s of %d: marked %d", name, n, m)
					}
					kept := name == "read in vain" || name == "argument" || name == "other index"
					if (markOf(t, s) != 0) != kept {
						t.Errorf("%s of %d: marked %d", name, n, markOf(t, s))
					}
				}
			}
		})
	}
}
