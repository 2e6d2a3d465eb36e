package node

import (
	"context"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// signTask makes one signature with exactly t signers.
type signTask struct {
	node    *Node
	start   *nodepb.Start
	self    mpc.Index
	account *mpc.PublicRecord
	signers []mpc.Index
	message []byte // what the algorithm signs
	aux     auxInputs
	signer  signer
}

// signer is a party whose result is a signature.
type signer interface {
	mpc.Party
	Result() (*mpc.Signature, error)
}

func (n *Node) newSign(s *nodepb.Start, self mpc.Index) (task, error) {
	record, err := mpc.ParsePublicRecord(s.GetRecord())
	if err != nil {
		return nil, refusedError{err}
	}
	t := &signTask{node: n, start: s, self: self, account: record}
	if len(s.GetMembers()) != record.Threshold {
		return nil, refused("%d signers for a threshold of %d", len(s.GetMembers()), record.Threshold)
	}
	for _, m := range s.GetMembers() {
		if m.GetIndex() > uint32(record.Shares) {
			return nil, refused("share %d does not exist", m.GetIndex())
		}
		t.signers = append(t.signers, mpc.Index(m.GetIndex()))
	}
	t.message, err = mpc.SigningInput(record.Algorithm, mpc.MessageType(s.GetMessageType()),
		mpc.HashAlgorithm(s.GetHashAlgorithm()), s.GetInput())
	if err != nil {
		return nil, err
	}
	if record.Algorithm.NeedsAuxiliaryKeys() {
		if t.aux, err = n.auxInputs(s); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *signTask) party(ctx context.Context, id mpc.SessionID) (mpc.Party, error) {
	share, err := t.node.open(ctx, hsm.ShareContext(uint8(t.self), t.account.Hash()), t.start.GetEnvelope())
	if err != nil {
		return nil, err
	}
	defer share.Wipe()
	if t.signer, err = t.newSigner(share, id); err != nil {
		return nil, err
	}
	return t.signer, nil
}

func (t *signTask) newSigner(share *secret.Bytes, id mpc.SessionID) (signer, error) {
	if t.account.Algorithm == mpc.BIP340Secp256k1 {
		party, err := frost.NewSign(frost.SignConfig{Self: t.self, Signers: t.signers, Record: t.account,
			Share: share, Message: t.message, SessionID: id})
		if err != nil {
			return nil, err
		}
		return party, nil
	}
	return t.aux.newSigner(t, share, id)
}

// confirms is false: a signature proves itself, and every signer checks it.
func (t *signTask) confirms() bool { return false }

func (t *signTask) record(mpc.SessionID) ([32]byte, error) { return t.account.Hash(), nil }

func (t *signTask) outcome(_ context.Context, id mpc.SessionID) (*nodepb.Outcome, error) {
	sig, err := t.signer.Result()
	if err != nil {
		return nil, err
	}
	return &nodepb.Outcome{SessionId: id[:], Signature: sig.Bytes, R: sig.R[:], S: sig.S[:],
		RecoveryId: int32(sig.RecoveryID)}, nil
}

func (t *signTask) wipe() {}
