package backend

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/custody"
)

// maxReleases bounds the text of releases, in bytes: 16 shares at a few hundred
// bytes each.
const maxReleases = 64 << 10

func (b *backend) pathCustody() []*framework.Path {
	begin := withPolicyFields(withDerivation(messageFields()))
	for name := range policyFields() {
		begin[name].Description = "With operation=refresh, of an account that has no approval policy: its first one. " + begin[name].Description
	}
	begin["name"] = nameField()
	begin["operation"] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "sign or refresh.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Operation"},
	}
	begin["request"] = &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Of an account with an approval policy: ID of what its approvers have approved. To sign, your request of the same message; to refresh, a change of the policy, which the refresh then brings into force.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Request"},
	}
	finish := map[string]*framework.FieldSchema{
		"name": nameField(),
		"release": {
			Type:         framework.TypeString,
			Description:  "The release that begin returned.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Release"},
		},
		"releases": {
			Type:         framework.TypeSlice,
			Description:  "A JSON list, or its text, with an object for each signer that begin returned: index, and release, the second key of that share sealed to the signer's key, in base64.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Releases"},
		},
		"signature_format": signFields()["signature_format"],
		"request_id":       requestIDField(),
	}
	return []*framework.Path{{
		Pattern: "custody/" + namePattern + "/begin$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "begin", OperationSuffix: "custody",
		},
		Fields: begin,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Prepare nodes for a signature or refresh with user custody.", true, b.handle("custody/begin", 0, b.custodyBegin), map[string]*framework.FieldSchema{
				"release":                 field(framework.TypeString, "Names this operation in finish; 16 bytes in hex."),
				"operation":               field(framework.TypeString, "sign or refresh."),
				"message_type":            optional(framework.TypeString, "Of a signature: as sent, or the default."),
				"hash_algorithm":          optional(framework.TypeString, "Of a signature: as sent, or the algorithm's default, none where the algorithm hashes itself."),
				"record":                  field(framework.TypeString, "The account's public record in base64: what the shares are bound to."),
				"purpose":                 field(framework.TypeString, "SHA-256 of what the releases are for, in base64. Compute it from what you asked for, and release nothing where it differs."),
				"signers":                 field(framework.TypeSlice, "The nodes that take part: index, node, identity (hex), release_id (hex), public_key (base64, X25519), expires_unix_ms, signature (base64) of the node over them and the purpose, and envelope (base64), the share whose second key is to be released."),
				"custody_public_key":      field(framework.TypeString, "The custody key in force, in base64 (65 bytes)."),
				"next_custody_public_key": field(framework.TypeString, "The custody key after a refresh, in base64; another one where the asset holds one that waits for it."),
				"policy":                  optional(framework.TypeString, "Of a refresh with a request: the policy in force, which the record names by its hash, in base64. Without one there is none in force."),
				"next_policy":             optional(framework.TypeString, "Of a refresh that brings a policy: that policy, in base64. Its SHA-256 is a part of the purpose: what you release brings this policy into force."),
				"refresh_due":             field(framework.TypeBool, "Whether the owner should refresh the account, before this signature or after."),
				"expires_time":            field(framework.TypeString, "When the nodes forget their keys."),
			}),
		},
		HelpSynopsis: "Begin to sign with, or to refresh, an account with user custody.",
		HelpDescription: `
An account with user custody signs with its owner's custody key only, which never
leaves the owner's device. mpckms does what follows by itself:

  $ mpckms account sign carol --input hello
  $ mpckms account refresh carol

Begin chooses the nodes and has each make a key for this one operation:

  $ vault write mpc/custody/carol/begin operation=sign input=$(printf hello | base64)

The owner checks each node's signature against the nodes that are known, opens the
second key of each share with the custody key, seals it to that node's key and hands
all of them to mpc/custody/carol/finish within two minutes. What is released serves
these nodes, this message and this share epoch, once. Where a node fails meanwhile,
begin again.

A change of the approval policy needs the policy's approvers and the owner. Once they
have approved it (mpc/accounts/carol/policy asks), the owner's refresh brings it:

  $ mpckms account refresh carol --request 0a1b2c3d4e5f60718293a4b5c6d7e8f9

An account without a policy gets its first one from its owner alone, as approvers=ann,ben
and so on say:

  $ mpckms account policy set carol --approver ann --approver ben
`,
	}, {
		Pattern: "custody/" + namePattern + "/finish$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "finish", OperationSuffix: "custody",
		},
		Fields: finish,
		Operations: map[logical.Operation]framework.OperationHandler{
			// As with sign, the handler sets a shorter deadline where it can.
			logical.UpdateOperation: b.operation("Sign or refresh with what the owner released.", true, b.handle("custody/finish", maxSessionTimeout, b.custodyFinish), custodyFinishFields()),
		},
		HelpSynopsis: "Finish a signature or refresh with user custody.",
		HelpDescription: `
Takes what the owner of the custody key released for an operation that was begun at
mpc/custody/carol/begin, and answers as mpc/sign/alice or mpc/accounts/carol does:

  $ vault write mpc/custody/carol/finish release=6f1d0c9e8b7a49f2a1c3d4e5f6071829 releases=@releases.json

with releases.json like [{"index":1,"release":"AAECAw=="},{"index":3,"release":"BAUGBw=="}].
A release is used once; what fails after nodes were told of it is begun again. With a
request_id a signature is safe to repeat, as with mpc/sign: begin and finish again.
`,
	}}
}

