package backend

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
)

// TestMessageKinds: every combination that is taken, what becomes of it, and
// what is said about the others.
func TestMessageKinds(t *testing.T) {
	const (
		k1    = mpc.ECDSASecp256k1
		p256  = mpc.ECDSAP256
		bip   = mpc.BIP340Secp256k1
		ed    = mpc.Ed25519
		other = 7 // a length that no digest has
	)
	for _, c := range []struct {
		alg        mpc.Algorithm
		kind, hash string
		length     int
		wantKind   mpc.MessageType
		wantHash   mpc.HashAlgorithm
		text       string // of the warning, or of the refusal if wantKind is empty
	}{
		{k1, "", "", other, mpc.MessageRaw, mpc.HashSHA256, ""},
		{k1, "raw", "", other, mpc.MessageRaw, mpc.HashSHA256, ""},
		{p256, "raw", "sha2-256", other, mpc.MessageRaw, mpc.HashSHA256, ""},
		{p256, "raw", "sha2-384", other, mpc.MessageRaw, mpc.HashSHA384, ""},
		{k1, "raw", "sha2-512", other, mpc.MessageRaw, mpc.HashSHA512, ""},
		{p256, "raw", "keccak-256", other, mpc.MessageRaw, mpc.HashKeccak256, ""},
		{k1, "raw", "sha-256d", other, mpc.MessageRaw, mpc.HashSHA256d, ""},
		{k1, "raw", "none", other, "", "", "use hash_algorithm=sha2-256, sha2-384, sha2-512, keccak-256 or sha-256d, or message_type=digest"},
		{k1, "raw", "SHA2-256", other, "", "", `"SHA2-256" is not sha2-256`},
		{bip, "raw", "", other, mpc.MessageRaw, mpc.HashNone, ""},
		{ed, "", "none", other, mpc.MessageRaw, mpc.HashNone, ""},
		{ed, "raw", "sha2-512", other, "", "", "hashes by itself"},
		{bip, "raw", "md5", other, "", "", "hashes by itself"},

		{k1, "digest", "", 32, mpc.MessageDigest, mpc.HashNone, ""},
		{bip, "digest", "", 32, mpc.MessageDigest, mpc.HashNone, ""},
		{k1, "digest", "none", 32, mpc.MessageDigest, mpc.HashNone, ""},
		{k1, "digest", "sha2-256", 32, mpc.MessageDigest, mpc.HashNone, "hash_algorithm=sha2-256 was ignored"},
		{k1, "digest", "keccak-256", 32, mpc.MessageDigest, mpc.HashNone, "hash_algorithm=keccak-256 was ignored"},
		{p256, "digest", "sha-256d", 32, mpc.MessageDigest, mpc.HashNone, "hash_algorithm=sha-256d was ignored"},
		{p256, "digest", "sha2-384", 48, mpc.MessageDigest, mpc.HashSHA384, ""},
		{p256, "digest", "sha2-512", 64, mpc.MessageDigest, mpc.HashSHA512, ""},
		{p256, "digest", "sha2-384", 32, "", "", "with message_type=digest and hash_algorithm=sha2-384 the input must have 48 bytes, not 32"},
		{p256, "digest", "sha2-512", 48, "", "", "must have 64 bytes, not 48: send the digest itself in base64, not its hex text; for a digest of sha2-384 name it in hash_algorithm"},
		{p256, "digest", "", 48, "", "", "must have 32 bytes, not 48: send the digest itself in base64, not its hex text; for a digest of sha2-384 name it in hash_algorithm"},
		{k1, "digest", "", 64, "", "", "for a digest of sha2-512 name it"},
		{bip, "digest", "", 64, "", "", "must have 32 bytes, not 64: send the digest itself"},
		{k1, "digest", "md5", 32, "", "", `"md5" is not sha2-256`},
		{bip, "digest", "sha2-256", 32, "", "", "hashes by itself"},
		{ed, "digest", "", 32, "", "", "takes no digest"},

		{k1, "eip191", "", other, mpc.MessageEIP191, mpc.HashKeccak256, ""},
		{k1, "eip712", "keccak-256", other, mpc.MessageEIP712, mpc.HashKeccak256, ""},
		{k1, "eip191", "sha2-256", other, "", "", "always hashed by keccak-256: leave hash_algorithm out"},
		{k1, "eip712", "none", other, "", "", "always hashed by keccak-256"},
		{p256, "eip712", "", other, "", "", "only for ecdsa-secp256k1 accounts, not for ecdsa-p256"},
		{bip, "eip191", "", other, "", "", "only for ecdsa-secp256k1 accounts, not for bip340-secp256k1"},
		{ed, "eip191", "", other, "", "", "not for ed25519"},

		{k1, "prehashed", "", other, "", "", `"prehashed" is not raw, digest, eip191 or eip712`},
		{p256, "prehashed", "", other, "", "", `"prehashed" is not raw or digest`},
		{ed, "prehashed", "", other, "", "", `"prehashed" is not raw`},
		{k1, strings.Repeat("x", 5000), "", other, "", "", "is not raw"},
		{k1, "", strings.Repeat("x", 5000), other, "", "", "is not sha2-256"},
	} {
		name := strings.Join([]string{string(c.alg), c.kind[:min(20, len(c.kind))], c.hash[:min(20, len(c.hash))]}, " ")
		k, err := checkMessageKind(c.alg, c.kind, c.hash, c.length)
		if c.wantKind == "" {
			var f *fault
			if !errors.As(err, &f) || f.status != http.StatusBadRequest || !strings.Contains(f.msg, c.text) || len(f.msg) > 400 {
				t.Errorf("%s, %d bytes: %v", name, c.length, err)
			}
			continue
		}
		if err != nil || k.kind != c.wantKind || k.hash != c.wantHash || !strings.Contains(k.warning, c.text) || (c.text == "") != (k.warning == "") {
			t.Errorf("%s, %d bytes: %+v, %v", name, c.length, k, err)
			continue
		}
		if k.kind == mpc.MessageEIP712 {
			continue
		}
		if _, err := mpc.SigningInput(c.alg, k.kind, k.hash, make([]byte, c.length)); err != nil {
			t.Errorf("%s, %d bytes: passed on and then refused: %v", name, c.length, err)
		}
	}
}

