package backend

import (
	"context"
	"encoding/hex"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
)

// derivationFields are the fields that name a child of an account's key.
func derivationFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"derivation_path": {
			Type:         framework.TypeString,
			Description:  "BIP-32 path of the child key, without hardened steps, as in m/0/7. Only for bip340-secp256k1 and ecdsa-secp256k1; without it the account's own key is meant.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Derivation path"},
		},
		"taproot_tweak": {
			Type:         framework.TypeString,
			Description:  "BIP-341 tweak of that key: bip86 for an output without scripts, or the Merkle root of its scripts as 64 hex digits. Only for bip340-secp256k1.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Taproot tweak"},
		},
	}
}

// parseDerivation reads those fields; derive.Derive says whether they are good.
func parseDerivation(data *framework.FieldData) mpc.Derivation {
	return mpc.Derivation{
		Path:         data.Get("derivation_path").(string),
		TaprootTweak: data.Get("taproot_tweak").(string),
	}
}

func (b *backend) pathDerive() []*framework.Path {
	fields := derivationFields()
	fields["name"] = nameField()
	return []*framework.Path{{
		Pattern: "accounts/" + namePattern + "/derive$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "derive", OperationSuffix: "child-key",
		},
		Fields: fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Show the public key of a child of an account's key.", false, b.handle("accounts/derive", 0, b.accountDerive), map[string]*framework.FieldSchema{
				"public_key":      field(framework.TypeString, "The child's public key as PEM SubjectPublicKeyInfo."),
				"public_key_hex":  field(framework.TypeString, "The child's public key in hex, encoded as the account's."),
				"chain_code":      field(framework.TypeString, "BIP-32 chain code at the end of the path, in hex."),
				"derivation_path": field(framework.TypeString, "The path that was asked for; m for none."),
				"taproot_tweak":   field(framework.TypeString, "The tweak that was asked for, empty for none."),
				"addresses":       field(framework.TypeMap, addressesField+" Those of bip340-secp256k1 are of the tweaked key; where no tweak was asked for, of that with taproot_tweak=bip86."),
			}),
		},
		HelpSynopsis: "The public key of a child of an account's key.",
		HelpDescription: `
Computes a child's public key from public data, without nodes or HSM:

  $ vault write mpc/accounts/bob/derive derivation_path=m/0/7
  $ vault write mpc/accounts/alice/derive derivation_path=m/0/7 taproot_tweak=bip86

mpc/sign/bob with the same fields signs with it. Steps are BIP-32 without
hardening: a hardened step needs the whole private key, which nobody has. The
answer is enough to derive further children anywhere. Children protect nothing
from each other: who gets one child's private key and the chain code has them
all, so no private key is ever given out.
`,
	}}
}

func (b *backend) accountDerive(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	v, err := b.needSignable(ctx, name)
	if err != nil {
		return nil, err
	}
	record := &v.account.Record
	if !record.Algorithm.Derives() {
		return nil, invalid("%s keys have no child keys: use an account of its own for each key, or one of %s or %s", record.Algorithm, mpc.BIP340Secp256k1, mpc.ECDSASecp256k1)
	}
	d := parseDerivation(data)
	child, err := derive.Derive(record, d)
	if err != nil {
		return nil, err
	}
	pemKey, err := publicKeyPEM(record.Algorithm, child.PublicKey)
	if err != nil {
		return nil, err
	}
	path := d.Path
	if path == "" {
		path = "m"
	}
	out := map[string]any{
		"public_key":      pemKey,
		"public_key_hex":  hex.EncodeToString(child.PublicKey),
		"chain_code":      hex.EncodeToString(child.ChainCode[:]),
		"derivation_path": path,
		"taproot_tweak":   d.TaprootTweak,
	}
	if err := addAddresses(out, record, d); err != nil {
		return nil, err
	}
	return &logical.Response{Data: out}, nil
}

// withDerivation adds the fields of a derivation to those of a message.
func withDerivation(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	maps.Copy(fields, derivationFields())
	return fields
}
