package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/rotation"
)

// Bounds and defaults of refresh periods, here and per account, and of the
// period of auxiliary keys.
const (
	minRefreshPeriod     = time.Second
	maxRefreshPeriod     = 365 * 24 * time.Hour
	defaultRefreshPeriod = 10 * time.Minute
	minAuxPeriod         = time.Minute
	maxAuxPeriod         = 365 * 24 * time.Hour
	defaultAuxPeriod     = time.Hour
	defaultRewrapPeriod  = 24 * time.Hour
	defaultRetireAfter   = 7 * 24 * time.Hour
	defaultConcurrency   = 2
	defaultRate          = 25
	// rotationJitter brings refreshes forward by up to a tenth of the period,
	// so that accounts created together spread out.
	rotationJitter = 0.1
)

func defaultRotation() rotationRecord {
	return rotationRecord{
		Version:       recordVersion,
		RefreshPeriod: int64(defaultRefreshPeriod / time.Second),
		AuxPeriod:     int64(defaultAuxPeriod / time.Second),
		RewrapPeriod:  int64(defaultRewrapPeriod / time.Second),
		RetireAfter:   int64(defaultRetireAfter / time.Second),
		Concurrency:   defaultConcurrency,
		Rate:          defaultRate,
	}
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
		"aux_period":     field(framework.TypeInt, "How old a node's auxiliary keys for ECDSA may become, in seconds; 0: they stay."),
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
			"aux_period": {
				Type:         framework.TypeDurationSecond,
				Description:  "How old a node's auxiliary keys for ECDSA may become, 1m to a year; default 1h. 0: they are never replaced, which gives up protection; see the warning.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Auxiliary key period", Value: "1h"},
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
		HelpSynopsis: "How often accounts get new shares of the same key, and nodes new auxiliary keys.",
		HelpDescription: `
Sets how long shares and auxiliary keys live:

  $ vault write mpc/config/rotation refresh_period=10m aux_period=1h

Fields that are left out keep their value.

A refresh replaces every share of an account; the public key stays. Each one
writes the account's entry twice, so a short period with many accounts is felt
in storage: see the documentation for figures.

Auxiliary keys are those that nodes need for ECDSA. Making a node's takes some
seconds of one processor; nodes take turns and sign meanwhile. Who steals a
node's auxiliary key and records its sessions learns its ECDSA shares, so the
period within which t nodes must not be broken into is the longer of the two.
`,
	}}
}

func rotationAnswer(r rotationRecord) *logical.Response {
	resp := &logical.Response{Data: map[string]any{"refresh_period": r.RefreshPeriod, "aux_period": r.AuxPeriod}}
	if r.AuxPeriod == 0 {
		resp.AddWarning("aux_period is 0: nodes keep their auxiliary keys for ever. Who breaks into t nodes one after the other, however long that takes, and records their sessions has every ECDSA key, whatever refresh_period says; new shares alone protect only the other algorithms. Set aux_period=1h unless you renew them by hand (nodes/:id/renew)")
	}
	return resp
}

// checkAuxPeriod takes seconds and what they were made of.
func checkAuxPeriod(seconds int64, raw any) error {
	if seconds == 0 && isZero(raw) {
		return nil
	}
	if p := time.Duration(seconds) * time.Second; seconds > int64(maxAuxPeriod/time.Second) || p < minAuxPeriod {
		return invalid("aux_period must be %v to 8760h (a year), or 0 for never", minAuxPeriod)
	}
	return nil
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
	before := r.AuxPeriod
	if v, ok := data.GetOk("refresh_period"); ok {
		r.RefreshPeriod = int64(v.(int))
	}
	if err := checkRefreshPeriod(r.RefreshPeriod); err != nil {
		return nil, err
	}
	if v, ok := data.GetOk("aux_period"); ok {
		r.AuxPeriod = int64(v.(int))
		if err := checkAuxPeriod(r.AuxPeriod, data.Raw["aux_period"]); err != nil {
			return nil, err
		}
	}
	if err := b.store.put(ctx, keyRotation, &r); err != nil {
		return nil, err
	}
	b.runner.SetPolicy(rotationPolicy(r))
	if r.AuxPeriod == before {
		return rotationAnswer(r), nil
	}
	if err := b.applyChange(ctx); err != nil {
		return nil, fmt.Errorf("the periods are stored, but the nodes could not be told: %w", err)
	}
	return rotationAnswer(r), nil
}