// custodyFinishFields are those of a signature and of an account; each answer has
// the ones or the others.
func custodyFinishFields() map[string]*framework.FieldSchema {
	out := signAnswerFields()
	for name, f := range accountAnswerFields() {
		if out[name] == nil {
			own := *f
			own.Required = false
			out[name] = &own
		}
	}
	return out
}

func (b *backend) custodyBegin(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	var op *custodyOp
	var v *signable
	var warnings []string
	switch operation := data.Get("operation").(string); operation {
	case custody.OpSign:
		for f := range policyFields() {
			if _, sent := data.GetOk(f); sent {
				return nil, invalid("%s is for operation=refresh: a signature changes no policy", f)
			}
		}
		op, v, warnings, err = b.beginSign(ctx, req, name, data)
	case custody.OpRefresh:
		for _, f := range []string{"input", "message_type", "hash_algorithm", "derivation_path", "taproot_tweak"} {
			if _, sent := data.GetOk(f); sent {
				return nil, invalid("%s is for operation=sign: a refresh signs nothing", f)
			}
		}
		op, v, warnings, err = b.beginRefresh(ctx, name, data)
	default:
		return nil, invalid("operation is %s or %s, not %q", custody.OpSign, custody.OpRefresh, clip(operation))
	}
	if err != nil {
		return nil, err
	}
	due := false
	r, err := b.needAccount(ctx, name)
	if err == nil {
		due, err = b.refreshDue(ctx, name, r)
	}
	if err != nil {
		b.custody.drop(op)
		return nil, err
	}
	base := base64.StdEncoding.EncodeToString
	o := op.offer
	signers := make([]map[string]any, len(o.Members))
	for i, m := range o.Members {
		signers[i] = map[string]any{
			"index": int(m.Index), "node": m.NodeID, "identity": m.Node.String(),
			"release_id": hex.EncodeToString(m.ReleaseID[:]), "public_key": base(m.PublicKey),
			"expires_unix_ms": m.Expires.UnixMilli(), "signature": base(m.Signature),
			"envelope": base(o.Request.Account.Shares[m.Index-1].Envelope),
		}
	}
	next := o.Request.NextCustody
	if next == nil {
		next = op.next
	}
	out := map[string]any{
		"release":                 op.release,
		"operation":               o.Request.Operation,
		"record":                  base(o.Request.Account.Record.Marshal()),
		"purpose":                 base(o.Purpose[:]),
		"signers":                 signers,
		"custody_public_key":      base(v.custody.PublicKey),
		"next_custody_public_key": base(next),
		"refresh_due":             due,
		"expires_time":            rfc3339(o.Expires),
	}
	if len(o.Request.NextPolicy) > 0 {
		out["next_policy"] = base(o.Request.NextPolicy)
		if len(o.Request.Policy) > 0 {
			out["policy"] = base(o.Request.Policy)
		}
	}
	if q := op.signing; q != nil {
		out["message_type"], out["hash_algorithm"] = string(q.kind), string(q.hash)
	}
	return &logical.Response{Data: out, Warnings: warnings}, nil
}

func (b *backend) custodyFinish(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	release := data.Get("release").(string)
	if release == "" {
		return nil, invalid("release is missing: send the one that custody/%s/begin returned", name)
	}
	releases, err := parseReleases(data.Raw["releases"])
	if err != nil {
		return nil, err
	}
	op, err := b.custody.take(name, release)
	if err != nil {
		return nil, err
	}
	used := false
	defer func() {
		if used {
			b.custody.drop(op)
		} else {
			b.custody.giveBack(op)
		}
	}()
	for _, m := range op.offer.Members {
		if len(releases[m.Index]) == 0 {
			return nil, invalid("releases has none for share %d on %s: send one for each signer that begin returned", m.Index, m.NodeID)
		}
	}
	if len(releases) != len(op.offer.Members) {
		return nil, invalid("releases has %d entries for %d signers: send one for each signer that begin returned", len(releases), len(op.offer.Members))
	}
	if op.signing != nil {
		return b.finishSign(ctx, op, releases, data, &used)
	}
	for _, f := range []string{"signature_format", "request_id"} {
		if _, sent := data.GetOk(f); sent {
			return nil, invalid("%s is for a signature, and this release is for a refresh", f)
		}
	}
	return b.finishRefresh(ctx, op, releases, &used)
}

// parseReleases reads the list as HTTP clients send it, or its text, as the CLI
// does.
func parseReleases(raw any) (map[mpc.Index][]byte, error) {
	form := invalid(`releases is a JSON list with an object for each signer, like [{"index":1,"release":"AAECAw=="}]`)
	if raw == nil {
		return nil, form
	}
	text, ok := raw.(string)
	if !ok {
		b, err := json.Marshal(raw)
		if err != nil {
			return nil, form
		}
		text = string(b)
	}
	if len(text) > maxReleases {
		return nil, invalid("releases has more than %d KiB: send one release for each signer that begin returned", maxReleases>>10)
	}
	var list []struct {
		Index   int    `json:"index"`
		Release []byte `json:"release"`
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&list); err != nil || dec.More() {
		return nil, form
	}
	out := map[mpc.Index][]byte{}
	for _, e := range list {
		i := mpc.Index(e.Index)
		if e.Index < 1 || e.Index > mpc.MaxShares || out[i] != nil || len(e.Release) == 0 {
			return nil, form
		}
		out[i] = e.Release
	}
	return out, nil
}
