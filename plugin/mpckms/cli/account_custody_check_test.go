package cli

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	k1ecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/secret"
)

// TestCustodianTakesNoOtherSignature: what a server answers to a release is shown
// where it is the signature that the owner released the key for, and never else.
func TestCustodianTakesNoOtherSignature(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, forge := range map[string]func(n *nodes, answer map[string]any){
		"another message": func(n *nodes, a map[string]any) { maps.Copy(a, signedBy(n.account, []byte("pay eve"))) },
		"another key":     func(_ *nodes, a map[string]any) { maps.Copy(a, signedBy(stranger, []byte("pay bob"))) },
		"another key's, under the account's name": func(n *nodes, a map[string]any) {
			maps.Copy(a, signedBy(stranger, []byte("pay bob")))
			a["public_key"] = hex.EncodeToString(n.record.PublicKey)
		},
		"another r":          func(_ *nodes, a map[string]any) { a["r"] = strings.Repeat("0", 64) },
		"another s":          func(_ *nodes, a map[string]any) { a["s"] = strings.Repeat("0", 64) },
		"short r":            func(_ *nodes, a map[string]any) { a["r"] = "00" },
		"another hex":        func(n *nodes, a map[string]any) { a["signature_hex"] = signedBy(stranger, nil)["signature_hex"] },
		"another format":     func(_ *nodes, a map[string]any) { a["signature_format"] = "jws" },
		"no format":          func(_ *nodes, a map[string]any) { delete(a, "signature_format") },
		"a public key":       func(_ *nodes, a map[string]any) { a["public_key"] = strings.Repeat("0", 64) },
		"a digest":           func(_ *nodes, a map[string]any) { a["digest"] = strings.Repeat("0", 64) },
		"a v":                func(_ *nodes, a map[string]any) { a["v"] = 0 },
		"a child key":        func(_ *nodes, a map[string]any) { a["derivation_path"] = "m/1" },
		"a tweak":            func(_ *nodes, a map[string]any) { a["taproot_tweak"] = "bip86" },
		"no signature":       func(_ *nodes, a map[string]any) { clear(a) },
		"a pending request":  func(_ *nodes, a map[string]any) { clear(a); a["request"], a["state"] = randomHexID(), "pending" },
		"base64 with a tail": func(_ *nodes, a map[string]any) { a["signature"] = a["signature"].(string) + "\n" },
	} {
		t.Run(what, func(t *testing.T) {
			n := newNodes(t)
			n.forge = func(a map[string]any) { forge(n, a) }
			doc, task := signDoc{Name: "gold"}, n.sign()
			err := n.custodian().sign(t.Context(), task, n.want(t, task.purpose), &doc)
			var r *refusal
			if !errors.As(err, &r) || !errors.Is(err, errNotSigned) || !strings.Contains(err.Error(), "nothing else was signed") || len(n.begins) != 1 {
				t.Errorf("%d begins, %v", len(n.begins), err)
			}
			if doc.Signature+doc.SignatureHex+doc.R+doc.S != "" {
				t.Errorf("handed on: %+v", doc)
			}
			// The same stored as the result of a request that was approved.
			stored := signedBy(n.account, task.purpose.Input)
			good, err := json.Marshal(stored)
			if err != nil {
				t.Fatal(err)
			}
			forge(n, stored)
			bad, err := json.Marshal(stored)
			if err != nil {
				t.Fatal(err)
			}
			if err := (&requestDoc{Result: bad}).custodySignature("sign", n.want(t, task.purpose), &doc); !errors.Is(err, errNotSigned) || doc.Signature != "" {
				t.Errorf("from a request: %+v, %v", doc, err)
			}
			if err := (&requestDoc{Result: good}).custodySignature("sign", n.want(t, task.purpose), &doc); err != nil || doc.Signature == "" || doc.Name != "gold" {
				t.Errorf("the right one from a request: %+v, %v", doc, err)
			}
		})
	}
}

