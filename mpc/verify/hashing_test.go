package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	_ "crypto/sha256" // registers the hashes
	_ "crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
)

// TestTruncation: crypto/ecdsa, which shortens digests by itself, and this
// package agree on what is signed, in both directions and for both kinds of
// request.
func TestTruncation(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	pub := append([]byte{2 | point[64]&1}, point[1:33]...)
	r := &mpc.PublicRecord{Algorithm: mpc.ECDSAP256, PublicKey: pub}
	message := []byte("a message that is hashed to more than 32 bytes")
	for h, std := range map[mpc.HashAlgorithm]crypto.Hash{mpc.HashSHA256: crypto.SHA256, mpc.HashSHA384: crypto.SHA384, mpc.HashSHA512: crypto.SHA512} {
		hash := std.New()
		hash.Write(message)
		digest := hash.Sum(nil)
		sig, err := ecdsa.SignASN1(rand.Reader, key, digest) // all of it
		if err != nil {
			t.Fatal(err)
		}
		rr, s, ok := parseDER(sig)
		if !ok {
			t.Fatalf("%x", sig)
		}
		if !lowP256(s) {
			s.Sub(elliptic.P256().Params().N, s)
		}
		sig = DER([32]byte(rr.FillBytes(make([]byte, 32))), [32]byte(s.FillBytes(make([]byte, 32))))
		if ok, err := Message(r, mpc.MessageRaw, h, message, sig); err != nil || !ok {
			t.Errorf("%s: %v, %v", h, ok, err)
		}
		if ok, err := Message(r, mpc.MessageDigest, h, digest, sig); err != nil || !ok {
			t.Errorf("digest of %s: %v, %v", h, ok, err)
		}
		if ok, err := Message(r, mpc.MessageDigest, mpc.HashNone, digest[:32], sig); err != nil || !ok {
			t.Errorf("leftmost bytes of %s: %v, %v", h, ok, err)
		}
		signed, err := mpc.SigningInput(mpc.ECDSAP256, mpc.MessageRaw, h, message)
		if err != nil || !ecdsa.VerifyASN1(&key.PublicKey, signed, sig) || !ecdsa.VerifyASN1(&key.PublicKey, digest, sig) {
			t.Errorf("%s: crypto/ecdsa does not agree: %v", h, err)
		}
		for other := range map[mpc.HashAlgorithm]bool{mpc.HashSHA256: true, mpc.HashSHA384: true, mpc.HashSHA512: true, mpc.HashSHA256d: true, mpc.HashKeccak256: true} {
			if ok, err := Message(r, mpc.MessageRaw, other, message, sig); err != nil || ok != (other == h) {
				t.Errorf("%s as %s: %v, %v", h, other, ok, err)
			}
		}
	}
}

// TestEthereum: signatures of an ethers wallet on EIP-191 and EIP-712 messages
// are valid here, for the same message and no other.
func TestEthereum(t *testing.T) {
	for _, c := range []struct {
		file  string
		kind  mpc.MessageType
		other mpc.MessageType
	}{
		{"../testdata/eip191.json", mpc.MessageEIP191, mpc.MessageRaw},
		{"../eip712/testdata/eip712.json", mpc.MessageEIP712, mpc.MessageEIP191},
	} {
		raw, err := os.ReadFile(c.file)
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			PublicKey string `json:"public_key"`
			Vectors   []struct{ Message, Document, Signature string }
		}
		if err := json.Unmarshal(raw, &file); err != nil {
			t.Fatal(err)
		}
		pub, err := hex.DecodeString(file.PublicKey)
		if err != nil || len(file.Vectors) == 0 {
			t.Fatalf("%s: %v, %d vectors", c.file, err, len(file.Vectors))
		}
		record := &mpc.PublicRecord{Algorithm: mpc.ECDSASecp256k1, PublicKey: pub}
		var before []byte
		for i, v := range file.Vectors {
			input := []byte(v.Document)
			if v.Document == "" {
				if input, err = hex.DecodeString(v.Message); err != nil {
					t.Fatal(err)
				}
			}
			rsv, err := hex.DecodeString(v.Signature)
			if err != nil || len(rsv) != 65 {
				t.Fatalf("%s %d: signature %q", c.file, i, v.Signature)
			}
			r, s := [32]byte(rsv[:32]), [32]byte(rsv[32:64])
			sig := DER(r, s)
			if ok, err := Message(record, c.kind, mpc.HashKeccak256, input, sig); err != nil || !ok {
				t.Errorf("%s %d: %v, %v", c.file, i, ok, err)
			}
			digest, err := mpc.SigningInput(record.Algorithm, c.kind, "", input)
			if err != nil || !RecoversKey(record.Algorithm, pub, digest, r, s, int(rsv[64])-27) {
				t.Errorf("%s %d: v = %d does not recover the key, %v", c.file, i, rsv[64], err)
			}
			if ok, err := Message(record, c.other, mpc.HashKeccak256, input, sig); err != nil || ok {
				t.Errorf("%s %d as %s: %v, %v", c.file, i, c.other, ok, err)
			}
			if before != nil {
				if ok, err := Message(record, c.kind, mpc.HashKeccak256, before, sig); err != nil || ok {
					t.Errorf("%s %d: valid for the message before it, %v", c.file, i, err)
				}
			}
			before = input
		}
	}
}
