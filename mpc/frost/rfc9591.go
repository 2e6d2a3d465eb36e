package frost

import (
	"crypto/sha512"
	"errors"

	"filippo.io/edwards25519"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
)

// This file is the arithmetic of FROST(Ed25519, SHA-512), RFC 9591 section 6.1:
// pure functions, which the RFC's test vectors drive. Scalars are encoded here
// as the RFC does, 32 bytes little-endian; identifiers are share indices.

// contextString of RFC 9591, section 6.1.
const contextString = "FROST-ED25519-SHA512-v1"

// Lengths in bytes of a nonce commitment, of the pair that a signer sends, and
// of a signature share.
const (
	elementSize = 32
	pairSize    = 2 * elementSize
	shareSize   = 32
)

var errShareEncoding = errors.New("not a scalar of 32 bytes, little-endian, below the order")

// hashToScalar is H1 ("rho") and H3 ("nonce").
func hashToScalar(tag string, parts ...[]byte) *edwards25519.Scalar {
	return wideScalar(append([][]byte{[]byte(contextString), []byte(tag)}, parts...)...)
}

// hash is H4 ("msg") and H5 ("com").
func hash(tag string, m []byte) []byte {
	h := sha512.New()
	h.Write([]byte(contextString))
	h.Write([]byte(tag))
	h.Write(m)
	return h.Sum(nil)
}

// wideScalar reduces a SHA-512 hash, little-endian, modulo the order.
func wideScalar(parts ...[]byte) *edwards25519.Scalar {
	h := sha512.New()
	for _, p := range parts {
		h.Write(p)
	}
	sum := h.Sum(nil)
	s, err := new(edwards25519.Scalar).SetUniformBytes(sum)
	if err != nil {
		panic("frost: SHA-512 gave no 64 bytes") // the only error there is
	}
	clear(sum)
	return s
}

// identifier is a share index as a scalar.
func identifier(i mpc.Index) *edwards25519.Scalar {
	s, err := new(edwards25519.Scalar).SetCanonicalBytes(append([]byte{byte(i)}, make([]byte, 31)...))
	if err != nil {
		panic("frost: an index is not below the order")
	}
	return s
}

// nonces are one signer's for one signature: used once, then wiped.
type nonces struct{ hiding, binding *edwards25519.Scalar }

func (n *nonces) wipe() {
	wipeEdwards(n.hiding)
	wipeEdwards(n.binding)
	n.hiding, n.binding = nil, nil
}

func wipeEdwards(s *edwards25519.Scalar) {
	if s != nil {
		s.Set(new(edwards25519.Scalar))
	}
}

// nonceGenerate of section 4.1. The share is hashed in, so that a weak random
// source alone does not give nonces away.
func nonceGenerate(random [32]byte, share *edwards25519.Scalar) *edwards25519.Scalar {
	b := share.Bytes()
	defer clear(b)
	return hashToScalar("nonce", random[:], b)
}

// commitment is what a signer tells the others about its nonces.
type commitment struct {
	index           mpc.Index
	hiding, binding *edwards25519.Point
	encoded         []byte // both, 64 bytes
}

// commit of section 5.1.
func commit(i mpc.Index, n nonces) commitment {
	hiding := new(edwards25519.Point).ScalarBaseMult(n.hiding)
	binding := new(edwards25519.Point).ScalarBaseMult(n.binding)
	return commitment{i, hiding, binding, append(hiding.Bytes(), binding.Bytes()...)}
}

// parseCommitment reads what another signer's commit encoded; b must not
// change afterwards. Section 5.2 asks for canonical points of prime order other
// than the identity.
func parseCommitment(i mpc.Index, b []byte) (commitment, error) {
	if err := sized("nonce commitments", b, pairSize); err != nil {
		return commitment{}, err
	}
	hiding, err := curve.ParseEdwards25519(b[:elementSize])
	if err != nil {
		return commitment{}, err
	}
	binding, err := curve.ParseEdwards25519(b[elementSize:])
	if err != nil {
		return commitment{}, err
	}
	return commitment{i, hiding, binding, b}, nil
}

