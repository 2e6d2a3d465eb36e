package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// maxAssets bounds the assets of one identity: what the rules ask of all of them
// is answered within a request.
const maxAssets = 1000

func assetAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name":         field(framework.TypeString, "Name of the asset."),
		"id":           field(framework.TypeString, "Random ID of the asset, in hex."),
		"identity":     field(framework.TypeString, "Name of the identity."),
		"kind":         field(framework.TypeString, "secret, or account: it holds the custody key of a threshold account."),
		"generation":   field(framework.TypeInt64, "Counts the writes of the asset from 1."),
		"asset":        field(framework.TypeString, "The asset as a role of the identity signed it, in base64. Its values are encrypted."),
		"signature":    field(framework.TypeString, "That role's signature over it, in base64."),
		"roles":        field(framework.TypeStringSlice, "Roles that may use one of the keys, in order."),
		"keys":         field(framework.TypeMap, "Keys by name: generation, roles, and public (base64) where the value is a private key."),
		"account":      field(framework.TypeString, "ID of the account whose custody key it is; empty for secrets, and before there is an account."),
		"account_name": optional(framework.TypeString, "Of an asset with an account: the account's name; empty where it is gone."),
		"note":         field(framework.TypeString, "Text for people, not secret."),
		"stale":        field(framework.TypeBool, "Whether it is still under keys of a role that have been replaced."),
	}
}

func (b *backend) pathAssets() []*framework.Path {
	write := b.handle("identities/assets/write", scanTimeout, b.assetWrite)
	return []*framework.Path{{
		Pattern: "identities/" + namePattern + "/assets/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "assets", ItemType: "Asset",
		},
		Fields: map[string]*framework.FieldSchema{"name": pathField("Identity", "identity")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: b.operation("List the assets of an identity.", false, b.handle("identities/assets", 0, b.assetsList), map[string]*framework.FieldSchema{
				"keys":     optional(framework.TypeStringSlice, "Names of the assets, in order."),
				"key_info": optional(framework.TypeMap, "By name: kind, roles, generation, account and stale."),
			}),
		},
		HelpSynopsis: "The assets of an identity.",
		HelpDescription: `
Lists what an identity holds, without any of the secrets:

  $ vault list -detailed mpc/identities/alice/assets
`,
	}, {
		Pattern: "identities/" + namePattern + `/assets/(?P<asset_name>[^/]+)$`,
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "asset", ItemType: "Asset",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":       pathField("Identity", "identity"),
			"asset_name": pathField("Asset name", "asset"),
			"asset":      bytesField("Asset", "The asset, in base64. A client makes it (mpckms secret put)."),
			"signature":  ed25519Field(),
		},
		ExistenceCheck: b.exists(b.assetExists),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Store a new asset.", true, write, assetAnswerFields()),
			logical.UpdateOperation: b.operation("Change an asset.", true, write, assetAnswerFields()),
			logical.ReadOperation:   b.operation("Read an asset.", false, b.handle("identities/assets/read", 0, b.assetRead), assetAnswerFields()),
			logical.DeleteOperation: b.noContent("Delete an asset.", b.handle("identities/assets/delete", scanTimeout, b.assetDelete)),
		},
		HelpSynopsis: "An asset: secrets that roles of an identity open, or an account's custody key.",
		HelpDescription: `
Shows who may use an asset, and its ciphertext:

  $ vault read mpc/identities/alice/assets/mail

A client encrypts and signs what is written here:

  $ mpckms secret put alice/mail --file mail-password

The next write is of the next generation, and everything in it is sealed to the
present keys of its roles; if two clients write at once, one of them is told to
read it again. An asset that holds the custody key of an account can be neither
deleted nor written without that key while there is the account:

  $ vault delete mpc/identities/alice/assets/mail
`,
	}}
}

// assetPath reads both names.
func assetPath(data *framework.FieldData) (owner, name string, err error) {
	if owner, err = pathText(data, "name", "identity"); err != nil {
		return "", "", err
	}
	name, err = pathText(data, "asset_name", "asset")
	return owner, name, err
}

func (b *backend) assetExists(ctx context.Context, data *framework.FieldData) (bool, error) {
	owner, name, err := assetPath(data)
	if err != nil {
		return false, nil // the handler says what is wrong
	}
	f, err := b.identityFacts(ctx, owner)
	if err != nil || f == nil {
		return false, err
	}
	entry, err := b.store.s.Get(ctx, assetKey(f.ID, name))
	return entry != nil, err
}

func (b *backend) assetsList(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	owner, err := pathText(data, "name", "identity")
	if err != nil {
		return nil, err
	}
	defer b.hierarchy.still()()
	_, m, err := b.needIdentity(ctx, owner)
	if err != nil {
		return nil, err
	}
	assets, err := b.assetsOf(ctx, m)
	if err != nil {
		return nil, err
	}
	var names []string
	info := map[string]any{}
	for _, a := range assets {
		names = append(names, a.Name)
		info[a.Name] = map[string]any{
			"kind": string(a.Kind), "roles": a.roles(), "generation": int64(a.Generation), "account": a.Account, "stale": a.behind(m) != "",
		}
	}
	return listAnswer(names, info, ""), nil
}

func (b *backend) assetRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	owner, name, err := assetPath(data)
	if err != nil {
		return nil, err
	}
	defer b.hierarchy.still()()
	_, m, err := b.needIdentity(ctx, owner)
	if err != nil {
		return nil, err
	}
	r, a, err := b.needAsset(ctx, m, name)
	if err != nil {
		return nil, err
	}
	resp := assetAnswer(m, r, a)
	if a.Account != "" {
		if resp.Data["account_name"], err = b.accountOf(ctx, a); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// accountOf names the account whose custody key the asset holds; empty where the
// asset names one that is gone. Clients know accounts by their IDs, and paths have
// names.
func (b *backend) accountOf(ctx context.Context, a *identity.Asset) (string, error) {
	accounts, err := b.custodies(ctx, func(c *custodyRecord) bool { return c.Asset == a.ID.String() })
	if err != nil {
		return "", err
	}
	for name, f := range accounts {
		if f.AccountID == a.Account {
			return name, nil
		}
	}
	return "", nil
}

func assetAnswer(m *identity.Manifest, r *assetRecord, a *identity.Asset) *logical.Response {
	keys := map[string]any{}
	for _, k := range a.Keys {
		roles := make([]string, len(k.Sealed))
		for i, s := range k.Sealed {
			roles[i] = s.Role
		}
		one := map[string]any{"generation": int64(k.Generation), "roles": roles}
		if len(k.Public) > 0 {
			one["public"] = b64(k.Public)
		}
		keys[k.Name] = one
	}
	return &logical.Response{Data: map[string]any{
		"name": a.Name, "id": a.ID.String(), "identity": m.Name, "kind": string(a.Kind), "generation": int64(a.Generation),
		"asset": b64(r.Signed.Asset), "signature": b64(r.Signed.Signature), "roles": a.Roles(), "keys": keys,
		"account": a.Account, "note": a.Note, "stale": assetFactsOf(a).behind(m) != "",
	}}
}
