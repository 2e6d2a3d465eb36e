package node

import (
	"context"
	"errors"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// Status reports what operators see. It answers at once: it makes no token call
// and reports how the last one went.
func (n *Node) Status(context.Context, *nodepb.StatusRequest) (*nodepb.StatusReply, error) {
	reply := &nodepb.StatusReply{Sessions: uint32(len(n.sessions)), Hsm: "ok", Presignatures: uint32(n.stock.size()),
		Draining: n.draining.Load(), TimeUnixMs: time.Now().UnixMilli()}
	if err := n.ready(); err != nil {
		reply.Hsm = err.Error()
		return reply, nil
	}
	if err := n.hsm.Load(); err != nil {
		reply.Hsm = (*err).Error()
		reply.PinRefused = errors.Is(*err, pkcs11.ErrPINIncorrect) || errors.Is(*err, pkcs11.ErrPINLocked)
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	reply.AuxGeneration, reply.AuxProgress = n.aux.status()
	return reply, nil
}

// OpenShare opens a stored share and checks it against the public record. The
// share is wiped at once.
func (n *Node) OpenShare(ctx context.Context, r *nodepb.OpenShareRequest) (*nodepb.OpenShareReply, error) {
	if err := n.checkStored(ctx, r); err != nil {
		return &nodepb.OpenShareReply{Failure: n.failed("OpenShare", err)}, nil
	}
	return &nodepb.OpenShareReply{}, nil
}

func (n *Node) checkStored(ctx context.Context, r *nodepb.OpenShareRequest) error {
	if err := n.ready(); err != nil {
		return err
	}
	record, err := mpc.ParsePublicRecord(r.GetRecord())
	if err != nil {
		return refusedError{err}
	}
	if r.GetIndex() < 1 || int(r.GetIndex()) > record.Shares {
		return refused("share %d does not exist", r.GetIndex())
	}
	if err := noCustody(record, "a stored share can only be opened in an operation that the owner takes part in"); err != nil {
		return err
	}
	// A look at shares that may never come into force: the floor stays.
	if err := n.admit(opOpen, record); err != nil {
		return err
	}
	share, err := n.open(ctx, hsm.ShareContext(uint8(r.GetIndex()), record.Hash()), r.GetEnvelope())
	if err != nil {
		return err
	}
	defer share.Wipe()
	return frost.CheckShare(record, mpc.Index(r.GetIndex()), share)
}
