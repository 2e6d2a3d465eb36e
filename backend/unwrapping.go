package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-mpc/hsm"
)

// condemned lists the versions that are to be destroyed now, oldest first:
// those whose destruction has begun, and those that were retired long enough ago
// and that nothing refers to as far as the index knows. The scan before a
// destruction decides.
func (b *backend) condemned(ring *keyring) []wrappingRecord {
	now := b.cfg.now()
	after := time.Duration(ring.clocks.RetireAfter) * time.Second
	var out []wrappingRecord
	var tallies map[uint32]*tally
	for _, r := range ring.in(stateRetired, stateDestroying) {
		c := chore{what: choreDestroy, version: r.KeyVersion}
		if !b.keeper.ready(c) {
			continue
		}
		if r.State == stateDestroying {
			out = append(out, r)
			continue
		}
		if now.Before(r.Retired.Add(after)) || !b.store.refs.isComplete() {
			continue
		}
		if tallies == nil {
			tallies = b.store.refs.tallies()
		}
		t := tallies[r.KeyVersion]
		if t == nil {
			t = tallies[0]
		}
		switch {
		case t.free():
			out = append(out, r)
		case len(t.unreadable) > 0: // it will not pass by itself
			b.keeper.ended(c, fmt.Errorf("it is not destroyed: %s", t))
		}
	}
	return out
}

// destroyVersion destroys a version that nothing refers to. It goes on where an
// earlier attempt has stopped.
func (b *backend) destroyVersion(ctx context.Context, version uint32) error {
	ring, release, err := b.reserveRing(ctx)
	if err != nil {
		return err
	}
	defer release()
	r := ring.find(version)
	after := time.Duration(ring.clocks.RetireAfter) * time.Second
	switch {
	case r == nil || r.State == stateDestroyed || r.State == stateLive:
		return nil
	case !ring.ours(r):
		return nil // config/hsm names another token by now, in which it would look gone
	case r.State == stateRetired && b.cfg.now().Before(r.Retired.Add(after)):
		return nil // retire_after was raised meanwhile
	case r.State == stateRetired && ring.newest() != nil && ring.newest().KeyVersion == version:
		return nil
	}
	record := *r
	record.Version = recordVersion
	if err := b.store.refs.doom(ctx, version); err != nil {
		return fmt.Errorf("it is not destroyed: %w", err)
	}
	if err := b.mayDestroy(ctx, &record); err != nil {
		return err
	}
	if err := b.step(ctx, stepDestroyScanned); err != nil {
		return err
	}
	// From here on nothing is taken back: whether a write that failed took
	// effect is not known.
	if record.State != stateDestroying {
		record.State = stateDestroying
		if err := b.store.put(ctx, wrappingKey(version), &record); err != nil {
			return err
		}
		if err := b.step(ctx, stepDestroyMarked); err != nil {
			return err
		}
	}
	if err := b.applyChange(ctx); err != nil {
		return fmt.Errorf("nodes could not be told to forget it: %w", err)
	}
	if err := b.step(ctx, stepDestroyApplied); err != nil {
		return err
	}
	eng, err := b.readyEngine(ctx)
	if err != nil {
		return err
	}
	if err := b.destroyKeys(ctx, eng, ring, &record); err != nil {
		return err
	}
	return b.prune(ctx)
}

// mayDestroy reads everything that is stored. Where something refers to the
// doomed version, or might, it takes the doom back and says what.
func (b *backend) mayDestroy(ctx context.Context, r *wrappingRecord) error {
	complete, err := b.readAll(ctx, func(string, *accountRecord) {})
	t := b.store.refs.tally(r.KeyVersion)
	switch {
	case err != nil:
		err = fmt.Errorf("it is not destroyed, since what refers to it could not be found out: %w", err)
	case !t.free():
		err = fmt.Errorf("it is not destroyed: %s", t)
	case !complete:
		err = errors.New("it is not destroyed: an account could not be read; see the log")
	default:
		return nil
	}
	if r.State == stateDestroying && t.total() == 0 {
		return err // tried again
	}
	if r.State == stateDestroying {
		// Its destruction had begun, so storage was exchanged since. What
		// refers to it needs it, if it is still there.
		back := *r
		back.State, back.Retired = stateRetired, b.cfg.now().UTC()
		if putErr := b.store.put(ctx, wrappingKey(r.KeyVersion), &back); putErr != nil {
			return errors.Join(err, putErr)
		}
		b.settingsChanged()
	}
	b.store.refs.undoom(r.KeyVersion)
	return err
}

