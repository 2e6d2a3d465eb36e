package backend

import (
	"container/list"
	"sync"
	"time"
)

// Guessing is limited per authenticator name: for kinds whose secret can be guessed
// (identity.Method.Guessable) every login/start and every wrong code counts as a failure until a login succeeds. Names that do not exist are
// treated alike, in memory only. What is locked stays locked over a restart, since
// a lock is stored (login_locks.go); what is counted below a threshold is not.

// lockFor is how long a name is locked after so many failures in a row; 0 for not.
func lockFor(failures int) time.Duration {
	switch {
	case failures == 5:
		return time.Minute
	case failures == 10:
		return 15 * time.Minute
	case failures >= 20 && failures%10 == 0:
		return 24 * time.Hour
	}
	return 0
}

const (
	// maxStrangeNames bounds how many names are remembered that belong to no
	// authenticator: about 16 MB. Those tried longest ago are forgotten first.
	maxStrangeNames = 65536
	// firstCodeWait and maxCodeWait bound how often a code goes to one phone.
	// The wait doubles with every code until a login succeeds.
	firstCodeWait = 30 * time.Second
	maxCodeWait   = time.Hour
	// lockWriteInterval: a name's lock is written once in it at most.
	lockWriteInterval = time.Minute
)

// attempts is what is known of one name.
type attempts struct {
	name     string
	failures int
	until    time.Time // locked until then

	codes    int       // sent since the last success
	nextCode time.Time // no code before

	known bool          // an authenticator has that name
	at    *list.Element // in limiter.strange, where it is not known

	stored  bool      // a lock is in storage, or may be
	dirty   bool      // storage does not have what is here
	written time.Time // when a lock was last written
}

// limiter counts. It does no I/O and may be used concurrently.
type limiter struct {
	now func() time.Time
	max int // of strange names

	mu      sync.Mutex
	names   map[string]*attempts
	strange *list.List // *attempts of names that are not known, tried last in front
	dirty   map[string]*attempts
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, max: maxStrangeNames, names: map[string]*attempts{}, strange: list.New(), dirty: map[string]*attempts{}}
}

// knows reports whether the name is in memory, so that its lock need not be read.
func (l *limiter) knows(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.names[name] != nil
}

// load takes what is stored about a name that was not in memory; r is nil where
// nothing is.
func (l *limiter) load(name string, known bool, r *authenticatorLockRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.names[name] != nil {
		return // another request was faster, and may have counted since
	}
	a := l.entry(name, known)
	if r != nil {
		a.failures, a.until, a.stored, a.written = r.Failures, r.Until, true, r.Time
	}
}

// entry returns the name's counts, and keeps the number of strange ones bounded.
// The caller holds the lock.
func (l *limiter) entry(name string, known bool) *attempts {
	a := l.names[name]
	if a == nil {
		a = &attempts{name: name}
		l.names[name] = a
	}
	switch {
	case known && a.at != nil: // it exists now
		l.strange.Remove(a.at)
		a.at = nil
	case !known && a.at == nil:
		a.at = l.strange.PushFront(a)
	case !known:
		l.strange.MoveToFront(a.at)
	}
	a.known = known
	for l.strange.Len() > l.max {
		oldest := l.strange.Remove(l.strange.Back()).(*attempts)
		delete(l.names, oldest.name)
		delete(l.dirty, oldest.name)
	}
	return a
}

// check is a 403 while the name is locked. It counts nothing.
func (l *limiter) check(name string, known bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.locked(l.entry(name, known))
}

func (l *limiter) locked(a *attempts) error {
	if left := a.until.Sub(l.now()); left > 0 {
		return forbidden("too many attempts that did not succeed: no more are taken for %s. Who is to wait less asks whoever runs the mount to unlock the authenticator", short((left + time.Second - 1).Truncate(time.Second)))
	}
	return nil
}

// begin counts an attempt, or is a 403 where the name is locked. An attempt that
// reaches a threshold is let through; the next one is not.
func (l *limiter) begin(name string, known bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.entry(name, known)
	if err := l.locked(a); err != nil {
		return err
	}
	l.fail(a)
	return nil
}

