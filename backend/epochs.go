package backend

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/rotation"
)

// The life of a share epoch. An account's entry holds the current epoch and,
// for a while, the one before it:
//
//	{current: e}                    in use
//	{current: e+1, previous: e}     promoted: one Put, after all n nodes agreed
//	{current: e+1}                  every share of e+1 was opened once
//	{current: e}                    or one did not open, and all of e do
//
// Each arrow is one Put of one entry. A crash between two of them leaves an
// account that signs; what is left to do is done by the next refresh, or when
// a signature meets a share that does not open.

// maxShareEnvelope bounds one wrapped share in bytes. An envelope of one
// recipient has a few hundred.
const maxShareEnvelope = 16 << 10

// errRolledBack: a refresh was undone because a node stored a share that does
// not open. The account goes on with its previous shares.
var errRolledBack = errors.New("a share of the new epoch did not open: the account keeps its previous shares")

// errNoSpares: a node was about to be handed a share that it is not known to
// have, in an epoch that gets no spares.
var errNoSpares = fmt.Errorf("%w: no spare node may take a share over before the next refresh", errEpochChanged)

// unsettledError: whether the current epoch opens could not be found out.
type unsettledError struct{ err error }

func (e *unsettledError) Error() string {
	return "the shares of the last refresh are in use but could not be checked, the previous ones are kept: " + e.err.Error()
}
func (e *unsettledError) Unwrap() error { return e.err }

func (b *backend) lockAccount(name string) func() {
	l := locksutil.LockForKey(b.accountLocks, name)
	l.Lock()
	return l.Unlock
}

// updateAccount changes an account's entry by one Put. It fails with
// errEpochChanged when the account is not in the given epoch any more.
func (b *backend) updateAccount(ctx context.Context, name string, id mpc.EpochID, change func(*accountRecord) error) (*accountRecord, error) {
	defer b.lockAccount(name)()
	r, err := b.store.account(ctx, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errEpochChanged
	}
	if current, err := r.Current.account(); err != nil {
		return nil, err
	} else if current.Record.EpochID != id {
		return nil, errEpochChanged
	}
	if err := change(r); err != nil {
		return nil, err
	}
	if err := b.store.putAccount(ctx, name, r); err != nil {
		return nil, err
	}
	return r, nil
}

// expose returns the callback that the engine calls before it hands a share
// to a node for the first time in the epoch.
func (b *backend) expose(name string, record *mpc.PublicRecord) func(context.Context, mpc.Exposures) error {
	return func(ctx context.Context, wanted mpc.Exposures) error {
		defer b.lockAccount(name)()
		r, err := b.store.account(ctx, name)
		if err != nil {
			return err
		}
		if r == nil {
			return errEpochChanged
		}
		start, err := r.Current.account()
		if err != nil {
			return err
		}
		// The epoch ID is random, so it identifies the account as well.
		if start.Record.EpochID != record.EpochID {
			return errEpochChanged
		}
		added, err := b.store.addedExposures(ctx, &start.Record)
		if err != nil {
			return err
		}
		merged := maps.Clone(added)
		if merged == nil {
			merged = mpc.Exposures{}
		}
		for node, index := range wanted {
			if index < 1 || int(index) > start.Record.Shares {
				return fmt.Errorf("share %d of %d cannot be exposed", index, start.Record.Shares)
			}
			seen, ok := start.Exposures[node]
			if !ok {
				seen, ok = merged[node]
			}
			if ok && seen != index {
				current := maps.Clone(start.Exposures)
				maps.Copy(current, added)
				return &pool.ExposedError{Node: node, Seen: seen, Want: index, Current: current}
			}
			if !ok {
				merged[node] = index
			}
		}
		if len(merged) == len(added) {
			return nil
		}
		// The request may have been read before a restore was declared.
		if !b.spares.allow(ctx, r.Current.Lineage) {
			return errNoSpares
		}
		return b.store.putExposures(ctx, &start.Record, merged)
	}
}

