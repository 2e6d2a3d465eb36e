package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc/pool"
)

// A real token locks after a few wrong PINs. Within a process the pool tries a
// refused PIN once; here it is remembered for the processes that follow, on
// this server and on others, until config/hsm is written again.

// pinStoreTimeout bounds the write; it runs in the background.
const pinStoreTimeout = 10 * time.Second

// pinRefusal returns what is remembered of a configuration, nil for nothing.
func (s *store) pinRefusal(ctx context.Context, conf *hsmRecord) (*pinRefusalRecord, error) {
	r := &pinRefusalRecord{}
	ok, err := s.get(ctx, keyPINRefusal, r)
	if err != nil || !ok || !r.Configuration.Equal(conf.Updated) {
		return nil, err
	}
	return r, nil
}

func (r *pinRefusalRecord) err() error {
	kind := pool.ErrPINIncorrect
	if r.Locked {
		kind = pool.ErrPINLocked
	}
	return fmt.Errorf("%w on %s and was not tried again: write config/hsm with the right one", kind, rfc3339(r.Time))
}

// pinRefused is called by the engine. It stores the refusal in the background.
func (b *backend) pinRefused(accepted time.Time, reason error) {
	if !errors.Is(reason, pool.ErrPINIncorrect) && !errors.Is(reason, pool.ErrPINLocked) {
		return
	}
	b.engMu.Lock()
	defer b.engMu.Unlock()
	if b.closed || !b.active() {
		return
	}
	b.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), pinStoreTimeout)
		defer cancel()
		locked := errors.Is(reason, pool.ErrPINLocked)
		kind := pool.ErrPINIncorrect
		if locked {
			kind = pool.ErrPINLocked
		}
		r := &pinRefusalRecord{Version: recordVersion, Configuration: accepted, Time: b.cfg.now().UTC(), Reason: kind.Error(), Locked: locked}
		if err := b.store.put(ctx, keyPINRefusal, r); err != nil {
			b.log.Error("that the token refused the PIN could not be stored; a restart would try it once more", "error", err)
		}
	})
}
