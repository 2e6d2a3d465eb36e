package backend

import (
	"container/list"
	"net/http"
	"sync"
	"time"
)

// What goes wrong with codes of requests is counted in memory: nothing that
// somebody without a key of the policy sends is written to storage. A form cannot
// be guessed (16 bytes of an HMAC), nor can a signature; the counts are there so that
// whoever tries is slowed down and seen.
//
// Strangers, who have not shown a key of the request's policy, are counted per
// request; a device that has is counted for itself. So nobody who has seen a
// request's ID can keep its approvers out by failing on purpose: a device with a
// key of the policy gets through while strangers are turned away.

const (
	// approveFailures is how many failures in a row are answered by 403; then none
	// is looked at for approveLock, and for twice as long after each further one,
	// maxApproveLock at the most.
	approveFailures = 20
	approveLock     = time.Minute
	maxApproveLock  = time.Hour
	// maxApproveCounts bounds how many counts are remembered, of requests that there
	// are and, apart from them, of those that there are not: about 4 MB each. Those
	// that failed longest ago are forgotten first.
	maxApproveCounts = 16384
	// approveCountTTL: a count is forgotten so long after the last failure.
	approveCountTTL = 2 * maxApproveLock
)

// approveCounter names what is counted: a request's strangers (key empty), or one
// device for one request.
type approveCounter struct{ request, key string }

// approveCount is what is known of one.
type approveCount struct {
	of       approveCounter
	failures int
	until    time.Time // nothing is looked at before
	last     time.Time
	at       *list.Element
}

// approveCounts counts failures. It does no I/O and may be used concurrently.
type approveCounts struct {
	now func() time.Time
	max int

	mu    sync.Mutex
	table map[approveCounter]*approveCount
	order *list.List // *approveCount, failed last in front
}

func newApproveCounts(now func() time.Time, most int) *approveCounts {
	return &approveCounts{now: now, max: most, table: map[approveCounter]*approveCount{}, order: list.New()}
}

// errApproveLocked does not say of what there were too many.
func errApproveLocked() error {
	return &fault{status: http.StatusTooManyRequests, msg: "too many attempts that did not succeed: nothing was looked at; scan the code again after some minutes"}
}

// check is a 429 while the counter is locked. It counts nothing.
func (l *approveCounts) check(of approveCounter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.table[of]; c != nil && l.now().Before(c.until) {
		return errApproveLocked()
	}
	return nil
}

// failed counts a failure. locked reports whether this one has locked the counter;
// while it is locked nothing is counted and err is the 429.
func (l *approveCounts) failed(of approveCounter) (locked bool, err error) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.table[of]
	if c != nil && now.Sub(c.last) > approveCountTTL {
		l.dropLocked(c)
		c = nil
	}
	if c == nil {
		c = &approveCount{of: of}
		c.at = l.order.PushFront(c)
		l.table[of] = c
		for l.order.Len() > l.max {
			l.dropLocked(l.order.Back().Value.(*approveCount))
		}
	}
	c.last = now
	l.order.MoveToFront(c.at)
	if now.Before(c.until) {
		return false, errApproveLocked()
	}
	c.failures++
	if over := c.failures - approveFailures; over >= 0 {
		c.until = now.Add(min(approveLock<<min(over, 16), maxApproveLock))
		return true, nil
	}
	return false, nil
}

// succeeded forgets the failures.
func (l *approveCounts) succeeded(of approveCounter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.table[of]; c != nil {
		l.dropLocked(c)
	}
}

func (l *approveCounts) dropLocked(c *approveCount) {
	l.order.Remove(c.at)
	delete(l.table, c.of)
}

// sweep forgets what failed long ago.
func (l *approveCounts) sweep() {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for at := l.order.Back(); at != nil; at = l.order.Back() {
		c := at.Value.(*approveCount)
		if now.Sub(c.last) <= approveCountTTL {
			return
		}
		l.dropLocked(c)
	}
}

// usedForms remembers which device has used which form, for as long as forms can be
// accepted: each device takes a form once.
type usedForms struct {
	now func() time.Time

	mu    sync.Mutex
	until map[usedForm]time.Time
	of    map[string]int // entries by key
	swept time.Time
}

type usedForm struct {
	request, key string
	period       uint64
}

const (
	// usedFormTTL is longer than a form is accepted: two periods of a minute.
	usedFormTTL = 10 * time.Minute
	// maxUsedForms and, of one device, maxFormsOfKey: an entry needs a key of a policy,
	// so this many are there only if a device is sending on purpose. No form is taken
	// then: a forgotten one could be used twice. A device alone stops itself only.
	maxUsedForms  = 65536
	maxFormsOfKey = 1024
)

func newUsedForms(now func() time.Time) *usedForms {
	return &usedForms{now: now, until: map[usedForm]time.Time{}, of: map[string]int{}}
}

// take reports whether the form was not used before, and marks it.
func (u *usedForms) take(f usedForm) bool {
	now := u.now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.until) >= maxUsedForms || u.of[f.key] >= maxFormsOfKey || now.Sub(u.swept) > usedFormTTL {
		u.sweepLocked(now)
	}
	if _, used := u.until[f]; used || len(u.until) >= maxUsedForms || u.of[f.key] >= maxFormsOfKey {
		return false
	}
	u.until[f] = now.Add(usedFormTTL)
	u.of[f.key]++
	return true
}

func (u *usedForms) sweepLocked(now time.Time) {
	u.swept = now
	for f, until := range u.until {
		if now.After(until) {
			delete(u.until, f)
			if u.of[f.key]--; u.of[f.key] <= 0 {
				delete(u.of, f.key)
			}
		}
	}
}

// lineBudget bounds the log lines that people without a Vault token can cause: most
// in a minute, and with the next one how many were left out.
type lineBudget struct {
	now func() time.Time

	mu      sync.Mutex
	minute  time.Time
	written int
	missed  int
}

const maxApproveLines = 60

// line reports whether one more may be written, and how many were not before it.
func (l *lineBudget) line() (ok bool, missed int) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if since := now.Sub(l.minute); since >= time.Minute || since < 0 {
		l.minute, l.written = now, 0
	}
	if l.written >= maxApproveLines {
		l.missed++
		return false, 0
	}
	l.written++
	missed, l.missed = l.missed, 0
	return true, missed
}
