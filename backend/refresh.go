package backend

import (
	"context"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// errVoid: a refresh ended without effect because a node made a share that does
// not open.
var errVoid = errors.New("a share of the new epoch did not open: the account keeps the shares it has")

// refreshed is the outcome of refreshAccount.
type refreshed struct {
	record    *accountRecord
	sessionID mpc.SessionID
}

// refreshAccount gives an account new shares, one call at a time per account.
func (b *backend) refreshAccount(ctx context.Context, name string) (*refreshed, error) {
	return b.refreshWith(ctx, name, refreshing{})
}

// refreshing is what a refresh changes besides the shares; the zero value is
// nothing.
type refreshing struct {
	// plan chooses new homes for the shares; where it returns none, they stay.
	plan func(Engine, *mpc.Account) ([]mpc.Home, error)
	// policy, where not nil, is the policy of the new epoch.
	policy *policyChange
}

// refreshTo is refreshAccount with new homes for the shares, which plan chooses for
// the account as it is then; where it returns none, or is nil, they stay.
func (b *backend) refreshTo(ctx context.Context, name string, plan func(Engine, *mpc.Account) ([]mpc.Home, error)) (*refreshed, error) {
	return b.refreshWith(ctx, name, refreshing{plan: plan})
}

func (b *backend) refreshWith(ctx context.Context, name string, how refreshing) (out *refreshed, err error) {
	reserve := b.busy.reserve
	if how.policy != nil { // what people have approved waits for a refresh that is under way
		reserve = func(key, doing string) (func(), error) { return b.busy.reserveSoon(ctx, key, doing) }
	}
	release, err := reserve(prefixAccounts+name, "is being refreshed")
	if err != nil {
		return nil, err
	}
	defer release()
	defer func() { b.metrics.refreshed(err) }()
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := needsOwner(name, r.Custody); err != nil {
		return nil, err
	}
	eng, r, err := b.settled(ctx, name)
	if err != nil && !errors.Is(err, errRolledBack) {
		return nil, err
	}
	old, err := b.store.usable(ctx, r)
	if err != nil {
		return nil, err
	}
	// Read before the session: a restore declared meanwhile counts for the new
	// epoch as well.
	lineage, err := b.spares.lineage(ctx)
	if err != nil {
		return nil, err
	}
	request := pool.RefreshRequest{Account: *old, Expose: b.expose(name, &old.Record)}
	var recipients [32]byte
	if request.Recipients, request.OldRecipients, recipients, err = b.refreshSets(ctx, &old.Record); err != nil {
		return nil, err
	}
	begun := b.fit.begin()
	want := successor{recipients: recipients, policy: r.Current.Policy}
	if how.plan != nil {
		if request.Homes, err = how.plan(eng, old); err != nil {
			return nil, err
		}
		want.homes = request.Homes
	}
	if how.policy != nil {
		if err := b.fillPolicy(ctx, &request, how.policy, r.Current.Policy); err != nil {
			return nil, err
		}
		want.policy = request.NextPolicy
	}
	res, err := eng.Refresh(ctx, request)
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepRefreshMade); err != nil {
		return nil, err
	}
	next, err := b.nextEpoch(ctx, eng, old, res, lineage, request.Recipients, want)
	if err != nil {
		return nil, err
	}
	if err := b.step(ctx, stepRefreshChecked); err != nil {
		return nil, err
	}
	err = b.place(ctx, begun, &res.Account, func() (err error) {
		r, err = b.updateAccount(ctx, name, old.Record.EpochID, func(r *accountRecord) error {
			// No earlier epoch is kept: all that a previous one could be gone back
			// for is known of this one.
			r.Current, r.Previous = *next, nil
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &refreshed{r, res.SessionID}, b.step(ctx, stepRefreshStored)
}

// settled reads an account and settles it if something is left over. With
// errRolledBack it returns the account all the same. The caller has reserved
// the account.
func (b *backend) settled(ctx context.Context, name string) (Engine, *accountRecord, error) {
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, nil, err
	}
	if r.Previous != nil {
		r, err = b.settle(ctx, eng, name, r)
	}
	return eng, r, err
}

// nextEpoch makes an epoch of what a refresh returned, once every share of it
// has been opened from the bytes that will be stored.
func (b *backend) nextEpoch(ctx context.Context, eng Engine, old *mpc.Account, res *pool.KeyResult, lineage string, signed []byte, want successor) (*epochRecord, error) {
	void := func(err error) error {
		return fmt.Errorf("the refresh is void, the account keeps its shares: %w", err)
	}
	homes := want.homes
	if homes == nil {
		homes = old.Homes
	}
	if err := checkLived(&res.Account, homes, old); err != nil {
		return nil, void(err)
	}
	next, err := epochFrom(res, b.cfg.now().UTC(), lineage, signed, want.policy)
	if err != nil {
		return nil, void(err)
	}
	if err := checkSuccessor(&old.Record, &res.Account.Record, want); err != nil {
		return nil, void(err)
	}
	account, err := next.account()
	if err != nil {
		return nil, err
	}
	switch err := b.openCheck(ctx, eng, account); {
	case errors.Is(err, pool.ErrShareUnusable):
		return nil, fmt.Errorf("%w (%w)", errVoid, err)
	case err != nil:
		return nil, fmt.Errorf("the new shares could not be checked, so the account keeps the shares it has: %w", err)
	}
	return next, nil
}
