package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/rotation"
)

// The life of a version of the wrapping key, each arrow one Put of its record:
//
//	(made in the token) → live → retired → destroying → (gone from the token) → destroyed
//
// A key pair that was made and not stored is a stray: nobody seals to it. It is
// reported and stays, since another cluster that was restored from a snapshot
// may share the token. Nothing that is stored refers to a version that is being
// destroyed, so that step may be repeated after a crash until it succeeds.

const (
	// maxLiveVersions bounds the versions that are not destroyed: nodes hold
	// all of them, and more mean that destruction does not keep up.
	maxLiveVersions = 64
	// maxTombstones bounds the records of destroyed versions.
	maxTombstones = 100
	// maxRewrapWindow is the longest time that accounts are given to follow.
	maxRewrapWindow = time.Hour
	// wrappingBusy reserves the making and destroying of versions; config/hsm,
	// which makes some too, is reserved with it.
	wrappingBusy = prefixWrapping
)

// wrappingLabel is the label of a version's key pair, as nodes give it.
func wrappingLabel(mountIDHex string, version uint32) string {
	return fmt.Sprintf("vault-mpc %s v%d", mountIDHex, version)
}

// reserveWrapping makes sure that nobody else makes or destroys versions.
func (b *backend) reserveWrapping(doing string) (func(), error) {
	releaseKeys, err := b.busy.reserve(wrappingBusy, doing)
	if err != nil {
		return nil, err
	}
	releaseHSM, err := b.busy.reserve(keyHSM, "waits while a wrapping key is made or destroyed")
	if err != nil {
		releaseKeys()
		return nil, err
	}
	return func() { releaseHSM(); releaseKeys() }, nil
}

// reserveRing is reserveWrapping, and the keyring as it is in storage.
func (b *backend) reserveRing(ctx context.Context) (*keyring, func(), error) {
	release, err := b.reserveWrapping("is being made or destroyed")
	if err != nil {
		return nil, nil, err
	}
	b.store.forgetKeys(keyHSM)
	ring, err := b.store.keyring(ctx)
	if err != nil {
		release()
		return nil, nil, err
	}
	return ring, release, nil
}

// wrappingPass does what is due: it retires what was superseded, makes a new
// version, has nodes' keys follow, and destroys what is not needed any more.
// Accounts are the rotation runner's.
func (b *backend) wrappingPass(ctx context.Context) {
	if !b.active() || !b.keeper.ready(chore{what: choreRead}) {
		return
	}
	ring, err := b.store.keyring(ctx)
	if err == nil {
		err = b.retire(ctx, ring)
	}
	b.report(chore{what: choreRead}, err)
	// A mount of nodes on other hosts only gets its first version here, unless their
	// enrolment has made it. One that was ended is begun again by hand.
	first := err == nil && !ring.configured && len(ring.domains) > 0 && len(ring.records) == 0 && b.keeper.ready(chore{what: choreMake})
	if err != nil || ring.newest() == nil && len(ring.in(stateDestroying)) == 0 && !first {
		return
	}
	b.tellRunner(ring)
	b.scanIfNeeded(ctx)
	if _, err := b.readyEngine(ctx); err != nil {
		return // nodes/ says why
	}
	if first || b.makeIsDue(ring) {
		_, err := b.makeVersion(ctx)
		b.report(chore{what: choreMake}, err)
		if ring, err = b.store.keyring(ctx); err != nil {
			return
		}
	}
	b.joinDomains(ctx, ring)
	b.rewrapNodeKeys(ctx, ring)
	b.rewrapIdentityKeys(ctx, ring)
	for _, r := range b.condemned(ring) {
		if ctx.Err() != nil {
			return
		}
		b.report(chore{what: choreDestroy, version: r.KeyVersion}, b.destroyVersion(ctx, r.KeyVersion))
	}
	for _, version := range b.withinReach(ring) {
		if ctx.Err() != nil {
			return
		}
		b.report(chore{what: choreDestroy, version: version}, b.destroyLeft(ctx, version))
	}
}

// readyEngine returns the engine if a node is ready. What is asked of one node
// would otherwise wait for it, and keep the operator from config/hsm meanwhile.
func (b *backend) readyEngine(ctx context.Context) (Engine, error) {
	eng, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	nodes := eng.Nodes()
	for _, n := range nodes {
		if n.State == pool.NodeReady {
			return eng, nil
		}
	}
	return nil, &pool.TooFewNodesError{Ready: 0, Needed: 1, Configured: len(nodes)}
}

// report notes how a chore went and logs a failure, unless the mount is ending.
func (b *backend) report(c chore, err error) {
	if b.ctx.Err() != nil {
		return
	}
	b.keeper.ended(c, err)
	if err != nil {
		b.log.Warn("looking after wrapping keys: it is tried again", "what", c.what, "version", c.version, "node", c.node, "error", err)
	}
}

