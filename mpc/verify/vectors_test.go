package verify

import (
	"bytes"
	"crypto/sha256"
	"math/big"
	"testing"

	"filippo.io/nistec"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"vault-plugin-secrets-mpc/mpc"
)

// TestEd25519Vectors: RFC 8032, section 7.1, tests 1 to 3.
func TestEd25519Vectors(t *testing.T) {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	for _, v := range []struct{ pub, msg, sig string }{
		{"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
			"e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"},
		{"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
			"92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"},
		{"fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
			"6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"},
	} {
		pub, msg, sig := unhex(t, v.pub), unhex(t, v.msg), unhex(t, v.sig)
		if !Signature(mpc.Ed25519, pub, msg, sig) {
			t.Fatalf("message %q: not valid", v.msg)
		}
		// S + L is the same number to who does not look.
		little := bytes.Clone(sig[32:])
		reverse(little)
		high := new(big.Int).Add(new(big.Int).SetBytes(little), order).FillBytes(make([]byte, 32))
		reverse(high)
		for name, bad := range map[string][3][]byte{
			"S + L":         {pub, msg, append(bytes.Clone(sig[:32]), high...)},
			"other message": {pub, append(bytes.Clone(msg), 0), sig},
			"other key":     {append(bytes.Clone(pub[:31]), pub[31]^1), msg, sig},
			"changed R":     {pub, msg, append([]byte{sig[0] ^ 1}, sig[1:]...)},
			"changed S":     {pub, msg, append(bytes.Clone(sig[:63]), sig[63]^1)},
			"short key":     {pub[:31], msg, sig},
			"no key":        {nil, msg, sig},
			"short":         {pub, msg, sig[:63]},
			"long":          {pub, msg, append(bytes.Clone(sig), 0)},
			"none":          {pub, msg, nil},
		} {
			if Signature(mpc.Ed25519, bad[0], bad[1], bad[2]) {
				t.Errorf("message %q, %s: valid", v.msg, name)
			}
		}
	}
}

func reverse(b []byte) {
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
}

// ecdsaVector is a signature with a known key. s may be the high one.
type ecdsaVector struct {
	algorithm       mpc.Algorithm
	order           *big.Int
	message         string
	pub             []byte
	r, s            [32]byte
	high            [32]byte // order − s
	recoveryID      int      // of (r, s)
	digest          [32]byte
	uncompressedPub []byte
}

// ecdsaVectors: RFC 6979, section A.2.5 (P-256, SHA-256), with the low s; and
// the usual secp256k1 vectors for its method with key 1.
func ecdsaVectors(t testing.TB) (out []ecdsaVector) {
	p256, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	const p256Pub = "0360fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
	const p256Long = "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
	const one = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
	const oneLong = "0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
	for _, v := range []struct {
		algorithm                      mpc.Algorithm
		order                          *big.Int
		message, pub, uncompressed, rs string
	}{
		{mpc.ECDSAP256, p256, "sample", p256Pub, p256Long, "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"},
		{mpc.ECDSAP256, p256, "test", p256Pub, p256Long, "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083"},
		{mpc.ECDSASecp256k1, secp256k1.S256().N, "Satoshi Nakamoto", one, oneLong, "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d82442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"},
		{mpc.ECDSASecp256k1, secp256k1.S256().N, "All those moments will be lost in time, like tears in rain. Time to die...", one, oneLong, "8600dbd41e348fe5c9465ab92d23e3db8b98b873beecd930736488696438cb6b547fe64427496db33bf66019dacbf0039c04199abb0122918601db38a72cfc21"},
	} {
		e := ecdsaVector{algorithm: v.algorithm, order: v.order, message: v.message, pub: unhex(t, v.pub),
			uncompressedPub: unhex(t, v.uncompressed), digest: sha256.Sum256([]byte(v.message)), recoveryID: -1}
		rs := unhex(t, v.rs)
		e.r = [32]byte(rs[:32])
		s := new(big.Int).SetBytes(rs[32:])
		other := new(big.Int).Sub(v.order, s)
		if other.Cmp(s) < 0 {
			s, other = other, s
		}
		s.FillBytes(e.s[:])
		other.FillBytes(e.high[:])
		for id := range 4 {
			if RecoversKey(e.algorithm, e.pub, e.digest[:], e.r, e.s, id) {
				if e.recoveryID >= 0 {
					t.Fatalf("%s %q: two recovery IDs", e.algorithm, e.message)
				}
				e.recoveryID = id
			}
		}
		if e.recoveryID < 0 {
			t.Fatalf("%s %q: no recovery ID", e.algorithm, e.message)
		}
		out = append(out, e)
	}
	return out
}

