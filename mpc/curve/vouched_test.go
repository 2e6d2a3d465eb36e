package curve

import (
	"bytes"
	"crypto/rand"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/edwards25519"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/math/sample"
)

// parsedSlowly is the decoder of edwards25519 in its simplest form: a point is
// what encodes to the same bytes again, and is not the identity; in the group
// is what is the identity ℓ times.
func parsedSlowly(b []byte) (onCurve, inGroup bool) {
	p, err := new(edwards25519.Point).SetBytes(b)
	if err != nil || !bytes.Equal(p.Bytes(), b) || p.Equal(edwards25519.NewIdentityPoint()) == 1 {
		return false, false
	}
	q := new(edwards25519.Point).ScalarMult(edwards25519MinusOne, p)
	return true, q.Add(q, p).Equal(edwards25519.NewIdentityPoint()) == 1
}

// agree compares both decoders with parsedSlowly. The vouched one refuses one
// point more than it has to, that of order 2.
func agree(t *testing.T, b []byte) {
	t.Helper()
	onCurve, inGroup := parsedSlowly(b)
	p, err := ParseEdwards25519(b)
	if (err == nil) != inGroup {
		t.Fatalf("%x: in the group: %v, and %v", b, inGroup, err)
	}
	q, vouched := ParseVouchedEdwards25519(b)
	orderTwo := bytes.Equal(b, append([]byte{0xec}, append(bytes.Repeat([]byte{0xff}, 30), 0x7f)...))
	if (vouched == nil) != (onCurve && !orderTwo) {
		t.Fatalf("%x: on the curve: %v, and %v", b, onCurve, vouched)
	}
	for _, got := range []*edwards25519.Point{p, q} {
		if got != nil && !bytes.Equal(got.Bytes(), b) {
			t.Fatalf("%x became %x", b, got.Bytes())
		}
	}
}

// TestEdwardsDecoderAgrees: at every y where an encoding can be ambiguous, with
// both signs, and elsewhere.
func TestEdwardsDecoderAgrees(t *testing.T) {
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	both := func(y *big.Int) {
		b := y.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		agree(t, b)
		b[31] |= 0x80
		agree(t, b)
	}
	for k := range int64(64) {
		both(big.NewInt(k))
		both(new(big.Int).Sub(prime, big.NewInt(k)))
		if k < 19 {
			both(new(big.Int).Add(prime, big.NewInt(k))) // up to 2²⁵⁵ − 1
		}
		// Almost p: one byte less somewhere.
		if k < 31 {
			both(new(big.Int).Sub(prime, new(big.Int).Lsh(big.NewInt(1), uint(8*k))))
		}
	}
	for _, s := range smallOrder {
		agree(t, unhex(t, s))
	}
	b := make([]byte, 32)
	for range 500 {
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
		agree(t, b)
	}
	for _, b := range [][]byte{nil, {1}, make([]byte, 31), make([]byte, 33)} {
		if _, err := ParseVouchedEdwards25519(b); !errors.Is(err, ErrPoint) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

// TestVouchedPoints: the order is all that ParseVouchedPoint does not look at,
// and it is looked at everywhere else.
func TestVouchedPoints(t *testing.T) {
	each(t, func(t *testing.T, group libcurve.Curve) {
		_, p := sample.ScalarPointPair(rand.Reader, group)
		good, err := p.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if q, err := ParseVouchedPoint(group, good); err != nil || !q.Equal(p) {
			t.Fatalf("an honest point: %v", err)
		}
		identity, _ := group.NewPoint().MarshalBinary()
		for _, b := range [][]byte{nil, good[1:], append(bytes.Clone(good), 0), identity,
			make([]byte, len(good)-1), bytes.Repeat([]byte{0xff}, len(good)), append([]byte{7}, good[1:]...)} {
			if q, err := ParseVouchedPoint(group, b); err == nil && (len(good) == 33 || !bytes.Equal(mustEncode(t, q), b)) {
				t.Errorf("accepted %x", b)
			}
		}
	})
	_, honest := sample.ScalarPointPair(rand.Reader, Edwards25519{})
	torsion, err := new(edwards25519.Point).SetBytes(unhex(t, smallOrder[4]))
	if err != nil {
		t.Fatal(err)
	}
	mixed := honest.Add(&Edwards25519Point{torsion})
	b := mustEncode(t, mixed)
	if q, err := ParseVouchedPoint(Edwards25519{}, b); err != nil || !q.Equal(mixed) {
		t.Errorf("a mixed point that somebody vouches for: %v", err)
	}
	if _, err := ParsePoint(Edwards25519{}, b); err == nil {
		t.Error("ParsePoint took a mixed point")
	}
	if err := new(Edwards25519Point).UnmarshalBinary(b); err == nil {
		t.Error("UnmarshalBinary, which the library decodes messages with, took a mixed point")
	}
}

func mustEncode(t testing.TB, p libcurve.Point) []byte {
	t.Helper()
	b, err := p.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWhoReadsVouchedPoints keeps the readers of unchecked points few. A new one
// has to find out who checked its points, say so, and come into this list.
func TestWhoReadsVouchedPoints(t *testing.T) {
	want := []string{
		"mpc/curve/curve.go", // they are made here
		"mpc/curve/edwards25519.go",
		"mpc/frost/ed25519.go", // both: the record under which a share was opened
		"mpc/frost/points.go",
	}
	var got []string
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		found := false
		ast.Inspect(file, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			found = found || ok && strings.HasPrefix(id.Name, "ParseVouched")
			return !found
		})
		if found {
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			got = append(got, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("read in %v, want %v", got, want)
	}
}
