package frost

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"testing"

	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/cronokirby/saferith"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	secpecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/curve"
	"vault-plugin-secrets-mpc/secret"
)

// TestEveryAlgorithm takes a key of each algorithm through its life: made,
// used by several sets of signers, refreshed, used again under the same public
// key, with old shares refused.
func TestEveryAlgorithm(t *testing.T) {
	for _, c := range []struct {
		threshold, shares int
		long              bool
	}{
		{2, 2, false}, {2, 3, false}, {3, 5, false}, {5, 5, false},
		{9, 16, true}, {16, 16, true},
	} {
		for _, a := range mpc.Algorithms() {
			t.Run(fmt.Sprintf("%s/%d of %d", a, c.threshold, c.shares), func(t *testing.T) {
				if c.long && testing.Short() {
					t.Skip("many parties")
				}
				record, shares := account(t, a, c.threshold, c.shares)
				epochs := 3
				if c.long {
					epochs = 1
				}
				for range epochs {
					useKey(t, record, shares)
					old, oldShare := record, shares[1].Clone()
					record, shares = refresh(t, record, shares)
					if !bytes.Equal(old.PublicKey, record.PublicKey) {
						t.Fatal("the public key changed")
					}
					if shares[1].Equal(oldShare) {
						t.Fatal("the share did not change")
					}
					if err := CheckShare(record, 1, oldShare); !errors.Is(err, mpc.ErrShareMismatch) {
						t.Fatalf("an old share in the new epoch: %v", err)
					}
				}
				useKey(t, record, shares)
			})
		}
	}
}

// someSigners picks t indices at random.
func someSigners(record *mpc.PublicRecord) []mpc.Index {
	all := allIndices(record.Shares)
	mathrand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	signers := all[:record.Threshold]
	slices.Sort(signers)
	return signers
}

// useKey signs with random signers and verifies by an implementation that
// makes no signatures here. ECDSA signing is mpc/cmp's; here the key is put
// together from the shares and signs by itself.
func useKey(t *testing.T, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes) {
	t.Helper()
	message := make([]byte, 32)
	if _, err := rand.Read(message); err != nil {
		t.Fatal(err)
	}
	signers := someSigners(record)
	valid := false
	switch record.Algorithm {
	case mpc.BIP340Secp256k1:
		key, err := schnorr.ParsePubKey(record.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := schnorr.ParseSignature(sign(t, record, shares, signers, message).Bytes)
		if err != nil {
			t.Fatal(err)
		}
		valid = sig.Verify(message, key)
	case mpc.Ed25519:
		sig := sign(t, record, shares, signers, message)
		valid = ed25519.Verify(record.PublicKey, message, sig.Bytes) &&
			bytes.Equal(append(sig.R[:], sig.S[:]...), sig.Bytes) && sig.RecoveryID == -1
	case mpc.ECDSASecp256k1:
		key := secp256k1.PrivKeyFromBytes(reconstruct(t, record, shares, signers))
		public, err := secp256k1.ParsePubKey(record.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		valid = secpecdsa.Sign(key, message).Verify(message, public)
	case mpc.ECDSAP256:
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), reconstruct(t, record, shares, signers))
		if err != nil {
			t.Fatal(err)
		}
		sig, err := ecdsa.SignASN1(rand.Reader, key, message)
		if err != nil {
			t.Fatal(err)
		}
		x, y := elliptic.UnmarshalCompressed(elliptic.P256(), record.PublicKey)
		valid = x != nil && ecdsa.VerifyASN1(&ecdsa.PublicKey{Curve: elliptic.P256(), X: x, Y: y}, message, sig)
	}
	if !valid {
		t.Fatalf("epoch %d: %v of %d gave no valid signature", record.Epoch, signers, record.Shares)
	}
}

// reconstruct adds up λᵢ·xᵢ; only a test may.
func reconstruct(t *testing.T, record *mpc.PublicRecord, shares map[mpc.Index]*secret.Bytes, signers []mpc.Index) []byte {
	t.Helper()
	group, err := curve.For(record.Algorithm)
	if err != nil {
		t.Fatal(err)
	}
	sum := group.NewScalar()
	for _, i := range signers {
		x, err := curve.ParseScalar(group, shares[i])
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range signers {
			if i != j {
				ni := group.NewScalar().SetNat(new(saferith.Nat).SetUint64(uint64(i)))
				nj := group.NewScalar().SetNat(new(saferith.Nat).SetUint64(uint64(j)))
				x.Mul(nj).Mul(group.NewScalar().Set(nj).Sub(ni).Invert())
			}
		}
		sum.Add(x)
	}
	b, err := sum.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
