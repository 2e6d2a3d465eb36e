//go:build e2e

package e2e_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/big"
	"testing"
)

// TestAlgorithms takes an account of every algorithm through its life. Every
// signature is checked by code that shares nothing with what made it.
func TestAlgorithms(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	for _, algorithm := range []string{bip340, ed25519, ecdsaCurve, ecdsaP256} {
		t.Run(algorithm, func(t *testing.T) {
			for _, sharing := range [][2]int{{2, 2}, {2, 3}, {3, 5}} {
				name := fmt.Sprintf("every-%s-%d-%d", algorithm, sharing[0], sharing[1])
				made := e.create(t, name, algorithm, sharing[0], sharing[1])
				s := e.sign(t, name, []byte("before"))
				if len(s["signers"].([]any)) != sharing[0] {
					t.Errorf("signers %v", s["signers"])
				}
				_, hasV := s["v"]
				_, hasDigest := s["digest"]
				if ecdsa := algorithm == ecdsaCurve || algorithm == ecdsaP256; hasV != ecdsa || hasDigest != ecdsa {
					t.Errorf("answer %v", s)
				}
				r := e.write(t, "accounts/"+name+"/refresh", nil)
				if r["public_key"] != made["public_key"] || number(t, r["share_epoch"]) != 2 {
					t.Errorf("refreshed: %v", r)
				}
				e.sign(t, name, []byte("after"))
			}
		})
	}
	t.Run("keccak on P-256", func(t *testing.T) {
		s := e.write(t, "sign/every-ecdsa-p256-2-3", map[string]any{"input": b64([]byte("abc")), "hash_algorithm": "keccak-256"})
		if s["digest"] != "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45" {
			t.Errorf("digest %v", s["digest"])
		}
		v := e.write(t, "verify/every-ecdsa-p256-2-3", map[string]any{"input": b64(unhex(t, s["digest"])), "message_type": "digest", "signature": s["signature"]})
		if v["valid"] != true {
			t.Errorf("the signature is not valid for its digest: %v", v)
		}
	})
	t.Run("Ed25519 takes no digest", func(t *testing.T) {
		e.refuse(t, "sign/every-ed25519-2-3", map[string]any{"input": b64(make([]byte, 32)), "message_type": "digest"}, badRequest, "ed25519", "raw")
		e.refuse(t, "sign/every-ed25519-2-3", map[string]any{"input": b64([]byte("x")), "hash_algorithm": "sha2-256"}, badRequest, "hash_algorithm")
	})
}

// compressed is SEC 1's short form.
func (p point) compressed() []byte {
	return append([]byte{2 + byte(p.y.Bit(0))}, p.x.FillBytes(make([]byte, 32))...)
}

// decompress reads it.
func decompress(b []byte) point {
	p, _ := liftX(new(big.Int).SetBytes(b[1:]))
	if p.y.Bit(0) != uint(b[0]&1) {
		p.y = new(big.Int).Sub(fieldP, p.y)
	}
	return p
}

// childKey is CKDpub of BIP-32, written from its text for this test.
func childKey(p point, chainCode []byte, path ...uint32) (point, []byte) {
	for _, i := range path {
		mac := hmac.New(sha512.New, chainCode)
		mac.Write(p.compressed())
		_ = binary.Write(mac, binary.BigEndian, i)
		sum := mac.Sum(nil)
		p = baseG.mul(new(big.Int).SetBytes(sum[:32])).add(p)
		chainCode = sum[32:]
	}
	return p, chainCode
}

// taproot is taproot_tweak_pubkey of BIP-341, written from its text.
func taproot(p point, root []byte) point {
	even, _ := liftX(p.x)
	tag := sha256.Sum256([]byte("TapTweak"))
	h := sha256.New()
	for _, b := range [][]byte{tag[:], tag[:], p.x.FillBytes(make([]byte, 32)), root} {
		h.Write(b)
	}
	return even.add(baseG.mul(new(big.Int).SetBytes(h.Sum(nil))))
}

