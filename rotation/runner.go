package rotation

import (
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
)

// Defaults for Config.
const (
	DefaultInterval           = time.Second
	DefaultConcurrency        = 2
	DefaultCatchUpConcurrency = 16
	DefaultTimeout            = 30 * time.Second
	DefaultBackoffMin         = 2 * time.Second
	DefaultBackoffMax         = 5 * time.Minute
)

// ErrGone is returned by a Refresher or Rewrapper for an account that no longer
// exists; the runner forgets it.
var ErrGone = errors.New("the account no longer exists")

// Store knows which accounts there are.
type Store interface {
	// Schedule lists every account of the mount.
	Schedule(ctx context.Context) ([]Record, error)
}

// Refresher refreshes one account. It is called concurrently for different
// accounts and never twice at once for the same one.
type Refresher interface {
	// RefreshAccount returns the account's new schedule state.
	RefreshAccount(ctx context.Context, key string) (Record, error)
}

// Rewrapper seals the shares of one account to the newest wrapping-key version,
// or finishes a rewrap that was not. It is called as a Refresher is, and not
// while the same account is refreshed.
type Rewrapper interface {
	// RewrapAccount returns the account's new schedule state.
	RewrapAccount(ctx context.Context, key string) (Record, error)
}

// Config says how a Runner works. Store, Refresher and Policy are required.
type Config struct {
	Store     Store
	Refresher Refresher
	// Rewrapper may be nil as long as SetWrapping is not called.
	Rewrapper Rewrapper
	Policy    Policy
	// Interval is how often the runner looks at the clock; default 1 s.
	Interval time.Duration
	// Concurrency is how many refreshes and rewraps may run at once where the
	// policy does not say; default 2.
	Concurrency int
	// CatchUpConcurrency is how many may while the runner catches up; default
	// 16. What nodes can do at once is theirs to say.
	CatchUpConcurrency int
	// Timeout ends one refresh or rewrap; default 30 s.
	Timeout time.Duration
	// After a failure an account waits BackoffMin (default 2 s), then twice as
	// long each time up to BackoffMax (default 5 min), with up to a quarter
	// added at random.
	BackoffMin, BackoffMax time.Duration
	// Logger gets one line per failed attempt; default: none.
	Logger hclog.Logger

	now    func() time.Time // default time.Now
	random func() float64   // in [0, 1); default math/rand
}

// Runner refreshes and rewraps accounts when they are due. Its methods may be
// called concurrently and none waits for a refresh but Stop.
type Runner struct {
	cfg  Config
	kick chan struct{} // capacity 1: something may be due

	mu       sync.Mutex
	policy   Policy
	wrapping Wrapping
	limiter  *rate.Limiter
	items    map[string]*item
	queue    queue
	running  int
	loaded   bool
	loadAt   time.Time           // of the next attempt to load, after a failure
	touched  map[string]struct{} // keys set or removed since loading began
	catchUp  CatchUp
	counts   counts

	cancel context.CancelFunc // set by Start
	done   chan struct{}      // closed when everything has ended
	work   sync.WaitGroup     // refreshes and rewraps under way
}

