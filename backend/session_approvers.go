package backend

import (
	"context"

	"vault-plugin-secrets-mpc/identity"
)

// allowedApprover: who is logged in as the owner of the identity that an approver is
// looks after its devices and one-time codes; everybody whom the identity has granted
// something may read the approver.
func (b *backend) allowedApprover(ctx context.Context, a *identity.Authenticator, c *called) error {
	if len(c.parts) < 2 || identity.CheckName("approver", c.parts[1]) != nil {
		return errNotAllowed()
	}
	r, err := b.store.approver(ctx, c.parts[1])
	if err != nil {
		return err
	}
	if r == nil || r.Identity == "" {
		return errNotAllowed()
	}
	tied, err := b.identityNamed(ctx, r.Identity)
	if err != nil {
		return err
	}
	o, err := b.opens(ctx, a, tied)
	if err != nil {
		return err
	}
	if o == nil {
		return errNotAllowed()
	}
	if err := checkIdentityActive(o.name, o.record); err != nil {
		return err
	}
	if len(c.parts) == 2 && c.is(identity.ReadOperation) {
		return nil
	}
	if !o.owner() {
		return errNotAllowed()
	}
	what := ""
	if len(c.parts) > 2 {
		what = c.parts[2]
	}
	switch {
	case len(c.parts) == 3 && (what == "enrol" || what == "confirm") && c.is(identity.WriteOperation),
		len(c.parts) == 3 && what == "enrolments" && c.is(identity.ListOperation),
		len(c.parts) == 3 && what == "totp" && c.is(identity.WriteOperation, identity.DeleteOperation),
		len(c.parts) == 4 && what == "totp" && c.parts[3] == "confirm" && c.is(identity.WriteOperation),
		len(c.parts) == 4 && what == "factors" && c.is(identity.DeleteOperation):
		return nil
	}
	return errNotAllowed()
}
