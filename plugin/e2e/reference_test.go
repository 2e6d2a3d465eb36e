//go:build e2e

package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// secp256k1 in plain big.Int arithmetic, written from SEC 2 §2.4.1 and BIP-340
// for these tests alone: slow, and sharing no code with what makes signatures.
var (
	fieldP = hexInt("fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f")
	orderN = hexInt("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")
	baseG  = point{hexInt("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"),
		hexInt("483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8")}
)

// point is affine; x == nil is the identity.
type point struct{ x, y *big.Int }

func hexInt(s string) *big.Int { n, _ := new(big.Int).SetString(s, 16); return n }

func (p point) add(q point) point {
	if p.x == nil {
		return q
	}
	if q.x == nil {
		return p
	}
	var slope *big.Int
	if p.x.Cmp(q.x) == 0 {
		if new(big.Int).Mod(new(big.Int).Add(p.y, q.y), fieldP).Sign() == 0 {
			return point{}
		}
		slope = new(big.Int).Mul(p.x, p.x)
		slope.Mul(slope, big.NewInt(3))
		slope.Mul(slope, new(big.Int).ModInverse(new(big.Int).Lsh(p.y, 1), fieldP))
	} else {
		dx := new(big.Int).Mod(new(big.Int).Sub(q.x, p.x), fieldP)
		slope = new(big.Int).Sub(q.y, p.y)
		slope.Mul(slope, new(big.Int).ModInverse(dx, fieldP))
	}
	slope.Mod(slope, fieldP)
	x := new(big.Int).Mul(slope, slope)
	x.Sub(x, p.x).Sub(x, q.x).Mod(x, fieldP)
	y := new(big.Int).Sub(p.x, x)
	y.Mul(y, slope).Sub(y, p.y).Mod(y, fieldP)
	return point{x, y}
}

func (p point) mul(k *big.Int) point {
	sum := point{}
	for i := k.BitLen() - 1; i >= 0; i-- {
		sum = sum.add(sum)
		if k.Bit(i) == 1 {
			sum = sum.add(p)
		}
	}
	return sum
}

// liftX returns the point with that x and an even y (BIP-340).
func liftX(x *big.Int) (point, bool) {
	if x.Cmp(fieldP) >= 0 {
		return point{}, false
	}
	c := new(big.Int).Exp(x, big.NewInt(3), fieldP)
	c.Add(c, big.NewInt(7)).Mod(c, fieldP)
	y := new(big.Int).ModSqrt(c, fieldP)
	if y == nil {
		return point{}, false
	}
	if y.Bit(0) == 1 {
		y.Sub(fieldP, y)
	}
	return point{x, y}, true
}

// verifyBIP340 follows the algorithm "Verify" of BIP-340.
func verifyBIP340(public, message, sig []byte) bool {
	if len(public) != 32 || len(sig) != 64 {
		return false
	}
	p, ok := liftX(new(big.Int).SetBytes(public))
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
	if !ok || r.Cmp(fieldP) >= 0 || s.Cmp(orderN) >= 0 {
		return false
	}
	tag := sha256.Sum256([]byte("BIP0340/challenge"))
	h := sha256.New()
	for _, b := range [][]byte{tag[:], tag[:], sig[:32], public, message} {
		h.Write(b)
	}
	e := new(big.Int).SetBytes(h.Sum(nil))
	e.Mod(e, orderN)
	R := baseG.mul(s).add(p.mul(new(big.Int).Sub(orderN, e)))
	return R.x != nil && R.y.Bit(0) == 0 && R.x.Cmp(r) == 0
}

// TestReference checks the reference itself with vectors 0 and 5 of BIP-340.
func TestReference(t *testing.T) {
	public := unhex(t, "F9308A019258C31049344F85F89D5229B531C845836F99B08601F113BCE036F9")
	sig := unhex(t, "E907831F80848D1069A5371B402410364BDF1C5F8307B0084C55F1CE2DCA821525F66A4A85EA8B71E482A74F382D2CE5EBEEE8FDB2172F477DF4900D310536C0")
	message := make([]byte, 32)
	if !verifyBIP340(public, message, sig) {
		t.Error("vector 0 does not verify")
	}
	sig[63] ^= 1
	if verifyBIP340(public, message, sig) {
		t.Error("a changed signature verifies")
	}
	notOnCurve := unhex(t, "EEFDEA4CDB677750A420FEE807EACF21EB9898AE79B9768766E4FAA04A2D4A34")
	if verifyBIP340(notOnCurve, message, sig) {
		t.Error("vector 5 verifies")
	}
}

// verifyWithOpenSSL checks an ECDSA signature on SHA-256(message).
func verifyWithOpenSSL(t testing.TB, publicPEM string, message, der []byte) {
	t.Helper()
	if err := opensslECDSA(publicPEM, message, der); err != nil {
		t.Fatal(err)
	}
}

// verifyEd25519WithOpenSSL checks a pure Ed25519 signature (RFC 8032).
func verifyEd25519WithOpenSSL(t testing.TB, publicPEM string, message, sig []byte) {
	t.Helper()
	if err := opensslEd25519(publicPEM, message, sig); err != nil {
		t.Fatal(err)
	}
}

func opensslECDSA(publicPEM string, message, der []byte) error {
	return openSSL(publicPEM, message, der, "Verified OK", "dgst", "-sha256", "-verify", "key.pem", "-signature", "sig", "message")
}

func opensslEd25519(publicPEM string, message, sig []byte) error {
	return openSSL(publicPEM, message, sig, "Signature Verified Successfully",
		"pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin", "-sigfile", "sig", "-in", "message")
}

func openSSL(publicPEM string, message, sig []byte, success string, args ...string) error {
	if block, _ := pem.Decode([]byte(publicPEM)); block == nil || block.Type != "PUBLIC KEY" {
		return fmt.Errorf("not a PEM public key: %q", publicPEM)
	}
	dir, err := os.MkdirTemp("", "mpc-e2e-openssl-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, b := range map[string][]byte{"key.pem": []byte(publicPEM), "message": message, "sig": sig} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(success)) {
		return fmt.Errorf("OpenSSL: %v: %s", err, out)
	}
	return nil
}

// verifySignature checks a signature on a raw message by code that shares
// nothing with what made it.
func verifySignature(algorithm, publicHex, publicPEM string, message, sig []byte) error {
	switch algorithm {
	case bip340:
		public, err := hex.DecodeString(publicHex)
		if err != nil || !verifyBIP340(public, message, sig) {
			return errors.New("the BIP-340 signature does not verify")
		}
		return nil
	case ed25519:
		return opensslEd25519(publicPEM, message, sig)
	case ecdsaCurve, ecdsaP256:
		return opensslECDSA(publicPEM, message, sig)
	}
	return fmt.Errorf("nothing checks signatures of %s", algorithm)
}

func unhex(t testing.TB, v any) []byte {
	t.Helper()
	s, _ := v.(string)
	b, err := hex.DecodeString(s)
	if err != nil || len(b) == 0 {
		t.Fatalf("%v is no hex", v)
	}
	return b
}