func TestECDSAVectors(t *testing.T) {
	for _, v := range ecdsaVectors(t) {
		good := derEncode(v.r, v.s)
		if !bytes.Equal(good, DER(v.r, v.s)) {
			t.Fatalf("DER of %x %x: %x", v.r, v.s, DER(v.r, v.s))
		}
		if !Signature(v.algorithm, v.pub, v.digest[:], good) {
			t.Fatalf("%s %q: not valid", v.algorithm, v.message)
		}
		if !RecoversKey(v.algorithm, v.pub, v.digest[:], v.r, v.high, v.recoveryID^1) {
			t.Errorf("%s %q: the twin does not recover with the other parity", v.algorithm, v.message)
		}
		for name, c := range malleable(v) {
			if Signature(v.algorithm, v.pub, v.digest[:], c) {
				t.Errorf("%s %q, %s: valid", v.algorithm, v.message, name)
			}
		}
		other := [32]byte{1}
		for name, bad := range map[string]bool{
			"other digest":     Signature(v.algorithm, v.pub, other[:], good),
			"short digest":     Signature(v.algorithm, v.pub, v.digest[:31], good),
			"long digest":      Signature(v.algorithm, v.pub, append(v.digest[:], 0), good),
			"other parity":     Signature(v.algorithm, append([]byte{v.pub[0] ^ 1}, v.pub[1:]...), v.digest[:], good),
			"uncompressed key": Signature(v.algorithm, v.uncompressedPub, v.digest[:], good),
			"short key":        Signature(v.algorithm, v.pub[:32], v.digest[:], good),
			"identity":         Signature(v.algorithm, []byte{0}, v.digest[:], good),
			"no key":           Signature(v.algorithm, nil, v.digest[:], good),
			"x over the field": Signature(v.algorithm, append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...), v.digest[:], good),
			"other algorithm":  Signature(otherECDSA(v.algorithm), v.pub, v.digest[:], good),
			"no algorithm":     Signature("", v.pub, v.digest[:], good),
		} {
			if bad {
				t.Errorf("%s %q, %s: valid", v.algorithm, v.message, name)
			}
		}
	}
}

func otherECDSA(a mpc.Algorithm) mpc.Algorithm {
	if a == mpc.ECDSAP256 {
		return mpc.ECDSASecp256k1
	}
	return mpc.ECDSAP256
}

// malleable lists encodings that mean v's signature, or nearly, to somebody.
func malleable(v ecdsaVector) map[string][]byte {
	good := derEncode(v.r, v.s)
	integer := func(b []byte) []byte { return append([]byte{2, byte(len(b))}, b...) }
	minimal := func(b [32]byte) []byte {
		out := derEncode(b, b)
		return out[4 : 4+out[3]]
	}
	sequence := func(parts ...[]byte) []byte {
		body := bytes.Join(parts, nil)
		return append([]byte{0x30, byte(len(body))}, body...)
	}
	r, s := minimal(v.r), minimal(v.s)
	plus := new(big.Int).Add(new(big.Int).SetBytes(v.r[:]), v.order).Bytes()
	sPlus := new(big.Int).Add(new(big.Int).SetBytes(v.s[:]), v.order).Bytes()
	unsigned := func(b []byte) []byte {
		if b[0]&0x80 != 0 {
			return append([]byte{0}, b...)
		}
		return b
	}
	raw := func(b []byte) []byte { return bytes.TrimLeft(b, "\x00") }
	out := map[string][]byte{
		"high s":              derEncode(v.r, v.high),
		"swapped":             derEncode(v.s, v.r),
		"zero r":              sequence(integer([]byte{0}), integer(s)),
		"zero s":              sequence(integer(r), integer([]byte{0})),
		"r + order":           sequence(integer(unsigned(plus)), integer(s)),
		"s + order":           sequence(integer(r), integer(unsigned(sPlus))),
		"padded r":            sequence(integer(append([]byte{0}, r...)), integer(s)),
		"padded s":            sequence(integer(r), integer(append([]byte{0}, s...))),
		"empty r":             sequence(integer(nil), integer(s)),
		"long form":           append([]byte{0x30, 0x81, good[1]}, good[2:]...),
		"long integer":        sequence([]byte{2, 0x81, byte(len(r))}, r, integer(s)),
		"indefinite":          append(append([]byte{0x30, 0x80}, good[2:]...), 0, 0),
		"trailing byte":       append(bytes.Clone(good), 0),
		"byte in sequence":    sequence(integer(r), integer(s), []byte{0}),
		"third integer":       sequence(integer(r), integer(s), integer([]byte{1})),
		"only r":              sequence(integer(r)),
		"set":                 append([]byte{0x31}, good[1:]...),
		"no sequence":         good[2:],
		"octet string":        sequence(append([]byte{4, byte(len(r))}, r...), integer(s)),
		"truncated":           good[:len(good)-1],
		"empty":               {},
		"nil":                 nil,
		"r‖s":                 append(bytes.Clone(v.r[:]), v.s[:]...),
		"length over the end": append([]byte{0x30, good[1] + 1}, good[2:]...),
	}
	if b := raw(v.r[:]); b[0]&0x80 != 0 {
		out["negative r"] = sequence(integer(b), integer(s))
	}
	return out
}

