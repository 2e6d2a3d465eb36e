package pool

import (
	"maps"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/mpc"
)

// presignature is what the coordinator knows of a presignature that nodes hold:
// how to ask for it, and nothing that would help to sign. It does not change.
type presignature struct {
	account    mpc.AccountID
	recordHash [32]byte
	session    mpc.SessionID // it was made in, and is named by
	members    []presignMember
	// expires is on this process's clock and before the nodes drop it.
	expires time.Time
}

// presignMember is one node's part. Another process of the same node does not
// have it any more.
type presignMember struct {
	index       mpc.Index
	node        candidate
	incarnation uint64
}

// alive holds the incarnations of the nodes that are ready, by node ID.
type alive map[string]presignNode

type presignNode struct {
	identity    mpc.NodeIdentity
	incarnation uint64
}

// has reports whether all members of s still hold their parts.
func (a alive) has(s *presignature) bool {
	return !slices.ContainsFunc(s.members, func(m presignMember) bool {
		return a[m.node.id] != presignNode{m.node.identity, m.incarnation}
	})
}

// stock holds the presignatures of all accounts. An entry is in it from the
// moment when all its nodes have reported it until it is taken, once; that two
// signatures never share a nonce rests on the nodes, which forget a presignature
// before they use it, and on this as well. Its methods may be called
// concurrently. The lock comes after all others of this package: under it
// nothing but the caller's judge is called.
type stock struct {
	mu sync.Mutex
	by map[mpc.AccountID][]*presignature // oldest first
	// until is when the last presignature that nodes may hold of an account
	// expires, also one that never came into the stock.
	until map[mpc.AccountID]time.Time
	// claims are those who may add to the stock.
	claims map[*claim]struct{}
	swept  time.Time
}

// claim is held by who makes a presignature, or has taken one and may put it
// back. It is void from the moment when the account's presignatures are
// forgotten, so that none comes back after that.
type claim struct {
	account    mpc.AccountID
	recordHash [32]byte
	void       bool // guarded by stock.mu
}

// verdict is what a taker says of a presignature.
type verdict int

const (
	leave verdict = iota // for others
	use
	drop // nobody may ever use it
)

// sweepEvery is how often the stock looks for accounts that nobody asks for any
// more.
const sweepEvery = time.Minute

func newStock() *stock {
	return &stock{by: map[mpc.AccountID][]*presignature{}, until: map[mpc.AccountID]time.Time{}, claims: map[*claim]struct{}{}}
}

// expect notes that nodes may soon hold a presignature of the account.
func (s *stock) expect(id mpc.AccountID, now, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until.After(s.until[id]) {
		s.until[id] = until
	}
	if now.Sub(s.swept) < sweepEvery {
		return
	}
	s.swept = now
	for id := range s.by {
		s.pruneLocked(id, now, nil)
	}
	maps.DeleteFunc(s.until, func(_ mpc.AccountID, t time.Time) bool { return !now.Before(t) })
}

// begin claims the right to add a presignature of the account; end gives it up.
func (s *stock) begin(id mpc.AccountID, recordHash [32]byte) *claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.beginLocked(id, recordHash)
}

func (s *stock) beginLocked(id mpc.AccountID, recordHash [32]byte) *claim {
	c := &claim{account: id, recordHash: recordHash}
	s.claims[c] = struct{}{}
	return c
}

func (s *stock) end(c *claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claims, c)
}

// add puts a new presignature into the stock, as the last one to be taken. It
// returns false where the account's presignatures were forgotten since begin.
func (s *stock) add(c *claim, p *presignature) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.void {
		return false
	}
	s.by[p.account] = append(s.by[p.account], p)
	if p.expires.After(s.until[p.account]) {
		s.until[p.account] = p.expires
	}
	return true
}

// putBack returns a taken presignature that no node has been asked for, as the
// first to be taken, unless it has been forgotten since.
func (s *stock) putBack(c *claim, p *presignature) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.void {
		s.by[p.account] = slices.Insert(s.by[p.account], 0, p)
	}
}

// take removes the oldest presignature of exactly this account and record that
// is not expired, whose nodes all still hold it, and of which judge says use;
// nil if there is none. What has expired, lost a node or is judged drop is
// removed on the way; dropped counts the latter. The caller ends the claim.
func (s *stock) take(id mpc.AccountID, recordHash [32]byte, now time.Time, nodes alive,
	judge func(*presignature) verdict) (taken *presignature, c *claim, dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pruneLocked(id, now, nodes)
	s.setLocked(id, slices.DeleteFunc(s.by[id], func(p *presignature) bool {
		if taken != nil || p.recordHash != recordHash || !nodes.has(p) {
			return false
		}
		switch judge(p) {
		case use:
			taken = p
			return true
		case drop:
			dropped++
			return true
		}
		return false
	}))
	if taken != nil {
		c = s.beginLocked(id, recordHash)
	}
	return taken, c, dropped
}

// count says how many presignatures take could return now.
func (s *stock) count(id mpc.AccountID, recordHash [32]byte, now time.Time, nodes alive) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pruneLocked(id, now, nodes)
	n := 0
	for _, p := range s.by[id] {
		if p.recordHash == recordHash && nodes.has(p) {
			n++
		}
	}
	return n
}

// forget removes an account's presignatures but those of record keep, nil for
// none. It returns the sessions of those that stay, and whether nodes may hold
// others.
func (s *stock) forget(id mpc.AccountID, keep *[32]byte, now time.Time) (kept []mpc.SessionID, tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	making := false
	for c := range s.claims {
		// What a refresh has overtaken must not come in after it.
		c.void = c.void || c.account == id && (keep == nil || c.recordHash != *keep)
		making = making || c.account == id
	}
	tell = now.Before(s.until[id])
	s.setLocked(id, slices.DeleteFunc(s.by[id], func(p *presignature) bool {
		return keep == nil || p.recordHash != *keep
	}))
	for _, p := range s.by[id] {
		kept = append(kept, p.session)
	}
	if len(kept) == 0 && !making { // else nodes may yet get one
		delete(s.until, id)
	}
	return kept, tell
}

// sessions returns those of the account's presignatures in the stock.
func (s *stock) sessions(id mpc.AccountID) (out []mpc.SessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.by[id] {
		out = append(out, p.session)
	}
	return out
}

func (s *stock) pruneLocked(id mpc.AccountID, now time.Time, nodes alive) {
	s.setLocked(id, slices.DeleteFunc(s.by[id], func(p *presignature) bool {
		return !now.Before(p.expires) || nodes.lost(p)
	}))
}

// lost reports whether a member's process is another one by now, so that s can
// never be used. A node that is only not ready at the moment may have it still.
func (a alive) lost(s *presignature) bool {
	return slices.ContainsFunc(s.members, func(m presignMember) bool {
		n, ok := a[m.node.id]
		return ok && n != presignNode{m.node.identity, m.incarnation}
	})
}

func (s *stock) setLocked(id mpc.AccountID, list []*presignature) {
	if len(list) == 0 {
		delete(s.by, id)
		return
	}
	s.by[id] = list
}
