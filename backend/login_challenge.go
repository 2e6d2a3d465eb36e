package backend

import (
	"context"
	"crypto/rand"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
)

// loginKind reads the kind and refuses one that this mount cannot do for anybody.
func loginKind(text string, c *identitiesConfigRecord) (identity.Method, error) {
	kind := identity.Method(text)
	switch {
	case !kind.Valid():
		return "", invalid("kind must be one of %v", identity.Methods())
	case kind == identity.OIDC && len(c.OIDC) == 0:
		return "", invalid("no third party is configured here: config/identities/oidc/ has none")
	case kind == identity.Phone && c.PhoneWebhook == "":
		return "", invalid("no one-time codes are sent here: config/identities has no phone_webhook")
	case kind == identity.Passkey && c.PasskeyRelyingParty == "":
		return "", invalid("no passkeys are used here: config/identities has no passkey_relying_party")
	}
	return kind, nil
}

// shows is what a real authenticator shows in its challenge. An account at a third
// party that is not configured any more shows what the fake one shows: nobody logs
// in with it until the provider is back.
func (b *backend) shows(a *identity.Authenticator, fake *shown, c *identitiesConfigRecord) *shown {
	s := &shown{id: a.ID, kdf: a.KDF, question: a.PersonalInformation, pin: a.PIN, certificate: a.Parameters.Certificate, passkey: a.Parameters.Passkey}
	if o := a.Parameters.OIDC; o != nil {
		if s.provider = o.Provider; c.OIDC[s.provider].Issuer == "" {
			b.log.Warn("an authenticator's provider is not in config/identities/oidc/: nobody can log in with it", "authenticator", a.Name, "provider", o.Provider)
			s.provider = fake.provider
		}
	}
	return s
}

func (b *backend) loginChallenge(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get("authenticator").(string)
	if err := identity.CheckName("authenticator", name); err != nil {
		return nil, invalid("authenticator must be a name: up to %d lower-case letters, digits, dots, dashes and underscores, with a letter or digit at both ends", identity.MaxName)
	}
	c, err := b.store.identitiesConfig(ctx)
	if err != nil {
		return nil, err
	}
	kind, err := loginKind(data.Get("kind").(string), c)
	if err != nil {
		return nil, err
	}
	// Both are always looked at, whichever is shown.
	s, err := b.fake(ctx, name, kind, c)
	if err != nil {
		return nil, err
	}
	n, err := b.loginAuthenticator(ctx, name, kind, identity.ID{})
	if err != nil {
		return nil, err
	}
	if n.opened != nil {
		s = b.shows(n.opened, s, c)
	}
	k := &ticket{Kind: kind, Name: name, ID: s.id, Provider: s.provider, Expires: b.cfg.now().Add(challengeTTL)}
	_, _ = rand.Read(k.Nonce[:])
	if kind == identity.Phone {
		if err := b.challengePhone(ctx, k, n, c); err != nil {
			return nil, err
		}
	}
	challenge, err := b.tickets.seal(k)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: challengeAnswer(challenge, k, s, c)}, nil
}

func challengeAnswer(challenge string, k *ticket, s *shown, c *identitiesConfigRecord) map[string]any {
	out := map[string]any{
		"challenge":            challenge,
		"expires_time":         rfc3339(k.Expires),
		"login_id":             s.id.String(),
		"kdf":                  map[string]any{"time": int64(s.kdf.Time), "memory_kib": int64(s.kdf.Memory), "threads": int64(s.kdf.Threads)},
		"personal_information": s.question,
		"pin":                  s.pin,
		"phone_sent":           k.Kind == identity.Phone,
	}
	switch k.Kind {
	case identity.Certificate:
		out["certificate"] = map[string]any{"algorithm": s.certificate.Algorithm, "sealed": encode64(s.certificate.Sealed)}
	case identity.Passkey:
		out["passkey"] = map[string]any{"relying_party": s.passkey.RelyingParty, "credential_id": encode64(s.passkey.CredentialID), "salt": encode64(s.passkey.Salt)}
	case identity.OIDC:
		p := c.OIDC[k.Provider]
		out["oidc"] = map[string]any{"provider": k.Provider, "issuer": p.Issuer, "client_id": p.ClientID, "client_secret": p.ClientSecret, "scopes": p.scopes(), "nonce": k.oidcNonce()}
	}
	return out
}

// challengePhone sends the code of a challenge where there is a phone, and takes as
// long where there is none.
func (b *backend) challengePhone(ctx context.Context, k *ticket, n named, c *identitiesConfigRecord) error {
	select {
	case b.codeSlots <- struct{}{}:
	default:
		return errCodesBusy()
	}
	err := b.loginLimits(ctx, k.Name, n.known)
	if err == nil {
		err = b.limits.code(k.Name, n.known)
	}
	if err != nil || n.record == nil || n.record.Lost != nil || n.record.Phone == "" {
		<-b.codeSlots
		return err
	}
	b.sendCode(c, k.Name, codeMessage{Phone: n.record.Phone, Code: b.tickets.code(k), Expires: rfc3339(k.Expires)})
	return nil
}
