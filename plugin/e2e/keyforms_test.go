//go:build e2e

package e2e_test

import (
	"bytes"
	"crypto/ecdsa"
	edwards "crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/btcutil/base58"
	"github.com/btcsuite/btcd/btcutil/bech32"
	secp "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/go-jose/go-jose/v4"
	//lint:ignore SA1019 the address formats prescribe it
	"golang.org/x/crypto/ripemd160"
)

// TestAddresses: what an address says about its key fits the signatures that
// are made with the derivation in the answer. Public keys are derived by the
// reference arithmetic.
func TestAddresses(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	e.create(t, "address-ecdsa", ecdsaCurve, 2, 3)
	e.create(t, "address-bip340", bip340, 2, 3)
	e.create(t, "address-ed25519", ed25519, 2, 3)
	e.create(t, "address-p256", ecdsaP256, 2, 3)
	digest := sha256.Sum256([]byte("a transaction"))

	t.Run("ecdsa-secp256k1", func(t *testing.T) {
		account := e.read(t, "accounts/address-ecdsa")
		own := decompress(unhex(t, account["public_key_hex"]))
		child, _ := childKey(own, unhex(t, account["chain_code"]), 0, 7)
		request := map[string]any{"derivation_path": "m/0/7", "cosmos_prefix": "osmo"}
		checkCurveAddresses(t, account["addresses"], own, "cosmos")
		checkCurveAddresses(t, e.read(t, "accounts/address-ecdsa/addresses")["addresses"], own, "cosmos")
		checkCurveAddresses(t, e.write(t, "accounts/address-ecdsa/addresses", request)["addresses"], child, "osmo")
		checkCurveAddresses(t, e.write(t, "accounts/address-ecdsa/derive", map[string]any{"derivation_path": "m/0/7"})["addresses"], child, "cosmos")
		s, err := e.Client.Logical().ReadWithData(e.path+"/accounts/address-ecdsa/addresses", map[string][]string{"derivation_path": {"m/0/7"}, "cosmos_prefix": {"osmo"}})
		if err != nil || s == nil {
			t.Fatal(err)
		}
		checkCurveAddresses(t, s.Data["addresses"], child, "osmo")

		// Ethereum: the signer that a node of that chain recovers.
		signed := e.write(t, "sign/address-ecdsa", map[string]any{"input": b64(digest[:]), "message_type": "digest", "derivation_path": "m/0/7"})
		compact := append([]byte{byte(27 + number(t, signed["v"]))}, append(unhex(t, signed["r"]), unhex(t, signed["s"])...)...)
		recovered, _, err := secp.RecoverCompact(compact, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		signer := hex.EncodeToString(keccak(recovered.SerializeUncompressed()[1:])[12:])
		if got := s.Data["addresses"].(map[string]any)["ethereum"].(string); !strings.EqualFold(got, "0x"+signer) {
			t.Errorf("%s signed, the address is %s", signer, got)
		}
	})

	t.Run("bip340-secp256k1", func(t *testing.T) {
		account := e.read(t, "accounts/address-bip340")
		even, _ := liftX(new(big.Int).SetBytes(unhex(t, account["public_key_hex"])))
		child, _ := childKey(even, unhex(t, account["chain_code"]), 3)
		root := bytes.Repeat([]byte{7}, 32)
		for _, c := range []struct {
			request map[string]any
			tweak   string
			want    point
		}{
			{map[string]any{}, "bip86", taproot(even, nil)},
			{map[string]any{"derivation_path": "m/3"}, "bip86", taproot(child, nil)},
			{map[string]any{"derivation_path": "m/3", "taproot_tweak": "bip86"}, "bip86", taproot(child, nil)},
			{map[string]any{"derivation_path": "m/3", "taproot_tweak": hex.EncodeToString(root)}, hex.EncodeToString(root), taproot(child, root)},
		} {
			answer := e.write(t, "accounts/address-bip340/addresses", c.request)
			if answer["taproot_tweak"] != c.tweak {
				t.Errorf("%v: to be signed with %v", c.request, answer["taproot_tweak"])
			}
			for kind, prefix := range map[string]string{"bitcoin_p2tr": "bc", "bitcoin_p2tr_testnet": "tb"} {
				output := witness(t, answer["addresses"], kind, prefix, 1, bech32.VersionM)
				if !bytes.Equal(output, c.want.x.FillBytes(make([]byte, 32))) {
					t.Errorf("%v: %s pays to %x", c.request, kind, output)
				}
				signed := e.write(t, "sign/address-bip340", map[string]any{
					"input": b64(digest[:]), "message_type": "digest",
					"derivation_path": answer["derivation_path"], "taproot_tweak": answer["taproot_tweak"],
				})
				if !verifyBIP340(output, digest[:], unhex(t, signed["signature_hex"])) {
					t.Errorf("%v: the signature does not spend from %s", c.request, kind)
				}
			}
		}
		if got, want := account["addresses"], e.read(t, "accounts/address-bip340/addresses")["addresses"]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the account has %v, its addresses are %v", got, want)
		}
	})

	t.Run("ed25519", func(t *testing.T) {
		addresses := e.read(t, "accounts/address-ed25519/addresses")["addresses"].(map[string]any)
		key := base58.Decode(addresses["solana"].(string))
		signed := e.write(t, "sign/address-ed25519", map[string]any{"input": b64([]byte("a transaction"))})
		if len(key) != 32 || len(addresses) != 1 || !edwards.Verify(key, []byte("a transaction"), unhex(t, signed["signature_hex"])) {
			t.Errorf("the signature is not by %v", addresses)
		}
	})

	t.Run("refused", func(t *testing.T) {
		e.refuse(t, "accounts/address-p256/addresses", nil, badRequest, "ecdsa-p256", "no addresses")
		e.refuse(t, "accounts/address-ecdsa/addresses", map[string]any{"cosmos_prefix": "Cosmos"}, badRequest, "lower-case")
		e.refuse(t, "accounts/address-ecdsa/addresses", map[string]any{"derivation_path": "m/0h"}, badRequest, "hardened")
		_, err := e.Client.Logical().ReadWithData(e.path+"/accounts/address-ecdsa/addresses", map[string][]string{"path": {"m/0/7"}})
		checkRefusal(t, "read with an unknown field", err, badRequest, "unknown field path")
		if a := e.read(t, "accounts/address-p256")["addresses"]; a != nil {
			t.Errorf("P-256: %v", a)
		}
	})
}

