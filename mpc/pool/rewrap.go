package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// Rewrap has each share resealed by a node that may open it. Nothing is stored.
func (p *Pool) Rewrap(ctx context.Context, r RewrapRequest) (*RewrapResult, error) {
	record := r.Account.Record.Marshal()
	if len(r.Account.Shares) != r.Account.Record.Shares {
		return nil, errIncompleteShares
	}
	where := sitingOf(&r.Account)
	nodes, version, err := p.holders(ctx, r, func([]candidate) (siting, mpc.Guarantee) { return where, mpc.Guarantee{} })
	if err != nil {
		return nil, err
	}
	result := &RewrapResult{WrappingVersion: version}
	for k, share := range r.Account.Shares {
		n := nodes[k]
		client := n.client()
		if client == nil {
			return nil, fmt.Errorf("%s: %w", n.id, ErrNodeGone)
		}
		reply, err := client.RewrapShare(ctx, &nodepb.RewrapShareRequest{
			Record: record, Index: uint32(share.Index), Envelope: share.Envelope,
			WrappingVersion: version, Recipients: r.Recipients,
		})
		if err == nil {
			err = fromFailure(reply.GetFailure())
		}
		if err == nil {
			err = sealedTo(reply.GetEnvelope(), n.domain, version)
		}
		if err != nil {
			return nil, fmt.Errorf("share %d on %s: %w", share.Index, n.id, err)
		}
		result.Shares = append(result.Shares, mpc.WrappedShare{Index: share.Index, Envelope: reply.GetEnvelope()})
	}
	return result, nil
}

// holders chooses a ready node for each share, by the placement rule and by where
// the shares live, and the version of the wrapping key that all of them have. It
// waits until that is possible.
func (p *Pool) holders(ctx context.Context, r RewrapRequest, where func([]candidate) (siting, mpc.Guarantee)) ([]*poolNode, uint32, error) {
	n := r.Account.Record.Shares
	j := &job{pool: p, operation: "rewrap", n: n, count: n, seen: r.Account.Exposures, noSpares: r.Account.NoSpares}
	for {
		candidates, configured, changed, err := p.candidates()
		if err != nil {
			return nil, 0, err
		}
		spares := n
		if r.Account.NoSpares {
			spares = 0
		}
		j.where, _ = where(candidates)
		rule, _ := j.rule(candidates, nil)
		if _, chosen := rule.fewestSpares(candidates, spares); chosen != nil {
			return p.exposeHolders(ctx, r, chosen)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, j.fail(j.explain(candidates, configured))
		}
	}
}

func (p *Pool) exposeHolders(ctx context.Context, r RewrapRequest, chosen []assignment) ([]*poolNode, uint32, error) {
	added := mpc.Exposures{}
	var nodes []*poolNode
	var members []*nodepb.Member
	for _, a := range chosen {
		node := p.node(a.node.id)
		if node == nil {
			return nil, 0, fmt.Errorf("%s: %w", a.node.id, ErrNodeGone)
		}
		nodes, members = append(nodes, node), append(members, &nodepb.Member{NodeId: a.node.id})
		if a.spare {
			added[a.node.identity] = a.index
		}
	}
	if len(added) > 0 {
		if r.Expose == nil {
			return nil, 0, errors.New("pool: a rewrap that needs spares, without a way to store them")
		}
		if err := r.Expose(ctx, added); err != nil {
			return nil, 0, fmt.Errorf("storing which node sees which share: %w", err)
		}
	}
	version := p.sealingVersion(members)
	if version == 0 {
		return nil, 0, fmt.Errorf("%w: a node has none yet", ErrWrappingKey)
	}
	return nodes, version, nil
}

// sealedTo checks what anyone can see of an envelope.
func sealedTo(envelope []byte, domain string, version uint32) error {
	seals, err := hsm.Seals(envelope)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(seals, func(s hsm.SealedKey) bool { return s.Domain == domain && s.Version == version }) {
		return fmt.Errorf("it is not sealed to version %d of the wrapping key of %q", version, domain)
	}
	return nil
}

