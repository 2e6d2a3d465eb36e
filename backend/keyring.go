package backend

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// keyring is what is stored about the wrapping key. It is cached and shared:
// nobody changes it.
type keyring struct {
	configured bool // the rest of the first line is from config/hsm
	serial     string
	suite      string
	domains    []string         // in use, the default one first
	records    []wrappingRecord // all versions, ascending, of any token
	clocks     rotationRecord
}

// keyring reads it, or returns what was read before.
func (s *store) keyring(ctx context.Context) (*keyring, error) {
	s.mu.Lock()
	cached, reads := s.keys, s.keysReads
	s.mu.Unlock()
	if cached != nil {
		return cached, nil
	}
	conf, err := s.hsmConfig(ctx)
	if err != nil {
		return nil, err
	}
	k := &keyring{}
	if conf != nil {
		k.configured, k.serial, k.suite = true, conf.Token.Serial, conf.Suite
	}
	if k.domains, err = s.domainsInUse(ctx, conf); err != nil {
		return nil, err
	}
	if k.records, err = s.wrappingRecords(ctx); err != nil {
		return nil, err
	}
	if k.clocks, err = s.rotationConfig(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keysReads == reads { // nothing was written in between
		s.keys = k
	}
	return k, nil
}

// forgetKeys drops the keyring when something of it was written.
func (s *store) forgetKeys(key string) {
	if key != keyHSM && key != keyRotation && key != keyNodes && !strings.HasPrefix(key, prefixWrapping) && !strings.HasPrefix(key, prefixRemote) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = nil
	s.keysReads++
}

// usable returns the versions in tokens in use that open something, ascending:
// the last one is what is sealed to.
func (k *keyring) usable() []wrappingRecord {
	return k.in(stateLive, stateRetired)
}

// in returns the versions in tokens in use that are in one of the states.
func (k *keyring) in(states ...wrappingState) []wrappingRecord {
	var out []wrappingRecord
	for _, r := range k.records {
		if k.ours(&r) && slices.Contains(states, r.State) {
			out = append(out, r)
		}
	}
	return out
}

// ours says that the version is not one that a change of token has left in another
// one, where nothing depends on it.
func (k *keyring) ours(r *wrappingRecord) bool {
	return len(r.Domains) > 0 || k.holdsDefault(r)
}

// holdsDefault says that the version's key in the default domain is in the token in
// use. Without config/hsm that is the one that nodes on other hosts have.
func (k *keyring) holdsDefault(r *wrappingRecord) bool {
	if len(r.ID) == 0 {
		return false
	}
	if k.configured {
		return r.TokenSerial == k.serial
	}
	return k.uses(hsm.DefaultDomain)
}

// parts returns the version's keys, the default domain's first.
func (r *wrappingRecord) parts() []domainKeyRecord {
	var out []domainKeyRecord
	if len(r.ID) > 0 {
		d := domainKeyRecord{Domain: hsm.DefaultDomain, TokenSerial: r.TokenSerial, Suite: r.Suite, ID: r.ID, PublicKey: r.PublicKey,
			Label: r.Label, Created: r.Created, Endorsement: r.Endorsement, Destroyed: r.KeyDestroyed, LeftBehind: r.LeftBehind}
		if d.Destroyed.IsZero() && d.LeftBehind.IsZero() {
			d.Destroyed = r.Destroyed // the only one, or of an older version of this program
		}
		out = append(out, d)
	}
	return append(out, r.Domains...)
}

// with returns the version with a domain's key added or replaced. The receiver is
// shared and stays as it is.
func (r *wrappingRecord) with(d domainKeyRecord) *wrappingRecord {
	out := *r
	out.Version = recordVersion
	if d.Domain != hsm.DefaultDomain {
		out.Domains = slices.DeleteFunc(slices.Clone(r.Domains), func(o domainKeyRecord) bool { return o.Domain == d.Domain })
		out.Domains = append(out.Domains, d)
		slices.SortFunc(out.Domains, func(a, b domainKeyRecord) int { return strings.Compare(a.Domain, b.Domain) })
		return &out
	}
	out.Domain, out.TokenSerial, out.Suite, out.Label = d.Domain, d.TokenSerial, d.Suite, d.Label
	out.ID, out.PublicKey, out.Endorsement = d.ID, d.PublicKey, d.Endorsement
	if out.LeftBehind = d.LeftBehind; len(out.Domains) > 0 {
		out.KeyDestroyed = d.Destroyed
	}
	return &out
}

// part returns the version's key in a domain, if it is to be used: not one that is
// gone, left behind or in another token.
func (k *keyring) part(r *wrappingRecord, domain string) *domainKeyRecord {
	if domain == hsm.DefaultDomain && !k.holdsDefault(r) {
		return nil
	}
	for _, d := range r.parts() {
		if d.Domain == domain && d.Destroyed.IsZero() && d.LeftBehind.IsZero() {
			return &d
		}
	}
	return nil
}

// keys returns the version's keys that are to be used, as nodes take them, and what
// nodes said for them.
func (k *keyring) keys(r *wrappingRecord) ([]hsm.WrappingKey, []pool.KeyEndorsement, error) {
	var keys []hsm.WrappingKey
	var said []pool.KeyEndorsement
	for _, d := range r.parts() {
		if k.part(r, d.Domain) == nil {
			continue
		}
		key, err := d.key(r.KeyVersion)
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, key)
		if e := d.Endorsement; e != nil {
			id, err := mpc.ParseNodeIdentity(e.Identity)
			if err != nil {
				return nil, nil, fmt.Errorf("stored wrapping key %d of domain %q: %w", r.KeyVersion, d.Domain, err)
			}
			said = append(said, pool.KeyEndorsement{Domain: d.Domain, Version: r.KeyVersion, Identity: id, Signature: e.Signature})
		}
	}
	return keys, said, nil
}

