package backend

import (
	"context"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

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
		"last_error":     field(framework.TypeString, "Why its destruction failed last or waits; empty when it did not."),
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
					}),
			},
			HelpSynopsis: "Make a new version of the wrapping key, now.",
			HelpDescription: `
A node makes a new key pair in the token, and everything new is sealed to it:

  $ vault write -force mpc/wrapping-keys/rotate

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
	var destroyAfter time.Time
	switch {
	case ring.configured && r.TokenSerial != ring.serial && r.State != stateDestroyed:
		lastError = "it is in another token than the one that is configured, so it is not destroyed: remove the key pair with that token's own tools"
	case r.State == stateRetired || r.State == stateDestroying:
		destroyAfter = r.Retired.Add(time.Duration(ring.clocks.RetireAfter) * time.Second)
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
	}
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
		"version": int64(made.record.KeyVersion), "suite": made.record.Suite, "label": made.record.Label,
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
