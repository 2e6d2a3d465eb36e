package backend

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

const (
	defaultPresignInterval = 15 * time.Second
	// presignTimeout ends the making of one presignature, which takes about
	// two seconds of processor time per signer; presignRetryTimeout that of an
	// account that failed before, whose nodes may be away.
	presignTimeout      = time.Minute
	presignRetryTimeout = 15 * time.Second
	// An account whose presigning failed waits presignBackoffMin, then twice as
	// long each time up to presignBackoffMax.
	presignBackoffMin = 10 * time.Second
	presignBackoffMax = 5 * time.Minute
	// presignOverdue is how long the others may go first after that.
	presignOverdue = time.Minute
)

// presignSource is what the presigner needs of the backend.
type presignSource interface {
	// presignEngine returns the engine, started if need be.
	presignEngine(ctx context.Context) (presignEngine, error)
	// presignAccount reads an account anew; nil for one that is gone or does not
	// sign.
	presignAccount(ctx context.Context, name string) (*presignAccount, error)
}

// presignEngine is what it needs of the engine; see Engine.
type presignEngine interface {
	Presign(ctx context.Context, r pool.PresignRequest) error
	Presignatures(id mpc.AccountID, recordHash [32]byte) int
	ForgetPresignatures(ctx context.Context, id mpc.AccountID)
}

// presignAccount is an account as it is in storage.
type presignAccount struct {
	depth   int
	request pool.PresignRequest
}

type presignConfig struct {
	Source presignSource
	// Interval is how often every account is looked at, whether or not
	// something happened to it; default 15 s.
	Interval time.Duration
	Logger   hclog.Logger
	now      func() time.Time
}

// presigner keeps as many presignatures of each account as its presign setting
// asks for. It makes one at a time, in turn for the accounts that lack some: a
// presignature keeps processors busy for seconds, and people's requests come
// first. An account that fails waits by itself. What the presigner remembers is
// a hint of what to look at; before it makes one, it reads the account.
//
// Its methods may be called concurrently; only stop waits for anything.
type presigner struct {
	cfg  presignConfig
	wake chan struct{} // capacity 1: the queue may have grown

	mu       sync.Mutex
	accounts map[string]*stocked // by name, those with presign > 0
	names    map[mpc.AccountID]string
	queue    []*stocked // to look at, each account at most once
	started  bool
	touched  map[string]struct{} // names set or removed before all were listed
	cancel   context.CancelFunc
	done     chan struct{}
}

// stocked is an account with presign > 0. Its fields belong to presigner.mu.
type stocked struct {
	name       string
	id         mpc.AccountID
	recordHash [32]byte
	depth      int
	queued     bool
	failures   int
	notBefore  time.Time
}

func newPresigner(cfg presignConfig) *presigner {
	if cfg.Interval <= 0 {
		cfg.Interval = defaultPresignInterval
	}
	return &presigner{
		cfg:      cfg,
		wake:     make(chan struct{}, 1),
		accounts: map[string]*stocked{},
		names:    map[mpc.AccountID]string{},
		touched:  map[string]struct{}{},
		done:     make(chan struct{}),
	}
}

// start begins work in a goroutine that ends with ctx or stop. Only the first
// call has an effect.
func (p *presigner) start(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started {
		return
	}
	p.started = true
	ctx, p.cancel = context.WithCancel(ctx)
	go func() {
		defer close(p.done)
		p.loop(ctx)
	}()
}

// stop ends the work and waits for it until ctx ends. A presigner that was
// stopped cannot be started.
func (p *presigner) stop(ctx context.Context) error {
	p.mu.Lock()
	if !p.started {
		p.started = true
		close(p.done)
	}
	if p.cancel != nil {
		p.cancel()
	}
	p.mu.Unlock()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// set tells about an account that was created, changed or refreshed.
func (p *presigner) set(name string, r *accountRecord) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touchLocked(name)
	p.setLocked(name, r)
}

// found tells about an account that was read while all were listed. What set
// and remove said is newer.
func (p *presigner) found(name string, r *accountRecord) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, newer := p.touched[name]; !newer {
		p.setLocked(name, r)
	}
}

// listed tells that all accounts have been found.
func (p *presigner) listed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touched = nil
}

func (p *presigner) touchLocked(name string) {
	if p.touched != nil {
		p.touched[name] = struct{}{}
	}
}

func (p *presigner) setLocked(name string, r *accountRecord) {
	if r.Presign == 0 || r.state() != stateActive || r.left(name) {
		p.removeLocked(name)
		return
	}
	a, err := r.Current.account()
	if err != nil { // what was read or written just now can be read
		p.cfg.Logger.Error("no presignatures are made of an account that cannot be read", "account", name, "error", err)
		return
	}
	s := p.accounts[name]
	if s == nil || s.id != a.Record.AccountID {
		p.removeLocked(name)
		s = &stocked{name: name, id: a.Record.AccountID}
		p.accounts[name], p.names[s.id] = s, name
	}
	s.recordHash, s.depth = a.Record.Hash(), r.Presign
	s.failures, s.notBefore = 0, time.Time{}
	p.enqueueLocked(s)
}

