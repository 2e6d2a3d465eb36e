package backend

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"vault-plugin-secrets-mpc/rotation"
)

// scheduleOf is an account as the rotation runner sees it. An envelope that
// cannot be read counts as sealed to no version: that its rewrap fails is then
// there to be seen.
func scheduleOf(name string, r *accountRecord) rotation.Record {
	return rotation.Record{
		Key:         name,
		LastRefresh: r.Current.Started,
		Period:      time.Duration(r.RefreshPeriod) * time.Second,
		Sealed:      envelopeRefs(r.Current.Shares).sealed,
		Unsettled:   r.Previous != nil,
		ByOwner:     r.Custody != nil,
	}
}

// RefreshAccount implements rotation.Refresher.
func (b *backend) RefreshAccount(ctx context.Context, name string) (rotation.Record, error) {
	if err := b.awaits(ctx, name); err != nil {
		return rotation.Record{}, b.goneOr(err)
	}
	res, err := b.refreshAccount(ctx, name)
	if err != nil {
		return rotation.Record{}, b.goneOr(err)
	}
	b.stock.set(name, res.record)
	return scheduleOf(name, res.record), nil
}

// goneOr turns "no such account" into what the runner understands. One that has
// left for another name is told to the runner under that name by who finishes
// the move: tend, if nobody else knows of it.
func (b *backend) goneOr(err error) error {
	var f *fault
	var moving *movingError
	if errors.As(err, &moving) {
		b.moves.note(moving.name, moving.to)
		return rotation.ErrGone
	}
	if errors.As(err, &f) && f.status == http.StatusNotFound {
		return rotation.ErrGone
	}
	return err
}

// accountChanged tells those who watch accounts in the background about one
// that was created, changed or refreshed.
func (b *backend) accountChanged(name string, r *accountRecord) {
	b.runner.Set(scheduleOf(name, r))
	b.stock.set(name, r)
	b.grave.set(name, r)
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
	var out []rotation.Record
	ids := map[string]bool{}
	complete, err := b.readAll(ctx, func(name string, r *accountRecord) {
		ids[r.ID] = true
		if r.RenamingTo != "" {
			b.moves.note(name, r.RenamingTo)
		}
		if r.left(name) {
			return // it is scheduled under its new name
		}
		b.stock.found(name, r)
		b.grave.found(name, r)
		out = append(out, scheduleOf(name, r))
	})
	if err != nil {
		return nil, err
	}
	b.stock.listed()
	b.keeper.Kick()
	b.tendSoon()
	for _, id := range orphans {
		if _, err := hex.DecodeString(id); complete && err == nil && !ids[id] {
			if err := b.store.delete(ctx, prefixExposures+id); err != nil {
				b.log.Warn("left-over exposures stay", "error", err)
			}
		}
	}
	return out, nil
}

// readAll reads every account, every node's keys and the identity keys, and brings the references
// up to what is stored. complete is false when an account could not be read, or
// was renamed meanwhile and perhaps not seen; what is damaged is noted as such, and
// only trouble with storage is an error.
func (b *backend) readAll(ctx context.Context, found func(name string, r *accountRecord)) (complete bool, err error) {
	scan, whole := b.store.refs.scan(), false
	defer func() { b.store.refs.end(scan, whole && err == nil) }()
	names, err := b.store.accountNames(ctx)
	if err != nil {
		return false, err
	}
	whole, complete = true, true
	for _, name := range names {
		r, err := b.store.account(ctx, name)
		var damaged *damagedError
		switch {
		case err == nil && r != nil:
			scan.found(prefixAccounts+name, r)
			found(name, r)
		case err == nil:
			// Destroyed meanwhile, or renamed: it may live under a name that was
			// not listed.
			complete = false
		case errors.As(err, &damaged):
			scan.found(prefixAccounts+name, nil)
			complete = false
			b.log.Error("account cannot be read and is not refreshed", "account", name, "error", err)
		case err != nil && ctx.Err() != nil:
			return false, err
		case err != nil: // perhaps only this once
			whole, complete = false, false
			b.log.Error("account cannot be read and is not refreshed", "account", name, "error", err)
		}
	}
	nodes, err := b.store.list(ctx, prefixNodeKeys)
	if err != nil {
		return false, err
	}
	for _, id := range nodes {
		var r nodeKeysRecord
		ok, err := b.store.get(ctx, prefixNodeKeys+id, &r)
		var damaged *damagedError
		switch {
		case err == nil && ok:
			scan.found(prefixNodeKeys+id, &r)
		case errors.As(err, &damaged):
			scan.found(prefixNodeKeys+id, nil)
		case err != nil:
			return false, err
		}
	}
	var logins identityKeysRecord
	ok, err := b.store.get(ctx, keyIdentityKeys, &logins)
	var damaged *damagedError
	switch {
	case errors.As(err, &damaged):
		scan.found(keyIdentityKeys, nil)
	case err != nil:
		return false, err
	case ok:
		scan.found(keyIdentityKeys, &logins)
	}
	return complete, nil
}
