package custody

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc"
)

const labelOffer = "vault-plugin-secrets-mpc custody offer v1"

// OfferLifetime is how long a node keeps the key of an offer.
const OfferLifetime = 2 * time.Minute

// ErrOffer says that an offer is not what it should be: not the node's, for
// another purpose, or too old. Nothing was released; begin again.
var ErrOffer = errors.New("custody: the node's offer is refused")

// ReleaseID names an offer on its node. It is random.
type ReleaseID [16]byte

// Offer is a node's word that k₂ of one share, sealed to PublicKey, will be used
// for one purpose, at most once and before Expires.
type Offer struct {
	ReleaseID ReleaseID
	Index     mpc.Index
	Node      mpc.NodeIdentity
	PublicKey []byte    // X25519, 32 bytes, used for this alone
	Expires   time.Time // to the millisecond
	Signature []byte    // Ed25519 by Node, 64 bytes
}

// message is what a node signs: fields(label, purpose, release ID, index as 1
// byte, node identity, public key, expiry as Unix milliseconds in 8 bytes
// big-endian).
func (o Offer) message(purpose [32]byte) []byte {
	return fields([]byte(labelOffer), purpose[:], o.ReleaseID[:], []byte{byte(o.Index)}, o.Node[:], o.PublicKey,
		binary.BigEndian.AppendUint64(nil, uint64(o.Expires.UnixMilli())))
}

// SignOffer signs o with a node's identity key, which is that of o.Node.
func SignOffer(identity ed25519.PrivateKey, purpose [32]byte, o *Offer) {
	o.Signature = ed25519.Sign(identity, o.message(purpose))
}

// Verify reports whether o is a usable offer of o.Node for that purpose. Whether
// o.Node is a node that one trusts is for the caller to know.
func (o Offer) Verify(purpose [32]byte, now time.Time) bool { return o.check(purpose, now) == nil }

func (o Offer) check(purpose [32]byte, now time.Time) error {
	if err := o.checkSignature(purpose); err != nil {
		return err
	}
	if !now.Before(o.Expires) {
		return fmt.Errorf("%w: share %d: it was good until %s and it is %s: begin again, and check the clocks of both sides", ErrOffer,
			o.Index, o.Expires.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

func (o Offer) checkSignature(purpose [32]byte) error {
	switch {
	case o.Index < 1 || o.Index > mpc.MaxShares:
		return fmt.Errorf("%w: it is for share %d", ErrOffer, o.Index)
	case len(o.Signature) != ed25519.SignatureSize || !ed25519.Verify(o.Node[:], o.message(purpose), o.Signature):
		return fmt.Errorf("%w: share %d: it is not signed by node %s for this purpose", ErrOffer, o.Index, o.Node)
	}
	if _, err := ecdh.X25519().NewPublicKey(o.PublicKey); err != nil {
		return fmt.Errorf("%w: share %d: its key cannot be used", ErrOffer, o.Index)
	}
	return nil
}
