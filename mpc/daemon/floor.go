package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/node"
)

// Bounds of the floor.
const (
	// maxAccounts bounds what a coordinator can make this host store: about 150
	// bytes each on the disk.
	maxAccounts = 1 << 20
	// maxBatch bounds the records that one write to the disk covers.
	maxBatch = 512
)

// The file is a bbolt database (pages of 4096 bytes) with two buckets.
//
//	meta:     "version" → 1 byte; "accounts" → their number, 8 bytes; "set", a
//	          mount's ID, 16 bytes, and an authority's key, 32 bytes → the newest
//	          serial number of a recipient set that it signed, 8 bytes; numbers are
//	          big-endian
//	accounts: account ID, 16 bytes → an entry, 82 bytes; see entry.marshal
const (
	floorVersion = 1
)

var (
	bucketMeta     = []byte("meta")
	bucketAccounts = []byte("accounts")
	keyVersion     = []byte("version")
)

// Floor is the durable floor of a node; it implements node.Floor. All methods may
// be called concurrently. One process has the file at a time.
type Floor struct {
	db    *bolt.DB
	queue chan raise
	done  chan struct{} // closed when the writer has ended
	stop  chan struct{}
	now   func() time.Time
}

var _ node.Floor = (*Floor)(nil)

// openFloor opens the file. It makes one only where create says so: a floor that
// vanished would let an old backup of Vault's storage through.
func openFloor(path string, create bool) (*Floor, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && !create {
		return nil, fmt.Errorf("%w: %s is gone and this node is enrolled: without it the node would take accounts back to any older state. Restore it from a backup of this host, or run `vault-plugin-secrets-mpc node floor new` to begin with an empty one", ErrSettings, path)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, PageSize: 4096, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%w (%s is locked)", ErrInUse, path)
	}
	if err != nil {
		return nil, fmt.Errorf("the floor %s cannot be read: %w; restore it from a backup of this host", path, err)
	}
	if err := db.Update(prepareFloor); err != nil {
		db.Close()
		return nil, fmt.Errorf("the floor %s: %w", path, err)
	}
	f := &Floor{db: db, queue: make(chan raise, maxBatch), done: make(chan struct{}), stop: make(chan struct{}), now: time.Now}
	go f.write()
	return f, nil
}

func prepareFloor(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	switch v := meta.Get(keyVersion); {
	case v == nil:
		if err := meta.Put(keyVersion, []byte{floorVersion}); err != nil {
			return err
		}
	case !bytes.Equal(v, []byte{floorVersion}):
		return fmt.Errorf("has version %x, this program reads %d: run the version that wrote it", v, floorVersion)
	}
	_, err = tx.CreateBucketIfNotExists(bucketAccounts)
	return err
}

// Close ends the floor after what was queued is written.
func (f *Floor) Close() error {
	close(f.stop)
	<-f.done
	return f.db.Close()
}

// Check implements node.Floor.
func (f *Floor) Check(record *mpc.PublicRecord) error {
	e, known, err := f.entry(record.AccountID)
	if err != nil || !known {
		return err
	}
	return e.check(record)
}

// Raise implements node.Floor. Where nothing changes it does not write. Raises that
// come while the disk is busy share the next write.
func (f *Floor) Raise(ctx context.Context, record *mpc.PublicRecord) error {
	e, known, err := f.entry(record.AccountID)
	if err != nil {
		return err
	}
	if known {
		if err := e.check(record); err != nil || !changes(e, record) {
			return err
		}
	}
	return f.change(ctx, raise{record: record, account: record.AccountID})
}

// changes reports whether a record that passed the check is more than the entry.
func changes(e FloorEntry, r *mpc.PublicRecord) bool {
	return r.Epoch != e.Epoch || r.Hash() != e.Record || r.PolicyHash != e.Policy
}

// lower sets an account's floor to an epoch, of which any record and any policy
// will do then, or forgets the account with 0. It never raises.
func (f *Floor) lower(ctx context.Context, account mpc.AccountID, epoch uint64) error {
	return f.change(ctx, raise{account: account, lower: epoch})
}

// keyCount holds the number of accounts, 8 bytes, big-endian, so that nobody has to
// count them.
var keyCount = []byte("accounts")

func accountsIn(tx *bolt.Tx) int {
	if v := tx.Bucket(bucketMeta).Get(keyCount); len(v) == 8 {
		return int(binary.BigEndian.Uint64(v))
	}
	return 0
}

func setAccounts(tx *bolt.Tx, n int) error {
	return tx.Bucket(bucketMeta).Put(keyCount, binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// count returns the number of accounts.
func (f *Floor) count() (n int) {
	_ = f.db.View(func(tx *bolt.Tx) error { n = accountsIn(tx); return nil })
	return n
}

func (f *Floor) entry(account mpc.AccountID) (e FloorEntry, known bool, err error) {
	err = f.db.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketAccounts).Get(account[:])
		if v == nil {
			return nil
		}
		known = true
		e, err = parseFloorEntry(account[:], v)
		return err
	})
	if err != nil {
		return e, known, fmt.Errorf("this node's floor cannot be read: %w", err)
	}
	return e, known, nil
}

// list returns all entries by account ID.
func (f *Floor) list() (all []FloorEntry, err error) {
	err = f.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketAccounts).ForEach(func(k, v []byte) error {
			e, err := parseFloorEntry(k, v)
			all = append(all, e)
			return err
		})
	})
	return all, err
}
