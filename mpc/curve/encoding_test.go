package curve

import (
	"bytes"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
	"testing"

	"filippo.io/edwards25519"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	libcurve "github.com/taurusgroup/multi-party-sig/pkg/math/curve"
	"github.com/taurusgroup/multi-party-sig/pkg/math/sample"

	"vault-plugin-secrets-mpc/secret"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestP256Multiples: multiples of the base point of P-256 as NIST published
// them for implementers; k is decimal.
func TestP256Multiples(t *testing.T) {
	for _, c := range []struct{ k, point string }{
		{"1", "036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"},
		{"2", "037cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978"},
		{"3", "025ecbe4d1a6330a44c8f7ef951d4bf165e6c6b721efada985fb41661bc6e7fd6c"},
		{"4", "02e2534a3532d08fbba02dde659ee62bd0031fe2db785596ef509302446b030852"},
		{"112233445566778899", "03339150844ec15234807fe862a86be77977dbfb3ae3d96f4c22795513aeaab82f"},
		// n − 1: the base point with the other y
		{"115792089210356248762697446949407573529996955224135760342422259061068512044368",
			"026b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"},
	} {
		k, ok := new(big.Int).SetString(c.k, 10)
		if !ok {
			t.Fatal(c.k)
		}
		x := scalar(P256{}, k)
		if got := encoded(t, x.ActOnBase()); got != c.point {
			t.Errorf("%s·G = %s, want %s", c.k, got, c.point)
		}
		if got := encoded(t, x.Act(P256{}.NewBasePoint())); got != c.point {
			t.Errorf("%s·G = %s by the general multiplication, want %s", c.k, got, c.point)
		}
	}
}

// TestRFC8032Keys: the key pairs of RFC 8032, section 7.1, TEST 1 to TEST 3.
func TestRFC8032Keys(t *testing.T) {
	for _, c := range []struct{ seed, public string }{
		{"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"},
		{"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"},
		{"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7", "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"},
	} {
		h := sha512.Sum512(unhex(t, c.seed))
		clamped := h[:32]
		clamped[0] &= 248
		clamped[31] = clamped[31]&127 | 64
		slices.Reverse(clamped)
		if got := encoded(t, scalar(Edwards25519{}, new(big.Int).SetBytes(clamped)).ActOnBase()); got != c.public {
			t.Errorf("public key %s, want %s", got, c.public)
		}
		if got := ed25519.NewKeyFromSeed(unhex(t, c.seed)).Public().(ed25519.PublicKey); hex.EncodeToString(got) != c.public {
			t.Errorf("crypto/ed25519 has %x", got)
		}
		if _, err := ParsePoint(Edwards25519{}, unhex(t, c.public)); err != nil {
			t.Error(err)
		}
	}
}

// smallOrder are the eight points of edwards25519 whose order divides 8.
var smallOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}

// TestTorsionIsRefused: the points of small order, and honest points shifted by
// them, are on the curve but not in the group.
func TestTorsionIsRefused(t *testing.T) {
	_, honest := sample.ScalarPointPair(rand.Reader, Edwards25519{})
	seen := map[string]bool{}
	for k, s := range smallOrder {
		torsion, err := new(edwards25519.Point).SetBytes(unhex(t, s))
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if new(edwards25519.Point).MultByCofactor(torsion).Equal(edwards25519.NewIdentityPoint()) != 1 || seen[s] {
			t.Fatalf("%s is no new point of small order", s)
		}
		seen[s] = true
		if _, err := ParsePoint(Edwards25519{}, torsion.Bytes()); err == nil {
			t.Errorf("accepted small order %s", s)
		}
		shifted := new(edwards25519.Point).Add(edwards25519Point(honest), torsion)
		_, err = ParsePoint(Edwards25519{}, shifted.Bytes())
		if (err == nil) != (k == 0) { // the first is the identity and shifts nothing
			t.Errorf("P + %s: %v", s, err)
		}
	}
}

