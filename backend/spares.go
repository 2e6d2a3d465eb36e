package backend

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// A node that has seen no share of an epoch may be handed any, once. That rests
// on the stored exposures, and a snapshot of storage lacks those of the time
// after it: on restored storage a node could pass for one that has seen
// nothing. So after a restore no such spare is used for an account until its
// next refresh, whose epoch begins with exposures that are complete.
//
// A restore is declared by the operator (recovery/restored), or suspected when
// the heartbeat in storage is not a recent one. Either draws a new marker into
// the entry "spares". An epoch keeps the marker in force when it began, its
// lineage, and gets spares while the two are equal. No clocks are compared for
// that, and a record of an older snapshot cannot pass for a newer one, since
// markers are random.
//
// What is not noticed: a snapshot taken less than staleHeartbeat ago that is
// restored so soon that its heartbeat is still recent when the engine starts.

const (
	// heartbeatPeriod is Vault's period for the function that writes it.
	heartbeatPeriod = time.Minute
	// staleHeartbeat is how old a heartbeat may be, or how far in the future:
	// Vault calls the periodic function each minute, and a failover takes a
	// while.
	staleHeartbeat   = 3 * heartbeatPeriod
	heartbeatTimeout = 10 * time.Second
)

// spareRule answers whether an epoch may get spares. Until the heartbeat was
// looked at in this process the answer is no. Its methods may be called
// concurrently.
type spareRule struct {
	store *store // set by newStore
	now   func() time.Time
	// active says whether this server is the one that writes storage. Others
	// never decide.
	active func() bool
	log    hclog.Logger
	turn   chan struct{} // capacity 1: held by who looks at or writes the heartbeat

	mu      sync.Mutex
	decided bool
	known   bool   // marker is what is stored
	marker  string // empty: no entry
	reads   uint64 // changes when what is being read may be old
	// beats are the heartbeats of this process of which one is stored: the
	// last one written, and after it those whose write failed.
	beats []time.Time
}

func newSpareRule(now func() time.Time, active func() bool, log hclog.Logger) *spareRule {
	return &spareRule{now: now, active: active, log: log, turn: make(chan struct{}, 1)}
}

// allow reports whether an epoch of this lineage may get spares.
func (s *spareRule) allow(ctx context.Context, lineage string) bool {
	marker, err := s.lineage(ctx)
	if err != nil { // beat warns once a minute
		s.log.Debug("no spare nodes are used: whether storage was restored is not known", "error", err)
	}
	return err == nil && marker == lineage
}

// lineage returns the marker in force, for an epoch that is about to begin.
// The first call looks at the heartbeat.
func (s *spareRule) lineage(ctx context.Context) (string, error) {
	if err := s.decide(ctx); err != nil {
		return "", err
	}
	s.mu.Lock()
	marker, known, reads := s.marker, s.known, s.reads
	s.mu.Unlock()
	if known {
		return marker, nil
	}
	r, err := s.store.sparesRecord(ctx)
	if err != nil {
		return "", fmt.Errorf("%w; if it cannot be repaired, vault write -force <mount>/recovery/restored replaces it", err)
	}
	if marker = ""; r != nil {
		marker = r.Marker
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reads == reads { // not written in between
		s.known, s.marker = true, marker
	}
	return marker, nil
}

// forget is called when the entry was changed by another server.
func (s *spareRule) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = false
	s.reads++
}

func (s *spareRule) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the heartbeat: %w", ctx.Err())
	}
}

// decide looks at the heartbeat that is stored, once per process, before this
// process writes its first one.
func (s *spareRule) decide(ctx context.Context) error {
	if s.isDecided() {
		return nil
	}
	if !s.active() {
		return errNotActive
	}
	if err := s.take(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	if s.isDecided() {
		return nil
	}
	r, damage, err := s.store.heartbeat(ctx)
	if err != nil {
		return err
	}
	reason := damage
	if damage == "" {
		reason = s.suspicion(r)
	}
	if reason != "" {
		if err := s.suspect(ctx, reason); err != nil {
			return err
		}
	}
	if err := s.writeHeartbeat(ctx); err != nil {
		return err
	}
	s.setDecided()
	return nil
}

// errNotActive: only the active server knows.
var errNotActive = errors.New("this server is not the active one")

func (s *spareRule) isDecided() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decided
}

