package cmp

import (
	"math/big"

	"vault-plugin-secrets-mpc/mpc"
)

// textbookVerify checks an ECDSA signature and its recovery ID with math/big and
// affine formulas alone. The library, decred and btcec all stand on the same
// field arithmetic for secp256k1, and nistec is much of Go's own P-256; this is
// neither.
func textbookVerify(record *mpc.PublicRecord, digest []byte, sig *mpc.Signature) bool {
	hex := func(s string) *big.Int { n, _ := new(big.Int).SetString(s, 16); return n }
	p := hex("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F")
	n := hex("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141")
	gx := hex("79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798")
	gy := hex("483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8")
	a, b := big.NewInt(0), big.NewInt(7)
	if record.Algorithm == mpc.ECDSAP256 { // FIPS 186, D.1.2.3
		p = hex("FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF")
		n = hex("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551")
		gx = hex("6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296")
		gy = hex("4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5")
		a, b = big.NewInt(-3), hex("5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B")
	}
	type point struct{ x, y *big.Int } // nil x: infinity
	g := point{gx, gy}
	mod := func(x *big.Int) *big.Int { return x.Mod(x, p) }
	add := func(q, r point) point {
		if q.x == nil {
			return r
		}
		if r.x == nil {
			return q
		}
		var num, den *big.Int
		if q.x.Cmp(r.x) == 0 {
			if mod(new(big.Int).Add(q.y, r.y)).Sign() == 0 {
				return point{}
			}
			num = new(big.Int).Mul(big.NewInt(3), new(big.Int).Mul(q.x, q.x))
			num.Add(num, a)
			den = new(big.Int).Lsh(q.y, 1)
		} else {
			num, den = new(big.Int).Sub(r.y, q.y), new(big.Int).Sub(r.x, q.x)
		}
		l := mod(new(big.Int).Mul(num, new(big.Int).ModInverse(mod(den), p)))
		x := new(big.Int).Mul(l, l)
		x = mod(x.Sub(x.Sub(x, q.x), r.x))
		y := new(big.Int).Mul(l, new(big.Int).Sub(q.x, x))
		return point{x, mod(y.Sub(y, q.y))}
	}
	mul := func(k *big.Int, q point) (out point) {
		for i := k.BitLen() - 1; i >= 0; i-- {
			if out = add(out, out); k.Bit(i) == 1 {
				out = add(out, q)
			}
		}
		return out
	}

	key := point{x: new(big.Int).SetBytes(record.PublicKey[1:])}
	y2 := new(big.Int).Exp(key.x, big.NewInt(3), p)
	y2.Add(y2, new(big.Int).Mul(a, key.x))
	key.y = new(big.Int).ModSqrt(mod(y2.Add(y2, b)), p)
	if key.y.Bit(0) != uint(record.PublicKey[0]&1) {
		key.y.Sub(p, key.y)
	}
	r, s := new(big.Int).SetBytes(sig.R[:]), new(big.Int).SetBytes(sig.S[:])
	w := new(big.Int).ModInverse(s, n)
	u1 := new(big.Int).Mul(new(big.Int).SetBytes(digest), w)
	u2 := new(big.Int).Mul(r, w)
	nonce := add(mul(u1.Mod(u1, n), g), mul(u2.Mod(u2, n), key))
	if nonce.x == nil || new(big.Int).Mod(nonce.x, n).Cmp(r) != 0 {
		return false
	}
	id := int(nonce.y.Bit(0))
	if nonce.x.Cmp(n) >= 0 {
		id |= 2
	}
	return id == sig.RecoveryID && s.Cmp(new(big.Int).Rsh(n, 1)) <= 0
}
