package cmp

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/mpctest"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// nameless are the errors that may name nobody among three signers.
func nameless(err error) bool {
	return errors.Is(err, ErrBroadcast) || errors.Is(err, ErrInconsistent) ||
		// cmp.Sign's own last checks: Δ, and the finished signature.
		strings.Contains(err.Error(), "computed Δ is inconsistent with [δ]G") ||
		strings.Contains(err.Error(), "failed to validate signature")
}

// goodSignatures checks what the signers that are done have.
func goodSignatures[P interface {
	Result() (*mpc.Signature, error)
}](record *mpc.PublicRecord, digest [32]byte, parties map[mpc.Index]P, done []mpc.Index) error {
	var first *mpc.Signature
	for _, i := range done {
		sig, err := parties[i].Result()
		if err != nil {
			return fmt.Errorf("share %d is done, but: %w", i, err)
		}
		if !verify.Signature(record.Algorithm, record.PublicKey, digest[:], sig.Bytes) {
			return fmt.Errorf("share %d has a signature that does not verify", i)
		}
		if first == nil {
			first = sig
		}
		if !bytes.Equal(first.Bytes, sig.Bytes) {
			return fmt.Errorf("shares %d and %d have different signatures", done[0], i)
		}
	}
	return nil
}

// signSuite is ECDSA signing. twin asks for a second run of the cheater, which
// takes as long as the first.
func signSuite(t testing.TB, a mpc.Algorithm, indices []mpc.Index, twin bool) mpctest.Suite {
	record, shares := dealOn(t, a, len(indices), 5)
	digest := [32]byte{7}
	return mpctest.Suite{Nameless: nameless, Session: func(t testing.TB) mpctest.Session {
		configs := signers(t, record, shares, indices, digest)
		parties := start(t, configs)
		s := mpctest.Session{Parties: asParties(parties), Verify: func(done []mpc.Index) error {
			return goodSignatures(record, digest, parties, done)
		}}
		if twin {
			s.Twin = func(i mpc.Index) mpc.Party { return start(t, map[mpc.Index]SignConfig{i: configs[i]})[i] }
		}
		return s
	}}
}

// presignSuite is presigning; what comes out must make a signature.
func presignSuite(t testing.TB, a mpc.Algorithm, indices []mpc.Index, twin bool) mpctest.Suite {
	record, shares := dealOn(t, a, len(indices), 5)
	return mpctest.Suite{Nameless: nameless, Session: func(t testing.TB) mpctest.Session {
		configs := signers(t, record, shares, indices, [32]byte{})
		parties := startPresign(t, configs)
		s := mpctest.Session{Parties: asParties(parties), Verify: func(done []mpc.Index) error {
			return goodPresignatures(t, record, parties, indices, done)
		}}
		if twin {
			s.Twin = func(i mpc.Index) mpc.Party { return startPresign(t, map[mpc.Index]SignConfig{i: configs[i]})[i] }
		}
		return s
	}}
}

func goodPresignatures(t testing.TB, record *mpc.PublicRecord, parties map[mpc.Index]*PresignParty, indices, done []mpc.Index) error {
	made := map[mpc.Index]*Presignature{}
	for _, i := range done {
		p, err := parties[i].Result()
		if err != nil {
			return fmt.Errorf("share %d is done, but: %w", i, err)
		}
		defer p.Wipe()
		if made[i] = p; p.Public() != made[done[0]].Public() {
			return fmt.Errorf("shares %d and %d have different presignatures", done[0], i)
		}
	}
	if len(done) < len(indices) {
		return nil
	}
	digest := [32]byte{8}
	online := startOnline(t, onlineConfigs(record, made, indices, digest))
	if err := route(online, nil); err != nil {
		return fmt.Errorf("the presignature cannot be used: %w", err)
	}
	return goodSignatures(record, digest, online, indices)
}

func onlineSuite(t testing.TB, a mpc.Algorithm, indices []mpc.Index) mpctest.Suite {
	record, shares := dealOn(t, a, len(indices), 5)
	digest := [32]byte{9}
	return mpctest.Suite{Nameless: nameless, Session: func(t testing.TB) mpctest.Session {
		parties := startOnline(t, onlineConfigs(record, dealPresignatures(t, record, shares, indices), indices, digest))
		return mpctest.Session{Parties: asParties(parties), Verify: func(done []mpc.Index) error {
			return goodSignatures(record, digest, parties, done)
		}}
	}}
}

