package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestNextAndDue(t *testing.T) {
	p := Policy{Period: 10 * time.Minute}
	for _, c := range []struct {
		name   string
		period time.Duration
		want   time.Duration
	}{
		{"policy's period", 0, 10 * time.Minute},
		{"own period", time.Hour, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Record{Key: "a", LastRefresh: epoch, Period: c.period}
			if got := Next(r, p); !got.Equal(epoch.Add(c.want)) {
				t.Errorf("Next = %v, want %v later", got, c.want)
			}
			if Due(r, p, epoch.Add(c.want-1)) || !Due(r, p, epoch.Add(c.want)) {
				t.Error("Due is not exactly the time of Next")
			}
		})
	}
}

func TestJitterSpreadsAndNeverDelays(t *testing.T) {
	p := Policy{Period: time.Hour, Jitter: 0.1}
	seen := map[time.Time]bool{}
	for i := range 500 {
		r := Record{Key: fmt.Sprint(i), LastRefresh: epoch}
		at := Next(r, p)
		if at.After(epoch.Add(time.Hour)) || at.Before(epoch.Add(54*time.Minute)) {
			t.Fatalf("account %d at %v", i, at)
		}
		if !at.Equal(Next(r, p)) {
			t.Fatal("Next is not a function of its arguments")
		}
		seen[at] = true
	}
	if len(seen) < 490 {
		t.Errorf("500 accounts fall on %d moments", len(seen))
	}
	wild := Policy{Period: time.Hour, Jitter: 7}
	if at := Next(Record{Key: "a", LastRefresh: epoch}, wild); at.Before(epoch.Add(30 * time.Minute)) {
		t.Errorf("jitter is not bounded: %v", at)
	}
}

// world is a Store and Refresher with a clock that stands still.
type world struct {
	mu       sync.Mutex
	now      time.Time
	list     []Record
	listErr  error
	onList   func()
	fail     map[string]error
	block    map[string]chan struct{}
	started  chan string // gets every key when set
	done     []string
	rewraps  []string
	during   func(key string) // called while an account is refreshed
	failWrap map[string]error
	version  uint32 // that refreshes and rewraps seal to
	running  int
	mostSeen int
}

func (w *world) Schedule(context.Context) ([]Record, error) {
	if w.onList != nil {
		w.onList()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.list), w.listErr
}

func (w *world) RefreshAccount(ctx context.Context, key string) (Record, error) {
	w.mu.Lock()
	w.running++
	w.mostSeen = max(w.mostSeen, w.running)
	block := w.block[key]
	during := w.during
	w.mu.Unlock()
	if during != nil {
		during(key)
	}
	if w.started != nil {
		w.started <- key
	}
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	if err := w.fail[key]; err != nil {
		return Record{}, err
	}
	w.done = append(w.done, key)
	return Record{Key: key, LastRefresh: w.now, Sealed: w.version}, nil
}

func (w *world) RewrapAccount(_ context.Context, key string) (Record, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failWrap[key]; err != nil {
		return Record{}, err
	}
	w.rewraps = append(w.rewraps, key)
	return Record{Key: key, Sealed: w.version}, nil // LastRefresh is nothing that a rewrap changes
}

func (w *world) takeRewraps() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.rewraps
	w.rewraps = nil
	slices.Sort(d)
	return d
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.done
	w.done = nil
	slices.Sort(d)
	return d
}

func (w *world) runner(c Config) *Runner {
	c.Store, c.Refresher, c.Rewrapper, c.now = w, w, w, w.clock
	c.random = func() float64 { return 0 }
	if c.Policy.Period == 0 {
		c.Policy.Period = time.Minute
	}
	return New(c)
}

// settle steps until nothing runs and nothing is due.
func settle(r *Runner) {
	for {
		r.step(context.Background())
		r.work.Wait()
		r.mu.Lock()
		idle := len(r.queue) == 0 || r.cfg.now().Before(r.queue[0].at())
		r.mu.Unlock()
		if idle {
			return
		}
	}
}

