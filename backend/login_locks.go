package backend

import (
	"context"
	"time"
)

// lockWriteTimeout bounds one pass of writing locks.
const lockWriteTimeout = 10 * time.Second

// newLogins makes what logins and sessions keep in memory.
func (b *backend) newLogins() (err error) {
	if b.tickets, err = newTickets(); err != nil {
		return err
	}
	if b.decoy, err = newDecoy(b.cfg.now()); err != nil {
		return err
	}
	b.loginSlots = make(chan struct{}, maxLoginsAtOnce)
	b.limits = newLimiter(b.cfg.now)
	b.sessions = newSessions(b.cfg.now)
	b.answered = newAnswered(b.cfg.now)
	b.providers = newProviders(b.cfg.now)
	b.codeSlots = make(chan struct{}, maxCodesSent)
	b.lockTurn = make(chan struct{}, 1)
	b.people = newApprovers(func() *limiter { return newLimiter(b.cfg.now) })
	b.hierarchy.ended = b.sessions.endAuthenticator
	b.hierarchy.unlocked = b.loginUnlocked
	return nil
}

// spawn runs f in the background under the mount's context, unless the mount is
// being ended. Clean waits for f.
func (b *backend) spawn(f func(ctx context.Context)) bool {
	b.engMu.Lock()
	defer b.engMu.Unlock()
	if b.closed {
		return false
	}
	b.tasks.Go(func() { f(b.ctx) })
	return true
}

// loginLimits reads a name's lock where it is not in memory yet. It is read for
// names that do not exist too, so that both take the same time.
func (b *backend) loginLimits(ctx context.Context, name string, known bool) error {
	if b.limits.knows(name) {
		return nil
	}
	r := &authenticatorLockRecord{}
	ok, err := b.store.get(ctx, prefixAuthLocks+name, r)
	if err != nil {
		return err
	}
	if !ok || !known {
		r = nil
	}
	b.limits.load(name, known, r)
	return nil
}

// writeLocks brings storage up to date with the limiter, in the background: the
// answer to a login must not take longer because the name exists. What could not be
// written is tried again with the next minute or the next lock.
func (b *backend) writeLocks() {
	select {
	case b.lockTurn <- struct{}{}:
	default:
		return // whoever has the turn looks again before giving it back
	}
	started := b.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, lockWriteTimeout)
		defer cancel()
		err := b.flushLocks(ctx)
		<-b.lockTurn
		if err == nil && b.limits.due() {
			b.writeLocks() // came in while the turn was given back
		}
	})
	if !started {
		<-b.lockTurn
	}
}

// flushLocks writes until nothing is due; whoever calls it has the turn.
func (b *backend) flushLocks(ctx context.Context) error {
	for {
		w, ok := b.limits.next()
		if !ok {
			return nil
		}
		var err error
		if w.record == nil {
			err = b.store.delete(ctx, prefixAuthLocks+w.name)
		} else {
			if w.record.Until.After(w.record.Time) {
				b.log.Warn("an authenticator takes no attempts for a while: too many did not succeed", "authenticator", w.name, "failures", w.record.Failures, "until", rfc3339(w.record.Until))
			}
			err = b.store.put(ctx, prefixAuthLocks+w.name, w.record)
		}
		b.limits.wrote(w, err)
		if err != nil {
			if ctx.Err() == nil {
				b.log.Warn("the lock of an authenticator was not stored; it holds in memory, and storing it is tried again", "authenticator", w.name, "error", err)
			}
			return err
		}
	}
}

// loginUnlocked is told that somebody who runs the mount has removed a name's lock
// from storage. A lock that was just being written may have come after that, so it
// is removed once more.
func (b *backend) loginUnlocked(name string) {
	b.limits.reset(name)
	b.writeLocks()
}
