package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/rotation"
)

func (b *backend) pathConfigRotation() []*framework.Path {
	write := b.handle("config/rotation", 0, b.configRotationWrite)
	period := func(name, description, value string) *framework.FieldSchema {
		return &framework.FieldSchema{
			Type: framework.TypeDurationSecond, Description: description,
			DisplayAttrs: &framework.DisplayAttributes{Name: name, Value: value},
		}
	}
	return []*framework.Path{{
		Pattern: "config/rotation$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "rotation-configuration",
		},
		Fields: map[string]*framework.FieldSchema{
			"refresh_period":      period("Refresh period", "Longest time between two refreshes of an account's shares, 1s to a year; default 10m. Accounts may have their own.", "10m"),
			"idle_refresh_period": period("Idle refresh period", "As refresh_period, for accounts that nobody has used since their last refresh: refresh_period to a year; 0 (default) for refresh_period itself.", "0"),
			"aux_period":          period("Auxiliary key period", "How old a node's auxiliary keys for ECDSA may become, 1m to a year; default 1h. 0: they are never replaced, which gives up protection; see the warning.", "1h"),
			"rewrap_period":       period("Rewrap period", "How often a new version of the wrapping key is made, 1s to ten years; default 24h. 0: only by wrapping-keys/rotate.", "24h"),
			"retire_after":        period("Retire after", "How long a wrapping key is kept after a newer one took its place, 1s to ten years; default 168h. Snapshots of Vault's storage that are older than that cannot be opened.", "168h"),
			"concurrency": {
				Type:         framework.TypeInt,
				Description:  "How many refreshes may run at once, 1 to 64; default 2.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Concurrency", Value: defaultConcurrency},
			},
			"rate": {
				Type:         framework.TypeInt,
				Description:  "How many refreshes may begin per second, 1 to 10000; default 25.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Rate", Value: defaultRate},
			},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, _ *framework.FieldData) (bool, error) {
			entry, err := b.store.s.Get(ctx, keyRotation)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Configure rotation.", true, write, rotationAnswerFields()),
			logical.UpdateOperation: b.operation("Configure rotation.", true, write, rotationAnswerFields()),
			logical.ReadOperation:   b.operation("Read the rotation's configuration and progress.", true, b.handle("config/rotation", 0, b.configRotationRead), rotationAnswerFields()),
		},
		HelpSynopsis: "How often accounts get new shares of the same key, nodes new auxiliary keys, and the token a new wrapping key.",
		HelpDescription: `
Sets how long shares, auxiliary keys and wrapping keys live, and reads how far
rotation is:

  $ vault write mpc/config/rotation refresh_period=10m aux_period=1h rewrap_period=24h
  $ vault write mpc/config/rotation idle_refresh_period=24h rate=50 concurrency=4
  $ vault read mpc/config/rotation

Fields that are left out keep their value.

A refresh replaces every share of an account; the public key stays. Each one
writes the account's entry once, so a short period with many accounts is felt in
storage: see the documentation for figures. idle_refresh_period spares those
that nobody uses; the first signature brings such an account's refresh forward.

Auxiliary keys are those that nodes need for ECDSA. Making a node's takes some
seconds of one processor; nodes take turns and sign meanwhile. Who steals a
node's auxiliary key and records its sessions learns its ECDSA shares, so the
period within which t nodes must not be broken into is the longer of the two.

Every rewrap_period a node makes a new version of the wrapping key in the token,
and accounts follow by their next refresh, or by a rewrap where that is far off.
A version is destroyed when nothing refers to it and retire_after has passed.
From then on no snapshot of Vault's storage from before opens. Keep retire_after
longer than the oldest snapshot that you would restore.
`,
	}}
}

func (b *backend) configRotationRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.rotationConfig(ctx)
	if err != nil {
		return nil, err
	}
	return b.rotationAnswer(ctx, r)
}

func (b *backend) configRotationWrite(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	release, err := b.busy.reserve(keyRotation, "is being written by another request")
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.store.rotationConfig(ctx)
	if err != nil {
		return nil, err
	}
	before := r.AuxPeriod
	if err := takeClocks(&r, data); err != nil {
		return nil, err
	}
	if err := b.store.put(ctx, keyRotation, &r); err != nil {
		return nil, err
	}
	b.runner.SetPolicy(rotationPolicy(r))
	b.keeper.Kick()
	if r.AuxPeriod != before {
		if err := b.applyChange(ctx); err != nil {
			return nil, fmt.Errorf("the periods are stored, but the nodes could not be told: %w", err)
		}
	}
	return b.rotationAnswer(ctx, r)
}

func rotationAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"refresh_period":      field(framework.TypeInt64, "Longest time between two refreshes of an account's shares, in seconds."),
		"idle_refresh_period": field(framework.TypeInt64, "As refresh_period, for accounts that nobody has used since their last refresh, in seconds; 0: as refresh_period."),
		"aux_period":          field(framework.TypeInt64, "How old a node's auxiliary keys for ECDSA may become, in seconds; 0: they stay."),
		"rewrap_period":       field(framework.TypeInt64, "How often a new version of the wrapping key is made, in seconds; 0: only by wrapping-keys/rotate."),
		"retire_after":        field(framework.TypeInt64, "How long a wrapping key is kept after a newer one took its place, in seconds."),
		"concurrency":         field(framework.TypeInt, "How many refreshes may run at once."),
		"rate":                field(framework.TypeInt, "How many refreshes may begin per second."),

		"accounts":           field(framework.TypeInt, "Number of accounts that are looked after; 0 until they have been read after a start."),
		"due_now":            field(framework.TypeInt, "Accounts that are to be refreshed now and wait for their turn."),
		"running":            field(framework.TypeInt, "Refreshes and rewraps on their way."),
		"waiting_in_backoff": field(framework.TypeInt, "Accounts that wait after a failed refresh."),
		"refreshed_total":    field(framework.TypeInt64, "Refreshes by the clock since this server became active."),
		"failed_total":       field(framework.TypeInt64, "Refreshes by the clock that failed since this server became active."),
		"last_error":         field(framework.TypeMap, "The last failed refresh: account, time, error; empty when there was none."),
		"oldest_shares_time": field(framework.TypeString, "When the oldest shares of all accounts were made."),
		"rewrap":             field(framework.TypeMap, "How many accounts (done of total) are sealed to the newest version of the wrapping key; last_error of a rewrap or of a wrapping key."),
		"next_rewrap":        field(framework.TypeString, "When the next version of the wrapping key is made; empty where none is planned."),
		"catch_up":           field(framework.TypeMap, "State of rotation/catch-up: remaining, started_time, finished_time."),
	}
}

func (b *backend) rotationAnswer(ctx context.Context, r rotationRecord) (*logical.Response, error) {
	ring, err := b.store.keyring(ctx)
	if err != nil {
		return nil, err
	}
	p := b.runner.Progress()
	resp := &logical.Response{Data: map[string]any{
		"refresh_period":      r.RefreshPeriod,
		"idle_refresh_period": r.IdleRefreshPeriod,
		"aux_period":          r.AuxPeriod,
		"rewrap_period":       r.RewrapPeriod,
		"retire_after":        r.RetireAfter,
		"concurrency":         r.Concurrency,
		"rate":                r.Rate,

		"accounts":           p.Accounts,
		"due_now":            p.Due,
		"running":            p.Running,
		"waiting_in_backoff": p.Waiting,
		"refreshed_total":    int64(p.Refreshed),
		"failed_total":       int64(p.Failed),
		"last_error":         failureAnswer(p.LastError),
		"oldest_shares_time": rfc3339(p.Oldest),
		"rewrap": map[string]any{
			"version": int64(p.Rewrap.Version), "done": p.Rewrap.Done, "total": p.Rewrap.Total,
			"rewrapped_total": int64(p.Rewrap.Rewrapped), "failed_total": int64(p.Rewrap.Failed),
			"last_error": b.rewrapFailure(p.Rewrap.LastError),
		},
		"next_rewrap": rfc3339(nextRewrap(ring)),
		"catch_up":    catchUpAnswer(p.CatchUp),
	}}
	if r.AuxPeriod == 0 {
		resp.AddWarning("aux_period is 0: nodes keep their auxiliary keys for ever. Who breaks into t nodes one after the other, however long that takes, and records their sessions has every ECDSA key, whatever refresh_period says; new shares alone protect only the other algorithms. Set aux_period=1h unless you renew them by hand (nodes/:id/renew)")
	}
	if p.Demand > float64(r.Rate) {
		resp.AddWarning(fmt.Sprintf("%d accounts with their periods need %.1f refreshes per second and rate lets %d begin: shares become older than their periods say. Raise rate and concurrency, or the periods", p.Accounts, p.Demand, r.Rate))
	}
	return resp, nil
}

func failureAnswer(f *rotation.Failure) map[string]any {
	if f == nil {
		return map[string]any{}
	}
	return map[string]any{"account": f.Key, "time": rfc3339(f.Time), "error": f.Error}
}

// rewrapFailure is the later one of an account's failure and of the keeper's.
func (b *backend) rewrapFailure(f *rotation.Failure) map[string]any {
	c, text, at := b.keeper.lastFailure()
	if text == "" || f != nil && f.Time.After(at) {
		return failureAnswer(f)
	}
	out := map[string]any{"what": "wrapping keys: " + c.what, "time": rfc3339(at), "error": text}
	if c.version > 0 {
		out["version"] = int64(c.version)
	}
	if c.domain != "" {
		out["domain"] = c.domain
	}
	return out
}

func rotationPolicy(r rotationRecord) rotation.Policy {
	return rotation.Policy{
		Period:      time.Duration(r.RefreshPeriod) * time.Second,
		IdlePeriod:  time.Duration(r.IdleRefreshPeriod) * time.Second,
		Jitter:      rotationJitter,
		Rate:        float64(r.Rate),
		Concurrency: r.Concurrency,
	}
}
