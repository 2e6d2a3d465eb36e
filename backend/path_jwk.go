package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/jwk"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
)

func (b *backend) pathJWK() []*framework.Path {
	return []*framework.Path{{
		Pattern: "accounts/" + namePattern + "/jwk$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "account-jwk",
		},
		Fields: map[string]*framework.FieldSchema{
			"name": nameField(),
			"derivation_path": {
				Type:         framework.TypeString,
				Description:  "BIP-32 path of a child key, without hardened steps, as in m/0/7. Only for ecdsa-secp256k1; without it the account's own key is meant.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Derivation path"},
				Query:        true,
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.operation("Show an account's public key as a JSON Web Key.", false, b.handle("accounts/jwk", 0, b.accountJWK), map[string]*framework.FieldSchema{
				"jwk":             field(framework.TypeMap, "The members kty, crv, x, y (not for ed25519), alg, use and kid; kid is the thumbprint of RFC 7638."),
				"jwk_json":        field(framework.TypeString, "The same as JSON text, members sorted, without spaces: for one key always the same."),
				"derivation_path": field(framework.TypeString, "The path that was asked for; m for none."),
			}),
		},
		HelpSynopsis: "An account's public key as a JSON Web Key.",
		HelpDescription: `
Shows the public key as RFC 7517 has it, for who verifies JSON Web Signatures:

  $ vault read mpc/accounts/web/jwk
  $ vault read -field=jwk_json mpc/accounts/web/jwk
  $ vault read mpc/accounts/bob/jwk derivation_path=m/0/7

alg is ES256 for ecdsa-p256, ES256K (RFC 8812) for ecdsa-secp256k1 and EdDSA
(RFC 8037) for ed25519. bip340-secp256k1 keys have none. mpc/sign makes the
matching signatures with signature_format=jws and, for the two ECDSA
algorithms, hash_algorithm=sha2-256, its default.
`,
	}}
}

func (b *backend) accountJWK(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := onlyKnownFields(req, data); err != nil {
		return nil, err // a misspelt derivation_path would give another key
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
	if record.Algorithm == mpc.BIP340Secp256k1 {
		return nil, invalid("%s keys have no JSON Web Key: no standard names their signatures. %s, %s and %s keys do", record.Algorithm, mpc.ECDSAP256, mpc.ECDSASecp256k1, mpc.Ed25519)
	}
	path := data.Get("derivation_path").(string)
	child, err := derive.Derive(record, mpc.Derivation{Path: path})
	if err != nil {
		return nil, err
	}
	key, err := jwk.New(record.Algorithm, child.PublicKey)
	if err != nil {
		return nil, err
	}
	members := make(map[string]any, len(key)) // the type that Vault's answers have
	for member, text := range key {
		members[member] = text
	}
	if path == "" {
		path = "m"
	}
	return &logical.Response{Data: map[string]any{"jwk": members, "jwk_json": key.JSON(), "derivation_path": path}}, nil
}
