package node

import (
	"context"
	"crypto/sha256"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
)

// presignTask makes one presignature with exactly t signers and keeps this
// node's part of it.
type presignTask struct {
	node     *Node
	start    *nodepb.Start
	self     mpc.Index
	account  *mpc.PublicRecord
	signers  []mpc.Index
	members  []session.Member
	lifetime time.Duration
	aux      auxInputs
	place    *place // in the stock
	opening  *opening
	presign  *cmp.PresignParty
	made     *cmp.Presignature // nil before, and once the stock has it
}

func (n *Node) newPresign(s *nodepb.Start, self mpc.Index, members []session.Member) (_ task, err error) {
	record, signers, err := signerSet(s)
	if err != nil {
		return nil, err
	}
	switch {
	case !record.Algorithm.IsECDSA():
		return nil, refused("%s has no presignatures", record.Algorithm)
	case s.GetLifetimeMs() == 0 || s.GetLifetimeMs() > uint64(maxPresignatureLifetime/time.Millisecond):
		return nil, refused("a presignature lives up to %v, not %d ms", maxPresignatureLifetime, s.GetLifetimeMs())
	case len(s.GetInput()) > 0 || len(s.GetPresignature()) > 0 || s.GetDerivationPath() != "" || s.GetTaprootTweak() != "":
		return nil, refused("a presignature is made for no message and no child key")
	}
	// Nobody approves what has no message yet: they are asked when it is used.
	if err := noPolicyFields(s, "a presignature"); err != nil {
		return nil, err
	}
	if err := n.admit(opPresign, record); err != nil {
		return nil, err
	}
	// Its owner agrees to each message, so nothing can be made ahead.
	if err := noCustody(record, "no presignature can be made"); err != nil {
		return nil, err
	}
	t := &presignTask{node: n, start: s, self: self, account: record, signers: signers, members: members,
		lifetime: time.Duration(s.GetLifetimeMs()) * time.Millisecond}
	if t.aux, err = n.auxInputs(s, record.Algorithm); err != nil {
		return nil, err
	}
	if t.place, err = n.stock.reserve(record.AccountID); err != nil {
		t.aux.release()
		return nil, err
	}
	return t, nil
}

func (t *presignTask) begin(ctx context.Context) {
	t.opening = t.node.openSoon(ctx, hsm.ShareContext(uint8(t.self), t.account.Hash()), t.start.GetEnvelope(), nil)
}

func (t *presignTask) party(ctx context.Context, id mpc.SessionID) (mpc.Party, error) {
	share, err := t.opening.wait()
	if err != nil {
		return nil, err
	}
	if err := t.node.inForce(ctx, t.account, t.self, share); err != nil {
		return nil, err
	}
	t.presign, err = cmp.NewPresign(cmp.PresignConfig{Self: t.self, Signers: t.signers, Record: t.account, Share: share,
		Aux: t.aux.public, Secret: t.aux.secret, SessionID: id})
	if err != nil {
		return nil, err
	}
	return t.presign, nil
}

// background: it takes seconds of CPU that signatures in progress need more.
func (t *presignTask) background() bool { return true }

// confirms is true: a presignature counts when every member has its part.
func (t *presignTask) confirms() bool { return true }

const presignatureLabel = "vault-plugin-secrets-mpc presignature v1"

func (t *presignTask) record(id mpc.SessionID) ([32]byte, error) {
	made, err := t.presign.Result()
	if err != nil {
		return [32]byte{}, err
	}
	t.made = made
	public := made.Public()
	h := sha256.New()
	h.Write([]byte(presignatureLabel))
	h.Write(id[:])
	h.Write(public[:])
	return [32]byte(h.Sum(nil)), nil
}

func (t *presignTask) outcome(_ context.Context, id mpc.SessionID) (*nodepb.Outcome, error) {
	err := t.node.stock.put(t.place, id, &presignature{account: t.account.AccountID, record: t.account.Hash(), self: t.self,
		members: t.members, expires: time.Now().Add(t.lifetime), secret: t.made})
	if err != nil {
		return nil, err
	}
	t.made = nil // the stock's now
	return &nodepb.Outcome{SessionId: id[:]}, nil
}

func (t *presignTask) wipe() {
	t.opening.discard()
	t.aux.release()
	t.node.stock.leave(t.place)
	if t.made != nil {
		t.made.Wipe()
	}
}
