package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestNextOfIdleAccounts(t *testing.T) {
	idle, opened := Record{Key: "a", LastRefresh: epoch}, Record{Key: "a", LastRefresh: epoch, Opened: true}
	own := Record{Key: "a", LastRefresh: epoch, Period: 5 * time.Minute}
	for _, c := range []struct {
		name   string
		record Record
		idle   time.Duration
		want   time.Duration
	}{
		{"idle", idle, time.Hour, time.Hour},
		{"opened", opened, time.Hour, 10 * time.Minute},
		{"own period, idle or not", own, time.Hour, 5 * time.Minute},
		{"no idle period", idle, 0, 10 * time.Minute},
		{"an idle period is never the shorter one", idle, time.Minute, 10 * time.Minute},
	} {
		if got := Next(c.record, Policy{Period: 10 * time.Minute, IdlePeriod: c.idle}); !got.Equal(epoch.Add(c.want)) {
			t.Errorf("%s: after %v, want %v", c.name, got.Sub(epoch), c.want)
		}
	}
}

func TestNextRewrap(t *testing.T) {
	p := Policy{Period: 24 * time.Hour}
	w := Wrapping{Version: 3, Since: epoch, Window: time.Hour}
	for _, c := range []struct {
		name   string
		record Record
		want   bool
	}{
		{"there already", Record{LastRefresh: epoch, Sealed: 3}, false},
		{"sealed to a version that is newer still", Record{LastRefresh: epoch, Sealed: 4}, false},
		{"refreshed long after the window", Record{LastRefresh: epoch.Add(-time.Hour), Sealed: 2}, true},
		{"refreshed within the window", Record{LastRefresh: epoch.Add(-23*time.Hour - time.Minute), Sealed: 2}, false},
		{"refreshed at its end", Record{LastRefresh: epoch.Add(-23 * time.Hour), Sealed: 2}, false},
		{"overdue for a refresh", Record{LastRefresh: epoch.Add(-48 * time.Hour), Sealed: 1}, false},
		{"own short period", Record{LastRefresh: epoch, Period: time.Minute, Sealed: 2}, false},
	} {
		at, ok := NextRewrap(c.record, p, w)
		if ok != c.want || ok && (at.Before(epoch) || at.After(epoch.Add(time.Hour))) {
			t.Errorf("%s: %v at %v", c.name, ok, at)
		}
	}
	if at, ok := NextRewrap(Record{LastRefresh: epoch, Sealed: 3, Unsettled: true}, p, w); !ok || !at.IsZero() {
		t.Errorf("unsettled: %v at %v", ok, at)
	}
	seen := map[time.Time]bool{}
	for i := range 300 {
		at, _ := NextRewrap(Record{Key: fmt.Sprint(i), LastRefresh: epoch}, p, w)
		seen[at] = true
	}
	if len(seen) < 290 {
		t.Errorf("300 rewraps fall on %d moments", len(seen))
	}
}

// TestIdleAccountsWakeUp: idle after a refresh, awake from the first use on.
func TestIdleAccountsWakeUp(t *testing.T) {
	w := &world{now: epoch, list: []Record{{Key: "a", LastRefresh: epoch}, {Key: "b", LastRefresh: epoch}}}
	r := w.runner(Config{Policy: Policy{Period: time.Minute, IdlePeriod: time.Hour}})
	settle(r)
	w.advance(time.Minute)
	settle(r) // not known to be idle after a start
	if got := w.take(); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("after a start: %v", got)
	}
	if s, _ := r.Status("a"); !s.Idle || !s.Next.Equal(w.now.Add(time.Hour)) {
		t.Fatalf("after a refresh: %+v", s)
	}
	w.advance(2 * time.Minute)
	r.Opened("a")
	r.Opened("a")
	r.Opened("nobody")
	settle(r)
	if got := w.take(); !slices.Equal(got, []string{"a"}) {
		t.Fatalf("after a was used: %v", got)
	}
	// A use while the refresh runs counts for the new shares.
	w.during = func(key string) { r.Opened(key) }
	w.advance(time.Hour)
	settle(r)
	w.during = nil
	if got := w.take(); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("after the idle period: %v", got)
	}
	if s, _ := r.Status("b"); s.Idle || !s.Next.Equal(w.now.Add(time.Minute)) {
		t.Errorf("used during its refresh: %+v", s)
	}
	// Changed settings are no refresh.
	r.Set(Record{Key: "b", LastRefresh: w.now})
	if s, _ := r.Status("b"); s.Idle {
		t.Error("changing settings put an account to sleep")
	}
	w.advance(time.Second)
	r.Set(Record{Key: "b", LastRefresh: w.now})
	if s, _ := r.Status("b"); !s.Idle {
		t.Error("awake after a refresh by hand")
	}
}

