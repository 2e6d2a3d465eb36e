package daemon

import (
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"vault-plugin-secrets-mpc/mpc"
)

// The floor has one writer, so that changes that come while the disk is busy share
// the next write.

// raise is one change that waits to be written.
type raise struct {
	ctx     context.Context
	record  *mpc.PublicRecord // raised to, or nil for lower
	account mpc.AccountID
	lower   uint64 // epoch; 0 forgets the account
	result  chan<- error
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
