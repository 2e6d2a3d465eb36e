package address

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/btcutil/bech32"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// generator is the key of the private key 1, compressed; the examples of
// BIP-173 and BIP-350 use it.
const generator = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"

// TestChecksum: every test case in EIP-55.
func TestChecksum(t *testing.T) {
	for _, want := range []string{
		"0x52908400098527886E0F7030069857D2E4169EE7",
		"0x8617E340B3D01FA5F11F306F4090FD50E238070D",
		"0xde709f2102306220921060314715629080e2fb77",
		"0x27b1fdb04752bbc536007a920d24acb045561c26",
		"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
		"0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
		"0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
		"0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
	} {
		if got := checksummed([20]byte(unhex(t, strings.ToLower(want[2:])))); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestEthereum(t *testing.T) {
	for _, c := range []struct{ private, want string }{
		// The example of EIP-712: the key is keccak256("cow").
		{"c85ef7d79691fe79573b1a7064c19c1a9819ebdbd1faaab1a8ec92344438aaf4", "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"},
		// The first account of Hardhat and Anvil, of their published mnemonic.
		{"ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80", "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"},
		// The example of EIP-155.
		{"4646464646464646464646464646464646464646464646464646464646464646", "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F"},
	} {
		key := secp256k1.PrivKeyFromBytes(unhex(t, c.private)).PubKey().SerializeCompressed()
		got, err := Ethereum(key)
		if err != nil || got != c.want {
			t.Errorf("%s: %s %v, want %s", c.private, got, err, c.want)
		}
	}
}

func TestBitcoinP2WPKH(t *testing.T) {
	for _, c := range []struct {
		network   Network
		key, want string
	}{
		// BIP-173, "Examples".
		{Mainnet, generator, "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"},
		{Testnet, generator, "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx"},
		// BIP-84, "Test vectors".
		{Mainnet, "0330d54fd0dd420a6e5f8d3624f5f3482cae350f79d5f0753bf5beef9c2d91af3c", "bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu"},
		{Mainnet, "03e775fd51f0dfb8cd865d9ff1cca2a158cf651fe997fdc9fee9c1d3b5e995ea77", "bc1qnjg0jd8228aq7egyzacy8cys3knf9xvrerkf9g"},
		{Mainnet, "03025324888e429ab8e3dbaf1f7802648b9cd01e9b418485c5fa4c1b9b5700e1a6", "bc1q8c6fshw2dlwun7ekn9qwf37cu2rn755upcp6el"},
	} {
		got, err := BitcoinP2WPKH(c.network, unhex(t, c.key))
		if err != nil || got != c.want {
			t.Errorf("%s: %s %v, want %s", c.key, got, err, c.want)
		}
	}
}

func TestBitcoinP2TR(t *testing.T) {
	for _, c := range []struct {
		network   Network
		key, want string
	}{
		// BIP-350, "Test vectors", of valid addresses.
		{Mainnet, generator[2:], "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0"},
		{Testnet, "000000c4a5cad46221b2a187905e5266362b99d5e91c6ce24d165dab93e86433", "tb1pqqqqp399et2xygdj5xreqhjjvcmzhxw4aywxecjdzew6hylgvsesf3hn0c"},
		// BIP-86, "Test vectors": output keys.
		{Mainnet, "a60869f0dbcf1dc659c9cecbaf8050135ea9e8cdc487053f1dc6880949dc684c", "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr"},
		{Mainnet, "a82f29944d65b86ae6b5e5cc75e294ead6c59391a1edc5e016e3498c67fc7bbb", "bc1p4qhjn9zdvkux4e44uhx8tc55attvtyu358kutcqkudyccelu0was9fqzwh"},
		{Mainnet, "882d74e5d0572d5a816cef0041a96b6c1de832f6f9676d9605c44d5e9a97d3dc", "bc1p3qkhfews2uk44qtvauqyr2ttdsw7svhkl9nkm9s9c3x4ax5h60wqwruhk7"},
	} {
		got, err := BitcoinP2TR(c.network, unhex(t, c.key))
		if err != nil || got != c.want {
			t.Errorf("%s: %s %v, want %s", c.key, got, err, c.want)
		}
	}
}

// TestTaprootTweaked: internal key and Merkle root, tweaked by mpc/derive, come
// out as the addresses of BIP-341's wallet vectors and of BIP-86.
func TestTaprootTweaked(t *testing.T) {
	var vectors []struct {
		Internal string  `json:"internal_public_key"`
		Root     *string `json:"merkle_root"`
		Address  string  `json:"bip350_address"`
	}
	raw, err := os.ReadFile("../testdata/vectors/bip341.json")
	if err == nil {
		err = json.Unmarshal(raw, &vectors)
	}
	if err != nil || len(vectors) != 7 {
		t.Fatal(len(vectors), err)
	}
	type vector struct{ internal, tweak, want string }
	all := []vector{
		{"cc8a4bc64d897bddc5fbc2f670f7a8ba0b386779106cf1223c6fc5d7cd6fc115", derive.BIP86, "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr"},
		{"83dfe85a3151d2517290da461fe2815591ef69f2b18a2ce63f01697a8b313145", derive.BIP86, "bc1p4qhjn9zdvkux4e44uhx8tc55attvtyu358kutcqkudyccelu0was9fqzwh"},
		{"399f1b2f4393f29a18c937859c5dd8a77350103157eb880f02e8c08214277cef", derive.BIP86, "bc1p3qkhfews2uk44qtvauqyr2ttdsw7svhkl9nkm9s9c3x4ax5h60wqwruhk7"},
	}
	for _, v := range vectors {
		tweak := derive.BIP86 // an output without scripts: no root, as in BIP-86
		if v.Root != nil {
			tweak = *v.Root
		}
		all = append(all, vector{v.Internal, tweak, v.Address})
	}
	for _, c := range all {
		record := &mpc.PublicRecord{Algorithm: mpc.BIP340Secp256k1, PublicKey: unhex(t, c.internal)}
		child, err := derive.Derive(record, mpc.Derivation{TaprootTweak: c.tweak})
		if err != nil {
			t.Fatal(err)
		}
		got, err := All(mpc.BIP340Secp256k1, child.PublicKey, "")
		if err != nil || got[KeyBitcoinP2TR] != c.want || len(got) != 2 {
			t.Errorf("%s: %v %v, want %s", c.internal, got, err, c.want)
		}
		// The test networks differ in prefix and checksum only.
		_, main, _, err1 := bech32.DecodeGeneric(got[KeyBitcoinP2TR])
		prefix, test, version, err2 := bech32.DecodeGeneric(got[KeyBitcoinP2TRTestnet])
		if err1 != nil || err2 != nil || prefix != "tb" || version != bech32.VersionM || !bytes.Equal(main, test) {
			t.Errorf("test network: %s %v %v", got[KeyBitcoinP2TRTestnet], err1, err2)
		}
	}
}

func TestCosmos(t *testing.T) {
	// The Cosmos SDK's own test of ledgers (crypto/ledger), m/44'/118'/0'/0/0.
	key := unhex(t, "034fef9cd7c4c63588d3b03feb5281b9d232cba34d6f3d71aee59211ffbfe1fe87")
	if got, err := Cosmos("cosmos", key); err != nil || got != "cosmos1w34k53py5v5xyluazqpq65agyajavep2rflq6h" {
		t.Errorf("%s %v", got, err)
	}
	for _, prefix := range []string{"osmo", "a", "terra", "x2", strings.Repeat("a", MaxCosmosPrefix)} {
		got, err := Cosmos(prefix, key)
		if err != nil || len(got) > 90 {
			t.Errorf("%s: %q %v", prefix, got, err)
		}
		hrp, program, err := bech32.DecodeToBase256(got)
		if err != nil || hrp != prefix || !bytes.Equal(program, hash160(key)) {
			t.Errorf("%s: %s %x %v", got, hrp, program, err)
		}
	}
	for _, prefix := range []string{"", "Cosmos", "COSMOS", "1a", "a b", "a-b", "a_b", "ä", "a\n", "a\x00", strings.Repeat("a", MaxCosmosPrefix+1)} {
		if got, err := Cosmos(prefix, key); !errors.Is(err, ErrPrefix) || got != "" {
			t.Errorf("prefix %q: %q %v", prefix, got, err)
		}
	}
}

func TestSolana(t *testing.T) {
	// The Solana Cookbook's "Verify a keypair".
	key := []byte{
		15, 185, 186, 82, 177, 240, 148, 69, 241, 227, 167, 80, 141, 89, 240, 121,
		121, 35, 172, 247, 68, 251, 226, 218, 48, 63, 176, 109, 168, 89, 238, 135,
	}
	if got, err := Solana(key); err != nil || got != "24PNhTaNtomHhoy3fTRaMhAFCRj4uHqhZEEoWrKDbR5p" {
		t.Errorf("%s %v", got, err)
	}
	// The key of 32 zero bytes is that of the system program: a 1 for each.
	if got, err := Solana(make([]byte, 32)); err != nil || got != strings.Repeat("1", 32) {
		t.Errorf("%s %v", got, err)
	}
	notAPoint := make([]byte, 32)
	notAPoint[0] = 2 // y = 2 has no x
	for _, bad := range [][]byte{nil, key[:31], append(key, 0), notAPoint} {
		if got, err := Solana(bad); err == nil {
			t.Errorf("%x: %s", bad, got)
		}
	}
}

func TestAll(t *testing.T) {
	g := unhex(t, generator)
	for _, c := range []struct {
		algorithm mpc.Algorithm
		key       []byte
		names     []string
	}{
		{mpc.ECDSASecp256k1, g, []string{"bitcoin_p2wpkh", "bitcoin_p2wpkh_testnet", "cosmos", "ethereum"}},
		{mpc.BIP340Secp256k1, g[1:], []string{"bitcoin_p2tr", "bitcoin_p2tr_testnet"}},
		{mpc.Ed25519, make([]byte, 32), []string{"solana"}},
	} {
		all, err := All(c.algorithm, c.key, CosmosPrefix)
		if names := slices.Sorted(maps.Keys(all)); err != nil || !slices.Equal(names, c.names) || !Any(c.algorithm) {
			t.Errorf("%s: %v %v", c.algorithm, all, err)
		}
		for _, key := range [][]byte{nil, c.key[:len(c.key)-1], append(slices.Clone(c.key), 0), bytes.Repeat([]byte{0xff}, len(c.key))} {
			if all, err := All(c.algorithm, key, CosmosPrefix); err == nil {
				t.Errorf("%s: %x has addresses %v", c.algorithm, key, all)
			}
		}
	}
	// The other encodings of a point are not what is hashed.
	point, _ := secp256k1.ParsePubKey(g)
	hybrid := append([]byte{6}, point.SerializeUncompressed()[1:]...)
	for _, key := range [][]byte{point.SerializeUncompressed(), hybrid} {
		if all, err := All(mpc.ECDSASecp256k1, key, CosmosPrefix); err == nil {
			t.Errorf("%x has addresses %v", key, all)
		}
	}
	if _, err := All(mpc.ECDSASecp256k1, g, "Not A Prefix"); !errors.Is(err, ErrPrefix) {
		t.Errorf("prefix: %v", err)
	}
	for _, a := range []mpc.Algorithm{mpc.ECDSAP256, "other"} {
		if all, err := All(a, g, CosmosPrefix); !errors.Is(err, ErrAlgorithm) || Any(a) {
			t.Errorf("%s: %v %v", a, all, err)
		}
	}
}

// TestHashes has the hash of BIP-173's example and that of EIP-712's.
func TestHashes(t *testing.T) {
	if got := hex.EncodeToString(hash160(unhex(t, generator))); got != "751e76e8199196d454941c45d1b3a323f1433bd6" {
		t.Error(got)
	}
	if cow := hex.EncodeToString(keccak256([]byte("cow"))); cow != "c85ef7d79691fe79573b1a7064c19c1a9819ebdbd1faaab1a8ec92344438aaf4" {
		t.Error(cow)
	}
}
