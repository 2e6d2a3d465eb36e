package verify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"math/big"

	"filippo.io/nistec"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"vault-plugin-secrets-mpc/mpc"
)

// ECDSAP256 is ECDSA for keys on P-256, with the same strictness: the low one of
// the two possible s, although P-256 has no convention that asks for it, so that
// nobody else can make a second valid signature from one of ours.
func ECDSAP256(pub, digest, der []byte) bool {
	if len(digest) != mpc.DigestSize || len(pub) != 33 {
		return false
	}
	point, err := nistec.NewP256Point().SetBytes(pub) // decompression only
	if err != nil {
		return false
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point.Bytes())
	if err != nil {
		return false
	}
	_, s, ok := parseDER(der)
	return ok && lowP256(s) && ecdsa.VerifyASN1(key, digest, der)
}

// lowP256 reports s ≤ order/2.
func lowP256(s *big.Int) bool {
	return s.Cmp(new(big.Int).Rsh(elliptic.P256().Params().N, 1)) <= 0
}

// parseDER reads SEQUENCE{INTEGER r, INTEGER s} (RFC 3279, section 2.2.3) in DER
// and nothing else: shortest lengths and numbers, no bytes left over.
func parseDER(der []byte) (r, s *big.Int, ok bool) {
	r, s = new(big.Int), new(big.Int)
	in := cryptobyte.String(der)
	var body cryptobyte.String
	ok = in.ReadASN1(&body, asn1.SEQUENCE) && in.Empty() && body.ReadASN1Integer(r) && body.ReadASN1Integer(s) && body.Empty()
	return r, s, ok
}

// DER encodes a signature's r and s, 32 bytes big-endian each, as parseDER reads
// it: at most 72 bytes.
func DER(r, s [32]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(r[:]))
		b.AddASN1BigInt(new(big.Int).SetBytes(s[:]))
	})
	return b.BytesOrPanic() // it fails on nothing but wrong use of the builder
}

// recoversP256 is Recovers on P-256: Q = r⁻¹(s·R − e·G), SEC 1 section 4.1.6.
func recoversP256(pub, digest []byte, r, s [32]byte, recoveryID int) bool {
	params := elliptic.P256().Params()
	x, sInt := new(big.Int).SetBytes(r[:]), new(big.Int).SetBytes(s[:])
	if x.Sign() == 0 || x.Cmp(params.N) >= 0 || sInt.Sign() == 0 || sInt.Cmp(params.N) >= 0 {
		return false
	}
	inverse := new(big.Int).ModInverse(x, params.N)
	if recoveryID&2 != 0 {
		x.Add(x, params.N)
	}
	if x.Cmp(params.P) >= 0 {
		return false
	}
	compressed := make([]byte, 33)
	compressed[0] = 2 | byte(recoveryID&1)
	x.FillBytes(compressed[1:])
	point, err := nistec.NewP256Point().SetBytes(compressed)
	if err != nil {
		return false
	}
	// u₁ = −e/r, u₂ = s/r
	u1 := new(big.Int).SetBytes(digest)
	u1.Mod(u1.Neg(u1.Mul(u1, inverse)), params.N)
	u2 := new(big.Int).Mod(sInt.Mul(sInt, inverse), params.N)
	base, err := nistec.NewP256Point().ScalarBaseMult(u1.FillBytes(make([]byte, 32)))
	if err != nil {
		return false
	}
	if _, err := point.ScalarMult(point, u2.FillBytes(make([]byte, 32))); err != nil {
		return false
	}
	return string(point.Add(point, base).BytesCompressed()) == string(pub)
}