func asParties[P mpc.Party](parties map[mpc.Index]P) map[mpc.Index]mpc.Party {
	out := map[mpc.Index]mpc.Party{}
	for i, p := range parties {
		out[i] = p
	}
	return out
}

// TestOnlineEveryFault: the online step costs milliseconds, so it gets the whole
// table and random combinations.
func TestOnlineEveryFault(t *testing.T) {
	for _, a := range ecdsaAlgorithms() {
		for _, indices := range [][]mpc.Index{{1, 3}, {2, 3, 5}} {
			t.Run(fmt.Sprint(a, indices), func(t *testing.T) {
				s := onlineSuite(t, a, indices)
				s.Honest(t, 3)
				count := s.Table(t)
				if count.Places != 1 || count.Faults < 25 {
					t.Errorf("only %v", count)
				}
				t.Log(count, "; at random:", s.Campaign(t, 100))
			})
		}
	}
}

// named is a fault of one message of a two- or three-party session.
type named struct {
	round     uint8
	broadcast bool
	fault     string
	twin      bool
}

func tryNamed(t *testing.T, suite func(twin bool) mpctest.Suite, cases []named) {
	recorded := suite(false).Record(t)
	for _, c := range cases {
		t.Run(fmt.Sprintf("round %d, broadcast %v, %q", c.round, c.broadcast, c.fault), func(t *testing.T) {
			if testing.Short() && c.round > 2 {
				t.Skip("takes seconds")
			}
			suite(c.twin).Named(t, recorded, c.round, c.broadcast, c.fault)
		})
	}
}

// TestHostileSigner: one signer of a whole signature cheats. Two parties name it
// always; three name nobody honest.
func TestHostileSigner(t *testing.T) {
	t.Run("two", func(t *testing.T) {
		tryNamed(t, func(twin bool) mpctest.Suite { return signSuite(t, mpc.ECDSAP256, []mpc.Index{1, 3}, twin) }, []named{
			{2, true, "dropped", false},
			{2, true, "round of aborts", false},
			{2, false, "[ProofEnc Z1]: of another run", true},
			{3, false, "duplicated", false},
			{3, false, "[DeltaD]: flipped last bit", false},
			{4, true, "[DeltaShare]: flipped last bit", false},
			{5, true, "[SigmaShare]: flipped last bit", false},
		})
	})
	t.Run("three", func(t *testing.T) {
		if testing.Short() {
			t.Skip("takes seconds")
		}
		tryNamed(t, func(twin bool) mpctest.Suite { return signSuite(t, mpc.ECDSASecp256k1, []mpc.Index{1, 3, 5}, twin) }, []named{
			{2, true, "equivocation", true},
			{5, true, "[SigmaShare]: flipped last bit", false},
		})
	})
}

// TestHostilePresigner: the same in presigning. False δ and χ with true proofs
// are TestPresignCheat's.
func TestHostilePresigner(t *testing.T) {
	t.Run("two", func(t *testing.T) {
		tryNamed(t, func(twin bool) mpctest.Suite { return presignSuite(t, mpc.ECDSASecp256k1, []mpc.Index{1, 3}, twin) }, []named{
			{2, true, "round of aborts", false},
			{2, true, "[K]: of another run", true},
			{6, true, "[BigDeltaShare]: flipped first bit", false},
			{7, true, "[DecommitmentID]: flipped last bit", false},
		})
	})
	t.Run("three", func(t *testing.T) {
		if testing.Short() {
			t.Skip("takes seconds")
		}
		tryNamed(t, func(twin bool) mpctest.Suite { return presignSuite(t, mpc.ECDSAP256, []mpc.Index{1, 3, 5}, twin) }, []named{
			{2, true, "equivocation", true},
		})
	})
}

// TestECDSASample tries random faults at random messages; MPC_HOSTILE_SEEDS says
// how many, each of which takes seconds.
func TestECDSASample(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for name, s := range map[string]mpctest.Suite{
		"sign":    signSuite(t, mpc.ECDSASecp256k1, []mpc.Index{2, 3}, false),
		"presign": presignSuite(t, mpc.ECDSASecp256k1, []mpc.Index{2, 3}, false),
	} {
		t.Run(name, func(t *testing.T) { t.Log(s.Sample(t, 2)) })
	}
}