// remove tells about an account that was destroyed.
func (p *presigner) remove(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touchLocked(name)
	p.removeLocked(name)
}

func (p *presigner) removeLocked(name string) {
	if s := p.accounts[name]; s != nil {
		delete(p.accounts, name)
		delete(p.names, s.id)
		s.depth = 0 // if it is in the queue
	}
}

// used tells that an account's stock has become smaller.
func (p *presigner) used(id mpc.AccountID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.accounts[p.names[id]]; s != nil {
		p.enqueueLocked(s)
	}
}

func (p *presigner) enqueueLocked(s *stocked) {
	if s.queued {
		return
	}
	s.queued = true
	p.queue = append(p.queue, s)
	select {
	case p.wake <- struct{}{}:
	default: // one is waiting already
	}
}

// next takes the first account out of the queue that still wants presignatures
// and is not waiting after a failure. Those that have failed come after the
// others, since trying them may take long, but not for ever.
func (p *presigner) next() (s *stocked, failures int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.now()
	p.queue = slices.DeleteFunc(p.queue, func(s *stocked) bool {
		idle := s.depth == 0 || now.Before(s.notBefore)
		if idle {
			s.queued = false
		}
		return idle
	})
	if len(p.queue) == 0 {
		return nil, 0
	}
	i := max(slices.IndexFunc(p.queue, func(s *stocked) bool {
		return s.failures == 0 || now.Sub(s.notBefore) >= presignOverdue
	}), 0)
	s = p.queue[i]
	p.queue = slices.Delete(p.queue, i, i+1)
	s.queued = false
	return s, s.failures
}

func (p *presigner) loop(ctx context.Context) {
	ticker := time.NewTicker(p.cfg.Interval)
	defer ticker.Stop()
	for {
		p.work(ctx)
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-ticker.C:
			p.all()
		}
	}
}

// all puts every account into the queue.
func (p *presigner) all() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.accounts {
		p.enqueueLocked(s)
	}
}

// work empties the queue.
func (p *presigner) work(ctx context.Context) {
	for ctx.Err() == nil {
		s, failures := p.next()
		if s == nil {
			return
		}
		limit := presignTimeout
		if failures > 0 {
			limit = presignRetryTimeout
		}
		made, err := p.replenish(ctx, s, limit)
		p.mu.Lock()
		switch {
		case err != nil && ctx.Err() == nil:
			p.failedLocked(s, err)
		case made:
			s.failures = 0
			p.enqueueLocked(s) // behind the others
		}
		p.mu.Unlock()
	}
}

// failedLocked makes an account wait.
func (p *presigner) failedLocked(s *stocked, err error) {
	if waits(err) {
		return // the slow timer comes back to it
	}
	s.failures++
	wait := presignBackoffMin
	for i := 1; i < s.failures && wait < presignBackoffMax; i++ {
		wait *= 2
	}
	wait = min(wait, presignBackoffMax)
	s.notBefore = p.cfg.now().Add(wait)
	p.cfg.Logger.Warn("no presignature was made, the account signs without", "account", s.name, "failures", s.failures, "wait", wait.String(), "error", err)
}

// waits tells a state that passes by itself from a failure.
func waits(err error) bool {
	var aux *pool.AuxPendingError
	var busy *pool.BusyError
	return errors.As(err, &aux) || errors.As(err, &busy) || errors.Is(err, errEpochChanged) ||
		errors.Is(err, pool.ErrNotConfigured) || errors.Is(err, pool.ErrClosed)
}

// replenish makes one presignature if the account lacks any.
func (p *presigner) replenish(ctx context.Context, s *stocked, limit time.Duration) (made bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	eng, err := p.cfg.Source.presignEngine(ctx)
	if err != nil {
		return false, err
	}
	if id, hash, depth := p.hint(s); depth == 0 || eng.Presignatures(id, hash) >= depth {
		return false, nil
	}
	a, err := p.cfg.Source.presignAccount(ctx, s.name)
	if err != nil {
		return false, err
	}
	if !p.correct(s, a) {
		return false, nil
	}
	record := &a.request.Account.Record
	if eng.Presignatures(record.AccountID, record.Hash()) >= a.depth {
		return false, nil
	}
	err = eng.Presign(ctx, a.request)
	if _, _, depth := p.hint(s); depth == 0 {
		// Not wanted any more by now: nobody else knows of this one.
		eng.ForgetPresignatures(ctx, s.id)
		return false, nil
	}
	return err == nil, err
}

// hint returns what is remembered of an account; depth 0 once it was removed.
func (p *presigner) hint(s *stocked) (mpc.AccountID, [32]byte, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.id, s.recordHash, s.depth
}

// correct brings what is remembered up to what was read, and reports whether
// the account still wants presignatures.
func (p *presigner) correct(s *stocked, a *presignAccount) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s.depth == 0: // removed meanwhile
		return false
	case a == nil || a.depth == 0 || a.request.Account.Record.AccountID != s.id:
		p.removeLocked(s.name)
		return false
	}
	s.depth, s.recordHash = a.depth, a.request.Account.Record.Hash()
	return true
}
