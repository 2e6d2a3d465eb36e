package node

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/recovery"
)

// A node seals shares to its own token's wrapping key, and to nothing else
// unless the mount's authority has signed for it: the recovery recipients, one
// for each share. The authority's key is pinned when the node is set up; with
// none pinned there are no recipients.

// AuthorityVariable is the environment variable in which a host fixes the
// authority for its nodes.
const AuthorityVariable = "MPC_AUTHORITY"

// parseAuthority reads the authority's key, nil for none. fixed is what the host
// says that it must be, where not empty; none is allowed all the same, and then
// there are no recipients.
func parseAuthority(b []byte, fixed string) (ed25519.PublicKey, error) {
	if fixed != "" && len(b) > 0 && hex.EncodeToString(b) != fixed {
		return nil, fmt.Errorf("this node's host has fixed another authority (%s)", AuthorityVariable)
	}
	if len(b) != 0 && len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("an authority's key has %d bytes, not %d", ed25519.PublicKeySize, len(b))
	}
	if len(b) == 0 {
		return nil, nil
	}
	return ed25519.PublicKey(b), nil
}

// recipients returns the recipient set that a public record names by its hash,
// nil for the empty one.
func (n *Node) recipients(hash [32]byte, signed []byte) (*recovery.RecipientSet, error) {
	if hash == mpc.EmptySetHash() {
		if len(signed) > 0 {
			return nil, refused("a recipient set was given for an account that names none")
		}
		return nil, nil
	}
	if len(signed) == 0 {
		return nil, refused("the account names a recipient set and none was given")
	}
	set, got, err := n.signedSet(signed)
	if err != nil {
		return nil, err
	}
	if got != hash {
		return nil, refused("the recipient set is not the one that the account names")
	}
	return set, nil
}

// nextRecipients returns the recipient set of an account's next epoch and its
// hash: the present one, or a newer one that replaces it. A set can be replaced
// but not dropped, so that no coordinator can quietly end the recovery of an
// account.
//
// The signature of the former set is not judged: the record names the set by its
// hash, and the share opens under that record only, so nobody can pass off
// another. Its authority may have been replaced since, by one that signed the
// new set; nothing is sealed to the former.
func (n *Node) nextRecipients(old [32]byte, oldSigned, signed []byte) (*recovery.RecipientSet, [32]byte, error) {
	if len(oldSigned) == 0 && (len(signed) == 0 || old != mpc.EmptySetHash()) {
		set, err := n.recipients(old, signed)
		return set, old, err
	}
	next, hash, err := n.signedSet(signed)
	if err != nil {
		return nil, hash, err
	}
	if old == mpc.EmptySetHash() {
		if len(oldSigned) > 0 {
			return nil, hash, refused("a former recipient set was given for an account that names none")
		}
		return next, hash, nil
	}
	// Nothing is sealed to the former set, which may be another authority's:
	// that the account's record names it makes its serial number true.
	former, err := recovery.ParseSignedSet(oldSigned)
	switch {
	case err != nil:
		return nil, hash, refusedError{fmt.Errorf("the former recipient set: %w", err)}
	case former.Hash() != old:
		return nil, hash, refused("the former recipient set is not the one that the account names")
	case next.Serial <= former.Unverified().Serial:
		return nil, hash, refused("recipient set %d is not newer than the account's, %d", next.Serial, former.Unverified().Serial)
	}
	return next, hash, nil
}

// signedSet checks the authority's signature.
func (n *Node) signedSet(signed []byte) (*recovery.RecipientSet, [32]byte, error) {
	if n.authority == nil {
		return nil, [32]byte{}, refused("this node has no authority pinned, so it seals to no recipient")
	}
	parsed, err := recovery.ParseSignedSet(signed)
	if err != nil {
		return nil, [32]byte{}, refusedError{err}
	}
	set, err := parsed.Verify(n.authority)
	if err != nil {
		return nil, [32]byte{}, refusedError{fmt.Errorf("the recipient set is not signed by the authority pinned on this node, nothing was sealed to it: %w", err)}
	}
	return set, parsed.Hash(), nil
}

// sealTo lists what share i of n is sealed to: this node's token first, and the
// share's recovery recipient where there is a set.
func (n *Node) sealTo(version uint32, set *recovery.RecipientSet, i mpc.Index, shares int) ([]hsm.WrappingKey, error) {
	own, err := n.keys.sealing(version)
	if err != nil {
		return nil, err
	}
	seals := []hsm.WrappingKey{own}
	if set == nil {
		return seals, nil
	}
	if shares > len(set.Recipients) {
		return nil, refused("the recipient set has recipients for %d shares, and the account has %d", len(set.Recipients), shares)
	}
	recipient, err := set.ForShare(i)
	if err != nil {
		return nil, refusedError{err}
	}
	if recipient.Domain == own.Domain {
		return nil, refusedError{errors.New("a recovery recipient has the name of this node's own token")}
	}
	return append(seals, recipient), nil
}