// witness decodes an address into its witness program.
func witness(t *testing.T, addresses any, kind, prefix string, version byte, checksum bech32.Version) []byte {
	t.Helper()
	text, _ := addresses.(map[string]any)[kind].(string)
	hrp, data, sum, err := bech32.DecodeGeneric(text)
	if err != nil || hrp != prefix || sum != checksum || data[0] != version {
		t.Fatalf("%s %q: %s %v %v", kind, text, hrp, data, err)
	}
	program, err := bech32.ConvertBits(data[1:], 5, 8, false)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// checkCurveAddresses compares the addresses of an ECDSA account with a point.
func checkCurveAddresses(t *testing.T, addresses any, key point, prefix string) {
	t.Helper()
	all, _ := addresses.(map[string]any)
	if len(all) != 4 {
		t.Fatalf("addresses %v", addresses)
	}
	inner := sha256.Sum256(key.compressed())
	h := ripemd160.New()
	h.Write(inner[:])
	hash := h.Sum(nil)
	if got := witness(t, all, "bitcoin_p2wpkh", "bc", 0, bech32.Version0); !bytes.Equal(got, hash) {
		t.Errorf("P2WPKH pays to %x", got)
	}
	if got := witness(t, all, "bitcoin_p2wpkh_testnet", "tb", 0, bech32.Version0); !bytes.Equal(got, hash) {
		t.Errorf("P2WPKH on the test network pays to %x", got)
	}
	if hrp, got, err := bech32.DecodeToBase256(all["cosmos"].(string)); err != nil || hrp != prefix || !bytes.Equal(got, hash) {
		t.Errorf("cosmos: %s %x %v", hrp, got, err)
	}
	want := "0x" + hex.EncodeToString(keccak(append(key.x.FillBytes(make([]byte, 32)), key.y.FillBytes(make([]byte, 32))...))[12:])
	if got := all["ethereum"].(string); !strings.EqualFold(got, want) || got == want || got == strings.ToUpper(want) {
		t.Errorf("ethereum: %s, want %s with the capitals of EIP-55", got, want)
	}
}

// TestJWK: a library for JSON Web Signatures takes the key and what it signed.
func TestJWK(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	for name, algorithm := range map[string]string{"jwk-p256": ecdsaP256, "jwk-ed25519": ed25519} {
		e.create(t, name, algorithm, 2, 3)
		answer := e.read(t, "accounts/"+name+"/jwk")
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON([]byte(answer["jwk_json"].(string))); err != nil {
			t.Fatalf("%v: %v", answer, err)
		}
		members := answer["jwk"].(map[string]any)
		if key.KeyID == "" || members["kid"] != key.KeyID || members["use"] != "sig" {
			t.Errorf("%v", answer)
		}
		block, _ := pem.Decode([]byte(e.read(t, "accounts/"+name)["public_key"].(string)))
		if der, err := x509.MarshalPKIXPublicKey(key.Key); err != nil || !bytes.Equal(der, block.Bytes) {
			t.Errorf("%s: the JWK is another key: %v", name, err)
		}

		alg := jose.SignatureAlgorithm(key.Algorithm)
		header := base64URL([]byte(fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, key.KeyID)))
		signed := header + "." + base64URL([]byte(`{"sub":"alice"}`))
		signature := e.write(t, "sign/"+name, map[string]any{"input": b64([]byte(signed)), "signature_format": "jws"})["signature"].(string)
		jws, err := jose.ParseSigned(signed+"."+signature, []jose.SignatureAlgorithm{alg})
		if err != nil {
			t.Fatal(err)
		}
		if payload, err := jws.Verify(key); err != nil || string(payload) != `{"sub":"alice"}` {
			t.Errorf("%s: %s %v", name, payload, err)
		}
	}
	e.create(t, "jwk-secp256k1", ecdsaCurve, 2, 3)
	account := e.read(t, "accounts/jwk-secp256k1")
	jwk := e.read(t, "accounts/jwk-secp256k1/jwk")["jwk"].(map[string]any)
	own := decompress(unhex(t, account["public_key_hex"]))
	if jwk["crv"] != "secp256k1" || jwk["alg"] != "ES256K" || jwk["x"] != base64URL(own.x.FillBytes(make([]byte, 32))) || jwk["y"] != base64URL(own.y.FillBytes(make([]byte, 32))) {
		t.Errorf("%v", jwk)
	}
	e.create(t, "jwk-bip340", bip340, 2, 3)
	_, err := e.Client.Logical().Read(e.path + "/accounts/jwk-bip340/jwk")
	checkRefusal(t, "read jwk-bip340", err, badRequest, "bip340-secp256k1", "JSON Web Key")
}

