package backend

import (
	"bytes"
	"context"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// changeSecret replaces what an authenticator's secret opens: the registration and
// the record with the seed wrapped anew, by one Put, so that whoever is interrupted
// has either the old secret or the new one. It takes the authenticator's own session,
// which took the old secret, and a record signed by the same keys, which are in the
// seed. Grants are sealed to these keys and stay good. Devices bound with the old
// secret are not touched: what they have is theirs.
func (b *backend) changeSecret(ctx context.Context, s *session, data *framework.FieldData, name string) (*logical.Response, error) {
	for _, f := range []string{"server_part", "phone"} {
		if _, ok := data.GetOk(f); ok {
			return nil, invalid("%s stays what it is when a secret is changed: nothing was changed; send it for a new authenticator only", f)
		}
	}
	r, a, err := sentRecord(data, name)
	if err != nil {
		return nil, err
	}
	defer b.hierarchy.all()()
	if err := ctx.Err(); err != nil {
		return nil, err // it waited for its turn
	}
	was, err := b.store.authenticator(ctx, name)
	if err != nil {
		return nil, err
	}
	// It was allowed before it waited.
	if was == nil || was.Lost != nil || was.ID != s.authenticator.String() || registrationSum(was.Registration) != s.registered {
		b.sessions.end(s.id)
		return nil, errNoSession()
	}
	old, err := was.open(name)
	if err != nil {
		return nil, err
	}
	if err := onlySecret(old, a); err != nil {
		return nil, err
	}
	if bytes.Equal(was.Signed.Authenticator, r.Signed.Authenticator) && bytes.Equal(was.Registration, r.Registration) {
		resp, err := b.authenticatorAnswer(ctx, was, old)
		if err == nil {
			resp.AddWarning(alreadyStored)
		}
		return resp, err
	}
	r.ServerPart, r.Phone, r.Devices = was.ServerPart, was.Phone, slices.Clone(was.Devices)
	err = b.store.put(ctx, prefixAuthentic+name, r)
	b.sessions.endOthers(a.ID, s.id) // also where the write failed: it may have taken effect
	if err != nil {
		return nil, err
	}
	s.registered = registrationSum(r.Registration)
	b.log.Info("an authenticator's secret was changed", "authenticator", name, "authenticator_id", r.ID)
	return b.authenticatorAnswer(ctx, r, a)
}

// onlySecret: what others rely on is as it was. Fingerprints and grants name the
// keys, the kind and whether the server is trusted.
func onlySecret(old, a *identity.Authenticator) error {
	what := ""
	switch {
	case a.ID != old.ID:
		what = "ID"
	case a.Method != old.Method:
		what = "kind"
	case !a.Keys.Equal(old.Keys):
		what = "keys"
	case a.PIN != old.PIN:
		what = "PIN or none"
	case !a.Created.Equal(old.Created):
		what = "time of creation"
	case (a.Parameters.OIDC == nil) != (old.Parameters.OIDC == nil) || a.Parameters.OIDC != nil && *a.Parameters.OIDC != *old.Parameters.OIDC:
		what = "third-party account"
	default:
		return nil
	}
	return invalid("a changed secret leaves everything else of an authenticator as it is, and the record has another %s: nothing was changed; for that, create another authenticator", what)
}