func TestRunnerRewraps(t *testing.T) {
	w := &world{now: epoch, version: 1, failWrap: map[string]error{"bad": errors.New("no")}, list: []Record{
		{Key: "soon", LastRefresh: epoch, Period: 30 * time.Minute, Sealed: 1},
		{Key: "late", LastRefresh: epoch, Period: 48 * time.Hour, Sealed: 1},
		{Key: "bad", LastRefresh: epoch, Period: 48 * time.Hour, Sealed: 1},
		{Key: "torn", LastRefresh: epoch, Period: 48 * time.Hour, Sealed: 1, Unsettled: true},
	}}
	r := w.runner(Config{BackoffMin: time.Hour})
	settle(r)
	if got := w.takeRewraps(); !slices.Equal(got, []string{"torn"}) {
		t.Fatalf("what was not finished: %v", got)
	}
	w.version = 2
	r.SetWrapping(Wrapping{Version: 2, Since: epoch, Window: time.Hour})
	w.advance(20 * time.Minute)
	settle(r)
	if got := w.take(); got != nil {
		t.Fatalf("refreshed: %v", got)
	}
	w.advance(40*time.Minute - time.Second)
	settle(r)
	if got := w.take(); !slices.Equal(got, []string{"soon"}) {
		t.Errorf("refreshed in the window: %v", got)
	}
	if got := w.takeRewraps(); !slices.Equal(got, []string{"late", "torn"}) {
		t.Errorf("rewrapped in the window: %v", got)
	}
	p := r.Progress()
	if p.Rewrap.Version != 2 || p.Rewrap.Done != 3 || p.Rewrap.Total != 4 || p.Rewrap.LastError == nil || p.Rewrap.LastError.Key != "bad" || p.LastError != nil {
		t.Errorf("progress: %+v", p)
	}
	if p.Failing != 1 || p.Overdue != 0 {
		t.Errorf("%d accounts fail and %d are overdue, want 1 and 0", p.Failing, p.Overdue)
	}
	s, _ := r.Status("bad")
	if s.LastRewrapError != "no" || s.LastError != "" || s.NextRewrap.IsZero() || !s.Next.Equal(epoch.Add(48*time.Hour)) {
		t.Errorf("a failed rewrap: %+v", s)
	}
	// Its refresh is not held up, and brings it there.
	w.advance(48*time.Hour + time.Second)
	if p := r.Progress(); p.Overdue == 0 {
		t.Errorf("no account is overdue after its period: %+v", p)
	}
	w.failWrap["bad"] = errors.New("still no")
	settle(r)
	if p := r.Progress(); p.Failing != 0 || p.Overdue != 0 {
		t.Errorf("after the refresh %d accounts fail and %d are overdue", p.Failing, p.Overdue)
	}
	if s, _ := r.Status("bad"); s.LastRewrapError != "" || r.Progress().Rewrap.Done != 4 {
		t.Errorf("after its refresh: %+v, %+v", s, r.Progress().Rewrap)
	}
}

// TestAccountsOfOwners: the clock rewraps them and leaves their refresh alone.
func TestAccountsOfOwners(t *testing.T) {
	w := &world{now: epoch, version: 1, list: []Record{
		{Key: "owned", LastRefresh: epoch, Period: time.Minute, Sealed: 1, ByOwner: true},
		{Key: "plain", LastRefresh: epoch, Period: time.Minute, Sealed: 1},
	}}
	r := w.runner(Config{})
	settle(r)
	w.advance(time.Hour)
	settle(r)
	if got := w.take(); !slices.Equal(got, []string{"plain"}) {
		t.Errorf("refreshed: %v", got)
	}
	r.CatchUp(true)
	settle(r)
	if got := w.take(); !slices.Equal(got, []string{"plain"}) {
		t.Errorf("caught up with: %v", got)
	}
	r.Failed("owned", errors.New("the owner went away"))
	p := r.Progress()
	if p.Accounts != 2 || p.ByOwner != 1 || p.Due != 0 || p.Overdue != 0 || p.Failing != 0 || p.Demand != 1.0/60 || p.Oldest.Equal(epoch) {
		t.Errorf("progress: %+v", p)
	}
	s, ok := r.Status("owned")
	if !ok || !s.Next.Equal(epoch.Add(time.Minute)) || s.LastError == "" {
		t.Errorf("status: %+v", s)
	}
	// A refresh of the owner's moves that on.
	r.Set(Record{Key: "owned", LastRefresh: w.now, Period: time.Minute, Sealed: 1, ByOwner: true})
	if s, _ := r.Status("owned"); !s.Next.Equal(w.now.Add(time.Minute)) || s.LastError != "" {
		t.Errorf("after the owner's refresh: %+v", s)
	}
	w.version = 2
	r.SetWrapping(Wrapping{Version: 2, Since: w.now, Window: time.Minute})
	w.advance(time.Minute)
	settle(r)
	if got := w.takeRewraps(); !slices.Equal(got, []string{"owned"}) {
		t.Errorf("rewrapped: %v", got)
	}
}

