package node

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// What an account's policy demands, checked before anything of a share is opened.
// The coordinator brings policy and approvals, and its word counts for neither: the
// policy is the one whose hash the account's record names, the record is the one
// that the share is sealed under, mount and clock are this node's own, and what
// approvers have to have signed follows from what the node is about to do. Local
// nodes check the same as remote ones.

// errApprovals marks refusals for want of approvals. The coordinator tells them from
// other refusals: approvers can help, and other nodes cannot.
var errApprovals = errors.New("approvals")

type approvalsError struct{ err error }

func (e approvalsError) Error() string        { return e.err.Error() }
func (e approvalsError) Unwrap() error        { return e.err }
func (e approvalsError) Is(target error) bool { return target == errApprovals }

// noPolicyFields refuses policy fields where nothing is asked of them.
func noPolicyFields(s *nodepb.Start, what string) error {
	if len(s.GetPolicy()) > 0 || len(s.GetApprovals()) > 0 || len(s.GetNextPolicy()) > 0 {
		return refused("%s comes with a policy or approvals", what)
	}
	return nil
}

// approvedSign refuses a signature that the account's approvers have not approved,
// and policy or approvals for an account that demands none: whoever sends them takes
// it for another account.
func (n *Node) approvedSign(s *nodepb.Start, record *mpc.PublicRecord) error {
	if len(s.GetNextPolicy()) > 0 {
		return refused("a signature changes no policy")
	}
	if record.PolicyHash == mpc.EmptySetHash() {
		return noPolicyFields(s, "a signature of an account that demands no approvals")
	}
	subject := approval.SignSubject(n.mountID, record, s.GetInput(), mpc.MessageType(s.GetMessageType()), mpc.HashAlgorithm(s.GetHashAlgorithm()),
		mpc.Derivation{Path: s.GetDerivationPath(), TaprootTweak: s.GetTaprootTweak()})
	return n.approved(s, record, subject, "nothing was opened or signed")
}

// policyOf returns the policy of a new account for its record: none, or one that is
// given in full and can be fulfilled. An account with a policy that nobody can read
// could never sign.
func policyOf(hash [32]byte, s *nodepb.Start) error {
	if len(s.GetApprovals()) > 0 || len(s.GetNextPolicy()) > 0 {
		return refused("a key is made without any approvals")
	}
	if hash == mpc.EmptySetHash() {
		if len(s.GetPolicy()) > 0 {
			return approvalsError{errors.New("a policy is given and the new account is to have none: no key was made")}
		}
		return nil
	}
	p, err := readPolicy(s.GetPolicy(), hash)
	if err == nil {
		err = p.Follows(nil, 0)
	}
	if err != nil {
		return approvalsError{fmt.Errorf("the new account's policy: %w: no key was made", err)}
	}
	return nil
}

// nextPolicy returns the policy hash of the epoch after old. A refresh keeps the
// policy, unless it brings another one that the approvers of the present one have
// approved, for this account, since the present one was asked for. An account without
// a policy can be given one by anybody; nobody can take an account's policy away.
//
// Where the account has user custody its owner has to have agreed to that policy as
// well: the release is for the hash of what comes (purposeOf), so one for a plain
// refresh, or for another policy, opens nothing here. Approvals are looked at first,
// so that a release is not used up where they are missing.
func (n *Node) nextPolicy(s *nodepb.Start, old *mpc.PublicRecord) ([32]byte, error) {
	if len(s.GetNextPolicy()) == 0 {
		return old.PolicyHash, noPolicyFields(s, "a refresh that keeps the account's policy")
	}
	next, err := approval.ParsePolicy(s.GetNextPolicy())
	if err != nil {
		return [32]byte{}, refused("the policy to come: %w; the account keeps the one it has", err)
	}
	hash := next.Hash()
	switch {
	case hash != sha256.Sum256(s.GetNextPolicy()):
		return hash, refused("the policy to come is not in its canonical form; the account keeps the one it has")
	case hash == old.PolicyHash:
		return hash, refused("the policy to come is the one that the account has")
	case old.PolicyHash != mpc.EmptySetHash():
		if err = follows(next, s.GetPolicy(), old); err == nil {
			err = n.approved(s, old, approval.PolicySubject(n.mountID, old, next), "nothing was opened and the account keeps its policy")
		}
	case len(s.GetPolicy()) > 0 || len(s.GetApprovals()) > 0:
		err = refused("the account has no policy, and the request brings one that it is said to have, or approvals under it")
	default:
		if err = next.Follows(nil, old.Epoch); err != nil {
			err = refused("%w; nothing was opened", err)
		}
	}
	return hash, err
}

// follows demands that the policy to come was asked for under the present one, in
// whatever epoch: approvals of a change outlive refreshes, and not a later change.
func follows(next *approval.Policy, present []byte, old *mpc.PublicRecord) error {
	p, err := readPolicy(present, old.PolicyHash)
	if err == nil {
		err = next.Follows(p, old.Epoch)
	}
	if err != nil {
		return approvalsError{fmt.Errorf("account %s: %w; nothing was opened and the account keeps its policy", old.AccountID, err)}
	}
	return nil
}

// approved checks policy and approvals of a request. safe says what has not happened.
func (n *Node) approved(s *nodepb.Start, record *mpc.PublicRecord, subject approval.Subject, safe string) error {
	now := n.cfg.Now()
	err := func() error {
		policy, err := readPolicy(s.GetPolicy(), record.PolicyHash)
		if err != nil {
			return err
		}
		if len(s.GetApprovals()) == 0 {
			return fmt.Errorf("%w: %d of %d", approval.ErrMissing, 0, policy.Quorum)
		}
		bundle, err := approval.ParseBundle(s.GetApprovals())
		if err != nil {
			return err
		}
		_, err = approval.Verify(policy, subject, bundle, now)
		return err
	}()
	if err != nil {
		return approvalsError{fmt.Errorf("account %s: %w; %s. By this node's clock it is %s; ask for new approvals",
			record.AccountID, err, safe, now.UTC().Format(time.RFC3339))}
	}
	return nil
}

// readPolicy reads a policy of which the hash is known.
func readPolicy(b []byte, hash [32]byte) (*approval.Policy, error) {
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("the policy with hash %x is demanded and was not sent", hash)
	case len(b) > approval.MaxPolicy || sha256.Sum256(b) != hash:
		return nil, fmt.Errorf("the policy that was sent is not the one with hash %x", hash)
	}
	return approval.ParsePolicy(b)
}