// retire stores that versions have been superseded. After an upgrade or a crash
// the time counts from here, which is later than it was.
func (b *backend) retire(ctx context.Context, ring *keyring) error {
	newest := ring.newest()
	for _, r := range ring.in(stateLive) {
		if r.KeyVersion == newest.KeyVersion {
			continue
		}
		r.Version, r.State, r.Retired = recordVersion, stateRetired, b.cfg.now().UTC()
		if err := b.store.put(ctx, wrappingKey(r.KeyVersion), &r); err != nil {
			return err
		}
	}
	return nil
}

// makeIsDue says whether the clock asks for a new version.
func (b *backend) makeIsDue(ring *keyring) bool {
	at := nextRewrap(ring)
	return !at.IsZero() && !b.cfg.now().Before(at) && b.keeper.ready(chore{what: choreMake})
}

// nextRewrap is when the next version is due by the clock; the zero time where
// none is.
func nextRewrap(ring *keyring) time.Time {
	newest := ring.newest()
	if newest == nil || ring.clocks.RewrapPeriod == 0 {
		return time.Time{}
	}
	return newest.Created.Add(time.Duration(ring.clocks.RewrapPeriod) * time.Second)
}

// tellRunner tells the rotation runner where accounts are to arrive.
func (b *backend) tellRunner(ring *keyring) {
	if newest := ring.newest(); newest != nil {
		b.runner.SetWrapping(rotation.Wrapping{Version: newest.KeyVersion, Since: newest.Created, Window: rewrapWindow(ring.clocks)})
	}
}

// rewrapWindow is the time in which accounts are to follow a new version: a
// quarter of the time that is left before the next one, or before the old one
// may be destroyed, at most an hour.
func rewrapWindow(clocks rotationRecord) time.Duration {
	w := time.Duration(clocks.RetireAfter) * time.Second
	if clocks.RewrapPeriod > 0 {
		w = min(w, time.Duration(clocks.RewrapPeriod)*time.Second)
	}
	return min(w/4, maxRewrapWindow)
}

// scanIfNeeded reads everything when the index has lost its certainty. At the
// start the rotation runner does; an account that could not be read then is told
// about here.
func (b *backend) scanIfNeeded(ctx context.Context) {
	c := chore{what: choreScan}
	if b.store.refs.isComplete() || !b.runner.Progress().Loaded || !b.keeper.ready(c) {
		return
	}
	_, err := b.readAll(ctx, func(name string, r *accountRecord) {
		if r.RenamingTo != "" {
			b.moves.note(name, r.RenamingTo)
		}
		if _, known := b.runner.Status(name); !known && !r.left(name) {
			b.accountChanged(name, r)
		}
	})
	b.report(c, err)
}

// rewrapNodeKeys has the keys of every node sealed to the newest version, those
// of nodes that left the pool too. A node that is not running has not failed: a
// later pass finds it back.
func (b *backend) rewrapNodeKeys(ctx context.Context, ring *keyring) {
	newest := ring.newest()
	if newest == nil || b.busy.taken(wrappingBusy) {
		return // perhaps a version that nodes have not been told of yet: the next pass looks again
	}
	for _, key := range b.store.refs.behind(prefixNodeKeys, newest.KeyVersion) {
		id := key[len(prefixNodeKeys):]
		c := chore{what: choreNodeKeys, node: id}
		if !b.keeper.ready(c) {
			continue
		}
		if !ring.uses(hsm.DefaultDomain) && pool.IsLocalNode(id) {
			b.report(c, b.forgetLocalKeys(ctx, id))
			continue
		}
		if err := b.rewrapKeysOf(ctx, id, newest.KeyVersion); !errors.Is(err, pool.ErrNodeGone) {
			b.report(c, err)
		}
	}
}

// forgetLocalKeys removes the keys of a local node where the mount has none any
// more: nobody can reseal them, and they would keep a version of the wrapping key
// from being destroyed in every domain, for ever. A version has been made without
// their token by then. Local nodes that come back are new ones.
func (b *backend) forgetLocalKeys(ctx context.Context, id string) error {
	release, err := b.busy.reserve(keyNodes, "waits while keys of local nodes are removed")
	if err != nil {
		return nil // config/nodes is being written: the next pass looks again
	}
	defer release()
	nodes, err := b.store.nodesConfig(ctx)
	if err != nil {
		return err
	}
	if nodes.Local > 0 { // this program has no local nodes; another may
		return fmt.Errorf("the keys of node %s stay sealed to an old version of the wrapping key: %w, and config/nodes has local=%d", id, pool.ErrNotConfigured, nodes.Local)
	}
	if err := b.store.delete(ctx, prefixNodeKeys+id); err != nil {
		return fmt.Errorf("removing the keys of node %s, which is no node any more: %w", id, err)
	}
	b.log.Warn("the keys of a local node were removed, since config/nodes has no local nodes: one of that name will have another identity, which other hosts have to accept", "node", id)
	return nil
}

