package daemon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/node"
)

// entrySize is that of an entry, in bytes; see entry.marshal.
const entrySize = 1 + 8 + 32 + 32 + 8 + 1

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
