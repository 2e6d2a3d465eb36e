package backend

import (
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/mpc/pool"
)

// Bounds on what was begun and not finished. Their inputs are what takes memory.
const (
	maxCustodyOps        = 1024
	maxCustodyPerAccount = 16
	maxCustodyBytes      = 32 << 20
	maxCustodyNames      = 4096
)

// custodyOps are the operations that owners have begun and not finished, and
// where their assets were last found. They are in the memory of the active server alone:
// nodes hold the other half of each, and after a restart or failover the owner
// begins again. Its methods may be called concurrently.
type custodyOps struct {
	now func() time.Time

	mu    sync.Mutex
	ops   map[string]*custodyOp // by release
	bytes int
	names map[string]string // of assets by their IDs; hints
}

// custodyOp is one of them. What is in it changes only while it is taken.
type custodyOp struct {
	release string // 16 bytes in hex
	name    string // of the account
	offer   *pool.CustodyOffer
	signing *signing // nil for a refresh
	request string   // of what was approved, a signature or a change of policy: the request's ID
	next    []byte   // of a signature: the custody key after the next refresh
	pool    uint64   // of a refresh: poolFit.begin, before its nodes were chosen
	begun   time.Time
	expires time.Time
	bytes   int  // what it counts for maxCustodyBytes; policies and approvals change until the end
	taken   bool // guarded by custodyOps.mu
}

func newCustodyOps(now func() time.Time) *custodyOps {
	return &custodyOps{now: now, ops: map[string]*custodyOp{}, names: map[string]string{}}
}

// add keeps an operation for its owner to finish. Of those of one account the
// oldest makes room; where all accounts together have begun too much it is
// refused.
func (c *custodyOps) add(name string, offer *pool.CustodyOffer, q *signing) (*custodyOp, error) {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: it ends the program instead
	now := c.now()
	r := &offer.Request
	op := &custodyOp{release: hex.EncodeToString(id[:]), name: name, offer: offer, signing: q, begun: now,
		expires: now.Add(min(time.Until(offer.Expires), custodyWait)),
		bytes:   len(r.Input) + len(r.Policy) + len(r.NextPolicy) + len(r.Approvals)}
	c.mu.Lock()
	defer c.mu.Unlock()
	var oldest *custodyOp
	own := 0
	for _, other := range c.ops {
		if !now.Before(other.expires) && !other.taken {
			c.dropLocked(other)
			continue
		}
		if other.name != name {
			continue
		}
		own++
		if !other.taken && (oldest == nil || other.begun.Before(oldest.begun)) {
			oldest = other
		}
	}
	if own >= maxCustodyPerAccount && oldest != nil {
		c.dropLocked(oldest)
		own--
	}
	if own >= maxCustodyPerAccount || len(c.ops) >= maxCustodyOps || c.bytes+op.bytes > maxCustodyBytes {
		return nil, &pool.BusyError{Waiting: len(c.ops)}
	}
	c.ops[op.release] = op
	c.bytes += op.bytes
	return op, nil
}

// take hands an operation to the one who finishes it. The taker either gives it
// back or drops it.
func (c *custodyOps) take(name, release string) (*custodyOp, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	op := c.ops[release]
	switch {
	case op == nil || op.name != name || !op.taken && !c.now().Before(op.expires):
		return nil, conflict("there is no such release for account %q, or no more: it was used, its time is over, or the active server was started since. Nothing was done; begin again", name)
	case op.taken:
		return nil, conflict("this release is being used: wait for that to finish, then look at the result")
	}
	op.taken = true
	return op, nil
}

// giveBack keeps an operation of which no node was told anything.
func (c *custodyOps) giveBack(op *custodyOp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	op.taken = false
}

// drop forgets an operation.
func (c *custodyOps) drop(op *custodyOp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(op)
}

func (c *custodyOps) dropLocked(op *custodyOp) {
	if c.ops[op.release] == op {
		delete(c.ops, op.release)
		c.bytes -= op.bytes
	}
}

// foundAs returns the name under which an asset was last found.
func (c *custodyOps) foundAs(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.names[id]
}

// noteFound remembers where an asset is.
func (c *custodyOps) noteFound(id, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.names) >= maxCustodyNames {
		clear(c.names)
	}
	c.names[id] = name
}
