package mpc

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"
)

// typed is a small document of EIP-712; mpc/eip712 has the vectors.
const typed = `{"types":{"EIP712Domain":[{"name":"name","type":"string"}],"M":[{"name":"x","type":"uint8"}]},"primaryType":"M","domain":{"name":"d"},"message":{"x":1}}`

// TestHashes: published values; where ECDSA signs less than the whole, its
// leftmost 32 bytes.
func TestHashes(t *testing.T) {
	two256 := "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
	two512 := "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu"
	genesis, _ := hex.DecodeString("0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c")
	for _, c := range []struct {
		h       HashAlgorithm
		message string
		want    string
	}{
		// NIST's examples for FIPS 180-4.
		{HashSHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{HashSHA256, two256, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
		{HashSHA384, "abc", "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed" + "8086072ba1e7cc2358baeca134c825a7"},
		{HashSHA384, two512, "09330c33f71147e83d192fc782cd1b4753111b173b3b05d22fa08086e3b0f712" + "fcc7c71a557e2db966c3e9fa91746039"},
		{HashSHA512, "abc", "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a" + "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"},
		{HashSHA512, two512, "8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018" + "501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909"},
		// The Keccak team's, and the selector of ERC-20's transfer (a9059cbb).
		{HashKeccak256, "abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"},
		{HashKeccak256, "transfer(address,uint256)", "a9059cbb2ab09eb219583f4a59a5d0623ade346d962bcd4e46b11da047c9049b"},
		// Bitcoin: "hello" of its wiki, and the first block (shown reversed).
		{HashSHA256d, "hello", "9595c9df90075148eb06860365df33584b75bff782a510c6cd4883a419833d50"},
		{HashSHA256d, string(genesis), "6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000"},
	} {
		full, err := hex.DecodeString(c.want)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []Algorithm{ECDSASecp256k1, ECDSAP256} {
			got, err := SigningInput(a, MessageRaw, c.h, []byte(c.message))
			if err != nil || !bytes.Equal(got, full[:32]) {
				t.Errorf("%s %s: %x, %v", a, c.h, got, err)
			}
			// The same digest, made by the caller.
			got, err = SigningInput(a, MessageDigest, c.h, full)
			if err != nil || !bytes.Equal(got, full[:32]) {
				t.Errorf("%s digest of %s: %x, %v", a, c.h, got, err)
			}
			if _, err := SigningInput(a, MessageDigest, c.h, full[:len(full)-1]); !errors.Is(err, ErrInput) {
				t.Errorf("%s: a short digest of %s: %v", a, c.h, err)
			}
			if _, err := SigningInput(a, MessageDigest, c.h, append(full, 0)); !errors.Is(err, ErrInput) {
				t.Errorf("%s: a long digest of %s: %v", a, c.h, err)
			}
		}
	}
}

// TestEIP191: the digests of ethers; see testdata/ethers.mjs.
func TestEIP191(t *testing.T) {
	raw, err := os.ReadFile("testdata/eip191.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []struct{ Message, Digest string }
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) < 10 {
		t.Fatalf("%d vectors", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		message, err := hex.DecodeString(v.Message)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []HashAlgorithm{"", HashKeccak256} {
			got, err := SigningInput(ECDSASecp256k1, MessageEIP191, h, message)
			if err != nil || hex.EncodeToString(got) != v.Digest {
				t.Errorf("%d bytes: %x, want %s, %v", len(message), got, v.Digest, err)
			}
		}
	}
}

// TestCombinations: which algorithm takes which message type and hash.
func TestCombinations(t *testing.T) {
	types := []MessageType{MessageRaw, MessageDigest, MessageEIP191, MessageEIP712, "", "hex"}
	hashes := []HashAlgorithm{HashSHA256, HashSHA384, HashSHA512, HashKeccak256, HashSHA256d, HashNone, "", "md5"}
	for _, a := range append(Algorithms(), "rsa") {
		for _, k := range types {
			for _, h := range hashes {
				input := []byte(typed)
				if k == MessageDigest {
					input = make([]byte, 32)
					if a.IsECDSA() {
						input = make([]byte, h.DigestLength())
					}
				}
				var want bool
				switch k {
				case MessageRaw:
					want = a.IsECDSA() && a.Takes(h) || a.Valid() && !a.IsECDSA() && h == HashNone
				case MessageDigest:
					want = a == ECDSASecp256k1 || a == ECDSAP256 || a == BIP340Secp256k1
				case MessageEIP191, MessageEIP712:
					want = a == ECDSASecp256k1 && (h == "" || h == HashKeccak256)
				}
				got, err := SigningInput(a, k, h, input)
				switch {
				case (err == nil) != want:
					t.Errorf("%s %q %q: %v", a, k, h, err)
				case err != nil && !errors.Is(err, ErrInput):
					t.Errorf("%s %q %q: %v is not ErrInput", a, k, h, err)
				case err == nil && a.IsECDSA() && len(got) != DigestSize:
					t.Errorf("%s %q %q signs %d bytes", a, k, h, len(got))
				}
				if _, err := SigningInput(a, k, h, nil); err == nil {
					t.Errorf("%s %q %q signs nothing", a, k, h)
				}
			}
		}
		if hashes := Hashes(a); a.IsECDSA() != (len(hashes) == 5) || len(hashes) > 0 && hashes[0] != HashSHA256 {
			t.Errorf("%s: %v", a, hashes)
		}
		if types := MessageTypes(a); a.Valid() && types[0] != MessageRaw || !a.Valid() && types != nil {
			t.Errorf("%s: %v", a, types)
		}
	}
	if _, err := SigningInput(ECDSASecp256k1, MessageEIP712, "", []byte(`{}`)); !errors.Is(err, ErrInput) {
		t.Errorf("an empty document: %v", err)
	}
	// A new type serves presignatures only where nodes hash: this is the list.
	for _, k := range types {
		if k.HashedByNodes() != slices.Contains([]MessageType{MessageRaw, MessageEIP191, MessageEIP712}, k) {
			t.Errorf("%q: %v", k, k.HashedByNodes())
		}
	}
}
