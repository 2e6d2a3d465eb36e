package mpc

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// goldenRecord is the record in testdata/golden/public-record-v1.hex. Later
// versions must still read that file.
func goldenRecord() *PublicRecord {
	r := &PublicRecord{
		Algorithm: BIP340Secp256k1, Threshold: 2, Shares: 3,
		PublicKey: bytes.Repeat([]byte{0xaa}, 32),
		Epoch:     7, RecipientsHash: EmptySetHash(), PolicyHash: EmptySetHash(),
	}
	for i := range r.AccountID {
		r.AccountID[i], r.EpochID[i] = byte(i+1), byte(0xf0+i)
	}
	for i := range r.ChainCode {
		r.ChainCode[i] = byte(i)
	}
	for i := 1; i <= 3; i++ {
		r.PublicShares = append(r.PublicShares, append([]byte{2}, bytes.Repeat([]byte{byte(i)}, 32)...))
	}
	return r
}

// goldenCustodyRecord is the one in public-record-v2.hex.
func goldenCustodyRecord() *PublicRecord {
	r := goldenRecord()
	r.Custody = CustodyHash(append([]byte{4}, bytes.Repeat([]byte{0xc0}, CustodyKeySize-1)...))
	return r
}

func TestGoldenRecord(t *testing.T) {
	for name, r := range map[string]*PublicRecord{"public-record-v1": goldenRecord(), "public-record-v2": goldenCustodyRecord()} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "testdata", "golden", name+".hex"))
			if err != nil {
				t.Fatal(err)
			}
			want, err := hex.DecodeString(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Marshal(); !bytes.Equal(got, want) {
				t.Fatalf("the encoding changed:\n%x", got)
			}
			back, err := ParsePublicRecord(want)
			if err != nil {
				t.Fatal(err)
			}
			if back.Hash() != r.Hash() || back.Custody != r.Custody {
				t.Fatal("the hash changed")
			}
		})
	}
}

// TestRecordVersionsAreOneEach: a record has one encoding, with custody or
// without; neither can be passed off as the other.
func TestRecordVersionsAreOneEach(t *testing.T) {
	plain, custody := goldenRecord().Marshal(), goldenCustodyRecord().Marshal()
	field := custody[len(custody)-36:]
	for name, b := range map[string][]byte{
		"v2 without the field":   custody[:len(custody)-36],
		"v2 with a zero custody": append(bytes.Clone(custody[:len(custody)-32]), make([]byte, 32)...),
		"v1 with the field":      append(bytes.Clone(plain), field...),
		"v1's label on v2":       bytes.Replace(custody, []byte("record v2"), []byte("record v1"), 1),
		"v2's label on v1":       bytes.Replace(plain, []byte("record v1"), []byte("record v2"), 1),
		"a label to come":        bytes.Replace(custody, []byte("record v2"), []byte("record v3"), 1),
	} {
		if r, err := ParsePublicRecord(b); err == nil {
			t.Errorf("accepted: %s: %+v", name, r)
		}
	}
}

// TestRecordHashCoversEveryField: changing any one field changes the hash.
func TestRecordHashCoversEveryField(t *testing.T) {
	for _, golden := range []func() *PublicRecord{goldenRecord, goldenCustodyRecord} {
		checkHashCovers(t, golden)
	}
}

func checkHashCovers(t *testing.T, golden func() *PublicRecord) {
	t.Helper()
	base := golden().Hash()
	for name, change := range map[string]func(*PublicRecord){
		"account":      func(r *PublicRecord) { r.AccountID[0]++ },
		"algorithm":    func(r *PublicRecord) { r.Algorithm = ECDSASecp256k1 },
		"threshold":    func(r *PublicRecord) { r.Threshold++ },
		"shares":       func(r *PublicRecord) { r.Shares++ },
		"public key":   func(r *PublicRecord) { r.PublicKey[0]++ },
		"public share": func(r *PublicRecord) { r.PublicShares[1][5]++ },
		"order":        func(r *PublicRecord) { s := r.PublicShares; s[0], s[1] = s[1], s[0] },
		"chain code":   func(r *PublicRecord) { r.ChainCode[0]++ },
		"epoch":        func(r *PublicRecord) { r.Epoch++ },
		"epoch id":     func(r *PublicRecord) { r.EpochID[0]++ },
		"recipients":   func(r *PublicRecord) { r.RecipientsHash[0]++ },
		"policy":       func(r *PublicRecord) { r.PolicyHash[0]++ },
		"custody":      func(r *PublicRecord) { r.Custody[0]++ },
	} {
		r := golden()
		change(r)
		if r.Hash() == base {
			t.Errorf("%s is not part of the hash", name)
		}
	}
}