func TestRecoversKey(t *testing.T) {
	for _, v := range ecdsaVectors(t) {
		var zero, order, changed [32]byte
		v.order.FillBytes(order[:])
		changed = v.s
		changed[31] ^= 1
		for name, bad := range map[string]bool{
			"other digest": RecoversKey(v.algorithm, v.pub, zero[:], v.r, v.s, v.recoveryID),
			"short digest": RecoversKey(v.algorithm, v.pub, v.digest[:31], v.r, v.s, v.recoveryID),
			"other key":    RecoversKey(v.algorithm, append([]byte{v.pub[0] ^ 1}, v.pub[1:]...), v.digest[:], v.r, v.s, v.recoveryID),
			"no key":       RecoversKey(v.algorithm, nil, v.digest[:], v.r, v.s, v.recoveryID),
			"r = 0":        RecoversKey(v.algorithm, v.pub, v.digest[:], zero, v.s, v.recoveryID),
			"s = 0":        RecoversKey(v.algorithm, v.pub, v.digest[:], v.r, zero, v.recoveryID),
			"r = order":    RecoversKey(v.algorithm, v.pub, v.digest[:], order, v.s, v.recoveryID),
			"s = order":    RecoversKey(v.algorithm, v.pub, v.digest[:], v.r, order, v.recoveryID),
			"other s":      RecoversKey(v.algorithm, v.pub, v.digest[:], v.r, changed, v.recoveryID),
			"ID -1":        RecoversKey(v.algorithm, v.pub, v.digest[:], v.r, v.s, -1),
			"ID 4":         RecoversKey(v.algorithm, v.pub, v.digest[:], v.r, v.s, v.recoveryID+4),
			"other curve":  RecoversKey(otherECDSA(v.algorithm), v.pub, v.digest[:], v.r, v.s, v.recoveryID),
			"BIP-340":      RecoversKey(mpc.BIP340Secp256k1, v.pub[1:], v.digest[:], v.r, v.s, v.recoveryID),
		} {
			if bad {
				t.Errorf("%s %q, %s: recovers", v.algorithm, v.message, name)
			}
		}
		if v.algorithm == mpc.ECDSASecp256k1 && !Recovers(v.pub, v.digest[:], v.r, v.s, v.recoveryID) {
			t.Error("Recovers differs from RecoversKey")
		}
	}
}

// TestRecoversReducedX: R.x between order and field prime, which random
// signatures never have: for P-256 and both parities, Q = r⁻¹(s·R − e·G).
func TestRecoversReducedX(t *testing.T) {
	order, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	digest := sha256.Sum256([]byte("message"))
	times := func(k *big.Int, p *nistec.P256Point) *nistec.P256Point {
		b := new(big.Int).Mod(k, order).FillBytes(make([]byte, 32))
		out, err := nistec.NewP256Point().ScalarMult(p, b)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	found := 0
	for i := int64(1); found < 2; i++ {
		x := new(big.Int).Add(order, big.NewInt(i))
		point, err := nistec.NewP256Point().SetBytes(append([]byte{2 + byte(found)}, x.Bytes()...))
		if err != nil {
			continue
		}
		g := nistec.NewP256Point().SetGenerator()
		e := new(big.Int).SetBytes(digest[:])
		sum := nistec.NewP256Point().Add(times(big.NewInt(9), point), times(e.Neg(e), g))
		pub := times(new(big.Int).ModInverse(big.NewInt(i), order), sum).BytesCompressed()
		var r, s [32]byte
		big.NewInt(i).FillBytes(r[:])
		s[31] = 9
		if !Signature(mpc.ECDSAP256, pub, digest[:], DER(r, s)) {
			t.Fatal("the test's signature is not valid")
		}
		for id := range 4 {
			if got := RecoversKey(mpc.ECDSAP256, pub, digest[:], r, s, id); got != (id == 2+found) {
				t.Errorf("x = order + %d, recovery ID %d: %v", i, id, got)
			}
		}
		found++
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(make([]byte, 33), []byte("m"), make([]byte, 64))
	for _, v := range ecdsaVectors(f) {
		f.Add(v.pub, []byte(v.message), DER(v.r, v.s))
		f.Add(v.pub, []byte(v.message), derEncode(v.r, v.high))
	}
	f.Fuzz(func(t *testing.T, pub, msg, sig []byte) {
		d := sha256.Sum256(msg)
		for _, a := range append(mpc.Algorithms(), "other") {
			signed := msg
			if a.IsECDSA() {
				signed = d[:]
			}
			if !Signature(a, pub, signed, sig) || !a.IsECDSA() {
				continue
			}
			// What is accepted has one encoding and exactly one recovery ID.
			r, s, ok := parseDER(sig)
			if !ok {
				t.Fatal("accepted, but not DER")
			}
			r32, s32 := [32]byte(r.FillBytes(make([]byte, 32))), [32]byte(s.FillBytes(make([]byte, 32)))
			if !bytes.Equal(DER(r32, s32), sig) {
				t.Fatal("accepted another encoding")
			}
			ids := 0
			for id := range 4 {
				if RecoversKey(a, pub, d[:], r32, s32, id) {
					ids++
				}
			}
			if ids != 1 {
				t.Fatalf("%d recovery IDs", ids)
			}
		}
	})
}
