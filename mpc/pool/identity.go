package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// Identity has one ready node make, use or reseal the mount's identity keys. Nodes
// take turns. Where one fails, the next is asked, since none of these calls leaves
// anything behind; a node that says that the request is wrong ends it with
// *RefusedError. It waits while no node is ready, and where all processes that it
// asked have ended, for those that follow. The reply may hold a session key:
// it is the caller's to wipe.
func (p *Pool) Identity(ctx context.Context, r *nodepb.IdentityRequest) (*nodepb.IdentityReply, error) {
	tried := map[uint64]bool{} // processes, by their number
	var last, gone error
	for {
		nodes, _, changed, err := p.ready()
		if err != nil {
			return nil, err
		}
		nodes = p.ofIdentity(nodes, r)
		first := int(p.logins.Add(1) % uint64(max(len(nodes), 1)))
		for i := range nodes {
			n := nodes[(first+i)%len(nodes)]
			client, number := n.client(), n.incarnation()
			if client == nil || number == 0 || tried[number] {
				continue
			}
			tried[number] = true
			reply, err := askIdentity(ctx, client, r)
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
			return nil, p.noNode(ctx.Err())
		}
	}
}

// ofIdentity keeps the nodes that can serve the request: those of the wrapping domain
// that the keys are sealed in. Where they are to be made that is the default domain,
// or the first by name in a pool that has no node of that one.
func (p *Pool) ofIdentity(ready []*poolNode, r *nodepb.IdentityRequest) []*poolNode {
	domain := ""
	if r.GetMake() == nil {
		seals, err := hsm.Seals(r.GetKeysEnvelope())
		if err != nil || len(seals) == 0 {
			return ready // any of them says so
		}
		domain = seals[0].Domain
	} else {
		for _, n := range p.all() {
			c, _ := n.candidate()
			if domain == "" || c.domain == hsm.DefaultDomain || domain != hsm.DefaultDomain && c.domain < domain {
				domain = c.domain
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(ready), func(n *poolNode) bool {
		c, _ := n.candidate()
		return c.domain != domain
	})
}

func askIdentity(ctx context.Context, client nodepb.NodeClient, r *nodepb.IdentityRequest) (*nodepb.IdentityReply, error) {
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
		if err := sealedTo(reply.GetKeysEnvelope(), version); err != nil {
			return nil, fmt.Errorf("the identity keys that it sealed: %w", err)
		}
	}
	return reply, nil
}
