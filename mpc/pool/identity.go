package pool

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
