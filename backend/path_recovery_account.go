package backend

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
)

// maxBundle and maxDeals bound what an import takes, in bytes and number. A
// bundle of sixteen shares has about 20 KB.
const (
	maxBundle = 256 << 10
	maxTarget = 16 << 10
)

func (b *backend) pathRecoveryAccounts() []*framework.Path {
	return []*framework.Path{{
		Pattern: "recovery/export/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "export", OperationSuffix: "account-for-recovery",
		},
		Fields: map[string]*framework.FieldSchema{"name": nameField()},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: b.operation("Export an account for its recovery recipients.", false, b.handle("recovery/export", 0, b.recoveryExport), map[string]*framework.FieldSchema{
				"bundle":     field(framework.TypeString, "The account's public record and sealed shares (JSON). It holds ciphertext only."),
				"account_id": field(framework.TypeString, "Identity of the account."),
				"epoch":      field(framework.TypeInt, "Share epoch that was exported."),
				"recipients": field(framework.TypeSlice, "Recipients that can open one share each."),
				"threshold":  field(framework.TypeInt, "How many of them are needed."),
			}),
		},
		HelpSynopsis: "What custodians need to rebuild an account elsewhere.",
		HelpDescription: `
Returns an account's public record and its shares as they are stored, sealed to
the token and to one recovery recipient each:

  $ vault read -field=bundle mpc/recovery/export/treasury > treasury.bundle

It works without the HSM. Keep bundles outside of Vault: any t recipients can
rebuild the account from one, however old it is. Nobody else can do anything
with it. Frozen and deleted accounts are exported as well. The path needs the sudo
capability.
`,
	}, {
		Pattern: "recovery/target$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "make", OperationSuffix: "recovery-target",
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Say where custodians may deal shares to.", true, b.handle("recovery/target", 0, b.recoveryTarget), map[string]*framework.FieldSchema{
				"target": field(framework.TypeString, "This mount and its wrapping key, for the authority to sign (JSON)."),
			}),
		},
		HelpSynopsis: "This mount's wrapping key, for the authority to sign before custodians deal to it.",
		HelpDescription: `
Begins the recovery of accounts on this mount:

  $ vault write -force -field=target mpc/recovery/target > target.json

The authority signs the target offline (mpckms authority sign-target): custodians
deal to signed targets only, since whoever could pass a key of his own off as
this mount's would collect the shares. The path needs the sudo capability.
`,
	}, {
		Pattern: "recovery/import/" + namePattern + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "import", OperationSuffix: "recovered-account",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":   nameField(),
			"bundle": {Type: framework.TypeString, Description: "The account's bundle, from recovery/export."},
			"target": {Type: framework.TypeString, Description: "The target that the authority has signed."},
			"deals":  {Type: framework.TypeSlice, Description: "What custodians dealt (mpckms recovery deal), one JSON text each; as many as the account's threshold, or more."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Rebuild an account from what custodians dealt.", true, b.handle("recovery/import", 0, b.recoveryImport), accountAnswerFields()),
		},
		HelpSynopsis: "Rebuild an account from what t custodians dealt.",
		HelpDescription: `
Makes new shares of an account's key out of what custodians dealt to this mount:

  $ mpckms recovery import treasury --bundle treasury.bundle --target target.signed.json alice.deal carol.deal

The key itself is not put together, neither here nor at any custodian. Public key,
threshold, approval policy and account ID stay. The name must be free, or be that of the same
account, whose shares are then replaced, once every new one has been opened. An
account that is frozen stays frozen; a deleted one is restored first. The path
needs the sudo capability.
`,
	}}
}

