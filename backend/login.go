package backend

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// Logging in takes no Vault token. A client gets a challenge, where the kind of
// authenticator has a part of the server it gets that released, and then runs OPAQUE
// (RFC 9807): login/start answers KE1 by KE2, login/finish takes KE3 and opens a
// session. A name that does not exist is led the same way to the same end.

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

// named is the authenticator of a name as far as a login is about it.
type named struct {
	known  bool                 // there is one of that name
	record *authenticatorRecord // nil where there is none of that name, kind and ID
	opened *identity.Authenticator
}

// decoy is a stored authenticator that belongs to nobody. It is decoded and verified
// where there is none of a name, so that this takes as long as where there is one.
type decoy struct{ stored []byte }

const decoyName = "nobody"

func newDecoy(now time.Time) (*decoy, error) {
	keys, err := identity.NewKeys(identity.NewSeed())
	if err != nil {
		return nil, err
	}
	defer keys.Wipe()
	a := &identity.Authenticator{
		Format: 1, ID: newID(), Name: decoyName, Method: identity.Password, Keys: keys.Public(), KDF: identity.DefaultKDF(),
		Created: now.UTC().Truncate(time.Second), Wrapped: make([]byte, identity.WrappedOverhead+identity.SeedSize),
	}
	signed, err := identity.SignAuthenticator(a, keys)
	if err != nil {
		return nil, err
	}
	d := &decoy{}
	d.stored, err = json.Marshal(&authenticatorRecord{Version: recordVersion, ID: a.ID.String(), Signed: *signed, Registration: make([]byte, identity.RegistrationSize)})
	return d, err
}

func (d *decoy) open() error {
	r := &authenticatorRecord{}
	if err := decodeRecord(d.stored, r); err != nil {
		return err
	}
	_, err := r.open(decoyName)
	return err
}

// loginAuthenticator reads an authenticator of a name and a kind; id, where it is
// not zero, has to be its own.
func (b *backend) loginAuthenticator(ctx context.Context, name string, kind identity.Method, id identity.ID) (named, error) {
	r, err := b.store.authenticator(ctx, name)
	if err == nil && r == nil {
		err = b.decoy.open()
		return named{}, err
	}
	if err != nil {
		return named{}, err
	}
	a, err := r.open(name)
	if err != nil {
		return named{}, err
	}
	if a.Method != kind || id != (identity.ID{}) && a.ID != id {
		return named{known: true}, nil
	}
	return named{true, r, a}, nil
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

func (b *backend) loginStart(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	k, err := b.tickets.open(data.Get("challenge").(string), b.cfg.now())
	if err != nil {
		return nil, err
	}
	ke1, err := decode64("ke1", data.Get("ke1").(string), identity.KE1Size, identity.KE1Size)
	if err != nil {
		return nil, err
	}
	n, err := b.loginAuthenticator(ctx, k.Name, k.Kind, k.ID)
	if err != nil {
		return nil, err
	}
	if err := b.loginLimits(ctx, k.Name, n.known); err != nil {
		return nil, err
	}
	if err := b.limits.begin(k.Name, n.known); err != nil {
		return nil, err
	}
	var registration []byte // none: the node makes one up
	if n.record != nil {
		registration = n.record.Registration
	}
	ke2, mac, key, err := b.startOPAQUE(ctx, k.ID, registration, ke1)
	if err != nil {
		b.limits.undo(k.Name)
		return nil, err
	}
	b.writeLocks()
	id := b.sessions.await(&pendingLogin{name: k.Name, kind: k.Kind, id: k.ID, clientMAC: mac, sessionKey: key})
	return &logical.Response{Data: map[string]any{"login": id.String(), "ke2": encode64(ke2)}}, nil
}

// startOPAQUE has a node answer KE1. So many at once and no more, since anybody can
// ask and nodes have other work; others wait for their turn.
func (b *backend) startOPAQUE(ctx context.Context, id identity.ID, registration, ke1 []byte) (ke2, clientMAC []byte, sessionKey *secret.Bytes, err error) {
	select {
	case b.loginSlots <- struct{}{}:
		defer func() { <-b.loginSlots }()
	case <-ctx.Done():
		return nil, nil, nil, &fault{status: http.StatusServiceUnavailable, msg: "more people log in than are let in at once: nothing was counted; try again"}
	}
	return b.opaqueLogin(ctx, id, registration, ke1)
}

func (b *backend) loginFinish(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	id, err := identity.ParseID(data.Get("login").(string))
	if err != nil {
		return nil, invalid("login is not what login/start gave: 32 hex digits")
	}
	ke3, err := decode64("ke3", data.Get("ke3").(string), identity.KE3Size, identity.KE3Size)
	if err != nil {
		return nil, err
	}
	c, err := b.store.identitiesConfig(ctx)
	if err != nil {
		return nil, err
	}
	p, err := b.sessions.take(id)
	if err != nil {
		return nil, err
	}
	defer p.wipe()
	if !identity.VerifyKE3(p.clientMAC, ke3) {
		return nil, errLoginFailed()
	}
	// From here on whoever asks is who he says he is.
	s, err := b.sessions.begin(p, c.sessionTTL())
	if err != nil {
		return nil, err
	}
	resp, err := b.greet(ctx, s)
	if err != nil {
		b.sessions.end(s.id)
		return nil, err
	}
	b.limits.succeeded(p.name)
	b.writeLocks()
	return resp, nil
}

func errLost(name string) error {
	return conflict("authenticator %s was reported lost: nobody logs in with it. Use another one; if it was found, whoever runs the mount says so (authenticators/%s/found)", name, name)
}

// greet makes the answer to a login. The authenticator is read again: it may have
// been lost or deleted since, and whoever reports a loss ends the sessions that he
// finds.
func (b *backend) greet(ctx context.Context, s *session) (*logical.Response, error) {
	n, err := b.loginAuthenticator(ctx, s.name, s.kind, s.authenticator)
	switch {
	case err != nil:
		return nil, err
	case n.record == nil:
		return nil, errLoginFailed()
	case n.record.Lost != nil:
		return nil, errLost(s.name)
	}
	m := identity.LoginMessage{Authenticator: n.record.Signed.Authenticator, Signature: n.record.Signed.Signature, Identities: []identity.LoginIdentity{}, Expires: s.expires.UTC()}
	granted, _, err := b.grantedIn(ctx, s.authenticator)
	if err != nil {
		return nil, err
	}
	for _, g := range granted {
		state := stateActive
		if g.Frozen {
			state = stateFrozen
		}
		m.Identities = append(m.Identities, identity.LoginIdentity{Name: g.Name, ID: g.ID, Level: g.Level, Roles: g.Roles, State: string(state)})
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(body)
	message, err := s.channel.Seal(0, identity.SessionLoginContext(s.id), body)
	if err != nil {
		return nil, errNoSession() // ended meanwhile
	}
	return &logical.Response{Data: map[string]any{"session": s.id.String(), "expires_time": rfc3339(s.expires), "message": encode64(message)}}, nil
}
