package backend

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/recovery"
)

func (b *backend) pathConfigAuthority() []*framework.Path {
	authority := map[string]*framework.FieldSchema{
		"public_key":  field(framework.TypeString, "The authority's Ed25519 public key, 64 hex digits."),
		"pinned_time": field(framework.TypeString, "When it was pinned."),
	}
	set := map[string]*framework.FieldSchema{
		"serial":     field(framework.TypeInt, "Serial number of the set in force; a set is replaced by one with a higher number only."),
		"hash":       field(framework.TypeString, "SHA-256 that public records name the set by, hex."),
		"recipients": field(framework.TypeSlice, "Names of the recipients; share i of every account is sealed to the i-th. Empty for a set that names wrapping domains only."),
		"domains":    field(framework.TypeMap, "Wrapping domains that the authority has signed for, and the names of the nodes whose word for their keys counts."),
		"set":        field(framework.TypeString, "The signed set."),
	}
	writeAuthority := b.handle("config/authority", 0, b.configAuthorityWrite)
	writeSet := b.handle("config/recovery", 0, b.configRecoveryWrite)
	setField := &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Recipient set as mpckms authority sign-set wrote it (JSON).",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Signed recipient set"},
	}
	exists := b.exists(func(ctx context.Context, _ *framework.FieldData) (bool, error) {
		entry, err := b.store.s.Get(ctx, keyRecovery)
		return entry != nil, err
	})
	return []*framework.Path{{
		Pattern:      "config/authority$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "authority-configuration"},
		Fields: map[string]*framework.FieldSchema{
			"public_key": {
				Type:         framework.TypeString,
				Description:  "Ed25519 public key of the mount's authority, 64 hex digits.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Authority public key"},
			},
		},
		ExistenceCheck: exists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Pin the authority.", true, writeAuthority, authority),
			logical.UpdateOperation: b.operation("Pin the authority.", true, writeAuthority, authority),
			logical.ReadOperation:   b.operation("Read the pinned authority.", false, b.handle("config/authority", 0, b.configAuthorityRead), authority),
		},
		HelpSynopsis: "Whose signature allows shares to be sealed to anything but the token.",
		HelpDescription: `
The authority is an Ed25519 key that is made and kept offline. Nodes seal shares
to their own token, and besides only to recipients that it has signed for:

  $ vault write mpc/config/authority public_key=@authority.key.pub

Nodes pin it when they start; pinning one starts them again. It cannot be replaced
once the mount has accounts or recipients: whoever could, would make himself
custodian of every key. Pin it before the first account, and before nodes on other
hosts are enrolled, which pin it then; a host can also fix it
for its nodes (MPC_AUTHORITY in the plugin's environment), and then no other is
taken.
`,
	}, {
		Pattern:        "config/recovery$",
		DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "recovery-configuration"},
		Fields:         map[string]*framework.FieldSchema{"set": setField},
		ExistenceCheck: exists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Set the recovery recipients.", true, writeSet, set),
			logical.UpdateOperation: b.operation("Set the recovery recipients.", true, writeSet, set),
			logical.ReadOperation:   b.operation("Read the recovery recipients.", false, b.handle("config/recovery", 0, b.configRecoveryRead), set),
		},
		HelpSynopsis: "Who can rebuild accounts when the HSM or Vault is lost.",
		HelpDescription: `
Takes a set of recovery recipients that the authority has signed:

  $ vault write mpc/config/recovery set=@recipients.json

From then on every share is sealed to the token and to one recipient: share i to
the i-th. Any t recipients can rebuild an account on another HSM (see
recovery/export); fewer can do nothing. Accounts that exist are refreshed at
once, so that they get it. A set can be replaced by a newer one and not removed.

A set may name wrapping domains too, with the nodes that vouch for their keys:
then shares can move between these domains (accounts/:name/move), and nodes on
other hosts take the nodes that it names for peers. One that names domains and no
recipients has shares sealed to tokens only: nobody can rebuild an account then.
`,
	}}
}

func (b *backend) configAuthorityRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.recoveryConfig(ctx)
	if err != nil || r == nil {
		return nil, err
	}
	return authorityAnswer(r), nil
}

func authorityAnswer(r *recoveryRecord) *logical.Response {
	return &logical.Response{Data: map[string]any{"public_key": r.Authority, "pinned_time": rfc3339(r.Pinned)}}
}

func (b *backend) configAuthorityWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	release, err := b.busy.reserve(keyRecovery, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	given := strings.TrimSpace(data.Get("public_key").(string))
	key, err := hex.DecodeString(given)
	if err != nil || len(key) != ed25519.PublicKeySize || given != strings.ToLower(given) {
		return nil, invalid("public_key must be %d lower-case hex digits: the public half that mpckms authority init wrote", 2*ed25519.PublicKeySize)
	}
	old, err := b.store.recoveryConfig(ctx)
	if err != nil {
		return nil, err
	}
	if fixed := b.cfg.Authority; fixed != "" && fixed != given {
		return nil, invalid("the host of the nodes has fixed another authority (MPC_AUTHORITY in the plugin's environment): nothing was changed; pin that one")
	}
	if old != nil && old.Authority == given {
		return authorityAnswer(old), nil
	}
	if old != nil {
		if err := b.checkReplaceable(ctx, old); err != nil {
			return nil, err
		}
	}
	next := &recoveryRecord{Version: recordVersion, Authority: given, Pinned: b.cfg.now().UTC()}
	if err := b.storeRecovery(ctx, next); err != nil {
		return nil, err
	}
	resp := authorityAnswer(next)
	remote, err := b.store.remoteNodes(ctx)
	if err != nil {
		return nil, err
	}
	if len(remote) > 0 {
		resp.AddWarning(fmt.Sprintf("%d node(s) on other hosts were enrolled without this authority, and take one only from their own host: name it in their configuration (authority in node.hcl), or enrol them again; until then they refuse what is signed by it", len(remote)))
	}
	return resp, nil
}