func (b *backend) recoveryExport(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	a, err := r.Current.account()
	if err != nil {
		return nil, err
	}
	if r.Custody != nil {
		return nil, invalid("account %q has user custody: recovery custodians cannot rebuild it, since their copies open with the owner's custody key only. What brings it back is a backup of Vault's storage and of the token, and its owner", name)
	}
	set, err := b.store.recipientSet(ctx, a.Record.RecipientsHash)
	if err != nil {
		return nil, err
	}
	if set == nil {
		return nil, invalid("account %q has no recovery recipients, so that nobody but this mount's token opens its shares: set them with config/recovery, refresh the account, and export it then", name)
	}
	bundle := &recovery.Bundle{Account: name, Record: r.Current.Record, Shares: r.Current.Shares, Recipients: set, Policy: r.Current.Policy, Created: b.cfg.now().UTC()}
	text, err := bundle.Marshal()
	if errors.Is(err, recovery.ErrNoRecipients) {
		return nil, invalid("account %q has no recovery recipients, so that nobody but its tokens opens its shares: the set in force names wrapping domains only. Put one in force that names custodians too (config/recovery), refresh the account, and export it then", name)
	}
	if err != nil {
		return nil, fmt.Errorf("the account cannot be exported: %w", err)
	}
	signed, err := recovery.ParseSignedSet(set)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"bundle": string(text), "account_id": r.ID, "epoch": a.Record.Epoch,
		"recipients": recipientNames(signed.Unverified())[:a.Record.Shares], "threshold": a.Record.Threshold,
	}}, nil
}

func (b *backend) recoveryTarget(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	mount, key, err := b.importKey(ctx)
	if err != nil {
		return nil, err
	}
	t := &recovery.Target{MountID: mount.ID, Key: *key, Made: b.cfg.now().UTC()}
	rand.Read(t.Nonce[:])
	text, err := t.Marshal()
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"target": string(text)}}, nil
}

// importKey returns the mount and the wrapping key that custodians deal to: of the
// domain that has the most nodes, since all shares of an import are made there.
func (b *backend) importKey(ctx context.Context) (*mountRecord, *hsm.WrappingKey, error) {
	mount, err := b.store.mount(ctx)
	if err != nil {
		return nil, nil, err
	}
	keys, err := b.presentKeys(ctx)
	if err != nil {
		return nil, nil, err
	}
	if mount == nil || len(keys) == 0 {
		return nil, nil, pool.ErrNotConfigured
	}
	members, err := b.membership(ctx)
	if err != nil {
		return nil, nil, err
	}
	nodes := map[string]int{hsm.DefaultDomain: members.local}
	for _, n := range members.remote {
		nodes[n.Domain]++
	}
	// Keys are in the order of versions, and the default domain is a version's first.
	best := slices.IndexFunc(keys, func(k hsm.WrappingKey) bool { return k.Version == keys[len(keys)-1].Version })
	for i := best; i < len(keys); i++ {
		if nodes[keys[i].Domain] > nodes[keys[best].Domain] {
			best = i
		}
	}
	return mount, &keys[best], nil
}

