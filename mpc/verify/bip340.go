package verify

import (
	"crypto/sha256"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// BIP340 reports whether sig, R.x‖s in 64 bytes, is a valid BIP-340 signature
// on the message, of any length, under the 32-byte x-only public key. It
// follows "Verification" in BIP-340 step by step.
func BIP340(pub, message, sig []byte) bool {
	if len(pub) != 32 || len(sig) != 64 {
		return false
	}
	// P = lift_x(int(pk)): fails when pk ≥ p or is not on the curve.
	var p secp256k1.JacobianPoint
	if p.X.SetByteSlice(pub) || !secp256k1.DecompressY(&p.X, false, &p.Y) {
		return false
	}
	p.Y.Normalize()
	p.Z.SetInt(1)

	// r < p and s < n, no reduction.
	var r secp256k1.FieldVal
	var s secp256k1.ModNScalar
	if r.SetByteSlice(sig[:32]) || s.SetByteSlice(sig[32:]) {
		return false
	}

	// e = int(hash_BIP0340/challenge(bytes(r) ‖ bytes(P) ‖ m)) mod n.
	challenge := taggedHash("BIP0340/challenge", sig[:32], pub, message)
	var e secp256k1.ModNScalar
	e.SetBytes(&challenge)

	// R = s⋅G − e⋅P.
	var sG, eP, point secp256k1.JacobianPoint
	secp256k1.ScalarBaseMultNonConst(&s, &sG)
	secp256k1.ScalarMultNonConst(e.Negate(), &p, &eP)
	secp256k1.AddNonConst(&sG, &eP, &point)

	// R is not infinite, has an even y, and x(R) = r.
	if (point.X.IsZero() && point.Y.IsZero()) || point.Z.IsZero() {
		return false
	}
	point.ToAffine()
	return !point.Y.IsOdd() && point.X.Equals(&r)
}

// taggedHash is BIP-340's hash_tag: SHA-256(SHA-256(tag) ‖ SHA-256(tag) ‖ x).
func taggedHash(tag string, parts ...[]byte) (sum [32]byte) {
	t := sha256.Sum256([]byte(tag))
	h := sha256.New()
	h.Write(t[:])
	h.Write(t[:])
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}