// TestWantedSignature: every algorithm and format, and child keys.
func TestWantedSignature(t *testing.T) {
	key, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("pay bob")
	pad := func(x *big.Int) []byte { return x.FillBytes(make([]byte, 32)) }
	k1 := func(private, digest []byte) (r, s []byte) {
		sig := k1ecdsa.Sign(secp256k1.PrivKeyFromBytes(private), digest)
		sr, ss := sig.R(), sig.S()
		rb, sb := sr.Bytes(), ss.Bytes()
		return rb[:], sb[:]
	}
	nist := func(_, digest []byte) ([]byte, []byte) {
		r, s, err := ecdsa.Sign(rand.Reader, p256, digest)
		if err != nil {
			t.Fatal(err)
		}
		if n := elliptic.P256().Params().N; s.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
			s.Sub(n, s)
		}
		return pad(r), pad(s)
	}
	point, err := p256.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	chain := sha256.Sum256([]byte("chain code"))
	for _, x := range []struct {
		algorithm mpc.Algorithm
		public    []byte
		sign      func(private, digest []byte) (r, s []byte)
		formats   []string
		paths     []string
	}{
		{mpc.ECDSASecp256k1, key.PubKey().SerializeCompressed(), k1, []string{"", "der", "compact", "jws", "ethereum"}, []string{"", "m/0/7"}},
		{mpc.ECDSAP256, append([]byte{2 + point[64]&1}, point[1:33]...), nist, []string{"", "der", "compact", "jws"}, []string{""}},
	} {
		for _, path := range x.paths {
			acc := &account{Algorithm: string(x.algorithm), PublicKeyHex: hex.EncodeToString(x.public)}
			private := key.Serialize()
			if x.algorithm.Derives() {
				acc.ChainCode = hex.EncodeToString(chain[:])
			}
			record := &mpc.PublicRecord{Algorithm: x.algorithm, PublicKey: x.public, ChainCode: chain}
			child, err := derive.Derive(record, mpc.Derivation{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			if path != "" {
				s, err := child.Share(secret.Copy(private))
				if err != nil {
					t.Fatal(err)
				}
				private = s.Expose()
			}
			digest := sha256.Sum256(message)
			r, s := x.sign(private, digest[:])
			v := 0
			for v < 4 && !verify.RecoversKey(x.algorithm, child.PublicKey, digest[:], [32]byte(r), [32]byte(s), v) {
				v++
			}
			for _, format := range x.formats {
				both := append(append([]byte{}, r...), s...)
				raw, shown, encoding := both, format, base64.StdEncoding
				switch format {
				case "", "der":
					raw, shown = verify.DER([32]byte(r), [32]byte(s)), "der"
				case "jws":
					encoding = base64.RawURLEncoding
				case "ethereum":
					raw = append(both, byte(27+v))
				}
				number := json.Number(string(rune('0' + v)))
				doc := signDoc{Signature: encoding.EncodeToString(raw), SignatureHex: hex.EncodeToString(raw), Format: shown,
					R: hex.EncodeToString(r), S: hex.EncodeToString(s), V: &number, Digest: hex.EncodeToString(digest[:]), PublicKey: hex.EncodeToString(child.PublicKey), Path: path}
				purpose := custody.Purpose{Operation: custody.OpSign, Input: message, MessageType: "raw", DerivationPath: path}
				w, err := wantedFrom(acc, purpose, format)
				if err != nil {
					t.Fatal(err)
				}
				if err := w.check(&doc); err != nil {
					t.Errorf("%s %q %q: %v", x.algorithm, format, path, err)
				}
				other := json.Number(string(rune('0' + 1 - v&1)))
				for what, change := range map[string]func(*signDoc, *wantedSignature){
					"v":       func(d *signDoc, _ *wantedSignature) { d.V = &other },
					"r":       func(d *signDoc, _ *wantedSignature) { d.R = d.S },
					"digest":  func(d *signDoc, _ *wantedSignature) { d.Digest = d.R },
					"message": func(_ *signDoc, w *wantedSignature) { w.purpose.Input = []byte("pay eve") },
					"hash":    func(_ *signDoc, w *wantedSignature) { w.purpose.HashAlgorithm = "sha2-512" },
					"format": func(_ *signDoc, w *wantedSignature) {
						if w.format = "compact"; shown == "compact" {
							w.format = "der"
						}
					},
					"key": func(_ *signDoc, w *wantedSignature) {
						w.record.Algorithm, w.record.PublicKey = mpc.Ed25519, make([]byte, 32)
					},
				} {
					d, bad := doc, *w
					change(&d, &bad)
					if err := bad.check(&d); !errors.Is(err, errNotSigned) {
						t.Errorf("%s %q %q, another %s: %v", x.algorithm, format, path, what, err)
					}
				}
				if x.algorithm.Derives() {
					bad := *w
					if bad.purpose.DerivationPath = "m/8"; bad.check(&doc) == nil {
						t.Errorf("%q %q: another child key was taken", format, path)
					}
				}
			}
		}
	}
	for _, acc := range []*account{{}, {Algorithm: "ed25519"}, {Algorithm: "ed25519", PublicKeyHex: "zz"}, {Algorithm: "other", PublicKeyHex: strings.Repeat("0", 64)},
		{Algorithm: "ed25519", PublicKeyHex: strings.Repeat("0", 64), ChainCode: "00"}} {
		if _, err := wantedFrom(acc, custody.Purpose{}, ""); err == nil {
			t.Errorf("%+v was taken", acc)
		}
	}
}