// recoveryImport checks everything that can be checked without nodes, has the
// nodes make the shares, and stores the account by one write.
func (b *backend) recoveryImport(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	if name == wrappingKeysName {
		return nil, invalid("no account can be called %q, since destroy/%s ends a mount: choose another name", name, name)
	}
	release, err := b.busy.reserve(prefixAccounts+name, "is being imported")
	if err != nil {
		return nil, err
	}
	defer release()
	request, bundle, recipients, err := b.importRequest(ctx, data)
	if err != nil {
		return nil, err
	}
	record := &request.Old
	// By the account as well: attempts under two names hand out the same shares.
	releaseID, err := b.busy.reserve("account "+record.AccountID.String(), "is being imported")
	if err != nil {
		return nil, err
	}
	defer releaseID()
	before, err := b.replaceable(ctx, name, record, bundle.Policy)
	if err != nil {
		return nil, err
	}
	if err := b.onlyHere(ctx, name, record.AccountID); err != nil {
		return nil, err
	}
	if err := b.placeImport(ctx, request); err != nil {
		return nil, err
	}
	lineage, err := b.spares.lineage(ctx)
	if err != nil {
		return nil, err
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	begun := b.fit.begin()
	res, err := eng.Import(ctx, *request)
	var refused *pool.RefusedError
	if errors.As(err, &refused) {
		return nil, invalid("nothing was imported: %v; have that custodian deal again, or use the deal of another", err)
	}
	if err != nil {
		return nil, err
	}
	epoch, err := epochFrom(res, b.cfg.now().UTC(), lineage, request.Recipients, bundle.Policy)
	if err != nil {
		return nil, fmt.Errorf("nothing was imported: %w", err)
	}
	if err := checkSuccessor(record, &res.Account.Record, successor{recipients: recipients, policy: bundle.Policy}); err != nil {
		return nil, fmt.Errorf("nothing was imported: %w", err)
	}
	made, err := epoch.account()
	if err != nil {
		return nil, err
	}
	if err := b.openCheck(ctx, eng, made); err != nil {
		return nil, fmt.Errorf("nothing was imported, because the new shares could not be confirmed: %w", err)
	}
	var r *accountRecord
	err = b.place(ctx, begun, made, func() (err error) {
		r, err = b.storeImport(ctx, name, before, record, epoch)
		return err
	})
	if err != nil {
		return nil, err
	}
	b.log.Warn("an account was rebuilt from recovery custodians' shares", "account", name, "account_id", r.ID)
	b.accountChanged(name, r)
	return b.accountAnswer(ctx, name, r)
}

// importRequest reads the three parts and checks that they belong together and
// to this mount.
func (b *backend) importRequest(ctx context.Context, data *framework.FieldData) (*pool.ImportRequest, *recovery.Bundle, [32]byte, error) {
	var recipients [32]byte
	rawBundle, rawTarget := data.Get("bundle").(string), data.Get("target").(string)
	if len(rawBundle) > maxBundle || len(rawTarget) > maxTarget {
		return nil, nil, recipients, invalid("bundle and target have at most %d and %d bytes", maxBundle, maxTarget)
	}
	bundle, err := recovery.ParseBundle([]byte(rawBundle))
	if err != nil {
		return nil, nil, recipients, invalid("bundle: %v; send what recovery/export returned", err)
	}
	record, err := mpc.ParsePublicRecord(bundle.Record)
	if err != nil {
		return nil, nil, recipients, invalid("bundle: %v", err)
	}
	if _, err := policyOf(record, bundle.Policy); err != nil {
		return nil, nil, recipients, invalid("bundle: the account %v; nothing was imported", err)
	}
	anchor, err := b.store.recoveryConfig(ctx)
	if err != nil {
		return nil, nil, recipients, err
	}
	if anchor == nil {
		return nil, nil, recipients, invalid("no authority is pinned, which must have signed the target: vault write <mount>/config/authority public_key=@authority.key.pub")
	}
	authority, err := anchor.authority()
	if err != nil {
		return nil, nil, recipients, err
	}
	signed, err := recovery.ParseSignedTarget([]byte(rawTarget))
	if err != nil {
		return nil, nil, recipients, invalid("target: %v; send the file that mpckms authority sign-target wrote", err)
	}
	target, err := signed.Verify(authority)
	if err != nil {
		return nil, nil, recipients, invalid("target: %v; it must be signed by the authority pinned in config/authority", err)
	}
	if err := b.checkTarget(ctx, target); err != nil {
		return nil, nil, recipients, err
	}
	request := &pool.ImportRequest{Old: *record, Target: signed.Hash()}
	var parsed []*recovery.Deal
	for i, d := range data.Get("deals").([]any) {
		text, ok := d.(string)
		if !ok || len(text) > maxBundle {
			return nil, nil, recipients, invalid("deals: number %d is not a text of at most %d bytes", i+1, maxBundle)
		}
		deal, err := recovery.ParseDeal([]byte(text))
		if err != nil {
			return nil, nil, recipients, invalid("deals: number %d: %v; send the files that mpckms recovery deal wrote", i+1, err)
		}
		request.Deals, parsed = append(request.Deals, []byte(text)), append(parsed, deal)
	}
	if len(request.Deals) < record.Threshold || len(request.Deals) > mpc.MaxShares {
		return nil, nil, recipients, invalid("the account needs the deals of %d custodians, and takes %d at most: %d came", record.Threshold, mpc.MaxShares, len(request.Deals))
	}
	if request.Recipients, recipients, err = b.setInForce(ctx); err != nil {
		return nil, nil, recipients, err
	}
	if _, err := recovery.NewRecord(record, request.Target, recipients, parsed); err != nil {
		return nil, nil, recipients, invalid("deals: %v", err)
	}
	return request, bundle, recipients, nil
}

// checkTarget demands that custodians dealt to this mount and to a wrapping key
// that it has.
func (b *backend) checkTarget(ctx context.Context, t *recovery.Target) error {
	mount, err := b.store.mount(ctx)
	if err != nil {
		return err
	}
	if mount == nil {
		return pool.ErrNotConfigured
	}
	if t.MountID != mount.ID {
		return invalid("the target is mount %x, and this is mount %s: custodians deal to the mount that is to have the account", t.MountID, mount.IDHex)
	}
	keys, err := b.presentKeys(ctx)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return pool.ErrNotConfigured
	}
	for _, k := range keys {
		if k.Domain == t.Key.Domain && k.Version == t.Key.Version && k.Suite == t.Key.Suite && bytes.Equal(k.PublicKey, t.Key.PublicKey) {
			return nil
		}
	}
	return invalid("the target names version %d of the wrapping key, which this mount does not have any more: make, sign and deal to a new target", t.Key.Version)
}

