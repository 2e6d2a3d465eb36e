package frost

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// ErrBroadcast: a party told different parties different things, or one of
// them says so falsely.
var ErrBroadcast = errors.New("the parties did not receive the same nonce commitments")

// SignConfig describes one signer.
type SignConfig struct {
	Self mpc.Index
	// Signers holds exactly Record.Threshold indices in ascending order, Self
	// among them.
	Signers []mpc.Index
	Record  *mpc.PublicRecord
	// Share is Self's share, copied; it stays the caller's to wipe.
	Share *secret.Bytes
	// Message is what is signed. Both schemes hash it themselves, whatever its
	// length. It must not change until the party is done.
	Message   []byte
	SessionID mpc.SessionID
	// OpenedUnder is for a share that came out of an envelope: the hash of the
	// public record that was the envelope's context. If Record is that one, the
	// order of its points is not checked again; the record of a child key is
	// another. Zero for a share that came otherwise.
	OpenedUnder [32]byte
}

// Signer is a party whose result is a signature. The signature has been
// verified; whoever releases it verifies it again with another implementation.
type Signer interface {
	mpc.Party
	Result() (*mpc.Signature, error)
}

// NewSign returns a signer for a BIP-340 or Ed25519 account. It fails when the
// share does not match its public share (mpc.ErrShareMismatch), or when the
// account signs by another scheme (mpc.ErrUnknownAlgorithm).
func NewSign(cfg SignConfig) (Signer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	// No constructor's nil pointer may become a non-nil Signer.
	switch cfg.Record.Algorithm {
	case mpc.BIP340Secp256k1:
		p, err := newBIP340(cfg)
		if err != nil {
			return nil, err
		}
		return p, nil
	case mpc.Ed25519:
		p, err := newEd25519(cfg)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	return nil, fmt.Errorf("%w: frost signing cannot serve %q", mpc.ErrUnknownAlgorithm, cfg.Record.Algorithm)
}

func (c SignConfig) check() error {
	if err := c.Record.Check(); err != nil {
		return err
	}
	if len(c.Signers) != c.Record.Threshold {
		return fmt.Errorf("%d signers for a threshold of %d", len(c.Signers), c.Record.Threshold)
	}
	last := mpc.Index(0)
	for _, i := range c.Signers {
		if i <= last || int(i) > c.Record.Shares {
			return fmt.Errorf("signers %v are not ascending share indices of %d", c.Signers, c.Record.Shares)
		}
		last = i
	}
	switch {
	case !slices.Contains(c.Signers, c.Self):
		return fmt.Errorf("share %d is not among the signers %v", c.Self, c.Signers)
	case len(c.Message) == 0:
		return errors.New("nothing to sign")
	case c.SessionID == mpc.SessionID{}:
		return errors.New("no session ID")
	}
	return nil
}

// signLabel separates the digest below from every other hash of this program.
const signLabel = "vault-plugin-secrets-mpc frost sign v1"

// transcript is a digest of all that the signers must agree on. Every field
// but the last has a fixed or a written length.
func (c SignConfig) transcript() [32]byte {
	record := c.Record.Hash()
	h := sha256.New()
	h.Write([]byte(signLabel))
	h.Write(c.SessionID[:])
	h.Write(record[:])
	h.Write([]byte{byte(len(c.Signers))})
	for _, i := range c.Signers {
		h.Write([]byte{byte(i)})
	}
	h.Write(c.Message)
	return [32]byte(h.Sum(nil))
}

// broadcastFault ends a session whose parties were told different things. Among
// three nobody can tell who lied; a single peer can be blamed.
func broadcastFault(self mpc.Index, signers []mpc.Index) *mpc.AbortError {
	others := slices.DeleteFunc(slices.Clone(signers), func(i mpc.Index) bool { return i == self })
	if len(others) > 1 {
		others = nil
	}
	return &mpc.AbortError{Culprits: others, Err: ErrBroadcast}
}
