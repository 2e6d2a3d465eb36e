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
	"slices"
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
	BIP340Secp256k1 Algorithm = "bip340-secp256k1"
	Ed25519         Algorithm = "ed25519"
	ECDSASecp256k1  Algorithm = "ecdsa-secp256k1"
	ECDSAP256       Algorithm = "ecdsa-p256"
)

// Algorithms lists every supported algorithm in the order shown to users.
func Algorithms() []Algorithm {
	return []Algorithm{BIP340Secp256k1, Ed25519, ECDSASecp256k1, ECDSAP256}
}

// Valid reports whether a is one of Algorithms.
func (a Algorithm) Valid() bool { return slices.Contains(Algorithms(), a) }

// IsECDSA reports whether a signs a 32-byte digest by ECDSA. The others sign
// the message and hash it by themselves.
func (a Algorithm) IsECDSA() bool { return a == ECDSASecp256k1 || a == ECDSAP256 }

// NeedsAuxiliaryKeys reports whether signing needs the signers' auxiliary
// (Paillier and ring-Pedersen) keys.
func (a Algorithm) NeedsAuxiliaryKeys() bool { return a.IsECDSA() }

// Derives reports whether accounts have child keys by BIP-32.
func (a Algorithm) Derives() bool { return a == BIP340Secp256k1 || a == ECDSASecp256k1 }

// PublicKeySize is the length in bytes of PublicRecord.PublicKey: 33 (SEC 1
// compressed) for ECDSA, 32 for BIP-340 (x-only) and Ed25519 (RFC 8032).
func (a Algorithm) PublicKeySize() int {
	if a.IsECDSA() {
		return 33
	}
	return 32
}

// PublicShareSize is the length in bytes of each of PublicRecord.PublicShares:
// 32 (RFC 8032) for Ed25519, 33 (SEC 1 compressed) for the others.
func (a Algorithm) PublicShareSize() int {
	if a == Ed25519 {
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
	// Homes says where each share lives, in index order. Nil is for an account of
	// a pool without regions: any node whose domain the share is sealed to may
	// serve it.
	Homes []Home
	// NoSpares says that Exposures may be incomplete, as after the restore of
	// a snapshot: until the next refresh no node may be handed a share that
	// Exposures does not show it with.
	NoSpares bool
}

// Derivation asks for a signature under a child of an account's key; see
// mpc/derive. The zero value means the account's own key.
type Derivation struct {
	// Path is a BIP-32 path without hardened steps, "m/0/7".
	Path string
	// TaprootTweak is "bip86", or a Merkle root of 32 bytes in hex (BIP-341).
	TaprootTweak string
}

// Signer is one node that took part in a session with one share.
type Signer struct {
	Index  Index
	NodeID string
}

// Signature is a finished, verified signature.
type Signature struct {
	// Bytes is DER (ECDSA, low S) or 64 bytes: R.x‖s (BIP-340), R‖S (Ed25519).
	Bytes []byte
	// R and S are 32 bytes each: big-endian numbers for ECDSA, the two halves
	// of Bytes for the others.
	R, S [32]byte
	// RecoveryID is 0…3 for ECDSA and -1 where the scheme has none.
	RecoveryID int
	// Digest is what was signed: 32 bytes for ECDSA, else the message.
	Digest []byte
}

// Equal reports whether key is this identity; it accepts what
// ed25519.PrivateKey.Public returns.
func (n NodeIdentity) Equal(key any) bool {
	k, ok := key.(ed25519.PublicKey)
	return ok && string(k) == string(n[:])
}