// checkReplaceable fails where another authority would get at keys: with
// recipients of its own it would have every share sealed to them.
func (b *backend) checkReplaceable(ctx context.Context, old *recoveryRecord) error {
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return err
	}
	if old.SetHash != "" || len(names) > 0 {
		return invalid("another authority is pinned, and the mount has accounts or recipients, which it must not lose to a new one: nothing was changed. If the authority's key is lost, rebuild the accounts on another mount with a new authority (docs/recovery.md)")
	}
	return nil
}

// sealToRecipients has all accounts refreshed, after which their shares are
// sealed to the set in force.
func (b *backend) sealToRecipients(resp *logical.Response) {
	b.runner.CatchUp(true)
	resp.AddWarning("all accounts are being refreshed, so that their shares are sealed to these recipients: watch catch_up on config/rotation, and recipients_current on accounts/:name. Export their bundles afterwards")
}

func (b *backend) configRecoveryRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.recoveryConfig(ctx)
	if err != nil || r == nil || r.SetHash == "" {
		return nil, err
	}
	return b.recoveryAnswer(ctx)
}

func (b *backend) recoveryAnswer(ctx context.Context) (*logical.Response, error) {
	raw, hash, err := b.setInForce(ctx)
	if err != nil {
		return nil, err
	}
	r, err := b.store.recoveryConfig(ctx)
	if err != nil {
		return nil, err
	}
	key, err := r.authority()
	if err != nil {
		return nil, err
	}
	set, _, err := parseSet(raw, key)
	if err != nil {
		return nil, fmt.Errorf("the stored recipient set: %w", err)
	}
	return &logical.Response{Data: map[string]any{
		"serial": set.Serial, "hash": hex.EncodeToString(hash[:]), "recipients": recipientNames(set), "domains": domainNodes(set), "set": string(raw),
	}}, nil
}

// domainNodes lists nodes' names by their wrapping domain.
func domainNodes(set *recovery.RecipientSet) map[string]any {
	domains := map[string]any{}
	for _, d := range set.Domains {
		nodes := []string{}
		for _, n := range d.Nodes {
			nodes = append(nodes, n.ID)
		}
		domains[d.Name] = nodes
	}
	return domains
}

func recipientNames(set *recovery.RecipientSet) []string {
	names := []string{}
	for _, r := range set.Recipients {
		names = append(names, r.Name)
	}
	return names
}

func (b *backend) configRecoveryWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	release, err := b.busy.reserve(keyRecovery, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.store.recoveryConfig(ctx)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, invalid("no authority is pinned, whose signature the set must have: vault write <mount>/config/authority public_key=@authority.key.pub")
	}
	before := r.SetHash
	if err := b.takeSet(ctx, r, []byte(data.Get("set").(string))); err != nil {
		return nil, err
	}
	if err := b.storeRecovery(ctx, r); err != nil {
		return nil, err
	}
	resp, err := b.recoveryAnswer(ctx)
	if err == nil && len(resp.Data["recipients"].([]string)) == 0 {
		resp.AddWarning("the set names no custodians: accounts have no recovery copy, and who loses their tokens loses them")
	}
	if err == nil && before != r.SetHash {
		b.sealToRecipients(resp)
	}
	return resp, err
}

// takeSet checks a set, stores it under its hash and puts it into r.
func (b *backend) takeSet(ctx context.Context, r *recoveryRecord, raw []byte) error {
	if len(raw) == 0 {
		return invalid("set is missing: send the file that mpckms authority sign-set wrote, set=@recipients.json")
	}
	key, err := r.authority()
	if err != nil {
		return err
	}
	set, hash, err := parseSet(raw, key)
	if err != nil {
		return err
	}
	name := hex.EncodeToString(hash[:])
	if name == r.SetHash {
		return nil // written again
	}
	if set.Serial <= r.Serial {
		return invalid("the set has serial number %d, and one with %d is in force: nothing was changed; sign the new set with a higher serial number", set.Serial, r.Serial)
	}
	if err := b.checkSetFits(ctx, set); err != nil {
		return err
	}
	if err := b.store.put(ctx, prefixRecipients+name, &recipientSetRecord{Version: recordVersion, Set: slices.Clone(raw)}); err != nil {
		return err
	}
	r.SetHash, r.Serial = name, set.Serial
	return nil
}

// storeRecovery makes authority and set those in force and tells the nodes.
func (b *backend) storeRecovery(ctx context.Context, r *recoveryRecord) error {
	if err := b.store.put(ctx, keyRecovery, r); err != nil {
		return err
	}
	if err := b.applyChange(ctx); err != nil {
		return fmt.Errorf("it is stored, but the nodes could not be told: %w", err)
	}
	return nil
}
