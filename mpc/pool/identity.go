package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/recovery"
)

// Identity has one ready node make, use or reseal the mount's identity keys, of the
// wrapping domain that these are sealed to. The nearest nodes take turns. Where one fails, the next is asked, since none of these calls leaves
// anything behind; a node that says that the request is wrong ends it with
// *RefusedError. It waits while no node is ready, and where all processes that it
// asked have ended, for those that follow. The reply may hold a session key:
// it is the caller's to wipe.
func (p *Pool) Identity(ctx context.Context, r *nodepb.IdentityRequest) (*nodepb.IdentityReply, error) {
	domain := p.identityDomain(r)
	tried := map[uint64]bool{} // processes, by their number
	var last, gone error
	for {
		nodes, _, changed, err := p.ready()
		if err != nil {
			return nil, err
		}
		nodes = slices.DeleteFunc(nodes, func(n *poolNode) bool { return n.domain != domain })
		for _, n := range nearFirst(nodes, p.logins.Add(1)) {
			client, number := n.client(), n.incarnation()
			if client == nil || number == 0 || tried[number] {
				continue
			}
			tried[number] = true
			reply, err := askIdentity(ctx, client, domain, r)
			var refused *RefusedError
			switch {
			case err == nil:
				return reply, nil
			case errors.As(err, &refused):
				return nil, err
			case ctx.Err() != nil:
				return nil, fmt.Errorf("%s: %w", n.id, errors.Join(ctx.Err(), err))
			}
			if status.Code(err) == codes.Unavailable { // its process has ended, or is about to
				gone = fmt.Errorf("%s: %w", n.id, err)
			} else {
				last = fmt.Errorf("%s: %w", n.id, err)
			}
			p.cfg.Logger.Warn("a node did not serve logins", "node", n.id, "error", err)
		}
		if last != nil {
			return nil, last // every node that is ready has been asked
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if gone != nil {
				return nil, fmt.Errorf("%w: %w", ctx.Err(), gone)
			}
			return nil, p.noNode(domain, ctx.Err())
		}
	}
}

// nearFirst orders nodes: those that are about as near as the nearest one, then the
// others, each beginning with another one from turn to turn.
func nearFirst(nodes []*poolNode, turn uint64) []*poolNode {
	all := make([]candidate, len(nodes))
	for k, n := range nodes {
		all[k], _ = n.candidate()
	}
	limits := tiers(all)
	var near, far []*poolNode
	for k, n := range nodes {
		if all[k].rtt <= limits[0] {
			near = append(near, n)
		} else {
			far = append(far, n)
		}
	}
	turned := func(list []*poolNode) []*poolNode {
		if len(list) == 0 {
			return nil
		}
		first := int(turn % uint64(len(list)))
		return slices.Concat(list[first:], list[:first])
	}
	return append(turned(near), turned(far)...)
}

// identityDomain is the wrapping domain whose nodes can open the identity keys. New
// ones are made in the default domain, unless the pool has no node of it.
func (p *Pool) identityDomain(r *nodepb.IdentityRequest) string {
	if len(r.GetKeysEnvelope()) > 0 {
		return cmp.Or(recovery.WrappingDomain(r.GetKeysEnvelope()), hsm.DefaultDomain)
	}
	least := ""
	for _, n := range p.all() {
		if n.domain == hsm.DefaultDomain {
			return n.domain
		}
		if least == "" || n.domain < least {
			least = n.domain
		}
	}
	return cmp.Or(least, hsm.DefaultDomain)
}

func askIdentity(ctx context.Context, client nodepb.NodeClient, domain string, r *nodepb.IdentityRequest) (*nodepb.IdentityReply, error) {
	reply, err := client.Identity(ctx, r)
	if err != nil {
		return nil, err
	}
	if f := reply.GetFailure(); f.GetReason() == nodepb.Failure_REFUSED {
		return nil, &RefusedError{failureText(f)}
	} else if f != nil {
		return nil, fromFailure(f)
	}
	version := r.GetMake().GetWrappingVersion()
	if r.GetRewrap() != nil {
		version = r.GetRewrap().GetWrappingVersion()
	}
	if version != 0 {
		if err := sealedTo(reply.GetKeysEnvelope(), domain, version); err != nil {
			return nil, fmt.Errorf("the identity keys that it sealed: %w", err)
		}
	}
	return reply, nil
}
