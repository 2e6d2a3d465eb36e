package verify

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/secret"
)

// TestMessageFor: a signature under a child is one for exactly that derivation.
// The private key stands in for a share, on which derivation works alike.
func TestMessageFor(t *testing.T) {
	private := unhex(t, "0340034003400340034003400340034003400340034003400340034003400340")
	key := secp256k1.PrivKeyFromBytes(private)
	compressed := key.PubKey().SerializeCompressed()
	msg := []byte("message")
	for _, c := range []struct {
		record *mpc.PublicRecord
		hash   mpc.HashAlgorithm
		sign   func(x []byte) []byte
		all    []mpc.Derivation
	}{
		{
			&mpc.PublicRecord{Algorithm: mpc.ECDSASecp256k1, PublicKey: compressed, ChainCode: [32]byte{7}}, mpc.HashSHA256,
			func(x []byte) []byte {
				d := sha256.Sum256(msg)
				return ecdsa.Sign(secp256k1.PrivKeyFromBytes(x), d[:]).Serialize()
			},
			[]mpc.Derivation{{}, {Path: "m/0"}, {Path: "m/0/7"}},
		},
		{
			&mpc.PublicRecord{Algorithm: mpc.BIP340Secp256k1, PublicKey: compressed[1:], ChainCode: [32]byte{7}}, mpc.HashNone,
			func(x []byte) []byte {
				// btcec signs 32 bytes, whatever they are.
				k, _ := btcec.PrivKeyFromBytes(x)
				sig, err := schnorr.Sign(k, append(msg, make([]byte, 32-len(msg))...))
				if err != nil {
					t.Fatal(err)
				}
				return sig.Serialize()
			},
			[]mpc.Derivation{{}, {Path: "m/0/7"}, {TaprootTweak: "bip86"}, {Path: "m/0/7", TaprootTweak: "bip86"}},
		},
	} {
		input := msg
		if c.record.Algorithm == mpc.BIP340Secp256k1 {
			input = append(append([]byte(nil), msg...), make([]byte, 32-len(msg))...)
		}
		for i, d := range c.all {
			child, err := derive.Derive(c.record, d)
			if err != nil {
				t.Fatal(err)
			}
			// BIP-340 keys stand for the point with an even y.
			x := secret.Copy(private)
			if c.record.Algorithm == mpc.BIP340Secp256k1 && compressed[0] == 3 {
				var s secp256k1.ModNScalar
				s.SetByteSlice(private)
				negated := s.Negate().Bytes()
				x = secret.Copy(negated[:])
			}
			share, err := child.Share(x)
			if err != nil {
				t.Fatal(err)
			}
			sig := c.sign(share.Expose())
			for k, other := range c.all {
				ok, err := MessageFor(c.record, other, mpc.MessageRaw, c.hash, input, sig)
				if err != nil || ok != (k == i) {
					t.Errorf("%s: signature for %+v under %+v: %v, %v", c.record.Algorithm, d, other, ok, err)
				}
			}
			ok, err := Message(c.record, mpc.MessageRaw, c.hash, input, sig)
			if err != nil || ok != (i == 0) {
				t.Errorf("%s: Message for %+v: %v, %v", c.record.Algorithm, d, ok, err)
			}
			if ok, err = MessageFor(c.record, d, mpc.MessageRaw, c.hash, append(input, 0), sig); err != nil || ok {
				t.Errorf("%s: other message: %v, %v", c.record.Algorithm, ok, err)
			}
		}
	}

	public, signer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &mpc.PublicRecord{Algorithm: mpc.Ed25519, PublicKey: public}
	if ok, err := MessageFor(r, mpc.Derivation{}, mpc.MessageRaw, mpc.HashNone, msg, ed25519.Sign(signer, msg)); err != nil || !ok {
		t.Errorf("Ed25519: %v, %v", ok, err)
	}
	if _, err := MessageFor(r, mpc.Derivation{Path: "m/0"}, mpc.MessageRaw, mpc.HashNone, msg, nil); !errors.Is(err, derive.ErrAlgorithm) {
		t.Errorf("a child of an Ed25519 key: %v", err)
	}
	if _, err := MessageFor(r, mpc.Derivation{}, mpc.MessageDigest, mpc.HashNone, msg, nil); !errors.Is(err, mpc.ErrInput) {
		t.Errorf("a digest for Ed25519: %v", err)
	}
	r = &mpc.PublicRecord{Algorithm: mpc.ECDSASecp256k1, PublicKey: compressed}
	if _, err := MessageFor(r, mpc.Derivation{Path: "m/0'"}, mpc.MessageRaw, mpc.HashSHA256, msg, nil); !errors.Is(err, derive.ErrPath) {
		t.Errorf("a hardened path: %v", err)
	}
	r.Algorithm = "other"
	if _, err := MessageFor(r, mpc.Derivation{}, mpc.MessageRaw, mpc.HashSHA256, msg, nil); !errors.Is(err, mpc.ErrUnknownAlgorithm) {
		t.Errorf("unknown algorithm: %v", err)
	}
}
