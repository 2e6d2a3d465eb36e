package backend

import (
	"context"
	"encoding/base64"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// identityNames says how identities, authenticators and assets are called.
const identityNames = "1 to 64 lower-case letters, digits, dots, dashes and underscores, with a letter or digit at both ends"

// pathField is a name in a path.
func pathField(title, of string) *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Name of the " + of + ": " + identityNames + ".",
		DisplayAttrs: &framework.DisplayAttributes{Name: title, Identifier: true},
	}
}

// pathText reads such a name.
func pathText(data *framework.FieldData, field, of string) (string, error) {
	name, _ := data.Get(field).(string)
	if identity.CheckName(of, name) != nil {
		return "", invalid("%q cannot be the name of an %s: use %s", clip(name), of, identityNames)
	}
	return name, nil
}

func bytesField(title, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: description, DisplayAttrs: &framework.DisplayAttributes{Name: title}}
}

// decoded reads a base64 field of 1 to limit bytes. Its errors do not repeat it.
func decoded(data *framework.FieldData, field string, limit int) ([]byte, error) {
	text, _ := data.Get(field).(string)
	if text == "" {
		return nil, invalid("%s is missing", field)
	}
	if len(text) > base64.StdEncoding.EncodedLen(limit) {
		return nil, invalid("%s has more than %d bytes", field, limit)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) == 0 || len(raw) > limit {
		return nil, invalid("%s must be 1 to %d bytes in base64", field, limit)
	}
	return raw, nil
}

// ed25519Field is that of what clients sign.
func ed25519Field() *framework.FieldSchema {
	return bytesField("Signature", "Ed25519 signature over it, 64 bytes in base64.")
}

const ed25519Signature = 64 // bytes, Ed25519

func b64(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }

func identityAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name":          field(framework.TypeString, "Name of the identity."),
		"id":            field(framework.TypeString, "ID of the identity in hex: the hash of its first owner keys."),
		"kind":          field(framework.TypeString, "person, persona or organization."),
		"generation":    field(framework.TypeInt64, "Counts the manifests of the identity from 1."),
		"manifest":      field(framework.TypeString, "The newest manifest as its owner signed it, in base64: public keys and ciphertext only."),
		"signature":     field(framework.TypeString, "The owner's signature over it, in base64."),
		"state":         field(framework.TypeString, "active or frozen."),
		"frozen_time":   field(framework.TypeString, "Since when the identity is frozen; empty where it is not."),
		"frozen_reason": field(framework.TypeString, "Why, as far as somebody said."),
		"created_time":  field(framework.TypeString, "When the identity was stored first."),
		"roles":         field(framework.TypeSlice, "Roles in order: name, generation of the keys, and past, whether assets are still being moved to them."),
		"levels":        field(framework.TypeMap, "Access levels by name: roles, and server_trusting, whether authenticators may have the level that the server could open."),
		"grants":        field(framework.TypeSlice, "Who has which level: authenticator, id, kind, level, roles, server_trusting, custody, and state, active or lost."),
		"assets":        field(framework.TypeStringSlice, "Names of the assets, in order."),
		"reset_pending": field(framework.TypeBool, "Whether a role has new keys and its assets are still being moved to them."),
	}
}