// newest returns the version that is sealed to; nil where there is none.
func (k *keyring) newest() *wrappingRecord {
	if u := k.usable(); len(u) > 0 {
		return &u[len(u)-1]
	}
	return nil
}

// find returns a version of any token.
func (k *keyring) find(version uint32) *wrappingRecord {
	for i := range k.records {
		if k.records[i].KeyVersion == version {
			return &k.records[i]
		}
	}
	return nil
}

// highest is the highest version number ever stored; numbers are not used
// twice.
func (k *keyring) highest() uint32 {
	if len(k.records) == 0 {
		return 0
	}
	return k.records[len(k.records)-1].KeyVersion
}

// key returns a domain's key as nodes take it.
func (d *domainKeyRecord) key(version uint32) (hsm.WrappingKey, error) {
	suite, err := hsm.ParseSuite(d.Suite)
	if err != nil {
		return hsm.WrappingKey{}, fmt.Errorf("stored wrapping key %d of domain %q: %w", version, d.Domain, err)
	}
	return hsm.WrappingKey{Domain: d.Domain, Version: version, Suite: suite, ID: d.ID, PublicKey: d.PublicKey, Label: d.Label}, nil
}

// wrappingRecords returns all versions in ascending order, of any token.
// Nothing may refer any more to those that are destroyed or being destroyed.
func (s *store) wrappingRecords(ctx context.Context) ([]wrappingRecord, error) {
	keys, err := s.list(ctx, prefixWrapping)
	if err != nil {
		return nil, err
	}
	var out []wrappingRecord
	for _, k := range keys {
		var r wrappingRecord
		if ok, err := s.get(ctx, prefixWrapping+k, &r); err != nil {
			return nil, err
		} else if ok {
			out = append(out, r)
		}
		if r.State == stateDestroying || r.State == stateDestroyed {
			s.refs.gone(r.KeyVersion)
		}
	}
	slices.SortFunc(out, func(a, b wrappingRecord) int { return cmp.Compare(a.KeyVersion, b.KeyVersion) })
	return out, nil
}

// wrappingKeys returns the keys that open something, of all domains, ascending by
// version and then as domains are ordered: those of versions that are live or
// retired, or, at the end of a mount, of those being destroyed, so that nodes can
// run until they are. serial is the token of config/hsm, empty where that is not
// written. Versions of another token can be left by a crash during a change of
// token; they belong to nothing.
func (s *store) wrappingKeys(ctx context.Context, serial string) ([]hsm.WrappingKey, []pool.KeyEndorsement, error) {
	records, err := s.wrappingRecords(ctx)
	if err != nil {
		return nil, nil, err
	}
	ring := &keyring{configured: serial != "", serial: serial, records: records}
	if ring.domains, err = s.remoteDomains(ctx); err != nil {
		return nil, nil, err
	}
	use := ring.usable()
	if len(use) == 0 {
		use = ring.in(stateDestroying)
	}
	var keys []hsm.WrappingKey
	var said []pool.KeyEndorsement
	for _, r := range use {
		k, e, err := ring.keys(&r)
		if err != nil {
			return nil, nil, err
		}
		keys, said = append(keys, k...), append(said, e...)
	}
	return keys, said, nil
}

// presentKeys returns what store.wrappingKeys does, as it is in storage.
func (b *backend) presentKeys(ctx context.Context) ([]hsm.WrappingKey, error) {
	conf, err := b.store.hsmConfig(ctx)
	if err != nil {
		return nil, err
	}
	serial := ""
	if conf != nil {
		serial = conf.Token.Serial
	}
	keys, _, err := b.store.wrappingKeys(ctx, serial)
	return keys, err
}

// newestOf returns the newest key of one domain; nil where there is none.
func newestOf(keys []hsm.WrappingKey, domain string) *hsm.WrappingKey {
	for i := len(keys) - 1; i >= 0; i-- {
		if keys[i].Domain == domain {
			return &keys[i]
		}
	}
	return nil
}

func wrappingKey(version uint32) string {
	return prefixWrapping + strconv.FormatUint(uint64(version), 10)
}