// New returns a runner that has not been started.
func New(cfg Config) *Runner {
	if cfg.Interval <= 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	if cfg.CatchUpConcurrency <= 0 {
		cfg.CatchUpConcurrency = DefaultCatchUpConcurrency
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.BackoffMin <= 0 {
		cfg.BackoffMin = DefaultBackoffMin
	}
	if cfg.BackoffMax < cfg.BackoffMin {
		cfg.BackoffMax = max(DefaultBackoffMax, cfg.BackoffMin)
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.random == nil {
		cfg.random = rand.Float64
	}
	return &Runner{
		cfg:     cfg,
		policy:  cfg.Policy,
		limiter: newLimiter(cfg.Policy),
		kick:    make(chan struct{}, 1),
		items:   map[string]*item{},
		touched: map[string]struct{}{},
	}
}

// Start begins work in a goroutine that ends with ctx or Stop. Only the first
// call has an effect; it returns at once, the schedule is loaded behind it.
func (r *Runner) Start(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done != nil {
		return
	}
	ctx, r.cancel = context.WithCancel(ctx)
	r.done = make(chan struct{})
	go func() {
		defer close(r.done)
		defer r.work.Wait()
		r.loop(ctx)
	}()
}

// Stop ends the runner, cancels refreshes under way and waits for them until
// ctx ends. A runner that was stopped cannot be started again.
func (r *Runner) Stop(ctx context.Context) error {
	r.mu.Lock()
	if r.done == nil { // never started: make sure that it never is
		r.done = make(chan struct{})
		close(r.done)
	}
	if r.cancel != nil {
		r.cancel()
	}
	done := r.done
	r.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kick makes the runner look at the clock now.
func (r *Runner) Kick() {
	select {
	case r.kick <- struct{}{}:
	default: // one is waiting already
	}
}

// Set tells the runner about an account that was created, changed, refreshed or
// rewrapped outside of it. It clears back-off and errors.
func (r *Runner) Set(rec Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.touch(rec.Key)
	r.set(rec)
}

// Opened tells the runner that nodes open the account's shares for somebody: it
// is not idle. It is cheap enough to be called for every signature.
func (r *Runner) Opened(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	it := r.items[key]
	if it == nil {
		return // one that is not loaded yet counts as opened
	}
	it.opened = true
	if it.record.Opened {
		return
	}
	it.record.Opened = true
	r.replan(it)
	r.Kick()
}

// Failed tells the runner about a refresh that failed outside of it, so that
// Status shows it. When the account is tried next does not change.
func (r *Runner) Failed(key string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if it := r.items[key]; it != nil {
		it.refresh.lastErr = err
	}
}

// Remove makes the runner forget an account.
func (r *Runner) Remove(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.touch(key)
	r.remove(key)
}

// SetPolicy changes the policy. Accounts in back-off stay there.
func (r *Runner) SetPolicy(p Policy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.Rate != r.policy.Rate {
		r.limiter = newLimiter(p)
	}
	r.policy = p
	r.replanAll()
}

// SetWrapping names the wrapping-key version that every account is to arrive
// at.
func (r *Runner) SetWrapping(w Wrapping) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.Version == r.wrapping.Version && w.Window == r.wrapping.Window && w.Since.Equal(r.wrapping.Since) {
		return
	}
	if w.Version != r.wrapping.Version {
		r.counts.rewrapError = nil
	}
	r.wrapping = w
	r.replanAll()
}

// Policy returns the policy in force.
func (r *Runner) Policy() Policy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.policy
}

func (r *Runner) loop(ctx context.Context) {
	ticker := time.NewTicker(r.cfg.Interval)
	defer ticker.Stop()
	for {
		var token <-chan time.Time // the rate lets the next one through
		if wait := r.step(ctx); wait > 0 {
			token = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-token:
		case <-r.kick:
		}
	}
}

// step loads the schedule if that has not happened yet and starts what is due.
// It returns how long the rate makes the next one wait, 0 for none.
func (r *Runner) step(ctx context.Context) time.Duration {
	if ctx.Err() != nil {
		return 0
	}
	r.load(ctx)
	return r.dispatch(ctx)
}

// load reads the schedule once. Accounts that Set or Remove named meanwhile
// are newer in memory than in the list and stay as they are.
func (r *Runner) load(ctx context.Context) {
	r.mu.Lock()
	skip := r.loaded || r.cfg.now().Before(r.loadAt)
	r.mu.Unlock()
	if skip {
		return
	}
	records, err := r.cfg.Store.Schedule(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.loadAt = r.cfg.now().Add(r.cfg.BackoffMin)
		r.cfg.Logger.Warn("cannot list the accounts to refresh, will try again", "error", err)
		return
	}
	for _, rec := range records {
		if _, newer := r.touched[rec.Key]; !newer {
			rec.Opened = true // whether it is idle was forgotten
			r.set(rec)
		}
	}
	r.loaded, r.touched = true, nil
}

// set stores a record; the caller holds r.mu.
func (r *Runner) set(rec Record) {
	it := r.items[rec.Key]
	if it == nil {
		it = &item{record: rec, pos: -1}
		it.plan(r.policy, r.wrapping)
		r.items[rec.Key] = it
		heap.Push(&r.queue, it)
		return
	}
	if !rec.LastRefresh.After(it.record.LastRefresh) { // no refresh in between
		rec.Opened = rec.Opened || it.record.Opened
	}
	it.record, it.refresh, it.rewrap = rec, task{}, task{}
	if it.catchUp && !it.running {
		it.refresh.at = r.cfg.now()
	}
	r.replan(it)
}

// replan brings an item's place in the queue up to its record; the caller holds
// r.mu.
func (r *Runner) replan(it *item) {
	it.plan(r.policy, r.wrapping)
	if it.pos >= 0 {
		heap.Fix(&r.queue, it.pos)
	}
}

// replanAll does so for all; the caller holds r.mu.
func (r *Runner) replanAll() {
	for _, it := range r.items {
		it.plan(r.policy, r.wrapping)
	}
	heap.Init(&r.queue)
	r.Kick()
}

// remove forgets an account; the caller holds r.mu. A refresh under way notices.
func (r *Runner) remove(key string) {
	it := r.items[key]
	if it == nil {
		return
	}
	delete(r.items, key)
	r.caughtUp(it)
	if it.pos >= 0 {
		heap.Remove(&r.queue, it.pos)
	}
}

// touch notes that memory knows better than a schedule being loaded; the
// caller holds r.mu.
func (r *Runner) touch(key string) {
	if !r.loaded {
		r.touched[key] = struct{}{}
	}
}
