package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/verify"
)

// maxSignature bounds a signature in bytes; DER has at most 72.
const maxSignature = 256

func (b *backend) pathVerify() []*framework.Path {
	fields := withDerivation(messageFields())
	fields["signature"] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "The signature in base64, as sign returns it.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Signature"},
	}
	return []*framework.Path{{
		Pattern: "verify/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "verify",
		},
		Fields: fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Verify a signature.", false, b.handle("verify", 0, b.verify), map[string]*framework.FieldSchema{
				"valid": field(framework.TypeBool, "Whether the signature is the account's on this input."),
			}),
		},
		HelpSynopsis: "Verify a signature of an account.",
		HelpDescription: `
Checks a signature from public data, without nodes or HSM:

  $ vault write mpc/verify/alice input=$(printf hello | base64) signature=…

Use the same message_type, hash_algorithm, derivation_path and taproot_tweak as
for signing. ECDSA signatures are strict DER with s in the lower half, the only
form that sign returns.
`,
	}}
}

func (b *backend) verify(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	v, err := b.needSignable(ctx, name)
	if err != nil {
		return nil, err
	}
	record := &v.account.Record
	m, err := parseMessage(record.Algorithm, data)
	if err != nil {
		return nil, err
	}
	sig, err := decodeBase64(data, "signature", maxSignature)
	if err != nil {
		return nil, err
	}
	valid, err := verify.MessageFor(record, parseDerivation(data), m.kind, m.hash, m.input, sig)
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: map[string]any{"valid": valid}}
	warn(resp, m.warning)
	return resp, nil
}
