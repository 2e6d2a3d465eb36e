package cmp

import (
	"crypto"
	"crypto/ed25519"
	"fmt"

	"vault-plugin-secrets-mpc/mpc"
)

// maxReceipt bounds an encoded receipt in bytes.
const maxReceipt = 768

// Receipt is a node's signed note to itself that it has checked a peer's
// auxiliary keys completely, so that it need not do so again after a restart.
// Nobody else should believe it.
type Receipt struct {
	nodeID    string
	identity  mpc.NodeIdentity
	peer      Owner
	peerHash  [32]byte
	signature [ed25519.SignatureSize]byte
}

func (r *Receipt) signed() fields {
	return newFields(labelReceipt).put([]byte(r.nodeID)).put(r.identity[:]).owner(r.peer).put(r.peerHash[:])
}

// Marshal returns the canonical encoding. Every field is preceded by its length
// (4 bytes, big-endian): label with version, the checking node's ID and identity
// (32 bytes), the peer's mount ID (16), node ID, identity (32) and generation
// (8), the hash of its public keys (32), Ed25519 signature over all of that.
func (r *Receipt) Marshal() []byte { return r.signed().put(r.signature[:]) }

// ParseReceipt reads Marshal's encoding, the canonical form only.
func ParseReceipt(b []byte) (*Receipt, error) {
	in := newReader(b, maxReceipt, labelReceipt)
	r := &Receipt{nodeID: string(in.between(1, maxNodeID))}
	in.fixed(r.identity[:])
	r.peer = in.owner()
	in.fixed(r.peerHash[:])
	in.fixed(r.signature[:])
	if err := in.end(); err != nil {
		return nil, err
	}
	return r, nil
}

// SignReceipt certifies that this node, nodeID with this identity, has checked
// peer. It refuses keys for which Verify and VerifyFactors have not both passed
// in this process.
func SignReceipt(nodeID string, identity crypto.Signer, peer *AuxPublic) (*Receipt, error) {
	public, ok := identity.Public().(ed25519.PublicKey)
	if !ok || len(public) != ed25519.PublicKeySize || len(nodeID) < 1 || len(nodeID) > maxNodeID {
		return nil, fmt.Errorf("receipt: %w: no usable identity", ErrOwner)
	}
	if !peer.verified.Load() || !peer.complete.Load() {
		return nil, fmt.Errorf("receipt for %s: %w", peer.owner.Identity, ErrUnchecked)
	}
	r := &Receipt{nodeID: nodeID, identity: mpc.NodeIdentity(public), peer: peer.owner, peerHash: peer.hash}
	var err error
	r.signature, err = sign(identity, r.identity, r.signed())
	return r, err
}

// VerifyReceipt checks that this node, nodeID with this identity, signed the
// receipt for exactly these keys of exactly this owner, and if so marks them as
// checked completely. The owner is the pinned one.
func VerifyReceipt(r *Receipt, nodeID string, identity mpc.NodeIdentity, peer *AuxPublic, owner Owner) error {
	if r.nodeID != nodeID || r.identity != identity || r.peer != owner || peer.owner != owner || r.peerHash != peer.hash {
		return fmt.Errorf("receipt: %w", ErrOwner)
	}
	if !ed25519.Verify(identity[:], r.signed(), r.signature[:]) {
		return fmt.Errorf("receipt: %w", ErrSignature)
	}
	peer.verified.Store(true)
	peer.complete.Store(true)
	return nil
}
