package mpc

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// The labels separate the hash of a public record from every other hash of this
// program; the number is the record's format version. An account without user
// custody has version 1, one with it version 2, so that the records and shares of
// the former stay as they are.
const (
	recordLabel        = "vault-plugin-secrets-mpc public record v1"
	recordLabelCustody = "vault-plugin-secrets-mpc public record v2"
)

// CustodyKeySize is the length in bytes of a public custody key: an uncompressed
// P-256 point, 04‖X‖Y.
const CustodyKeySize = 65

// maxRecordSize bounds what ParsePublicRecord looks at, in bytes. The largest
// valid record (n = 16) has under 900.
const maxRecordSize = 2048

// PublicRecord holds everything public about an account in one share epoch.
// Its hash is part of the authenticated context of every wrapped share, so no
// field can be exchanged on its own.
type PublicRecord struct {
	AccountID AccountID
	Algorithm Algorithm
	Threshold int // signers needed, 2 ≤ Threshold ≤ Shares
	Shares    int // n ≤ MaxShares

	// PublicKey has Algorithm.PublicKeySize bytes.
	PublicKey []byte
	// PublicShares holds X₁…Xₙ in index order, Algorithm.PublicShareSize bytes
	// each. For BIP-340 they belong to the private key whose public point has
	// an even y.
	PublicShares [][]byte
	// ChainCode is made jointly at key generation (BIP-32 public derivation).
	ChainCode [32]byte

	// Epoch counts share epochs from 1; EpochID is drawn anew for each.
	Epoch   uint64
	EpochID EpochID

	// RecipientsHash and PolicyHash name the recipient set and the policy in
	// force. EmptySetHash stands for "none", so that no record leaves them out.
	RecipientsHash [32]byte
	PolicyHash     [32]byte

	// Custody names the owner's custody key, without which no share opens:
	// CustodyHash of its public half. Zero for an account without user custody.
	Custody [32]byte
}

// CustodyHash is how a public record names a custody key: SHA-256 of the
// CustodyKeySize bytes of its public half.
func CustodyHash(public []byte) [32]byte { return sha256.Sum256(public) }

// HasCustody reports whether the shares need the owner's custody key too.
func (r *PublicRecord) HasCustody() bool { return r.Custody != [32]byte{} }

// EmptySetHash is the hash of an empty recipient set or policy.
func EmptySetHash() [32]byte {
	return sha256.Sum256([]byte("vault-plugin-secrets-mpc empty set v1"))
}

// PublicShare returns Xᵢ, or nil for an index outside 1…n.
func (r *PublicRecord) PublicShare(i Index) []byte {
	if i < 1 || int(i) > len(r.PublicShares) {
		return nil
	}
	return r.PublicShares[i-1]
}

// Check verifies lengths and bounds. Whether the points are on the curve and
// agree with each other is checked by mpc/frost.CheckRecord.
func (r *PublicRecord) Check() error {
	switch {
	case !r.Algorithm.Valid():
		return fmt.Errorf("public record: %w %q", ErrUnknownAlgorithm, r.Algorithm)
	case r.Threshold < MinThreshold || r.Threshold > r.Shares || r.Shares > MaxShares:
		return fmt.Errorf("public record: threshold %d of %d shares is out of bounds", r.Threshold, r.Shares)
	case r.AccountID == AccountID{}:
		return errors.New("public record: no account ID")
	case len(r.PublicKey) != r.Algorithm.PublicKeySize():
		return fmt.Errorf("public record: public key has %d bytes", len(r.PublicKey))
	case len(r.PublicShares) != r.Shares:
		return fmt.Errorf("public record: %d public shares for %d shares", len(r.PublicShares), r.Shares)
	case r.Epoch == 0 || r.EpochID == EpochID{}:
		return errors.New("public record: no epoch")
	case r.RecipientsHash == [32]byte{} || r.PolicyHash == [32]byte{}:
		return errors.New("public record: no recipient set or no policy")
	}
	for i, x := range r.PublicShares {
		if len(x) != r.Algorithm.PublicShareSize() {
			return fmt.Errorf("public record: public share %d has %d bytes", i+1, len(x))
		}
	}
	return nil
}

// Marshal returns the canonical encoding: the label, then every field in
// order, each preceded by its length (4 bytes, big-endian). Custody is there with
// the label of version 2 only.
func (r *PublicRecord) Marshal() []byte {
	var b []byte
	put := func(f []byte) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	label := recordLabel
	if r.HasCustody() {
		label = recordLabelCustody
	}
	put([]byte(label))
	put(r.AccountID[:])
	put([]byte(r.Algorithm))
	put([]byte{byte(r.Threshold), byte(r.Shares)})
	put(r.PublicKey)
	put(bytes.Join(r.PublicShares, nil))
	put(r.ChainCode[:])
	put(binary.BigEndian.AppendUint64(nil, r.Epoch))
	put(r.EpochID[:])
	put(r.RecipientsHash[:])
	put(r.PolicyHash[:])
	if r.HasCustody() {
		put(r.Custody[:])
	}
	return b
}

// Hash is the SHA-256 of Marshal.
func (r *PublicRecord) Hash() [32]byte { return sha256.Sum256(r.Marshal()) }

// ParsePublicRecord reads Marshal's encoding. It accepts the canonical form
// only: what it returns marshals to the same bytes and passes Check.
func ParsePublicRecord(b []byte) (*PublicRecord, error) {
	if len(b) > maxRecordSize {
		return nil, fmt.Errorf("public record: %d bytes is too long", len(b))
	}
	in, bad := b, false
	next := func() []byte {
		if len(in) < 4 || uint64(binary.BigEndian.Uint32(in)) > uint64(len(in)-4) {
			bad = true
			return nil
		}
		n := int(binary.BigEndian.Uint32(in))
		f := in[4 : 4+n]
		in = in[4+n:]
		return f
	}
	fixed := func(dst []byte) {
		f := next()
		if len(f) != len(dst) {
			bad = true
			return
		}
		copy(dst, f)
	}

	r := &PublicRecord{}
	label := string(next())
	if label != recordLabel && label != recordLabelCustody {
		return nil, errors.New("public record: not a version this program reads")
	}
	var sharing [2]byte
	var epoch [8]byte
	fixed(r.AccountID[:])
	r.Algorithm = Algorithm(next())
	fixed(sharing[:])
	r.PublicKey = bytes.Clone(next())
	points := next()
	fixed(r.ChainCode[:])
	fixed(epoch[:])
	fixed(r.EpochID[:])
	fixed(r.RecipientsHash[:])
	fixed(r.PolicyHash[:])
	if label == recordLabelCustody {
		fixed(r.Custody[:])
		bad = bad || !r.HasCustody() // it would have been of version 1
	}
	r.Threshold, r.Shares = int(sharing[0]), int(sharing[1])
	r.Epoch = binary.BigEndian.Uint64(epoch[:])
	size := r.Algorithm.PublicShareSize()
	if bad || len(in) != 0 || len(points)%size != 0 {
		return nil, errors.New("public record: malformed")
	}
	for ; len(points) > 0; points = points[size:] {
		r.PublicShares = append(r.PublicShares, bytes.Clone(points[:size]))
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	return r, nil
}
