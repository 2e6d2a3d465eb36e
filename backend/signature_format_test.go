package backend

import (
	"bytes"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/verify"
)

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// verifyFields is what verifyOne reads, and parseSigning before it.
func verifyFields(t testing.TB, fields map[string]any) *framework.FieldData {
	t.Helper()
	return &framework.FieldData{Raw: fields, Schema: batchItemFields("signature", signatureField())}
}

// TestPublishedSignatures: signatures that others have published are valid in
// the formats that they were published in.
func TestPublishedSignatures(t *testing.T) {
	ethereumKey := secp256k1.PrivKeyFromBytes(fromHex(t, "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"))
	for _, c := range []struct {
		name      string
		algorithm mpc.Algorithm
		key       []byte
		fields    map[string]any
		valid     bool
		warning   string
	}{
		{ // RFC 8037, appendix A.4
			"JWS of Ed25519", mpc.Ed25519, fromHex(t, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
			map[string]any{
				"input":     base64.StdEncoding.EncodeToString([]byte("eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc")),
				"signature": "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg", "signature_format": "jws",
			}, true, "",
		},
		{ // RFC 7515, appendix A.3: right, with the high one of the two s
			"JWS of P-256", mpc.ECDSAP256, append([]byte{3}, must64(t, "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU")...),
			map[string]any{
				"input":     base64.StdEncoding.EncodeToString([]byte("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ")),
				"signature": "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q", "signature_format": "jws",
			}, false, "upper half",
		},
		{ // RFC 6979, appendix A.2.5: SHA-256, "test"
			"compact of P-256", mpc.ECDSAP256, fromHex(t, "0360fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"),
			map[string]any{
				"input":     "dGVzdA==",
				"signature": base64.StdEncoding.EncodeToString(fromHex(t, "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083")), "signature_format": "compact",
			}, true, "",
		},
		{ // web3.js, documentation of accounts.sign: "Some data"
			"Ethereum", mpc.ECDSASecp256k1, ethereumKey.PubKey().SerializeCompressed(),
			map[string]any{
				"input": "U29tZSBkYXRh", "message_type": "eip191", "signature_format": "ethereum",
				"signature": base64.StdEncoding.EncodeToString(fromHex(t, "b91467e570a6466aa9e9876cbcd013baba02900b8979d43fe208a4a4f339f5fd6007e74cd82e037b800186422fc2da167c747ef045e5d18a5f5d4300f8e1a0291c")),
			}, true, "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			record := &mpc.PublicRecord{Algorithm: c.algorithm, PublicKey: c.key}
			data := verifyFields(t, c.fields)
			q, err := parseSigning(record, data)
			if err != nil {
				t.Fatal(err)
			}
			valid, err := verifyOne(record, q, data)
			if err != nil || valid != c.valid || !strings.Contains(strings.Join(q.warnings, "\n"), c.warning) {
				t.Errorf("%v, %q, %v", valid, q.warnings, err)
			}
		})
	}
}

// must64 decodes base64url without padding.
func must64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestStrictFormats: of a valid signature everything but its one form in each
// format is refused, and in a way that says what is wrong.
func TestStrictFormats(t *testing.T) {
	m := configured(t)
	order := map[string]*big.Int{"bob": secp256k1.Params().N, "dave": elliptic.P256().Params().N}
	for name, algorithm := range map[string]string{"alice": "bip340-secp256k1", "bob": "ecdsa-secp256k1", "carol": "ed25519", "dave": "ecdsa-p256"} {
		m.create(name, algorithm)
		for _, f := range signatureFormats(mpc.Algorithm(algorithm)) {
			asked := map[string]any{"input": "aGVsbG8=", "signature_format": string(f)}
			answer := m.must(logical.UpdateOperation, "sign/"+name, asked)
			sig := fromHex(t, answer["signature_hex"].(string))
			if answer["signature_format"] != string(f) || answer["signature"] != f.text(sig) {
				t.Errorf("%s %s: %v", name, f, answer)
			}
			valid := func(text string) (bool, string) {
				resp, status, msg := m.do(logical.UpdateOperation, "verify/"+name, map[string]any{"input": "aGVsbG8=", "signature_format": string(f), "signature": text})
				if status != 200 {
					return false, msg
				}
				return resp.Data["valid"].(bool), strings.Join(resp.Warnings, "\n")
			}
			if ok, why := valid(f.text(sig)); !ok {
				t.Errorf("%s %s: not valid: %s", name, f, why)
			}
			type refusal struct {
				text, why string
			}
			refusals := []refusal{
				{"", "signature is missing"},
				{"*", "signature is not base64"},
				{f.text(append(sig[:len(sig):len(sig)], 0)), ""},
				{f.text(sig[:len(sig)-1]), ""},
				{f.text(make([]byte, len(sig))), ""},
				{f.text(make([]byte, maxSignature*2)), "longer than"},
			}
			if f != formatDER {
				refusals[2].why, refusals[3].why = "bytes, but", "bytes, but"
			}
			if f == formatJWS {
				refusals = append(refusals,
					refusal{base64.URLEncoding.EncodeToString(sig), "base64url without padding"},
					refusal{f.text(sig)[:20] + "\n" + f.text(sig)[20:], "base64url without padding"},
					refusal{base64.StdEncoding.EncodeToString(sig), "base64url without padding"})
			}
			if f == formatEthereum {
				for _, v := range []byte{0, 1, 26, 29, 37, 255} {
					other := append(bytes.Clone(sig[:64]), v)
					refusals = append(refusals, refusal{f.text(other), "only 27 and 28"})
				}
				other := bytes.Clone(sig)
				other[64] ^= 27 ^ 28
				refusals = append(refusals, refusal{f.text(other), ""}) // recovers another key
			}
			if n := order[name]; n != nil && f != formatDER {
				other := bytes.Clone(sig)
				s := new(big.Int).Sub(n, new(big.Int).SetBytes(sig[32:64]))
				s.FillBytes(other[32:64])
				if f == formatEthereum {
					other[64] ^= 27 ^ 28
				}
				refusals = append(refusals, refusal{f.text(other), "upper half"})
				// r + order, where it fits, is the same number to who does not look.
				if r := new(big.Int).Add(n, new(big.Int).SetBytes(sig[:32])); r.BitLen() <= 256 {
					other := bytes.Clone(sig)
					r.FillBytes(other[:32])
					refusals = append(refusals, refusal{f.text(other), ""})
				}
			}
			for _, r := range refusals {
				if ok, why := valid(r.text); ok || !strings.Contains(why, r.why) {
					t.Errorf("%s %s: %q is valid: %v, and the answer says %q", name, f, r.text, ok, why)
				}
			}
		}
		for _, f := range []string{"der", "compact", "ethereum", "jws", "JWS", "asn1"} {
			if _, err := parseSignatureFormat(mpc.Algorithm(algorithm), f); err != nil {
				m.fails(logical.UpdateOperation, "sign/"+name, map[string]any{"input": "aGVsbG8=", "signature_format": f}, 400, "has no signature_format")
				m.fails(logical.UpdateOperation, "verify/"+name, map[string]any{"input": "aGVsbG8=", "signature_format": f, "signature": "AAAA"}, 400, "has no signature_format")
			}
		}
	}
}

