package derive

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	mrand "math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

func vectors(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile("../../testdata/vectors/" + name)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// parseXpub reads a Base58Check extended public key (BIP-32, "Serialization
// format"): 4 bytes version, depth, 4 fingerprint, 4 child number, 32 chain
// code, 33 key, 4 checksum.
func parseXpub(t *testing.T, s string) (chainCode [32]byte, key []byte) {
	t.Helper()
	const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	n := new(big.Int)
	for _, c := range s {
		n.Mul(n, big.NewInt(58)).Add(n, big.NewInt(int64(strings.IndexRune(alphabet, c))))
	}
	b := n.FillBytes(make([]byte, 82))
	sum := sha256.Sum256(b[:78])
	if sum = sha256.Sum256(sum[:]); !bytes.Equal(sum[:4], b[78:]) {
		t.Fatalf("%s: wrong checksum", s)
	}
	return [32]byte(b[13:45]), b[45:78]
}

func TestBIP32(t *testing.T) {
	var cases []struct{ Parent, Path, Child string }
	vectors(t, "bip32.json", &cases)
	if len(cases) != 6 {
		t.Fatalf("%d vectors", len(cases))
	}
	for _, c := range cases {
		code, key := parseXpub(t, c.Parent)
		wantCode, wantKey := parseXpub(t, c.Child)
		child, err := Derive(&mpc.PublicRecord{Algorithm: mpc.ECDSASecp256k1, PublicKey: key, ChainCode: code}, mpc.Derivation{Path: c.Path})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(child.PublicKey, wantKey) || child.ChainCode != wantCode {
			t.Errorf("%s %s: got %x %x", c.Parent, c.Path, child.PublicKey, child.ChainCode)
		}
	}
}

func TestBIP341(t *testing.T) {
	var cases []struct {
		Internal        string  `json:"internal_public_key"`
		Root            *string `json:"merkle_root"`
		Tweaked         string  `json:"tweaked_public_key"`
		InternalPrivate string  `json:"internal_private_key"`
		TweakedPrivate  string  `json:"tweaked_private_key"`
	}
	vectors(t, "bip341.json", &cases)
	if len(cases) != 7 {
		t.Fatalf("%d vectors", len(cases))
	}
	for i, c := range cases {
		tweak := BIP86
		if c.Root != nil {
			tweak = *c.Root
		}
		child, err := Derive(&mpc.PublicRecord{Algorithm: mpc.BIP340Secp256k1, PublicKey: unhex(t, c.Internal)}, mpc.Derivation{TaprootTweak: tweak})
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(child.PublicKey); got != c.Tweaked {
			t.Errorf("vector %d: %s, want %s", i, got, c.Tweaked)
		}
		// An account's private key is the one whose point has an even y.
		private := secp256k1.PrivKeyFromBytes(unhex(t, c.InternalPrivate))
		if private.PubKey().SerializeCompressed()[0] == 3 {
			private.Key.Negate()
		}
		moved, err := child.Share(secret.New(private.Serialize()))
		if err != nil {
			t.Fatal(err)
		}
		// The vector's key may belong to the odd point; ours never does.
		want := secp256k1.PrivKeyFromBytes(unhex(t, c.TweakedPrivate))
		if want.PubKey().SerializeCompressed()[0] == 3 {
			want.Key.Negate()
		}
		if !bytes.Equal(moved.Expose(), want.Serialize()) {
			t.Errorf("vector %d: another private key", i)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var order, _ = new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16) // read only

// deal shares a random key by Shamir's scheme in big.Int arithmetic.
func deal(t *testing.T, a mpc.Algorithm, threshold, n int) (*mpc.PublicRecord, [][]byte) {
	t.Helper()
	number := func() *big.Int {
		x, err := rand.Int(rand.Reader, order)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	coefficients := make([]*big.Int, threshold)
	for i := range coefficients {
		coefficients[i] = number()
	}
	public := func(x *big.Int) []byte {
		return secp256k1.PrivKeyFromBytes(x.FillBytes(make([]byte, 32))).PubKey().SerializeCompressed()
	}
	if a == mpc.BIP340Secp256k1 && public(coefficients[0])[0] == 3 {
		for _, c := range coefficients {
			c.Sub(order, c)
		}
	}
	r := &mpc.PublicRecord{Algorithm: a, Threshold: threshold, Shares: n, PublicKey: public(coefficients[0])}
	if a == mpc.BIP340Secp256k1 {
		r.PublicKey = r.PublicKey[1:]
	}
	_, _ = rand.Read(r.ChainCode[:])
	var shares [][]byte
	for i := 1; i <= n; i++ {
		x := new(big.Int)
		for k := threshold - 1; k >= 0; k-- {
			x.Mul(x, big.NewInt(int64(i))).Add(x, coefficients[k]).Mod(x, order)
		}
		shares = append(shares, x.FillBytes(make([]byte, 32)))
		r.PublicShares = append(r.PublicShares, public(x))
	}
	return r, shares
}

// combine interpolates the shares with the indices at 0.
func combine(indices []int, shares [][]byte) *big.Int {
	sum := new(big.Int)
	for _, i := range indices {
		num, den := big.NewInt(1), big.NewInt(1)
		for _, j := range indices {
			if i != j {
				num.Mul(num, big.NewInt(int64(j)))
				den.Mul(den, big.NewInt(int64(j-i)))
			}
		}
		num.Mul(num, den.ModInverse(den.Mod(den, order), order))
		sum.Add(sum, num.Mul(num, new(big.Int).SetBytes(shares[i-1])))
	}
	return sum.Mod(sum, order)
}

// TestShares: t moved shares give the private key of the child's public key,
// and each fits the child's record.
func TestShares(t *testing.T) {
	root := strings.Repeat("5b", 32)
	odd := map[bool]int{}
	for _, a := range []mpc.Algorithm{mpc.ECDSASecp256k1, mpc.BIP340Secp256k1} {
		for i := range 40 {
			threshold := 2 + i%3
			n := threshold + i%4
			record, shares := deal(t, a, threshold, n)
			d := mpc.Derivation{}
			for range i % 5 {
				d.Path += fmt.Sprintf("/%d", mrand.Uint32N(hardened))
			}
			if d.Path != "" {
				d.Path = "m" + d.Path
			}
			if a == mpc.BIP340Secp256k1 {
				d.TaprootTweak = []string{"", BIP86, root}[i%3]
			}
			child, err := Derive(record, d)
			if err != nil {
				t.Fatal(err)
			}
			if child.Own() != (d == mpc.Derivation{}) {
				t.Errorf("%v: Own is %v", d, child.Own())
			}
			odd[child.negate]++
			moved, err := child.Record(record)
			if err != nil {
				t.Fatal(err)
			}
			var movedShares [][]byte
			for k, share := range shares {
				s := secret.Copy(share)
				m, err := child.Share(s)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(s.Expose(), share) {
					t.Fatal("the share was changed")
				}
				public := secp256k1.PrivKeyFromBytes(m.Expose()).PubKey().SerializeCompressed()
				if !bytes.Equal(public, moved.PublicShares[k]) {
					t.Errorf("%s %v: share %d does not fit the child's record", a, d, k+1)
				}
				movedShares = append(movedShares, m.Expose())
			}
			indices := mrand.Perm(n)[:threshold]
			for k := range indices {
				indices[k]++
			}
			key := combine(indices, movedShares).FillBytes(make([]byte, 32))
			public := secp256k1.PrivKeyFromBytes(key).PubKey().SerializeCompressed()
			if a == mpc.BIP340Secp256k1 {
				if public[0] != 2 {
					t.Errorf("%v: the child's shares give the key of the odd point", d)
				}
				public = public[1:]
			}
			if !bytes.Equal(public, child.PublicKey) || !bytes.Equal(public, moved.PublicKey) {
				t.Errorf("%s %v: the shares give another key", a, d)
			}
		}
	}
	if odd[true] == 0 || odd[false] == 0 {
		t.Errorf("signs of the map: %v; the test needs both", odd)
	}
}

func TestRefusals(t *testing.T) {
	record, _ := deal(t, mpc.ECDSASecp256k1, 2, 3)
	taproot, _ := deal(t, mpc.BIP340Secp256k1, 2, 3)
	childless := &mpc.PublicRecord{Algorithm: mpc.Ed25519, PublicKey: make([]byte, 32)}
	deep := "m" + strings.Repeat("/1", MaxDepth)
	if _, err := Derive(record, mpc.Derivation{Path: deep}); err != nil {
		t.Errorf("%d steps: %v", MaxDepth, err)
	}
	for _, c := range []struct {
		record *mpc.PublicRecord
		d      mpc.Derivation
		want   error
	}{
		{record, mpc.Derivation{Path: deep + "/1"}, ErrPath},
		{record, mpc.Derivation{Path: "m/0'"}, ErrPath},
		{record, mpc.Derivation{Path: "m/0h"}, ErrPath},
		{record, mpc.Derivation{Path: "m/0H"}, ErrPath},
		{record, mpc.Derivation{Path: "m/2147483648"}, ErrPath},
		{record, mpc.Derivation{Path: "m/4294967296"}, ErrPath},
		{record, mpc.Derivation{Path: "m/"}, ErrPath},
		{record, mpc.Derivation{Path: "/1"}, ErrPath},
		{record, mpc.Derivation{Path: "m1"}, ErrPath},
		{record, mpc.Derivation{Path: "M/1"}, ErrPath},
		{record, mpc.Derivation{Path: "m//1"}, ErrPath},
		{record, mpc.Derivation{Path: "m/ 1"}, ErrPath},
		{record, mpc.Derivation{Path: "m/+1"}, ErrPath},
		{record, mpc.Derivation{Path: "m/-1"}, ErrPath},
		{record, mpc.Derivation{Path: "m/01"}, ErrPath},
		{record, mpc.Derivation{Path: "m/٣"}, ErrPath},
		{record, mpc.Derivation{Path: "m/0x1"}, ErrPath},
		{record, mpc.Derivation{TaprootTweak: BIP86}, ErrAlgorithm},
		{taproot, mpc.Derivation{TaprootTweak: "BIP86"}, ErrTweak},
		{taproot, mpc.Derivation{TaprootTweak: "0b"}, ErrTweak},
		{taproot, mpc.Derivation{TaprootTweak: strings.Repeat("0b", 33)}, ErrTweak},
		{childless, mpc.Derivation{Path: "m/1"}, ErrAlgorithm},
		{childless, mpc.Derivation{TaprootTweak: BIP86}, ErrAlgorithm},
	} {
		if _, err := Derive(c.record, c.d); !errors.Is(err, c.want) {
			t.Errorf("%s %+v: %v, want %v", c.record.Algorithm, c.d, err, c.want)
		}
	}
	for _, own := range []string{"", "m"} {
		for _, r := range []*mpc.PublicRecord{record, taproot, childless} {
			child, err := Derive(r, mpc.Derivation{Path: own})
			if err != nil || !child.Own() || !bytes.Equal(child.PublicKey, r.PublicKey) {
				t.Errorf("%s %q: %v", r.Algorithm, own, err)
			}
		}
	}
	child, err := Derive(record, mpc.Derivation{Path: "m/1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, make([]byte, 31), make([]byte, 33), bytes.Repeat([]byte{255}, 32)} {
		if _, err := child.Share(secret.Copy(bad)); !errors.Is(err, mpc.ErrShareMismatch) {
			t.Errorf("a share of %d bytes: %v", len(bad), err)
		}
	}
	if _, err := child.Record(taproot); err == nil {
		t.Error("a record of another algorithm was moved")
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"", "m", "m/0/7", "0/7", "m/2147483647", "m/0'", "m//", "m/01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, err := ParsePath(s)
		if err != nil {
			if !errors.Is(err, ErrPath) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again := "m"
		for _, step := range path {
			if step >= hardened {
				t.Fatalf("%q: a hardened step", s)
			}
			again += fmt.Sprintf("/%d", step)
		}
		if s != again && "m/"+s != again && !(s == "" && again == "m") {
			t.Errorf("%q was read as %s", s, again)
		}
	})
}
