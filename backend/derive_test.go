package backend

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// TestChildKeys: derive/, sign/ and verify/ speak of the same child. That it is
// the right one is for mpc/derive's tests, which use the BIPs' vectors.
func TestChildKeys(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.create("bob", "ecdsa-secp256k1")
	root := hex.EncodeToString(bytes.Repeat([]byte{7}, 32))
	seen := map[string]bool{}
	for _, c := range []struct{ name, path, tweak string }{
		{"alice", "", ""},
		{"alice", "m/0/7", ""},
		{"alice", "", "bip86"},
		{"alice", "m/0/7", "bip86"},
		{"alice", "m/0/7", root},
		{"bob", "", ""},
		{"bob", "m/0/7", ""},
		{"bob", "0/7/2147483647", ""},
	} {
		fields := map[string]any{}
		if c.path != "" {
			fields["derivation_path"] = c.path
		}
		if c.tweak != "" {
			fields["taproot_tweak"] = c.tweak
		}
		account := m.must(logical.ReadOperation, "accounts/"+c.name, nil)
		child := m.must(logical.UpdateOperation, "accounts/"+c.name+"/derive", fields)
		path := c.path
		if path == "" {
			path = "m"
		}
		key := child["public_key_hex"].(string)
		if child["derivation_path"] != path || child["taproot_tweak"] != c.tweak || seen[key] {
			t.Errorf("%v: %v", c, child)
		}
		seen[key] = true
		if own := c.path == "" && c.tweak == ""; own != (key == account["public_key_hex"]) || own != (child["public_key"] == account["public_key"]) {
			t.Errorf("%v: the key of %v", c, account)
		}
		if (c.path == "") != (child["chain_code"] == account["chain_code"]) {
			t.Errorf("%v: chain code %v of %v", c, child["chain_code"], account["chain_code"])
		}
		if block, _ := pem.Decode([]byte(child["public_key"].(string))); block == nil || !bytes.Contains(block.Bytes, unhexed(t, key)[1:]) {
			t.Errorf("%v: PEM of another key", c)
		}

		request := maps.Clone(fields)
		request["input"] = "aGVsbG8="
		signed := m.must(logical.UpdateOperation, "sign/"+c.name, request)
		if signed["public_key"] != key {
			t.Errorf("%v: signed with %v", c, signed["public_key"])
		}
		for field, want := range map[string]string{"derivation_path": c.path, "taproot_tweak": c.tweak} {
			if got, has := signed[field]; has != (want != "") || (has && got != want) {
				t.Errorf("%v: %s = %v", c, field, got)
			}
		}
		sig, _ := base64.StdEncoding.DecodeString(signed["signature"].(string))
		alg := mpc.Algorithm(account["algorithm"].(string))
		message := []byte("hello")
		if alg.IsECDSA() {
			message, _ = mpc.SigningInput(alg, mpc.MessageRaw, mpc.HashSHA256, message)
			if signed["presigned"] != false {
				t.Errorf("%v: presigned %v", c, signed["presigned"])
			}
		} else if _, has := signed["presigned"]; has {
			t.Error("presigned is about ECDSA")
		}
		if !verify.Signature(alg, unhexed(t, key), message, sig) {
			t.Errorf("%v: the signature is not the child's", c)
		}
		request["signature"] = signed["signature"]
		if v := m.must(logical.UpdateOperation, "verify/"+c.name, request); v["valid"] != true {
			t.Errorf("%v: not valid", c)
		}
		request["derivation_path"] = "m/1"
		if v := m.must(logical.UpdateOperation, "verify/"+c.name, request); v["valid"] != false {
			t.Errorf("%v: valid for another child", c)
		}
	}
}

func unhexed(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDeriveBadInput(t *testing.T) {
	m := configured(t)
	for name, alg := range map[string]string{"alice": "bip340-secp256k1", "bob": "ecdsa-secp256k1", "carol": "ed25519", "dave": "ecdsa-p256"} {
		m.create(name, alg)
	}
	for _, c := range []struct{ name, field, value, text string }{
		{"bob", "derivation_path", "m/44'/0", "step 1 is hardened"},
		{"bob", "derivation_path", "m/2147483648", "hardened step"},
		{"bob", "derivation_path", "/0", "begins with m or a number"},
		{"bob", "derivation_path", "m/x", "not a decimal number"},
		{"bob", "derivation_path", "m/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0", "at most 16"},
		{"bob", "taproot_tweak", "bip86", "is for bip340-secp256k1"},
		{"alice", "taproot_tweak", "bip340", "64 hex digits"},
		{"bob", "path", "m/0", "the fields are derivation_path, taproot_tweak"},
		{"carol", "derivation_path", "m/0", "ed25519 keys have no child keys"},
		{"carol", "derivation_path", "m", "ed25519 keys have no child keys"},
		{"dave", "derivation_path", "m/0", "ecdsa-p256 keys have no child keys"},
	} {
		m.fails(logical.UpdateOperation, "accounts/"+c.name+"/derive", map[string]any{c.field: c.value}, 400, c.text)
	}
	m.fails(logical.UpdateOperation, "accounts/nobody/derive", nil, 404, "no account")
	m.fails(logical.UpdateOperation, "accounts/.x/derive", nil, 400, "not an account name")
}

// TestDeriveNeedsNoNode: it is arithmetic on public data.
func TestDeriveNeedsNoNode(t *testing.T) {
	fake, storage := newFake(t), &logical.InmemStorage{}
	m := open(t, storage, fake)
	configure(m)
	m.create("bob", "ecdsa-secp256k1")
	fake.applied = nil
	m = open(t, storage, fake)
	m.must(logical.UpdateOperation, "accounts/bob/derive", map[string]any{"derivation_path": "m/0"})
	if len(fake.applied) != 0 {
		t.Error("nodes were started")
	}
}

func TestPublicKeyPEMReadByGo(t *testing.T) {
	for _, alg := range []mpc.Algorithm{mpc.Ed25519, mpc.ECDSAP256} {
		key, pub, err := newFakeKey(alg)
		if err != nil {
			t.Fatal(err)
		}
		text, err := publicKeyPEM(alg, pub)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(text))
		got, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		var same bool
		if alg == mpc.Ed25519 {
			same = key.ed.Public().(ed25519.PublicKey).Equal(got)
		} else {
			same = key.p256.PublicKey.Equal(got)
		}
		if !same {
			t.Errorf("%s: another key", alg)
		}
	}
	bad := append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...) // x over both primes
	for _, alg := range []mpc.Algorithm{mpc.ECDSAP256, mpc.ECDSASecp256k1} {
		if text, err := publicKeyPEM(alg, bad); err == nil {
			t.Errorf("%s: %s", alg, text)
		}
	}
	for _, alg := range append(mpc.Algorithms(), "other") {
		if text, err := publicKeyPEM(alg, make([]byte, 31)); err == nil {
			t.Errorf("%s of 31 bytes: %s", alg, text)
		}
	}
}