// epochFrom checks the shape of what the engine returned and makes an epoch
// of it. The nodes have checked the mathematics; this guards the one write
// that replaces good shares.
func epochFrom(res *pool.KeyResult, started time.Time, lineage string) (*epochRecord, error) {
	record := &res.Account.Record
	if err := record.Check(); err != nil {
		return nil, err
	}
	if len(res.Account.Shares) != record.Shares || len(res.Certificate) != record.Shares || res.WrappingVersion == 0 {
		return nil, fmt.Errorf("nodes returned %d shares and %d endorsements for %d shares", len(res.Account.Shares), len(res.Certificate), record.Shares)
	}
	e := &epochRecord{
		Record:          record.Marshal(),
		Exposures:       formatExposures(res.Account.Exposures),
		WrappingVersion: res.WrappingVersion,
		Started:         started,
		Lineage:         lineage,
	}
	for i, s := range res.Account.Shares {
		if int(s.Index) != i+1 || len(s.Envelope) == 0 || len(s.Envelope) > maxShareEnvelope {
			return nil, fmt.Errorf("nodes returned no usable envelope for share %d", i+1)
		}
		e.Shares = append(e.Shares, s.Envelope)
	}
	holders := map[mpc.Index]bool{}
	for _, index := range res.Account.Exposures {
		holders[index] = true
	}
	for i := 1; i <= record.Shares; i++ {
		if !holders[mpc.Index(i)] {
			return nil, fmt.Errorf("nodes did not say which of them made share %d", i)
		}
	}
	e.Certificate = endorsements(res.Certificate)
	// What is written must be what can be read.
	if _, err := e.account(); err != nil {
		return nil, err
	}
	return e, nil
}

func endorsements(in []pool.Endorsement) []endorsementRecord {
	out := make([]endorsementRecord, len(in))
	for i, c := range in {
		out[i] = endorsementRecord{Node: c.NodeID, Identity: c.Identity.String(), Signature: c.Signature}
	}
	return out
}

// checkSuccessor verifies that next is the epoch after old of the same key.
func checkSuccessor(old, next *mpc.PublicRecord) error {
	switch {
	case next.AccountID != old.AccountID:
		return errors.New("refresh returned another account")
	case next.Algorithm != old.Algorithm || next.Threshold != old.Threshold || next.Shares != old.Shares:
		return errors.New("refresh returned another algorithm or sharing")
	case !bytes.Equal(next.PublicKey, old.PublicKey) || next.ChainCode != old.ChainCode:
		return errors.New("refresh returned another key")
	case next.RecipientsHash != old.RecipientsHash || next.PolicyHash != old.PolicyHash:
		return errors.New("refresh returned other recipients or another policy")
	case next.Epoch != old.Epoch+1 || next.EpochID == old.EpochID:
		return fmt.Errorf("refresh returned epoch %d after %d", next.Epoch, old.Epoch)
	}
	for i := range next.PublicShares {
		if bytes.Equal(next.PublicShares[i], old.PublicShares[i]) {
			return fmt.Errorf("refresh left share %d as it was", i+1)
		}
	}
	return nil
}

// refreshed is the outcome of refreshAccount.
type refreshed struct {
	record    *accountRecord
	sessionID mpc.SessionID
	// unchecked is set when the new shares are in use but not yet settled.
	unchecked error
}