// TestNonCanonicalEdwards: y ≥ p with both signs, and a sign on x = 0.
func TestNonCanonicalEdwards(t *testing.T) {
	for low := 0xed; low <= 0xff; low++ {
		for _, top := range []byte{0x7f, 0xff} {
			b := bytes.Repeat([]byte{0xff}, 32)
			b[0], b[31] = byte(low), top
			if _, err := ParseEdwards25519(b); err == nil {
				t.Errorf("accepted %x", b)
			}
		}
	}
	for _, s := range []string{smallOrder[0], smallOrder[1]} {
		b := unhex(t, s)
		b[31] |= 0x80
		if _, err := ParsePoint(Edwards25519{}, b); err == nil {
			t.Errorf("accepted %x", b)
		}
	}
}

func TestParsePointRefuses(t *testing.T) {
	each(t, func(t *testing.T, group libcurve.Curve) {
		_, p := sample.ScalarPointPair(rand.Reader, group)
		good, err := p.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if q, err := ParsePoint(group, good); err != nil || !q.Equal(p) {
			t.Fatalf("an honest point: %v", err)
		}
		identity, err := group.NewPoint().MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		bad := map[string][]byte{
			"nothing": nil, "one zero": {0}, "one byte": {2},
			"short": good[:len(good)-1], "long": append(bytes.Clone(good), 0),
			"identity": identity, "zeros": make([]byte, len(good)), "ones": bytes.Repeat([]byte{0xff}, len(good)),
		}
		if PointSize(group) == 33 {
			for _, first := range []byte{0, 1, 4, 5, 6, 7, 0x82, 0xff} {
				bad["first byte "+hex.EncodeToString([]byte{first})] = append([]byte{first}, good[1:]...)
			}
			prime := "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f"
			if group.Name() == p256Name {
				prime = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff"
			}
			for k := int64(0); k < 20; k++ {
				x := new(big.Int).Add(new(big.Int).SetBytes(unhex(t, prime)), big.NewInt(k))
				if b := append([]byte{2}, x.Bytes()...); len(b) == 33 {
					bad["x = p + "+big.NewInt(k).String()] = b
				}
			}
			bad["uncompressed"] = append(append([]byte{4}, good[1:]...), good[1:]...)
		}
		for name, b := range bad {
			if _, err := ParsePoint(group, b); err == nil {
				t.Errorf("accepted %s: %x", name, b)
			}
			if err := group.NewPoint().UnmarshalBinary(b); err == nil && group.Name() != "secp256k1" {
				t.Errorf("UnmarshalBinary accepted %s: %x", name, b)
			}
		}
		// About half of all x (and y) belong to no point.
		refused := 0
		for range 64 {
			b := bytes.Clone(good)
			if _, err := rand.Read(b[1:31]); err != nil {
				t.Fatal(err)
			}
			if _, err := ParsePoint(group, b); err != nil {
				refused++
			}
		}
		if refused < 8 {
			t.Errorf("only %d of 64 random encodings refused", refused)
		}
	})
}

// TestFailedDecodingKeepsTheReceiver: after an error the old value is there.
func TestFailedDecodingKeepsTheReceiver(t *testing.T) {
	for _, group := range []libcurve.Curve{P256{}, Edwards25519{}} {
		p, x := group.NewBasePoint(), scalar(group, big.NewInt(5))
		if p.UnmarshalBinary(bytes.Repeat([]byte{0xff}, PointSize(group))) == nil || !p.Equal(group.NewBasePoint()) {
			t.Errorf("%s: point", group.Name())
		}
		if x.UnmarshalBinary(bytes.Repeat([]byte{0xff}, ScalarSize)) == nil || number(t, x).Int64() != 5 {
			t.Errorf("%s: scalar", group.Name())
		}
	}
}