func TestParseRecordRefuses(t *testing.T) {
	for _, r := range []*PublicRecord{goldenRecord(), goldenCustodyRecord()} {
		good := r.Marshal()
		for i := range good {
			if _, err := ParsePublicRecord(good[:i]); err == nil {
				t.Fatalf("accepted the first %d bytes", i)
			}
		}
		if _, err := ParsePublicRecord(append(bytes.Clone(good), 0)); err == nil {
			t.Fatal("accepted a trailing byte")
		}
	}
	for name, change := range map[string]func(*PublicRecord){
		"threshold 1":          func(r *PublicRecord) { r.Threshold = 1 },
		"threshold over n":     func(r *PublicRecord) { r.Threshold = 4 },
		"no account":           func(r *PublicRecord) { r.AccountID = AccountID{} },
		"epoch 0":              func(r *PublicRecord) { r.Epoch = 0 },
		"no policy":            func(r *PublicRecord) { r.PolicyHash = [32]byte{} },
		"no recipients":        func(r *PublicRecord) { r.RecipientsHash = [32]byte{} },
		"unknown algorithm":    func(r *PublicRecord) { r.Algorithm = "rot13" },
		"missing public share": func(r *PublicRecord) { r.PublicShares = r.PublicShares[:2] },
		"long public key":      func(r *PublicRecord) { r.PublicKey = append(r.PublicKey, 0) },
	} {
		r := goldenRecord()
		change(r)
		if _, err := ParsePublicRecord(r.Marshal()); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}

func FuzzParsePublicRecord(f *testing.F) {
	f.Add(goldenRecord().Marshal())
	f.Add(goldenCustodyRecord().Marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParsePublicRecord(b)
		if err == nil && !bytes.Equal(r.Marshal(), b) {
			t.Fatalf("not canonical: %x", b)
		}
	})
}

func TestSigningInput(t *testing.T) {
	digest := bytes.Repeat([]byte{1}, 32)
	for _, c := range []struct {
		name  string
		a     Algorithm
		typ   MessageType
		hash  HashAlgorithm
		input []byte
		want  string // hex, empty for a refusal
	}{
		// NIST and Keccak reference values for "abc".
		{"sha2-256", ECDSASecp256k1, MessageRaw, HashSHA256, []byte("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{"keccak-256", ECDSASecp256k1, MessageRaw, HashKeccak256, []byte("abc"), "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"},
		{"digest", ECDSASecp256k1, MessageDigest, HashSHA256, digest, hex.EncodeToString(digest)},
		{"BIP-340 raw", BIP340Secp256k1, MessageRaw, HashNone, []byte("abc"), "616263"},
		{"BIP-340 hashed", BIP340Secp256k1, MessageRaw, HashSHA256, []byte("abc"), ""},
		{"ECDSA unhashed", ECDSASecp256k1, MessageRaw, HashNone, []byte("abc"), ""},
		{"short digest", ECDSASecp256k1, MessageDigest, HashSHA256, digest[:31], ""},
		{"long digest", BIP340Secp256k1, MessageDigest, HashNone, append(digest, 0), ""},
		{"empty", BIP340Secp256k1, MessageRaw, HashNone, nil, ""},
		{"unknown type", ECDSASecp256k1, "hex", HashSHA256, []byte("abc"), ""},
	} {
		got, err := SigningInput(c.a, c.typ, c.hash, c.input)
		if (err == nil) != (c.want != "") || hex.EncodeToString(got) != c.want {
			t.Errorf("%s: %x, %v", c.name, got, err)
		}
	}
}
