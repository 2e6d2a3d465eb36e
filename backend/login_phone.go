package backend

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	codeTries    = 3
	maxCodesSent = 32 // webhook calls under way
	codeTimeout  = 10 * time.Second
	// maxAnswered bounds the challenges remembered because of a wrong code or of a
	// release; those that are over are forgotten first, then the oldest.
	maxAnswered = 16384
)

// answered counts what was tried on challenges that the server answers once: wrong
// codes, and releases. Safe for concurrent use.
type answered struct {
	now func() time.Time

	mu    sync.Mutex
	tries map[[16]byte]*answeredChallenge
	order [][16]byte // oldest first
}

type answeredChallenge struct {
	tries   int
	done    bool
	expires time.Time
}

func newAnswered(now func() time.Time) *answered {
	return &answered{now: now, tries: map[[16]byte]*answeredChallenge{}}
}

func (a *answered) of(k *ticket) *answeredChallenge {
	c := a.tries[k.Nonce]
	if c != nil {
		return c
	}
	for len(a.order) > 0 && (len(a.order) >= maxAnswered || a.now().After(a.tries[a.order[0]].expires)) {
		delete(a.tries, a.order[0])
		a.order = a.order[1:]
	}
	c = &answeredChallenge{expires: k.Expires}
	a.tries[k.Nonce] = c
	a.order = append(a.order, k.Nonce)
	return c
}

// try counts a try with a code and uses the challenge up where it is the right one.
// How long it takes does not depend on the code.
func (a *answered) try(k *ticket, right, code string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.of(k)
	if c.done || c.tries >= codeTries {
		return false
	}
	if subtle.ConstantTimeCompare([]byte(right), []byte(code)) != 1 {
		c.tries++
		return false
	}
	c.done = true
	return true
}

// use uses the challenge up; false where it was used before.
func (a *answered) use(k *ticket) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.of(k)
	if c.done {
		return false
	}
	c.done = true
	return true
}

// again takes use back: nothing was released.
func (a *answered) again(k *ticket) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.tries[k.Nonce]; c != nil {
		c.done = false
	}
}

// codeMessage is what the webhook gets.
type codeMessage struct {
	Phone   string `json:"phone"`
	Code    string `json:"code"`
	Expires string `json:"expires_time"`
}

// errCodesBusy is the same for every name: it is decided before one is looked at.
func errCodesBusy() error {
	return &fault{status: http.StatusServiceUnavailable, msg: "more codes are being sent than are at once: none was sent; repeat the request in a moment"}
}

// sendCode hands a code to the webhook in the background: how long that takes says
// whether there is such a phone. The caller has a slot of codeSlots, which it gives
// up. What goes wrong is in the log, without number and code.
func (b *backend) sendCode(c *identitiesConfigRecord, authenticator string, m codeMessage) {
	hook, header := c.PhoneWebhook, c.PhoneWebhookHeader
	started := b.spawn(func(ctx context.Context) {
		defer func() { <-b.codeSlots }()
		ctx, cancel := context.WithTimeout(ctx, codeTimeout)
		defer cancel()
		if err := postCode(ctx, hook, header, m); err != nil {
			b.log.Error("a one-time code was not sent; whoever waits for it asks again", "authenticator", authenticator, "error", err)
		}
	})
	if !started {
		<-b.codeSlots
	}
}

func postCode(ctx context.Context, hook, header string, m codeMessage) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook, bytes.NewReader(body))
	if err != nil {
		return errors.New("phone_webhook in config/identities is not a URL")
	}
	req.Header.Set("Content-Type", "application/json")
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	client, err := outboundClient("", codeTimeout)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		// Without the URL, which may have a secret in it.
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return fmt.Errorf("the webhook does not answer: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the webhook answered with status %d", resp.StatusCode)
	}
	return nil
}
