package backend

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vault-plugin-secrets-mpc/hsm"
)

// keyring is what is stored about the wrapping key. It is cached and shared:
// nobody changes it.
type keyring struct {
	configured bool // the rest of the first line is from config/hsm
	serial     string
	suite      string
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
	if key != keyHSM && key != keyRotation && !strings.HasPrefix(key, prefixWrapping) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = nil
	s.keysReads++
}

// usable returns the versions in the token in use that open something,
// ascending: the last one is what is sealed to.
func (k *keyring) usable() []wrappingRecord {
	return k.in(stateLive, stateRetired)
}

// in returns the versions in the token in use that are in one of the states.
func (k *keyring) in(states ...wrappingState) []wrappingRecord {
	var out []wrappingRecord
	for _, r := range k.records {
		if k.configured && r.TokenSerial == k.serial && slices.Contains(states, r.State) {
			out = append(out, r)
		}
	}
	return out
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

// key returns the version as nodes take it.
func (r *wrappingRecord) key() (hsm.WrappingKey, error) {
	suite, err := hsm.ParseSuite(r.Suite)
	if err != nil {
		return hsm.WrappingKey{}, fmt.Errorf("stored wrapping key %d: %w", r.KeyVersion, err)
	}
	return hsm.WrappingKey{
		Domain: r.Domain, Version: r.KeyVersion, Suite: suite,
		ID: r.ID, PublicKey: r.PublicKey, Label: r.Label,
	}, nil
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

// wrappingKeys returns the token's versions that open something, in ascending
// order: those that are live or retired, or, at the end of a mount, what is
// being destroyed, so that nodes can run until it is. Versions of another token
// can be left by a crash during a change of token; they belong to nothing.
func (s *store) wrappingKeys(ctx context.Context, serial string) ([]hsm.WrappingKey, error) {
	records, err := s.wrappingRecords(ctx)
	if err != nil {
		return nil, err
	}
	ring := &keyring{configured: true, serial: serial, records: records}
	use := ring.usable()
	if len(use) == 0 {
		use = ring.in(stateDestroying)
	}
	var out []hsm.WrappingKey
	for _, r := range use {
		key, err := r.key()
		if err != nil {
			return nil, err
		}
		out = append(out, key)
	}
	return out, nil
}

func wrappingKey(version uint32) string {
	return prefixWrapping + strconv.FormatUint(uint64(version), 10)
}
