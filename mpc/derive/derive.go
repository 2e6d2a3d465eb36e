// Package derive computes child keys of accounts on secp256k1: BIP-32 public
// derivation without hardened steps, and the BIP-341 tweak of Taproot outputs.
//
// A child's private key is ±x + a for the account's private key x, with a sign
// and a number a that follow from public data. With Shamir's sharing the same
// map on every share xᵢ gives shares of the child's key, so nodes sign for a
// child with Child.Share and Child.Record as they do for the account.
//
// Border: pure functions. Only Child.Share touches a secret, and in constant
// time. Whoever knows a child's private key and the account's chain code knows
// the account's: children protect nothing from each other (BIP-32, "Security").
package derive

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// BIP86 is the TaprootTweak of an output that can be spent by its key alone.
const BIP86 = "bip86"

// Child is a child of an account's key. It is immutable.
type Child struct {
	algorithm mpc.Algorithm
	// PublicKey is encoded as the account's: 33 bytes SEC 1 compressed
	// (ECDSA), 32 bytes x-only (BIP-340).
	PublicKey []byte
	// ChainCode is that of the path's end; a tweak does not change it.
	ChainCode [32]byte
	// private key = ±x + add
	negate bool
	add    secp256k1.ModNScalar
}

// Derive returns the child of r's key that d asks for. For the zero Derivation
// that is the key itself, as r has it: whether it is a point is not looked at.
func Derive(r *mpc.PublicRecord, d mpc.Derivation) (*Child, error) {
	path, err := ParsePath(d.Path)
	if err != nil {
		return nil, err
	}
	root, tweaked, err := parseTweak(d.TaprootTweak)
	if err != nil {
		return nil, err
	}
	switch {
	case (len(path) > 0 || tweaked) && !r.Algorithm.Derives():
		return nil, fmt.Errorf("%w: %s keys have no child keys: leave derivation_path and taproot_tweak out", ErrAlgorithm, r.Algorithm)
	case tweaked && r.Algorithm != mpc.BIP340Secp256k1:
		return nil, fmt.Errorf("%w: taproot_tweak is for %s accounts", ErrAlgorithm, mpc.BIP340Secp256k1)
	case len(path) == 0 && !tweaked:
		return &Child{algorithm: r.Algorithm, PublicKey: r.PublicKey, ChainCode: r.ChainCode}, nil
	}
	point, err := publicPoint(r)
	if err != nil {
		return nil, err
	}
	c := &Child{algorithm: r.Algorithm, ChainCode: r.ChainCode}
	for _, step := range path {
		if err := c.step(point, step); err != nil {
			return nil, err
		}
	}
	if r.Algorithm == mpc.BIP340Secp256k1 {
		c.makeEven(point)
		if tweaked {
			if err := c.tweak(point, root); err != nil {
				return nil, err
			}
			c.makeEven(point)
		}
	}
	compressed := secp256k1.NewPublicKey(&point.X, &point.Y).SerializeCompressed()
	if c.PublicKey = compressed; r.Algorithm == mpc.BIP340Secp256k1 {
		c.PublicKey = compressed[1:]
	}
	return c, nil
}

// parseTweak returns the Merkle root, empty for BIP86, and whether there is a
// tweak at all.
func parseTweak(s string) (root []byte, tweaked bool, err error) {
	switch s {
	case "":
		return nil, false, nil
	case BIP86:
		return nil, true, nil
	}
	if root, err = hex.DecodeString(s); err != nil || len(root) != sha256.Size {
		return nil, false, fmt.Errorf("%w: use %q, or the Merkle root of the script tree as 64 hex digits", ErrTweak, BIP86)
	}
	return root, true, nil
}

// step goes down by one unhardened step: CKDpub of BIP-32. point, affine, is
// moved along. The two failures have a chance below 2⁻¹²⁷ each.
func (c *Child) step(point *secp256k1.JacobianPoint, index uint32) error {
	mac := hmac.New(sha512.New, c.ChainCode[:])
	mac.Write(secp256k1.NewPublicKey(&point.X, &point.Y).SerializeCompressed())
	mac.Write(binary.BigEndian.AppendUint32(nil, index))
	i := mac.Sum(nil)
	copy(c.ChainCode[:], i[32:])
	return c.addScalar(point, i[:32])
}