// TestFormatDefaults: the formats of each algorithm, the default first.
func TestFormatDefaults(t *testing.T) {
	for algorithm, want := range map[mpc.Algorithm]string{
		mpc.BIP340Secp256k1: "compact", mpc.Ed25519: "compact jws", mpc.ECDSAP256: "der compact jws", mpc.ECDSASecp256k1: "der compact ethereum jws",
	} {
		var got []string
		for _, f := range signatureFormats(algorithm) {
			got = append(got, string(f))
		}
		if f, err := parseSignatureFormat(algorithm, ""); strings.Join(got, " ") != want || err != nil || string(f) != got[0] {
			t.Errorf("%s: %v, %v, %v", algorithm, got, f, err)
		}
	}
}

// TestEthereumNeedsRecoveryBit: a signature whose R.x was reduced has no v.
func TestEthereumNeedsRecoveryBit(t *testing.T) {
	for id, want := range map[int]byte{-1: 0, 0: 27, 1: 28, 2: 0, 3: 0} {
		b, err := formatEthereum.encode(&mpc.Signature{RecoveryID: id})
		if want == 0 && err == nil || want != 0 && (err != nil || len(b) != 65 || b[64] != want) {
			t.Errorf("recovery ID %d: %x, %v", id, b, err)
		}
	}
}

// FuzzSignatureFormats: what is read in a format is written alike, so that no
// signature has two forms, and a valid one stays valid.
func FuzzSignatureFormats(f *testing.F) {
	f.Add(uint8(3), uint8(0), verify.DER([32]byte{1}, [32]byte{2}))
	f.Add(uint8(2), uint8(2), append(bytes.Repeat([]byte{1}, 64), 27))
	f.Add(uint8(2), uint8(2), append(bytes.Repeat([]byte{1}, 64), 0))
	f.Add(uint8(0), uint8(0), bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, a, g uint8, raw []byte) {
		algorithm := mpc.Algorithms()[int(a)%len(mpc.Algorithms())]
		all := signatureFormats(algorithm)
		format := all[int(g)%len(all)]
		if back, err := format.parseText(format.text(raw)); len(raw) > 0 && len(raw) <= maxSignature && (err != nil || !bytes.Equal(back, raw)) {
			t.Fatalf("%s: %x is read as %x: %v", format, raw, back, err)
		}
		sig, flaw := format.parse(algorithm, raw)
		if (sig == nil) == (flaw == "") {
			t.Fatalf("%s: %v and %q", format, sig, flaw)
		}
		if sig == nil || format == formatDER {
			return
		}
		s := &mpc.Signature{R: sig.r, S: sig.s, Bytes: sig.native, RecoveryID: sig.recoveryID}
		again, err := format.encode(s)
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("%s: %x is written as %x: %v", format, raw, again, err)
		}
		if algorithm.IsECDSA() && !bytes.Equal(sig.native, verify.DER(sig.r, sig.s)) || !algorithm.IsECDSA() && !bytes.Equal(sig.native, raw) {
			t.Fatalf("%s: %x stands for %x", format, raw, sig.native)
		}
	})
}

// FuzzSignatureText: a text is read in one form only where the format is jws.
func FuzzSignatureText(f *testing.F) {
	f.Add("hgyY0il_MGCjP0Jz")
	f.Add("hgyY0il_MGCjP0J=")
	f.Add("ab\ncd")
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range []signatureFormat{formatJWS, formatDER} {
			raw, err := format.parseText(text)
			if err != nil {
				continue
			}
			if format == formatDER {
				text = strings.NewReplacer("\r", "", "\n", "").Replace(text) // base64 wraps lines
			}
			if format.text(raw) != text || len(raw) > maxSignature {
				t.Fatalf("%s: %q is read as %x", format, text, raw)
			}
		}
	})
}
