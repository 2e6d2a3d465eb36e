package cmp

import (
	"context"
	"crypto"
	"crypto/rand"
	"fmt"
	"io"

	"github.com/taurusgroup/multi-party-sig/pkg/math/sample"
	"github.com/taurusgroup/multi-party-sig/pkg/paillier"
	zkmod "github.com/taurusgroup/multi-party-sig/pkg/zk/mod"
	zkprm "github.com/taurusgroup/multi-party-sig/pkg/zk/prm"

	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/secret"
)

// Generate makes one generation of auxiliary keys for owner, signed by identity,
// whose public key must be the owner's. It takes some seconds of one core, of
// which the search for two safe primes is a third on average and several times
// that in the tail. progress, which may be nil, is called from this goroutine
// with 0…100 in ascending order. When ctx ends, Generate returns its error
// within a fraction of a second during the search, and after the running proof
// (about a second) otherwise.
//
// The public half is not verified here: every peer does that.
func Generate(ctx context.Context, owner Owner, identity crypto.Signer, progress func(percent int)) (*AuxSecret, *AuxPublic, error) {
	if err := owner.check(); err != nil {
		return nil, nil, err
	}
	if !owner.Identity.Equal(identity.Public()) {
		return nil, nil, fmt.Errorf("%w: the signing key is another one", ErrOwner)
	}
	report := func(percent int) error {
		if progress != nil {
			progress(percent)
		}
		return ctx.Err()
	}
	if err := report(0); err != nil {
		return nil, nil, err
	}
	s := &AuxSecret{generation: owner.Generation}
	public := &AuxPublic{owner: owner}
	err := guarded(func() error { return generate(ctx, s, public, report) })
	if ctx.Err() != nil {
		err = ctx.Err() // the search ends by a panic of ours
	}
	if err == nil {
		err = public.sign(identity)
	}
	if err != nil {
		s.Wipe()
		return nil, nil, fmt.Errorf("making auxiliary keys: %w", err)
	}
	_ = report(100)
	return s, public, nil
}

func generate(ctx context.Context, s *AuxSecret, public *AuxPublic, report func(int) error) error {
	key := paillier.NewSecretKeyFromPrimes(sample.Paillier(untilDone{ctx}, nil))
	defer wipePaillier(key)
	p, q := make([]byte, primeSize), make([]byte, primeSize)
	s.p, s.q = secret.New(key.P().FillBytes(p)), secret.New(key.Q().FillBytes(q))
	copy(public.n[:], key.N().Bytes())
	if err := report(40); err != nil {
		return err
	}

	aux, lambda := key.GeneratePedersen()
	defer wipeNat(lambda) // needed for the prm proof only
	aux.S().FillBytes(public.s[:])
	aux.T().FillBytes(public.t[:])
	for _, name := range curveNames() {
		group, _ := curveByName(name)
		y := sample.ScalarUnit(rand.Reader, group)
		scalar, err := y.MarshalBinary()
		if err != nil {
			return err
		}
		point, err := y.ActOnBase().MarshalBinary()
		if err != nil {
			return err
		}
		curve.WipeScalar(y)
		s.elGamal = append(s.elGamal, elGamalSecret{name, secret.New(scalar)})
		public.elGamal = append(public.elGamal, elGamalPublic{curve: name, point: [pointSize]byte(point)})
	}

	public.setModProof(zkmod.NewProof(proofHash(labelModProof, public.owner),
		zkmod.Private{P: key.P(), Q: key.Q(), Phi: key.Phi()}, zkmod.Public{N: key.N()}, nil))
	if err := report(75); err != nil {
		return err
	}
	public.setPrmProof(zkprm.NewProof(zkprm.Private{Lambda: lambda, Phi: key.Phi(), P: key.P(), Q: key.Q()},
		proofHash(labelPrmProof, public.owner), zkprm.Public{Aux: aux}, nil))
	if err := report(98); err != nil {
		return err
	}
	return public.checkRanges()
}

// untilDone is crypto/rand until its context ends. The library's search for
// primes has no other way out: it reads randomness for every window of
// candidates, retries for ever on an error, and so is stopped by a panic, which
// Generate recovers.
type untilDone struct{ ctx context.Context }

var _ io.Reader = untilDone{}

func (r untilDone) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		panic(err)
	}
	return rand.Read(b)
}
