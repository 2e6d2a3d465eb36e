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

// keyring holds the pinned versions of the wrapping key in ascending order; the
// last one seals what has no version prescribed. A version that is known does
// not change for as long as the process lives. All methods may be called
// concurrently.
type keyring struct {
	mu   sync.RWMutex
	keys []hsm.WrappingKey
	seen map[uint32]hsm.WrappingKey // every version ever known, also those that left
}

// all returns the versions in use. The result must not be changed.
func (k *keyring) all() []hsm.WrappingKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.keys
}

// sealing returns a version to seal to, with 0 the newest.
func (k *keyring) sealing(version uint32) (hsm.WrappingKey, error) {
	keys := k.all()
	if len(keys) == 0 {
		return hsm.WrappingKey{}, errors.New("the node has no wrapping key")
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

// check says what is wrong with a list of keys to set, and which of them were
// not in use before.
func (k *keyring) check(keys []hsm.WrappingKey) (added []hsm.WrappingKey, err error) {
	if len(keys) == 0 || len(keys) > maxWrappingKeys {
		return nil, refused("%d wrapping keys, not 1 to %d", len(keys), maxWrappingKeys)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	for i, key := range keys {
		switch {
		case key.Domain != hsm.DefaultDomain:
			return nil, refused("wrapping key version %d is of domain %q, and this node's token is %q", key.Version, key.Domain, hsm.DefaultDomain)
		case i > 0 && key.Version <= keys[i-1].Version:
			return nil, refused("wrapping keys are not in ascending order")
		}
		if err := key.Check(); err != nil {
			return nil, refusedError{err}
		}
		if old, ok := k.seen[key.Version]; ok && !sameKey(old, key) {
			return nil, refused("wrapping key version %d is pinned on this node with another key", key.Version)
		}
		if !slices.ContainsFunc(k.keys, func(o hsm.WrappingKey) bool { return o.Version == key.Version }) {
			added = append(added, key)
		}
	}
	return added, nil
}

// set replaces the keys in use by a list that check has passed and whose last
// key was found in the token.
func (k *keyring) set(keys []hsm.WrappingKey) error {
	if _, err := k.check(keys); err != nil { // once more: two calls may have raced
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

func sameKey(a, b hsm.WrappingKey) bool {
	return a.Version == b.Version && a.Domain == b.Domain && a.Suite == b.Suite &&
		bytes.Equal(a.ID, b.ID) && bytes.Equal(a.PublicKey, b.PublicKey)
}
