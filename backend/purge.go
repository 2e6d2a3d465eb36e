package backend

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// A deleted account is destroyed when its time has come. That cannot be taken
// back and rests on a clock and on storage, either of which may be wrong, so it
// is done late rather than early. All of this must hold:
//
//   - The server's clock has passed the account's destroy_time, at every look,
//     for an hour of the monotonic clock, which nobody sets; or for as long as the
//     account waits altogether, where that is less. A clock that runs ahead and is
//     set right within the hour destroys nothing, and a server that has just
//     started begins to count anew.
//   - The mount has been open for purgeQuiet.
//   - Storage was not restored, nor is it suspected that it was (see spares.go),
//     within a day, or the account's waiting time where that is less: who restores
//     a snapshot to have an account back needs time to say so. A clock that runs
//     ahead when a server starts raises that suspicion.
//   - The heartbeat was just found to be this server's own.
//   - The account is not frozen: who freezes a deleted account wants it looked at.
//   - The account, read once more under its lock, is still deleted as it was.
//
// Whoever cannot wait uses destroy/:name.
const (
	purgeGrace   = time.Hour
	purgeQuiet   = 3 * time.Minute
	restoreGrace = 24 * time.Hour
	purgeBatch   = 50 // accounts destroyed at one look, once a minute
	tendTimeout  = 30 * time.Second
)

// graveyard remembers deleted accounts and since when they are due. It is a hint:
// what is stored counts. Its methods may be called concurrently.
type graveyard struct {
	mu      sync.Mutex
	deleted map[string]*grave // by account name
	// touched are names that set or forget were told about before all accounts
	// were listed once; found knows less. Nil after that.
	touched map[string]struct{}
}

type grave struct {
	id      string
	deleted deletedRecord
	frozen  bool
	due     bool
	since   time.Duration // monotonic; since when it has been due at every look
}

// wait is the whole time from deletion to destruction.
func (g *grave) wait() time.Duration { return g.deleted.Destroy.Sub(g.deleted.Time) }

func newGraveyard() *graveyard {
	return &graveyard{deleted: map[string]*grave{}, touched: map[string]struct{}{}}
}

// set tells about an account as it was stored just now.
func (y *graveyard) set(name string, r *accountRecord) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.touchLocked(name)
	y.setLocked(name, r)
}

// found tells about an account that was read while all were listed. What set and
// forget said is newer.
func (y *graveyard) found(name string, r *accountRecord) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if _, newer := y.touched[name]; !newer {
		y.setLocked(name, r)
	}
}

func (y *graveyard) setLocked(name string, r *accountRecord) {
	if r.Deleted == nil {
		delete(y.deleted, name)
		return
	}
	if g := y.deleted[name]; g != nil && g.id == r.ID && g.deleted.same(r.Deleted) {
		g.frozen = r.Frozen != nil
		return
	}
	y.deleted[name] = &grave{id: r.ID, deleted: *r.Deleted, frozen: r.Frozen != nil}
}

func (d *deletedRecord) same(o *deletedRecord) bool {
	return o != nil && d.Time.Equal(o.Time) && d.Destroy.Equal(o.Destroy)
}

// forget tells about an account that is gone.
func (y *graveyard) forget(name string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.touchLocked(name)
	delete(y.deleted, name)
}

// listed tells that all accounts have been found.
func (y *graveyard) listed() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.touched = nil
}

func (y *graveyard) touchLocked(name string) {
	if y.touched != nil {
		y.touched[name] = struct{}{}
	}
}

// anyPast says whether an account's destroy_time has passed by this clock.
func (y *graveyard) anyPast(now time.Time) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, g := range y.deleted {
		if !now.Before(g.deleted.Destroy) && !g.frozen {
			return true
		}
		g.due = false // the clock was set back
	}
	return false
}

// look returns accounts that may be destroyed, at most purgeBatch, in order.
// restored is when storage was last restored, zero for never; up is monotonic.
func (y *graveyard) look(now time.Time, up time.Duration, restored time.Time) map[string]grave {
	y.mu.Lock()
	defer y.mu.Unlock()
	names := make([]string, 0, len(y.deleted))
	for name := range y.deleted {
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	out := map[string]grave{}
	for _, name := range names {
		g := y.deleted[name]
		at := g.deleted.Destroy
		if hold := restored.Add(min(restoreGrace, g.wait())); !restored.IsZero() && hold.After(at) {
			at = hold
		}
		switch {
		case now.Before(at), g.frozen:
			g.due = false
		case !g.due:
			g.due, g.since = true, up
		case up-g.since >= min(purgeGrace, g.wait()) && up >= purgeQuiet && len(out) < purgeBatch:
			out[name] = *g
		}
	}
	return out
}

// tend finishes renames that were cut off and, where the heartbeat says that
// storage is the one it was, destroys accounts whose time has come. It has no
// effect while another call runs.
func (b *backend) tend(sound bool) {
	b.engMu.Lock()
	skip := b.closed || b.tending || !b.active()
	if !skip {
		b.tending = true
	}
	b.engMu.Unlock()
	if skip {
		return
	}
	defer func() {
		b.engMu.Lock()
		defer b.engMu.Unlock()
		b.tending = false
	}()
	ctx, cancel := context.WithTimeout(b.ctx, tendTimeout)
	defer cancel()
	for _, name := range b.moves.names() {
		if err := b.settleMove(ctx, name); err != nil && b.ctx.Err() == nil {
			b.log.Warn("a rename that was cut off could not be finished, it is tried again in a minute", "account", name, "error", err)
		}
	}
	if sound {
		if err := b.purge(ctx); err != nil && b.ctx.Err() == nil {
			b.log.Warn("deleted accounts stay for now", "error", err)
		}
	}
}

// tendSoon has renames that were cut off finished in the background, if there are
// any.
func (b *backend) tendSoon() {
	b.grave.listed()
	b.engMu.Lock()
	defer b.engMu.Unlock()
	if b.closed || !b.background || !b.active() || len(b.moves.names()) == 0 {
		return
	}
	b.tasks.Go(func() { b.tend(false) })
}

// errNotDeletedSo: an account is not deleted any more, or differently, or frozen.
var errNotDeletedSo = errors.New("the account was restored, frozen, or deleted anew")

// purge destroys what is due.
func (b *backend) purge(ctx context.Context) error {
	if !b.grave.anyPast(b.cfg.now()) {
		return nil
	}
	var restored time.Time
	if r, err := b.store.sparesRecord(ctx); err != nil {
		return err
	} else if r != nil {
		restored = r.Time
	}
	var errs []error
	for name, g := range b.grave.look(b.cfg.now(), b.cfg.elapsed(), restored) {
		if ctx.Err() != nil {
			break // the rest at the next look
		}
		id, err := b.destroyAccount(ctx, name, func(r *accountRecord) error {
			if r.ID != g.id || !g.deleted.same(r.Deleted) || r.Frozen != nil {
				b.grave.set(name, r)
				return errNotDeletedSo
			}
			return nil
		})
		var f *fault
		var moving *movingError
		switch {
		case errors.Is(err, errNotDeletedSo):
		case errors.As(err, &f):
			b.grave.forget(name) // there is no such account
		case errors.As(err, &moving):
			b.moves.note(moving.name, moving.to)
		case err != nil:
			errs = append(errs, err)
		default:
			b.log.Warn("a deleted account was destroyed, since its time was over", "account", name, "account_id", g.id, "destroy_time", rfc3339(g.deleted.Destroy))
			b.forgetPresignatures(ctx, id)
		}
	}
	return errors.Join(errs...)
}
