package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
)

// csrFields are those of the subject and its other names, and the template.
func csrFields() map[string]*framework.FieldSchema {
	f := func(t framework.FieldType, name, description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: t, Description: description, DisplayAttrs: &framework.DisplayAttributes{Name: name}}
	}
	return map[string]*framework.FieldSchema{
		"name":                nameField(),
		"common_name":         f(framework.TypeString, "Common name", "Common name (CN) of the subject, up to 64 characters. Servers are checked by alt_names: it is not added there."),
		"organization":        f(framework.TypeStringSlice, "Organization", "Organization (O), up to 64 characters; a list for several. A comma does not separate."),
		"organizational_unit": f(framework.TypeStringSlice, "Organizational unit", "Organizational unit (OU), up to 64 characters; a list for several."),
		"country":             f(framework.TypeStringSlice, "Country", "Country (C) as two capital letters of ISO 3166, as in DE; a list for several."),
		"locality":            f(framework.TypeStringSlice, "Locality", "Locality (L), up to 128 characters; a list for several."),
		"province":            f(framework.TypeStringSlice, "Province", "State or province (ST), up to 128 characters; a list for several."),
		"alt_names":           f(framework.TypeCommaStringSlice, "Alternative names", "DNS names and e-mail addresses, as a list or separated by commas. A first label * is allowed."),
		"ip_sans":             f(framework.TypeCommaStringSlice, "IP addresses", "IP addresses, as a list or separated by commas."),
		"uri_sans":            f(framework.TypeCommaStringSlice, "URIs", "URIs with a scheme, as in spiffe://example.org/web, as a list or separated by commas."),
		"csr":                 f(framework.TypeString, "Template", "A certificate request in PEM, up to 64 KiB, as a template in place of all other fields: subject and requested extensions are taken over, its key and signature are not."),
	}
}

func (b *backend) pathCSR() []*framework.Path {
	return []*framework.Path{{
		Pattern: "accounts/" + namePattern + "/csr$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "request", OperationSuffix: "account-certificate",
		},
		Fields: csrFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			// As with sign, b.csr sets a shorter deadline where it can.
			logical.UpdateOperation: b.operation("Make a certificate request for an account's key.", true, b.handle("accounts/csr", maxSessionTimeout, b.csr), map[string]*framework.FieldSchema{
				"csr":         field(framework.TypeString, "The certificate request in PEM (PKCS #10, RFC 2986), signed by the account."),
				"public_key":  field(framework.TypeString, "The account's public key as PEM SubjectPublicKeyInfo, as it is in the request."),
				"share_epoch": field(framework.TypeInt64, "Share epoch that signed."),
				"session_id":  field(framework.TypeString, "ID of the protocol session, in hex."),
			}),
		},
		HelpSynopsis: "A certificate request (CSR) for an account's key.",
		HelpDescription: `
Lets t nodes sign a certificate request for the account's key; for ecdsa-p256
and ed25519:

  $ vault write mpc/accounts/web/csr common_name=www.example.com alt_names=www.example.com,example.com organization="Example, Inc." country=US
  $ vault write -field=csr mpc/accounts/web/csr common_name=www.example.com > web.csr

There must be a common name or one name in alt_names, ip_sans or uri_sans. A CA
makes the certificate from the request, for example Vault's own pki engine.

With csr the subject and the requested extensions of an existing request are
taken over as they are, among them the alternative names:

  $ vault write mpc/accounts/web/csr csr=@template.csr

Its key is replaced, so its signature is not looked at. A subject key
identifier is left out, since it names that key, and so are attributes other
than extensions, such as a challenge password; the answer warns of both.

Requests are signed with ECDSA and SHA-256, or Ed25519.
`,
	}}
}

func (b *backend) csr(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	if v, err := b.needSignable(ctx, name); err == nil && demandsApprovals(&v.account.Record) {
		return nil, conflict("account %q has an approval policy, and a certificate request is put together here: its approvers could not see what they sign. Nothing was signed; put it together yourself and have its certificationRequestInfo signed with <mount>/sign/%s", name, name)
	}
	v, a, timeout, err := b.readForSigning(ctx, name)
	if err != nil {
		return nil, err
	}
	record := &a.Record
	m := message{kind: mpc.MessageRaw}
	// Nodes hash what they sign, and presignatures may serve, as the message is
	// raw.
	switch record.Algorithm {
	case mpc.ECDSAP256:
		m.hash = mpc.HashSHA256
	case mpc.Ed25519:
		m.hash = mpc.HashNone
	default:
		return nil, invalid("%s keys have no certificate requests: CAs do not take them. Use an account with %s or %s", record.Algorithm, mpc.ECDSAP256, mpc.Ed25519)
	}
	template, warnings, err := parseCSRFields(data)
	if err != nil {
		return nil, err
	}
	if err := tryCSR(template); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	public, err := publicKey(record.Algorithm, record.PublicKey)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	text, err := makeCSR(template, &csrSigner{public: public, sign: func(tbs []byte) ([]byte, error) {
		m.input = tbs
		res, used, err := b.signAccount(ctx, eng, name, v.unsettled, a, &m)
		if err != nil {
			return nil, err
		}
		out["share_epoch"], out["session_id"] = used.Record.Epoch, res.SessionID.String()
		return res.Signature.Bytes, nil
	}})
	if err != nil {
		return nil, err
	}
	out["csr"] = text
	if out["public_key"], err = publicKeyPEM(record.Algorithm, record.PublicKey); err != nil {
		return nil, err
	}
	return &logical.Response{Data: out, Warnings: warnings}, nil
}
