package node

import (
	"context"
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

// knownOperation is operation, or empty for one that this node does not know.
func knownOperation(operation string) string {
	switch operation {
	case opKeygen, opRefresh, opSign, opPresign:
		return operation
	}
	return ""
}

const inputsLabel = "vault-plugin-secrets-mpc session inputs v6"

// prepare checks a Start against what this node has pinned and returns the
// operation and the terms that all members will sign.
func (n *Node) prepare(ctx context.Context, s *nodepb.Start) (task, session.Terms, error) {
	terms := session.Terms{Operation: s.GetOperation(), Inputs: inputsHash(n.mountID, s)}
	if s.GetSelf() < 1 || s.GetSelf() > mpc.MaxShares {
		return nil, terms, refused("share index %d is out of bounds", s.GetSelf())
	}
	if n.cfg.Host != nil && len(n.keys.all()) == 0 {
		return nil, terms, fmt.Errorf("wrapping domain %q: %w; this node takes part in nothing before it has one", n.keys.own(), errNoKey)
	}
	if len(s.GetMembers()) > mpc.MaxShares {
		return nil, terms, refused("%d members, more than the %d that a session can have", len(s.GetMembers()), mpc.MaxShares)
	}
	self := mpc.Index(s.GetSelf())
	if n.cfg.Host != nil && n.authority != nil && len(s.GetRecipients()) > 0 {
		// It may name members that this node has not heard of yet.
		if _, _, err := n.signedSet(s.GetRecipients()); err != nil {
			return nil, terms, err
		}
	}
	for _, m := range s.GetMembers() {
		if m.GetIndex() < 1 || m.GetIndex() > mpc.MaxShares || len(m.GetIdentity()) != ed25519.PublicKeySize {
			return nil, terms, refused("malformed session member")
		}
		id := mpc.NodeIdentity(m.GetIdentity())
		index := mpc.Index(m.GetIndex())
		if index == self {
			if m.GetNodeId() != n.id || id != n.self() {
				return nil, terms, refused("share %d of the session is not this node's", self)
			}
		} else if err := n.checkMember(m.GetNodeId(), id); err != nil {
			return nil, terms, err
		}
		terms.Members = append(terms.Members, session.Member{Index: index, NodeID: m.GetNodeId(), Identity: id})
	}

	var t task
	var err error
	switch s.GetOperation() {
	case opKeygen:
		t, err = n.newKeygen(ctx, s, self)
	case opRefresh:
		t, err = n.newRefresh(ctx, s, self)
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
// (which its context binds to share and record), its own release (which opens
// for what the others agree to only) and the keys of other domains (for which
// their nodes vouch).
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
	put(s.GetPolicy())
	put(s.GetApprovals())
	put(s.GetNextPolicy())
	for _, m := range s.GetMembers() {
		put(m.GetAuxHash())
		put([]byte(m.GetDomain()))
	}
	return [32]byte(h.Sum(nil))
}