func (b *backend) pathIdentities() []*framework.Path {
	write := b.handle("identities/write", 0, b.identityWrite)
	return []*framework.Path{{
		Pattern: "identities/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "identities", Navigation: true, ItemType: "Identity",
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: b.operation("List the identities.", false, b.handle("identities", 0, b.identitiesList), map[string]*framework.FieldSchema{
				"keys": optional(framework.TypeStringSlice, "Names of the identities, in order."),
			}),
		},
		HelpSynopsis: "The identities of this mount.",
		HelpDescription: `
Lists the digital identities of people, personas and organizations:

  $ vault list mpc/identities

Vault stores of an identity what its owner has encrypted and signed: it can open
none of it.
`,
	}, {
		Pattern: "identities/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "identity", ItemType: "Identity",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":      pathField("Identity", "identity"),
			"manifest":  bytesField("Manifest", "The manifest, in base64: roles, access levels and who has which. A client makes it (mpckms identity)."),
			"signature": ed25519Field(),
			"force": {
				Type:         framework.TypeBool,
				Description:  "Also take a manifest by which a role can be opened by nobody any more; default false.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Force", Value: false},
			},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, data *framework.FieldData) (bool, error) {
			name, err := pathText(data, "name", "identity")
			if err != nil {
				return false, nil // the handler says what is wrong
			}
			entry, err := b.store.s.Get(ctx, prefixIdentities+name)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Store a new identity.", true, write, identityAnswerFields()),
			logical.UpdateOperation: b.operation("Change an identity.", true, write, identityAnswerFields()),
			logical.ReadOperation:   b.operation("Read an identity.", false, b.handle("identities/read", 0, b.identityRead), identityAnswerFields()),
			logical.DeleteOperation: b.noContent("Delete an identity with its assets.", b.handle("identities/delete", scanTimeout, b.identityDelete)),
		},
		HelpSynopsis: "An identity: its roles, access levels, and which authenticator has which.",
		HelpDescription: `
Shows an identity:

  $ vault read mpc/identities/alice

Identities are made and changed by a client, which draws the keys and signs:

  $ mpckms identity create alice --kind person --authenticator alice-password

What it writes here is a manifest and the owner's signature, each in base64. A
change is the next generation, which names the hash of the one before; if two
clients change an identity at once, one of them is told to read it again. A role
that assets are for cannot be removed, and what would leave a role without anybody
who opens it needs force=true.

Deleting an identity deletes its assets, for good. It is refused while an account
needs a custody key of the identity, and while it is frozen:

  $ vault delete mpc/identities/alice
`,
	}}
}

// scanTimeout bounds requests that may have to read every account once.
const scanTimeout = requestTimeout * 6

func (b *backend) identitiesList(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := b.store.sorted(ctx, prefixIdentities)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *backend) identityRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := pathText(data, "name", "identity")
	if err != nil {
		return nil, err
	}
	r, m, err := b.needIdentity(ctx, name)
	if err != nil {
		return nil, err
	}
	return b.identityAnswer(ctx, r, m)
}

// identityAnswer is what is said about an identity: public facts and ciphertext.
func (b *backend) identityAnswer(ctx context.Context, r *identityRecord, m *identity.Manifest) (*logical.Response, error) {
	roles, pending := make([]map[string]any, len(m.Roles)), false
	for i, role := range m.Roles {
		roles[i] = map[string]any{"name": role.Name, "generation": int64(role.Generation), "past": role.Past != nil}
		pending = pending || role.Past != nil
	}
	levels := map[string]any{}
	for _, l := range m.Levels {
		levels[l.Name] = map[string]any{"roles": l.Roles, "server_trusting": l.ServerTrusting}
	}
	grants := make([]map[string]any, len(m.Grants))
	for i, g := range m.Grants {
		a, err := b.authenticatorFacts(ctx, g.Name)
		if err != nil {
			return nil, err
		}
		state := stateActive
		if a == nil || a.ID != g.Authenticator || a.Lost {
			state = stateLost
		}
		grants[i] = map[string]any{
			"authenticator": g.Name, "id": g.Authenticator.String(), "kind": string(g.Kind), "level": g.Level,
			"roles": m.Level(g.Level).Roles, "server_trusting": g.ServerTrusting, "custody": g.Custody, "state": string(state),
		}
	}
	assets, err := b.store.assetNames(ctx, m.Identity)
	if err != nil {
		return nil, err
	}
	out := map[string]any{
		"name": m.Name, "id": r.ID, "kind": string(m.Kind), "generation": int64(m.Generation),
		"manifest": b64(r.Signed.Manifest), "signature": b64(r.Signed.Signature),
		"created_time": rfc3339(r.Created), "roles": roles, "levels": levels, "grants": grants,
		"assets": append([]string{}, assets...), "reset_pending": pending,
	}
	out["state"], out["frozen_time"], out["frozen_reason"] = string(stateActive), "", ""
	if r.Frozen != nil {
		out["state"], out["frozen_time"], out["frozen_reason"] = string(stateFrozen), rfc3339(r.Frozen.Time), r.Frozen.Reason
	}
	return &logical.Response{Data: out}, nil
}
