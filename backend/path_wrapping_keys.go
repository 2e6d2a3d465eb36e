package backend

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/pool"
)

func wrappingAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"version":        field(framework.TypeInt64, "Number of the version; numbers are not used twice."),
		"newest":         field(framework.TypeBool, "Whether new shares are sealed to it."),
		"state":          field(framework.TypeString, "live, retired (opens what is sealed to it, nothing new is), destroying or destroyed."),
		"suite":          field(framework.TypeString, "How keys are sealed to it."),
		"label":          field(framework.TypeString, "Label of the key pair in the token."),
		"key_id":         field(framework.TypeString, "CKA_ID of the key pair, in hex."),
		"token_serial":   field(framework.TypeString, "Serial number of the token that holds it."),
		"public_key":     field(framework.TypeString, "Public key in hex: 65 bytes uncompressed (hpke-p256), or DER SubjectPublicKeyInfo (RSA)."),
		"created_time":   field(framework.TypeString, "When it was made."),
		"retired_time":   field(framework.TypeString, "When a newer version took its place; empty before that."),
		"destroy_after":  field(framework.TypeString, "From when on it is destroyed, once nothing refers to it; empty where that is not planned."),
		"destroyed_time": field(framework.TypeString, "When it was found to be gone from the token; empty before that."),
		"references":     field(framework.TypeMap, "How many accounts, node_keys and identity_keys are sealed to it; complete says whether everything has been read."),
		"last_error":     field(framework.TypeString, "Why its destruction failed last or waits, or for the newest version why the next could not be made or a domain lacks it; empty when nothing did."),
		"domains":        field(framework.TypeMap, "The version's key in each wrapping domain: state (in use, destroyed, left behind, other token), suite, label, key_id, public_key, token_label, token_serial, endorsed_by (identity of the node that vouched for it), created_time, and references, as far as they are to this domain's key."),
		"missing":        field(framework.TypeStringSlice, "Wrapping domains in use that have no key of this version, if it is the newest: they get one as soon as a node of theirs is ready."),
		"left_behind":    field(framework.TypeStringSlice, "Wrapping domains in whose tokens the key is still there, since no node of this mount could reach them when the version was destroyed."),
	}
}

func (b *backend) pathWrappingKeys() []*framework.Path {
	attrs := func(verb, suffix string) *framework.DisplayAttributes {
		return &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: verb, OperationSuffix: suffix}
	}
	return []*framework.Path{
		{
			Pattern:      "wrapping-keys/?$",
			DisplayAttrs: attrs("", "wrapping-keys"),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: b.operation("List the versions of the wrapping key.", true, b.handle("wrapping-keys", 0, b.wrappingList),
					map[string]*framework.FieldSchema{
						"keys":     optional(framework.TypeStringSlice, "Version numbers, ascending."),
						"key_info": optional(framework.TypeMap, "Each version's state and references."),
					}),
			},
			HelpSynopsis: "The versions of the wrapping key in the token.",
			HelpDescription: `
Lists the versions and what refers to them:

  $ vault list -detailed mpc/wrapping-keys

Every share is sealed to a version of the wrapping key. A new one is made every
rewrap_period of mpc/config/rotation, or now:

  $ vault write -force mpc/wrapping-keys/rotate

Nodes whose token is another than that of mpc/config/hsm belong to a wrapping
domain of their own. A version has one key in each domain, and is made when every
domain has a node that is ready.
`,
		},
		{
			Pattern:      "wrapping-keys/rotate$",
			DisplayAttrs: attrs("rotate", "wrapping-key"),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: b.operation("Make a new version of the wrapping key.", true, b.handle("wrapping-keys/rotate", 0, b.wrappingRotate),
					map[string]*framework.FieldSchema{
						"version": field(framework.TypeInt64, "The new version."),
						"suite":   field(framework.TypeString, "How keys are sealed to it."),
						"label":   field(framework.TypeString, "Label of the key pair in the token."),
						"domains": field(framework.TypeStringSlice, "Wrapping domains that have a key of it."),
					}),
			},
			HelpSynopsis: "Make a new version of the wrapping key, now.",
			HelpDescription: `
A node of each wrapping domain makes a new key pair in its token, and everything
new is sealed to them:

  $ vault write -force mpc/wrapping-keys/rotate

Where a domain has no node that is ready, nothing is made.

Accounts follow in the background, with their next refresh or by a rewrap within
an hour; progress is in mpc/config/rotation. The old version stays until nothing
refers to it and retire_after of mpc/config/rotation has passed. Then it is
destroyed, and snapshots of Vault's storage from before cannot be opened any
more.
`,
		},
		{
			Pattern:      `wrapping-keys/(?P<version>\d+)$`,
			DisplayAttrs: attrs("", "wrapping-key"),
			Fields: map[string]*framework.FieldSchema{
				"version": {Type: framework.TypeString, Description: "Number of the version.", DisplayAttrs: &framework.DisplayAttributes{Name: "Version", Identifier: true}},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: b.operation("Read a version of the wrapping key.", true, b.handle("wrapping-keys/read", 0, b.wrappingRead), wrappingAnswerFields()),
			},
			HelpSynopsis: "One version of the wrapping key.",
			HelpDescription: `
Shows a version, what refers to it and when it is destroyed:

  $ vault read mpc/wrapping-keys/3

It is destroyed in every wrapping domain. A domain whose nodes are away keeps it
in the state destroying until they are back. A domain that no node of the mount
is of any more does not: its key is listed under left_behind, and is destroyed when
a node of that domain joins again, or with that token's own tools.

A new version is made with: vault write -force mpc/wrapping-keys/rotate
`,
		},
	}
}