// RewrapNodeKeys has the named node reseal its own keys to the newest version of
// its domain's wrapping key, and stores them. A node on another host keeps its
// identity itself and reseals its auxiliary keys. For a local node that has left
// the pool a process is started for this alone.
func (p *Pool) RewrapNodeKeys(ctx context.Context, nodeID string) error {
	settings, ok := p.currentSettings()
	if !ok {
		return ErrNotConfigured
	}
	if n := p.node(nodeID); n != nil {
		client := n.client()
		if client == nil {
			return fmt.Errorf("%s is not running: %w", n.described(), ErrNodeGone)
		}
		return p.rewrapKeys(ctx, client, nodeID, n.remote != nil, keysOf(settings.WrappingKeys, n.domain))
	}
	if !IsLocalNode(nodeID) {
		return fmt.Errorf("%w: %s, whose keys only itself can reseal", ErrUnknownNode, nodeID)
	}
	own := keysOf(settings.WrappingKeys, hsm.DefaultDomain)
	if len(own) == 0 || settings.Token.Module == "" {
		return fmt.Errorf("the keys of %s stay as they are, and so does the version of the wrapping key that they are sealed to: %w for local nodes, or local is 0 in config/nodes", nodeID, ErrNotConfigured)
	}
	proc, err := p.launch(nodeID)
	if err != nil {
		return err
	}
	defer proc.Stop()
	keys, err := p.cfg.Store.NodeKeys(ctx, nodeID)
	if err != nil || keys == nil {
		return err
	}
	request := &nodepb.SetupRequest{NodeId: nodeID, MountId: settings.MountID[:], Authority: settings.Authority,
		WrappingKeys: wrappingKeysToWire(own), Identity: keys.Identity[:], IdentityEnvelope: keys.IdentityEnvelope}
	err = p.logIn(ctx, func(t Token) error {
		request.Token = tokenToWire(t)
		reply, err := proc.client.Setup(ctx, request)
		if err != nil {
			return err
		}
		return fromFailure(reply.GetFailure())
	})
	if err != nil {
		return err
	}
	return p.rewrapKeys(ctx, proc.client, nodeID, false, own)
}

// rewrapKeys reads, reseals and stores a node's keys. own are the wrapping keys of
// its domain.
func (p *Pool) rewrapKeys(ctx context.Context, client nodepb.NodeClient, nodeID string, remote bool, own []hsm.WrappingKey) error {
	keys, err := p.cfg.Store.NodeKeys(ctx, nodeID)
	if err != nil || keys == nil || remote && keys.Aux == nil {
		return err
	}
	if len(own) == 0 {
		return fmt.Errorf("resealing the keys of %s: %w: its domain has none yet", nodeID, ErrWrappingKey)
	}
	domain, version := own[len(own)-1].Domain, own[len(own)-1].Version
	request := &nodepb.RewrapOwnRequest{WrappingVersion: version, IdentityEnvelope: keys.IdentityEnvelope}
	if keys.Aux != nil {
		request.AuxEnvelope, request.AuxGeneration = keys.Aux.Envelope, keys.Aux.Generation
	}
	reply, err := client.RewrapOwn(ctx, request)
	if err == nil {
		err = fromFailure(reply.GetFailure())
	}
	if err == nil && !remote {
		err = sealedTo(reply.GetIdentityEnvelope(), domain, version)
	}
	if err == nil && keys.Aux != nil {
		err = sealedTo(reply.GetAuxEnvelope(), domain, version)
	}
	if err != nil {
		return fmt.Errorf("resealing the keys of %s: %w", nodeID, err)
	}
	return p.changeKeys(ctx, nodeID, func(stored *NodeKeys) error {
		if !bytes.Equal(stored.IdentityEnvelope, keys.IdentityEnvelope) {
			return errKeysChanged
		}
		if !remote {
			stored.IdentityEnvelope = reply.GetIdentityEnvelope()
		}
		if keys.Aux == nil {
			return nil
		}
		if stored.Aux == nil || !bytes.Equal(stored.Aux.Envelope, keys.Aux.Envelope) {
			return errKeysChanged
		}
		aux := *stored.Aux
		aux.Envelope = reply.GetAuxEnvelope()
		stored.Aux = &aux
		return nil
	})
}

var errKeysChanged = errors.New("the node's stored keys changed while they were resealed; they are as good as before, try again")

// changeKeys changes a node's stored keys, one caller at a time: the making of
// auxiliary keys and the resealing of all of them write the same entry.
func (p *Pool) changeKeys(ctx context.Context, nodeID string, change func(*NodeKeys) error) error {
	select {
	case p.keysTurn <- struct{}{}:
		defer func() { <-p.keysTurn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	stored, err := p.storedKeys(ctx, nodeID)
	if err != nil {
		return err
	}
	next := *stored
	if err := change(&next); err != nil {
		return err
	}
	return p.cfg.Store.PutNodeKeys(ctx, nodeID, &next)
}