func TestRunnerRefreshesWhatIsDue(t *testing.T) {
	w := &world{now: epoch, list: []Record{
		{Key: "old", LastRefresh: epoch.Add(-time.Hour)},
		{Key: "new", LastRefresh: epoch},
		{Key: "slow", LastRefresh: epoch, Period: time.Hour},
	}}
	r := w.runner(Config{})
	settle(r)
	if got := w.take(); !slices.Equal(got, []string{"old"}) {
		t.Fatalf("at the start: %v", got)
	}
	w.advance(59 * time.Second)
	settle(r)
	if got := w.take(); got != nil {
		t.Fatalf("too early: %v", got)
	}
	w.advance(time.Second)
	settle(r)
	if got := w.take(); !slices.Equal(got, []string{"new", "old"}) {
		t.Fatalf("after a period: %v", got)
	}
	w.advance(time.Hour)
	settle(r)
	if got := w.take(); !slices.Equal(got, []string{"new", "old", "slow"}) {
		t.Fatalf("after an hour: %v", got)
	}
	if s, ok := r.Status("slow"); !ok || !s.Next.Equal(w.now.Add(time.Hour)) {
		t.Errorf("status after a refresh: %+v", s)
	}
}

func TestRunnerBacksOffPerAccount(t *testing.T) {
	boom := errors.New("boom")
	w := &world{now: epoch, fail: map[string]error{"bad": boom}, list: []Record{
		{Key: "bad", LastRefresh: epoch.Add(-time.Hour)},
		{Key: "good", LastRefresh: epoch.Add(-time.Hour)},
	}}
	r := w.runner(Config{BackoffMin: time.Second, BackoffMax: 5 * time.Second, Concurrency: 1})
	settle(r)
	if got := w.take(); !slices.Equal(got, []string{"good"}) {
		t.Fatalf("a failing account blocked another: %v", got)
	}
	for i, wait := range []time.Duration{1, 2, 4, 5, 5} {
		s, _ := r.Status("bad")
		if want := w.clock().Add(wait * time.Second); !s.Next.Equal(want) || s.Failures != i+1 || s.LastError != "boom" {
			t.Fatalf("failure %d: %+v, want next %v", i+1, s, want)
		}
		w.advance(wait*time.Second - 1)
		settle(r)
		if s2, _ := r.Status("bad"); s2.Failures != i+1 {
			t.Fatalf("tried again before its time: %+v", s2)
		}
		w.advance(1)
		settle(r)
	}
	w.mu.Lock()
	w.fail = nil
	w.mu.Unlock()
	w.advance(5 * time.Second)
	settle(r)
	if s, _ := r.Status("bad"); s.Failures != 0 || s.LastError != "" {
		t.Errorf("after a success: %+v", s)
	}
}

func TestRunnerBoundsConcurrency(t *testing.T) {
	w := &world{now: epoch, block: map[string]chan struct{}{}, started: make(chan string, 10)}
	release := make(chan struct{})
	for i := range 10 {
		key := fmt.Sprint(i)
		w.block[key] = release
		w.list = append(w.list, Record{Key: key, LastRefresh: epoch.Add(-time.Hour)})
	}
	r := w.runner(Config{Concurrency: 3})
	r.step(context.Background())
	for range 3 {
		<-w.started
	}
	r.step(context.Background()) // must not start a fourth
	close(release)
	settle(r)
	if got := w.take(); len(got) != 10 || w.mostSeen != 3 {
		t.Errorf("%d refreshes, %d at once; want 10, 3", len(got), w.mostSeen)
	}
}

func TestRunnerSetRemoveAndPolicy(t *testing.T) {
	w := &world{now: epoch}
	r := w.runner(Config{})
	settle(r)
	r.Set(Record{Key: "a", LastRefresh: epoch})
	r.Set(Record{Key: "b", LastRefresh: epoch})
	r.Remove("b")
	if _, ok := r.Status("b"); ok {
		t.Error("a removed account has a status")
	}
	r.SetPolicy(Policy{Period: 10 * time.Second})
	w.advance(10 * time.Second)
	settle(r)
	if got := w.take(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("after a shorter policy: %v", got)
	}
	r.Failed("a", errors.New("by hand"))
	if s, _ := r.Status("a"); s.LastError != "by hand" || s.Failures != 0 {
		t.Errorf("failure outside of the runner: %+v", s)
	}
	r.Set(Record{Key: "a", LastRefresh: w.now, Period: time.Hour})
	if s, _ := r.Status("a"); s.LastError != "" || !s.Next.Equal(w.now.Add(time.Hour)) {
		t.Errorf("after Set: %+v", s)
	}
}

