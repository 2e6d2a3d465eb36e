// Package mpc names what a threshold key is: algorithms, share indices, the
// public record of an account, and the Party that runs one share's side of one
// protocol session.
//
// Border: pure values and functions. No I/O, no clock, no HSM, no Vault, and
// no protocol library (those are wrapped by mpc/frost and mpc/cmp). Plaintext
// shares appear here only inside the unexported state of a Party.
package mpc

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
)

// Bounds on an account's sharing.
const (
	MinThreshold = 2
	MaxShares    = 16
)

// Algorithm names a signature scheme on a curve, as the API spells it.
type Algorithm string

// The algorithms that can be created today.
const (
	ECDSASecp256k1  Algorithm = "ecdsa-secp256k1"
	BIP340Secp256k1 Algorithm = "bip340-secp256k1"
)

// Algorithms lists every supported algorithm in the order shown to users.
func Algorithms() []Algorithm { return []Algorithm{BIP340Secp256k1, ECDSASecp256k1} }

// Valid reports whether a is one of Algorithms.
func (a Algorithm) Valid() bool { return a == ECDSASecp256k1 || a == BIP340Secp256k1 }

// NeedsAuxiliaryKeys reports whether signing needs the signers' auxiliary
// (Paillier and ring-Pedersen) keys.
func (a Algorithm) NeedsAuxiliaryKeys() bool { return a == ECDSASecp256k1 }

// PublicKeySize is the length in bytes of PublicRecord.PublicKey: 33 bytes
// (SEC 1 compressed) for ECDSA, 32 bytes (x-only, BIP-340) for BIP-340.
func (a Algorithm) PublicKeySize() int {
	if a == BIP340Secp256k1 {
		return 32
	}
	return 33
}

// ErrUnknownAlgorithm is returned for an algorithm this version cannot use.
var ErrUnknownAlgorithm = errors.New("unknown algorithm")

// Index numbers a share of an account: 1…n, never 0.
type Index uint8

// AccountID is the random identity of an account. Names address accounts;
// everything authenticated binds to the ID.
type AccountID [16]byte

func (id AccountID) String() string { return hex.EncodeToString(id[:]) }

// EpochID is the random identity of one share epoch.
type EpochID [16]byte

func (id EpochID) String() string { return hex.EncodeToString(id[:]) }

// SessionID identifies one protocol session; every party contributes to it.
type SessionID [32]byte

func (id SessionID) String() string { return hex.EncodeToString(id[:]) }

// NodeIdentity is a node's Ed25519 public key. Placement is keyed by it, not
// by the node's name, so that a node with a new key counts as a new node.
type NodeIdentity [ed25519.PublicKeySize]byte

func (n NodeIdentity) String() string { return hex.EncodeToString(n[:]) }

// ParseNodeIdentity reads the hex form of a node identity.
func ParseNodeIdentity(s string) (NodeIdentity, error) {
	var id NodeIdentity
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("node identity must be %d hex digits", 2*len(id))
	}
	copy(id[:], b)
	return id, nil
}

// MessageType says what the input of a signing request is.
type MessageType string

// Message types, as the API spells them.
const (
	// MessageRaw is the message itself; nodes hash it where the scheme asks.
	MessageRaw MessageType = "raw"
	// MessageDigest is a 32-byte digest made by the caller.
	MessageDigest MessageType = "digest"
)

// HashAlgorithm names the hash applied to a raw message before ECDSA.
type HashAlgorithm string

// Hash algorithms, as the API spells them.
const (
	HashSHA256    HashAlgorithm = "sha2-256"
	HashKeccak256 HashAlgorithm = "keccak-256"
	// HashNone is for schemes that hash the message themselves (BIP-340).
	HashNone HashAlgorithm = "none"
)

// WrappedShare is one share of one epoch as it lies in storage.
type WrappedShare struct {
	Index Index
	// Envelope is the hsm envelope; its context is the index and the hash of
	// the epoch's public record.
	Envelope []byte
}

// Exposures says which share index each node has been handed in one epoch. A
// node may appear with one index only; several nodes may share an index.
type Exposures map[NodeIdentity]Index

// Account is what the pool needs of an account to use it.
type Account struct {
	Record    PublicRecord
	Shares    []WrappedShare // all n, in index order
	Exposures Exposures
}

// Signer is one node that took part in a session with one share.
type Signer struct {
	Index  Index
	NodeID string
}

// Signature is a finished, verified signature.
type Signature struct {
	// Bytes is DER (ECDSA, low S) or R.x‖s, 64 bytes (BIP-340).
	Bytes []byte
	// R and S are 32 bytes each, big-endian.
	R, S [32]byte
	// RecoveryID is 0…3 for ECDSA and -1 where the scheme has none.
	RecoveryID int
	// Digest is what was signed: 32 bytes for ECDSA, the message for BIP-340.
	Digest []byte
}

// Equal reports whether key is this identity; it accepts what
// ed25519.PrivateKey.Public returns.
func (n NodeIdentity) Equal(key any) bool {
	k, ok := key.(ed25519.PublicKey)
	return ok && string(k) == string(n[:])
}
