package backend

import (
	"context"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// maxPresign bounds an account's presign setting: filling a stock of that size
// keeps a processor busy for minutes.
const maxPresign = 64

// shortPresignPeriod is the refresh period below which a stock is hardly worth
// its price.
const shortPresignPeriod = time.Minute

// presignEngine implements presignSource.
func (b *backend) presignEngine(ctx context.Context) (presignEngine, error) { return b.engine(ctx) }

// presignAccount implements presignSource.
func (b *backend) presignAccount(ctx context.Context, name string) (*presignAccount, error) {
	r, err := b.store.account(ctx, name)
	if err != nil || r == nil || r.left(name) || r.state() != stateActive {
		return nil, err
	}
	a, err := b.store.usable(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := b.lacks(ctx, a, a.Record.Threshold); err != nil {
		return nil, err
	}
	b.runner.Opened(name)
	return &presignAccount{
		depth: r.Presign,
		request: pool.PresignRequest{
			Account:  *a,
			Lifetime: min(b.refreshPeriod(r), pool.MaxPresignLifetime),
			Expose:   b.expose(name, &a.Record),
		},
	}, nil
}

// refreshPeriod is the account's own, or that of config/rotation.
func (b *backend) refreshPeriod(r *accountRecord) time.Duration {
	if r.RefreshPeriod > 0 {
		return time.Duration(r.RefreshPeriod) * time.Second
	}
	return b.runner.Policy().Period
}

// forgetPresignatures drops an account's stock where nodes run that may have
// one. It is called without any lock, since nodes are told about it.
func (b *backend) forgetPresignatures(ctx context.Context, id mpc.AccountID) {
	if eng := b.runningEngine(); eng != nil {
		eng.ForgetPresignatures(ctx, id)
	}
}
