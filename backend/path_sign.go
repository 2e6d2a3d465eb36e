package backend

import (
	"context"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathSign() []*framework.Path {
	fields := signFields()
	maps.Copy(fields, batchFields())
	fields["name"] = nameField()
	fields["request_id"] = requestIDField()
	fields["request"] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Of an account with an approval policy: ID of a request of yours, of the same message, that was made before. One that was held goes on.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Request"},
	}
	return []*framework.Path{{
		Pattern: "sign/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "sign",
		},
		Fields: fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			// The deadline depends on the account's algorithm: b.sign sets a
			// shorter one where it can.
			logical.UpdateOperation: b.operation("Sign.", true, b.handle("sign", maxSessionTimeout, b.sign), signOrRequestFields()),
		},
		HelpSynopsis:    "Sign with an account's threshold key.",
		HelpDescription: strings.TrimLeft(signHelp, "\n"),
	}}
}

// signAnswerFields describes the answer to a signing request.
func signAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"signature":        optional(framework.TypeString, "The signature in base64, with signature_format=jws in base64url without padding."),
		"signature_hex":    optional(framework.TypeString, "The bytes of signature in hex."),
		"signature_format": optional(framework.TypeString, "der, compact, ethereum or jws: how those bytes encode it. With ECDSA s is always in the lower half."),
		"r":                optional(framework.TypeString, "First half, 32 bytes in hex."),
		"s":                optional(framework.TypeString, "Second half, 32 bytes in hex."),
		"v":                optional(framework.TypeInt, "Recovery ID 0 to 3, ECDSA only."),
		"digest":           optional(framework.TypeString, "The 32 bytes that were signed, in hex: with ECDSA, and with message_type=digest."),
		"public_key":       optional(framework.TypeString, "Public key that the signature is valid under, in hex: the child's where one was asked for."),
		"derivation_path":  optional(framework.TypeString, "The path that was asked for, if one was."),
		"taproot_tweak":    optional(framework.TypeString, "The tweak that was asked for, if one was."),
		"share_epoch":      optional(framework.TypeInt64, "Share epoch that signed."),
		"signers":          optional(framework.TypeSlice, "Share index and node of each signer."),
		"session_id":       optional(framework.TypeString, "ID of the protocol session, in hex."),
		"attempts":         optional(framework.TypeInt, "Sessions that were needed."),
		"presigned":        optional(framework.TypeBool, "Whether a presignature was used, ECDSA only."),
		"request_id":       optional(framework.TypeString, "The request_id, if one was given."),
		"replayed":         optional(framework.TypeBool, "With request_id: whether this is the stored answer of an earlier request, and nothing was signed now."),
		"batch_results":    optional(framework.TypeSlice, "Of a request with batch_input, and then the only field: for each item, in order, the fields of a single answer, or error and error_status; and its reference."),
	}
}

// signOrRequestFields describes the answer to sign/:name: a signature, or of an
// account with an approval policy a request.
func signOrRequestFields() map[string]*framework.FieldSchema {
	out := signAnswerFields()
	for name, f := range requestAnswerFields() {
		if out[name] != nil {
			continue
		}
		either := *f
		either.Required = false
		either.Description = "Of an account with an approval policy: " + strings.ToLower(f.Description[:1]) + f.Description[1:]
		out[name] = &either
	}
	out["digest"].Description += " Of a request: SHA-256 of the input."
	return out
}

const signHelp = `
Lets t nodes sign together:

  $ vault write mpc/sign/alice input=$(printf hello | base64)
  $ vault write mpc/sign/bob input=$(printf hello | base64) hash_algorithm=keccak-256
  $ vault write mpc/sign/bob message_type=digest input=$(printf hello | openssl dgst -sha256 -binary | base64)
  $ vault write mpc/sign/bob message_type=eip191 input=$(printf hello | base64) signature_format=ethereum
  $ vault write mpc/sign/bob input=$(printf hello | base64) derivation_path=m/0/7

message_type=eip712 takes the JSON of eth_signTypedData_v4, from a file with
base64 -w0:

  $ vault write mpc/sign/bob message_type=eip712 input=$(printf '{"types":{"EIP712Domain":[{"name":"name","type":"string"}],"Mail":[{"name":"text","type":"string"}]},"primaryType":"Mail","domain":{"name":"example"},"message":{"text":"hello"}}' | base64 -w0)

With derivation_path or taproot_tweak the child's key signs; see
mpc/accounts/:name/derive. signature_format chooses the encoding: der, compact
(r and s, 64 bytes), ethereum (r, s and v, 65 bytes, v 27 or 28) or jws
(base64url of 64 bytes):

  $ vault write mpc/sign/bob input=$(printf hello | base64) signature_format=jws

A request with a request_id may be repeated for 24 hours, also after a failover,
and has the same answer each time; with another payload it is refused (409). Use
it where signing twice would do harm, or where a repetition must not cost a
second signature:

  $ vault write mpc/sign/alice input=$(printf hello | base64) request_id=order-4711

Of an account with an approval policy nothing is signed yet: the answer is a request
that its approvers have to approve, see mpc/requests. Who asks is the token's Vault
entity, so a token without one may not ask. A repetition with the same request_id
has the same request again, and its result once it is signed:

  $ vault write mpc/sign/treasury input=$(printf hello | base64) request_id=order-4712

Approved while the account is frozen, a request is held: it signs nothing by itself
when that ends. Whoever asked sends the same again, with its request_id, or naming
the request:

  $ vault write mpc/sign/treasury input=$(printf hello | base64) request=0a1b2c3d4e5f60718293a4b5c6d7e8f9

batch_input takes up to 128 items, which are signed side by side; fields given
beside it are the defaults of all items:

  $ vault write mpc/sign/alice batch_input='[{"input":"aGVsbG8=","reference":"a"},{"input":"d29ybGQ=","reference":"b"}]'
  $ vault write mpc/sign/bob hash_algorithm=keccak-256 batch_input='[{"input":"aGVsbG8="},{"input":"d29ybGQ=","derivation_path":"m/0/7"}]'

Each item has its result or an error of its own. The status is 200 if all went
well; if some items failed it is partial_failure_response_code, where that was
given and at least one item went well; else 400 if an item has to be mended (its
error_status is 4xx other than 429), and otherwise the highest error_status. The
body has batch_results in each case.

When a node fails, others take its place within the request's time limit (5 s;
session_timeout of config/nodes for ECDSA), which a batch has as a whole.
`

func (b *backend) sign(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	v, a, timeout, err := b.readSignable(ctx, name)
	if err != nil {
		return nil, err
	}
	if demandsApprovals(&a.Record) {
		return b.openSign(ctx, req, data, name, v)
	}
	if err := needsOwner(name, v.custody); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	record := &v.account.Record
	if data.Get("request").(string) != "" {
		return nil, invalid("account %q has no approval policy: leave request out", name)
	}
	if isBatch(data) {
		return b.signBatch(ctx, req, data, name, record)
	}
	q, err := parseSigning(record, data)
	if err != nil {
		return nil, err
	}
	answer, err := b.signOnce(ctx, name, q)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: answer, Warnings: append(q.warnings, batchFieldsIgnored(data)...)}, nil
}