// TestMessageKindsOverAPI: the same through sign and verify.
func TestMessageKindsOverAPI(t *testing.T) {
	m := configured(t)
	m.create("bob", "ecdsa-secp256k1")
	m.create("dave", "ecdsa-p256")
	encode := base64.StdEncoding.EncodeToString
	long := sha512.Sum512([]byte("hello"))
	typed := []byte(`{"types":{"EIP712Domain":[{"name":"name","type":"string"}],"M":[{"name":"x","type":"uint8"}]},"primaryType":"M","domain":{"name":"d"},"message":{"x":1}}`)
	for _, c := range []struct {
		name string
		data map[string]any
		same map[string]any // another way to ask for the same digest
	}{
		{"bob", map[string]any{"input": encode([]byte("hello")), "message_type": "eip191"}, nil},
		{"bob", map[string]any{"input": encode(typed), "message_type": "eip712"}, map[string]any{"input": encode(bytes.Replace(typed, []byte(`"x":1}`), []byte(`"x" : "0x01" }`), 1)), "message_type": "eip712", "hash_algorithm": "keccak-256"}},
		{"dave", map[string]any{"input": encode([]byte("hello")), "hash_algorithm": "sha2-512"}, map[string]any{"input": encode(long[:]), "message_type": "digest", "hash_algorithm": "sha2-512"}},
		{"dave", map[string]any{"input": encode([]byte("hello")), "hash_algorithm": "sha-256d"}, nil},
	} {
		s := m.must(logical.UpdateOperation, "sign/"+c.name, c.data)
		digest, err := hex.DecodeString(s["digest"].(string))
		if err != nil || len(digest) != 32 {
			t.Fatalf("digest %v", s["digest"])
		}
		for _, data := range []map[string]any{c.data, c.same, {"input": encode(digest), "message_type": "digest"}} {
			if data == nil {
				continue
			}
			data["signature"] = s["signature"]
			if v := m.must(logical.UpdateOperation, "verify/"+c.name, data); v["valid"] != true {
				t.Errorf("%v: %v", data, v)
			}
		}
	}
	for _, c := range []struct {
		name, want string
		data       map[string]any
	}{
		{"bob", "EIP-712: the document is not JSON", map[string]any{"input": encode([]byte("hello")), "message_type": "eip712"}},
		{"bob", `EIP-712: "message.x" is out of the range`, map[string]any{"input": encode(bytes.Replace(typed, []byte(`"x":1}`), []byte(`"x":256}`), 1)), "message_type": "eip712"}},
		{"dave", "only for ecdsa-secp256k1", map[string]any{"input": encode(typed), "message_type": "eip712"}},
	} {
		m.fails(logical.UpdateOperation, "sign/"+c.name, c.data, http.StatusBadRequest, c.want)
		c.data["signature"] = "AAAA"
		m.fails(logical.UpdateOperation, "verify/"+c.name, c.data, http.StatusBadRequest, c.want)
	}
	for _, op := range []string{"sign", "verify"} {
		data := map[string]any{"input": encode(make([]byte, 32)), "message_type": "digest", "hash_algorithm": "keccak-256"}
		if op == "verify" {
			data["signature"] = "AAAA"
		}
		resp, status, text := m.do(logical.UpdateOperation, op+"/bob", data)
		if status != http.StatusOK || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "was ignored") {
			t.Errorf("%s: %d %s %+v", op, status, text, resp)
		}
	}
}
