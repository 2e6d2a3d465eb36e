package backend

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
)

// wrappingKeysName is no name for an account: destroying it would be spelt like
// the end of the mount.
const wrappingKeysName = "wrapping-keys"

// strayReserve is left of a request's time when the search for strays ends.
const strayReserve = 1500 * time.Millisecond

func (b *backend) pathDestroyWrappingKeys() *framework.Path {
	return &framework.Path{
		Pattern: "destroy/" + wrappingKeysName + "$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationVerb: "destroy", OperationSuffix: "wrapping-keys",
		},
		Fields: map[string]*framework.FieldSchema{
			"account": {
				Type:         framework.TypeBool,
				Description:  "Destroy the account that an older version of this engine has let be called wrapping-keys, and nothing else.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "The account of that name"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Destroy every wrapping key: the end of a mount.", true, b.handle("destroy/wrapping-keys", 0, b.destroyWrappingKeys), map[string]*framework.FieldSchema{
				"destroyed":       optional(framework.TypeSlice, "Versions that are gone from the token."),
				"other_tokens":    optional(framework.TypeSlice, "Keys in tokens that are not configured any more, or in wrapping domains that no node of the mount is of: version, domain, token_serial, label. They are not destroyed."),
				"strays":          optional(framework.TypeSlice, "Keys in the token that carry this mount's labels and belong to no version: domain, label, key_id, private, public, command."),
				"strays_searched": optional(framework.TypeBool, "Whether the token was searched for all of them."),
			}),
		},
		HelpSynopsis: "Destroy every wrapping key in the token: the end of a mount.",
		HelpDescription: `
Disabling a mount leaves its key pairs in the token. Before that, when every
account has been destroyed and every authenticator deleted:

  $ vault write -force mpc/destroy/wrapping-keys

Every version of the wrapping key is destroyed, and a node has looked that it is
gone; the nodes' own keys, the keys for logins and mpc/config/hsm with the PIN
are removed. Where it is interrupted, repeat it: it goes on where it stopped. No
snapshot of this mount can be opened any more after it.

The answer lists keys in the token that carry this mount's labels and that no
version knows, left by an interruption or belonging to another cluster that was
made from a snapshot. They are not touched.

After mpc/config/hsm has been written again the mount works again, with a new
version. The path needs the sudo capability.
`,
	}
}

func (b *backend) destroyWrappingKeys(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	entry, err := b.store.s.Get(ctx, prefixAccounts+wrappingKeysName)
	if err != nil {
		return nil, fmt.Errorf("reading the account %s: %w", wrappingKeysName, err)
	}
	account := data.Get("account").(bool)
	switch {
	case account:
		id, err := b.destroyAccount(ctx, wrappingKeysName)
		if err == nil {
			b.forgetPresignatures(ctx, id)
		}
		return &logical.Response{Data: map[string]any{}}, err
	case entry != nil:
		return nil, conflict("there is an account called %q, made by an older version, so this could mean two things and nothing was done: to destroy that account, vault write <mount>/destroy/%s account=true", wrappingKeysName, wrappingKeysName)
	}
	release, err := b.reserveWrapping("is being made or destroyed")
	if err != nil {
		return nil, err
	}
	defer release()
	reopen, err := b.busy.reserveAll(prefixAccounts, "the mount's wrapping keys are being destroyed (destroy/wrapping-keys)")
	if err != nil {
		return nil, err
	}
	defer reopen()
	if err := b.refuseWithAccounts(ctx); err != nil {
		return nil, err
	}
	return b.endMount(ctx)
}

// refuseWithAccounts fails while there is any account or authenticator, readable or
// not.
func (b *backend) refuseWithAccounts(ctx context.Context) error {
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return err
	}
	people, err := b.store.list(ctx, prefixAuthentic)
	if err != nil {
		return err
	}
	if len(people) > 0 {
		return conflict("nothing was destroyed, because nobody would get in any more with the authenticators that there are (%s): delete each of them first with authenticators/:name", few(people))
	}
	if len(names) > 0 {
		needy := fmt.Sprintf("%d accounts need", len(names))
		if len(names) == 1 {
			needy = "1 account needs"
		}
		return conflict("nothing was destroyed, because %s the wrapping keys (%s): destroy each of them first with destroy/:name", needy, few(names))
	}
	return nil
}

// endMount destroys every version in the token that is configured. Each of its
// steps may be repeated. The caller has reserved everything that could need a
// version.
func (b *backend) endMount(ctx context.Context) (*logical.Response, error) {
	b.store.forgetKeys(keyHSM)
	ring, err := b.store.keyring(ctx)
	if err != nil {
		return nil, err
	}
	// The engine as it is: it would not start again without a key.
	var eng Engine
	if ring.configured {
		eng = b.runningEngine()
	}
	doomed := ring.in(stateLive, stateRetired, stateDestroying)
	if len(doomed) > 0 || eng == nil {
		if eng, err = b.readyEngine(ctx); err == nil {
			err = domainReady(eng, ring.reached(doomed)...)
		}
		if err != nil && len(doomed) > 0 {
			return nil, fmt.Errorf("the wrapping keys cannot be destroyed without a node; if they were already, write config/hsm again and repeat this: %w", err)
		}
	}
	if err := b.markAll(ctx, doomed); err != nil {
		return nil, err
	}
	if err := b.removeNodeKeys(ctx); err != nil {
		return nil, err
	}
	for _, r := range doomed {
		r.State = stateDestroying
		if err := b.destroyKeys(ctx, eng, ring, &r); err != nil {
			return nil, fmt.Errorf("version %d: %w; repeat the request, it goes on where it stopped", r.KeyVersion, err)
		}
	}
	if err := b.step(ctx, stepEndGone); err != nil {
		return nil, err
	}
	resp, err := b.endAnswer(ctx, eng)
	if err != nil {
		return nil, err
	}
	if err := b.store.delete(ctx, keyHSM); err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepEndRemoved); err != nil {
		return nil, err
	}
	b.log.Warn("every wrapping key of this mount was destroyed; it works again once config/hsm is written")
	if err := b.dropEngine(ctx); err != nil {
		resp.AddWarning("the nodes did not end in time; they end by themselves: " + err.Error())
	}
	return resp, nil
}

