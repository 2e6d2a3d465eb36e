package backend

import (
	"context"
	"maps"
	"runtime"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/verify"
)

// maxSignature bounds a signature in bytes; DER has at most 72.
const maxSignature = 256

func signatureField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "The signature as sign returns it: in base64, with signature_format=jws in base64url without padding.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Signature"},
	}
}

func (b *backend) pathVerify() []*framework.Path {
	fields := signFields()
	maps.Copy(fields, batchFields())
	fields["name"] = nameField()
	fields["signature"] = signatureField()
	return []*framework.Path{{
		Pattern: "verify/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "verify",
		},
		Fields: fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Verify a signature.", false, b.handle("verify", 0, b.verify), map[string]*framework.FieldSchema{
				"valid":         optional(framework.TypeBool, "Whether the signature is the account's on this input. Not in the answer to a request with batch_input."),
				"batch_results": optional(framework.TypeSlice, "Of a request with batch_input, and then the only field: for each item, in order, valid, or error and error_status; and its reference."),
			}),
		},
		HelpSynopsis:    "Verify a signature of an account.",
		HelpDescription: strings.TrimLeft(verifyHelp, "\n"),
	}}
}

const verifyHelp = `
Checks a signature from public data, without nodes or HSM:

  $ vault write mpc/verify/alice input=$(printf hello | base64) signature=$(vault write -field=signature mpc/sign/alice input=$(printf hello | base64))

Use the same message_type, hash_algorithm, signature_format, derivation_path and
taproot_tweak as for signing; batch_input works as it does there:

  $ vault write mpc/verify/bob signature_format=jws batch_input='[{"input":"aGVsbG8=","signature":"'$(vault write -field=signature mpc/sign/bob input=aGVsbG8= signature_format=jws)'"}]'

Only what sign returns is valid. ECDSA signatures have s in the lower half, and
der is strict DER. With ethereum the last byte, v, must be 27 or 28 and recover
the account's key: 0 and 1 are not taken, nor are the v of transactions. A
warning says what is wrong with the form of a signature.
`

func (b *backend) verify(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	v, err := b.needSignable(ctx, name)
	if err != nil {
		return nil, err
	}
	record := &v.account.Record
	if isBatch(data) {
		return b.verifyBatch(ctx, req, data, record)
	}
	q, err := parseSigning(record, data)
	if err != nil {
		return nil, err
	}
	valid, err := verifyOne(record, q, data)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"valid": valid}, Warnings: append(q.warnings, batchFieldsIgnored(data)...)}, nil
}

func (b *backend) verifyBatch(ctx context.Context, req *logical.Request, data *framework.FieldData, record *mpc.PublicRecord) (*logical.Response, error) {
	batch, err := parseBatch(data, batchItemFields("signature", signatureField()))
	if err != nil {
		return nil, err
	}
	sideBySide(len(batch.items), runtime.GOMAXPROCS(0), func(i int) {
		it := batch.items[i]
		if it.err != nil {
			return
		}
		it.err = b.guard(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			q, err := parseSigning(record, it.data)
			if err != nil {
				return err
			}
			it.signing = q
			valid, err := verifyOne(record, q, it.data)
			it.answer = map[string]any{"valid": valid}
			return err
		})
	})
	return b.batchAnswer("verify", req, batch)
}

// verifyOne checks the field signature. Why a signature's form alone makes it
// invalid becomes a warning.
func verifyOne(record *mpc.PublicRecord, q *signing, data *framework.FieldData) (bool, error) {
	raw, err := q.format.parseText(data.Get("signature").(string))
	if err != nil {
		return false, err
	}
	sig, flaw := q.format.parse(record.Algorithm, raw)
	if sig == nil {
		q.warnings = append(q.warnings, flaw)
		return false, nil
	}
	valid, err := verify.MessageFor(record, q.derivation, q.kind, q.hash, q.input, sig.native)
	if err != nil || !valid || q.format != formatEthereum {
		return valid, err
	}
	digest, err := mpc.SigningInput(record.Algorithm, q.kind, q.hash, q.input)
	return verify.RecoversKey(record.Algorithm, q.publicKey, digest, sig.r, sig.s, sig.recoveryID), err
}
