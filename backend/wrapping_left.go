package backend

import (
	"context"
	"time"
)

// A key that was left behind is destroyed after all when a node of its domain joins
// the mount again: nothing that is stored refers to its version, and nothing may.

// withinReach lists destroyed versions that have left a key behind where a node of
// the mount is now.
func (b *backend) withinReach(ring *keyring) []uint32 {
	var out []uint32
	for i := range ring.records {
		r := &ring.records[i]
		if r.State == stateDestroyed && len(ring.leftWithin(r)) > 0 && b.keeper.ready(chore{what: choreDestroy, version: r.KeyVersion}) {
			out = append(out, r.KeyVersion)
		}
	}
	return out
}

// leftWithin returns the keys of a version that were left behind and can be reached.
func (k *keyring) leftWithin(r *wrappingRecord) []domainKeyRecord {
	var out []domainKeyRecord
	for _, d := range r.parts() {
		if !d.LeftBehind.IsZero() && k.reaches(r, &d) {
			out = append(out, d)
		}
	}
	return out
}

// destroyLeft destroys what a destroyed version has left behind and can be reached.
func (b *backend) destroyLeft(ctx context.Context, version uint32) error {
	ring, release, err := b.reserveRing(ctx)
	if err != nil {
		return err
	}
	defer release()
	r := ring.find(version)
	if r == nil || r.State != stateDestroyed {
		return nil
	}
	eng, err := b.engine(ctx)
	if err != nil {
		return err
	}
	for _, d := range ring.leftWithin(r) {
		if err := b.destroyKey(ctx, eng, version, &d); err != nil {
			return err
		}
		if err := b.step(ctx, stepDestroyGone); err != nil {
			return err
		}
		d.LeftBehind, d.Destroyed = time.Time{}, b.cfg.now().UTC()
		r = r.with(d)
		if err := b.store.put(ctx, wrappingKey(version), r); err != nil {
			return err
		}
		b.log.Info("a wrapping key that was left behind was destroyed", "version", version, "domain", d.Domain, "label", d.Label)
		if err := b.step(ctx, stepDestroyRecorded); err != nil {
			return err
		}
	}
	return nil
}
