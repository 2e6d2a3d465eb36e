package pool

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	decred "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
)

type signed struct {
	algorithm       mpc.Algorithm
	public, message []byte
	outcome         *nodepb.Outcome
}

// someSignatures has one valid outcome for each algorithm. The message is the
// same for all.
func someSignatures(t *testing.T, message []byte) []signed {
	t.Helper()
	halves := func(sig []byte) *nodepb.Outcome {
		return &nodepb.Outcome{Signature: sig, R: sig[:32], S: sig[32:], RecoveryId: -1}
	}
	var all []signed

	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, signed{mpc.Ed25519, edPublic, message, halves(ed25519.Sign(edKey, message))})

	// BIP-340, test vector 0: 32 zero bytes under the private key 3.
	decode := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	all = append(all, signed{mpc.BIP340Secp256k1, decode("f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"), make([]byte, 32),
		halves(decode("e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca821525f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0"))})

	key, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	compact := decred.SignCompact(key, message, true)
	all = append(all, signed{mpc.ECDSASecp256k1, key.PubKey().SerializeCompressed(), message, &nodepb.Outcome{
		Signature: verify.DER([32]byte(compact[1:33]), [32]byte(compact[33:])), R: compact[1:33], S: compact[33:], RecoveryId: int32(compact[0]) - 31}})

	w := newStubWorld(t)
	public := elliptic.MarshalCompressed(elliptic.P256(), w.key.X, w.key.Y)
	record := &mpc.PublicRecord{Algorithm: mpc.ECDSAP256, PublicKey: public}
	all = append(all, signed{mpc.ECDSAP256, public, message, w.sign(record, &nodepb.Start{Input: message, MessageType: string(mpc.MessageDigest)})})
	return all
}

func TestCheckSignature(t *testing.T) {
	digest, other := sha256.Sum256([]byte("one")), sha256.Sum256([]byte("two"))
	second := someSignatures(t, other[:])
	for k, c := range someSignatures(t, digest[:]) {
		t.Run(string(c.algorithm), func(t *testing.T) {
			s, err := checkSignature(c.algorithm, c.public, c.message, c.outcome)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(s.Bytes, c.outcome.Signature) || !bytes.Equal(s.Digest, c.message) || s.RecoveryID != int(c.outcome.RecoveryId) {
				t.Errorf("%+v", s)
			}
			for name, change := range map[string]func(o *nodepb.Outcome) (public, message []byte){
				"other message": func(*nodepb.Outcome) ([]byte, []byte) { return c.public, bytes.Repeat([]byte{9}, 32) },
				"other key":     func(*nodepb.Outcome) ([]byte, []byte) { return mutated(c.public), c.message },
				"bytes": func(o *nodepb.Outcome) ([]byte, []byte) {
					o.Signature = mutated(o.Signature)
					return c.public, c.message
				},
				"one byte more": func(o *nodepb.Outcome) ([]byte, []byte) {
					o.Signature = append(o.Signature, 0)
					return c.public, c.message
				},
				"empty":           func(o *nodepb.Outcome) ([]byte, []byte) { o.Signature = nil; return c.public, c.message },
				"r":               func(o *nodepb.Outcome) ([]byte, []byte) { o.R = mutated(o.R); return c.public, c.message },
				"s":               func(o *nodepb.Outcome) ([]byte, []byte) { o.S = mutated(o.S); return c.public, c.message },
				"short r":         func(o *nodepb.Outcome) ([]byte, []byte) { o.R = o.R[1:]; return c.public, c.message },
				"long s":          func(o *nodepb.Outcome) ([]byte, []byte) { o.S = append(o.S, 0); return c.public, c.message },
				"recovery":        func(o *nodepb.Outcome) ([]byte, []byte) { o.RecoveryId ^= 1; return c.public, c.message },
				"recovery 4":      func(o *nodepb.Outcome) ([]byte, []byte) { o.RecoveryId = 4; return c.public, c.message },
				"r and s swapped": func(o *nodepb.Outcome) ([]byte, []byte) { o.R, o.S = o.S, o.R; return c.public, c.message },
				"numbers of another signature": func(o *nodepb.Outcome) ([]byte, []byte) {
					o.R, o.S, o.RecoveryId = mutated(second[k].outcome.R), second[k].outcome.S, second[k].outcome.RecoveryId
					return c.public, c.message
				},
			} {
				o := &nodepb.Outcome{Signature: bytes.Clone(c.outcome.Signature), R: bytes.Clone(c.outcome.R), S: bytes.Clone(c.outcome.S), RecoveryId: c.outcome.RecoveryId}
				public, message := change(o)
				if _, err := checkSignature(c.algorithm, public, message, o); err == nil {
					t.Errorf("%s: accepted", name)
				}
			}
			for _, a := range append(mpc.Algorithms(), "rot13") {
				if _, err := checkSignature(a, c.public, c.message, c.outcome); a != c.algorithm && err == nil {
					t.Errorf("accepted as %s", a)
				}
			}
		})
	}
}

// TestHighS: the twin of an ECDSA signature verifies everywhere and is refused
// here all the same.
func TestHighS(t *testing.T) {
	digest := sha256.Sum256([]byte("one"))
	for _, c := range someSignatures(t, digest[:]) {
		order := map[mpc.Algorithm]elliptic.Curve{mpc.ECDSAP256: elliptic.P256(), mpc.ECDSASecp256k1: secp256k1.S256()}[c.algorithm]
		if order == nil {
			continue
		}
		var r, s [32]byte
		copy(r[:], c.outcome.R)
		n := order.Params().N.Bytes()
		borrow := 0
		for i := 31; i >= 0; i-- { // n − s
			d := int(n[i]) - int(c.outcome.S[i]) - borrow
			borrow = 0
			if d < 0 {
				d, borrow = d+256, 1
			}
			s[i] = byte(d)
		}
		twin := &nodepb.Outcome{Signature: verify.DER(r, s), R: r[:], S: s[:], RecoveryId: c.outcome.RecoveryId ^ 1}
		if c.algorithm == mpc.ECDSAP256 {
			key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), uncompressed(c.public))
			if err != nil || !ecdsa.VerifyASN1(key, digest[:], twin.Signature) {
				t.Fatal("that is not the twin")
			}
		}
		if _, err := checkSignature(c.algorithm, c.public, digest[:], twin); err == nil {
			t.Errorf("%s: a high s was accepted", c.algorithm)
		}
	}
}

func uncompressed(public []byte) []byte {
	x, y := elliptic.UnmarshalCompressed(elliptic.P256(), public)
	out := append([]byte{4}, x.FillBytes(make([]byte, 32))...) // SEC 1, section 2.3.3
	return append(out, y.FillBytes(make([]byte, 32))...)
}

func mutated(b []byte) []byte {
	out := bytes.Clone(b)
	out[len(out)-1] ^= 1
	return out
}
