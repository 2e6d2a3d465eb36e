package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Bounds of one pass over old answers. One is begun every minute.
const (
	maxExpired      = 20000
	expireTimeout   = 45 * time.Second
	maxExpireErrors = 10
	// expireBehind is how many deletions go side by side while more than an hour
	// waits: Raft writes them in one go. One after the other may be slower than
	// answers are stored.
	expireBehind = 16
)

// expire deletes hours that lie wholly before signedFor ago, the earliest first,
// and what a pass leaves is found by the next one. After each deletion it rests
// as long as that took, so that it uses at most half of what storage does for
// one writer: some hundred a second on Raft, and more while it is behind.
func (s *signedRequests) expire(ctx context.Context) (deleted int, err error) {
	oldest := hourOf(s.cfg.now().Add(-signedFor))
	s.index.forget(oldest)
	hours, err := s.cfg.Store.signedHours(ctx)
	if err != nil {
		return 0, err
	}
	var failures []error
	for _, hour := range hours {
		if hour >= oldest {
			break
		}
		names, err := s.cfg.Store.list(ctx, signedFolder(hour))
		if err != nil {
			return deleted, errors.Join(append(failures, err)...)
		}
		width := 1
		if hour < oldest-1 {
			width = expireBehind
		}
		for some := range slices.Chunk(names, width) {
			some = some[:min(len(some), maxExpired-deleted)]
			if len(some) == 0 || len(failures) >= maxExpireErrors {
				return deleted, errors.Join(failures...)
			}
			began := time.Now()
			errs := make([]error, len(some))
			sideBySide(len(some), width, func(i int) { errs[i] = s.cfg.Store.delete(ctx, signedFolder(hour)+some[i]) })
			for _, err := range errs {
				if err != nil {
					failures = append(failures, err) // it is tried again by the next pass
				} else {
					deleted++
				}
			}
			if err := rest(ctx, time.Since(began)); err != nil {
				return deleted, errors.Join(append(failures, err)...)
			}
		}
	}
	return deleted, errors.Join(failures...)
}

// rest waits, or fails when ctx ends.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stopped: %w", ctx.Err())
	}
}

// expireSigned deletes old answers in the background, unless that is still being
// done.
func (b *backend) expireSigned() {
	b.engMu.Lock()
	defer b.engMu.Unlock()
	if b.closed || b.expiring || !b.active() {
		return
	}
	b.expiring = true
	b.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(b.ctx, expireTimeout)
		defer cancel()
		deleted, err := b.signed.expire(ctx)
		if err != nil && ctx.Err() == nil {
			b.log.Warn("not all answers older than a day were deleted; what is left is tried again", "deleted", deleted, "error", err)
		} else if deleted > 0 {
			b.log.Debug("answers older than a day were deleted", "count", deleted)
		}
		b.engMu.Lock()
		defer b.engMu.Unlock()
		b.expiring = false
	})
}
