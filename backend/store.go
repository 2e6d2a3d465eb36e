package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// store reads and writes records. It may be used concurrently; who changes an
// account holds that account's lock. What signing asks for is cached:
// config/nodes, accounts as nodes use them, and their exposures. Every writer
// and every other reader asks Vault.
type store struct {
	s      logical.Storage
	spares *spareRule
	// noLocal makes none the default number of local nodes. It does not change.
	noLocal bool

	accounts  *cache[*signable]       // by account name
	exposures *cache[*addedExposures] // by account ID, hex
	logins    *cache[*identityKeysRecord]
	refs      *references
	facts     *facts // about identities

	mu         sync.Mutex
	nodes      *nodesRecord // nil: not read yet
	nodesReads uint64       // changes with every invalidation
	keys       *keyring     // nil: not read yet
	keysReads  uint64

	remotes      []remoteNodeRecord
	remotesKnown bool
	remotesReads uint64
}

// Bounds of the caches. An account of three shares takes about 3 KB.
const (
	maxCachedAccounts  = 4096
	maxCachedExposures = 4096
)

// newStore returns a store over a mount's storage. rule decides about spares.
func newStore(s logical.Storage, rule *spareRule) *store {
	st := &store{
		s: s, spares: rule,
		accounts:  newCache[*signable](maxCachedAccounts),
		exposures: newCache[*addedExposures](maxCachedExposures),
		logins:    newCache[*identityKeysRecord](maxIdentityKeysCached),
		refs:      newReferences(),
		facts:     newFacts(),
	}
	rule.store = st
	return st
}

var _ pool.KeyStore = (*store)(nil)

// get returns false when there is no entry under the key.
func (s *store) get(ctx context.Context, key string, into storedRecord) (bool, error) {
	entry, err := s.s.Get(ctx, key)
	if err != nil {
		return false, storageError(ctx, "reading", key, err)
	}
	if entry == nil {
		return false, nil
	}
	if err := decodeRecord(entry.Value, into); err != nil {
		return false, &damagedError{key, err}
	}
	return true, nil
}

// storageError says what was done with storage when it failed. What comes back
// from Vault is text, so a deadline that passed meanwhile is only known from ctx.
func storageError(ctx context.Context, doing, key string, err error) error {
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		return fmt.Errorf("%s %s in storage: %w: %w", doing, key, ended, err)
	}
	return fmt.Errorf("%s %s in storage: %w", doing, key, err)
}

// damagedError: a record was read and makes no sense. It quotes nothing of it.
type damagedError struct {
	key string
	err error
}

func (e *damagedError) Error() string { return fmt.Sprintf("stored record %s %v", e.key, e.err) }
func (e *damagedError) Unwrap() error { return e.err }

func (s *store) put(ctx context.Context, key string, record any) error {
	value, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", key, err)
	}
	if _, ok := record.(storedRecord); ok && len(value) > maxStoredRecord {
		// It could never be read again; parts of records are a remote node's word.
		return fmt.Errorf("writing %s: it has %d bytes and may have %d, nothing was stored", key, len(value), maxStoredRecord)
	}
	done, err := s.refs.begin(key, record)
	if err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	err = s.s.Put(ctx, &logical.StorageEntry{Key: key, Value: value})
	done(err)
	s.written(key, err)
	if err != nil {
		return storageError(ctx, "writing", key, err)
	}
	return nil
}

func (s *store) delete(ctx context.Context, key string) error {
	err := s.s.Delete(ctx, key)
	s.refs.deleted(key, err)
	s.written(key, err)
	if err != nil {
		return storageError(ctx, "deleting", key, err)
	}
	return nil
}

func (s *store) list(ctx context.Context, prefix string) ([]string, error) {
	keys, err := s.s.List(ctx, prefix)
	if err != nil {
		return nil, storageError(ctx, "listing", prefix, err)
	}
	return keys, nil
}

// invalidate drops what is cached of a key that changed behind our back.
func (s *store) invalidate(key string) {
	if key == keyNodes {
		s.forgetNodes()
	}
	if key == keySpares {
		s.spares.forget()
	}
	s.refs.invalidate(key)
	s.facts.invalidate(key)
	s.forgetKeys(key)
	s.forgetRemotes(key)
	if key == keyIdentityKeys {
		s.logins.drop(key)
	}
	if name, ok := strings.CutPrefix(key, prefixAccounts); ok {
		s.accounts.drop(name)
	}
	if id, ok := strings.CutPrefix(key, prefixExposures); ok {
		s.exposures.drop(id)
	}
}

// written drops what is cached of a key after a write of our own.
func (s *store) written(key string, err error) {
	if key == keyNodes {
		s.forgetNodes()
	}
	s.facts.written(key, err)
	s.forgetKeys(key)
	s.forgetRemotes(key)
	if key == keyIdentityKeys {
		s.logins.wrote(key, err != nil)
	}
	if name, ok := strings.CutPrefix(key, prefixAccounts); ok {
		s.accounts.wrote(name, err != nil)
	}
	if id, ok := strings.CutPrefix(key, prefixExposures); ok {
		s.exposures.wrote(id, err != nil)
	}
}

func (s *store) forgetNodes() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes = nil
	s.nodesReads++
}

