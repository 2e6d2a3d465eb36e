package backend

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// maxProviders bounds how many third parties there are.
const maxProviders = 32

func (b *backend) pathConfigOIDC() []*framework.Path {
	answer := map[string]*framework.FieldSchema{
		"name":          field(framework.TypeString, "Name of the provider."),
		"issuer":        field(framework.TypeString, "Its issuer URL."),
		"client_id":     field(framework.TypeString, "The client's ID there."),
		"client_secret": field(framework.TypeString, "The client's secret there, which is not confidential; empty for most."),
		"ca_pem":        field(framework.TypeString, "Certificates that its server is checked by; empty for those of this host."),
		"scopes":        field(framework.TypeStringSlice, "Scopes that are asked for."),
	}
	write := b.handle("config/identities/oidc", 0, b.configOIDCWrite)
	return []*framework.Path{{
		Pattern: "config/identities/oidc/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "oidc-providers",
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: b.operation("List the third parties that authenticate people.", false, b.handle("config/identities/oidc", 0, b.configOIDCList), map[string]*framework.FieldSchema{
				"keys": optional(framework.TypeStringSlice, "Names of the providers, in order."),
			}),
		},
		HelpSynopsis: "Third parties whose accounts people log in with.",
		HelpDescription: `
Lists the OpenID Connect providers:

  $ vault list mpc/config/identities/oidc
`,
	}, {
		Pattern: "config/identities/oidc/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "oidc-provider",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":          pathField("Provider", "provider"),
			"issuer":        textField("Issuer", "Issuer URL, as in the provider's configuration at ISSUER/.well-known/openid-configuration. https, or http on this host."),
			"client_id":     textField("Client ID", "ID of the client that was registered there: a native application that uses PKCE, with the redirect URI http://127.0.0.1/callback."),
			"client_secret": textField("Client secret", "Only where the provider wants one of native applications. It is not confidential then (RFC 8252, 8.5): whoever begins a login gets it, as he would with the program. Empty for none."),
			"ca_pem":        textField("CA certificates", "Certificates in PEM that the provider's server is checked by, instead of those of Vault's host; empty for these."),
			"scopes": {
				Type: framework.TypeCommaStringSlice, Description: "Scopes to ask for beside openid; none is needed.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Scopes"},
			},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, data *framework.FieldData) (bool, error) {
			r, err := b.store.identitiesConfig(ctx)
			if err != nil {
				return false, err
			}
			_, ok := r.OIDC[data.Get("name").(string)]
			return ok, nil
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Add a third party.", true, write, answer),
			logical.UpdateOperation: b.operation("Change a third party.", true, write, answer),
			logical.ReadOperation:   b.operation("Read a third party.", false, b.handle("config/identities/oidc", 0, b.configOIDCRead), answer),
			logical.DeleteOperation: b.noContent("Remove a third party.", b.handle("config/identities/oidc", 0, b.configOIDCDelete)),
		},
		HelpSynopsis: "A third party whose accounts people log in with.",
		HelpDescription: `
Adds a provider, here Vault itself:

  $ vault write mpc/config/identities/oidc/corp issuer=$VAULT_ADDR/v1/identity/oidc/provider/default client_id=0123456789abcdef

Fields that are left out keep their value. An ID token is accepted with this issuer,
for this client, signed, in its time, with the nonce of the login, and for the account
that the authenticator was made with. Changing issuer or client ends the logins of
all authenticators of this provider, and so does removing it:

  $ vault delete mpc/config/identities/oidc/corp

The answer warns where the provider cannot be reached from Vault's host.
`,
	}}
}

func (b *backend) configOIDCList(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.identitiesConfig(ctx)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(slices.Sorted(maps.Keys(r.OIDC))), nil
}

func oidcAnswer(name string, p oidcProviderRecord) *logical.Response {
	return &logical.Response{Data: map[string]any{
		"name": name, "issuer": p.Issuer, "client_id": p.ClientID, "client_secret": p.ClientSecret, "ca_pem": p.CAPEM, "scopes": p.scopes(),
	}}
}

func errUnknownProvider(name string) error {
	return unknown("there is no provider %q: list config/identities/oidc for those there are", name)
}

func (b *backend) configOIDCRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "provider")
	if err != nil {
		return nil, err
	}
	r, err := b.store.identitiesConfig(ctx)
	if err != nil {
		return nil, err
	}
	p, ok := r.OIDC[name]
	if !ok {
		return nil, errUnknownProvider(name)
	}
	return oidcAnswer(name, p), nil
}

func (b *backend) configOIDCWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "provider")
	if err != nil {
		return nil, err
	}
	var p oidcProviderRecord
	_, err = b.changeIdentitiesConfig(ctx, func(r *identitiesConfigRecord) error {
		p = r.OIDC[name]
		if err := takeProvider(&p, data); err != nil {
			return err
		}
		if _, ok := r.OIDC[name]; !ok && len(r.OIDC) >= maxProviders {
			return conflict("there are %d providers, and no more are kept: remove one", len(r.OIDC))
		}
		if r.OIDC == nil {
			r.OIDC = map[string]oidcProviderRecord{}
		}
		r.OIDC[name] = p
		return nil
	})
	if err != nil {
		return nil, err
	}
	b.providers.forget(name)
	resp := oidcAnswer(name, p)
	// It is stored either way: the provider may not be up yet.
	ctx, cancel := context.WithTimeout(ctx, providerCheckTimeout)
	defer cancel()
	if _, err := b.providers.provider(ctx, name, p); err != nil {
		resp.AddWarning("the provider is stored, but its configuration could not be read from here, and logins with it fail as long as that is so: " + clip(err.Error()))
	}
	return resp, nil
}

func takeProvider(p *oidcProviderRecord, data *framework.FieldData) error {
	for field, into := range map[string]*string{"issuer": &p.Issuer, "client_id": &p.ClientID, "client_secret": &p.ClientSecret, "ca_pem": &p.CAPEM} {
		if v, ok := data.GetOk(field); ok {
			*into = v.(string)
		}
	}
	if v, ok := data.GetOk("scopes"); ok {
		p.Scopes = v.([]string)
	}
	if p.Issuer == "" || p.ClientID == "" {
		return invalid("issuer and client_id are needed")
	}
	if err := checkWebURL("issuer", p.Issuer); err != nil {
		return err
	}
	if strings.Contains(p.Issuer, "?") {
		return invalid("issuer is a URL without a query")
	}
	if len(p.ClientID) > 512 || len(p.ClientSecret) > 512 || !printable(p.ClientID) || !printable(p.ClientSecret) {
		return invalid("client_id and client_secret must be printable and at most 512 bytes each")
	}
	if len(p.Scopes) > 16 || slices.ContainsFunc(p.Scopes, func(s string) bool {
		return s == "" || len(s) > 128 || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
	}) {
		return invalid("scopes are at most 16 words of ASCII without spaces")
	}
	return checkCertificates(p.CAPEM)
}

func checkCertificates(text string) error {
	if len(text) > 64<<10 {
		return invalid("ca_pem has more than 64 KiB")
	}
	for rest := []byte(text); len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return invalid("ca_pem must have certificates in PEM and nothing else")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return invalid("ca_pem has a certificate that cannot be read")
		}
	}
	return nil
}

func (b *backend) configOIDCDelete(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "provider")
	if err != nil {
		return nil, err
	}
	_, err = b.changeIdentitiesConfig(ctx, func(r *identitiesConfigRecord) error {
		delete(r.OIDC, name)
		return nil
	})
	b.providers.forget(name)
	return nil, err
}
