package backend

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/address"
	"vault-plugin-secrets-mpc/jwk"
	"vault-plugin-secrets-mpc/mpc"
)

// fourAccounts makes one account of each algorithm.
func fourAccounts(m *mount) {
	m.t.Helper()
	for name, alg := range map[string]string{"alice": "bip340-secp256k1", "bob": "ecdsa-secp256k1", "carol": "ed25519", "dave": "ecdsa-p256"} {
		m.create(name, alg)
	}
}

// TestAddresses: every answer with addresses has those of the key that the
// derivation in the answer leads to. That they are the right ones for a key is
// for the tests of package address.
func TestAddresses(t *testing.T) {
	m := configured(t)
	fourAccounts(m)
	root := strings.Repeat("07", 32)
	kinds := map[string][]string{
		"alice": {"bitcoin_p2tr", "bitcoin_p2tr_testnet"},
		"bob":   {"bitcoin_p2wpkh", "bitcoin_p2wpkh_testnet", "cosmos", "ethereum"},
		"carol": {"solana"},
	}
	algorithms := map[string]mpc.Algorithm{"alice": mpc.BIP340Secp256k1, "bob": mpc.ECDSASecp256k1, "carol": mpc.Ed25519}
	for _, c := range []struct{ name, path, tweak, prefix string }{
		{name: "alice"},
		{name: "alice", path: "m/0/7"},
		{name: "alice", tweak: root},
		{name: "alice", path: "m/0/7", tweak: root},
		{name: "alice", tweak: "bip86"},
		{name: "bob"},
		{name: "bob", path: "m/0/7"},
		{name: "bob", path: "m/0/7", prefix: "osmo"},
		{name: "carol"},
	} {
		fields := map[string]any{}
		for field, value := range map[string]string{"derivation_path": c.path, "taproot_tweak": c.tweak, "cosmos_prefix": c.prefix} {
			if value != "" {
				fields[field] = value
			}
		}
		path := "accounts/" + c.name + "/addresses"
		answer := m.must(logical.UpdateOperation, path, fields)
		if read := m.must(logical.ReadOperation, path, fields); !sameJSON(t, read, answer) {
			t.Errorf("%+v: read %v, written %v", c, read, answer)
		}
		tweak, steps := c.tweak, c.path
		if c.name == "alice" && tweak == "" {
			tweak = "bip86"
		}
		if steps == "" {
			steps = "m"
		}
		if answer["taproot_tweak"] != tweak || answer["derivation_path"] != steps {
			t.Errorf("%+v: %v", c, answer)
		}
		prefix := c.prefix
		if prefix == "" {
			prefix = "cosmos"
		}

		// The key of the addresses is the one that derive/ and sign/ speak of.
		key := m.must(logical.ReadOperation, "accounts/"+c.name, nil)["public_key_hex"]
		if c.name != "carol" {
			derivation := map[string]any{"derivation_path": steps}
			if tweak != "" {
				derivation["taproot_tweak"] = tweak
			}
			derived := m.must(logical.UpdateOperation, "accounts/"+c.name+"/derive", derivation)
			key = derived["public_key_hex"]
			if c.prefix == "" && !sameJSON(t, derived["addresses"], answer["addresses"]) {
				t.Errorf("%+v: derive/ has %v, addresses %v", c, derived["addresses"], answer["addresses"])
			}
			derivation["input"] = "aGVsbG8="
			if signed := m.must(logical.UpdateOperation, "sign/"+c.name, derivation); signed["public_key"] != key {
				t.Errorf("%+v: signed by %v", c, signed["public_key"])
			}
		}
		if answer["public_key_hex"] != key {
			t.Errorf("%+v: key %v, want %v", c, answer["public_key_hex"], key)
		}
		want, err := address.All(algorithms[c.name], unhexed(t, key.(string)), prefix)
		if err != nil || !sameJSON(t, answer["addresses"], want) {
			t.Errorf("%+v: %v, want %v (%v)", c, answer["addresses"], want, err)
		}
		if got := slices.Sorted(maps.Keys(want)); !slices.Equal(got, kinds[c.name]) {
			t.Errorf("%+v: kinds %v", c, got)
		}
		if c == (struct{ name, path, tweak, prefix string }{name: c.name}) {
			if read := m.must(logical.ReadOperation, "accounts/"+c.name, nil); !sameJSON(t, read["addresses"], answer["addresses"]) {
				t.Errorf("%s: the account has %v", c.name, read["addresses"])
			}
		}
	}
	if read := m.must(logical.ReadOperation, "accounts/dave", nil); read["addresses"] != nil {
		t.Errorf("P-256: %v", read["addresses"])
	}
}

