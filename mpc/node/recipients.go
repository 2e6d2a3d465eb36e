package node

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/recovery"
)

// A node seals shares to its own token's wrapping key, and to nothing else
// unless the mount's authority has signed for it: the recovery recipients, one
// for each share, and, for a share that moves, the other wrapping domains, by the
// nodes that vouch for their keys. The authority's key is pinned when the node is
// set up; with none pinned there are neither.

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
	if err == nil {
		err = n.setInForce(next)
	}
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
	if err := n.noteSet(set); err != nil {
		return nil, [32]byte{}, err
	}
	return set, parsed.Hash(), nil
}

// destination says what a share is to be sealed to.
type destination struct {
	version uint32                 // of the wrapping key, 0 for the newest
	set     *recovery.RecipientSet // in force for the share's epoch, nil for none
	index   mpc.Index
	shares  int // of the account
	// domain is where the share will live, empty for this node's own wrapping
	// domain. Another one needs its key among endorsed.
	domain   string
	endorsed []*nodepb.EndorsedKey
}

// sealTo lists what a share is sealed to: a wrapping domain first, mostly this
// node's own, and the share's recovery recipient where there is one.
func (n *Node) sealTo(ctx context.Context, t destination) (seals []hsm.WrappingKey, err error) {
	var home hsm.WrappingKey
	if t.domain == "" || t.domain == n.keys.own() {
		home, err = n.sealingKey(ctx, t.version)
	} else {
		home, err = n.endorsedKey(t)
	}
	if err != nil {
		return nil, err
	}
	seals = []hsm.WrappingKey{home}
	if t.set == nil || len(t.set.Recipients) == 0 {
		return seals, nil
	}
	if t.shares > len(t.set.Recipients) {
		return nil, refused("the recipient set has recipients for %d shares, and the account has %d", len(t.set.Recipients), t.shares)
	}
	recipient, err := t.set.ForShare(t.index)
	if err != nil {
		return nil, refusedError{err}
	}
	if recipient.Domain == home.Domain || recipient.Domain == n.keys.own() {
		return nil, refusedError{errors.New("a recovery recipient has the name of a token's wrapping domain")}
	}
	return append(seals, recipient), nil
}

// endorsedKey returns the key of another wrapping domain, if a node vouches for it
// that the authority has signed for, by naming it in the domain. Whose word the
// coordinator passes on does not matter otherwise.
func (n *Node) endorsedKey(t destination) (hsm.WrappingKey, error) {
	no := func(format string, args ...any) (hsm.WrappingKey, error) {
		return hsm.WrappingKey{}, refused("share %d cannot be sealed to wrapping domain %q, nothing was sealed: %s", t.index, t.domain, fmt.Sprintf(format, args...))
	}
	switch {
	case n.authority == nil:
		return no("this node has no authority pinned that could vouch for other domains")
	case t.set == nil:
		return no("the account's next epoch has no recipient set, in which the authority names the domain's nodes")
	case t.version == 0:
		return no("the version of the wrapping key is not given")
	case !t.set.HasDomain(t.domain):
		return no("recipient set %d, which the authority signed, does not name it: sign a set that does (mpckms authority sign-set --domain)", t.set.Serial)
	}
	if err := n.setInForce(t.set); err != nil {
		return hsm.WrappingKey{}, err
	}
	var found *nodepb.EndorsedKey
	for _, e := range t.endorsed {
		if e.GetKey().GetDomain() != t.domain {
			continue
		}
		if found != nil {
			return no("two keys of it were given")
		}
		found = e
	}
	if found == nil {
		return no("no key of it was given")
	}
	key := wrappingKeyFromWire(found.GetKey())
	switch {
	case key.Check() != nil:
		return no("its key is malformed: %v", key.Check())
	case key.Version != t.version:
		return no("its key is of version %d, and version %d was asked for", key.Version, t.version)
	case len(found.GetIdentity()) != ed25519.PublicKeySize || !t.set.Vouches(t.domain, mpc.NodeIdentity(found.GetIdentity())):
		return no("the node %x, which vouches for its key, is none of the nodes that the authority signed for in that domain", found.GetIdentity())
	case !hsm.VerifyKeyEndorsement(found.GetIdentity(), n.mountID, key, found.GetSignature()):
		return no("the node %x has not vouched for this key on this mount", found.GetIdentity())
	}
	return key, nil
}