// undo takes begin back: the attempt was not answered, so nobody has learnt
// whether a guess was right.
func (l *limiter) undo(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.names[name]
	if a == nil || a.failures == 0 {
		return
	}
	if lockFor(a.failures) > 0 { // nobody was let in since, and nothing written
		a.until = time.Time{}
		if !a.stored {
			a.dirty = false
			delete(l.dirty, name)
		}
	}
	a.failures--
}

// failed counts something that went wrong outside of a login: a wrong code.
func (l *limiter) failed(name string, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail(l.entry(name, known))
}

func (l *limiter) fail(a *attempts) {
	a.failures++
	if d := lockFor(a.failures); d > 0 {
		a.until = l.now().Add(d)
		if a.known {
			l.mark(a)
		}
	}
}

func (l *limiter) mark(a *attempts) {
	a.dirty = true
	l.dirty[a.name] = a
}

// succeeded forgets the failures of a name that exists.
func (l *limiter) succeeded(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.names[name]
	if a == nil {
		return
	}
	a.failures, a.until, a.codes, a.nextCode = 0, time.Time{}, 0, time.Time{}
	a.dirty = false
	delete(l.dirty, name)
	if a.stored {
		l.mark(a) // to be deleted
		return
	}
	// The time of the last write is kept, so that success and failure by turns
	// cause no more writes than failure alone.
	if l.now().Sub(a.written) >= lockWriteInterval {
		l.drop(a)
	}
}

func (l *limiter) drop(a *attempts) {
	if a.at != nil {
		l.strange.Remove(a.at)
	}
	delete(l.names, a.name)
	delete(l.dirty, a.name)
}

// reset forgets the failures of a name whose lock was removed from storage, and has
// it removed again.
func (l *limiter) reset(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.names[name]; a != nil { // else nothing can be on its way
		a.failures, a.until, a.codes, a.nextCode = 0, time.Time{}, 0, time.Time{}
		a.stored = true
		l.mark(a)
	}
}

// code says whether a code may go out now, and counts it. A code that may not is a
// 403 that says when, whether or not there is such a phone.
func (l *limiter) code(name string, known bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.entry(name, known)
	if err := l.locked(a); err != nil {
		return err
	}
	now := l.now()
	if left := a.nextCode.Sub(now); left > 0 {
		return forbidden("a code was asked for a moment ago: use that one with its challenge, or ask again in %s", short((left + time.Second - 1).Truncate(time.Second)))
	}
	a.nextCode = now.Add(min(firstCodeWait<<min(a.codes, 16), maxCodeWait))
	a.codes++
	return nil
}

// lockWrite is what storage is to hold of a name; nil for nothing.
type lockWrite struct {
	name   string
	record *authenticatorLockRecord
}

// due reports whether a lock is to be written or deleted now.
func (l *limiter) due() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, a := range l.dirty {
		if l.dueNow(a, now) {
			return true
		}
	}
	return false
}

// dueNow: a deletion is, and a lock unless one was written a moment ago. A clock
// that was set back does not put it off for longer.
func (l *limiter) dueNow(a *attempts, now time.Time) bool {
	since := now.Sub(a.written)
	return a.failures == 0 || since >= lockWriteInterval || since < 0
}

// next returns a name whose lock is to be written or deleted now; ok is false when
// none is.
func (l *limiter) next() (w lockWrite, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for name, a := range l.dirty {
		if !l.dueNow(a, now) {
			continue
		}
		if a.failures > 0 {
			w.record = &authenticatorLockRecord{Version: recordVersion, Failures: a.failures, Until: a.until, Time: now}
		}
		w.name = name
		a.dirty = false
		delete(l.dirty, name)
		if w.record != nil {
			a.stored, a.written = true, now
		}
		return w, true
	}
	return lockWrite{}, false
}

// wrote says how a write of next ended.
func (l *limiter) wrote(w lockWrite, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.names[w.name]
	switch {
	case a == nil:
	case err != nil:
		l.mark(a) // it may have taken effect or not: once more, later
	case w.record == nil && !a.dirty:
		a.stored = false
		if a.failures == 0 && a.codes == 0 && l.now().Sub(a.written) >= lockWriteInterval {
			l.drop(a)
		}
	}
}
