package hsm

import "encoding/binary"

// Context says what an envelope's content is and whose. It is authenticated,
// not secret, and not stored in the envelope: whoever opens must know it.
// Build it with the constructors of this file only. The empty Context is
// refused by Seal and Open.
type Context []byte

// Kinds of a node's own keys.
const (
	NodeKeyIdentity  = "identity"
	NodeKeyAuxiliary = "auxiliary"
)

const (
	labelShare   = "mpc hsm context share v1"
	labelNodeKey = "mpc hsm context node key v1"
	labelProbe   = "mpc hsm context probe v1"
	labelDeal    = "mpc hsm context deal v1"
	labelDealOf  = "mpc hsm context deal of record v1"
	labelLogins  = "mpc hsm context identity keys v1"

	maxNodeID  = 128
	maxContext = 1024
)

// ShareContext is the context of share `index` (from 1) of the account whose
// public record has the given SHA-256 hash.
//
// Encoding: fields(label, index as 1 byte, hash as 32 bytes).
func ShareContext(index uint8, recordHash [32]byte) Context {
	return fields([]byte(labelShare), []byte{index}, recordHash[:])
}

// NodeKeyContext is the context of a node's own wrapped key. kind is
// NodeKeyIdentity or NodeKeyAuxiliary, nodeID has 1 to 128 bytes; anything else
// gives the empty Context, which Seal and Open refuse.
//
// Encoding: fields(label, kind, mount ID as 16 bytes, node ID, generation as
// 8 bytes big-endian).
func NodeKeyContext(kind string, mountID [16]byte, nodeID string, generation uint64) Context {
	if kind != NodeKeyIdentity && kind != NodeKeyAuxiliary {
		return nil
	}
	if len(nodeID) == 0 || len(nodeID) > maxNodeID {
		return nil
	}
	return fields([]byte(labelNodeKey), []byte(kind), mountID[:], []byte(nodeID),
		binary.BigEndian.AppendUint64(nil, generation))
}

// DealContext is the context of a sub-share that `dealer` (the index of the old
// share, from 1) deals to new share `index` (from 1) when an account is
// recovered into the mount that `target` stands for.
//
// Encoding: fields(label, account ID as 16 bytes, target as 32 bytes, dealer as
// 1 byte, index as 1 byte).
func DealContext(accountID [16]byte, target [32]byte, dealer, index uint8) Context {
	return fields([]byte(labelDeal), accountID[:], target[:], []byte{dealer}, []byte{index})
}

// RecordDealContext is DealContext for an account that demands approvals: it names
// the public record whose share was dealt, by its SHA-256 hash. Else what was dealt
// of an account with a policy would open as of one without.
//
// Encoding: fields(label, record hash as 32 bytes, target as 32 bytes, dealer as
// 1 byte, index as 1 byte).
func RecordDealContext(record, target [32]byte, dealer, index uint8) Context {
	return fields([]byte(labelDealOf), record[:], target[:], []byte{dealer}, []byte{index})
}

// IdentityKeysContext is the context of a mount's keys for the logins of digital
// identities, which every node of the mount opens.
//
// Encoding: fields(label, mount ID as 16 bytes).
func IdentityKeysContext(mountID [16]byte) Context {
	return fields([]byte(labelLogins), mountID[:])
}

// ProbeContext is the context of what a node seals and opens only to see whether
// its token works.
//
// Encoding: fields(label).
func ProbeContext() Context { return fields([]byte(labelProbe)) }

// fields joins byte strings, each behind its length as 4 bytes big-endian, so
// that two different lists never give the same bytes.
func fields(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p)))
		out = append(out, p...)
	}
	return out
}
