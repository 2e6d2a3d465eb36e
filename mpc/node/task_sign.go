package node

import (
	"context"
	"errors"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/session"
	"vault-plugin-secrets-mpc/secret"
)

// signTask makes one signature with exactly t signers.
type signTask struct {
	node    *Node
	start   *nodepb.Start
	self    mpc.Index
	account *mpc.PublicRecord
	child   *derive.Child // whose key signs; mostly the account's own
	signers []mpc.Index
	message []byte // what the algorithm signs
	aux     auxInputs
	k2      *secret.Bytes // the owner's part, nil without user custody
	opening *opening
	signer  frost.Signer
}

// signerSet reads the record of a Start and its members, exactly t of them.
func signerSet(s *nodepb.Start) (*mpc.PublicRecord, []mpc.Index, error) {
	record, err := mpc.ParsePublicRecord(s.GetRecord())
	if err != nil {
		return nil, nil, refusedError{err}
	}
	if len(s.GetMembers()) != record.Threshold {
		return nil, nil, refused("%d signers for a threshold of %d", len(s.GetMembers()), record.Threshold)
	}
	var signers []mpc.Index
	for _, m := range s.GetMembers() {
		if m.GetIndex() > uint32(record.Shares) {
			return nil, nil, refused("share %d does not exist", m.GetIndex())
		}
		signers = append(signers, mpc.Index(m.GetIndex()))
	}
	return record, signers, nil
}

func (n *Node) newSign(s *nodepb.Start, self mpc.Index, members []session.Member) (task, error) {
	if len(s.GetPresignature()) > 0 {
		return n.newOnline(s, self, members)
	}
	record, signers, err := signerSet(s)
	if err != nil {
		return nil, err
	}
	if err := n.admit(opSign, record); err != nil {
		return nil, err
	}
	if err := n.approvedSign(s, record); err != nil {
		return nil, err
	}
	t := &signTask{node: n, start: s, self: self, account: record, signers: signers}
	t.child, err = derive.Derive(record, mpc.Derivation{Path: s.GetDerivationPath(), TaprootTweak: s.GetTaprootTweak()})
	if err != nil {
		return nil, err
	}
	t.message, err = mpc.SigningInput(record.Algorithm, mpc.MessageType(s.GetMessageType()),
		mpc.HashAlgorithm(s.GetHashAlgorithm()), s.GetInput())
	if err != nil {
		return nil, err
	}
	if record.Algorithm.NeedsAuxiliaryKeys() {
		if t.aux, err = n.auxInputs(s, record.Algorithm); err != nil {
			return nil, err
		}
	}
	if len(s.GetCustodyKey()) > 0 {
		err = refused("a signature changes no custody key")
	} else {
		t.k2, err = n.released(s, self, record)
	}
	if err != nil {
		t.aux.release()
		return nil, err
	}
	return t, nil
}

func (t *signTask) begin(ctx context.Context) {
	t.opening = t.node.openSoon(ctx, hsm.ShareContext(uint8(t.self), t.account.Hash()), t.start.GetEnvelope(), t.k2)
}

func (t *signTask) party(ctx context.Context, id mpc.SessionID) (mpc.Party, error) {
	share, err := t.opening.wait()
	if err != nil {
		return nil, err
	}
	if err := t.node.inForce(ctx, t.account, t.self, share); err != nil {
		return nil, err
	}
	record := t.account
	if !t.child.Own() {
		if err := frost.CheckShare(record, t.self, share); err != nil {
			return nil, err
		}
		if record, err = t.child.Record(record); err != nil {
			return nil, err
		}
		if share, err = t.child.Share(share); err != nil {
			return nil, err
		}
		defer share.Wipe()
	}
	if t.signer, err = t.newSigner(record, share, id); err != nil {
		return nil, err
	}
	return t.signer, nil
}

// newSigner checks the share against record once more: for a child, record and
// share have been moved by the same map.
func (t *signTask) newSigner(record *mpc.PublicRecord, share *secret.Bytes, id mpc.SessionID) (frost.Signer, error) {
	if !record.Algorithm.IsECDSA() {
		return frost.NewSign(frost.SignConfig{Self: t.self, Signers: t.signers, Record: record,
			Share: share, Message: t.message, SessionID: id, OpenedUnder: t.account.Hash()})
	}
	if len(t.message) != mpc.DigestSize {
		return nil, errors.New("ECDSA signs 32 bytes")
	}
	party, err := cmp.NewSign(cmp.SignConfig{Self: t.self, Signers: t.signers, Record: record, Share: share,
		Aux: t.aux.public, Secret: t.aux.secret, Digest: [mpc.DigestSize]byte(t.message), SessionID: id})
	if err != nil {
		return nil, err
	}
	return party, nil
}

func (t *signTask) background() bool { return false }

// confirms is false: a signature proves itself, and every signer checks it.
func (t *signTask) confirms() bool { return false }

func (t *signTask) record(mpc.SessionID) ([32]byte, error) { return t.account.Hash(), nil }

func (t *signTask) outcome(_ context.Context, id mpc.SessionID) (*nodepb.Outcome, error) {
	sig, err := t.signer.Result()
	if err != nil {
		return nil, err
	}
	return signatureOutcome(id, sig), nil
}

func signatureOutcome(id mpc.SessionID, sig *mpc.Signature) *nodepb.Outcome {
	return &nodepb.Outcome{SessionId: id[:], Signature: sig.Bytes, R: sig.R[:], S: sig.S[:],
		RecoveryId: int32(sig.RecoveryID)}
}

func (t *signTask) wipe() {
	t.opening.discard()
	t.k2.Wipe()
	t.aux.release()
}