func TestParseScalar(t *testing.T) {
	each(t, func(t *testing.T, group libcurve.Curve) {
		q := group.Order().Big()
		for name, c := range map[string]struct {
			b  []byte
			ok bool
		}{
			"1":                {append(make([]byte, 31), 1), true},
			"order − 1":        {new(big.Int).Sub(q, big.NewInt(1)).FillBytes(make([]byte, 32)), true},
			"0":                {make([]byte, 32), false},
			"order":            {q.FillBytes(make([]byte, 32)), false},
			"order + 1":        {new(big.Int).Add(q, big.NewInt(1)).FillBytes(make([]byte, 32)), false},
			"largest":          {bytes.Repeat([]byte{0xff}, 32), false},
			"nothing":          {nil, false},
			"short":            {append(make([]byte, 30), 1), false},
			"long":             {append(make([]byte, 32), 1), false},
			"long, zero ahead": {append(make([]byte, 1), bytes.Repeat([]byte{1}, 32)...), false},
		} {
			s := secret.Copy(c.b)
			x, err := ParseScalar(group, s)
			if (err == nil) != c.ok {
				t.Errorf("%s: %v", name, err)
			}
			if err != nil && strings.Contains(err.Error(), hex.EncodeToString(c.b)) && len(c.b) > 0 {
				t.Errorf("%s: the error shows the scalar", name)
			}
			if !bytes.Equal(s.Expose(), c.b) {
				t.Errorf("%s: the input was changed", name)
			}
			if c.ok && number(t, x).Cmp(new(big.Int).SetBytes(c.b)) != 0 {
				t.Errorf("%s: %v", name, number(t, x))
			}
		}
	})
}

// inGroup checks a point's encoding by other means than the decoder's.
func inGroup(t *testing.T, group libcurve.Curve, b []byte, p libcurve.Point) {
	t.Helper()
	switch group.(type) {
	case P256:
		if x, _ := elliptic.UnmarshalCompressed(elliptic.P256(), b); x == nil {
			t.Fatalf("%x is not on P-256", b)
		}
	case Edwards25519:
		// A point of order ℓ is 8 · (8⁻¹ · P); a small-order part does not
		// survive the 8.
		q := scalar(group, big.NewInt(8)).Invert().Act(p)
		if new(edwards25519.Point).MultByCofactor(edwards25519Point(q)).Equal(edwards25519Point(p)) != 1 {
			t.Fatalf("%x has a small-order part", b)
		}
	default:
		if _, err := secp256k1.ParsePubKey(b); err != nil {
			t.Fatalf("%x is not on secp256k1", b)
		}
	}
}

func FuzzParsePoint(f *testing.F) {
	for k, group := range groups() {
		b, err := group.NewBasePoint().MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(k), b)
	}
	for _, s := range smallOrder {
		f.Add(uint8(2), unhex(f, s))
	}
	f.Add(uint8(1), []byte{0})
	f.Fuzz(func(t *testing.T, k uint8, b []byte) {
		group := groups()[int(k)%3]
		p, err := ParsePoint(group, b)
		if q, vouched := ParseVouchedPoint(group, b); err == nil && (vouched != nil || !q.Equal(p)) {
			t.Fatalf("%x: vouched for, another point: %v", b, vouched)
		}
		if group.Name() == edwards25519Name && len(b) == 32 {
			agree(t, b)
		}
		if err != nil {
			return
		}
		if again, err := p.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
		inGroup(t, group, b, p)
	})
}

func FuzzParseScalar(f *testing.F) {
	for k, group := range groups() {
		f.Add(uint8(k), group.Order().Big().FillBytes(make([]byte, 32)))
		f.Add(uint8(k), append(make([]byte, 31), 1))
	}
	f.Add(uint8(0), []byte{})
	f.Fuzz(func(t *testing.T, k uint8, b []byte) {
		group := groups()[int(k)%3]
		x, err := ParseScalar(group, secret.Copy(b))
		n := new(big.Int).SetBytes(b)
		if valid := len(b) == ScalarSize && n.Sign() > 0 && n.Cmp(group.Order().Big()) < 0; valid != (err == nil) {
			t.Fatalf("%x: %v", b, err)
		}
		if err != nil {
			return
		}
		if again, err := x.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}
