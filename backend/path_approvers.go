package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func approverAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name":         field(framework.TypeString, "Name of the approver."),
		"id":           field(framework.TypeString, "Random ID in hex, which policies and statements name it by."),
		"identity":     field(framework.TypeString, "Name of the identity that the approver is; empty for none, and where that is not there any more."),
		"identity_id":  field(framework.TypeString, "Its ID, in hex; empty for none."),
		"entity_ids":   field(framework.TypeStringSlice, "Vault entities of the same person: what they ask for, this approver does not approve."),
		"no_entity":    field(framework.TypeBool, "Whether it was said that there are none."),
		"requesters":   field(framework.TypeStringSlice, "Under which identifiers the approver may ask for signatures, as policies hold them; \"none\" for none."),
		"factors":      field(framework.TypeSlice, "What the approver approves with: key_id, kind, name, added_time, checked_by (nodes), device, the key_id of the device it belongs to, public (base64), and of a passkey rp_id and origins."),
		"checked":      field(framework.TypeStringSlice, "Kinds of factors beside them that the coordinator alone checks: totp, login."),
		"totp":         field(framework.TypeMap, "The one-time code: state (none, unconfirmed or confirmed), added_time, and checked_by (coordinator)."),
		"created_time": field(framework.TypeString, "When the approver was stored first."),
	}
}

func (b *backend) pathApprovers() []*framework.Path {
	write := b.handle("approvers/write", scanTimeout, b.approverWrite)
	return framework.PathAppend([]*framework.Path{{
		Pattern: "approvers/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "approvers", Navigation: true, ItemType: "Approver",
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: b.operation("List the approvers.", false, b.handle("approvers", 0, b.approversList), map[string]*framework.FieldSchema{
				"keys": optional(framework.TypeStringSlice, "Names of the approvers, in order."),
			}),
		},
		HelpSynopsis: "People and machines that may be asked to approve signatures.",
		HelpDescription: `
Lists the approvers whom accounts' policies may name:

  $ vault list mpc/approvers

Policies take copies: what changes here changes no account. Which approvers an
account has in force: vault read mpc/accounts/NAME/policy
`,
	}, {
		Pattern: "approvers/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "approver", ItemType: "Approver",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":       pathField("Approver", "approver"),
			"identity":   {Type: framework.TypeString, Description: "Name of the identity that the approver is; default none.", DisplayAttrs: &framework.DisplayAttributes{Name: "Identity"}},
			"entity_ids": {Type: framework.TypeCommaStringSlice, Description: "IDs of the Vault entities of the same person, up to 15: nobody approves what they ask for themselves.", DisplayAttrs: &framework.DisplayAttributes{Name: "Entity IDs"}},
			"no_entity":  {Type: framework.TypeBool, Description: "Says that the approver has no Vault entity; default false.", DisplayAttrs: &framework.DisplayAttributes{Name: "No entity", Value: false}},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, data *framework.FieldData) (bool, error) {
			name, err := pathText(data, "name", "approver")
			if err != nil {
				return false, nil // the handler says what is wrong
			}
			entry, err := b.store.s.Get(ctx, prefixApprovers+name)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Store a new approver.", true, write, approverAnswerFields()),
			logical.UpdateOperation: b.operation("Change who an approver is.", true, write, approverAnswerFields()),
			logical.ReadOperation:   b.operation("Read an approver.", false, b.handle("approvers/read", scanTimeout, b.approverRead), approverAnswerFields()),
			logical.DeleteOperation: b.operation("Delete an approver. Policies keep their copies.", true, b.handle("approvers/delete", scanTimeout, b.approverDelete), stillNamedFields()),
		},
		HelpSynopsis: "An approver: who it is, and what it approves with.",
		HelpDescription: `
Stores an approver, and says which Vault entities are the same person, since nobody
approves what they have asked for themselves:

  $ vault write mpc/approvers/alice entity_ids=7d2e3179-f69b-450c-7179-ac8ee8bd8ca9

An approver without any, a machine for example, is written with no_entity=true. One
that is an identity of this mount (identity=alice) has logging in as it for a factor
as well, and its devices are confirmed in a session of it. Then a device is enrolled:

  $ vault write mpc/approvers/alice/enrol label=phone

Everything that an approver has is shown by:

  $ vault read mpc/approvers/alice

Deleting one ends its enrolments and says which accounts' policies go on naming it:
policies hold copies, so each of them needs a change of its own:

  $ vault delete mpc/approvers/alice
`,
	}}, b.pathApproverEnrol(), b.pathApproverFactors())
}

// stillNamedFields answer a deletion.
func stillNamedFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"accounts": field(framework.TypeStringSlice, "Accounts whose policies in force go on naming what was deleted: each needs a change of its policy."),
	}
}
