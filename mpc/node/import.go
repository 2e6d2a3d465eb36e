package node

import (
	"context"
	"errors"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/frost"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// ImportShare makes one share of an account's new epoch out of sub-shares that
// recovery custodians have sealed to this token. Every node computes the same
// new public record from the custodians' commitments and the account's last
// known one, so a custodian or coordinator that changes anything is found out
// here: the key stays, or the import fails. So does the policy: the new record names
// that of the old one, and what was dealt opens for no old record with another
// (recovery.DealContext).
func (n *Node) ImportShare(ctx context.Context, r *nodepb.ImportShareRequest) (*nodepb.ImportShareReply, error) {
	reply, err := n.importShare(ctx, r)
	if err != nil {
		return &nodepb.ImportShareReply{Failure: n.failed("ImportShare", err)}, nil
	}
	return reply, nil
}

func (n *Node) importShare(ctx context.Context, r *nodepb.ImportShareRequest) (*nodepb.ImportShareReply, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	old, err := mpc.ParsePublicRecord(r.GetOldRecord())
	if err != nil {
		return nil, refusedError{err}
	}
	if r.GetIndex() < 1 || int(r.GetIndex()) > old.Shares || len(r.GetTarget()) != 32 || len(r.GetDeals()) > mpc.MaxShares {
		return nil, refused("malformed import request")
	}
	// A custodian's copy of such a share lacks the owner's key too, so nobody can
	// have dealt one.
	if err := noCustody(old, "an account with user custody cannot be rebuilt by recovery custodians"); err != nil {
		return nil, err
	}
	index, target := mpc.Index(r.GetIndex()), [32]byte(r.GetTarget())
	hash := mpc.EmptySetHash()
	var set *recovery.RecipientSet
	if len(r.GetRecipients()) > 0 {
		if set, hash, err = n.signedSet(r.GetRecipients()); err != nil {
			return nil, err
		}
		if err := n.setInForce(set); err != nil {
			return nil, err
		}
	}
	seals, err := n.sealTo(ctx, destination{version: r.GetWrappingVersion(), set: set, index: index, shares: old.Shares})
	if err != nil {
		return nil, err
	}
	var deals []*recovery.Deal
	for _, b := range r.GetDeals() {
		deal, err := recovery.ParseDeal(b)
		if err != nil {
			return nil, refusedError{err}
		}
		deals = append(deals, deal)
	}
	record, err := recovery.NewRecord(old, target, hash, deals)
	if err != nil {
		return nil, refusedError{err}
	}
	if err := n.admit(opImport, record); err != nil {
		return nil, err
	}
	// Whoever opens the share later relies on this check (frost.SignConfig).
	if err := frost.CheckRecord(record); err != nil {
		return nil, refusedError{err}
	}
	share, err := recovery.CombineShare(old, record, target, deals, index, func(d *recovery.Deal) (*secret.Bytes, error) {
		return n.open(ctx, recovery.DealContext(old, target, d.Dealer, index), d.Sealed[index-1])
	})
	var dealer *frost.DealerError
	if errors.As(err, &dealer) || errors.Is(err, hsm.ErrOpen) || errors.Is(err, hsm.ErrEnvelope) {
		return nil, refusedError{err} // it names the dealer
	}
	if err != nil {
		return nil, err
	}
	defer share.Wipe()
	envelope, err := n.wrapShare(ctx, hsm.ShareContext(uint8(index), record.Hash()), share, seals, nil)
	if err != nil {
		return nil, err
	}
	return &nodepb.ImportShareReply{Record: record.Marshal(), Envelope: envelope, Endorsement: mpc.Endorse(n.identity, record)}, nil
}
