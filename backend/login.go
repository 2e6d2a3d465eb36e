package backend

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// Logging in takes no Vault token. A client gets a challenge, where the kind of
// authenticator has a part of the server it gets that released, and then runs OPAQUE
// (RFC 9807): login/start answers KE1 by KE2, login/finish takes KE3 and opens a
// session. A name that does not exist is led the same way to the same end.

// named is the authenticator of a name as far as a login is about it.
type named struct {
	known  bool                 // there is one of that name
	record *authenticatorRecord // nil where there is none of that name, kind and ID
	opened *identity.Authenticator
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
	// Kinds that nobody can guess are not counted, or anybody could lock them. Who
	// names such a kind for a name of another gets answers that are made up.
	if k.Kind.Guessable() {
		if err := b.loginLimits(ctx, k.Name, n.known); err != nil {
			return nil, err
		}
		if err := b.limits.begin(k.Name, n.known); err != nil {
			return nil, err
		}
	}
	var registration []byte // none: the node makes one up
	if n.record != nil {
		registration = n.record.Registration
	}
	ke2, mac, key, err := b.startOPAQUE(ctx, k.ID, registration, ke1)
	if err != nil {
		if k.Kind.Guessable() {
			b.limits.undo(k.Name)
		}
		return nil, err
	}
	b.writeLocks()
	id := b.sessions.await(&pendingLogin{name: k.Name, kind: k.Kind, id: k.ID, registered: registrationSum(registration), clientMAC: mac, sessionKey: key})
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
// been lost, deleted or changed since, and whoever reports a loss ends the sessions that he
// finds.
func (b *backend) greet(ctx context.Context, s *session) (*logical.Response, error) {
	n, err := b.loginAuthenticator(ctx, s.name, s.kind, s.authenticator)
	switch {
	case err != nil:
		return nil, err
	case n.record == nil, registrationSum(n.record.Registration) != s.registered: // its secret was changed meanwhile
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