func (b *backend) rewrapKeysOf(ctx context.Context, id string, newest uint32) error {
	eng, err := b.engine(ctx)
	if err != nil {
		return err
	}
	if err := eng.RewrapNodeKeys(ctx, id); err != nil {
		return fmt.Errorf("resealing the keys of node %s: %w", id, err)
	}
	if now, ok := b.store.refs.of(prefixNodeKeys + id); ok && now.sealed < newest {
		return fmt.Errorf("the keys of node %s are sealed to version %d after they were resealed, not to %d: nodes have not been told yet", id, now.sealed, newest)
	}
	return b.step(ctx, stepNodeKeysRewrapped)
}

// madeVersion is a new version and what is to be said about it.
type madeVersion struct {
	record   *wrappingRecord
	warnings []string
}

// makeVersion has a node of every domain in use make its key of the next version,
// stores them in one record and tells the nodes. The version is the newest from the
// moment in which it is stored.
func (b *backend) makeVersion(ctx context.Context) (*madeVersion, error) {
	ring, release, err := b.reserveRing(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return b.makeRound(ctx, ring)
}

// makeRound is makeVersion for a caller that has reserved the wrapping keys.
func (b *backend) makeRound(ctx context.Context, ring *keyring) (*madeVersion, error) {
	if len(ring.domains) == 0 {
		return nil, pool.ErrNotConfigured
	}
	if n := len(ring.in(stateLive, stateRetired, stateDestroying)); n >= maxLiveVersions {
		return nil, conflict("the wrapping key has %d versions that are not destroyed, and no more are made: see wrapping-keys/ for what refers to the oldest, and lower retire_after or raise rewrap_period in config/rotation", n)
	}
	maker, err := b.keyMaker(ctx, ring, b.keeper.highest(ring.highest())+1)
	if err != nil {
		return nil, err
	}
	if err := domainReady(maker.eng, ring.domains...); err != nil {
		var away *domainAwayError
		if errors.As(err, &away) {
			return nil, fmt.Errorf("no version was added, the present one stays in use, because every domain gets a key of it: %w", err)
		}
		return nil, err
	}
	record := &wrappingRecord{KeyVersion: maker.version, Created: b.cfg.now().UTC(), State: stateLive}
	for i, name := range ring.domains {
		part, err := maker.make(ctx, name)
		if err != nil {
			maker.undo(ctx)
			return nil, fmt.Errorf("no version was added, the present one stays in use; if the HSM was interrupted, an unused key labelled %q may be left in it: %w", maker.label, err)
		}
		record = record.with(*part)
		if i < len(ring.domains)-1 {
			if err := b.step(ctx, stepRotateDomain); err != nil {
				return nil, err
			}
		}
	}
	if err := b.step(ctx, stepRotateMade); err != nil {
		return nil, err
	}
	return &madeVersion{record: record, warnings: maker.warnings}, b.adopt(ctx, record)
}

// adopt stores a new version, retires the others and tells the nodes.
func (b *backend) adopt(ctx context.Context, r *wrappingRecord) error {
	b.keeper.burn(r.KeyVersion)
	if err := b.store.put(ctx, wrappingKey(r.KeyVersion), r); err != nil {
		return fmt.Errorf("the wrapping key that was made is not used, an unused key labelled %q is left in the token: %w", r.label(), err)
	}
	if err := b.step(ctx, stepRotateStored); err != nil {
		return err
	}
	for _, d := range r.parts() {
		b.log.Info("a new wrapping key is in use", "version", r.KeyVersion, "domain", d.Domain, "suite", d.Suite, "label", d.Label)
	}
	ring, err := b.store.keyring(ctx)
	if err == nil {
		err = b.retire(ctx, ring)
	}
	if err != nil {
		return fmt.Errorf("version %d is stored, and the version before it is retired later: %w", r.KeyVersion, err)
	}
	if err := b.step(ctx, stepRotateRetired); err != nil {
		return err
	}
	if err := b.applyChange(ctx); err != nil {
		return fmt.Errorf("version %d is stored, but the nodes could not be told; they are with the next request that needs them: %w", r.KeyVersion, err)
	}
	if err := b.step(ctx, stepRotateApplied); err != nil {
		return err
	}
	b.tellRunner(ring)
	b.keeper.Kick()
	return nil
}
