package rotation

import (
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Defaults for Config.
const (
	DefaultInterval    = time.Second
	DefaultConcurrency = 2
	DefaultTimeout     = 30 * time.Second
	DefaultBackoffMin  = 2 * time.Second
	DefaultBackoffMax  = 5 * time.Minute
)

// ErrGone is returned by a Refresher for an account that no longer exists; the
// runner forgets it.
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

// Config says how a Runner works. Store, Refresher and Policy are required.
type Config struct {
	Store     Store
	Refresher Refresher
	Policy    Policy
	// Interval is how often the runner looks at the clock; default 1 s.
	Interval time.Duration
	// Concurrency is how many refreshes may run at once; default 2.
	Concurrency int
	// Timeout ends one refresh; default 30 s.
	Timeout time.Duration
	// After a failure an account waits BackoffMin (default 2 s), then twice as
	// long each time up to BackoffMax (default 5 min), with up to a quarter
	// added at random.
	BackoffMin, BackoffMax time.Duration
	// Logger gets one line per failed refresh; default: none.
	Logger hclog.Logger

	now    func() time.Time // default time.Now
	random func() float64   // in [0, 1); default math/rand
}

// Status is what is known about the rotation of one account.
type Status struct {
	// Next is the time of the next attempt.
	Next time.Time
	// LastError is empty after a successful refresh.
	LastError string
	// Failures counts failed attempts in a row.
	Failures int
	// Running says that a refresh is on its way.
	Running bool
}

// Runner refreshes accounts when they are due. Its methods may be called
// concurrently and none waits for a refresh but Stop.
type Runner struct {
	cfg  Config
	kick chan struct{} // capacity 1: something may be due

	mu      sync.Mutex
	policy  Policy
	items   map[string]*item
	queue   queue
	running int
	loaded  bool
	loadAt  time.Time           // of the next attempt to load, after a failure
	touched map[string]struct{} // keys set or removed since loading began

	cancel context.CancelFunc // set by Start
	done   chan struct{}      // closed when everything has ended
	work   sync.WaitGroup     // refreshes under way
}

// New returns a runner that has not been started.
func New(cfg Config) *Runner {
	if cfg.Interval <= 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = DefaultConcurrency
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

// Set tells the runner about an account that was created, changed or
// refreshed outside of it. It clears back-off and error.
func (r *Runner) Set(rec Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.touch(rec.Key)
	r.set(rec)
}

// Failed tells the runner about a refresh that failed outside of it, so that
// Status shows it. When the account is tried next does not change.
func (r *Runner) Failed(key string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if it := r.items[key]; it != nil {
		it.lastErr = err
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
	r.policy = p
	for _, it := range r.items {
		if it.failures == 0 {
			it.at = Next(it.record, p)
		}
	}
	heap.Init(&r.queue)
	r.Kick()
}

// Policy returns the policy in force.
func (r *Runner) Policy() Policy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.policy
}

// Status returns false for an account that the runner does not know.
func (r *Runner) Status(key string) (Status, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	it := r.items[key]
	if it == nil {
		return Status{}, false
	}
	s := Status{Next: it.at, Failures: it.failures, Running: it.running}
	if it.lastErr != nil {
		s.LastError = it.lastErr.Error()
	}
	return s, true
}

func (r *Runner) loop(ctx context.Context) {
	ticker := time.NewTicker(r.cfg.Interval)
	defer ticker.Stop()
	for {
		r.step(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-r.kick:
		}
	}
}

// step loads the schedule if that has not happened yet and starts what is due.
func (r *Runner) step(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	r.load(ctx)
	r.dispatch(ctx)
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
			r.set(rec)
		}
	}
	r.loaded, r.touched = true, nil
}

// dispatch starts refreshes of due accounts, oldest first, up to the limit.
func (r *Runner) dispatch(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.now()
	for r.running < r.cfg.Concurrency && len(r.queue) > 0 && !now.Before(r.queue[0].at) {
		it := heap.Pop(&r.queue).(*item)
		it.running = true
		r.running++
		r.work.Go(func() { r.refresh(ctx, it) })
	}
}

func (r *Runner) refresh(ctx context.Context, it *item) {
	r.mu.Lock()
	key := it.record.Key
	r.mu.Unlock()
	attempt, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	rec, err := r.cfg.Refresher.RefreshAccount(attempt, key)
	cancel()

	r.mu.Lock()
	defer r.mu.Unlock()
	r.running--
	it.running = false
	r.Kick() // a slot is free
	if r.items[key] != it {
		return // removed meanwhile
	}
	switch {
	case errors.Is(err, ErrGone):
		delete(r.items, key)
		return
	case err == nil:
		// The period may have changed in memory while the refresh ran.
		if rec.LastRefresh.After(it.record.LastRefresh) {
			it.record.LastRefresh = rec.LastRefresh
		}
		it.failures, it.lastErr = 0, nil
		it.at = Next(it.record, r.policy)
	case ctx.Err() != nil:
		return // stopping: nothing is said about the account
	default:
		it.failures++
		it.lastErr = err
		it.at = r.cfg.now().Add(r.backoff(it.failures))
		r.cfg.Logger.Warn("refresh failed, shares of the present epoch stay in use",
			"account", key, "failures", it.failures, "next_attempt", it.at.UTC().Format(time.RFC3339), "error", err)
	}
	heap.Push(&r.queue, it)
}

// backoff returns the wait after so many failures in a row.
func (r *Runner) backoff(failures int) time.Duration {
	d := r.cfg.BackoffMin
	for i := 1; i < failures && d < r.cfg.BackoffMax; i++ {
		d *= 2
	}
	d = min(d, r.cfg.BackoffMax)
	return d + time.Duration(float64(d)/4*r.cfg.random())
}

// set stores a record; the caller holds r.mu.
func (r *Runner) set(rec Record) {
	it := r.items[rec.Key]
	if it == nil {
		it = &item{record: rec, at: Next(rec, r.policy), pos: -1}
		r.items[rec.Key] = it
		heap.Push(&r.queue, it)
		return
	}
	it.record, it.failures, it.lastErr = rec, 0, nil
	it.at = Next(rec, r.policy)
	if it.pos >= 0 {
		heap.Fix(&r.queue, it.pos)
	}
}

// remove forgets an account; the caller holds r.mu. A refresh under way notices.
func (r *Runner) remove(key string) {
	it := r.items[key]
	if it == nil {
		return
	}
	delete(r.items, key)
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
