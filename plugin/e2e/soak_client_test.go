//go:build e2e

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// soakClient is one client of a soak: one goroutine, one stream of random
// choices.
type soakClient struct {
	*soak
	client *client
	id     int
	random *rand.Rand
	made   int
}

func (c *soakClient) run(ctx context.Context) {
	for round := 0; ctx.Err() == nil; round++ {
		err := c.step(ctx, round)
		pause := time.Duration(c.random.Int64N(int64(20 * time.Millisecond)))
		if err != nil && ctx.Err() == nil {
			c.refuse(err)
			pause += 150 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// step makes one request. The ledger notes what is lost; an error that is left
// is a request that was refused.
func (c *soakClient) step(ctx context.Context, round int) error {
	// A draw for every choice, used or not: what is drawn next must not depend
	// on the answers.
	what, which, algorithm, slow := c.random.Float64(), c.random.Float64(), c.random.Float64(), c.random.Float64() < 0.1
	names := c.ledger.names()
	name := names[int(which*float64(len(names)))]
	switch {
	case what < 0.05 && len(names) < c.most:
		return c.create(ctx, algorithm)
	case what < 0.15:
		return c.ledger.refresh(ctx, c.client, name)
	case what < 0.20:
		return c.ledger.read(ctx, c.client, name)
	}
	if !slow { // a signature of ECDSA takes a second of processor time
		quick := c.ledger.names(bip340, ed25519)
		name = quick[int(which*float64(len(quick)))]
	}
	err := c.ledger.sign(ctx, c.client, name, fmt.Appendf(nil, "client %d round %d", c.id, round))
	if err == nil {
		c.signatures.Add(1)
	}
	return err
}

func (c *soakClient) create(ctx context.Context, choice float64) error {
	c.made++
	name := fmt.Sprintf("soak-%d-%d", c.id, c.made)
	settings := map[string]any{}
	algorithm := []string{bip340, ed25519}[int(choice*100)%2]
	if choice < 0.3 && len(c.ledger.names(ecdsaCurve, ecdsaP256)) < c.mostECDSA {
		algorithm = []string{ecdsaCurve, ecdsaP256}[int(choice*100)%2]
		if choice < 0.1 {
			settings["presign"] = 1
		}
	}
	return c.ledger.create(ctx, c.client, name, algorithm, settings)
}

var digits = regexp.MustCompile(`[0-9a-f]{8,}|[0-9]+`)

// refuse counts an error by its text, without what differs each time.
func (s *soak) refuse(err error) {
	s.refused.Add(1)
	if errors.Is(err, errLost) {
		return
	}
	text := oneLine(err.Error())
	var answer *api.ResponseError
	var connection *url.Error
	switch {
	case errors.As(err, &answer):
		text = fmt.Sprintf("status %d: ", answer.StatusCode) + digits.ReplaceAllString(oneLine(strings.Join(answer.Errors, " ")), "#")
	case errors.As(err, &connection):
		text = "no answer: " + digits.ReplaceAllString(connection.Err.Error(), "#")
	}
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors[text]++
}
