package custody

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
)

// Operations that a custody key takes part in.
const (
	OpSign    = "sign"
	OpRefresh = "refresh"
)

const (
	labelPurpose = "vault-plugin-secrets-mpc custody purpose v1"
	// labelPolicyPurpose is that of a refresh that changes the approval policy, which
	// has one field more. Nothing else has, so that clients and nodes which know of no
	// such refresh agree about everything else, and about this one with nobody.
	labelPolicyPurpose = "vault-plugin-secrets-mpc custody purpose v2"
)

// Signer is one node of an operation and the share that it uses.
type Signer struct {
	Index mpc.Index
	Node  mpc.NodeIdentity
}

// Purpose is what a release is for: everything that its owner agrees to.
type Purpose struct {
	Operation string   // OpSign or OpRefresh
	Record    [32]byte // hash of the account's public record

	// Sign: the message as the caller gave it, and what is done with it.
	Input                                                    []byte
	MessageType, HashAlgorithm, DerivationPath, TaprootTweak string

	// Signers are all nodes that take part, each with its share; their order does
	// not matter.
	Signers []Signer

	// Refresh: the public custody key that the next epoch's shares are sealed to,
	// mpc.CustodyKeySize bytes. Mostly the present one.
	NextCustody []byte
	// NextPolicy is the hash of the approval policy that the next epoch is to have
	// (32 bytes), nil where it keeps the present one. The present one's approvers,
	// where there is one, have to have approved it as well; that is for nodes to check.
	NextPolicy []byte
}

// Hash is SHA-256 of fields(label, operation, record, input, message type, hash
// algorithm, derivation path, taproot tweak, next custody key, then for each signer
// in ascending order of index: index as 1 byte ‖ node identity as 32), each field
// behind its length as 4 bytes big-endian. Where the policy changes, the label is
// another, and the next policy's hash stands behind the next custody key.
func (p Purpose) Hash() [32]byte {
	label := labelPurpose
	if len(p.NextPolicy) > 0 {
		label = labelPolicyPurpose
	}
	parts := [][]byte{[]byte(label), []byte(p.Operation), p.Record[:], p.Input, []byte(p.MessageType), []byte(p.HashAlgorithm),
		[]byte(p.DerivationPath), []byte(p.TaprootTweak), p.NextCustody}
	if len(p.NextPolicy) > 0 {
		parts = append(parts, p.NextPolicy)
	}
	for _, s := range p.sorted() {
		parts = append(parts, append([]byte{byte(s.Index)}, s.Node[:]...))
	}
	return sha256.Sum256(fields(parts...))
}

func (p Purpose) sorted() []Signer {
	return slices.SortedFunc(slices.Values(p.Signers), func(a, b Signer) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), bytes.Compare(a.Node[:], b.Node[:]))
	})
}

// Check says whether p can be carried out for the account with that record: it is
// this record's, the account has user custody, the nodes are as many as the
// operation needs and none has two shares, and no field of another operation is
// set. What the message means is not for this package to judge.
func (p Purpose) Check(record *mpc.PublicRecord) error {
	if err := record.Check(); err != nil {
		return err
	}
	switch {
	case !record.HasCustody():
		return errors.New("custody: the account has no custody key, so nothing has to be released for it")
	case p.Record != record.Hash():
		return errors.New("custody: the purpose is another account's or another epoch's")
	}
	if err := p.checkSigners(record); err != nil {
		return err
	}
	switch p.Operation {
	case OpSign:
		if len(p.NextCustody) > 0 {
			return errors.New("custody: a signature changes no custody key")
		}
		if len(p.NextPolicy) > 0 {
			return errors.New("custody: a signature changes no policy")
		}
		_, err := mpc.SigningInput(record.Algorithm, mpc.MessageType(p.MessageType), mpc.HashAlgorithm(p.HashAlgorithm), p.Input)
		return err
	case OpRefresh:
		if len(p.Input) > 0 || p.MessageType != "" || p.HashAlgorithm != "" || p.DerivationPath != "" || p.TaprootTweak != "" {
			return errors.New("custody: a refresh signs no message")
		}
		if err := p.checkPolicy(record); err != nil {
			return err
		}
		_, err := hsm.ParseCustodyKey(p.NextCustody)
		return err
	}
	return fmt.Errorf("custody: unknown operation %q", p.Operation)
}

// checkPolicy: a policy is given or replaced by another one, and not taken away.
func (p Purpose) checkPolicy(record *mpc.PublicRecord) error {
	none := mpc.EmptySetHash()
	switch {
	case len(p.NextPolicy) == 0:
		return nil
	case len(p.NextPolicy) != len(record.PolicyHash):
		return fmt.Errorf("custody: the hash of a policy has %d bytes, not %d", len(record.PolicyHash), len(p.NextPolicy))
	case bytes.Equal(p.NextPolicy, none[:]):
		return errors.New("custody: an account's approval policy can be replaced and not taken away")
	case bytes.Equal(p.NextPolicy, record.PolicyHash[:]):
		return errors.New("custody: the policy to come is the one that the account has")
	}
	return nil
}

func (p Purpose) checkSigners(record *mpc.PublicRecord) error {
	want := record.Threshold
	if p.Operation == OpRefresh {
		want = record.Shares
	}
	if len(p.Signers) != want {
		return fmt.Errorf("custody: %d nodes take part, and the operation needs %d", len(p.Signers), want)
	}
	nodes := map[mpc.NodeIdentity]bool{}
	for i, s := range p.sorted() {
		switch {
		case s.Index < 1 || int(s.Index) > record.Shares:
			return fmt.Errorf("custody: share %d does not exist", s.Index)
		case i > 0 && p.sorted()[i-1].Index == s.Index:
			return fmt.Errorf("custody: share %d is to be used twice", s.Index)
		case nodes[s.Node]:
			return fmt.Errorf("custody: node %s is to have two shares", s.Node)
		}
		nodes[s.Node] = true
	}
	return nil
}

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
