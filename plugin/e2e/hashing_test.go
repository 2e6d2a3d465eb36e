//go:build e2e

package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"golang.org/x/crypto/sha3"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// mail is the example of EIP-712 as eth_signTypedData_v4 takes it, and
// mailDigest its published digest.
const (
	mail = `{"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"},{"name":"verifyingContract","type":"address"}],
 "Person":[{"name":"name","type":"string"},{"name":"wallet","type":"address"}],
 "Mail":[{"name":"from","type":"Person"},{"name":"to","type":"Person"},{"name":"contents","type":"string"}]},
 "primaryType":"Mail","domain":{"name":"Ether Mail","version":"1","chainId":1,"verifyingContract":"0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"},
 "message":{"from":{"name":"Cow","wallet":"0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"},"to":{"name":"Bob","wallet":"0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"},"contents":"Hello, Bob!"}}`
	mailDigest = "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"
)

// opensslDigest checks an ECDSA signature on a digest: OpenSSL takes the
// leftmost bytes of a long one by itself.
func opensslDigest(publicPEM string, digest, der []byte) error {
	return openSSL(publicPEM, digest, der, "Signature Verified Successfully",
		"pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-sigfile", "sig", "-in", "message")
}

func keccak(b []byte) []byte {
	k := sha3.NewLegacyKeccak256()
	k.Write(b)
	return k.Sum(nil)
}

// address is the Ethereum address of a key on secp256k1.
func address(key *secp256k1.PublicKey) string {
	return hex.EncodeToString(keccak(key.SerializeUncompressed()[1:])[12:])
}

// recovered is the address that a chain gets from a digest and an answer's r, s
// and v, as ecrecover does.
func recovered(t testing.TB, digest []byte, answer map[string]any) string {
	t.Helper()
	compact := append([]byte{byte(27 + number(t, answer["v"]))}, unhex(t, answer["r"])...)
	key, _, err := ecdsa.RecoverCompact(append(compact, unhex(t, answer["s"])...), digest)
	if err != nil {
		t.Fatalf("nothing recovers from %v: %v", answer, err)
	}
	return address(key)
}

func signature(t testing.TB, answer map[string]any) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text(answer, "signature"))
	if err != nil || len(b) == 0 {
		t.Fatalf("no signature in %v", answer)
	}
	return b
}

// verified asks verify/ about a request and its signature.
func (e *engine) verified(t testing.TB, name string, request, answer map[string]any) bool {
	t.Helper()
	data := map[string]any{"signature": answer["signature"]}
	for k, v := range request {
		data[k] = v
	}
	valid, _ := e.write(t, "verify/"+name, data)["valid"].(bool)
	return valid
}

