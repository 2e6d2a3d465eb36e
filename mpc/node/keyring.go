package node

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"vault-plugin-secrets-mpc/hsm"
)

// maxWrappingKeys bounds the versions of the wrapping key that a node works
// with; the coordinator keeps no more alive.
const maxWrappingKeys = 64

// errNoVersion: this node does not have the version of the wrapping key that it
// was asked to seal to. It may be on its way.
var errNoVersion = errors.New("this version of the wrapping key is not known here")

// errNoKey: the node's wrapping domain has no wrapping key yet, or the node has
// not been told of it.
var errNoKey = fmt.Errorf("%w: it has none at all yet", errNoVersion)

// keyring holds the pinned versions of the wrapping key in ascending order; the
// last one seals what has no version prescribed. A version that is known does
// not change for as long as the process lives. All methods may be called
// concurrently.
type keyring struct {
	domain string // of the node's token, empty for hsm.DefaultDomain; set before use

	mu    sync.RWMutex
	keys  []hsm.WrappingKey
	seen  map[uint32]hsm.WrappingKey // every version ever known, also those that left
	bound map[uint32]bool            // those of seen whose pair was found in the token
}

// own is the wrapping domain of the node's token.
func (k *keyring) own() string {
	if k.domain == "" {
		return hsm.DefaultDomain
	}
	return k.domain
}

// all returns the versions in use. The result must not be changed.
func (k *keyring) all() []hsm.WrappingKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.keys
}

// sealing returns a version, with 0 the newest. Before anything is sealed to it,
// sealingKey sees to it that it is bound.
func (k *keyring) sealing(version uint32) (hsm.WrappingKey, error) {
	keys := k.all()
	if len(keys) == 0 {
		return hsm.WrappingKey{}, errNoKey
	}
	if version == 0 {
		return keys[len(keys)-1], nil
	}
	i := slices.IndexFunc(keys, func(key hsm.WrappingKey) bool { return key.Version == version })
	if i < 0 {
		return hsm.WrappingKey{}, fmt.Errorf("%w: version %d", errNoVersion, version)
	}
	return keys[i], nil
}

// check says what is wrong with a list of keys to set.
func (k *keyring) check(keys []hsm.WrappingKey) error {
	if len(keys) == 0 || len(keys) > maxWrappingKeys {
		return refused("%d wrapping keys, not 1 to %d", len(keys), maxWrappingKeys)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	for i, key := range keys {
		switch {
		case key.Domain != k.own():
			return refused("wrapping key version %d is of domain %q, and this node's token is %q", key.Version, key.Domain, k.own())
		case i > 0 && key.Version <= keys[i-1].Version:
			return refused("wrapping keys are not in ascending order")
		}
		if err := key.Check(); err != nil {
			return refusedError{err}
		}
		if old, ok := k.seen[key.Version]; ok && !sameKey(old, key) {
			return refused("wrapping key version %d is pinned on this node with another key", key.Version)
		}
	}
	return nil
}

// isBound reports whether the token was seen to hold this very key.
func (k *keyring) isBound(key hsm.WrappingKey) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.bound[key.Version] && sameKey(k.seen[key.Version], key)
}

// noteBound remembers that the token holds a key, which is pinned by that.
func (k *keyring) noteBound(key hsm.WrappingKey) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old, ok := k.seen[key.Version]; ok && !sameKey(old, key) {
		return refused("wrapping key version %d is pinned on this node with another key", key.Version)
	}
	if k.seen == nil {
		k.seen = map[uint32]hsm.WrappingKey{}
	}
	if k.bound == nil {
		k.bound = map[uint32]bool{}
	}
	k.seen[key.Version], k.bound[key.Version] = key, true
	return nil
}

// set replaces the keys in use by a list that check has passed and whose last
// key was found in the token.
func (k *keyring) set(keys []hsm.WrappingKey) error {
	if err := k.check(keys); err != nil { // once more: two calls may have raced
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil {
		k.seen = map[uint32]hsm.WrappingKey{}
	}
	for _, key := range keys {
		k.seen[key.Version] = key
	}
	k.keys = slices.Clone(keys)
	return nil
}

// adopt takes over what another keyring, which nobody else uses, has and knows.
func (k *keyring) adopt(o *keyring) error {
	for version := range o.bound {
		if err := k.noteBound(o.seen[version]); err != nil {
			return err
		}
	}
	if len(o.keys) == 0 {
		return nil
	}
	return k.set(o.keys)
}

func sameKey(a, b hsm.WrappingKey) bool {
	return a.Version == b.Version && a.Domain == b.Domain && a.Suite == b.Suite &&
		bytes.Equal(a.ID, b.ID) && bytes.Equal(a.PublicKey, b.PublicKey)
}
