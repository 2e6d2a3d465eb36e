package custody_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
)

var writeGolden = flag.Bool("write-golden", false, "make the golden file if it is not there; an existing one is never changed")

// golden is a purpose, an offer and a release that were made once: client, node
// and coordinator of different versions have to agree about them. The keys are
// test keys and public.
type golden struct {
	Purpose   string `json:"purpose_sha256_hex"`
	Refresh   string `json:"refresh_purpose_sha256_hex"`
	NodeSeed  string `json:"node_ed25519_seed_hex"`
	OfferKey  string `json:"offer_x25519_private_key_hex"`
	Signature string `json:"offer_signature_hex"`
	Release   string `json:"release_hex"`
	Part      string `json:"custody_part_hex"`
}

func goldenPurposes() (sign, refresh custody.Purpose) {
	node := func(b byte) (id mpc.NodeIdentity) {
		copy(id[:], bytes.Repeat([]byte{b}, 32))
		return id
	}
	record := [32]byte(bytes.Repeat([]byte{0xab}, 32))
	sign = custody.Purpose{Operation: custody.OpSign, Record: record, Input: []byte("pay bob"), MessageType: "raw", HashAlgorithm: "sha2-256",
		DerivationPath: "m/0/7", TaprootTweak: "bip86", Signers: []custody.Signer{{Index: 3, Node: node(3)}, {Index: 1, Node: node(1)}}}
	refresh = custody.Purpose{Operation: custody.OpRefresh, Record: record, NextCustody: append([]byte{4}, bytes.Repeat([]byte{0xcd}, 64)...),
		Signers: []custody.Signer{{Index: 1, Node: node(1)}, {Index: 2, Node: node(2)}, {Index: 3, Node: node(3)}}}
	return sign, refresh
}

func goldenOffer(t *testing.T, seed, offerKey []byte) (ed25519.PrivateKey, *ecdh.PrivateKey, custody.Offer) {
	t.Helper()
	node := ed25519.NewKeyFromSeed(seed)
	key, err := ecdh.X25519().NewPrivateKey(offerKey)
	if err != nil {
		t.Fatal(err)
	}
	o := custody.Offer{Index: 1, Node: mpc.NodeIdentity(node.Public().(ed25519.PublicKey)), PublicKey: key.PublicKey().Bytes(), Expires: time.UnixMilli(1_800_000_123_456)}
	copy(o.ReleaseID[:], "release ID 16 B.")
	return node, key, o
}

func TestGolden(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "golden", "custody-v1.json")
	if _, err := os.Stat(path); *writeGolden && os.IsNotExist(err) {
		makeGolden(t, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	sign, refresh := goldenPurposes()
	for name, c := range map[string]struct {
		hash [32]byte
		want string
	}{"sign": {sign.Hash(), g.Purpose}, "refresh": {refresh.Hash(), g.Refresh}} {
		if hex.EncodeToString(c.hash[:]) != c.want {
			t.Errorf("%s: the hash of a purpose changed: %x", name, c.hash)
		}
	}
	node, key, o := goldenOffer(t, unhex(t, g.NodeSeed), unhex(t, g.OfferKey))
	custody.SignOffer(node, sign.Hash(), &o) // Ed25519 signatures are deterministic
	if hex.EncodeToString(o.Signature) != g.Signature || !o.Verify(sign.Hash(), time.UnixMilli(1_800_000_000_000)) {
		t.Errorf("the signature of an offer changed: %x", o.Signature)
	}
	k2, err := custody.OpenRelease(key, o, sign.Hash(), unhex(t, g.Release))
	if err != nil || !bytes.Equal(k2.Expose(), unhex(t, g.Part)) {
		t.Errorf("a release does not open any more: %v", err)
	}
}

func makeGolden(t *testing.T, path string) {
	sign, refresh := goldenPurposes()
	s := newScene(t)
	offerKey := bytes.Repeat([]byte{0x5e}, 32)
	seed := bytes.Repeat([]byte{0x1d}, 32)
	node, _, o := goldenOffer(t, seed, offerKey)
	custody.SignOffer(node, sign.Hash(), &o)
	release, err := custody.Release(o, sign.Hash(), s.record, s.envelopes[1], s.owner)
	if err != nil {
		t.Fatal(err)
	}
	one, two := sign.Hash(), refresh.Hash()
	text, err := json.MarshalIndent(golden{Purpose: hex.EncodeToString(one[:]), Refresh: hex.EncodeToString(two[:]), NodeSeed: hex.EncodeToString(seed),
		OfferKey: hex.EncodeToString(offerKey), Signature: hex.EncodeToString(o.Signature), Release: hex.EncodeToString(release),
		Part: hex.EncodeToString(s.parts[1].Expose())}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestGoldenPolicy: a refresh that changes the policy has an encoding of its own
// (purpose v2). Offers and releases are as ever: they have the hash of it.
func TestGoldenPolicy(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "golden", "custody-v2.json")
	_, p := goldenPurposes()
	p.NextPolicy = bytes.Repeat([]byte{0xef}, 32)
	hash := p.Hash()
	if _, err := os.Stat(path); *writeGolden && os.IsNotExist(err) {
		text, err := json.MarshalIndent(map[string]string{"policy_refresh_purpose_sha256_hex": hex.EncodeToString(hash[:])}, "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	var g map[string]string
	if err == nil {
		err = json.Unmarshal(text, &g)
	}
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(hash[:]) != g["policy_refresh_purpose_sha256_hex"] {
		t.Errorf("the hash of a purpose changed: %x", hash)
	}
	// By hand: every field behind its length.
	var by []byte
	field := func(b []byte) {
		by = binary.BigEndian.AppendUint32(by, uint32(len(b)))
		by = append(by, b...)
	}
	for _, f := range [][]byte{[]byte("vault-plugin-secrets-mpc custody purpose v2"), []byte("refresh"), p.Record[:], nil, nil, nil, nil, nil, p.NextCustody, p.NextPolicy} {
		field(f)
	}
	for _, s := range p.Signers {
		field(append([]byte{byte(s.Index)}, s.Node[:]...))
	}
	if want := sha256.Sum256(by); want != hash {
		t.Errorf("%x is not what is documented, %x", hash, want)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