func (b *backend) wrappingList(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	ring, err := b.store.keyring(ctx)
	if err != nil {
		return nil, err
	}
	tallies := b.store.refs.tallies()
	var keys []string
	info := map[string]any{}
	for i := range ring.records {
		r := &ring.records[i]
		key := strconv.FormatUint(uint64(r.KeyVersion), 10)
		keys = append(keys, key)
		full := b.wrappingAnswer(ring, r, tallies)
		info[key] = map[string]any{
			"state": full["state"], "newest": full["newest"], "suite": full["suite"],
			"created_time": full["created_time"], "references": full["references"],
			"domains": domainNames(r), "last_error": full["last_error"],
		}
	}
	return logical.ListResponseWithInfo(keys, info), nil
}

func (b *backend) wrappingRead(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	text := data.Get("version").(string)
	ring, err := b.store.keyring(ctx)
	if err != nil {
		return nil, err
	}
	var r *wrappingRecord
	if version, err := strconv.ParseUint(text, 10, 32); err == nil {
		r = ring.find(uint32(version))
	}
	if r == nil {
		return nil, unknown("there is no version %s of the wrapping key, or it was destroyed long ago: list wrapping-keys/ for the versions there are", clip(text))
	}
	return &logical.Response{Data: b.wrappingAnswer(ring, r, b.store.refs.tallies())}, nil
}

func (b *backend) wrappingAnswer(ring *keyring, r *wrappingRecord, tallies map[uint32]*tally) map[string]any {
	t := tallies[r.KeyVersion]
	if t == nil {
		t = tallies[0]
	}
	newest := ring.newest()
	lastError, _ := b.keeper.failure(chore{what: choreDestroy, version: r.KeyVersion})
	missing := []string{}
	var destroyAfter time.Time
	switch {
	case newest != nil && newest.KeyVersion == r.KeyVersion:
		missing = append(missing, ring.lacking()...)
		lastError = b.newestFailure(missing)
	case ring.configured && !ring.ours(r) && r.State != stateDestroyed:
		lastError = "it is in another token than the one that is configured, so it is not destroyed: remove the key pair with that token's own tools"
	case r.State == stateRetired || r.State == stateDestroying:
		destroyAfter = r.Retired.Add(time.Duration(ring.clocks.RetireAfter) * time.Second)
	}
	left := []string{}
	domains := map[string]any{}
	for _, d := range r.parts() {
		domains[d.Domain] = ring.domainAnswer(r, &d, t)
		if !d.LeftBehind.IsZero() {
			left = append(left, d.Domain)
		}
	}
	return map[string]any{
		"version":        int64(r.KeyVersion),
		"newest":         newest != nil && newest.KeyVersion == r.KeyVersion,
		"state":          string(r.State),
		"suite":          r.Suite,
		"label":          r.Label,
		"key_id":         hex.EncodeToString(r.ID),
		"token_serial":   r.TokenSerial,
		"public_key":     hex.EncodeToString(r.PublicKey),
		"created_time":   rfc3339(r.Created),
		"retired_time":   rfc3339(r.Retired),
		"destroy_after":  rfc3339(destroyAfter),
		"destroyed_time": rfc3339(r.Destroyed),
		"references":     map[string]any{"accounts": t.accounts, "node_keys": t.nodeKeys, "identity_keys": t.identityKeys, "complete": t.complete},
		"last_error":     lastError,
		"domains":        domains,
		"missing":        missing,
		"left_behind":    left,
	}
}

