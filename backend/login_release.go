package backend

import (
	"context"
	"crypto/ecdh"
	"errors"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

func (b *backend) loginRelease(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	k, err := b.tickets.open(data.Get("challenge").(string), b.cfg.now())
	if err != nil {
		return nil, err
	}
	public, err := decode64("client_public", data.Get("client_public").(string), 32, 32)
	if err != nil {
		return nil, err
	}
	if _, err := ecdh.X25519().NewPublicKey(public); err != nil {
		return nil, invalid("client_public is not an X25519 key")
	}
	token, code := data.Get("id_token").(string), data.Get("code").(string)
	switch {
	case !k.Kind.HasServerPart():
		return nil, invalid("authenticators of kind %s have no part here: go on with login/start", k.Kind)
	case k.Kind == identity.OIDC && (token == "" || code != ""):
		return nil, invalid("id_token is needed for kind %s, and code is not", k.Kind)
	case k.Kind == identity.Phone && (code == "" || token != ""):
		return nil, invalid("code is needed for kind %s, and id_token is not", k.Kind)
	}
	n, err := b.loginAuthenticator(ctx, k.Name, k.Kind, k.ID)
	if err != nil {
		return nil, err
	}
	if err := b.loginLimits(ctx, k.Name, n.known); err != nil {
		return nil, err
	}
	if err := b.limits.check(k.Name, n.known); err != nil {
		return nil, err
	}
	if k.Kind == identity.OIDC {
		err = b.checkToken(ctx, k, n.opened, token)
	} else {
		err = b.checkCode(k, n, code)
	}
	if err != nil {
		return nil, err
	}
	if n.record.Lost != nil {
		return nil, errLost(k.Name)
	}
	sealed, err := b.releaseServerPart(ctx, k.ID, n.record.ServerPart, public)
	if err != nil {
		b.answered.again(k)
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"sealed_part": encode64(sealed)}}, nil
}

// checkToken verifies an ID token as a whole before it looks at whose it is.
func (b *backend) checkToken(ctx context.Context, k *ticket, a *identity.Authenticator, token string) error {
	c, err := b.store.identitiesConfig(ctx)
	if err != nil {
		return err
	}
	p, ok := c.OIDC[k.Provider]
	if !ok {
		return errChallenge() // it was removed since
	}
	subject, err := b.providers.verify(ctx, k.Provider, p, token, k.oidcNonce())
	if errors.Is(err, errNoProvider) {
		return &fault{status: http.StatusServiceUnavailable, msg: "the provider " + k.Provider + " cannot be asked for its keys just now: nothing was released; try again", err: err}
	}
	if err != nil {
		return forbidden("login failed: %v. Nothing was released; begin again with login/challenge", err)
	}
	if a == nil || a.Parameters.OIDC == nil || a.Parameters.OIDC.Subject != subject || a.Parameters.OIDC.Issuer != p.Issuer || a.Parameters.OIDC.Provider != k.Provider || !b.answered.use(k) {
		return errLoginFailed()
	}
	return nil
}

// checkCode counts wrong codes: three for a challenge, and all of them for the
// name.
func (b *backend) checkCode(k *ticket, n named, code string) error {
	right := b.answered.try(k, b.tickets.code(k), code)
	if n.record != nil && right {
		return nil
	}
	b.limits.failed(k.Name, n.known)
	b.writeLocks()
	return errLoginFailed()
}
