package backend

import (
	"context"
	"encoding/hex"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/address"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
)

// addressesField is that of every answer with addresses in it.
const addressesField = "Addresses of the key by kind: ethereum, bitcoin_p2wpkh, bitcoin_p2wpkh_testnet and cosmos (ecdsa-secp256k1), " +
	"bitcoin_p2tr and bitcoin_p2tr_testnet (bip340-secp256k1), solana (ed25519)."

func (b *backend) pathAddresses() []*framework.Path {
	fields := derivationFields()
	fields["name"] = nameField()
	fields["taproot_tweak"].Description = "BIP-341 tweak of the key behind a bitcoin_p2tr address: bip86 for an output without scripts (default), or the Merkle root of its scripts as 64 hex digits. Only for bip340-secp256k1."
	fields["cosmos_prefix"] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Prefix of the chain for the cosmos address, as in cosmos, osmo or celestia: 1 to 51 lower-case letters and digits, beginning with a letter. Only for ecdsa-secp256k1; default cosmos.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Cosmos prefix", Value: address.CosmosPrefix},
	}
	for name, f := range fields {
		f.Query = name != "name"
	}
	answer := map[string]*framework.FieldSchema{
		"addresses":       field(framework.TypeMap, addressesField),
		"public_key_hex":  field(framework.TypeString, "The key that the addresses stand for, in hex; with bip340-secp256k1 the tweaked one."),
		"derivation_path": field(framework.TypeString, "The path that was asked for; m for none."),
		"taproot_tweak":   field(framework.TypeString, "The tweak to send with mpc/sign to sign for these addresses; empty where there is none."),
	}
	read := b.operation("Show the addresses of an account.", false, b.handle("accounts/addresses", 0, b.accountAddresses), answer)
	update := b.operation("Show the addresses of an account, or of a child of its key.", false, b.handle("accounts/addresses", 0, b.accountAddresses), answer)
	update.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "compute", OperationSuffix: "account-addresses"}
	return []*framework.Path{{
		Pattern: "accounts/" + namePattern + "/addresses$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "account-addresses",
		},
		Fields: fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   read,
			logical.UpdateOperation: update,
		},
		HelpSynopsis: "The addresses of an account on blockchains.",
		HelpDescription: `
Computes addresses from public data, without nodes or HSM:

  $ vault read mpc/accounts/bob/addresses
  $ vault write mpc/accounts/bob/addresses derivation_path=m/0/7 cosmos_prefix=osmo
  $ vault write mpc/accounts/alice/addresses derivation_path=m/0/7

ecdsa-secp256k1: ethereum (EIP-55, the same on chains that are like it),
bitcoin_p2wpkh (BIP-84 describes such wallets) and cosmos. Cosmos chains with
Ethereum's keys (Evmos, Injective) have other addresses. ed25519: solana.
ecdsa-p256 keys have none.

bip340-secp256k1: bitcoin_p2tr, always of a tweaked key. Without taproot_tweak
it is that of BIP-86, an output without scripts. To spend from it, sign with
the same derivation_path and with the taproot_tweak of the answer:

  $ vault write mpc/sign/alice message_type=digest input=$(printf hello | openssl dgst -sha256 -binary | base64) derivation_path=m/0/7 taproot_tweak=bip86

BIP-84 and BIP-86 wallets use hardened steps above these, which a threshold key
cannot take: use one account where they have one.
`,
	}}
}

func (b *backend) accountAddresses(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := onlyKnownFields(req, data); err != nil {
		return nil, err // a misspelt derivation_path would give the address of another key
	}
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	v, err := b.needSignable(ctx, name)
	if err != nil {
		return nil, err
	}
	record := &v.account.Record
	if !address.Any(record.Algorithm) {
		return nil, invalid("%s keys have no addresses: no chain here takes them. %s, %s and %s keys do", record.Algorithm, mpc.ECDSASecp256k1, mpc.BIP340Secp256k1, mpc.Ed25519)
	}
	prefix := address.CosmosPrefix
	if p, sent := data.GetOk("cosmos_prefix"); sent {
		if record.Algorithm != mpc.ECDSASecp256k1 {
			return nil, invalid("cosmos_prefix is for %s accounts, and this one is %s: leave it out", mpc.ECDSASecp256k1, record.Algorithm)
		}
		prefix = p.(string)
		if err := address.CheckCosmosPrefix(prefix); err != nil {
			return nil, invalid("cosmos_prefix %q: %v", clip(prefix), err)
		}
	}
	d := parseDerivation(data)
	addresses, child, d, err := addressesOf(record, d, prefix)
	if err != nil {
		return nil, err
	}
	if d.Path == "" {
		d.Path = "m"
	}
	return &logical.Response{Data: map[string]any{
		"addresses":       addresses,
		"public_key_hex":  hex.EncodeToString(child.PublicKey),
		"derivation_path": d.Path,
		"taproot_tweak":   d.TaprootTweak,
	}}, nil
}

// addressesOf returns the addresses of a child of the account's key, nil for an
// algorithm without any; the child; and the derivation with which signatures
// for the addresses are made. That of a BIP-340 key always has a tweak: paying
// to an untweaked key would leave it open whether it hides scripts (BIP-341).
func addressesOf(record *mpc.PublicRecord, d mpc.Derivation, cosmosPrefix string) (map[string]any, *derive.Child, mpc.Derivation, error) {
	if record.Algorithm == mpc.BIP340Secp256k1 && d.TaprootTweak == "" {
		d.TaprootTweak = derive.BIP86
	}
	child, err := derive.Derive(record, d)
	if err != nil || !address.Any(record.Algorithm) {
		return nil, child, d, err
	}
	all, err := address.All(record.Algorithm, child.PublicKey, cosmosPrefix)
	if err != nil {
		return nil, nil, d, err
	}
	out := make(map[string]any, len(all)) // the type that Vault's answers have
	for kind, text := range all {
		out[kind] = text
	}
	return out, child, d, nil
}

// addAddresses puts them into an answer about an account or a child of its key.
func addAddresses(answer map[string]any, record *mpc.PublicRecord, d mpc.Derivation) error {
	addresses, _, _, err := addressesOf(record, d, address.CosmosPrefix)
	if err == nil && addresses != nil {
		answer["addresses"] = addresses
	}
	return err
}
