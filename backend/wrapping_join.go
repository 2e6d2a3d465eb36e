package backend

import (
	"context"
	"fmt"

	"vault-plugin-secrets-mpc/hsm"
)

// joined is a key that was made for a domain and whose storing failed. Whether it is
// stored all the same is not known, so no other key is made for that domain and
// version in this process: it is this one that is stored again.
type joined struct {
	domain  string
	version uint32
	key     domainKeyRecord
}

// joinDomains gives the domains in use that lack it a key of the newest version.
func (b *backend) joinDomains(ctx context.Context, ring *keyring) {
	for _, name := range ring.lacking() {
		c := chore{what: choreJoin, domain: name}
		if ctx.Err() != nil || !b.keeper.ready(c) {
			continue
		}
		b.report(c, b.joinDomain(ctx, name))
	}
}

// joinDomain gives a domain that came into use a key of the newest version, adds it
// to the version's record and tells the nodes; there is nothing to do where it has
// one. Where there is no version yet, the first is made. The keeper does this within
// a second as well; one of the two then finds the wrapping keys reserved, which is a
// fault of status 409. A crash leaves an unused key in the token at most.
func (b *backend) joinDomain(ctx context.Context, domain string) error {
	ring, release, err := b.reserveRing(ctx)
	if err != nil {
		return err
	}
	defer release()
	newest := ring.newest()
	switch {
	case !ring.uses(domain):
		return fmt.Errorf("no node of this mount is of wrapping domain %q", clip(domain))
	case newest == nil || domain == hsm.DefaultDomain && len(newest.ID) > 0 && !ring.holdsDefault(newest):
		_, err := b.makeRound(ctx, ring)
		return err
	case ring.part(newest, domain) != nil:
		b.forgetJoined(domain)
		return nil
	}
	key, err := b.keyToJoin(ctx, ring, newest, domain)
	if err != nil {
		return err
	}
	if err := b.step(ctx, stepJoinMade); err != nil {
		return err
	}
	b.rememberJoined(joined{domain, newest.KeyVersion, *key})
	if err := b.store.put(ctx, wrappingKey(newest.KeyVersion), newest.with(*key)); err != nil {
		return fmt.Errorf("wrapping domain %q is not in use yet; it is tried again with the key labelled %q that was made: %w", domain, key.Label, err)
	}
	b.forgetJoined(domain)
	if err := b.step(ctx, stepJoinStored); err != nil {
		return err
	}
	b.log.Info("a wrapping domain has joined", "domain", domain, "version", newest.KeyVersion, "suite", key.Suite, "label", key.Label)
	if err := b.applyChange(ctx); err != nil {
		return fmt.Errorf("wrapping domain %q has its key, but the nodes could not be told; they are with the next request that needs them: %w", domain, err)
	}
	if err := b.step(ctx, stepJoinApplied); err != nil {
		return err
	}
	b.keeper.Kick()
	return nil
}

// keyToJoin has a node of the domain make its key of the version, if none was made
// before.
func (b *backend) keyToJoin(ctx context.Context, ring *keyring, newest *wrappingRecord, domain string) (*domainKeyRecord, error) {
	if j := b.joinedBefore(domain); j != nil && j.version == newest.KeyVersion {
		return &j.key, nil
	}
	maker, err := b.keyMaker(ctx, ring, newest.KeyVersion)
	if err != nil {
		return nil, err
	}
	if err := domainReady(maker.eng, domain); err != nil {
		return nil, fmt.Errorf("it has no key of version %d yet: %w", newest.KeyVersion, err)
	}
	key, err := maker.make(ctx, domain)
	if err != nil {
		return nil, fmt.Errorf("it has no key of version %d yet; if the HSM was interrupted, an unused key labelled %q may be left in it: %w", newest.KeyVersion, maker.label, err)
	}
	return key, nil
}

func (b *backend) joinedBefore(domain string) *joined {
	b.joinMu.Lock()
	defer b.joinMu.Unlock()
	if j, ok := b.joins[domain]; ok {
		return &j
	}
	return nil
}

func (b *backend) rememberJoined(j joined) {
	b.joinMu.Lock()
	defer b.joinMu.Unlock()
	if b.joins == nil {
		b.joins = map[string]joined{}
	}
	b.joins[j.domain] = j
}

func (b *backend) forgetJoined(domain string) {
	b.joinMu.Lock()
	defer b.joinMu.Unlock()
	delete(b.joins, domain)
}
