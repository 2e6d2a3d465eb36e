package backend

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

func (b *backend) pathAuthenticatorRegister() []*framework.Path {
	return []*framework.Path{{
		Pattern: "authenticators/" + namePattern + "/register$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "register", OperationSuffix: "authenticator",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":          pathField("Authenticator", "authenticator"),
			"id":            {Type: framework.TypeString, Description: "The authenticator's ID, which its client has drawn: 32 hex digits.", DisplayAttrs: &framework.DisplayAttributes{Name: "ID"}},
			"kind":          {Type: framework.TypeString, Description: "password, key-file, certificate, device, oidc, phone or passkey; default password.", DisplayAttrs: &framework.DisplayAttributes{Name: "Kind", Value: string(identity.Password)}},
			"request":       bytesField("Request", "Registration request of OPAQUE (RFC 9807), 32 bytes in base64. Left out, a server part is made and nothing else."),
			"client_public": bytesField("Client's public key", "Kinds oidc and phone: X25519, 32 bytes in base64, which a new server part is sealed to. Left out, none is made."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Answer a client that registers an authenticator.", true, b.handle("authenticators/register", scanTimeout, b.authenticatorRegister), map[string]*framework.FieldSchema{
				"response":          optional(framework.TypeString, "Registration response of OPAQUE, 64 bytes in base64, to a request."),
				"server_public_key": field(framework.TypeString, "OPAQUE's public key of this mount, 32 bytes in base64."),
				"server_part":       optional(framework.TypeString, "Kinds oidc and phone: the new server part, wrapped, to be written back with the record."),
				"sealed_part":       optional(framework.TypeString, "The same, sealed to client_public."),
			}),
		},
		HelpSynopsis: "The server's half of registering an authenticator.",
		HelpDescription: `
Answers the first step of a client that creates an authenticator:

  $ mpckms authenticator create alice-password --kind password

Nothing is stored here. The client blinds what the user authenticates with, a node
answers with the mount's identity keys, and the client makes of that what it writes
to mpc/authenticators/NAME. Neither Vault nor the node learns the secret. Of kinds
oidc and phone a part of the secret is drawn in a node and kept here, wrapped; the
client asks for it first (client_public without request), since it goes into what
is registered.

An ID is answered for only as long as no authenticator has it: for one that is
registered the answers would let secrets be guessed without login's limits. Only a
session of the authenticator itself gets one, to change its secret (mpckms
authenticator change).
`,
	}}
}

// authenticatorRegister stores nothing.
func (b *backend) authenticatorRegister(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "authenticator")
	if err != nil {
		return nil, err
	}
	id, err := identity.ParseID(data.Get("id").(string))
	if err != nil {
		return nil, invalid("id must be 32 lower-case hex digits that are not all zero")
	}
	kind := identity.Password
	if v, ok := data.GetOk("kind"); ok {
		kind = identity.Method(v.(string))
	}
	_, asks := data.GetOk("request")
	_, part := data.GetOk("client_public")
	switch {
	case !kind.Valid():
		return nil, invalid("kind %q is not one that authenticators have", clip(string(kind)))
	case part && !kind.HasServerPart():
		return nil, invalid("client_public is for authenticators of kind oidc and phone, of which the server keeps a part; this one is of kind %s", kind)
	case !asks && !part:
		return nil, invalid("request is missing")
	}
	if r, err := b.store.authenticator(ctx, name); err != nil {
		return nil, err
	} else if r != nil || sessionOf(ctx) != nil {
		if err := ownRegistration(ctx, r, name, id, kind, part); err != nil {
			return nil, err
		}
	} else if other, err := b.authenticatorByID(ctx, id); err != nil {
		return nil, err
	} else if other != "" {
		return nil, conflict("authenticator %q has the ID %s: draw a new one", other, id)
	}
	out := map[string]any{}
	if part {
		public, err := decoded(data, "client_public", 32)
		if err != nil {
			return nil, err
		}
		wrapped, sealed, err := b.makeServerPart(ctx, id, public)
		if err != nil {
			return nil, err
		}
		out["server_part"], out["sealed_part"] = b64(wrapped), b64(sealed)
	}
	if asks {
		request, err := decoded(data, "request", identity.RegistrationRequestSize)
		if err != nil {
			return nil, err
		}
		response, err := b.opaqueRegister(ctx, id, request)
		if err != nil {
			return nil, err
		}
		out["response"] = b64(response)
	}
	public, err := b.identityServerKey(ctx)
	if err != nil {
		return nil, err
	}
	out["server_public_key"] = b64(public)
	return &logical.Response{Data: out}, nil
}

// ownRegistration lets a session register for its own authenticator again, and
// nobody else for one that exists. A server part stays what it is.
func ownRegistration(ctx context.Context, r *authenticatorRecord, name string, id identity.ID, kind identity.Method, part bool) error {
	s := sessionOf(ctx)
	switch {
	case s == nil && r.ID == id.String():
		return errOwnSession(name)
	case s == nil:
		return conflict("there is an authenticator %q: nothing was changed; choose another name, or delete that one first", name)
	case r == nil || r.ID != s.authenticator.String():
		return errNoSession() // deleted since it was allowed
	case id != s.authenticator || kind != s.kind || part:
		return invalid("a session registers for the ID and the kind of its own authenticator, and its server part stays: nothing was changed")
	}
	return nil
}

// errOwnSession refuses a Vault token what only the owner of the secret may do.
func errOwnSession(name string) error {
	return forbidden("there is an authenticator %q, and no Vault token changes it: nothing was changed. Its secret is changed in a session of its own (mpckms authenticator change); for a new authenticator choose another name, or delete that one first", name)
}

// checkServerPart has a node open the part, so that nobody is locked out by one
// that is another's. What it seals is for nobody.
func (b *backend) checkServerPart(ctx context.Context, id identity.ID, wrapped []byte) error {
	nobody, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	_, err = b.releaseServerPart(ctx, id, wrapped, nobody.PublicKey().Bytes())
	var f *fault
	if errors.As(err, &f) && f.status == http.StatusBadRequest {
		return invalid("the server_part does not belong to this ID: nothing was created; register again (authenticators/NAME/register)")
	}
	return err
}
