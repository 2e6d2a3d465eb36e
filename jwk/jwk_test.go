package jwk

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"maps"
	"math/big"
	"testing"

	"filippo.io/nistec"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/go-jose/go-jose/v4"

	"vault-plugin-secrets-mpc/mpc"
)

func decode(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// compress returns a point of P-256 as accounts have it.
func compress(x, y []byte) []byte {
	return append([]byte{2 + y[31]&1}, x...)
}

// TestRFCs: keys and thumbprints of the RFCs.
func TestRFCs(t *testing.T) {
	// RFC 8037 A.2 and A.3.
	k, err := New(mpc.Ed25519, decode(t, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"))
	if err != nil {
		t.Fatal(err)
	}
	want := Key{
		"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
		"alg": "EdDSA", "use": "sig", "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
	}
	if !maps.Equal(k, want) {
		t.Errorf("RFC 8037: %v", k)
	}
	if text := k.JSON(); text != `{"alg":"EdDSA","crv":"Ed25519","kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k","kty":"OKP","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}` {
		t.Error(text)
	}

	// RFC 9449 §6.1: the key of its example and jkt, its thumbprint.
	x, y := "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs", "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"
	k, err = New(mpc.ECDSAP256, compress(decode(t, x), decode(t, y)))
	if err != nil {
		t.Fatal(err)
	}
	want = Key{
		"kty": "EC", "crv": "P-256", "x": x, "y": y,
		"alg": "ES256", "use": "sig", "kid": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
	}
	if !maps.Equal(k, want) {
		t.Errorf("RFC 9449: %v", k)
	}

	// RFC 7515 A.3.1.
	x, y = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
	if k, err = New(mpc.ECDSAP256, compress(decode(t, x), decode(t, y))); err != nil || k["x"] != x || k["y"] != y {
		t.Errorf("RFC 7515: %v %v", k, err)
	}

	// RFC 7638 §3.1; members that are not required do not count.
	rsa := Key{
		"kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
		"n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
	}
	if got := rsa.Thumbprint(); got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("RFC 7638: %s", got)
	}
}

// TestSecp256k1: the generator of SEC 2 §2.4.1 in the members of RFC 8812.
func TestSecp256k1(t *testing.T) {
	k, err := New(mpc.ECDSASecp256k1, secp256k1.PrivKeyFromBytes([]byte{1}).PubKey().SerializeCompressed())
	if err != nil {
		t.Fatal(err)
	}
	gx, _ := new(big.Int).SetString("79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798", 16)
	gy, _ := new(big.Int).SetString("483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8", 16)
	if k["kty"] != "EC" || k["crv"] != "secp256k1" || k["alg"] != "ES256K" || k["use"] != "sig" ||
		!bytes.Equal(decode(t, k["x"]), gx.Bytes()) || !bytes.Equal(decode(t, k["y"]), gy.Bytes()) {
		t.Errorf("%v", k)
	}
	if k["kid"] != (Key{"kty": "EC", "crv": "secp256k1", "x": k["x"], "y": k["y"]}).Thumbprint() || len(k["kid"]) != 43 {
		t.Errorf("kid %s", k["kid"])
	}
}

// TestLeadingZeros: a coordinate below 2²⁴⁸ keeps its 32 bytes.
func TestLeadingZeros(t *testing.T) {
	found := map[string]bool{}
	for i := 1; i < 5000 && len(found) < 4; i++ {
		scalar := big.NewInt(int64(i)).FillBytes(make([]byte, 32))
		p256, err := nistec.NewP256Point().ScalarBaseMult(scalar)
		if err != nil {
			t.Fatal(err)
		}
		for algorithm, point := range map[mpc.Algorithm][]byte{
			mpc.ECDSAP256:      p256.Bytes(),
			mpc.ECDSASecp256k1: secp256k1.PrivKeyFromBytes(scalar).PubKey().SerializeUncompressed(),
		} {
			for member, coordinate := range map[string][]byte{"x": point[1:33], "y": point[33:]} {
				if coordinate[0] != 0 {
					continue
				}
				found[string(algorithm)+member] = true
				k, err := New(algorithm, compress(point[1:33], point[33:]))
				if err != nil || len(k[member]) != 43 || k[member][0] != 'A' || !bytes.Equal(decode(t, k[member]), coordinate) {
					t.Errorf("%s, %d·G: %v %v", algorithm, i, k, err)
				}
			}
		}
	}
	if len(found) != 4 {
		t.Errorf("coordinates with a leading zero: only %v", found)
	}
}

// TestReadByAnotherLibrary: go-jose takes the text for the same key, and has the
// same thumbprint. It does not know secp256k1.
func TestReadByAnotherLibrary(t *testing.T) {
	for i := byte(1); i < 20; i++ {
		seed := bytes.Repeat([]byte{i}, 32)
		edwards := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
		point, err := nistec.NewP256Point().ScalarBaseMult(seed)
		if err != nil {
			t.Fatal(err)
		}
		p256, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for algorithm, c := range map[mpc.Algorithm]struct {
			key  []byte
			want interface{ Equal(crypto.PublicKey) bool }
		}{
			mpc.Ed25519:   {edwards, edwards},
			mpc.ECDSAP256: {point.BytesCompressed(), p256},
		} {
			k, err := New(algorithm, c.key)
			if err != nil {
				t.Fatal(err)
			}
			var read jose.JSONWebKey
			if err := read.UnmarshalJSON([]byte(k.JSON())); err != nil {
				t.Fatalf("%s: %v", k.JSON(), err)
			}
			thumbprint, err := read.Thumbprint(crypto.SHA256)
			if err != nil || encode(thumbprint) != k["kid"] || read.KeyID != k["kid"] {
				t.Errorf("%s: thumbprint %s %v", k.JSON(), encode(thumbprint), err)
			}
			if !c.want.Equal(read.Key) || !read.Valid() || !read.IsPublic() || read.Algorithm != k["alg"] || read.Use != "sig" {
				t.Errorf("%s: read as %+v", k.JSON(), read)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, a := range []mpc.Algorithm{mpc.BIP340Secp256k1, "other"} {
		if k, err := New(a, make([]byte, 32)); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%s: %v %v", a, k, err)
		}
	}
	infinity := []byte{0}
	overPrime := append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...)
	uncompressed := secp256k1.PrivKeyFromBytes([]byte{1}).PubKey().SerializeUncompressed()
	for _, a := range []mpc.Algorithm{mpc.ECDSAP256, mpc.ECDSASecp256k1, mpc.Ed25519} {
		for _, bad := range [][]byte{nil, infinity, overPrime, overPrime[:32], uncompressed} {
			if k, err := New(a, bad); err == nil {
				t.Errorf("%s of %x: %v", a, bad, k)
			}
		}
	}
	edwards := make([]byte, 32)
	edwards[0] = 2 // y = 2 has no x
	if k, err := New(mpc.Ed25519, edwards); err == nil {
		t.Errorf("no point: %v", k)
	}
	if k, err := New(mpc.Ed25519, bytes.Repeat([]byte{0xff}, 32)); err == nil {
		t.Errorf("not canonical: %v", k)
	}
}