// refreshAccount gives an account new shares, one call at a time per account.
func (b *backend) refreshAccount(ctx context.Context, name string) (*refreshed, error) {
	release, err := b.busy.reserve(prefixAccounts+name, "is being refreshed")
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	if r.Previous != nil { // left over: one step back must remain possible
		if r, err = b.settle(ctx, eng, name, r); err != nil && !errors.Is(err, errRolledBack) {
			return nil, err
		}
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
	res, err := eng.Refresh(ctx, pool.RefreshRequest{Account: *old, Expose: b.expose(name, &old.Record)})
	if err != nil {
		return nil, err
	}
	next, err := epochFrom(res, b.cfg.now().UTC(), lineage)
	if err != nil {
		return nil, fmt.Errorf("the refresh is void, the account keeps its shares: %w", err)
	}
	if err := checkSuccessor(&old.Record, &res.Account.Record); err != nil {
		return nil, fmt.Errorf("the refresh is void, the account keeps its shares: %w", err)
	}
	r, err = b.updateAccount(ctx, name, old.Record.EpochID, func(r *accountRecord) error {
		// Exposures of the old epoch have grown, and their entry will soon
		// belong to the new epoch: fold them in for the way back.
		previous := r.Current
		all, err := b.store.usable(ctx, r)
		if err != nil {
			return err
		}
		previous.Exposures = formatExposures(all.Exposures)
		r.Current, r.Previous = *next, &previous
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := &refreshed{record: r, sessionID: res.SessionID}
	settled, err := b.settle(ctx, eng, name, r)
	var unsettled *unsettledError
	switch {
	case errors.As(err, &unsettled):
		b.log.Warn("refresh is not settled yet", "account", name, "error", err)
		out.unchecked = err
	case err != nil:
		return nil, err
	default:
		out.record = settled
	}
	return out, nil
}

// settle ends the time of two epochs: it has every share of the current one
// opened and then drops the previous, or goes back to it when a share does not
// open. After going back it returns the account and errRolledBack. When it
// cannot find out, the entry stays as it is and the error is unsettledError.
// The caller has reserved the account.
func (b *backend) settle(ctx context.Context, eng Engine, name string, r *accountRecord) (*accountRecord, error) {
	current, err := b.store.usable(ctx, r)
	if err != nil {
		return nil, err
	}
	id := current.Record.EpochID
	openErr := openCheck(ctx, eng, current)
	if openErr == nil {
		settled, err := b.updateAccount(ctx, name, id, func(r *accountRecord) error {
			r.Previous = nil
			return nil
		})
		if err != nil && !errors.Is(err, errEpochChanged) {
			return nil, &unsettledError{err}
		}
		return settled, err
	}
	if !errors.Is(openErr, pool.ErrShareUnusable) {
		return nil, &unsettledError{openErr}
	}
	// Going back is right only if there is something to go back to: with t
	// good shares the current epoch may still be the better one.
	previous, err := r.Previous.account()
	if err != nil {
		return nil, &unsettledError{errors.Join(openErr, err)}
	}
	if err := openCheck(ctx, eng, previous); err != nil {
		return nil, &unsettledError{fmt.Errorf("%w; the previous shares were not confirmed either: %w", openErr, err)}
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
	b.log.Error("refresh rolled back", "account", name, "error", openErr)
	return back, fmt.Errorf("%w (%w)", errRolledBack, openErr)
}

// openCheck gives a check half of the time that is left. It waits for nodes
// that are away, and what follows from its outcome takes time as well.
func openCheck(ctx context.Context, eng Engine, a *mpc.Account) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return eng.OpenCheck(ctx, *a)
}

// needAccount reads an account that the caller says exists.
func (b *backend) needAccount(ctx context.Context, name string) (*accountRecord, error) {
	r, err := b.store.account(ctx, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, noAccount(name)
	}
	return r, nil
}

func noAccount(name string) error {
	return unknown("there is no account %q: list accounts/ for the accounts there are", name)
}

// scheduleOf is an account as the rotation runner sees it.
func scheduleOf(name string, r *accountRecord) rotation.Record {
	return rotation.Record{
		Key:         name,
		LastRefresh: r.Current.Started,
		Period:      time.Duration(r.RefreshPeriod) * time.Second,
	}
}

// RefreshAccount implements rotation.Refresher.
func (b *backend) RefreshAccount(ctx context.Context, name string) (rotation.Record, error) {
	res, err := b.refreshAccount(ctx, name)
	var f *fault
	if errors.As(err, &f) && f.status == 404 {
		return rotation.Record{}, rotation.ErrGone
	}
	if err != nil {
		return rotation.Record{}, err
	}
	b.stock.set(name, res.record)
	return scheduleOf(name, res.record), nil
}

// accountChanged tells those who watch accounts in the background about one
// that was created, changed or refreshed.
func (b *backend) accountChanged(name string, r *accountRecord) {
	b.runner.Set(scheduleOf(name, r))
	b.stock.set(name, r)
}

// Schedule implements rotation.Store. An account that cannot be read is
// reported and left out, so that it does not hold up the others. Exposures
// that a crash during destruction left behind are removed on the way.
func (b *backend) Schedule(ctx context.Context) ([]rotation.Record, error) {
	// Listed first: an account created later is not taken for missing.
	orphans, err := b.store.list(ctx, prefixExposures)
	if err != nil {
		return nil, err
	}
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return nil, err
	}
	var out []rotation.Record
	ids, complete := map[string]bool{}, true
	for _, name := range names {
		r, err := b.store.account(ctx, name)
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			b.log.Error("account cannot be read and is not refreshed", "account", name, "error", err)
			complete = false
			continue
		}
		if r != nil {
			ids[r.ID] = true
			b.stock.found(name, r)
			out = append(out, scheduleOf(name, r))
		}
	}
	b.stock.listed()
	for _, id := range orphans {
		if _, err := hex.DecodeString(id); complete && err == nil && !ids[id] {
			if err := b.store.delete(ctx, prefixExposures+id); err != nil {
				b.log.Warn("left-over exposures stay", "error", err)
			}
		}
	}
	return out, nil
}