// replaceable returns the account of that name if the import may replace its
// shares, nil if the name is free. policy is the one that the imported record names.
func (b *backend) replaceable(ctx context.Context, name string, record *mpc.PublicRecord, policy []byte) (*accountRecord, error) {
	r, err := b.store.account(ctx, name)
	if err != nil || r == nil {
		return nil, err
	}
	if r.left(name) {
		return nil, &movingError{name, r.RenamingTo}
	}
	if r.Deleted != nil {
		return nil, conflict("account %q was deleted: nothing was imported; %s", name, wayBack(name, r.Deleted))
	}
	a, err := r.Current.account()
	if err != nil {
		return nil, err
	}
	switch {
	case a.Record.AccountID != record.AccountID || !bytes.Equal(a.Record.PublicKey, record.PublicKey):
		return nil, conflict("%q is another account: nothing was changed; import under a free name", name)
	case a.Record.Epoch > record.Epoch:
		return nil, conflict("account %q is in share epoch %d, and the bundle holds epoch %d: nothing was changed; export the account as it is now and have that dealt", name, a.Record.Epoch, record.Epoch)
	}
	return r, policyStays(name, r.Current.Policy, policy)
}

// storeImport writes the account by one Put.
func (b *backend) storeImport(ctx context.Context, name string, before *accountRecord, record *mpc.PublicRecord, epoch *epochRecord) (*accountRecord, error) {
	defer b.lockAccount(name)()
	now, err := b.replaceable(ctx, name, record, epoch.Policy)
	if err != nil {
		return nil, err
	}
	if (now == nil) != (before == nil) || now != nil && !bytes.Equal(now.Current.Record, before.Current.Record) {
		return nil, errEpochChanged
	}
	next := &accountRecord{Version: recordVersion, ID: record.AccountID.String(), Created: epoch.Started}
	hash := record.Hash()
	next.Birth = birthRecord{RecordHash: hex.EncodeToString(hash[:]), Certificate: epoch.Certificate}
	if now != nil {
		next = now
	}
	next.Current, next.Previous = *epoch, nil // every share was opened
	if err := b.store.putAccount(ctx, name, next); err != nil {
		return nil, err
	}
	return next, nil
}
