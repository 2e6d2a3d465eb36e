package backend

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"
)

const (
	// adoptPoll is how often a fresh node is looked at.
	adoptPoll = 25 * time.Millisecond
	// adoptMargin is what an answer keeps of a request's time.
	adoptMargin = 500 * time.Millisecond
)

// adoptDomain sees to it that a domain which came into use with a fresh node has its
// wrapping key, as far as the request has time for it: the node has to connect
// first. The keeper does the same in the background; both are right.
func (b *backend) adoptDomain(ctx context.Context, domain string) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-adoptMargin))
		defer cancel()
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return err
	}
	poll := time.NewTicker(adoptPoll)
	defer poll.Stop()
	for {
		done, err := b.hasDomain(ctx, domain)
		if err == nil && done {
			return nil
		}
		if err == nil {
			if err = domainReady(eng, domain); err == nil {
				err = b.joinDomain(ctx, domain)
			}
		}
		var away *domainAwayError
		var busy *fault
		switch {
		case err == nil, errors.As(err, &away):
		case errors.As(err, &busy) && busy.status == http.StatusConflict: // the keeper is at it
		default:
			return err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return err
		}
	}
}

// hasDomain reports whether the newest version of the wrapping key has a key in the
// domain.
func (b *backend) hasDomain(ctx context.Context, domain string) (bool, error) {
	ring, err := b.store.keyring(ctx)
	if err != nil {
		return false, err
	}
	return ring.newest() != nil && !slices.Contains(ring.lacking(), domain), nil
}