// encodeCommitments is encode_group_commitment_list of section 4.3. list is in
// ascending order of identifiers.
func encodeCommitments(list []commitment) []byte {
	var b []byte
	for _, c := range list {
		b = append(b, identifier(c.index).Bytes()...)
		b = append(b, c.encoded...)
	}
	return b
}

// bindingFactors is compute_binding_factors of section 4.4, in list's order.
func bindingFactors(publicKey []byte, list []commitment, message []byte) []*edwards25519.Scalar {
	prefix := append([]byte(nil), publicKey...)
	prefix = append(prefix, hash("msg", message)...)
	prefix = append(prefix, hash("com", encodeCommitments(list))...)
	out := make([]*edwards25519.Scalar, len(list))
	for k, c := range list {
		out[k] = hashToScalar("rho", prefix, identifier(c.index).Bytes())
	}
	return out
}

// groupCommitment is compute_group_commitment of section 4.5; it also returns
// every signer's part Dᵢ + ρᵢ·Eᵢ. All of it is public.
func groupCommitment(list []commitment, factors []*edwards25519.Scalar) (r *edwards25519.Point, parts []*edwards25519.Point) {
	r = edwards25519.NewIdentityPoint()
	for k, c := range list {
		p := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(factors[k], c.binding, new(edwards25519.Scalar))
		parts = append(parts, p.Add(p, c.hiding))
		r.Add(r, p)
	}
	return r, parts
}

// challenge is compute_challenge of section 4.6: H2 is RFC 8032's hash.
func challenge(r, publicKey, message []byte) *edwards25519.Scalar {
	return wideScalar(r, publicKey, message)
}

// interpolating is derive_interpolating_value of section 4.2: Lagrange's λᵢ at 0.
func interpolating(i mpc.Index, signers []mpc.Index) *edwards25519.Scalar {
	num, den := identifier(1), identifier(1)
	for _, j := range signers {
		if j != i {
			num.Multiply(num, identifier(j))
			den.Multiply(den, new(edwards25519.Scalar).Subtract(identifier(j), identifier(i)))
		}
	}
	return num.Multiply(num, den.Invert(den))
}

// signatureShare of section 5.2: zᵢ = dᵢ + eᵢ·ρᵢ + λᵢ·xᵢ·c. It does not wipe.
func signatureShare(n nonces, factor, lambda, share, c *edwards25519.Scalar) *edwards25519.Scalar {
	z := new(edwards25519.Scalar).MultiplyAdd(n.binding, factor, n.hiding)
	lc := new(edwards25519.Scalar).Multiply(lambda, c)
	return z.MultiplyAdd(lc, share, z)
}

// parseShareZ reads a signature share.
func parseShareZ(b []byte) (*edwards25519.Scalar, error) {
	z, err := new(edwards25519.Scalar).SetCanonicalBytes(b)
	if err != nil {
		return nil, errShareEncoding
	}
	return z, nil
}

// verifyShare is verify_signature_share of section 5.4:
// zᵢ·B = (Dᵢ + ρᵢ·Eᵢ) + (c·λᵢ)·Xᵢ. part is the first summand.
func verifyShare(z *edwards25519.Scalar, part, public *edwards25519.Point, lambda, c *edwards25519.Scalar) bool {
	minus := new(edwards25519.Scalar).Multiply(lambda, c)
	minus.Negate(minus)
	got := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(minus, public, z)
	return got.Equal(part) == 1
}

// aggregate of section 5.3: R‖z, 64 bytes.
func aggregate(r *edwards25519.Point, shares []*edwards25519.Scalar) []byte {
	z := new(edwards25519.Scalar)
	for _, s := range shares {
		z.Add(z, s)
	}
	return append(r.Bytes(), z.Bytes()...)
}
