package custody

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc"
)

// Approval is what an owner's client needs to take part in one operation. The
// client fills Purpose from what its user asked for and Pinned from what it
// remembers; the rest may come from the coordinator.
//
// The client also knows which account it wants: it has compared the record's
// account ID and public key with its own notes before.
type Approval struct {
	Purpose Purpose
	Record  *mpc.PublicRecord
	// Offers has one for each of the purpose's signers, in any order.
	Offers []Offer
	// Envelopes are the wrapped shares of the signers.
	Envelopes map[mpc.Index][]byte
	// Pinned reports whether a node is one of those that this client trusts. Nil
	// trusts none.
	Pinned func(mpc.NodeIdentity) bool
	Now    time.Time
}

// Release checks everything and returns one release for each signer, or nothing.
// Errors: those of Purpose.Check and Release; ErrUnpinned.
func (a Approval) Release(key *ecdh.PrivateKey) (map[mpc.Index][]byte, error) {
	if a.Record == nil {
		return nil, errors.New("custody: no public record")
	}
	if err := a.Purpose.Check(a.Record); err != nil {
		return nil, err
	}
	if err := owns(key, a.Record); err != nil {
		return nil, err
	}
	if err := a.checkOffers(); err != nil {
		return nil, err
	}
	releases := map[mpc.Index][]byte{}
	for _, o := range a.Offers {
		release, err := Release(o, a.Purpose.Hash(), a.Record, a.Envelopes[o.Index], key)
		if err != nil {
			return nil, err
		}
		releases[o.Index] = release
	}
	return releases, nil
}

// ErrUnpinned says that a node of the operation is not one that this client
// trusts. Nothing was released.
var ErrUnpinned = errors.New("custody: a node is not one that this client trusts")

func (a Approval) checkOffers() error {
	signers := map[mpc.Index]mpc.NodeIdentity{}
	for _, s := range a.Purpose.Signers {
		if a.Pinned == nil || !a.Pinned(s.Node) {
			return fmt.Errorf("%w: node %s, which is to use share %d", ErrUnpinned, s.Node, s.Index)
		}
		signers[s.Index] = s.Node
	}
	if len(a.Offers) != len(signers) {
		return fmt.Errorf("%w: %d offers for %d nodes", ErrOffer, len(a.Offers), len(signers))
	}
	purpose := a.Purpose.Hash()
	for _, o := range a.Offers {
		node, ok := signers[o.Index]
		if !ok || node != o.Node {
			return fmt.Errorf("%w: share %d is not node %s's in this operation, or was offered twice", ErrOffer, o.Index, o.Node)
		}
		delete(signers, o.Index)
		if err := o.check(purpose, a.Now); err != nil {
			return err
		}
	}
	return nil
}
