package backend

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// The factor login: an approver who is tied to an identity logs in as that identity,
// and says through the session for which request. What is noted is when the login
// was: an old session is no login for a new request.

// loginApprovers returns the approvers of a request's policy who are the identity
// that an authenticator opens, and whose login the policy takes; none where there is
// no such request.
func (b *backend) loginApprovers(ctx context.Context, a *identity.Authenticator, request string) ([]*approval.Approver, error) {
	id, err := approval.ParseID(request)
	if err != nil {
		return nil, nil
	}
	r, err := b.desk.find(ctx, id)
	if err != nil || r == nil {
		return nil, err
	}
	policy, err := approval.ParsePolicy(r.Policy)
	if err != nil {
		return nil, err
	}
	var out []*approval.Approver
	for i := range policy.Approvers {
		approver := &policy.Approvers[i]
		if !slices.Contains(approver.Checked, approval.Login) {
			continue
		}
		is, err := b.isApprover(ctx, a, approver.ID.String())
		if err != nil {
			return nil, err
		}
		if is {
			out = append(out, approver)
		}
	}
	return out, nil
}

// isApprover reports whether an authenticator opens the owner role of the identity
// that an approver is, and that identity is not frozen. Who was granted less, an
// assistant say, is not the approver.
func (b *backend) isApprover(ctx context.Context, a *identity.Authenticator, approver string) (bool, error) {
	_, record, err := b.desk.approvers.approverByID(ctx, approver)
	if err != nil || record == nil || record.Identity == "" {
		return false, err
	}
	id, err := identity.ParseID(record.Identity)
	if err != nil {
		return false, nil
	}
	name, found, err := b.identityByID(ctx, id)
	if err != nil || found == nil {
		return false, err
	}
	o, err := b.opens(ctx, a, name)
	if err != nil || o == nil || o.manifest.Identity != id {
		return false, err
	}
	return o.owner() && checkIdentityActive(name, o.record) == nil, nil
}

// allowedLogin: the session's authenticator opens the identity of an approver of the
// request.
func (b *backend) allowedLogin(ctx context.Context, a *identity.Authenticator, request string) error {
	approvers, err := b.loginApprovers(ctx, a, request)
	if err != nil {
		return err
	}
	if len(approvers) == 0 {
		return errNotAllowed()
	}
	return nil
}

// requestLogin notes that an approver has logged in.
func (b *backend) requestLogin(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	s := sessionOf(ctx)
	if s == nil {
		return nil, forbidden("a login counts as a factor only through a session of the approver's identity, not with a Vault token: mpckms logs in and sends it through the session. Nothing was noted")
	}
	now := b.desk.now()
	if age := now.Sub(s.began); age > maxLoginAge {
		return nil, forbidden("this login is %s old, and counts as a factor for %s: log in again, then repeat it. Nothing was noted", short(age.Truncate(time.Second)), short(maxLoginAge))
	}
	n, err := b.loginAuthenticator(ctx, s.name, s.kind, s.authenticator)
	if err != nil {
		return nil, err
	}
	if n.record == nil {
		return nil, errNoSession()
	}
	request := textOf(data, "request")
	approvers, err := b.loginApprovers(ctx, n.opened, request)
	if err != nil {
		return nil, err
	}
	if len(approvers) == 0 {
		return nil, errNotAllowed()
	}
	var names []string
	r, err := b.desk.requests.update(ctx, request, func(r *requestRecord) error {
		names = nil
		var refused error
		logins := maps.Clone(r.Logins)
		if logins == nil {
			logins = map[string]time.Time{}
		}
		for _, approver := range approvers {
			if err := answerable(r, approver, now); err != nil {
				refused = err
				continue
			}
			logins[approver.ID.String()] = s.began.UTC()
			names = append(names, approver.Name)
		}
		if len(names) == 0 {
			return refused
		}
		r.Logins = logins
		return nil
	})
	if err != nil {
		return nil, err
	}
	b.log.Info("an approver has logged in for a request", "request", r.ID, "approvers", names, "authenticator", s.name, "vault_request", req.ID)
	return &logical.Response{Data: map[string]any{
		"request": r.ID, "approvers": names, "login_time": rfc3339(s.began), "counts_until": rfc3339(s.began.Add(maxLoginAge)),
	}}, nil
}
