package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/recovery"
)

// Import has n nodes make one share each. They compute the public record on
// their own, and it is taken only if all of them arrive at the same.
func (p *Pool) Import(ctx context.Context, r ImportRequest) (*KeyResult, error) {
	deals := make([]*recovery.Deal, len(r.Deals))
	for k, b := range r.Deals {
		var err error
		if deals[k], err = recovery.ParseDeal(b); err != nil {
			return nil, fmt.Errorf("deal %d: %w", k+1, err)
		}
	}
	hash := mpc.EmptySetHash()
	if len(r.Recipients) > 0 {
		set, err := recovery.ParseSignedSet(r.Recipients)
		if err != nil {
			return nil, err
		}
		hash = set.Hash()
	}
	// The nodes decide; this finds mistakes before any of them is asked.
	record, err := recovery.NewRecord(&r.Old, r.Target, hash, deals)
	if err != nil {
		return nil, err
	}
	settings, _ := p.currentSettings()
	homes := func([]candidate) (siting, mpc.Guarantee) { return siting{}, mpc.Guarantee{} }
	if settings.spreads() {
		domain, err := dealtTo(deals)
		if err != nil {
			return nil, &RefusedError{err.Error()}
		}
		domains := []string{domain}
		if all := settings.nodesIn(domains); all < record.Shares {
			return nil, &TooFewNodesError{Ready: all, Needed: record.Shares, Configured: all, Domains: domains}
		}
		p.awaitStarting(ctx)
		homes = planner(record.Threshold, record.Shares, domains, r.Exposures)
	}
	nodes, version, err := p.holders(ctx, RewrapRequest{
		Account: mpc.Account{Record: *record, Exposures: r.Exposures},
		Expose:  r.Expose,
	}, homes)
	if err != nil {
		return nil, err
	}
	result := &KeyResult{Account: mpc.Account{Record: *record, Exposures: mpc.Exposures{}}, WrappingVersion: version}
	maps.Copy(result.Account.Exposures, r.Exposures) // nodes of earlier attempts have seen shares of this epoch
	for k, node := range nodes {
		i := mpc.Index(k + 1)
		share, err := p.importShare(ctx, r, node, i, version, deals)
		if err != nil {
			return nil, fmt.Errorf("share %d on %s: %w", i, node.id, err)
		}
		c, _ := node.candidate()
		if !bytes.Equal(share.GetRecord(), record.Marshal()) || !mpc.VerifyEndorsement(c.identity, record, share.GetEndorsement()) {
			return nil, fmt.Errorf("%s arrived at another public record", node.id)
		}
		if err := sealedTo(share.GetEnvelope(), node.domain, version); err != nil {
			return nil, fmt.Errorf("share %d on %s: %w", i, node.id, err)
		}
		if settings.spreads() {
			result.Account.Homes = append(result.Account.Homes, mpc.Home{Domain: c.domain, Region: c.region})
		}
		result.Account.Shares = append(result.Account.Shares, mpc.WrappedShare{Index: i, Envelope: share.GetEnvelope()})
		result.Account.Exposures[c.identity] = i
		result.Certificate = append(result.Certificate, Endorsement{NodeID: node.id, Identity: c.identity, Signature: share.GetEndorsement()})
	}
	copy(result.SessionID[:], r.Target[:])
	return result, nil
}

// dealtTo is the wrapping domain whose nodes open the sub-shares: custodians deal to
// one key, that of the target. The shares are made there, and may move from there.
func dealtTo(deals []*recovery.Deal) (string, error) {
	var domain string
	for _, d := range deals {
		for _, sealed := range d.Sealed {
			if len(sealed) == 0 {
				continue
			}
			if at := recovery.WrappingDomain(sealed); at == "" || domain != "" && at != domain {
				return "", fmt.Errorf("the deals are not sealed to one wrapping domain: %q and %q", domain, at)
			} else {
				domain = at
			}
		}
	}
	if domain == "" {
		return "", errors.New("the deals hold no sub-shares")
	}
	return domain, nil
}

// importShare has a node make share i. The node is handed the sub-shares for
// this share only: one that had those of t shares had the key.
func (p *Pool) importShare(ctx context.Context, r ImportRequest, n *poolNode, i mpc.Index, version uint32, deals []*recovery.Deal) (*nodepb.ImportShareReply, error) {
	client := n.client()
	if client == nil {
		return nil, ErrNodeGone
	}
	request := &nodepb.ImportShareRequest{OldRecord: r.Old.Marshal(), Index: uint32(i), Target: r.Target[:],
		Recipients: r.Recipients, WrappingVersion: version}
	for _, d := range deals {
		only, err := d.For(i)
		if err != nil {
			return nil, err
		}
		b, err := only.Marshal()
		if err != nil {
			return nil, err
		}
		request.Deals = append(request.Deals, b)
	}
	reply, err := client.ImportShare(ctx, request)
	if err != nil {
		return nil, err
	}
	if f := reply.GetFailure(); f.GetReason() == nodepb.Failure_REFUSED {
		return nil, &RefusedError{failureText(f)}
	}
	if err := fromFailure(reply.GetFailure()); err != nil {
		return nil, err
	}
	if len(reply.GetEnvelope()) == 0 {
		return nil, errors.New("the node returned no share")
	}
	return reply, nil
}
