package backend

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

func authenticatorAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name":                 field(framework.TypeString, "Name of the authenticator."),
		"id":                   field(framework.TypeString, "Random ID in hex, which it logs in by."),
		"kind":                 field(framework.TypeString, "password, key-file, certificate, device, oidc, phone or passkey."),
		"server_trusting":      field(framework.TypeBool, "Whether the server alone could open what it opens: it keeps the only secret part."),
		"pin":                  field(framework.TypeBool, "Whether a PIN belongs to it."),
		"personal_information": field(framework.TypeString, "The question that is asked besides; empty for none."),
		"created_time":         field(framework.TypeString, "When its client made it, as far as that says."),
		"state":                field(framework.TypeString, "active or lost."),
		"lost_time":            field(framework.TypeString, "Since when it is reported lost; empty where it is not."),
		"lost_reason":          field(framework.TypeString, "Why, as far as somebody said."),
		"locked_until":         field(framework.TypeString, "Until when it takes no attempts after too many failures; empty where it is not locked."),
		"public":               field(framework.TypeMap, "Its public keys in base64: seal (X25519), which grants are sealed to, and sign (Ed25519)."),
		"certificate":          optional(framework.TypeString, "The certificate (DER, base64), of kind certificate."),
		"provider":             optional(framework.TypeString, "Name of the third party in config/identities, of kind oidc."),
		"identities":           field(framework.TypeSlice, "Identities that it is granted in: identity, id, level, roles and state."),
		"devices":              field(framework.TypeSlice, "Devices that were bound with it: id, identity, label, state, bound_time and revoked_time."),
	}
}

func (b *backend) pathAuthenticators() []*framework.Path {
	write := b.handle("authenticators/write", scanTimeout, b.authenticatorWrite)
	return []*framework.Path{{
		Pattern: "authenticators/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "authenticators", Navigation: true, ItemType: "Authenticator",
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: b.operation("List the authenticators.", false, b.handle("authenticators", 0, b.authenticatorsList), map[string]*framework.FieldSchema{
				"keys": optional(framework.TypeStringSlice, "Names of the authenticators, in order."),
			}),
		},
		HelpSynopsis: "What people authenticate with.",
		HelpDescription: `
Lists the authenticators of all users:

  $ vault list mpc/authenticators

An authenticator is something that a user has or knows already: a password, a key
file, a smart card, an account at a third party. It opens the identities that have
granted it a level (mpc/identities/NAME).
`,
	}, {
		Pattern: "authenticators/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "authenticator", ItemType: "Authenticator",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":          pathField("Authenticator", "authenticator"),
			"authenticator": bytesField("Authenticator record", "What the authenticator says about itself, in base64. A client makes it (mpckms authenticator create)."),
			"signature":     ed25519Field(),
			"registration":  bytesField("Registration", "Registration record of OPAQUE (RFC 9807), in base64."),
			"server_part":   bytesField("Server part", "Kinds oidc and phone: what authenticators/NAME/register returned as server_part, in base64."),
			"phone":         {Type: framework.TypeString, Description: "Kind phone: the number that codes go to, + and 7 to 15 digits. It is not shown again.", DisplayAttrs: &framework.DisplayAttributes{Name: "Phone"}},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, data *framework.FieldData) (bool, error) {
			name, err := pathText(data, "name", "authenticator")
			if err != nil {
				return false, nil // the handler says what is wrong
			}
			entry, err := b.store.s.Get(ctx, prefixAuthentic+name)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Store a new authenticator.", true, write, authenticatorAnswerFields()),
			logical.UpdateOperation: b.operation("Change an authenticator's secret, in a session of its own; with a Vault token: repeat the write that stored it.", true, write, authenticatorAnswerFields()),
			logical.ReadOperation:   b.operation("Read an authenticator.", false, b.handle("authenticators/read", scanTimeout, b.authenticatorRead), authenticatorAnswerFields()),
			logical.DeleteOperation: b.noContent("Delete an authenticator that no identity has granted anything.", b.handle("authenticators/delete", scanTimeout, b.authenticatorDelete)),
		},
		HelpSynopsis: "An authenticator: its public facts, what it opens, and the devices bound with it.",
		HelpDescription: `
Shows an authenticator:

  $ vault read mpc/authenticators/alice-password

A client creates it, in two steps: it registers (authenticators/NAME/register) and
then writes the record here. The password, file or PIN itself never comes to Vault:

  $ mpckms authenticator create alice-password --kind password

Its owner changes its secret in a session of the authenticator itself, for which the
old secret is needed; a Vault token cannot. ID, name, kind and keys stay, so that it
opens the same as before, and its other sessions end:

  $ mpckms authenticator change alice-password

Anything else is another authenticator: create it, grant it the same level, and remove
this one. It can be deleted once no identity grants it anything:

  $ vault delete mpc/authenticators/alice-password
`,
	}}
}

func (b *backend) authenticatorsList(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := b.store.sorted(ctx, prefixAuthentic)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *backend) authenticatorRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "authenticator")
	if err != nil {
		return nil, err
	}
	r, a, err := b.needAuthenticator(ctx, name)
	if err != nil {
		return nil, err
	}
	return b.authenticatorAnswer(ctx, r, a)
}

// authenticatorAnswer is what is said about an authenticator: no ciphertext, no
// registration, no telephone number.
func (b *backend) authenticatorAnswer(ctx context.Context, r *authenticatorRecord, a *identity.Authenticator) (*logical.Response, error) {
	granted, unreadable, err := b.grantedIn(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	identities := make([]map[string]any, len(granted))
	for i, g := range granted {
		state := stateActive
		if g.Frozen {
			state = stateFrozen
		}
		identities[i] = map[string]any{"identity": g.Name, "id": g.ID.String(), "level": g.Level, "roles": g.Roles, "state": string(state)}
	}
	devices := make([]map[string]any, len(r.Devices))
	for i, d := range r.Devices {
		devices[i] = deviceAnswer(r, d, granted)
	}
	lock, err := b.store.authenticatorLock(ctx, a.Name)
	if err != nil {
		return nil, err
	}
	until := time.Time{}
	if lock != nil && lock.Until.After(b.cfg.now()) {
		until = lock.Until
	}
	out := map[string]any{
		"name": a.Name, "id": r.ID, "kind": string(a.Method), "server_trusting": a.ServerTrusting(), "pin": a.PIN,
		"personal_information": a.PersonalInformation, "created_time": rfc3339(a.Created), "state": string(stateActive),
		"lost_time": "", "lost_reason": "", "locked_until": rfc3339(until),
		"public":     map[string]any{"seal": b64(a.Keys.Seal), "sign": b64(a.Keys.Sign)},
		"identities": identities, "devices": devices,
	}
	if r.Lost != nil {
		out["state"], out["lost_time"], out["lost_reason"] = string(stateLost), rfc3339(r.Lost.Time), r.Lost.Reason
	}
	if c := a.Parameters.Certificate; c != nil {
		out["certificate"] = b64(c.Certificate)
	}
	if o := a.Parameters.OIDC; o != nil {
		out["provider"] = o.Provider
	}
	resp := &logical.Response{Data: out}
	if len(unreadable) > 0 {
		resp.AddWarning("these identities cannot be read, so that it is not known whether it is granted in them: " + strings.Join(unreadable, ", "))
	}
	return resp, nil
}

// phoneNumber is E.164: a plus sign, no zero first, 7 to 15 digits.
var phoneNumber = regexp.MustCompile(`^\+[1-9][0-9]{6,14}$`) // read only
