package backend

import (
	"context"
	"sync"
	"time"
)

const (
	defaultWrappingInterval = time.Second
	// wrappingTimeout bounds one turn of the keeper: making an RSA key takes
	// some tokens many seconds.
	wrappingTimeout = 2 * time.Minute
	// What failed waits keeperBackoffMin, then twice as long each time up to
	// keeperBackoffMax.
	keeperBackoffMin = 5 * time.Second
	keeperBackoffMax = 10 * time.Minute
)

type keeperConfig struct {
	// Pass does what is due. It is called by one goroutine.
	Pass func(ctx context.Context)
	// Interval is how often it is called; default 1 s.
	Interval time.Duration
	now      func() time.Time
}

// keeper looks after the wrapping key: one goroutine that makes versions when
// they are due and destroys those that nothing needs. It remembers what failed
// and when that is tried again. Its methods may be called concurrently; only
// Stop waits.
type keeper struct {
	cfg  keeperConfig
	kick chan struct{} // capacity 1

	mu     sync.Mutex
	chores map[chore]*choreState
	burnt  uint32 // version numbers up to this may have been stored
	cancel context.CancelFunc
	done   chan struct{}
}

// chore is something the keeper does; version is 0, and node and domain are empty,
// where it is about none.
type chore struct {
	what    string
	version uint32
	node    string
	domain  string
}

const (
	choreMake     = "make"
	choreJoin     = "join"
	choreNodeKeys = "node keys"
	choreScan     = "scan"
	choreRead     = "read"
	choreDestroy  = "destroy"

	choreIdentityKeys = "identity keys"
)

type choreState struct {
	failures  int
	notBefore time.Time
	at        time.Time
	err       error
}

func newKeeper(cfg keeperConfig) *keeper {
	if cfg.Interval <= 0 {
		cfg.Interval = defaultWrappingInterval
	}
	return &keeper{cfg: cfg, kick: make(chan struct{}, 1), chores: map[chore]*choreState{}}
}

// Start begins work in a goroutine that ends with ctx or Stop. Only the first
// call has an effect.
func (k *keeper) Start(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.done != nil {
		return
	}
	ctx, k.cancel = context.WithCancel(ctx)
	k.done = make(chan struct{})
	go func() {
		defer close(k.done)
		ticker := time.NewTicker(k.cfg.Interval)
		defer ticker.Stop()
		for {
			turn, cancel := context.WithTimeout(ctx, wrappingTimeout)
			k.cfg.Pass(turn)
			cancel()
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			case <-k.kick:
			}
		}
	}()
}

// Stop ends the work and waits for it until ctx ends. A keeper that was stopped
// cannot be started.
func (k *keeper) Stop(ctx context.Context) error {
	k.mu.Lock()
	if k.done == nil {
		k.done = make(chan struct{})
		close(k.done)
	}
	if k.cancel != nil {
		k.cancel()
	}
	done := k.done
	k.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kick makes the keeper look now.
func (k *keeper) Kick() {
	select {
	case k.kick <- struct{}{}:
	default: // one is waiting already
	}
}

// ready says whether a chore may be tried, or waits after a failure.
func (k *keeper) ready(c chore) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.chores[c]
	return s == nil || !k.cfg.now().Before(s.notBefore)
}

// ended notes how a chore went.
func (k *keeper) ended(c chore, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		delete(k.chores, c)
		return
	}
	s := k.chores[c]
	if s == nil {
		s = &choreState{}
		k.chores[c] = s
	}
	wait := keeperBackoffMin
	for i := 0; i < s.failures && wait < keeperBackoffMax; i++ {
		wait *= 2
	}
	s.failures++
	s.at, s.err = k.cfg.now(), err
	s.notBefore = s.at.Add(min(wait, keeperBackoffMax))
}

// failure returns why a chore failed last and when; empty where it did not.
func (k *keeper) failure(c chore) (string, time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.chores[c]; s != nil {
		return s.err.Error(), s.at
	}
	return "", time.Time{}
}

// lastFailure returns the latest of all failures.
func (k *keeper) lastFailure() (what chore, text string, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c, s := range k.chores {
		if s.at.After(at) {
			what, text, at = c, s.err.Error(), s.at
		}
	}
	return what, text, at
}

// burn keeps a version number from being used again: whether it was stored is
// not known. highest returns the last number that may have been.
func (k *keeper) burn(version uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.burnt = max(k.burnt, version)
}

func (k *keeper) highest(stored uint32) uint32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return max(k.burnt, stored)
}