func TestRateBoundsRefreshes(t *testing.T) {
	w := &world{now: epoch}
	for i := range 30 {
		w.list = append(w.list, Record{Key: fmt.Sprint(i), LastRefresh: epoch.Add(-time.Hour)})
	}
	r := w.runner(Config{Policy: Policy{Period: time.Minute, Rate: 5, Concurrency: 30}})
	for _, want := range []int{5, 5, 5} {
		wait := r.step(context.Background())
		r.work.Wait()
		if got := len(w.take()); got != want || wait <= 0 || wait > 200*time.Millisecond {
			t.Fatalf("%d refreshes in a second, the next after %v", got, wait)
		}
		w.advance(time.Second)
	}
	r.SetPolicy(Policy{Period: time.Minute, Concurrency: 30})
	r.step(context.Background())
	r.work.Wait()
	if got := len(w.take()); got != 15 {
		t.Errorf("%d refreshes without a rate", got)
	}
}

func TestCatchUp(t *testing.T) {
	w := &world{now: epoch, fail: map[string]error{"3": errors.New("no")}}
	for i := range 8 {
		w.list = append(w.list, Record{Key: fmt.Sprint(i), LastRefresh: epoch.Add(-time.Hour)})
	}
	w.list = append(w.list, Record{Key: "fresh", LastRefresh: epoch})
	r := w.runner(Config{Policy: Policy{Period: time.Minute, Rate: 1, Concurrency: 1}, CatchUpConcurrency: 4, BackoffMin: time.Hour})
	r.step(context.Background())
	r.work.Wait()
	if got := w.take(); len(got) > 1 {
		t.Fatalf("%v at the gentle rate", got)
	}
	p := r.Progress()
	if !p.Loaded || p.Due+p.Waiting != 8-int(p.Refreshed) || p.Accounts != 9 {
		t.Fatalf("progress: %+v", p)
	}
	c := r.CatchUp(false)
	if c.Remaining != 8-int(p.Refreshed) || !c.Started.Equal(w.now) || !c.Finished.IsZero() {
		t.Fatalf("catch-up: %+v", c)
	}
	if again := r.CatchUp(false); again.Remaining != c.Remaining {
		t.Errorf("asked for twice: %+v", again)
	}
	release := make(chan struct{})
	w.mu.Lock()
	w.started, w.block = make(chan string, 20), map[string]chan struct{}{}
	for _, rec := range w.list {
		w.block[rec.Key] = release
	}
	w.mu.Unlock()
	r.step(context.Background())
	for range 4 {
		<-w.started
	}
	r.Remove("5") // gone, under way or done already
	close(release)
	settle(r)
	p = r.Progress()
	if p.CatchUp.Remaining != 0 || !p.CatchUp.Finished.Equal(w.now) || p.Due != 0 || p.Waiting != 1 || p.LastError.Key != "3" || p.Failed != 1 {
		t.Errorf("after catching up: %+v", p)
	}
	if w.mostSeen != 4 {
		t.Errorf("%d at once", w.mostSeen)
	}
	w.take()
	w.fail = nil
	r.CatchUp(true)
	settle(r)
	if got := w.take(); len(got) != 8 { // 9 less the one removed
		t.Errorf("all: %v", got)
	}
	if c := r.CatchUp(false); c.Remaining != 0 || c.Finished.IsZero() {
		t.Errorf("with nothing due: %+v", c)
	}
}

// TestRateWakesTheLoop: the real loop waits for the rate, not for its timer.
func TestRateWakesTheLoop(t *testing.T) {
	w := &world{now: epoch, started: make(chan string, 10), list: []Record{{Key: "a", LastRefresh: epoch.Add(-time.Hour)}}}
	c := Config{Interval: time.Hour, Policy: Policy{Period: time.Hour, Rate: 50}}
	c.Store, c.Refresher = w, w
	w.now = time.Now()
	for i := range 60 { // more than a second's worth
		w.list = append(w.list, Record{Key: fmt.Sprint(i), LastRefresh: epoch})
	}
	r := New(c)
	r.Start(context.Background())
	for range 61 {
		select {
		case <-w.started:
		case <-time.After(20 * time.Second):
			t.Fatal("the rate never let the next one through")
		}
	}
	if err := r.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}
