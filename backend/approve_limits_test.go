package backend

import (
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
)

func statusOfFault(t *testing.T, err error) int {
	t.Helper()
	f, ok := err.(*fault)
	if !ok {
		t.Fatalf("%v is no fault", err)
	}
	return f.status
}

// TestApproveCounts: the 20th failure locks, for a minute and then for twice as long
// after each further one; others are not touched; success forgets.
func TestApproveCounts(t *testing.T) {
	clock := newSteadyClock()
	l := newApproveCounts(clock.now, 100)
	of, other := approveCounter{"r", ""}, approveCounter{"r", "key"}
	fail := func(wantLocked bool) {
		t.Helper()
		if locked, err := l.failed(of); err != nil || locked != wantLocked {
			t.Fatalf("locked %v, %v", locked, err)
		}
	}
	for i := range approveFailures {
		fail(i == approveFailures-1)
	}
	for _, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		clock.pass(wait*time.Minute - time.Second)
		if err := l.check(of); err == nil || statusOfFault(t, err) != http.StatusTooManyRequests {
			t.Fatalf("not locked for %d minutes: %v", wait, err)
		}
		if _, err := l.failed(of); err == nil { // is not counted while locked
			t.Fatal("counted while locked")
		}
		if err := l.check(other); err != nil {
			t.Fatalf("a device is locked by strangers: %v", err)
		}
		clock.pass(time.Second)
		if err := l.check(of); err != nil {
			t.Fatalf("still locked after %d minutes: %v", wait, err)
		}
		fail(true)
	}
	l.succeeded(of)
	fail(false)
	clock.pass(approveCountTTL + time.Second)
	l.sweep()
	if len(l.table) != 0 || l.order.Len() != 0 {
		t.Errorf("%d counts are left", len(l.table))
	}
}

// TestApproveCountsBounded: what failed longest ago is forgotten first.
func TestApproveCountsBounded(t *testing.T) {
	clock := newSteadyClock()
	l := newApproveCounts(clock.now, 3)
	keep := approveCounter{"keep", ""}
	for i := range 50 {
		_, _ = l.failed(keep)
		_, _ = l.failed(approveCounter{strconv.Itoa(i), ""})
	}
	if len(l.table) != 3 || l.order.Len() != 3 {
		t.Errorf("%d counts", len(l.table))
	}
	if l.check(keep) == nil {
		t.Error("one that fails all the time was forgotten")
	}
}

// TestUsedForms: each device takes each form once, also of two at the same time.
func TestUsedForms(t *testing.T) {
	clock := newSteadyClock()
	u := newUsedForms(clock.now)
	f := usedForm{"r", "k", 7}
	var mu sync.Mutex
	var wg sync.WaitGroup
	taken := 0
	for range 16 {
		wg.Go(func() {
			if u.take(f) {
				mu.Lock()
				taken++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if taken != 1 {
		t.Errorf("taken %d times", taken)
	}
	for _, other := range []usedForm{{"r", "k", 8}, {"r", "l", 7}, {"s", "k", 7}} {
		if !u.take(other) {
			t.Errorf("%v is taken", other)
		}
	}
	for i := range 2 * maxFormsOfKey { // the second half fails
		u.take(usedForm{"full", "k", uint64(i)})
	}
	if u.of["k"] != maxFormsOfKey || !u.take(usedForm{"r", "m", 7}) {
		t.Errorf("%d forms of one device; another one's is to be taken", u.of["k"])
	}
	for i := range maxUsedForms { // some fail: it is full
		u.take(usedForm{"full", strconv.Itoa(i / 512), uint64(i)})
	}
	if len(u.until) != maxUsedForms || u.take(usedForm{"r", "new", 1}) {
		t.Errorf("%d forms; a new one must not be taken, since an old one would be forgotten", len(u.until))
	}
	clock.pass(usedFormTTL + time.Second)
	if !u.take(usedForm{"r", "new", 1}) || len(u.until) != 1 || len(u.of) != 1 {
		t.Errorf("%d forms after their time", len(u.until))
	}
}

// TestApproveTickets: one device, five minutes or the request's expiry, three wrong
// factors, one answer at a time.
func TestApproveTickets(t *testing.T) {
	clock := newSteadyClock()
	tickets := newApproveTickets(clock.now, 20)
	id := func(n byte) approval.ID { return approval.ID{n} }
	far := clock.now().Add(time.Hour)
	issue := func(request, key, approver byte, expires time.Time) []byte {
		t.Helper()
		raw, _, err := tickets.issue(id(request), id(key), id(approver), expires)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	enter := func(raw []byte) approveTicket {
		t.Helper()
		k, err := tickets.enter(raw)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	over := func(raw []byte) {
		t.Helper()
		if _, err := tickets.enter(raw); err == nil || statusOfFault(t, err) != http.StatusForbidden {
			t.Fatalf("not over: %v", err)
		}
	}
	a := issue(1, 2, 3, far)
	k := enter(a)
	if k.request != id(1) || k.key != id(2) || k.approver != id(3) {
		t.Errorf("%+v", k)
	}
	if _, err := tickets.enter(a); err == nil || statusOfFault(t, err) != http.StatusConflict {
		t.Errorf("two at once: %v", err)
	}
	tickets.leave(k)
	for _, left := range []int{2, 1, 0} {
		if got := tickets.failed(enter(a)); got != left {
			t.Errorf("%d left, want %d", got, left)
		}
	}
	over(a)

	a = issue(1, 2, 3, far)
	clock.pass(approveTicketTTL - time.Second)
	tickets.leave(enter(a))
	clock.pass(time.Second)
	over(a)
	a = issue(1, 2, 3, clock.now().Add(time.Minute))
	clock.pass(time.Minute)
	over(a) // with the request

	// An answer ends all of the approver's for the request.
	far = clock.now().Add(time.Hour)
	a, b, c, d := issue(1, 2, 3, far), issue(1, 4, 3, far), issue(5, 2, 3, far), issue(1, 6, 7, far)
	tickets.end(enter(a), true)
	over(a)
	over(b)
	tickets.leave(enter(c))
	tickets.leave(enter(d))

	// A device's oldest makes room; the memory is bounded.
	first := issue(9, 9, 9, far)
	for range maxTicketsPerDevice {
		clock.pass(time.Second)
		issue(9, 9, 9, far)
	}
	over(first)
	for n := range byte(40) {
		if _, _, err := tickets.issue(id(n), id(100+n), id(n), far); err != nil {
			if len(tickets.open) != 20 || statusOfFault(t, err) != http.StatusServiceUnavailable {
				t.Errorf("%d tickets, %v", len(tickets.open), err)
			}
			break
		}
	}
	clock.pass(approveTicketTTL)
	tickets.sweep()
	if len(tickets.open) != 0 {
		t.Errorf("%d tickets are left", len(tickets.open))
	}
}

// TestLineBudget: strangers cause so many lines a minute, and those left out are
// counted.
func TestLineBudget(t *testing.T) {
	clock := newSteadyClock()
	l := lineBudget{now: clock.now}
	written := 0
	for range 2 * maxApproveLines {
		if ok, missed := l.line(); ok {
			written++
			if missed != 0 {
				t.Errorf("%d missed", missed)
			}
		}
	}
	clock.pass(time.Minute)
	if ok, missed := l.line(); !ok || missed != maxApproveLines || written != maxApproveLines {
		t.Errorf("%v, %d missed, %d written", ok, missed, written)
	}
}