// TestNoAddressOfAnUntweakedKey: not even where no tweak was asked for.
func TestNoAddressOfAnUntweakedKey(t *testing.T) {
	m := configured(t)
	created := m.create("alice", "bip340-secp256k1")
	own, err := address.BitcoinP2TR(address.Mainnet, unhexed(t, created["public_key_hex"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range []map[string]any{
		created,
		m.must(logical.ReadOperation, "accounts/alice", nil),
		m.must(logical.ReadOperation, "accounts/alice/addresses", nil),
		m.must(logical.UpdateOperation, "accounts/alice/derive", nil),
	} {
		text, err := json.Marshal(answer)
		if err != nil || !strings.Contains(string(text), `"bitcoin_p2tr":"bc1p`) || strings.Contains(string(text), own) {
			t.Errorf("%s %v", text, err)
		}
	}
}

func sameJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return string(x) == string(y)
}

func TestAddressesBadInput(t *testing.T) {
	m := configured(t)
	fourAccounts(m)
	for _, c := range []struct{ name, field, value, text string }{
		{"bob", "derivation_path", "m/44'/0", "step 1 is hardened"},
		{"bob", "taproot_tweak", "bip86", "is for bip340-secp256k1"},
		{"alice", "taproot_tweak", "0b", "64 hex digits"},
		{"carol", "derivation_path", "m/0", "ed25519 keys have no child keys"},
		{"carol", "taproot_tweak", "bip86", "ed25519 keys have no child keys"},
		{"dave", "derivation_path", "m", "ecdsa-p256 keys have no addresses"},
		{"alice", "cosmos_prefix", "cosmos", "is for ecdsa-secp256k1 accounts"},
		{"carol", "cosmos_prefix", "cosmos", "is for ecdsa-secp256k1 accounts"},
		{"bob", "cosmos_prefix", "", "1 to 51 characters"},
		{"bob", "cosmos_prefix", "Cosmos", "lower-case"},
		{"bob", "cosmos_prefix", strings.Repeat("a", 52), "1 to 51 characters"},
		{"bob", "path", "m/0", "the fields are cosmos_prefix, derivation_path, taproot_tweak"},
	} {
		for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation} {
			m.fails(op, "accounts/"+c.name+"/addresses", map[string]any{c.field: c.value}, 400, c.text)
		}
	}
	m.fails(logical.ReadOperation, "accounts/dave/addresses", nil, 400, "ecdsa-p256 keys have no addresses")
	m.fails(logical.ReadOperation, "accounts/nobody/addresses", nil, 404, "no account")
	m.fails(logical.ReadOperation, "accounts/.x/addresses", nil, 400, "not an account name")
}

func TestJWK(t *testing.T) {
	m := configured(t)
	fourAccounts(m)
	for _, c := range []struct {
		name, path string
		algorithm  mpc.Algorithm
		alg        string
	}{
		{"bob", "", mpc.ECDSASecp256k1, "ES256K"},
		{"bob", "m/0/7", mpc.ECDSASecp256k1, "ES256K"},
		{"carol", "", mpc.Ed25519, "EdDSA"},
		{"dave", "", mpc.ECDSAP256, "ES256"},
	} {
		fields, path := map[string]any{}, "m"
		key := m.must(logical.ReadOperation, "accounts/"+c.name, nil)["public_key_hex"].(string)
		if c.path != "" {
			fields["derivation_path"], path = c.path, c.path
			key = m.must(logical.UpdateOperation, "accounts/"+c.name+"/derive", fields)["public_key_hex"].(string)
		}
		want, err := jwk.New(c.algorithm, unhexed(t, key))
		if err != nil {
			t.Fatal(err)
		}
		answer := m.must(logical.ReadOperation, "accounts/"+c.name+"/jwk", fields)
		if !sameJSON(t, answer["jwk"], want) || answer["jwk_json"] != want.JSON() || answer["derivation_path"] != path || want["alg"] != c.alg {
			t.Errorf("%+v: %v, want %v", c, answer, want)
		}
	}
	m.fails(logical.ReadOperation, "accounts/alice/jwk", nil, 400, "bip340-secp256k1 keys have no JSON Web Key")
	m.fails(logical.ReadOperation, "accounts/dave/jwk", map[string]any{"derivation_path": "m/0"}, 400, "ecdsa-p256 keys have no child keys")
	m.fails(logical.ReadOperation, "accounts/bob/jwk", map[string]any{"derivation_path": "m/0'"}, 400, "hardened")
	m.fails(logical.ReadOperation, "accounts/bob/jwk", map[string]any{"path": "m/0"}, 400, "the fields are derivation_path")
	m.fails(logical.ReadOperation, "accounts/nobody/jwk", nil, 404, "no account")
}

// TestKeyFormsNeedNoNode: addresses and JWK are arithmetic on public data.
func TestKeyFormsNeedNoNode(t *testing.T) {
	fake, storage := newFake(t), &logical.InmemStorage{}
	m := open(t, storage, fake)
	configure(m)
	m.create("bob", "ecdsa-secp256k1")
	fake.applied = nil
	m = open(t, storage, fake)
	m.must(logical.ReadOperation, "accounts/bob/addresses", nil)
	m.must(logical.ReadOperation, "accounts/bob/jwk", nil)
	if len(fake.applied) != 0 {
		t.Error("nodes were started")
	}
}
