//go:build e2e

package e2e_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// ledger is what the engine has promised: which accounts it said it made, with
// which keys, and the newest epoch it showed of each. What it breaks of that,
// in whatever disturbance, is lost; an error of a request is not. Its methods
// may be called concurrently.
type ledger struct {
	mu       sync.Mutex
	accounts map[string]*promise
	// unanswered are creations whose answer was an error: the account may be
	// there, whole, or not at all. The value is the algorithm.
	unanswered map[string]string
	// nonces holds every signature by account and first half: two different
	// ones with the same nonce give the key away.
	nonces map[string]string
	lost   []string
}

type promise struct {
	name, algorithm, publicHex, publicPEM string
	epoch                                 int
}

func newLedger() *ledger {
	return &ledger{accounts: map[string]*promise{}, unanswered: map[string]string{}, nonces: map[string]string{}}
}

// create makes an account and notes the answer. Names are used once.
func (l *ledger) create(ctx context.Context, c *client, name, algorithm string, settings map[string]any) error {
	data := map[string]any{"algorithm": algorithm, "threshold": 2, "shares": 3}
	maps.Copy(data, settings)
	answer, err := c.write(ctx, "accounts/"+name, data)
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.unanswered[name] = algorithm
		return err
	}
	return l.adopt(name, algorithm, answer)
}

// adopt notes an account from an answer about it.
func (l *ledger) adopt(name, algorithm string, answer map[string]any) error {
	p := &promise{name, algorithm, text(answer, "public_key_hex"), text(answer, "public_key"), integer(answer, "share_epoch")}
	if p.publicHex == "" || p.publicPEM == "" || p.epoch < 1 || text(answer, "algorithm") != algorithm {
		return l.lose("%s: asked for %s, made %v", name, algorithm, answer)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accounts[name] = p
	return nil
}

// errLost marks a broken promise, which no disturbance excuses.
var errLost = errors.New("lost")

func (l *ledger) lose(format string, args ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := oneLine(fmt.Sprintf(format, args...))
	l.lost = append(l.lost, text)
	return fmt.Errorf("%w: %s", errLost, text)
}

// oneLine has no line breaks, which errors of Vault's API have.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// losses returns what was lost so far.
func (l *ledger) losses() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lost)
}

// names returns the accounts of the given algorithms, all without any, sorted.
func (l *ledger) names(algorithms ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for name, p := range l.accounts {
		if len(algorithms) == 0 || slices.Contains(algorithms, p.algorithm) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// promised returns what is known of an account at this moment.
func (l *ledger) promised(name string) promise {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.accounts[name]
}

// saw compares an answer about an account with what was promised before the
// request was sent. An epoch may only go up.
func (l *ledger) saw(before promise, answer map[string]any) error {
	// PEM of accounts/, hex of sign/.
	if key := text(answer, "public_key"); key != before.publicPEM && key != before.publicHex {
		return l.lose("%s has another public key", before.name)
	}
	if key := text(answer, "public_key_hex"); key != "" && key != before.publicHex {
		return l.lose("%s has another public key", before.name)
	}
	epoch := integer(answer, "share_epoch")
	if epoch < before.epoch {
		return l.lose("%s is in epoch %d after epoch %d", before.name, epoch, before.epoch)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.accounts[before.name]; p != nil {
		p.epoch = max(p.epoch, epoch)
	}
	return nil
}

// sign has an account sign and checks the signature against the key that was
// promised, not the one that the answer names.
func (l *ledger) sign(ctx context.Context, c *client, name string, message []byte) error {
	before := l.promised(name)
	answer, sig, err := c.sign(ctx, name, message)
	if err != nil {
		return err
	}
	if err := verifySignature(before.algorithm, before.publicHex, before.publicPEM, message, sig); err != nil {
		return l.lose("a signature of %s in epoch %d: %v", name, integer(answer, "share_epoch"), err)
	}
	if err := l.noteNonce(name, answer, sig); err != nil {
		return err
	}
	return l.saw(before, answer)
}

// noteNonce remembers r, for ECDSA, or the first 32 bytes, R, of the others.
func (l *ledger) noteNonce(name string, answer map[string]any, sig []byte) error {
	r := text(answer, "r")
	if r == "" {
		r = hex.EncodeToString(sig[:min(32, len(sig))])
	}
	l.mu.Lock()
	earlier, used := l.nonces[name+" "+r]
	l.nonces[name+" "+r] = string(sig)
	l.mu.Unlock()
	if used && earlier != string(sig) {
		return l.lose("%s used a nonce twice", name)
	}
	return nil
}

// refresh gives an account new shares.
func (l *ledger) refresh(ctx context.Context, c *client, name string) error {
	return l.ask(name, func() (map[string]any, error) { return c.write(ctx, "accounts/"+name+"/refresh", nil) })
}

// read reads an account.
func (l *ledger) read(ctx context.Context, c *client, name string) error {
	return l.ask(name, func() (map[string]any, error) { return c.read(ctx, "accounts/"+name) })
}

func (l *ledger) ask(name string, request func() (map[string]any, error)) error {
	before := l.promised(name)
	answer, err := request()
	if err != nil {
		return err
	}
	return l.saw(before, answer)
}

// adoptUnanswered notes the accounts that exist although the request for them
// failed: from now on they are promised like the others.
func (l *ledger) adoptUnanswered(ctx context.Context, c *client) (int, error) {
	names, err := c.accounts(ctx)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	wanted := maps.Clone(l.unanswered)
	l.mu.Unlock()
	adopted := 0
	for _, name := range names {
		algorithm, ok := wanted[name]
		if !ok {
			continue
		}
		answer, err := c.read(ctx, "accounts/"+name)
		if err != nil {
			return adopted, fmt.Errorf("%s, listed: %w", name, err)
		}
		if err := l.adopt(name, algorithm, answer); err != nil {
			return adopted, err
		}
		l.mu.Lock()
		delete(l.unanswered, name)
		l.mu.Unlock()
		adopted++
	}
	return adopted, nil
}

// verifyAll reads every account, has each open all of its shares, by a refresh,
// and sign once, trying again until the time is up. What does not succeed by
// then is lost. It returns the number of accounts that signed.
func (l *ledger) verifyAll(ctx context.Context, c *client, within time.Duration) int {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var listed []string
	retry(ctx, func() (err error) {
		if _, err = l.adoptUnanswered(ctx, c); err == nil {
			listed, err = c.accounts(ctx)
		}
		return err
	})
	names := make(chan string)
	var workers sync.WaitGroup
	var mu sync.Mutex
	good := 0
	for range 2 {
		workers.Go(func() {
			for name := range names {
				message := fmt.Appendf(nil, "at the end, %s", name)
				step, err := "be read", retry(ctx, func() error { return l.read(ctx, c, name) })
				if err == nil {
					step, err = "be refreshed", retry(ctx, func() error { return l.refresh(ctx, c, name) })
				}
				if err == nil {
					step, err = "sign", retry(ctx, func() error { return l.sign(ctx, c, name, message) })
				}
				switch {
				case errors.Is(err, errLost): // noted
				case err != nil:
					_ = l.lose("%s cannot %s: %v", name, step, err)
				default:
					mu.Lock()
					good++
					mu.Unlock()
				}
			}
		})
	}
	for _, name := range l.names() {
		if !slices.Contains(listed, name) {
			_ = l.lose("%s is not listed", name)
		}
		names <- name
	}
	close(names)
	workers.Wait()
	return good
}

// retry tries until it works, a promise is broken or the context ends.
func retry(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil || errors.Is(err, errLost) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