// markAll makes sure that nothing new is sealed to any version, and stores that
// all are being destroyed.
func (b *backend) markAll(ctx context.Context, doomed []wrappingRecord) error {
	for _, r := range doomed {
		if err := b.store.refs.doom(ctx, r.KeyVersion); err != nil {
			return fmt.Errorf("version %d is not destroyed: %w", r.KeyVersion, err)
		}
	}
	// Once more: a write that was under way is stored now.
	if err := b.refuseWithAccounts(ctx); err != nil {
		for _, r := range doomed {
			if r.State != stateDestroying {
				b.store.refs.undoom(r.KeyVersion)
			}
		}
		return err
	}
	for _, r := range doomed {
		if r.State == stateDestroying {
			continue
		}
		r.Version, r.State = recordVersion, stateDestroying
		if err := b.store.put(ctx, wrappingKey(r.KeyVersion), &r); err != nil {
			return err
		}
	}
	return b.step(ctx, stepEndMarked)
}

// reached lists the domains of keys of these versions that are to be destroyed by
// nodes of this mount.
func (k *keyring) reached(records []wrappingRecord) []string {
	var out []string
	for i := range records {
		for _, d := range records[i].parts() {
			if k.reaches(&records[i], &d) && d.Destroyed.IsZero() && !slices.Contains(out, d.Domain) {
				out = append(out, d.Domain)
			}
		}
	}
	slices.SortFunc(out, compareDomains)
	return out
}

// removeNodeKeys removes the nodes' own keys and the identity keys, which nothing will open any more.
// Nodes that run cannot store them anew: the versions are doomed.
func (b *backend) removeNodeKeys(ctx context.Context) error {
	ids, err := b.store.list(ctx, prefixNodeKeys)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := b.store.delete(ctx, prefixNodeKeys+id); err != nil {
			return err
		}
	}
	if err := b.step(ctx, stepEndNodeKeys); err != nil {
		return err
	}
	return b.removeIdentityKeys(ctx)
}

// endAnswer says what was destroyed and what was not. No version is left, so
// every key under a label of this mount is a stray. eng is nil where no node
// could be reached.
func (b *backend) endAnswer(ctx context.Context, eng Engine) (*logical.Response, error) {
	b.store.forgetKeys(keyHSM)
	ring, err := b.store.keyring(ctx)
	if err != nil {
		return nil, err
	}
	mount, err := b.store.mount(ctx)
	if err != nil {
		return nil, err
	}
	destroyed, others := []int64{}, []map[string]any{}
	for _, r := range ring.records {
		switch {
		case r.State == stateDestroyed:
			destroyed = append(destroyed, int64(r.KeyVersion))
		case !ring.ours(&r):
			others = append(others, map[string]any{"version": int64(r.KeyVersion), "domain": hsm.DefaultDomain, "token_serial": r.TokenSerial, "label": r.Label})
		}
		for _, d := range r.parts() {
			if !d.LeftBehind.IsZero() {
				others = append(others, map[string]any{"version": int64(r.KeyVersion), "domain": d.Domain, "token_serial": d.TokenSerial, "label": d.Label})
			}
		}
	}
	strays, searched := []map[string]any{}, false
	if eng != nil && mount != nil {
		if strays, searched, err = b.strays(ctx, eng, ring, mount.IDHex, ring.highest()+1); err != nil {
			b.log.Warn("the token was not searched for unused keys of this mount", "error", err)
		}
	}
	resp := &logical.Response{Data: map[string]any{
		"destroyed": destroyed, "other_tokens": others, "strays": strays, "strays_searched": searched,
	}}
	if !searched && mount != nil {
		resp.AddWarning(fmt.Sprintf("the token was not searched for all unused keys of this mount; with the token's own tools, look for labels that begin with %q", "vault-mpc "+mount.IDHex))
	}
	return resp, nil
}

// strays looks for key objects under the labels of all versions up to the one
// given, newest first, as far as the time allows.
func (b *backend) strays(ctx context.Context, eng Engine, ring *keyring, mountIDHex string, newest uint32) ([]map[string]any, bool, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-strayReserve))
		defer cancel()
	}
	out := []map[string]any{}
	for _, d := range ring.domains {
		if err := domainReady(eng, d); err != nil && d != hsm.DefaultDomain {
			return out, false, err
		}
		for version := newest; version > 0; version-- {
			label := wrappingLabel(mountIDHex, version)
			found, err := eng.FindWrappingKeys(ctx, d, label)
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return out, false, err
			}
			if err != nil {
				return out, false, nil
			}
			for _, k := range found {
				id := hex.EncodeToString(k.ID)
				out = append(out, map[string]any{
					"domain": d, "label": label, "key_id": id, "private": k.Private, "public": k.Public,
					"command": fmt.Sprintf("pkcs11-tool --module MODULE --login --delete-object --type privkey --id %s; pkcs11-tool --module MODULE --login --delete-object --type pubkey --id %s", id, id),
				})
			}
		}
	}
	return out, true, nil
}
