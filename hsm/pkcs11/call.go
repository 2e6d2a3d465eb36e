//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

// outcome is what a call into the module gave.
type outcome[T any] struct {
	value T
	err   error
}

// await runs fn, which may hang in the module, in a goroutine and waits for it
// until ctx ends. finish runs in that goroutine after fn, however long it took;
// delivered says whether the caller got the result, and if not finish disposes
// of it. Close waits for these goroutines through the permits they hold.
func await[T any](ctx context.Context, fn func() (T, error), finish func(v T, err error, delivered bool)) (T, error) {
	results := make(chan outcome[T]) // unbuffered: a result is either taken or disposed of
	gone := make(chan struct{})
	go func() {
		v, err := fn()
		select {
		case results <- outcome[T]{v, err}:
			finish(v, err, true)
		case <-gone:
			finish(v, err, false)
		}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
		close(gone)
		var zero T
		return zero, ended(ctx, "no answer from the token in time")
	}
}

// ended tells a token that is too slow from a caller that went away.
func ended(ctx context.Context, what string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("pkcs11: the caller gave up: %w", context.Canceled)
	}
	return fmt.Errorf("%w: %s: %w; nothing is lost, try again", ErrUnavailable, what, context.DeadlineExceeded)
}

var errClosed = fmt.Errorf("%w: it was closed", ErrUnavailable)

// acquire takes one permit from a channel of permits.
func (t *Token) acquire(ctx context.Context, permits chan struct{}) error {
	select {
	case <-t.done: // first: a closed token must not win by chance
		return errClosed
	default:
	}
	select {
	case <-permits:
		return nil
	case <-t.done:
		return errClosed
	case <-ctx.Done():
		return ended(ctx, "all sessions are busy")
	}
}

// withSession runs op in a session of the pool, holding t.admin too if admin
// is set. Any error of op closes the session, because some modules leave a
// failed operation active in it. discard, which may be nil, disposes of a
// result that came after the caller had left.
func withSession[T any](ctx context.Context, t *Token, admin bool, op func(s p11.SessionHandle) (T, error), discard func(s p11.SessionHandle, v T)) (T, error) {
	var zero T
	if admin {
		if err := t.acquire(ctx, t.admin); err != nil {
			return zero, err
		}
	}
	if err := t.acquire(ctx, t.permits); err != nil {
		if admin {
			t.admin <- struct{}{}
		}
		return zero, err
	}
	var s p11.SessionHandle
	var gen uint64
	opened := false
	return await(ctx, func() (T, error) {
		var err error
		if s, gen, err = t.takeSession(); err != nil {
			return zero, err
		}
		opened = true
		return op(s)
	}, func(v T, err error, delivered bool) {
		if err == nil && !delivered && discard != nil {
			discard(s, v)
		}
		if opened {
			// A call that outlived its caller leaves a session to distrust.
			t.releaseSession(s, gen, err, delivered)
		}
		if admin {
			t.admin <- struct{}{}
		}
		t.permits <- struct{}{}
	})
}

// inside runs op, which uses no session of the pool, in the module. discard,
// which may be nil, disposes of a result that came after the caller had left.
func inside[T any](ctx context.Context, t *Token, op func() (T, error), discard func(v T)) (T, error) {
	if err := t.acquire(ctx, t.permits); err != nil {
		var zero T
		return zero, err
	}
	return await(ctx, op, func(v T, err error, delivered bool) {
		if err == nil && !delivered && discard != nil {
			discard(v)
		}
		t.permits <- struct{}{}
	})
}

// takeSession returns an idle session or opens one. The caller holds a permit.
func (t *Token) takeSession() (p11.SessionHandle, uint64, error) {
	t.mu.Lock()
	gen := t.gen
	if n := len(t.idle); n > 0 {
		s := t.idle[n-1]
		t.idle = t.idle[:n-1]
		t.mu.Unlock()
		return s, gen, nil
	}
	t.mu.Unlock()
	s, err := t.mod.OpenSession(t.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	return s, gen, err
}

func (t *Token) releaseSession(s p11.SessionHandle, gen uint64, err error, delivered bool) {
	t.mu.Lock()
	keep := err == nil && delivered && gen == t.gen
	if keep {
		t.idle = append(t.idle, s)
	}
	t.mu.Unlock()
	// A session the module has forgotten is not closed: its number may belong
	// to a new session by now.
	if !keep && classify(err) != faultSession {
		_ = t.mod.CloseSession(s)
	}
}

// retry runs attempt, and once more after a fault that recovering can cure. A
// call whose session vanishes while it is inside the module fails with a code
// that says nothing; such a code is retried only if the sessions turn out to
// have been lost, and is reported otherwise. What it reports was diagnosed.
func (t *Token) retry(ctx context.Context, attempt func() error) error {
	gen := t.generation()
	err := attempt()
	f := classify(err)
	if !f.recoverable() && f != faultVague {
		return t.diagnose(ctx, err)
	}
	if rerr := t.recover(ctx, f, gen); rerr != nil {
		return t.diagnose(ctx, rerr)
	}
	if f != faultVague || gen != t.generation() {
		err = attempt()
	}
	return t.diagnose(ctx, err)
}

// generation counts how often the sessions were lost.
func (t *Token) generation() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gen
}

// recover makes sure that the process is logged in, and drops what the fault
// made doubtful. gen is the generation that the faulty attempt began in: of
// many calls that lost their sessions at once, the first drops for all.
func (t *Token) recover(ctx context.Context, f fault, gen uint64) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout*adminFactor)
	defer cancel()
	if err := t.acquire(ctx, t.admin); err != nil {
		return err
	}
	_, err := await(ctx, func() (struct{}, error) {
		relogged, err := t.ensureLogin()
		if err == nil && (relogged || (f == faultSession || f == faultDirty) && gen == t.generation()) {
			t.dropSessions()
			t.shared.distrust(relogged)
		}
		return struct{}{}, err
	}, func(struct{}, error, bool) { t.admin <- struct{}{} })
	return err
}

// dropSessions closes the idle sessions, marks those in use for closing, and
// forgets object handles, which do not outlive a login.
func (t *Token) dropSessions() {
	t.mu.Lock()
	idle := t.idle
	t.idle, t.gen = nil, t.gen+1
	clear(t.handles)
	t.mu.Unlock()
	for _, s := range idle {
		if _, err := t.mod.GetSessionInfo(s); err == nil {
			_ = t.mod.CloseSession(s)
		}
	}
}