func (s *spareRule) setDecided() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decided = true
}

// suspicion says why storage may have been restored, judging by the heartbeat
// found at start; empty if nothing speaks for it.
func (s *spareRule) suspicion(r *heartbeatRecord) string {
	if r == nil {
		return "there is no heartbeat in storage"
	}
	switch age := s.now().Sub(r.Time); {
	case age > staleHeartbeat:
		return fmt.Sprintf("the last heartbeat in storage is %v old", age.Round(time.Second))
	case age < -staleHeartbeat:
		return fmt.Sprintf("the last heartbeat in storage lies %v in the future", (-age).Round(time.Second))
	}
	return ""
}

// suspect draws a new marker because of a suspicion, if there are accounts. The
// caller holds the turn.
func (s *spareRule) suspect(ctx context.Context, reason string) error {
	names, err := s.store.accountNames(ctx)
	if err != nil || len(names) == 0 {
		return err
	}
	if _, err := s.draw(ctx, reason); err != nil {
		return err
	}
	s.log.Warn("Vault's storage may have been restored from a snapshot; until its next refresh no spare node takes over a share of an account, so that one whose node is away may have to wait for it",
		"reason", reason, "accounts", len(names))
	return nil
}

// declare draws a new marker because the operator says that storage was
// restored.
func (s *spareRule) declare(ctx context.Context) (time.Time, error) {
	if err := s.take(ctx); err != nil {
		return time.Time{}, err
	}
	defer func() { <-s.turn }()
	at, err := s.draw(ctx, "declared by recovery/restored")
	if err != nil {
		return at, err
	}
	// The heartbeat is of no more use for what was before.
	if err := s.writeHeartbeat(ctx); err != nil {
		return at, err
	}
	s.setDecided()
	return at, nil
}

// draw stores a new marker. When that fails the old one may or may not have
// been replaced, so it is read again. The caller holds the turn.
func (s *spareRule) draw(ctx context.Context, reason string) (time.Time, error) {
	var marker [16]byte
	rand.Read(marker[:])
	r := &sparesRecord{Version: recordVersion, Marker: hex.EncodeToString(marker[:]), Time: s.now().UTC(), Reason: reason}
	err := s.store.put(ctx, keySpares, r)
	s.forget()
	return r.Time, err
}

// beat writes the heartbeat. Where the stored one is not this process's last,
// storage was exchanged under it.
func (s *spareRule) beat(ctx context.Context) error {
	if !s.isDecided() {
		return s.decide(ctx) // writes it
	}
	if err := s.take(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	r, _, err := s.store.heartbeat(ctx)
	if err != nil {
		return err
	}
	if !s.wrote(r) {
		if err := s.suspect(ctx, "the heartbeat in storage is not the one that was written last"); err != nil {
			return err
		}
	}
	return s.writeHeartbeat(ctx)
}

// wrote reports whether r is a heartbeat of this process that may be the one
// stored last.
func (s *spareRule) wrote(r *heartbeatRecord) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.beats {
		if r != nil && r.Time.Equal(t) {
			return true
		}
	}
	return false
}

// writeHeartbeat is called with the turn held.
func (s *spareRule) writeHeartbeat(ctx context.Context) error {
	r := &heartbeatRecord{Version: recordVersion, Time: s.now().UTC()}
	s.mu.Lock()
	s.beats = append(s.beats, r.Time)
	s.mu.Unlock()
	if err := s.store.put(ctx, keyHeartbeat, r); err != nil {
		return err
	}
	s.mu.Lock()
	s.beats = []time.Time{r.Time}
	s.mu.Unlock()
	return nil
}

// heartbeat returns nil when there is none, and what is wrong with one that
// makes no sense.
func (s *store) heartbeat(ctx context.Context) (r *heartbeatRecord, damage string, err error) {
	r = &heartbeatRecord{}
	ok, err := s.get(ctx, keyHeartbeat, r)
	var damaged *damagedError
	switch {
	case errors.As(err, &damaged) && !errors.Is(err, errNewerRecord):
		return nil, err.Error(), nil
	case err != nil || !ok:
		return nil, "", err
	}
	return r, "", nil
}

// sparesRecord returns nil when storage was never restored.
func (s *store) sparesRecord(ctx context.Context) (*sparesRecord, error) {
	r := &sparesRecord{}
	ok, err := s.get(ctx, keySpares, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}
