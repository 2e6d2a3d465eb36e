package backend

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/rotation"
)

// Bounds and defaults of refresh periods, here and per account.
const (
	minRefreshPeriod     = time.Second
	maxRefreshPeriod     = 365 * 24 * time.Hour
	defaultRefreshPeriod = 10 * time.Minute
	// rotationJitter brings refreshes forward by up to a tenth of the period,
	// so that accounts created together spread out.
	rotationJitter = 0.1
)

func defaultRotation() rotationRecord {
	return rotationRecord{Version: recordVersion, RefreshPeriod: int64(defaultRefreshPeriod / time.Second)}
}

func rotationPolicy(r rotationRecord) rotation.Policy {
	return rotation.Policy{Period: time.Duration(r.RefreshPeriod) * time.Second, Jitter: rotationJitter}
}

// checkRefreshPeriod takes seconds.
func checkRefreshPeriod(seconds int64) error {
	if p := time.Duration(seconds) * time.Second; seconds > int64(maxRefreshPeriod/time.Second) || p < minRefreshPeriod {
		return invalid("refresh_period must be %v to 8760h (a year)", minRefreshPeriod)
	}
	return nil
}

func (b *backend) pathConfigRotation() []*framework.Path {
	answer := map[string]*framework.FieldSchema{
		"refresh_period": field(framework.TypeInt, "Longest time between two refreshes of an account's shares, in seconds."),
	}
	write := b.handle("config/rotation", 0, b.configRotationWrite)
	return []*framework.Path{{
		Pattern: "config/rotation$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "rotation-configuration",
		},
		Fields: map[string]*framework.FieldSchema{
			"refresh_period": {
				Type:         framework.TypeDurationSecond,
				Description:  "Longest time between two refreshes of an account's shares, 1s to a year; default 10m. Accounts may have their own.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh period", Value: "10m"},
			},
		},
		ExistenceCheck: b.exists(func(ctx context.Context, _ *framework.FieldData) (bool, error) {
			entry, err := b.store.s.Get(ctx, keyRotation)
			return entry != nil, err
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.operation("Configure rotation.", true, write, answer),
			logical.UpdateOperation: b.operation("Configure rotation.", true, write, answer),
			logical.ReadOperation:   b.operation("Read the rotation's configuration.", false, b.handle("config/rotation", 0, b.configRotationRead), answer),
		},
		HelpSynopsis: "How often accounts get new shares of the same key.",
		HelpDescription: `
Sets how long shares live:

  $ vault write mpc/config/rotation refresh_period=10m

A refresh replaces every share of an account; the public key stays. Each one
writes the account's entry twice, so a short period with many accounts is felt
in storage: see the documentation for figures.
`,
	}}
}

func rotationAnswer(r rotationRecord) *logical.Response {
	return &logical.Response{Data: map[string]any{"refresh_period": r.RefreshPeriod}}
}

func (b *backend) configRotationRead(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r, err := b.store.rotationConfig(ctx)
	if err != nil {
		return nil, err
	}
	return rotationAnswer(r), nil
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
	if v, ok := data.GetOk("refresh_period"); ok {
		r.RefreshPeriod = int64(v.(int))
	}
	if err := checkRefreshPeriod(r.RefreshPeriod); err != nil {
		return nil, err
	}
	if err := b.store.put(ctx, keyRotation, &r); err != nil {
		return nil, err
	}
	b.runner.SetPolicy(rotationPolicy(r))
	return rotationAnswer(r), nil
}