// TestHashAlgorithms: ECDSA on both curves with every hash, checked by OpenSSL,
// which hashes and shortens digests by itself.
func TestHashAlgorithms(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	message := []byte("hashed by the nodes")
	s384, s512, s256 := sha512.Sum384(message), sha512.Sum512(message), sha256.Sum256(message)
	s256d := sha256.Sum256(s256[:])
	for _, algorithm := range []string{ecdsaP256, ecdsaCurve} {
		name := "hashes-" + algorithm
		pem := text(e.create(t, name, algorithm, 2, 3), "public_key")
		for _, c := range []struct {
			hash, option string // option of `openssl dgst`, where it knows the hash
			digest       []byte
		}{
			{"", "-sha256", s256[:]},
			{"sha2-256", "-sha256", s256[:]},
			{"sha2-384", "-sha384", s384[:]},
			{"sha2-512", "-sha512", s512[:]},
			{"keccak-256", "", keccak(message)},
			{"sha-256d", "", s256d[:]},
		} {
			t.Run(algorithm+" "+c.hash, func(t *testing.T) {
				request := map[string]any{"input": b64(message)}
				if c.hash != "" {
					request["hash_algorithm"] = c.hash
				}
				s := e.write(t, "sign/"+name, request)
				if got := unhex(t, s["digest"]); !bytes.Equal(got, c.digest[:32]) {
					t.Errorf("signed %x, want %x", got, c.digest[:32])
				}
				if c.option != "" {
					if err := openSSL(pem, message, signature(t, s), "Verified OK", "dgst", c.option, "-verify", "key.pem", "-signature", "sig", "message"); err != nil {
						t.Error(err)
					}
				}
				if err := opensslDigest(pem, c.digest, signature(t, s)); err != nil {
					t.Error(err)
				}
				if !e.verified(t, name, request, s) {
					t.Error("verify/ does not know it")
				}
				// The same digest, made by the caller: its whole length counts.
				digest := map[string]any{"input": b64(c.digest), "message_type": "digest"}
				if len(c.digest) > 32 {
					digest["hash_algorithm"] = c.hash
				}
				if !e.verified(t, name, digest, s) {
					t.Error("verify/ does not know it for its digest")
				}
				if len(c.digest) > 32 {
					s := e.write(t, "sign/"+name, digest)
					if err := opensslDigest(pem, c.digest, signature(t, s)); err != nil {
						t.Errorf("signed as a digest: %v", err)
					}
				}
			})
		}
		t.Run(algorithm+" refused", func(t *testing.T) {
			sign := func(data map[string]any, texts ...string) {
				t.Helper()
				e.refuse(t, "sign/"+name, data, badRequest, texts...)
			}
			sign(map[string]any{"input": b64(message), "hash_algorithm": "sha3-256"}, `"sha3-256"`, "sha2-512, keccak-256 or sha-256d")
			sign(map[string]any{"input": b64(s384[:]), "message_type": "digest"}, "32 bytes, not 48", "sha2-384")
			sign(map[string]any{"input": b64(s256[:]), "message_type": "digest", "hash_algorithm": "sha2-512"}, "64 bytes, not 32")
			sign(map[string]any{"input": b64([]byte(hex.EncodeToString(s256[:]))), "message_type": "digest", "hash_algorithm": "sha2-256"}, "32 bytes, not 64")
		})
	}
	t.Run("an ignored hash is a warning", func(t *testing.T) {
		s, err := e.Client.Logical().Write(e.path+"/sign/hashes-ecdsa-p256",
			map[string]any{"input": b64(s256[:]), "message_type": "digest", "hash_algorithm": "sha2-256"})
		if err != nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "ignored") {
			t.Fatalf("%+v, %v", s, err)
		}
	})
}

