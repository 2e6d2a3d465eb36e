package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"vault-plugin-secrets-mpc/hsm"
)

// A version of the wrapping key may be destroyed when no stored envelope is
// sealed to it. Who refers to what is kept in memory (references): every write
// of an account, of a node's keys or of the identity keys goes through begin and done, and a scan
// reads what was there before this process. Before a version is destroyed it is
// doomed: from then on no write that refers to it is let through, so what a
// scan of storage finds after that can only become less.

// refs is what one stored record refers to.
type refs struct {
	versions []uint32 // ascending, of any wrapping domain
	// seals says in which domains, in no order and each once.
	seals []sealRef
	// sealed is the version that every present secret of the record is sealed
	// to, each in a domain of its own, or a newer one; 0 where that is not known.
	sealed uint32
	// broken: an envelope cannot be read, so it may refer to any version.
	broken bool
}

// sealRef is the key of one wrapping domain in one version.
type sealRef struct {
	domain  string
	version uint32
}

// add takes over what another set of envelopes refers to, but for what it is sealed
// to.
func (r *refs) add(o refs) {
	r.broken = r.broken || o.broken
	for _, s := range o.seals {
		r.note(s)
	}
	slices.Sort(r.versions)
}

// note adds a seal; versions are not in order after it.
func (r *refs) note(s sealRef) {
	if !slices.Contains(r.seals, s) {
		r.seals = append(r.seals, s)
	}
	if !slices.Contains(r.versions, s.version) {
		r.versions = append(r.versions, s.version)
	}
}

// referrer is a record with envelopes in it.
type referrer interface{ refers() refs }

func (r *accountRecord) refers() refs {
	out := envelopeRefs(r.Current.Shares)
	if r.Previous != nil {
		out.add(envelopeRefs(r.Previous.Shares))
	}
	return out
}

func (r *nodeKeysRecord) refers() refs {
	var envelopes [][]byte
	if len(r.IdentityEnvelope) > 0 { // a node on another host keeps its own
		envelopes = append(envelopes, r.IdentityEnvelope)
	}
	if r.Aux != nil {
		envelopes = append(envelopes, r.Aux.Envelope)
	}
	return envelopeRefs(envelopes)
}

// holdsEnvelopes says whether the record under a key is a referrer.
func holdsEnvelopes(key string) bool {
	return strings.HasPrefix(key, prefixAccounts) || strings.HasPrefix(key, prefixNodeKeys) || key == keyIdentityKeys
}

// envelopeRefs parses headers; it opens nothing.
func envelopeRefs(envelopes [][]byte) refs {
	var out refs
	for i, b := range envelopes {
		e, err := hsm.ParseEnvelope(b)
		if err != nil {
			return refs{versions: out.versions, seals: out.seals, broken: true}
		}
		newest := uint32(0)
		for _, s := range e.Seals() {
			if !isWrappingDomain(s.Domain) {
				continue // a custodian's, who is asked for nothing here
			}
			newest = max(newest, s.Version)
			domain := hsm.DefaultDomain // one string for all
			if s.Domain != domain {
				domain = s.Domain
			}
			out.note(sealRef{domain, s.Version})
		}
		if i == 0 || newest < out.sealed {
			out.sealed = newest
		}
	}
	slices.Sort(out.versions)
	return out
}

// doomedError: a write refers to a version that is being destroyed.
type doomedError struct{ version uint32 }

func (e *doomedError) Error() string {
	return fmt.Sprintf("nothing was stored: it is sealed to version %d of the wrapping key, which is being destroyed", e.version)
}

// references is the index. Its methods may be called concurrently; only doom
// waits for anything.
type references struct {
	mu      sync.Mutex
	entries map[string]refs     // by storage key
	unsure  map[string][]uint32 // of writes that failed, which may still take effect
	writing map[uint32]int      // writes under way by version
	doomed  map[uint32]bool
	quiet   chan struct{} // closed and replaced when a write has ended
	// complete says that a scan has found every record.
	complete bool
	scans    map[*refScan]struct{}
}

func newReferences() *references {
	return &references{
		entries: map[string]refs{}, unsure: map[string][]uint32{}, writing: map[uint32]int{},
		doomed: map[uint32]bool{}, quiet: make(chan struct{}), scans: map[*refScan]struct{}{},
	}
}

// begin lets a write of a record through or refuses it. The caller tells done
// how it went.
func (x *references) begin(key string, record any) (done func(error), err error) {
	r, ok := record.(referrer)
	if !ok {
		return func(error) {}, nil
	}
	now := r.refers()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, v := range now.versions {
		if x.doomed[v] {
			return nil, &doomedError{v}
		}
	}
	for _, v := range now.versions {
		x.writing[v]++
	}
	return func(err error) { x.done(key, now, err) }, nil
}

func (x *references) done(key string, now refs, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, v := range now.versions {
		if x.writing[v]--; x.writing[v] == 0 {
			delete(x.writing, v)
		}
	}
	close(x.quiet)
	x.quiet = make(chan struct{})
	if err != nil {
		// The record before it is still the one in the index, and counts too.
		for _, v := range now.versions {
			if !slices.Contains(x.unsure[key], v) {
				x.unsure[key] = append(x.unsure[key], v)
			}
		}
		return
	}
	x.touch(key)
	x.entries[key] = now
	delete(x.unsure, key)
}

// deleted is told how a deletion went. One that failed may have taken effect or
// not: the record counts until everything is read again.
func (x *references) deleted(key string, err error) {
	if !holdsEnvelopes(key) {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil {
		x.complete = false
		for s := range x.scans { // which may have read it before
			s.spoilt = true
		}
		return
	}
	x.touch(key)
	delete(x.entries, key)
	delete(x.unsure, key)
}

// invalidate forgets a record that another server changed.
func (x *references) invalidate(key string) {
	if !holdsEnvelopes(key) {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.entries, key)
	x.complete = false
	for s := range x.scans {
		s.spoilt = true
	}
}

// touch tells scans that memory is newer than what they may have read; the
// caller holds x.mu.
func (x *references) touch(key string) {
	for s := range x.scans {
		s.touched[key] = struct{}{}
	}
}

// doom refuses every write that refers to the version from now on, and waits
// for those under way. undoom takes it back. It fails while a write that failed
// may still take effect.
func (x *references) doom(ctx context.Context, version uint32) error {
	for {
		x.mu.Lock()
		x.doomed[version] = true
		busy, quiet := x.writing[version] > 0, x.quiet
		var unsure string
		for key, versions := range x.unsure {
			if slices.Contains(versions, version) {
				unsure = key
			}
		}
		if unsure != "" {
			delete(x.doomed, version)
		}
		x.mu.Unlock()
		switch {
		case unsure != "":
			return fmt.Errorf("a write of %s failed that refers to it and may still take effect; it is settled by the next write of that record", unsure)
		case !busy:
			return nil
		}
		select {
		case <-quiet:
		case <-ctx.Done():
			x.undoom(version)
			return fmt.Errorf("waiting for writes that refer to it: %w", ctx.Err())
		}
	}
}

func (x *references) undoom(version uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.doomed, version)
}

// gone dooms versions that are destroyed or being destroyed according to
// storage.
func (x *references) gone(version uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.doomed[version] = true
}

// of returns what the index knows of a record.
func (x *references) of(key string) (refs, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r, ok := x.entries[key]
	return r, ok
}

// isComplete says whether every record is known.
func (x *references) isComplete() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.complete
}
