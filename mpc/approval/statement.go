package approval

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc"
)

// Action is what a request asks for.
type Action string

// The actions.
const (
	// Sign asks for one signature.
	Sign Action = "sign"
	// ChangePolicy asks for another policy of the account.
	ChangePolicy Action = "policy"
)

// Decision is an approver's answer.
type Decision string

// The decisions.
const (
	Approve Decision = "approve"
	Refuse  Decision = "refuse"
)

// maxTime is the end of the year 9999, in Unix seconds: the last that every program
// writes and reads.
const maxTime = 253402300799

// Subject is what is asked for: all of a statement but who decides and how. It is
// the same for all approvers of a request. Neither epoch nor nodes are in it (a change
// of policy names the epoch in which it was asked for), so that a retry or a refresh does not void an approval;
// replaying one can only sign the same message again.
type Subject struct {
	Action    Action
	Mount     [16]byte
	Account   mpc.AccountID
	PublicKey []byte // as in the public record
	Request   ID
	// Requester identifies who asks, as the coordinator knows them ("entity:…");
	// RequesterName is what people call them, or empty. Both are the coordinator's
	// word.
	Requester, RequesterName string
	Algorithm                mpc.Algorithm
	// Sign only: what SigningInput takes, with SHA-256 of the input in place of the
	// input itself.
	MessageType                  mpc.MessageType
	Hash                         mpc.HashAlgorithm
	Message                      [32]byte
	DerivationPath, TaprootTweak string
	// Policy is the hash of the policy in force.
	Policy [32]byte
	// ChangePolicy only: the hash of the policy to come, and the epoch that the
	// account was in when it was asked (Policy.Since of the policy to come).
	NextPolicy [32]byte
	Epoch      uint64
	// Expires is when approvals cease to count, Unix time in seconds.
	Expires int64
}

// SignSubject fills in what follows from an account's record and a message.
func SignSubject(mount [16]byte, r *mpc.PublicRecord, input []byte, kind mpc.MessageType, hash mpc.HashAlgorithm, d mpc.Derivation) Subject {
	return Subject{Action: Sign, Mount: mount, Account: r.AccountID, PublicKey: r.PublicKey, Algorithm: r.Algorithm,
		MessageType: kind, Hash: hash, Message: sha256.Sum256(input), DerivationPath: d.Path, TaprootTweak: d.TaprootTweak, Policy: r.PolicyHash}
}

// PolicySubject fills in what follows from an account's record and a new policy.
// Refreshes of the account do not change it; what the record says of the policy in
// force does. Whether next may follow that one is for Follows.
func PolicySubject(mount [16]byte, r *mpc.PublicRecord, next *Policy) Subject {
	return Subject{Action: ChangePolicy, Mount: mount, Account: r.AccountID, PublicKey: r.PublicKey, Algorithm: r.Algorithm,
		Policy: r.PolicyHash, NextPolicy: next.Hash(), Epoch: next.Since}
}

// Check verifies that the subject is of one action and names everything.
func (s *Subject) Check() error {
	sign := s.Action == Sign
	switch {
	case !sign && s.Action != ChangePolicy:
		return fmt.Errorf("approval: unknown action %q", s.Action)
	case s.Mount == [16]byte{} || s.Account == mpc.AccountID{} || s.Request == ID{} || !s.Algorithm.Valid() || len(s.PublicKey) != s.Algorithm.PublicKeySize():
		return errors.New("approval: a statement names mount, account, public key, algorithm and request")
	case s.Policy == [32]byte{} || s.Policy == mpc.EmptySetHash():
		return errors.New("approval: a statement names the policy in force")
	case s.NextPolicy == mpc.EmptySetHash():
		return errors.New("approval: an account that has a policy never has none again")
	case sign != (s.NextPolicy == [32]byte{}), sign != (s.Epoch == 0):
		return errors.New("approval: the new policy and the epoch belong to a change of policy")
	case sign != (s.Message != [32]byte{}), sign != (s.MessageType != ""):
		return errors.New("approval: the message belongs to a signature")
	case !sign && (s.Hash != "" || s.DerivationPath != "" || s.TaprootTweak != ""):
		return errors.New("approval: the message belongs to a signature")
	case len(s.MessageType) > 32 || len(s.Hash) > 32 || len(s.DerivationPath) > maxText || len(s.TaprootTweak) > maxText ||
		!printableASCII(string(s.MessageType)+string(s.Hash)+s.DerivationPath+s.TaprootTweak):
		return errors.New("approval: message type, hash, derivation path and tweak are short texts in ASCII")
	case s.Expires <= 0 || s.Expires > maxTime:
		return errors.New("approval: a statement has an expiry")
	}
	if err := checkRequester(s.Requester); err != nil {
		return fmt.Errorf("approval: a statement names who asks: %w", err)
	}
	if s.RequesterName != "" {
		if err := CheckName(s.RequesterName); err != nil {
			return fmt.Errorf("approval: who asks %w", err)
		}
	}
	return nil
}

// ExpiresAt is Expires as a time.
func (s *Subject) ExpiresAt() time.Time { return time.Unix(s.Expires, 0) }

// Statement is what one approver signs.
type Statement struct {
	Subject  Subject
	Decision Decision
	Approver ID
}

const statementLabel = "vault-plugin-secrets-mpc approval statement v1"

// Marshal returns the canonical encoding.
func (s *Statement) Marshal() []byte {
	u := &s.Subject
	var w writer
	w.text(statementLabel)
	w.text(string(u.Action))
	w.text(string(s.Decision))
	w.bytes(s.Approver[:])
	w.bytes(u.Mount[:])
	w.bytes(u.Account[:])
	w.bytes(u.PublicKey)
	w.bytes(u.Request[:])
	w.text(u.Requester)
	w.text(u.RequesterName)
	w.text(string(u.Algorithm))
	w.text(string(u.MessageType))
	w.text(string(u.Hash))
	w.bytes(u.Message[:])
	w.text(u.DerivationPath)
	w.text(u.TaprootTweak)
	w.bytes(u.Policy[:])
	w.bytes(u.NextPolicy[:])
	w.number(u.Epoch)
	w.number(uint64(u.Expires))
	return w
}

// Hash is the SHA-256 of Marshal: the challenge of a passkey, and what device and
// certificate keys sign under labels of their own.
func (s *Statement) Hash() [32]byte { return sha256.Sum256(s.Marshal()) }
