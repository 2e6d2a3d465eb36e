package cmp

import (
	"crypto/ed25519"
	"fmt"
	"math/big"

	"github.com/taurusgroup/multi-party-sig/pkg/math/arith"
	"github.com/taurusgroup/multi-party-sig/pkg/paillier"
	"github.com/taurusgroup/multi-party-sig/pkg/pedersen"
	zkmod "github.com/taurusgroup/multi-party-sig/pkg/zk/mod"
	zkprm "github.com/taurusgroup/multi-party-sig/pkg/zk/prm"
)

// SignedBy checks that the keys are owner's and that its identity signed them, and
// none of their proofs: what it signed it had made itself.
func (p *AuxPublic) SignedBy(owner Owner) error {
	if p.owner != owner {
		return fmt.Errorf("%w: they name %s, generation %d; expected are %s, generation %d",
			ErrOwner, p.owner.Identity, p.owner.Generation, owner.Identity, owner.Generation)
	}
	if !ed25519.Verify(owner.Identity[:], p.signed(), p.signature[:]) {
		return fmt.Errorf("auxiliary keys of %s: %w", owner.Identity, ErrSignature)
	}
	return nil
}

// Verify checks everything about the keys that needs no secret: that they are
// owner's, whose pinned identity signed them; that N is a product of two primes
// that are 3 mod 4 (mod proof); that s is a power of t (prm proof); that the
// ElGamal keys are points. It takes about 0.6 s of one core and cannot be
// interrupted. What remains is the factor proof to each peer.
func (p *AuxPublic) Verify(owner Owner) error {
	if err := p.SignedBy(owner); err != nil {
		return err
	}
	err := guarded(func() error {
		n := p.modulus()
		if err := paillier.ValidateN(n); err != nil {
			return err
		}
		aux := p.pedersen(arith.ModulusFromN(n))
		if err := pedersen.ValidateParameters(n, aux.S(), aux.T()); err != nil {
			return err
		}
		for i := range p.elGamal {
			if _, err := p.elGamalPoint(p.elGamal[i].curve); err != nil {
				return err
			}
		}
		if !p.modProof().Verify(zkmod.Public{N: n}, proofHash(labelModProof, owner), nil) {
			return fmt.Errorf("the modulus is not proven to be a Paillier-Blum modulus")
		}
		if !p.prmProof().Verify(zkprm.Public{Aux: aux}, proofHash(labelPrmProof, owner), nil) {
			return fmt.Errorf("the Pedersen parameters are not proven")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("auxiliary keys of %s: %w: %w", owner.Identity, ErrProof, err)
	}
	p.verified.Store(true)
	return nil
}

func (p *AuxPublic) modProof() *zkmod.Proof {
	proof := &zkmod.Proof{W: bigInt(p.mod[:modulusSize])}
	in := p.mod[modulusSize:]
	for i := range proof.Responses {
		round := in[i*modRoundSize:]
		proof.Responses[i] = zkmod.Response{
			A: round[0]&1 != 0,
			B: round[0]&2 != 0,
			X: bigInt(round[1 : 1+modulusSize]),
			Z: bigInt(round[1+modulusSize : modRoundSize]),
		}
	}
	return proof
}

func (p *AuxPublic) setModProof(proof *zkmod.Proof) {
	proof.W.FillBytes(p.mod[:modulusSize])
	out := p.mod[modulusSize:]
	for i, r := range proof.Responses {
		round := out[i*modRoundSize:]
		if round[0] = 0; r.A {
			round[0] |= 1
		}
		if r.B {
			round[0] |= 2
		}
		r.X.FillBytes(round[1 : 1+modulusSize])
		r.Z.FillBytes(round[1+modulusSize : modRoundSize])
	}
}

func (p *AuxPublic) prmProof() *zkprm.Proof {
	proof := &zkprm.Proof{}
	for i := range proof.As {
		round := p.prm[i*prmRoundSize:]
		proof.As[i] = bigInt(round[:modulusSize])
		proof.Zs[i] = bigInt(round[modulusSize:prmRoundSize])
	}
	return proof
}

func (p *AuxPublic) setPrmProof(proof *zkprm.Proof) {
	for i := range proof.As {
		round := p.prm[i*prmRoundSize:]
		proof.As[i].FillBytes(round[:modulusSize])
		proof.Zs[i].FillBytes(round[modulusSize:prmRoundSize])
	}
}

func bigInt(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