// TestEthereumMessages: a chain recovers the account's address from signatures
// on personal messages and typed data; children of the account sign as well.
func TestEthereumMessages(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	e.create(t, "wallet", ecdsaCurve, 2, 3)
	own, err := secp256k1.ParsePubKey(unhex(t, e.read(t, "accounts/wallet")["public_key_hex"]))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind, input, digest string
	}{
		// The value that the documentation of ethers shows for hashMessage.
		{"eip191", "hello world", "d9eba16ed0ecae432b71fe008c98cc872bb4cc214d3220a36f365326cf807d68"},
		{"eip712", mail, mailDigest},
	} {
		t.Run(c.kind, func(t *testing.T) {
			request := map[string]any{"input": b64([]byte(c.input)), "message_type": c.kind}
			s := e.write(t, "sign/wallet", request)
			if s["digest"] != c.digest {
				t.Fatalf("signed %v, want %s", s["digest"], c.digest)
			}
			if got := recovered(t, unhex(t, c.digest), s); got != address(own) {
				t.Errorf("recovered %s, want %s", got, address(own))
			}
			if !e.verified(t, "wallet", request, s) {
				t.Error("verify/ does not know it")
			}
			if e.verified(t, "wallet", map[string]any{"input": b64([]byte(c.input)), "hash_algorithm": "keccak-256"}, s) {
				t.Error("it counts as a signature on the raw message")
			}

			request["derivation_path"] = "m/0/7"
			s = e.write(t, "sign/wallet", request)
			child, err := secp256k1.ParsePubKey(unhex(t, s["public_key"]))
			if err != nil {
				t.Fatal(err)
			}
			if got := recovered(t, unhex(t, c.digest), s); got != address(child) || got == address(own) {
				t.Errorf("the child's address is %s, recovered %s", address(child), got)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		e.create(t, "no-wallet-p256", ecdsaP256, 2, 3)
		e.create(t, "no-wallet-bip340", bip340, 2, 3)
		e.create(t, "no-wallet-ed25519", ed25519, 2, 3)
		for _, kind := range []string{"eip191", "eip712"} {
			for _, account := range []string{"p256", "bip340", "ed25519"} {
				e.refuse(t, "sign/no-wallet-"+account, map[string]any{"input": b64([]byte(mail)), "message_type": kind}, badRequest, kind, "only for ecdsa-secp256k1")
			}
			e.refuse(t, "sign/wallet", map[string]any{"input": b64([]byte(mail)), "message_type": kind, "hash_algorithm": "sha2-256"}, badRequest, "leave hash_algorithm out")
		}
		typed := func(old, with string, texts ...string) {
			t.Helper()
			changed := strings.Replace(mail, old, with, 1)
			if changed == mail {
				t.Fatalf("the example has no %s", old)
			}
			for _, path := range []string{"sign/wallet", "verify/wallet"} {
				data := map[string]any{"input": b64([]byte(changed)), "message_type": "eip712"}
				if strings.HasPrefix(path, "verify/") {
					data["signature"] = "AAAA"
				}
				e.refuse(t, path, data, badRequest, append(texts, "EIP-712")...)
			}
		}
		typed(`"types"`, `"Types"`, "is missing")
		typed(`"contents":"Hello`, `"contents":"Bye","contents":"Hello`, "message.contents", "twice")
		typed(`,"contents":"Hello, Bob!"`, ``, "message.contents", "is missing")
		typed(`"contents":"Hello`, `"value":5,"contents":"Hello`, "message.value", "not expected")
		typed(`D826"}`, `D827"}`, "message.from.wallet", "EIP-55")
		typed(`"chainId":1`, `"chainId":1.5`, "domain.chainId", "whole number")
		typed(`"primaryType":"Mail"`, `"primaryType":"Letter"`, "primaryType")
		typed(`"Hello, Bob!"}}`, `"Hello, Bob!"}`, "not JSON")
		long := strings.Replace(mail, "Hello", strings.Repeat("x", 600<<10), 1)
		e.refuse(t, "sign/wallet", map[string]any{"input": b64([]byte(long)), "message_type": "eip712"}, badRequest, "524288")
	})
}

// TestPresignedEthereumMessages: what nodes hash is signed with presignatures,
// typed data too.
func TestPresignedEthereumMessages(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	e := enable(t, v, "mpc", 3)
	e.waitAuxiliary(t)
	e.write(t, "accounts/quick", map[string]any{"algorithm": ecdsaCurve, "threshold": 2, "shares": 3, "presign": 3})
	key, err := secp256k1.ParsePubKey(unhex(t, e.read(t, "accounts/quick")["public_key_hex"]))
	if err != nil {
		t.Fatal(err)
	}
	e.waitPresignatures(t, "quick", 3)
	nonces := map[string]bool{}
	for _, request := range []map[string]any{
		{"input": b64([]byte(mail)), "message_type": "eip712"},
		{"input": b64([]byte("hello world")), "message_type": "eip191"},
		{"input": b64([]byte("hello world")), "hash_algorithm": "sha2-512"},
	} {
		s := e.write(t, "sign/quick", request)
		what := fmt.Sprint(request["message_type"], request["hash_algorithm"])
		if s["presigned"] != true {
			t.Errorf("%s: signed without a presignature", what)
		}
		if got := recovered(t, unhex(t, s["digest"]), s); got != address(key) {
			t.Errorf("%s: recovered %s, want %s", what, got, address(key))
		}
		if !e.verified(t, "quick", request, s) {
			t.Errorf("%s: verify/ does not know it", what)
		}
		if request["message_type"] == "eip712" && s["digest"] != mailDigest {
			t.Errorf("signed %v", s["digest"])
		}
		if nonces[text(s, "r")] {
			t.Fatal("two signatures share a nonce")
		}
		nonces[text(s, "r")] = true
	}
	// A caller's digest never uses one, a shortened one neither.
	e.waitPresignatures(t, "quick", 1)
	long := sha512.Sum512([]byte("hello world"))
	for _, request := range []map[string]any{
		{"input": b64(unhex(t, mailDigest)), "message_type": "digest"},
		{"input": b64(long[:]), "message_type": "digest", "hash_algorithm": "sha2-512"},
	} {
		if s := e.write(t, "sign/quick", request); s["presigned"] != false {
			t.Errorf("a caller's digest was signed with a presignature: %v", s)
		}
	}
}
