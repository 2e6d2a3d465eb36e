package node

import (
	"context"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
)

// onlineTask finishes one signature from a presignature. It asks the token for
// nothing: the share went into the presignature.
type onlineTask struct {
	node    *Node
	account *mpc.PublicRecord
	signers []mpc.Index
	digest  [mpc.DigestSize]byte
	from    *presignature
	online  *cmp.OnlineParty
}

// newOnline takes the presignature out of the stock before it looks at anything
// else: what was offered once is never offered again. Whoever knows the nonce
// point could turn a digest of his choice, or a child key, into a signature on
// a message that was never asked for, so neither is allowed here.
func (n *Node) newOnline(s *nodepb.Start, self mpc.Index, members []session.Member) (_ task, err error) {
	var id mpc.SessionID
	if len(s.GetPresignature()) != len(id) {
		return nil, refused("malformed presignature ID")
	}
	copy(id[:], s.GetPresignature())
	from, err := n.stock.take(id)
	if err != nil {
		return nil, err
	}
	kept := false
	defer func() { // after a panic too
		if !kept {
			from.secret.Wipe()
		}
	}()
	record, signers, err := signerSet(s)
	if err != nil {
		return nil, err
	}
	if err := n.admit(opSign, record); err != nil {
		return nil, err
	}
	if err := noCustody(record, "no presignature can be used"); err != nil {
		return nil, err
	}
	kind := mpc.MessageType(s.GetMessageType())
	switch {
	case !kind.HashedByNodes():
		return nil, refused("a presignature serves messages that nodes hash themselves, not digests")
	case s.GetDerivationPath() != "" || s.GetTaprootTweak() != "":
		return nil, refused("a presignature serves the account's own key, not its children")
	case len(s.GetEnvelope()) > 0:
		return nil, refused("a signature from a presignature needs no share")
	case record.AccountID != from.account || self != from.self || !slices.Equal(members, from.members):
		return nil, refused("the presignature was made for another account or set of nodes")
	case record.Hash() != from.record:
		return nil, fmt.Errorf("%w: it was made for another epoch or policy of the account", errPresignatureGone)
	}
	// That the presignature was made for a record that names a policy lets nobody use
	// it: approvals are for a message, and this is the first that is seen of one.
	if err := n.approvedSign(s, record); err != nil {
		return nil, err
	}
	message, err := mpc.SigningInput(record.Algorithm, kind, mpc.HashAlgorithm(s.GetHashAlgorithm()), s.GetInput())
	if err != nil {
		return nil, err
	}
	if len(message) != mpc.DigestSize {
		return nil, refused("ECDSA signs %d bytes", mpc.DigestSize)
	}
	kept = true
	return &onlineTask{node: n, account: record, signers: signers, digest: [mpc.DigestSize]byte(message), from: from}, nil
}

func (t *onlineTask) begin(context.Context) {}

func (t *onlineTask) party(ctx context.Context, id mpc.SessionID) (_ mpc.Party, err error) {
	// The presignature is of this very record, whose share was opened for it. The
	// account may have gone on since.
	if err := t.node.raiseFloor(ctx, t.account); err != nil {
		return nil, err
	}
	t.online, err = cmp.NewOnline(cmp.OnlineConfig{Self: t.from.self, Signers: t.signers, Record: t.account,
		Presignature: t.from.secret, Digest: t.digest, SessionID: id})
	if err != nil {
		return nil, err
	}
	return t.online, nil
}

func (t *onlineTask) background() bool { return false }

// confirms is false: a signature proves itself.
func (t *onlineTask) confirms() bool { return false }

func (t *onlineTask) record(mpc.SessionID) ([32]byte, error) { return t.account.Hash(), nil }

func (t *onlineTask) outcome(_ context.Context, id mpc.SessionID) (*nodepb.Outcome, error) {
	sig, err := t.online.Result()
	if err != nil {
		return nil, err
	}
	return signatureOutcome(id, sig), nil
}

func (t *onlineTask) wipe() { t.from.secret.Wipe() }
