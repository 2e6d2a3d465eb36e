package nodelink

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// Both proofs are HMAC-SHA256 (RFC 2104) under the token's secret over a label,
// the message without its proof, and the pins of both certificates of the
// connection, so that neither works on another connection or as the other. Each
// field is preceded by its length, 8 bytes big-endian, and so is each list by the
// number of its elements: no two messages have the same bytes.
const (
	labelEnrol  = "vault-mpc enrol request v1"
	labelAnswer = "vault-mpc enrol answer v1"
)

// EnrolProof proves to a node that who calls has its token. coordinator and node
// are the pins of the two certificates.
func EnrolProof(secret []byte, r *nodepb.EnrolRequest, coordinator, node [32]byte) []byte {
	m := newProof(secret, labelEnrol, coordinator, node)
	m.bytes([]byte(r.GetNodeId()))
	m.bytes(r.GetMountId())
	m.bytes(r.GetAuthority())
	m.number(uint64(len(r.GetPeers())))
	for _, p := range r.GetPeers() {
		m.number(uint64(p.GetIndex()))
		m.bytes([]byte(p.GetNodeId()))
		m.bytes(p.GetIdentity())
		m.bytes(p.GetAuxHash())
		m.bytes([]byte(p.GetDomain()))
	}
	return m.sum()
}

// EnrolAnswerProof proves to the coordinator that the answer came from the node
// that made the token.
func EnrolAnswerProof(secret []byte, r *nodepb.EnrolReply, coordinator, node [32]byte) []byte {
	m := newProof(secret, labelAnswer, coordinator, node)
	m.bytes([]byte(r.GetVersion()))
	m.bytes(r.GetIdentity())
	m.bytes([]byte(r.GetDomain()))
	m.bytes([]byte(r.GetRegion()))
	m.bytes([]byte(r.GetZone()))
	return m.sum()
}

// SameProof compares two proofs in constant time.
func SameProof(a, b []byte) bool { return len(a) == sha256.Size && hmac.Equal(a, b) }

type proof struct{ h hash.Hash }

func newProof(secret []byte, label string, coordinator, node [32]byte) proof {
	m := proof{hmac.New(sha256.New, secret)}
	m.bytes([]byte(label))
	m.bytes(coordinator[:])
	m.bytes(node[:])
	return m
}

func (m proof) bytes(b []byte) {
	m.number(uint64(len(b)))
	m.h.Write(b)
}

func (m proof) number(n uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	m.h.Write(b[:])
}

func (m proof) sum() []byte { return m.h.Sum(nil) }
