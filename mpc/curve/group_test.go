package curve

import (
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/cronokirby/saferith"
	"github.com/fxamacker/cbor/v2"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/math/sample"
	"github.com/taurusgroup/multi-party-sig/pkg/party"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// groups are all that For can return, the library's secp256k1 included: what
// the tests ask of ours holds for it, too.
func groups() []libcurve.Curve {
	return []libcurve.Curve{libcurve.Secp256k1{}, P256{}, Edwards25519{}}
}

func each(t *testing.T, f func(*testing.T, libcurve.Curve)) {
	for _, group := range groups() {
		t.Run(group.Name(), func(t *testing.T) { f(t, group) })
	}
}

func number(t testing.TB, s libcurve.Scalar) *big.Int {
	t.Helper()
	b, err := s.MarshalBinary()
	if err != nil || len(b) != ScalarSize {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	return new(big.Int).SetBytes(b)
}

func scalar(group libcurve.Curve, n *big.Int) libcurve.Scalar {
	n = new(big.Int).Mod(n, group.Order().Big())
	return group.NewScalar().SetNat(new(saferith.Nat).SetBig(n, 256))
}

// edges are the numbers where carries and reductions happen, and random ones.
func edges(t *testing.T, group libcurve.Curve) []*big.Int {
	t.Helper()
	q := group.Order().Big()
	out := []*big.Int{big.NewInt(0), big.NewInt(1), big.NewInt(2),
		new(big.Int).Sub(q, big.NewInt(1)), new(big.Int).Sub(q, big.NewInt(2)),
		new(big.Int).Rsh(q, 1), new(big.Int).Add(new(big.Int).Rsh(q, 1), big.NewInt(1))}
	for range 6 {
		n, err := rand.Int(rand.Reader, q)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// TestScalarsAgreeWithMathBig: every operation gives what math/big gives,
// changes its receiver only, and works when both operands are one object.
func TestScalarsAgreeWithMathBig(t *testing.T) {
	each(t, func(t *testing.T, group libcurve.Curve) {
		q := group.Order().Big()
		half := new(big.Int).Rsh(q, 1)
		for _, a := range edges(t, group) {
			for _, b := range edges(t, group) {
				for name, op := range map[string]struct {
					got  func(x, y libcurve.Scalar) libcurve.Scalar
					want *big.Int
				}{
					"add": {func(x, y libcurve.Scalar) libcurve.Scalar { return x.Add(y) }, new(big.Int).Add(a, b)},
					"sub": {func(x, y libcurve.Scalar) libcurve.Scalar { return x.Sub(y) }, new(big.Int).Sub(a, b)},
					"mul": {func(x, y libcurve.Scalar) libcurve.Scalar { return x.Mul(y) }, new(big.Int).Mul(a, b)},
					"set": {func(x, y libcurve.Scalar) libcurve.Scalar { return x.Set(y) }, b},
				} {
					x, y := scalar(group, a), scalar(group, b)
					got := op.got(x, y)
					if got != x {
						t.Fatalf("%s did not return its receiver", name)
					}
					if want := new(big.Int).Mod(op.want, q); number(t, got).Cmp(want) != 0 {
						t.Fatalf("%v %s %v = %v, want %v", a, name, b, number(t, got), want)
					}
					if number(t, y).Cmp(b) != 0 {
						t.Fatalf("%s changed its argument", name)
					}
				}
				if scalar(group, a).Equal(scalar(group, b)) != (a.Cmp(b) == 0) {
					t.Fatalf("Equal(%v, %v)", a, b)
				}
			}
			x := scalar(group, a)
			if want := new(big.Int).Mod(new(big.Int).Lsh(a, 1), q); number(t, x.Add(x)).Cmp(want) != 0 {
				t.Fatalf("%v added to itself", a)
			}
			x = scalar(group, a)
			if want := new(big.Int).Mod(new(big.Int).Mul(a, a), q); number(t, x.Mul(x)).Cmp(want) != 0 {
				t.Fatalf("%v squared", a)
			}
			if x = scalar(group, a); number(t, x.Sub(x)).Sign() != 0 {
				t.Fatalf("%v minus itself", a)
			}
			if want := new(big.Int).Mod(new(big.Int).Neg(a), q); number(t, scalar(group, a).Negate()).Cmp(want) != 0 {
				t.Fatalf("−%v", a)
			}
			if a.Sign() != 0 {
				if want := new(big.Int).ModInverse(a, q); number(t, scalar(group, a).Invert()).Cmp(want) != 0 {
					t.Fatalf("%v⁻¹", a)
				}
			}
			if scalar(group, a).IsZero() != (a.Sign() == 0) {
				t.Fatalf("IsZero(%v)", a)
			}
			if scalar(group, a).IsOverHalfOrder() != (a.Cmp(half) > 0) {
				t.Fatalf("IsOverHalfOrder(%v)", a)
			}
		}
	})
}

// TestSetNatReduces: numbers longer than the order are reduced, as sampling and
// hashing need it, and the source stays as it was.
func TestSetNatReduces(t *testing.T) {
	each(t, func(t *testing.T, group libcurve.Curve) {
		b := make([]byte, 64)
		for range 20 {
			if _, err := rand.Read(b); err != nil {
				t.Fatal(err)
			}
			n := new(saferith.Nat).SetBytes(b)
			want := new(big.Int).Mod(new(big.Int).SetBytes(b), group.Order().Big())
			if got := number(t, group.NewScalar().SetNat(n)); got.Cmp(want) != 0 {
				t.Fatalf("%x: %v, want %v", b, got, want)
			}
			if n.Big().Cmp(new(big.Int).SetBytes(b)) != 0 {
				t.Fatal("the source changed")
			}
		}
	})
}

// TestGroupLaws: associativity, commutativity, identity, inverse and
// distributivity on random points and on the edges.
func TestGroupLaws(t *testing.T) {
	each(t, func(t *testing.T, group libcurve.Curve) {
		zero, base := group.NewPoint(), group.NewBasePoint()
		if !zero.IsIdentity() || base.IsIdentity() {
			t.Fatal("identity and base point")
		}
		_, r := sample.ScalarPointPair(rand.Reader, group)
		for _, a := range edges(t, group) {
			x := scalar(group, a)
			p := x.ActOnBase()
			if !x.Act(base).Equal(p) {
				t.Fatalf("%v·G is not %v on the base", a, a)
			}
			if p.IsIdentity() != (a.Sign() == 0) {
				t.Fatalf("%v·G is the identity: %v", a, p.IsIdentity())
			}
			before, _ := p.MarshalBinary()
			for name, same := range map[string][2]libcurve.Point{
				"P + 0":        {p.Add(zero), p},
				"0 + P":        {zero.Add(p), p},
				"P − P":        {p.Sub(p), zero},
				"P + (−P)":     {p.Add(p.Negate()), zero},
				"P + P":        {p.Add(p), scalar(group, big.NewInt(2)).Act(p)},
				"P + R":        {p.Add(r), r.Add(p)},
				"P − R":        {p.Sub(r), r.Sub(p).Negate()},
				"(P + G) + R":  {p.Add(base).Add(r), p.Add(base.Add(r))},
				"x·0":          {x.Act(zero), zero},
				"0·P":          {group.NewScalar().Act(p), zero},
				"(x + 1)·R":    {scalar(group, new(big.Int).Add(a, big.NewInt(1))).Act(r), x.Act(r).Add(r)},
				"x·(R + G)":    {x.Act(r.Add(base)), x.Act(r).Add(p)},
				"(−x)·G = −P":  {scalar(group, a).Negate().ActOnBase(), p.Negate()},
				"(q − 1)·P":    {scalar(group, big.NewInt(-1)).Act(p), p.Negate()},
				"zero element": {zero.Add(zero), zero},
			} {
				// The library's secp256k1 compares coordinates, and its
				// identities have several.
				if same[0].IsIdentity() && same[1].IsIdentity() {
					continue
				}
				if !same[0].Equal(same[1]) {
					t.Fatalf("x = %v: %s", a, name)
				}
			}
			if after, _ := p.MarshalBinary(); string(after) != string(before) {
				t.Fatal("an operation changed its operand")
			}
		}
	})
}

// TestP256AgreesWithTheStandardLibrary compares k·G and ECDH with crypto/ecdh,
// and additions with crypto/elliptic's addition of affine coordinates.
func TestP256AgreesWithTheStandardLibrary(t *testing.T) {
	for range 20 {
		a, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		x, y := new(P256Scalar), new(P256Scalar)
		if x.UnmarshalBinary(a.Bytes()) != nil || y.UnmarshalBinary(b.Bytes()) != nil {
			t.Fatal("a key of crypto/ecdh is no scalar")
		}
		if got, want := encoded(t, x.ActOnBase()), compress(a.PublicKey().Bytes()); got != want {
			t.Fatalf("x·G = %s, want %s", got, want)
		}
		shared, err := a.ECDH(b.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		xy := x.Act(y.ActOnBase())
		if got := encoded(t, xy)[2:]; got != hex.EncodeToString(shared) {
			t.Fatalf("x·(y·G) = %s, want %x", got, shared)
		}
		want := new(big.Int).Mod(new(big.Int).SetBytes(shared), P256{}.Order().Big())
		if got := number(t, xy.XScalar()); got.Cmp(want) != 0 {
			t.Fatalf("XScalar = %v, want %v", got, want)
		}
		p, q := a.PublicKey().Bytes(), b.PublicKey().Bytes()
		//lint:ignore SA1019 an independent addition formula is what the test needs
		sx, sy := elliptic.P256().Add(big256(p[1:33]), big256(p[33:]), big256(q[1:33]), big256(q[33:]))
		if got, want := encoded(t, x.ActOnBase().Add(y.ActOnBase())), hex.EncodeToString(elliptic.MarshalCompressed(elliptic.P256(), sx, sy)); got != want {
			t.Fatalf("P + Q = %s, want %s", got, want)
		}
	}
}

// TestXScalarReduces uses the first point whose x is at least the order: x and
// x modulo the order differ for one point in 2³².
func TestXScalarReduces(t *testing.T) {
	n := P256{}.Order().Big()
	for k := int64(0); ; k++ {
		x := new(big.Int).Add(n, big.NewInt(k))
		p := P256{}.NewPoint()
		if err := p.UnmarshalBinary(append([]byte{2}, x.Bytes()...)); err != nil {
			continue
		}
		if got := number(t, p.XScalar()); got.Int64() != k {
			t.Fatalf("XScalar of x = n + %d is %v", k, got)
		}
		return
	}
}

func big256(b []byte) *big.Int { return new(big.Int).SetBytes(b) }

func compress(b []byte) string {
	return fmt.Sprintf("%02x%x", 2+b[64]&1, b[1:33])
}

func encoded(t testing.TB, p libcurve.Point) string {
	t.Helper()
	b, err := p.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

// TestCBOR: values go through the library's way of storing them, where the
// receiver is pre-seeded with an element of the group.
func TestCBOR(t *testing.T) {
	each(t, func(t *testing.T, group libcurve.Curve) {
		x, p := sample.ScalarPointPair(rand.Reader, group)
		type body struct {
			Point  libcurve.Point
			Scalar libcurve.Scalar
		}
		b, err := cbor.Marshal(body{p, x})
		if err != nil {
			t.Fatal(err)
		}
		got := body{group.NewPoint(), group.NewScalar()}
		if err := cbor.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if !got.Point.Equal(p) || !got.Scalar.Equal(x) {
			t.Fatal("other values came back")
		}
		m := party.NewPointMap(map[party.ID]libcurve.Point{"\x01": p, "\x02": p.Add(p)})
		if b, err = cbor.Marshal(m); err != nil {
			t.Fatal(err)
		}
		back := party.EmptyPointMap(group)
		if err := cbor.Unmarshal(b, back); err != nil {
			t.Fatal(err)
		}
		if !back.Points["\x02"].Equal(p.Add(p)) {
			t.Fatal("another point came back from the map")
		}
	})
}

func TestForAndByName(t *testing.T) {
	for _, a := range mpc.Algorithms() {
		group, err := For(a)
		if err != nil {
			t.Fatal(err)
		}
		if PointSize(group) != a.PublicShareSize() {
			t.Errorf("%s: points of %d bytes", a, PointSize(group))
		}
		if again, ok := ByName(group.Name()); !ok || again != group {
			t.Errorf("%s: ByName(%q)", a, group.Name())
		}
	}
	if _, err := For("rot13"); err == nil {
		t.Error("a group for rot13")
	}
	if _, ok := ByName("P-384"); ok {
		t.Error("a group for P-384")
	}
}

// TestScalarsDoNotPrint: neither formatting nor the panic for a scalar of
// another group shows a number.
func TestScalarsDoNotPrint(t *testing.T) {
	for _, s := range []libcurve.Scalar{scalar(P256{}, big.NewInt(0x5eccec)), scalar(Edwards25519{}, big.NewInt(0x5eccec))} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%d", "%s"} {
			if got := fmt.Sprintf(verb, s); got != redacted {
				t.Errorf("%T with %s: %s", s, verb, got)
			}
		}
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, "curve: ") || strings.Contains(got, "236") {
					t.Errorf("%T: panic %q", s, got)
				}
			}()
			s.Add(new(libcurve.Secp256k1Scalar))
		}()
	}
}

func TestWipeScalar(t *testing.T) {
	WipeScalar(nil)
	WipeScalar((*P256Scalar)(nil))
	WipeScalar((*Edwards25519Scalar)(nil))
	WipeScalar((*libcurve.Secp256k1Scalar)(nil))
	each(t, func(t *testing.T, group libcurve.Curve) {
		x, err := ParseScalar(group, secret.New(append(make([]byte, 31), 7)))
		if err != nil {
			t.Fatal(err)
		}
		if number(t, x).Int64() != 7 {
			t.Fatal("another scalar was read")
		}
		if WipeScalar(x); !x.IsZero() {
			t.Fatal("not wiped")
		}
	})
}