// mount returns nil before config/hsm was first written.
func (s *store) mount(ctx context.Context) (*mountRecord, error) {
	r := &mountRecord{}
	ok, err := s.get(ctx, keyMount, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

// hsmConfig returns nil when nothing is configured.
func (s *store) hsmConfig(ctx context.Context) (*hsmRecord, error) {
	r := &hsmRecord{}
	ok, err := s.get(ctx, keyHSM, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

// nodesConfig returns the defaults when nothing is stored.
func (s *store) nodesConfig(ctx context.Context) (nodesRecord, error) {
	s.mu.Lock()
	cached, reads := s.nodes, s.nodesReads
	s.mu.Unlock()
	if cached != nil {
		return *cached, nil
	}
	var r nodesRecord
	if ok, err := s.get(ctx, keyNodes, &r); err != nil {
		return nodesRecord{}, err
	} else if !ok {
		r = defaultNodes()
		if s.noLocal {
			r.Local = 0
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodesReads == reads { // not written in between
		s.nodes = &r
	}
	return r, nil
}

func (s *store) putNodesConfig(ctx context.Context, r nodesRecord) error {
	return s.put(ctx, keyNodes, &r)
}

// rotationConfig returns the defaults when nothing is stored.
func (s *store) rotationConfig(ctx context.Context) (rotationRecord, error) {
	var r rotationRecord
	ok, err := s.get(ctx, keyRotation, &r)
	if err == nil && !ok {
		r = defaultRotation()
	}
	return r, err
}

// NodeKeys implements pool.KeyStore.
func (s *store) NodeKeys(ctx context.Context, nodeID string) (*pool.NodeKeys, error) {
	if err := checkNodeID(nodeID); err != nil {
		return nil, err
	}
	var r nodeKeysRecord
	ok, err := s.get(ctx, prefixNodeKeys+nodeID, &r)
	if err != nil || !ok {
		return nil, err
	}
	id, err := mpc.ParseNodeIdentity(r.Identity)
	if err != nil {
		return nil, err
	}
	k := &pool.NodeKeys{Identity: id, IdentityEnvelope: r.IdentityEnvelope}
	if r.Aux != nil {
		k.Aux = &pool.AuxKeys{
			Generation: r.Aux.Generation, Made: r.Aux.Made, Public: r.Aux.Public,
			Envelope: r.Aux.Envelope, Receipts: r.Aux.Receipts,
		}
	}
	return k, nil
}

// PutNodeKeys implements pool.KeyStore.
func (s *store) PutNodeKeys(ctx context.Context, nodeID string, k *pool.NodeKeys) error {
	if err := checkNodeID(nodeID); err != nil {
		return err
	}
	r := &nodeKeysRecord{
		Version:          recordVersion,
		Identity:         k.Identity.String(),
		IdentityEnvelope: k.IdentityEnvelope,
	}
	if k.Aux != nil {
		r.Aux = &auxRecord{
			Generation: k.Aux.Generation, Made: k.Aux.Made, Public: k.Aux.Public,
			Envelope: k.Aux.Envelope, Receipts: k.Aux.Receipts,
		}
	}
	return s.put(ctx, prefixNodeKeys+nodeID, r)
}

func checkNodeID(id string) error {
	if len(id) > maxNodeName || !nodeName.MatchString(id) {
		return fmt.Errorf("node ID %q is not made of %s", clip(id), nodeNames)
	}
	return nil
}

// account returns nil for a name that is not taken.
func (s *store) account(ctx context.Context, name string) (*accountRecord, error) {
	r := &accountRecord{}
	ok, err := s.get(ctx, prefixAccounts+name, r)
	if err != nil || !ok {
		return nil, err
	}
	return r, nil
}

func (s *store) putAccount(ctx context.Context, name string, r *accountRecord) error {
	return s.put(ctx, prefixAccounts+name, r)
}

// usable returns the account's current epoch as the pool takes it, with every
// exposure so far. It asks Vault.
func (s *store) usable(ctx context.Context, r *accountRecord) (*mpc.Account, error) {
	a, err := r.Current.account()
	if err != nil {
		return nil, err
	}
	added, err := s.addedExposures(ctx, &a.Record)
	if err != nil {
		return nil, err
	}
	maps.Copy(a.Exposures, added)
	a.NoSpares = !s.spares.allow(ctx, r.Current.Lineage)
	return a, nil
}

// addedExposures returns the exposures since the epoch of the record began.
func (s *store) addedExposures(ctx context.Context, record *mpc.PublicRecord) (mpc.Exposures, error) {
	added, err := s.readExposures(ctx, record.AccountID.String())
	if err != nil {
		return nil, err
	}
	return added.of(record.EpochID), nil
}

func (s *store) putExposures(ctx context.Context, record *mpc.PublicRecord, added mpc.Exposures) error {
	return s.put(ctx, prefixExposures+record.AccountID.String(), &exposuresRecord{
		Version:   recordVersion,
		EpochID:   record.EpochID.String(),
		Exposures: formatExposures(added),
	})
}

// accountNames lists the accounts in order.
func (s *store) accountNames(ctx context.Context) ([]string, error) {
	names, err := s.list(ctx, prefixAccounts)
	slices.Sort(names)
	return names, err
}
