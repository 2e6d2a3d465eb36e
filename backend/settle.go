package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// errRolledBack: what was stored last was undone because a share of it does not
// open.
var errRolledBack = errors.New("a share that was stored last did not open: the account keeps its previous shares")

// unsettledError: whether the current epoch opens could not be found out.
type unsettledError struct{ err error }

func (e *unsettledError) Error() string {
	return "the shares that were stored last are in use but could not be checked, the previous ones are kept: " + e.err.Error()
}
func (e *unsettledError) Unwrap() error { return e.err }

// settle ends the time of a previous epoch or of previous envelopes: it has
// every current share opened and then drops the previous, or goes back to it
// when a share does not open. After going back it returns the account and
// errRolledBack. When it cannot find out, the entry stays as it is and the error
// is unsettledError. The caller has reserved the account.
func (b *backend) settle(ctx context.Context, eng Engine, name string, r *accountRecord) (*accountRecord, error) {
	current, err := b.store.usable(ctx, r)
	if err != nil {
		return nil, err
	}
	id := current.Record.EpochID
	openErr := b.openCheck(ctx, eng, current)
	if openErr == nil {
		if err := b.step(ctx, stepSettleChecked); err != nil {
			return nil, err
		}
		settled, err := b.updateAccount(ctx, name, id, func(r *accountRecord) error {
			r.Previous = nil
			return nil
		})
		if err == nil {
			err = b.step(ctx, stepSettleDropped)
		} else if !errors.Is(err, errEpochChanged) {
			return nil, &unsettledError{err}
		}
		return settled, err
	}
	if !errors.Is(openErr, pool.ErrShareUnusable) {
		return nil, &unsettledError{openErr}
	}
	if r.sameEpoch() {
		return b.goBack(ctx, name, id, openErr)
	}
	// Going back is right only if there is something to go back to: with t
	// good shares the current ones may still be the better.
	previous, err := b.store.usable(ctx, &accountRecord{Current: *r.Previous})
	if err != nil {
		return nil, &unsettledError{errors.Join(openErr, err)}
	}
	if err := b.openCheck(ctx, eng, previous); err != nil {
		return nil, &unsettledError{fmt.Errorf("%w; the previous shares were not confirmed either: %w", openErr, err)}
	}
	return b.goBack(ctx, name, id, openErr)
}

// sameEpoch says that the previous shares are those of the current epoch under
// another wrapping key. There is no doubt about them: they were in use until
// they were resealed, and to reseal them they were opened. So to go back to them
// takes no node, and who brings it about by a lie gains nothing.
func (r *accountRecord) sameEpoch() bool {
	return r.Previous != nil && bytes.Equal(r.Current.Record, r.Previous.Record)
}

// goBack replaces the current shares by the previous ones and returns
// errRolledBack with the cause.
func (b *backend) goBack(ctx context.Context, name string, id mpc.EpochID, cause error) (*accountRecord, error) {
	if err := b.step(ctx, stepSettleBack); err != nil {
		return nil, err
	}
	back, err := b.updateAccount(ctx, name, id, func(r *accountRecord) error {
		if r.Previous == nil {
			return errEpochChanged
		}
		r.Current, r.Previous = *r.Previous, nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	b.log.Error("went back to the previous shares", "account", name, "error", cause)
	if err := b.step(ctx, stepSettleWent); err != nil {
		return nil, err
	}
	return back, fmt.Errorf("%w (%w)", errRolledBack, cause)
}

// openCheck has the shares opened as far as the token alone can. It gives that half
// of the time that is left: it waits for nodes that are away, and what follows from
// its outcome takes time as well.
func (b *backend) openCheck(ctx context.Context, eng Engine, a *mpc.Account) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	if a.Record.HasCustody() {
		return b.openOwned(ctx, eng, a)
	}
	return eng.OpenCheck(ctx, *a)
}