// domainAnswer describes a version's key in one domain.
func (k *keyring) domainAnswer(r *wrappingRecord, d *domainKeyRecord, t *tally) map[string]any {
	state := "in use"
	switch {
	case !d.LeftBehind.IsZero():
		state = "left behind"
	case !d.Destroyed.IsZero() || r.State == stateDestroyed:
		state = "destroyed"
	case d.Domain == hsm.DefaultDomain && k.configured && !k.holdsDefault(r):
		state = "other token"
	}
	endorsed := ""
	if d.Endorsement != nil {
		endorsed = d.Endorsement.Identity
	}
	refs := t.domains[d.Domain]
	if refs == nil {
		refs = &domainTally{}
	}
	return map[string]any{
		"state": state, "suite": d.Suite, "label": d.Label, "key_id": hex.EncodeToString(d.ID), "public_key": hex.EncodeToString(d.PublicKey),
		"token_label": d.TokenLabel, "token_serial": d.TokenSerial, "endorsed_by": endorsed, "created_time": rfc3339(d.Created),
		"references": map[string]any{"accounts": refs.accounts, "node_keys": refs.nodeKeys, "identity_keys": refs.identityKeys},
	}
}

func domainNames(r *wrappingRecord) []string {
	out := []string{}
	for _, d := range r.parts() {
		out = append(out, d.Domain)
	}
	return out
}

// newestFailure says what the newest version waits for: domains that lack it, or a
// successor that could not be made.
func (b *backend) newestFailure(missing []string) string {
	var said []string
	for _, domain := range missing {
		text, _ := b.keeper.failure(chore{what: choreJoin, domain: domain})
		if text == "" {
			text = "a node of it is about to make its key"
		}
		said = append(said, fmt.Sprintf("wrapping domain %q has no key of this version yet: %s", domain, text))
	}
	if text, _ := b.keeper.failure(chore{what: choreMake}); text != "" {
		said = append(said, "the next version: "+text)
	}
	return strings.Join(said, "; ")
}

// wrappingRotate makes a version. A slow token may take longer than a request
// may: the work then goes on without it, since to break it off would leave an
// unused key in the token.
func (b *backend) wrappingRotate(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	var made *madeVersion
	request := ctx
	err := b.detached(ctx, "the token is still making the key, and the version is in use as soon as it is made: watch wrapping-keys/", func(ctx context.Context) (err error) {
		made, err = b.makeVersion(ctx)
		// A failure that the caller hears of is his: kept as the keeper's it
		// would be shown until the next version is due, a day later.
		if err == nil || request.Err() != nil {
			b.report(chore{what: choreMake}, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: map[string]any{
		"version": int64(made.record.KeyVersion), "suite": made.record.Suite, "label": made.record.label(), "domains": domainNames(made.record),
	}}
	for _, w := range made.warnings {
		resp.AddWarning(w)
	}
	return resp, nil
}

// detached runs a task that outlives the request, and waits for it as long as
// the request may. later says what to do where it takes longer; as a 409, since
// clients repeat a 503 by themselves.
func (b *backend) detached(ctx context.Context, later string, task func(context.Context) error) error {
	ended := make(chan error, 1)
	b.engMu.Lock()
	closed := b.closed
	if !closed {
		b.tasks.Go(func() {
			ctx, cancel := context.WithTimeout(b.ctx, wrappingTimeout)
			defer cancel()
			ended <- task(ctx)
		})
	}
	b.engMu.Unlock()
	if closed {
		return pool.ErrClosed
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return conflict("%s", later)
	}
}
