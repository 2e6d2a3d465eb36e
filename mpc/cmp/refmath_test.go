package cmp

import (
	"math/big"

	"vault-plugin-secrets-mpc/mpc"
)

// textbookVerify checks an ECDSA signature over secp256k1 with math/big and
// affine formulas alone. The library, decred and btcec all stand on the same
// field arithmetic; this does not.
func textbookVerify(record *mpc.PublicRecord, digest []byte, sig *mpc.Signature) bool {
	hex := func(s string) *big.Int { n, _ := new(big.Int).SetString(s, 16); return n }
	p := hex("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F")
	n := hex("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141")
	type point struct{ x, y *big.Int } // nil x: infinity
	g := point{hex("79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798"),
		hex("483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8")}
	mod := func(a *big.Int) *big.Int { return a.Mod(a, p) }
	add := func(a, b point) point {
		if a.x == nil {
			return b
		}
		if b.x == nil {
			return a
		}
		var num, den *big.Int
		if a.x.Cmp(b.x) == 0 {
			if mod(new(big.Int).Add(a.y, b.y)).Sign() == 0 {
				return point{}
			}
			num = new(big.Int).Mul(big.NewInt(3), new(big.Int).Mul(a.x, a.x))
			den = new(big.Int).Lsh(a.y, 1)
		} else {
			num, den = new(big.Int).Sub(b.y, a.y), new(big.Int).Sub(b.x, a.x)
		}
		l := mod(new(big.Int).Mul(num, new(big.Int).ModInverse(mod(den), p)))
		x := new(big.Int).Mul(l, l)
		x = mod(x.Sub(x.Sub(x, a.x), b.x))
		y := new(big.Int).Mul(l, new(big.Int).Sub(a.x, x))
		return point{x, mod(y.Sub(y, a.y))}
	}
	mul := func(k *big.Int, a point) (out point) {
		for i := k.BitLen() - 1; i >= 0; i-- {
			if out = add(out, out); k.Bit(i) == 1 {
				out = add(out, a)
			}
		}
		return out
	}

	key := point{x: new(big.Int).SetBytes(record.PublicKey[1:])}
	y2 := new(big.Int).Exp(key.x, big.NewInt(3), p)
	key.y = new(big.Int).ModSqrt(mod(y2.Add(y2, big.NewInt(7))), p)
	if key.y.Bit(0) != uint(record.PublicKey[0]&1) {
		key.y.Sub(p, key.y)
	}
	r, s := new(big.Int).SetBytes(sig.R[:]), new(big.Int).SetBytes(sig.S[:])
	w := new(big.Int).ModInverse(s, n)
	u1 := new(big.Int).Mul(new(big.Int).SetBytes(digest), w)
	u2 := new(big.Int).Mul(r, w)
	q := add(mul(u1.Mod(u1, n), g), mul(u2.Mod(u2, n), key))
	return q.x != nil && new(big.Int).Mod(q.x, n).Cmp(r) == 0
}