// tweak adds the tweak of BIP-341, taproot_tweak_pubkey. point has an even y.
func (c *Child) tweak(point *secp256k1.JacobianPoint, root []byte) error {
	tag := sha256.Sum256([]byte("TapTweak"))
	h := sha256.New()
	h.Write(tag[:])
	h.Write(tag[:])
	x := point.X.Bytes()
	h.Write(x[:])
	h.Write(root)
	return c.addScalar(point, h.Sum(nil))
}

// addScalar moves the point by b·G; b is 32 bytes, big-endian.
func (c *Child) addScalar(point *secp256k1.JacobianPoint, b []byte) error {
	var add secp256k1.ModNScalar
	if add.SetByteSlice(b) {
		return fmt.Errorf("%w: this child does not exist, use the next index", ErrPath)
	}
	var move, sum secp256k1.JacobianPoint
	secp256k1.ScalarBaseMultNonConst(&add, &move)
	secp256k1.AddNonConst(point, &move, &sum)
	if (sum.X.IsZero() && sum.Y.IsZero()) || sum.Z.IsZero() {
		return fmt.Errorf("%w: this child does not exist, use the next index", ErrPath)
	}
	sum.ToAffine()
	point.Set(&sum)
	c.add.Add(&add)
	return nil
}

// makeEven replaces the key by its negative where its y is odd (BIP-340).
func (c *Child) makeEven(point *secp256k1.JacobianPoint) {
	if !point.Y.IsOdd() {
		return
	}
	point.Y.Negate(1).Normalize()
	c.negate = !c.negate
	c.add.Negate()
}

// Own reports whether the child is the account's key itself.
func (c *Child) Own() bool { return !c.negate && c.add.IsZero() }

// Share maps a share of the account to one of the child. The caller wipes it;
// share stays as it is.
func (c *Child) Share(share *secret.Bytes) (*secret.Bytes, error) {
	if c.Own() {
		return share.Clone(), nil
	}
	var x secp256k1.ModNScalar
	defer x.Zero()
	if share.Len() != 32 || x.SetByteSlice(share.Expose()) {
		return nil, mpc.ErrShareMismatch
	}
	if c.negate {
		x.Negate()
	}
	x.Add(&c.add)
	if x.IsZero() {
		return nil, mpc.ErrShareMismatch
	}
	b := x.Bytes()
	defer secret.Wipe(b[:])
	return secret.Copy(b[:]), nil
}

// Record returns r with key, chain code and public shares of the child. It
// describes a sharing that is used for one signature and is never stored.
func (c *Child) Record(r *mpc.PublicRecord) (*mpc.PublicRecord, error) {
	if r.Algorithm != c.algorithm {
		return nil, errors.New("derive: the record has another algorithm")
	}
	if c.Own() {
		return r, nil
	}
	out := *r
	out.PublicKey, out.ChainCode = c.PublicKey, c.ChainCode
	out.PublicShares = make([][]byte, len(r.PublicShares))
	var move secp256k1.JacobianPoint
	secp256k1.ScalarBaseMultNonConst(&c.add, &move)
	for i, share := range r.PublicShares {
		key, err := secp256k1.ParsePubKey(share)
		if err != nil {
			return nil, fmt.Errorf("public share %d: %w", i+1, err)
		}
		var point, sum secp256k1.JacobianPoint
		key.AsJacobian(&point)
		if c.negate {
			point.Y.Negate(1).Normalize()
		}
		secp256k1.AddNonConst(&point, &move, &sum)
		if (sum.X.IsZero() && sum.Y.IsZero()) || sum.Z.IsZero() {
			return nil, fmt.Errorf("public share %d: the child has no such share", i+1)
		}
		sum.ToAffine()
		out.PublicShares[i] = secp256k1.NewPublicKey(&sum.X, &sum.Y).SerializeCompressed()
	}
	return &out, nil
}

// publicPoint returns the account's public point, affine. A BIP-340 key stands
// for the point with an even y.
func publicPoint(r *mpc.PublicRecord) (*secp256k1.JacobianPoint, error) {
	compressed := r.PublicKey
	if r.Algorithm == mpc.BIP340Secp256k1 {
		compressed = append([]byte{secp256k1.PubKeyFormatCompressedEven}, r.PublicKey...)
	}
	key, err := secp256k1.ParsePubKey(compressed)
	if err != nil {
		return nil, fmt.Errorf("the account's public key: %w", err)
	}
	point := new(secp256k1.JacobianPoint)
	key.AsJacobian(point)
	return point, nil
}
