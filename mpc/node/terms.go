package node

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
)

// Operations a session can run, as Start spells them.
const (
	opKeygen  = "keygen"
	opRefresh = "refresh"
	opSign    = "sign"
	opPresign = "presign"
)

const inputsLabel = "vault-plugin-secrets-mpc session inputs v4"

// prepare checks a Start against what this node has pinned and returns the
// operation and the terms that all members will sign.
func (n *Node) prepare(s *nodepb.Start) (task, session.Terms, error) {
	terms := session.Terms{Operation: s.GetOperation(), Inputs: inputsHash(n.mountID, s)}
	if s.GetSelf() < 1 || s.GetSelf() > mpc.MaxShares {
		return nil, terms, refused("share index %d is out of bounds", s.GetSelf())
	}
	self := mpc.Index(s.GetSelf())
	for _, m := range s.GetMembers() {
		if m.GetIndex() < 1 || m.GetIndex() > mpc.MaxShares || len(m.GetIdentity()) != ed25519.PublicKeySize {
			return nil, terms, refused("malformed session member")
		}
		id := mpc.NodeIdentity(m.GetIdentity())
		index := mpc.Index(m.GetIndex())
		switch pinned, ok := n.pinned(m.GetNodeId()); {
		case index == self && (m.GetNodeId() != n.id || id != n.self()):
			return nil, terms, refused("share %d of the session is not this node's", self)
		case index != self && !ok:
			return nil, terms, fmt.Errorf("%s is %w", m.GetNodeId(), errUnpinned)
		case index != self && pinned != id:
			return nil, terms, refused("%s is pinned on this node with another identity", m.GetNodeId())
		}
		terms.Members = append(terms.Members, session.Member{Index: index, NodeID: m.GetNodeId(), Identity: id})
	}

	var t task
	var err error
	switch s.GetOperation() {
	case opKeygen:
		t, err = n.newKeygen(s, self)
	case opRefresh:
		t, err = n.newRefresh(s, self)
	case opSign:
		t, err = n.newSign(s, self, terms.Members)
	case opPresign:
		t, err = n.newPresign(s, self, terms.Members)
	default:
		err = refused("unknown operation %q", s.GetOperation())
	}
	return t, terms, err
}

// inputsHash covers every field of a Start that all members must agree on:
// everything but whose copy it is (the hello has that), the member's own envelope
// (which its context binds to share and record) and its own release (which opens
// for what the others agree to only).
func inputsHash(mountID [16]byte, s *nodepb.Start) [32]byte {
	h := sha256.New()
	put := func(b []byte) {
		_ = binary.Write(h, binary.BigEndian, uint32(len(b)))
		h.Write(b)
	}
	put([]byte(inputsLabel))
	put(mountID[:])
	put(s.GetAccountId())
	put([]byte(s.GetAlgorithm()))
	put(binary.BigEndian.AppendUint32(nil, s.GetThreshold()))
	put(binary.BigEndian.AppendUint32(nil, s.GetShares()))
	put(s.GetRecipientsHash())
	put(s.GetPolicyHash())
	put(s.GetRecord())
	put(s.GetInput())
	put([]byte(s.GetMessageType()))
	put([]byte(s.GetHashAlgorithm()))
	put([]byte(s.GetDerivationPath()))
	put([]byte(s.GetTaprootTweak()))
	put(s.GetPresignature())
	put(binary.BigEndian.AppendUint64(nil, s.GetLifetimeMs()))
	put(binary.BigEndian.AppendUint32(nil, s.GetWrappingVersion()))
	put(s.GetRecipients())
	put(s.GetOldRecipients())
	put(s.GetCustodyKey())
	for _, m := range s.GetMembers() {
		put(m.GetAuxHash())
	}
	return [32]byte(h.Sum(nil))
}
