package backend

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
)

const (
	// approveTicketSize is the length of a ticket in bytes.
	approveTicketSize = 32
	// approveTicketTTL is how long an approver may look at a request before the
	// device has to scan the code again.
	approveTicketTTL = 5 * time.Minute
	// approveTicketFailures: this many answers with a wrong factor end a ticket.
	approveTicketFailures = 3
	// maxApproveTickets bounds the memory: about 4 MB. Each needs a device with a key
	// of a policy.
	maxApproveTickets = 8192
	// maxTicketsPerDevice: with one more the device's oldest ends.
	maxTicketsPerDevice = 8
)

// approveTicket says that a device has scanned the code of a request. Tickets are in
// memory only, by SHA-256 of what the device has.
type approveTicket struct {
	sum      [sha256.Size]byte
	request  approval.ID
	key      approval.ID // of the device
	approver approval.ID
	opened   time.Time
	expires  time.Time
	failures int
	busy     bool // an answer with it is being looked at
}

// approveTickets holds them. Its methods may be called concurrently.
type approveTickets struct {
	now func() time.Time
	max int

	mu   sync.Mutex
	open map[[sha256.Size]byte]*approveTicket
}

func newApproveTickets(now func() time.Time, most int) *approveTickets {
	return &approveTickets{now: now, max: most, open: map[[sha256.Size]byte]*approveTicket{}}
}

// issue makes a ticket for a device, not beyond the request's expiry.
func (t *approveTickets) issue(request, key, approver approval.ID, requestExpires time.Time) ([]byte, *approveTicket, error) {
	raw := make([]byte, approveTicketSize)
	_, _ = rand.Read(raw) // never fails: it ends the program instead
	now := t.now()
	n := &approveTicket{sum: sha256.Sum256(raw), request: request, key: key, approver: approver, opened: now, expires: now.Add(approveTicketTTL)}
	if requestExpires.Before(n.expires) {
		n.expires = requestExpires
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var oldest *approveTicket
	count := 0
	for sum, o := range t.open {
		switch {
		case !now.Before(o.expires):
			delete(t.open, sum)
		case o.key == key:
			if count++; !o.busy && (oldest == nil || o.opened.Before(oldest.opened)) {
				oldest = o
			}
		}
	}
	if count >= maxTicketsPerDevice {
		if oldest == nil {
			return nil, nil, conflict("this device is answering as many requests at once as it may: wait for the answers, then scan again")
		}
		delete(t.open, oldest.sum)
	}
	if len(t.open) >= t.max {
		return nil, nil, &fault{status: http.StatusServiceUnavailable, msg: "this server has as many requests open on devices as it takes: nothing was done; scan the code again in some minutes"}
	}
	t.open[n.sum] = n
	return raw, n, nil
}

// errTicket says the same of all tickets that are not there.
func errTicket() error {
	return forbidden("this opening of the request is over: it ends after five minutes, with the third wrong factor, with an answer, and with a restart of the server. Nothing was recorded; authenticate again: scan the code anew")
}

// enter returns a copy of the ticket and keeps it from being used twice at once;
// the caller ends or leaves it.
func (t *approveTickets) enter(raw []byte) (approveTicket, error) {
	sum := sha256.Sum256(raw)
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[sum]
	if o != nil && !t.now().Before(o.expires) {
		delete(t.open, sum)
		o = nil
	}
	if o == nil {
		return approveTicket{}, errTicket()
	}
	if o.busy {
		return approveTicket{}, conflict("an answer of this device is being looked at: wait for what it says")
	}
	o.busy = true
	return *o, nil
}

// leave gives the ticket back: nothing came of the answer, and no factor was wrong.
func (t *approveTickets) leave(k approveTicket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.open[k.sum]; o != nil {
		o.busy = false
	}
}

// failed gives the ticket back after a wrong factor; left is how many more may be
// wrong. With none left the ticket has ended.
func (t *approveTickets) failed(k approveTicket) (left int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[k.sum]
	if o == nil {
		return 0
	}
	o.busy = false
	o.failures++
	if o.failures >= approveTicketFailures {
		delete(t.open, k.sum)
		return 0
	}
	return approveTicketFailures - o.failures
}

// end takes the ticket out, and with all also the approver's others for the request:
// they have answered.
func (t *approveTickets) end(k approveTicket, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, k.sum)
	if !all {
		return
	}
	for sum, o := range t.open {
		if o.request == k.request && o.approver == k.approver {
			delete(t.open, sum)
		}
	}
}

// sweep drops what is over.
func (t *approveTickets) sweep() {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for sum, o := range t.open {
		if !now.Before(o.expires) {
			delete(t.open, sum)
		}
	}
}