// TestDerivation: child keys are those of BIP-32 and BIP-341, and the nodes
// sign for them.
func TestDerivation(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	e.create(t, "parent-ecdsa", ecdsaCurve, 2, 3)
	e.create(t, "parent-bip340", bip340, 2, 3)
	ecdsaAccount, bip340Account := e.read(t, "accounts/parent-ecdsa"), e.read(t, "accounts/parent-bip340")
	message := []byte("for a child")

	t.Run("ecdsa", func(t *testing.T) {
		want, code := childKey(decompress(unhex(t, ecdsaAccount["public_key_hex"])), unhex(t, ecdsaAccount["chain_code"]), 0, 7, 2147483647)
		request := map[string]any{"derivation_path": "m/0/7/2147483647"}
		child := e.write(t, "accounts/parent-ecdsa/derive", request)
		if !bytes.Equal(unhex(t, child["public_key_hex"]), want.compressed()) || !bytes.Equal(unhex(t, child["chain_code"]), code) {
			t.Fatalf("derived %v", child)
		}
		request["input"] = b64(message)
		s := e.write(t, "sign/parent-ecdsa", request)
		if s["public_key"] != child["public_key_hex"] {
			t.Errorf("signed with %v", s["public_key"])
		}
		sig, _ := base64.StdEncoding.DecodeString(s["signature"].(string))
		verifyWithOpenSSL(t, child["public_key"].(string), message, sig)
		request["signature"] = s["signature"]
		if v := e.write(t, "verify/parent-ecdsa", request); v["valid"] != true {
			t.Error("verify/ does not know the child")
		}
		delete(request, "derivation_path")
		if v := e.write(t, "verify/parent-ecdsa", request); v["valid"] != false {
			t.Error("the child's signature counts for its parent")
		}
	})

	root := bytes.Repeat([]byte{7}, 32)
	for name, c := range map[string]struct {
		path  []uint32
		tweak string
		root  []byte
	}{
		"path":                  {[]uint32{0, 1}, "", nil},
		"key path tweak":        {nil, "bip86", nil},
		"path and key tweak":    {[]uint32{3}, "bip86", nil},
		"path and script tweak": {[]uint32{4, 5}, fmt.Sprintf("%x", root), root},
	} {
		t.Run("bip340 "+name, func(t *testing.T) {
			even, _ := liftX(new(big.Int).SetBytes(unhex(t, bip340Account["public_key_hex"])))
			want, _ := childKey(even, unhex(t, bip340Account["chain_code"]), c.path...)
			if c.tweak != "" {
				want = taproot(want, c.root)
			}
			request := map[string]any{}
			if c.tweak != "" {
				request["taproot_tweak"] = c.tweak
			}
			if len(c.path) > 0 {
				path := "m"
				for _, i := range c.path {
					path += fmt.Sprintf("/%d", i)
				}
				request["derivation_path"] = path
			}
			child := e.write(t, "accounts/parent-bip340/derive", request)
			key := want.x.FillBytes(make([]byte, 32))
			if !bytes.Equal(unhex(t, child["public_key_hex"]), key) {
				t.Fatalf("derived %v, want %x", child, key)
			}
			request["input"] = b64(message)
			for range 4 {
				s := e.write(t, "sign/parent-bip340", request)
				sig, _ := base64.StdEncoding.DecodeString(s["signature"].(string))
				if !verifyBIP340(key, message, sig) {
					t.Fatal("the child's signature does not verify")
				}
			}
		})
	}

	t.Run("refused", func(t *testing.T) {
		e.create(t, "childless", ed25519, 2, 3)
		sign := func(account string, field, value string, texts ...string) {
			t.Helper()
			e.refuse(t, "sign/"+account, map[string]any{"input": b64(message), field: value}, badRequest, texts...)
		}
		sign("parent-ecdsa", "derivation_path", "m/44'/0", "hardened")
		sign("parent-ecdsa", "derivation_path", "m/2147483648", "hardened")
		sign("parent-ecdsa", "derivation_path", "m//1", "derivation path")
		sign("parent-ecdsa", "derivation_path", "m/x", "derivation path")
		sign("parent-ecdsa", "taproot_tweak", "bip86", "bip340")
		sign("parent-bip340", "taproot_tweak", "abcd", "64 hex digits")
		sign("childless", "derivation_path", "m/1", "ed25519")
		sign("childless", "taproot_tweak", "bip86", "ed25519")
		e.refuse(t, "accounts/childless/derive", map[string]any{"derivation_path": "m/1"}, badRequest, "ed25519")
	})
}
