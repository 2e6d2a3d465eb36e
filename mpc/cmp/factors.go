package cmp

import (
	"errors"
	"fmt"

	"github.com/cronokirby/saferith"
	"github.com/taurusgroup/multi-party-sig/pkg/math/arith"
	zkfac "github.com/taurusgroup/multi-party-sig/pkg/zk/fac"
)

// Bits of the signed numbers of a factor proof at most, in the order of their
// encoding: σ, z₁, z₂, w₁, w₂, v. They follow from the intervals of CGGMP
// (2021/060, figure 28) with ℓ = 256, ε = 512 and 2048-bit moduli, plus one bit
// for a sum. An honest proof is never over them; without them a number's
// length would decide how long a verifier works.
var factorBits = [6]int{
	256 + 2*2048,     // σ ∈ ±2^ℓ·N·N̂
	768 + 1024 + 1,   // z = α + e·p, α ∈ ±2^(ℓ+ε)·√N
	768 + 1024 + 1,   //
	768 + 2048 + 1,   // w = x + e·μ, x ∈ ±2^(ℓ+ε)·N̂
	768 + 2048 + 1,   //
	768 + 2*2048 + 1, // v = r + e·σ̂, r ∈ ±2^(ℓ+ε)·N·N̂
}

const (
	factorCommitments = 5 // P, Q, A, B, T modulo the verifier's N̂
	// factorProofSize: the signed numbers take a sign byte and 544, 225, 225,
	// 353, 353 and 609 bytes.
	factorProofSize = factorCommitments*modulusSize + 6 + 544 + 2*225 + 2*353 + 609
)

// FactorProof proves to one verifier that the prover's modulus has no small
// factors. It is immutable.
type FactorProof struct{ body [factorProofSize]byte }

// Marshal returns the canonical encoding: label with version and body, each
// preceded by its length (4 bytes, big-endian). The body has 3,595 bytes: P, Q,
// A, B, T (256 bytes each), then σ, z₁, z₂, w₁, w₂, v as a sign byte (1 for a
// negative number) and a magnitude of fixed length. All are big-endian.
func (p *FactorProof) Marshal() []byte { return newFields(labelFactorProof).put(p.body[:]) }