func base64URL(b []byte) string {
	return strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(b64(b))
}

// TestCSR: OpenSSL and Vault's own pki engine take the requests and make
// certificates from them.
func TestCSR(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	e.Mount(t, "csr-pki", "pki")
	if _, err := e.Client.Logical().Write("csr-pki/root/generate/internal", map[string]any{"common_name": "Test CA"}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Client.Logical().Write("csr-pki/roles/web", map[string]any{
		"allowed_domains": "example.com", "allow_subdomains": true, "key_type": "any",
		"allowed_uri_sans": "spiffe://example.com/*",
	}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	openssl(t, dir, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA", "-days", "2")

	for name, algorithm := range map[string]string{"csr-p256": ecdsaP256, "csr-ed25519": ed25519} {
		e.create(t, name, algorithm, 2, 3)
		public := e.read(t, "accounts/"+name)["public_key"].(string)
		answer := e.write(t, "accounts/"+name+"/csr", map[string]any{
			"common_name": "www.example.com", "organization": "Example, Inc.", "organizational_unit": "Zürich", "country": "CH",
			"locality": "Zürich", "province": "ZH",
			"alt_names": "www.example.com,ops@example.com", "ip_sans": "192.0.2.7,2001:db8::7", "uri_sans": "spiffe://example.com/web",
		})
		if answer["public_key"] != public {
			t.Errorf("%s: %v", name, answer)
		}
		text := checkCSRWithOpenSSL(t, dir, answer["csr"].(string), public)
		for _, want := range []string{"O = \"Example, Inc.\"", "CN = www.example.com", "C = CH", "DNS:www.example.com", "email:ops@example.com", "IP Address:192.0.2.7", "URI:spiffe://example.com/web"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %s in\n%s", name, want, text)
			}
		}

		// A certificate by OpenSSL, of the account's key.
		openssl(t, dir, "x509", "-req", "-in", "req.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copyall", "-out", "cert.pem", "-days", "1")
		openssl(t, dir, "verify", "-CAfile", "ca.pem", "cert.pem")
		certificate, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		checkCertificate(t, string(certificate), public)

		// Certificates by Vault, with its role's rules and verbatim.
		plain := e.write(t, "accounts/"+name+"/csr", map[string]any{"common_name": "www.example.com", "alt_names": "www.example.com", "uri_sans": "spiffe://example.com/web"})
		for path, request := range map[string]any{"csr-pki/sign/web": plain["csr"], "csr-pki/sign-verbatim/web": answer["csr"]} {
			issued, err := e.Client.Logical().Write(path, map[string]any{"csr": request, "common_name": "www.example.com", "ttl": "1h"})
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			checkCertificate(t, issued.Data["certificate"].(string), public)
		}

		t.Run("template of OpenSSL, "+algorithm, func(t *testing.T) { checkTemplate(t, e, dir, name, public) })
	}

	e.create(t, "csr-bip340", bip340, 2, 3)
	e.create(t, "csr-secp256k1", ecdsaCurve, 2, 3)
	named := map[string]any{"common_name": "www.example.com"}
	e.refuse(t, "accounts/csr-bip340/csr", named, badRequest, "no certificate requests")
	e.refuse(t, "accounts/csr-secp256k1/csr", named, badRequest, "no certificate requests")
	e.refuse(t, "accounts/csr-p256/csr", map[string]any{"organization": "Example"}, badRequest, "names nobody")
	e.refuse(t, "accounts/csr-p256/csr", map[string]any{"common_name": "a", "country": "Switzerland"}, badRequest, "country")
}

// checkTemplate takes over a request that OpenSSL made for an RSA key, with a
// challenge password.
func checkTemplate(t *testing.T, e *engine, dir, name, public string) {
	config := `[req]
distinguished_name = name
attributes = attributes
req_extensions = extensions
prompt = no
[name]
C = CH
O = Example, Inc.
CN = template.example.com
[attributes]
challengePassword = not-a-secret
[extensions]
subjectKeyIdentifier = hash
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:template.example.com, DNS:*.example.com, IP:192.0.2.9
`
	if err := os.WriteFile(filepath.Join(dir, "req.cnf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	openssl(t, dir, "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "other.key", "-out", "template.pem", "-config", "req.cnf")
	template, err := os.ReadFile(filepath.Join(dir, "template.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Client.Logical().Write(e.path+"/accounts/"+name+"/csr", map[string]any{"csr": string(template)})
	if err != nil {
		t.Fatal(err)
	}
	text := checkCSRWithOpenSSL(t, dir, s.Data["csr"].(string), public)
	for _, want := range []string{"CN = template.example.com", "Digital Signature", "critical", "TLS Web Server Authentication", "DNS:*.example.com", "IP Address:192.0.2.9"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	for _, not := range []string{"challengePassword", "Subject Key Identifier"} {
		if strings.Contains(text, not) {
			t.Errorf("%s in\n%s", not, text)
		}
	}
	if !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "1.2.840.113549.1.9.7") }) || len(s.Warnings) != 2 {
		t.Errorf("warnings %q", s.Warnings)
	}
	e.refuse(t, "accounts/"+name+"/csr", map[string]any{"csr": string(template), "common_name": "a"}, badRequest, "leave out common_name")
	if r := e.CLI(t, "write", "-field=csr", e.path+"/accounts/"+name+"/csr", "csr=@"+filepath.Join(dir, "template.pem")); r.Code != 0 {
		t.Errorf("vault write: %d %s", r.Code, r.Stderr)
	} else {
		checkCSRWithOpenSSL(t, dir, r.Stdout, public)
	}
}

// checkCSRWithOpenSSL has OpenSSL check a request's signature, compares its key,
// and returns OpenSSL's text. It leaves the request in dir/req.pem.
func checkCSRWithOpenSSL(t *testing.T, dir, request, public string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "req.pem"), []byte(request), 0o600); err != nil {
		t.Fatal(err)
	}
	text := openssl(t, dir, "req", "-in", "req.pem", "-verify", "-noout", "-text")
	if !strings.Contains(text, "verify OK") {
		t.Errorf("OpenSSL: %s", text)
	}
	if got := openssl(t, dir, "req", "-in", "req.pem", "-noout", "-pubkey"); strings.TrimSpace(got) != strings.TrimSpace(public) {
		t.Errorf("the request's key is %s", got)
	}
	return text
}

// checkCertificate checks that a certificate is for the account's key.
func checkCertificate(t *testing.T, certificate, public string) {
	t.Helper()
	block, _ := pem.Decode([]byte(certificate))
	if block == nil {
		t.Fatalf("no certificate: %q", certificate)
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(parsed.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if key, _ := pem.Decode([]byte(public)); !bytes.Equal(key.Bytes, der) || parsed.Subject.CommonName != "www.example.com" || len(parsed.URIs) != 1 {
		t.Errorf("certificate for %v, %v", parsed.Subject, parsed.URIs)
	}
	if key, ok := parsed.PublicKey.(*ecdsa.PublicKey); ok && key.Curve != elliptic.P256() {
		t.Errorf("curve %v", key.Curve)
	}
}

// openssl runs OpenSSL in a folder and returns all it says.
func openssl(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %v: %v: %s", args, err, out)
	}
	return string(out)
}