// destroyKeys has a node of each domain destroy its key of a version that is marked,
// and stores what is gone. A domain whose nodes are away does not keep the others
// from it, and is tried again; one that no node of the mount names any more is left
// behind.
func (b *backend) destroyKeys(ctx context.Context, eng Engine, ring *keyring, r *wrappingRecord) error {
	parts := slices.DeleteFunc(r.parts(), func(d domainKeyRecord) bool { return !d.Destroyed.IsZero() || !d.LeftBehind.IsZero() })
	open := len(parts)
	var failed []error
	for _, d := range parts {
		switch {
		case !ring.reaches(r, &d):
			b.log.Error("a wrapping key is left behind in a token that no node of this mount can reach any more: who has that token and an old copy of Vault's storage opens what was sealed to it. Destroy the key pair with the token's own tools",
				"version", r.KeyVersion, "domain", d.Domain, "token_serial", d.TokenSerial, "label", d.Label, "key_id", fmt.Sprintf("%x", d.ID))
			d.LeftBehind = b.cfg.now().UTC()
		default:
			if err := b.destroyKey(ctx, eng, r.KeyVersion, &d); err != nil {
				failed = append(failed, err)
				continue
			}
			if err := b.step(ctx, stepDestroyGone); err != nil {
				return err
			}
			d.Destroyed = b.cfg.now().UTC()
		}
		next := r.with(d)
		if open--; open == 0 {
			next.State, next.Destroyed = stateDestroyed, b.cfg.now().UTC()
		}
		if err := b.store.put(ctx, wrappingKey(r.KeyVersion), next); err != nil {
			return errors.Join(append(failed, err)...)
		}
		*r = *next
		if !d.Destroyed.IsZero() {
			b.log.Info("a wrapping key was destroyed; nothing that was sealed to it can be opened any more", "version", r.KeyVersion, "domain", d.Domain, "label", d.Label)
		}
		if err := b.step(ctx, stepDestroyRecorded); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// reaches says whether a node of this mount is to reach the token of a version's
// key, now or when it is back.
func (k *keyring) reaches(r *wrappingRecord, d *domainKeyRecord) bool {
	if d.Domain == hsm.DefaultDomain && !k.holdsDefault(r) {
		return false
	}
	return k.uses(d.Domain)
}

// destroyKey has a node of the domain destroy a key pair.
func (b *backend) destroyKey(ctx context.Context, eng Engine, version uint32, d *domainKeyRecord) error {
	key, err := d.key(version)
	if err != nil {
		return err
	}
	err = domainReady(eng, d.Domain)
	if err == nil {
		err = eng.DestroyWrappingKey(ctx, key)
	}
	// Nothing there is what is wanted: an attempt before this one came so far.
	if err != nil && !errors.Is(err, hsm.ErrKeyNotFound) {
		where := "the token"
		if d.Domain != hsm.DefaultDomain {
			where = fmt.Sprintf("the token of wrapping domain %q", d.Domain)
		}
		return fmt.Errorf("the key pair labelled %q is not known to be gone from %s; it is tried again: %w", d.Label, where, err)
	}
	return nil
}

// prune removes the oldest tombstones where there are too many. The highest
// version number is never removed, so numbers are not used again.
func (b *backend) prune(ctx context.Context) error {
	ring, err := b.store.keyring(ctx)
	if err != nil {
		return err
	}
	var old []uint32
	for _, r := range ring.records {
		if r.State == stateDestroyed && r.KeyVersion != ring.highest() {
			old = append(old, r.KeyVersion)
		}
	}
	for len(old) > maxTombstones {
		if err := b.store.delete(ctx, wrappingKey(old[0])); err != nil {
			return err
		}
		old = old[1:]
	}
	return nil
}