// ParseFactorProof reads Marshal's encoding, the canonical form only.
func ParseFactorProof(b []byte) (*FactorProof, error) {
	r := newReader(b, factorProofSize+256, labelFactorProof)
	p := &FactorProof{}
	r.fixed(p.body[:])
	in := p.body[factorCommitments*modulusSize:]
	for _, bits := range factorBits {
		size := (bits + 7) / 8
		sign, magnitude := in[0], in[1:1+size]
		if spare := 8*size - bits; sign > 1 || (sign == 1 && isZero(magnitude)) || magnitude[0]>>(8-spare) != 0 {
			r.rejectf("factor proof: number out of bounds")
		}
		in = in[1+size:]
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return p, nil
}

// ProveFactors proves to verifier that the modulus of s has no small factors.
// prover must be the owner of s, verifierPublic must have passed Verify or
// VerifyReceipt here: Pedersen parameters made with ill intent would let the
// proof leak the factors. It takes a fraction of a second.
func ProveFactors(s *AuxSecret, prover Owner, verifierPublic *AuxPublic, verifier Owner) (*FactorProof, error) {
	if err := pair(prover, verifier); err != nil {
		return nil, err
	}
	if s.generation != prover.Generation || verifierPublic.owner != verifier {
		return nil, fmt.Errorf("factor proof: %w", ErrOwner)
	}
	if !verifierPublic.verified.Load() {
		return nil, fmt.Errorf("factor proof for %s: %w", verifier.Identity, ErrUnchecked)
	}
	out := &FactorProof{}
	err := guarded(func() error {
		if s.p.Len() != primeSize || s.q.Len() != primeSize {
			return errWiped
		}
		p, q := nat(s.p.Expose()), nat(s.q.Expose())
		defer wipeNat(p)
		defer wipeNat(q)
		n := saferith.ModulusFromNat(new(saferith.Nat).Mul(p, q, 8*modulusSize))
		proof := zkfac.NewProof(zkfac.Private{P: p, Q: q}, proofHash(labelFactorHash, prover, verifier),
			zkfac.Public{N: n, Aux: verifierPublic.pedersen(arith.ModulusFromN(verifierPublic.modulus()))})
		return out.set(proof)
	})
	if err != nil {
		return nil, fmt.Errorf("factor proof for %s: %w", verifier.Identity, err)
	}
	return out, nil
}

// VerifyFactors checks proverPublic's factor proof to this node, whose own
// public keys are verifierPublic; both owners come from what is pinned.
// proverPublic must have passed Verify; when the proof holds, it is checked
// completely and may take part in signing.
func VerifyFactors(proof *FactorProof, proverPublic *AuxPublic, prover Owner, verifierPublic *AuxPublic, verifier Owner) error {
	if err := pair(prover, verifier); err != nil {
		return err
	}
	if proverPublic.owner != prover || verifierPublic.owner != verifier {
		return fmt.Errorf("factor proof: %w", ErrOwner)
	}
	if !proverPublic.verified.Load() {
		return fmt.Errorf("factor proof of %s: %w", prover.Identity, ErrUnchecked)
	}
	for in := proof.body[:factorCommitments*modulusSize]; len(in) > 0; in = in[modulusSize:] {
		if !inRange(in[:modulusSize], verifierPublic.n[:]) {
			return fmt.Errorf("factor proof of %s: %w", prover.Identity, ErrProof)
		}
	}
	err := guarded(func() error {
		public := zkfac.Public{N: proverPublic.modulus(),
			Aux: verifierPublic.pedersen(arith.ModulusFromN(verifierPublic.modulus()))}
		if !proof.library().Verify(public, proofHash(labelFactorHash, prover, verifier)) {
			return errors.New("the modulus may have small factors")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("factor proof of %s: %w: %w", prover.Identity, ErrProof, err)
	}
	proverPublic.complete.Store(true)
	return nil
}

// pair checks that two owners can be peers.
func pair(prover, verifier Owner) error {
	if err := errors.Join(prover.check(), verifier.check()); err != nil {
		return err
	}
	if prover.MountID != verifier.MountID || prover.Identity == verifier.Identity || prover.NodeID == verifier.NodeID {
		return fmt.Errorf("factor proof: %w: not two nodes of one mount", ErrOwner)
	}
	return nil
}

// set encodes a proof made by the library.
func (p *FactorProof) set(proof *zkfac.Proof) error {
	out := p.body[:]
	for _, c := range []*saferith.Nat{proof.Comm.P, proof.Comm.Q, proof.Comm.A, proof.Comm.B, proof.Comm.T} {
		c.FillBytes(out[:modulusSize])
		out = out[modulusSize:]
	}
	for i, z := range []*saferith.Int{proof.Sigma, proof.Z1, proof.Z2, proof.W1, proof.W2, proof.V} {
		abs := z.Abs()
		if abs.TrueLen() > factorBits[i] {
			return errors.New("a number is out of bounds")
		}
		size := (factorBits[i] + 7) / 8
		abs.FillBytes(out[1 : 1+size])
		if out[0] = byte(z.IsNegative()); isZero(out[1 : 1+size]) {
			out[0] = 0
		}
		out = out[1+size:]
	}
	return nil
}

// library returns the proof in the library's form.
func (p *FactorProof) library() *zkfac.Proof {
	in := p.body[:]
	var c [factorCommitments]*saferith.Nat
	for i := range c {
		c[i] = nat(in[:modulusSize])
		in = in[modulusSize:]
	}
	var z [len(factorBits)]*saferith.Int
	for i, bits := range factorBits {
		size := (bits + 7) / 8
		z[i] = new(saferith.Int).SetBytes(in[1 : 1+size])
		z[i].Neg(saferith.Choice(in[0]))
		in = in[1+size:]
	}
	return &zkfac.Proof{
		Comm:  zkfac.Commitment{P: c[0], Q: c[1], A: c[2], B: c[3], T: c[4]},
		Sigma: z[0], Z1: z[1], Z2: z[2], W1: z[3], W2: z[4], V: z[5],
	}
}
