package verify

import (
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"os"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
)

func TestBIP340Vectors(t *testing.T) {
	f, err := os.Open("../../testdata/vectors/bip340.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 20 {
		t.Fatalf("%d rows, want a header and 19 vectors", len(rows))
	}
	for _, row := range rows[1:] {
		pub, msg, sig := unhex(t, row[2]), unhex(t, row[4]), unhex(t, row[5])
		want := row[6] == "TRUE"
		if got := BIP340(pub, msg, sig); got != want {
			t.Errorf("vector %s (%s): valid = %v, want %v", row[0], row[7], got, want)
		}
		if !want {
			continue
		}
		for _, i := range []int{0, 31, 32, 63} {
			bad := append([]byte(nil), sig...)
			bad[i] ^= 1
			if BIP340(pub, msg, bad) {
				t.Errorf("vector %s: valid with byte %d of the signature changed", row[0], i)
			}
		}
		if BIP340(pub, append(msg, 0), sig) {
			t.Errorf("vector %s: valid for another message", row[0])
		}
	}
}

func TestBIP340Lengths(t *testing.T) {
	for _, n := range []int{0, 31, 33} {
		if BIP340(make([]byte, n), nil, make([]byte, 64)) {
			t.Errorf("a public key of %d bytes was accepted", n)
		}
	}
	for _, n := range []int{0, 63, 65} {
		if BIP340(make([]byte, 32), nil, make([]byte, n)) {
			t.Errorf("a signature of %d bytes was accepted", n)
		}
	}
}

func TestECDSA(t *testing.T) {
	key := secp256k1.PrivKeyFromBytes(unhex(t, "0340034003400340034003400340034003400340034003400340034003400340"))
	pub := key.PubKey().SerializeCompressed()
	digest := sha256.Sum256([]byte("message"))
	sig := ecdsa.Sign(key, digest[:])
	der := sig.Serialize()
	if !ECDSA(pub, digest[:], der) {
		t.Fatal("a good signature is not valid")
	}

	// The high twin is the same signature to textbook ECDSA. Its DER form is
	// written by hand, because decred's Serialize always lowers s.
	r, s := sig.R(), sig.S()
	high := derEncode(r.Bytes(), s.Negate().Bytes())
	if p, err := ecdsa.ParseDERSignature(high); err != nil || !p.Verify(digest[:], key.PubKey()) {
		t.Fatalf("the test's own high-s signature is not textbook ECDSA: %v", err)
	}

	other := sha256.Sum256([]byte("another message"))
	for name, bad := range map[string]bool{
		"high s":            ECDSA(pub, digest[:], high),
		"other digest":      ECDSA(pub, other[:], der),
		"short digest":      ECDSA(pub, digest[:31], der),
		"long digest":       ECDSA(pub, append(digest[:], 0), der),
		"trailing byte":     ECDSA(pub, digest[:], append(append([]byte(nil), der...), 0)),
		"truncated":         ECDSA(pub, digest[:], der[:len(der)-1]),
		"no signature":      ECDSA(pub, digest[:], nil),
		"no key":            ECDSA(nil, digest[:], der),
		"key off the curve": ECDSA(append([]byte{2}, unhex(t, "EEFDEA4CDB677750A420FEE807EACF21EB9898AE79B9768766E4FAA04A2D4A34")...), digest[:], der),
	} {
		if bad {
			t.Errorf("%s: valid", name)
		}
	}
}

func TestMessage(t *testing.T) {
	key := secp256k1.PrivKeyFromBytes(unhex(t, "0340034003400340034003400340034003400340034003400340034003400340"))
	r := &mpc.PublicRecord{Algorithm: mpc.ECDSASecp256k1, PublicKey: key.PubKey().SerializeCompressed()}
	msg := []byte("message")
	for _, h := range []mpc.HashAlgorithm{mpc.HashSHA256, mpc.HashKeccak256} {
		digest, err := mpc.SigningInput(r.Algorithm, mpc.MessageRaw, h, msg)
		if err != nil {
			t.Fatal(err)
		}
		der := ecdsa.Sign(key, digest).Serialize()
		if ok, err := Message(r, mpc.MessageRaw, h, msg, der); err != nil || !ok {
			t.Errorf("%s raw: %v %v", h, ok, err)
		}
		if ok, err := Message(r, mpc.MessageDigest, mpc.HashNone, digest, der); err != nil || !ok {
			t.Errorf("%s digest: %v %v", h, ok, err)
		}
	}
	if _, err := Message(r, mpc.MessageRaw, mpc.HashNone, msg, nil); !errors.Is(err, mpc.ErrInput) {
		t.Errorf("ECDSA without a hash: %v", err)
	}
	if _, err := Message(r, mpc.MessageDigest, mpc.HashNone, msg, nil); err == nil {
		t.Error("a digest of 7 bytes was accepted")
	}
	r.Algorithm = "other"
	if ok, err := Message(r, mpc.MessageRaw, mpc.HashSHA256, msg, nil); ok || !errors.Is(err, mpc.ErrUnknownAlgorithm) {
		t.Errorf("unknown algorithm: %v", err)
	}
	if _, err := Message(r, mpc.MessageRaw, mpc.HashSHA256, msg, nil); !errors.Is(err, mpc.ErrUnknownAlgorithm) {
		t.Errorf("unknown algorithm: %v", err)
	}
}

func derEncode(r, s [32]byte) []byte {
	integer := func(v [32]byte) []byte {
		b := v[:]
		for len(b) > 1 && b[0] == 0 {
			b = b[1:]
		}
		if b[0]&0x80 != 0 {
			b = append([]byte{0}, b...)
		}
		return append([]byte{2, byte(len(b))}, b...)
	}
	body := append(integer(r), integer(s)...)
	return append([]byte{0x30, byte(len(body))}, body...)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
