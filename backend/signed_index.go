package backend

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// maxIndexed bounds the keys that signedIndex remembers; a million take about
// 20 MB.
const maxIndexed = 1 << 20

// signedIndex remembers which answers may be in storage, so that a new
// request_id, which is the usual case, is found to be new without reading the 25
// hours that could hold it: over gRPC each costs as much as a tenth of a
// signature. It may name what is not there, but never lacks what is.
//
// That holds because the active server alone writes: what it found when it
// listed them is complete with what it adds itself. Where another server's
// write becomes known, everything is listed again.
type signedIndex struct {
	store *store
	limit int
	turn  chan struct{} // capacity 1: held while storage is listed

	mu       sync.Mutex
	complete bool
	// from is the earliest hour for which complete holds. A clock that ran ahead
	// and was set back asks for hours that were left out or forgotten.
	from          int64
	invalidations uint64
	hours         map[int64]*signedHour
	count         int // of all keys
}

// signedHour is one hour's answers by the first 8 bytes of their hash; nil keys
// stand for too many to remember, so that any key may be among them.
type signedHour struct {
	keys map[uint64]struct{}
}

func newSignedIndex(s *store) *signedIndex {
	return &signedIndex{store: s, limit: maxIndexed, turn: make(chan struct{}, 1), hours: map[int64]*signedHour{}}
}

// hoursWith lists the hours, from oldest on, that may hold the key, the latest
// first. Hours to come are among them: the clock of another server may have
// been ahead.
func (x *signedIndex) hoursWith(ctx context.Context, key [sha256.Size]byte, oldest int64) ([]int64, error) {
	if err := x.load(ctx, oldest); err != nil {
		return nil, err
	}
	short := binary.BigEndian.Uint64(key[:8])
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []int64
	for hour, h := range x.hours {
		if _, ok := h.keys[short]; hour >= oldest && (ok || h.keys == nil) {
			out = append(out, hour)
		}
	}
	slices.SortFunc(out, func(a, b int64) int { return cmp.Compare(b, a) })
	return out, nil
}

// add notes a key that is about to be stored.
func (x *signedIndex) add(hour int64, key [sha256.Size]byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.addLocked(hour, binary.BigEndian.Uint64(key[:8]))
}

func (x *signedIndex) addLocked(hour int64, short uint64) {
	h := x.hours[hour]
	if h == nil {
		h = &signedHour{keys: map[uint64]struct{}{}}
		x.hours[hour] = h
	}
	if _, ok := h.keys[short]; ok || h.keys == nil {
		return
	}
	if x.count >= x.limit {
		x.count -= len(h.keys)
		h.keys = nil
		return
	}
	h.keys[short] = struct{}{}
	x.count++
}

// forget drops the hours before oldest, which nobody asks for any more.
func (x *signedIndex) forget(oldest int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.from = max(x.from, oldest)
	maps.DeleteFunc(x.hours, func(hour int64, h *signedHour) bool {
		if hour >= oldest {
			return false
		}
		x.count -= len(h.keys)
		return true
	})
}

// invalidate says that another server has written.
func (x *signedIndex) invalidate() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.complete = false
	x.invalidations++
}

// load lists what is stored, unless that is known. One caller does it at a time.
func (x *signedIndex) load(ctx context.Context, oldest int64) error {
	if done, _ := x.state(oldest); done {
		return nil
	}
	select {
	case x.turn <- struct{}{}:
		defer func() { <-x.turn }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for stored answers to be listed: %w", ctx.Err())
	}
	done, before := x.state(oldest)
	if done { // by who was before us
		return nil
	}
	x.mu.Lock()
	x.complete, x.from = false, oldest // forget may raise it meanwhile
	x.mu.Unlock()
	found, err := x.store.signedHours(ctx)
	if err != nil {
		return err
	}
	for _, hour := range found {
		if hour < oldest {
			continue
		}
		names, err := x.store.list(ctx, signedFolder(hour))
		if err != nil {
			return err
		}
		x.mu.Lock()
		for _, name := range names {
			var short [8]byte
			if n, err := hex.Decode(short[:], []byte(name[:min(16, len(name))])); err == nil && n == 8 {
				x.addLocked(hour, binary.BigEndian.Uint64(short[:]))
			}
		}
		x.mu.Unlock()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	// What was found holds for this caller in any case.
	x.complete = x.invalidations == before
	return nil
}

// state says whether the index is complete from an hour on.
func (x *signedIndex) state(oldest int64) (complete bool, invalidations uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.complete && x.from <= oldest, x.invalidations
}

// signedHours lists the hours that have answers, the earliest first.
func (s *store) signedHours(ctx context.Context) ([]int64, error) {
	names, err := s.list(ctx, prefixSigned)
	if err != nil {
		return nil, err
	}
	var out []int64
	for _, name := range names {
		hour, err := strconv.ParseInt(strings.TrimSuffix(name, "/"), 10, 64)
		if err == nil && signedFolder(hour) == prefixSigned+name {
			out = append(out, hour)
		}
	}
	slices.Sort(out)
	return out, nil
}

func signedFolder(hour int64) string { return fmt.Sprintf("%s%d/", prefixSigned, hour) }

// prepare lists what is stored before the first request needs it.
func (s *signedRequests) prepare(ctx context.Context) {
	if err := s.index.load(ctx, hourOf(s.cfg.now().Add(-signedFor))); err != nil && ctx.Err() == nil {
		s.cfg.Logger.Warn("stored answers could not be listed; the next request with a request_id tries again", "error", err)
	}
}

func (s *signedRequests) invalidate() { s.index.invalidate() }
