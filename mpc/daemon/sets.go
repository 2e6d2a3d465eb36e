package daemon

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"vault-plugin-secrets-mpc/mpc/node"
)

var _ node.Sets = (*Floor)(nil)

// prefixSet, a mount's ID and an authority's public key are the key in the bucket of the file's
// facts; see floor.go.
const prefixSet = "set"

// Newest implements node.Sets. It writes when a number is higher than any before.
// Only what the pinned authority has signed comes here, so that a coordinator cannot
// raise a number or add authorities.
func (f *Floor) Newest(mountID [16]byte, authority ed25519.PublicKey, serial uint64) (newest uint64, err error) {
	key := append(append([]byte(prefixSet), mountID[:]...), authority...)
	read := func(tx *bolt.Tx) error {
		newest = 0
		switch v := tx.Bucket(bucketMeta).Get(key); {
		case len(v) == 8:
			newest = binary.BigEndian.Uint64(v)
		case v != nil:
			return fmt.Errorf("it has an entry of %d bytes for an authority, not 8", len(v))
		}
		return nil
	}
	if err = f.db.View(read); err == nil && newest < serial {
		err = f.db.Update(func(tx *bolt.Tx) error {
			if err := read(tx); err != nil || newest >= serial {
				return err
			}
			newest = serial
			return tx.Bucket(bucketMeta).Put(key, binary.BigEndian.AppendUint64(nil, serial))
		})
	}
	if err != nil {
		return 0, fmt.Errorf("this node's floor: %w", err)
	}
	return newest, nil
}
