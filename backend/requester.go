package backend

import (
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// Who asks. A Vault token asks as its entity, a session as an identity that its
// authenticator opens. A token without an entity, such as root's, cannot be told from
// an approver's own, so it may not ask: nobody approves a request of their own.

func errNoEntity() error {
	return forbidden("this token belongs to no Vault entity, so nobody could tell whether an approver asks here for themselves: nothing was asked for. Log in with an auth method (userpass, oidc, approle, …), or use a token of a role with an entity alias; the root token has none")
}

// requesterFor says who asks for an account, as policies name them ("entity:…",
// "identity:…"), and what people call them. A session asks as the identity that the
// account is tied to.
func (b *backend) requesterFor(ctx context.Context, req *logical.Request, c *custodyRecord) (id, name string, err error) {
	if s := sessionOf(ctx); s != nil {
		own, err := b.identitiesOf(ctx, s)
		if err != nil {
			return "", "", err
		}
		if c != nil {
			own = slices.DeleteFunc(own, func(g grantedIdentity) bool { return g.ID.String() != c.Identity })
		}
		if len(own) != 1 {
			return "", "", forbidden("this session does not ask for one identity: its authenticator opens %d that fit; nothing was asked for. Use a Vault token that belongs to an entity", len(own))
		}
		return requesterIdentity + own[0].ID.String(), approval.CleanName(own[0].Name), nil
	}
	if req.EntityID == "" {
		return "", "", errNoEntity()
	}
	return requesterEntity + req.EntityID, strings.TrimSpace(approval.CleanName(req.DisplayName)), nil
}

// noOtherSelf refuses a session that asks as one identity while its authenticator opens
// another one, frozen or not, that is an approver of the policy: whoever has it could
// approve what they asked for themselves.
func (b *backend) noOtherSelf(ctx context.Context, requester string, marshalled []byte) error {
	s := sessionOf(ctx)
	if s == nil {
		return nil
	}
	policy, err := approval.ParsePolicy(marshalled)
	if err != nil {
		return err
	}
	granted, _, err := b.grantedIn(ctx, s.authenticator)
	if err != nil {
		return err
	}
	for _, g := range granted {
		for _, a := range policy.Approvers {
			if slices.Contains(a.Requesters, requesterIdentity+g.ID.String()) && !slices.Contains(a.Requesters, requester) {
				return forbidden("this session's authenticator opens identity %q as well, which is approver %q of this account, and nobody approves a request of their own: nothing was asked for. Log in with an authenticator that does not open it", g.Name, a.Name)
			}
		}
	}
	return nil
}

// identitiesOf lists the identities, not frozen, that a session opens.
func (b *backend) identitiesOf(ctx context.Context, s *session) ([]grantedIdentity, error) {
	granted, _, err := b.grantedIn(ctx, s.authenticator)
	return slices.DeleteFunc(granted, func(g grantedIdentity) bool { return g.Frozen }), err
}

// isRequester reports whether who sends this asked for the request.
func (b *backend) isRequester(ctx context.Context, req *logical.Request, r *requestRecord) (bool, error) {
	s := sessionOf(ctx)
	if s == nil {
		return req.EntityID != "" && r.Requester == requesterEntity+req.EntityID, nil
	}
	return b.openedBy(ctx, s, r)
}

// ownRequest returns the request with this ID where whoever sends req asked for it, and
// otherwise fails with refusal.
func (b *backend) ownRequest(ctx context.Context, req *logical.Request, id string, refusal error) (*requestRecord, error) {
	r, err := b.requests.get(ctx, id)
	if err != nil {
		return nil, err
	}
	own, err := b.isRequester(ctx, req, r)
	if err != nil {
		return nil, err
	}
	if !own {
		return nil, refusal
	}
	return r, nil
}

// openedBy reports whether a session opens the identity that asked for a request.
func (b *backend) openedBy(ctx context.Context, s *session, r *requestRecord) (bool, error) {
	own, err := b.identitiesOf(ctx, s)
	return slices.ContainsFunc(own, func(g grantedIdentity) bool { return r.Requester == requesterIdentity+g.ID.String() }), err
}