func TestRunnerForgetsGoneAccounts(t *testing.T) {
	w := &world{now: epoch, fail: map[string]error{"a": fmt.Errorf("reading: %w", ErrGone)},
		list: []Record{{Key: "a", LastRefresh: epoch.Add(-time.Hour)}}}
	r := w.runner(Config{})
	settle(r)
	if _, ok := r.Status("a"); ok {
		t.Error("an account that is gone is still scheduled")
	}
}

func TestRemoveDuringRefresh(t *testing.T) {
	release := make(chan struct{})
	w := &world{now: epoch, started: make(chan string, 1), block: map[string]chan struct{}{"a": release},
		list: []Record{{Key: "a", LastRefresh: epoch.Add(-time.Hour)}}}
	r := w.runner(Config{})
	r.step(context.Background())
	<-w.started
	r.Remove("a")
	close(release)
	r.work.Wait()
	if _, ok := r.Status("a"); ok || len(r.queue) != 0 {
		t.Error("an account removed during its refresh came back")
	}
}

// TestLoadKeepsNewerState covers accounts that change while the schedule is
// being read: what the backend says meanwhile wins.
func TestLoadKeepsNewerState(t *testing.T) {
	w := &world{now: epoch, list: []Record{
		{Key: "destroyed", LastRefresh: epoch.Add(-time.Hour)},
		{Key: "refreshed", LastRefresh: epoch.Add(-time.Hour)},
	}}
	r := w.runner(Config{})
	w.onList = func() {
		r.Remove("destroyed")
		r.Set(Record{Key: "refreshed", LastRefresh: epoch})
		r.Set(Record{Key: "created", LastRefresh: epoch})
	}
	settle(r)
	if got := w.take(); got != nil {
		t.Errorf("refreshed from an outdated list: %v", got)
	}
	if _, ok := r.Status("destroyed"); ok {
		t.Error("a destroyed account came back with the list")
	}
	if _, ok := r.Status("created"); !ok {
		t.Error("a created account was lost")
	}
}

func TestLoadIsTriedAgain(t *testing.T) {
	w := &world{now: epoch, listErr: errors.New("storage is away"),
		list: []Record{{Key: "a", LastRefresh: epoch.Add(-time.Hour)}}}
	r := w.runner(Config{BackoffMin: time.Second})
	settle(r)
	w.listErr = nil
	settle(r)
	if got := w.take(); got != nil {
		t.Fatalf("loaded again without waiting: %v", got)
	}
	w.advance(time.Second)
	settle(r)
	if got := w.take(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("after storage came back: %v", got)
	}
}

// TestStartKickStop runs the real loop: Kick alone must bring a due account
// to its refresh, and Stop must cancel and wait for one under way.
func TestStartKickStop(t *testing.T) {
	w := &world{now: epoch, started: make(chan string, 1), block: map[string]chan struct{}{"a": make(chan struct{})}}
	r := w.runner(Config{Interval: time.Hour})
	r.Start(context.Background())
	r.Start(context.Background()) // no effect
	r.Set(Record{Key: "a", LastRefresh: epoch.Add(-time.Hour)})
	r.Kick()
	select {
	case <-w.started:
	case <-time.After(10 * time.Second):
		t.Fatal("Kick did not start the refresh")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if w.running != 0 {
		t.Error("Stop did not wait for the refresh")
	}
	if err := r.Stop(ctx); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

func TestStopBeforeStart(t *testing.T) {
	w := &world{now: epoch, list: []Record{{Key: "a"}}}
	r := w.runner(Config{})
	if err := r.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.Start(context.Background())
	r.Kick()
	if r.cancel != nil {
		t.Error("a stopped runner was started")
	}
}

func TestStopGivesUpWithItsContext(t *testing.T) {
	stuck := &stuckRefresher{entered: make(chan struct{}), release: make(chan struct{})}
	w := &world{now: epoch, list: []Record{{Key: "a"}}}
	r := New(Config{Store: w, Refresher: stuck, Policy: Policy{Period: time.Second}, Interval: time.Hour})
	r.Start(context.Background())
	<-stuck.entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Stop = %v", err)
	}
	close(stuck.release)
	if err := r.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// stuckRefresher ignores its context.
type stuckRefresher struct{ entered, release chan struct{} }

func (s *stuckRefresher) RefreshAccount(context.Context, string) (Record, error) {
	close(s.entered)
	<-s.release
	return Record{}, nil
}
