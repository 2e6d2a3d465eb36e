package backend

import (
	"hash/maphash"
	"sync"
)

// cache keeps what was decoded from storage. Its values are shared between
// requests, so nobody changes one.
//
// It never returns what a finished write has replaced: writers call wrote or
// drop after every write, and a read that was on its way at that moment is not kept,
// because its stripe's count has changed since it began. A write that failed
// may take effect at any later time; its key is read from storage from then on,
// until a write succeeds.
type cache[V any] struct {
	limit int
	seed  maphash.Seed

	mu      sync.Mutex
	entries map[string]V
	unsure  map[string]struct{} // keys whose last write failed
	off     bool                // too many of these
	drops   [256]uint64         // by stripe of keys
}

func newCache[V any](limit int) *cache[V] {
	return &cache[V]{limit: limit, seed: maphash.MakeSeed(), entries: map[string]V{}, unsure: map[string]struct{}{}}
}

func (c *cache[V]) stripe(key string) *uint64 {
	return &c.drops[maphash.String(c.seed, key)%uint64(len(c.drops))]
}

// get returns the value of a key, from read where it is not cached. read runs
// without the lock, perhaps several times at once. Its value is kept when keep
// is true and nothing was written meanwhile.
func (c *cache[V]) get(key string, read func() (v V, keep bool, err error)) (V, error) {
	c.mu.Lock()
	v, ok := c.entries[key]
	before := *c.stripe(key)
	c.mu.Unlock()
	if ok {
		return v, nil
	}
	v, keep, err := read()
	if err != nil || !keep {
		return v, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, unsure := c.unsure[key]; unsure || c.off || *c.stripe(key) != before {
		return v, nil
	}
	if len(c.entries) >= c.limit {
		for other := range c.entries { // any one: the order of a map is random
			delete(c.entries, other)
			break
		}
	}
	c.entries[key] = v
	return v, nil
}

// drop forgets a key that was written elsewhere.
func (c *cache[V]) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(key)
}

// wrote forgets a key after a write of this process, which failed or not.
func (c *cache[V]) wrote(key string, failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(key)
	if !failed || c.off {
		delete(c.unsure, key)
		return
	}
	if c.unsure[key] = struct{}{}; len(c.unsure) > c.limit {
		c.off = true
		clear(c.entries)
		clear(c.unsure)
	}
}

func (c *cache[V]) dropLocked(key string) {
	delete(c.entries, key)
	*c.stripe(key)++
}
