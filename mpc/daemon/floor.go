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
//	meta:     "version" → 1 byte
//	accounts: account ID, 16 bytes → an entry, 82 bytes; see entry.marshal
const (
	floorVersion = 1
	entrySize    = 1 + 8 + 32 + 32 + 8 + 1
)

var (
	bucketMeta     = []byte("meta")
	bucketAccounts = []byte("accounts")
	keyVersion     = []byte("version")
)

// FloorEntry is what the floor remembers of one account.
type FloorEntry struct {
	Account mpc.AccountID
	// Epoch is the lowest that the node still works with.
	Epoch uint64
	// Record is the hash of that epoch's public record; zero takes any, after an
	// operator lowered the floor.
	Record [32]byte
	// Policy is the hash of its policy; zero as Record.
	Policy [32]byte
	Time   time.Time // of the last change
	// Lowered says that an operator made this entry.
	Lowered bool
}

// marshal: version of the entry (1 byte, 1), epoch (8, big-endian), record (32),
// policy (32), Unix seconds (8, big-endian), lowered (1: 0 or 1).
func (e FloorEntry) marshal() []byte {
	b := make([]byte, 0, entrySize)
	b = append(b, floorVersion)
	b = binary.BigEndian.AppendUint64(b, e.Epoch)
	b = append(append(b, e.Record[:]...), e.Policy[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Time.Unix()))
	lowered := byte(0)
	if e.Lowered {
		lowered = 1
	}
	return append(b, lowered)
}

func parseFloorEntry(key, b []byte) (FloorEntry, error) {
	var e FloorEntry
	if len(key) != len(e.Account) || len(b) != entrySize || b[0] != floorVersion || b[entrySize-1] > 1 {
		return e, errors.New("the floor has an entry that this program does not know")
	}
	copy(e.Account[:], key)
	e.Epoch = binary.BigEndian.Uint64(b[1:])
	copy(e.Record[:], b[9:])
	copy(e.Policy[:], b[41:])
	e.Time = time.Unix(int64(binary.BigEndian.Uint64(b[73:])), 0).UTC()
	e.Lowered = b[entrySize-1] == 1
	return e, nil
}

// check is the rule of the floor. The node adds which account it is about and what
// an operator can do.
func (e FloorEntry) check(r *mpc.PublicRecord) error {
	switch {
	case r.Epoch < e.Epoch:
		return fmt.Errorf("%w: the record is of epoch %d and this node has worked with epoch %d", node.ErrBelowFloor, r.Epoch, e.Epoch)
	case r.Epoch == e.Epoch && e.Record != [32]byte{} && r.Hash() != e.Record:
		return fmt.Errorf("%w: this is another record of epoch %d than the one this node has worked with", node.ErrBelowFloor, r.Epoch)
	case e.Policy != [32]byte{} && e.Policy != mpc.EmptySetHash() && r.PolicyHash == mpc.EmptySetHash():
		return fmt.Errorf("%w: the record has no policy and this node has worked with one", node.ErrBelowFloor)
	}
	return nil
}

// Floor is the durable floor of a node; it implements node.Floor. All methods may
// be called concurrently. One process has the file at a time.
type Floor struct {
	db    *bolt.DB
	queue chan raise
	done  chan struct{} // closed when the writer has ended
	stop  chan struct{}
	now   func() time.Time
}

// raise is one change that waits to be written.
type raise struct {
	ctx     context.Context
	record  *mpc.PublicRecord // raised to, or nil for lower
	account mpc.AccountID
	lower   uint64 // epoch; 0 forgets the account
	result  chan<- error
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

func (f *Floor) change(ctx context.Context, r raise) error {
	result := make(chan error, 1)
	r.ctx, r.result = ctx, result
	select {
	case f.queue <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-f.done:
		return errFloorClosed
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err() // it may be written all the same, which does no harm
	case <-f.done:
		select {
		case err := <-result: // in the last write
			return err
		default:
			return errFloorClosed
		}
	}
}

var errFloorClosed = errors.New("the floor is closed: the node is about to end")

// write is the one writer: it takes all that waits into one transaction.
func (f *Floor) write() {
	defer close(f.done)
	for {
		var batch []raise
		select {
		case r := <-f.queue:
			batch = append(batch, r)
		case <-f.stop:
			return
		}
		for len(batch) < maxBatch {
			select {
			case r := <-f.queue:
				batch = append(batch, r)
				continue
			default:
			}
			break
		}
		f.commit(batch)
	}
}

// commit applies a batch; a refused change leaves the others alone, and a disk that
// fails fails all of them.
func (f *Floor) commit(batch []raise) {
	results := make([]error, len(batch))
	err := f.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketAccounts)
		left := maxAccounts - accountsIn(tx)
		for i, r := range batch {
			results[i] = nil
			if r.ctx.Err() != nil {
				results[i] = r.ctx.Err()
				continue
			}
			added, err := f.apply(b, r, left > 0)
			var refusal refusedChange
			if errors.As(err, &refusal) {
				results[i] = refusal.error
				continue
			}
			if err != nil {
				return err
			}
			left -= added
		}
		return setAccounts(tx, maxAccounts-left)
	})
	for i, r := range batch {
		if err != nil {
			results[i] = fmt.Errorf("this node's floor cannot be written: %w; the operation was not done. Look at the disk of the node's host", err)
		}
		r.result <- results[i]
	}
}

// refusedChange is a change that the rules forbid, as opposed to a broken disk.
type refusedChange struct{ error }

// apply makes one change and returns by how much the number of accounts grew.
func (f *Floor) apply(b *bolt.Bucket, r raise, room bool) (int, error) {
	old := b.Get(r.account[:])
	var e FloorEntry
	if old != nil {
		var err error
		if e, err = parseFloorEntry(r.account[:], old); err != nil {
			return 0, refusedChange{err}
		}
	}
	if r.record == nil {
		switch {
		case old == nil:
			return 0, refusedChange{fmt.Errorf("account %s is not in this node's floor", r.account)}
		case r.lower == 0:
			return -1, b.Delete(r.account[:])
		case r.lower > e.Epoch:
			return 0, refusedChange{fmt.Errorf("account %s is at epoch %d: this command lowers only", r.account, e.Epoch)}
		}
		return 0, b.Put(r.account[:], FloorEntry{Account: r.account, Epoch: r.lower, Time: f.now(), Lowered: true}.marshal())
	}
	added := 0
	if old == nil {
		if !room {
			return 0, refusedChange{fmt.Errorf("this node's floor is full: it has %d accounts", maxAccounts)}
		}
		added = 1
	} else if err := e.check(r.record); err != nil {
		return 0, refusedChange{err} // another raise came first
	}
	fresh := FloorEntry{Account: r.account, Epoch: r.record.Epoch, Record: r.record.Hash(), Policy: r.record.PolicyHash, Time: f.now()}
	return added, b.Put(r.account[:], fresh.marshal())
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
