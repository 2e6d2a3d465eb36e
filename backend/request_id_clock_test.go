package backend

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// TestRequestIDClockAhead: a clock that runs ahead and is set right again does
// not make a request_id look new whose answer is in storage.
func TestRequestIDClockAhead(t *testing.T) {
	const ahead = 72 * time.Hour
	t.Run("while answers are listed", func(t *testing.T) {
		var signed atomic.Int64
		storage, clk := &logical.InmemStorage{}, newClock()
		m := hooked(t, storage, signCounter(&signed), func(c *Config) { c.now = clk.now })
		first := m.must(logical.UpdateOperation, "sign/dave", signedOnce)
		m.b.Cleanup(t.Context())
		clk.add(ahead)
		m = openWith(t, storage, m.fake, func(c *Config) { c.now = clk.now })
		m.b.signed.prepare(t.Context())
		clk.add(-ahead)
		again := m.must(logical.UpdateOperation, "sign/dave", signedOnce)
		if again["replayed"] != true || again["signature"] != first["signature"] {
			t.Errorf("signed anew after the clock was set right: %v, first %v", again["signature"], first["signature"])
		}
	})
	t.Run("while old answers are forgotten", func(t *testing.T) {
		clk := newClock()
		a := &answers{Storage: &logical.InmemStorage{}}
		m := hooked(t, a, pass, func(c *Config) { c.now = clk.now })
		first := m.must(logical.UpdateOperation, "sign/dave", signedOnce)
		clk.add(ahead)
		a.failDeletes.Store(true) // as where there are more than one pass deletes
		if _, err := m.b.signed.expire(t.Context()); err == nil {
			t.Error("deletions did not fail")
		}
		clk.add(-ahead)
		again := m.must(logical.UpdateOperation, "sign/dave", signedOnce)
		if again["replayed"] != true || again["signature"] != first["signature"] {
			t.Errorf("signed anew after the clock was set right: %v, first %v", again["signature"], first["signature"])
		}
	})
}
