package keyholder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// ErrLogin: the login did not succeed, and the server does not say why: a wrong
// secret and an authenticator that does not exist look the same.
var ErrLogin = identity.ErrLogin

// IdentityInfo is what the server says about an identity that an authenticator
// has a grant in. Only Session.Open shows whether it is true.
type IdentityInfo struct {
	Name  string      `json:"name"`
	ID    identity.ID `json:"id"`
	Level string      `json:"level"`
	Roles []string    `json:"roles"`
	State string      `json:"state"` // active or frozen
}

// Login authenticates and opens a session. c needs no Vault token. Nothing is
// asked of the person before the parameters of the password hash were checked,
// and the authenticator that the server sends is one that the login itself opens.
// Errors: ErrLogin, identity.ErrWeakKDF, *Refusal, and those of the source.
func Login(ctx context.Context, c Caller, name string, m identity.Method, src Source) (*Session, error) {
	if err := identity.CheckName("authenticator", name); err != nil {
		return nil, err
	}
	if src == nil || src.Method() != m {
		return nil, fmt.Errorf("keyholder: authenticators of kind %s need their own source", m)
	}
	ch, err := challenge(ctx, c, name, m)
	if err != nil {
		return nil, err
	}
	if err := ch.KDF.Check(); err != nil {
		return nil, fmt.Errorf("nothing was asked and nothing was sent: %w", err)
	}
	if ch.PIN && !m.HasServerPart() || len(ch.PersonalInformation) > identity.MaxText {
		return nil, fmt.Errorf("the server asks for what authenticators of kind %s do not have: %w", m, identity.ErrRecord)
	}
	var info identity.AuthenticationInformation
	s, err := login(ctx, c, ch, m, src, &info)
	if err != nil {
		wipeInformation(&info)
		return nil, err
	}
	s.information = info
	return s, nil
}

// login gets the information into info, which the caller keeps or wipes, and runs
// OPAQUE.
func login(ctx context.Context, c Caller, ch *Challenge, m identity.Method, src Source, info *identity.AuthenticationInformation) (*Session, error) {
	if err := inform(ctx, c, ch, m, src, info); err != nil {
		return nil, err
	}
	loginSecret, err := info.LoginSecret(ch.LoginID, m)
	if err != nil {
		return nil, err
	}
	defer loginSecret.Wipe()
	l, ke1, err := identity.StartLogin(loginSecret, ch.LoginID, ch.KDF)
	if err != nil {
		return nil, err
	}
	defer l.Wipe()
	var started struct {
		Login string `json:"login"`
		KE2   []byte `json:"ke2"`
	}
	if err := c.Call(ctx, Write, "login/start", map[string]any{"challenge": ch.Challenge, "ke1": ke1}, &started); err != nil {
		return nil, err
	}
	ke3, sessionKey, exportKey, err := l.Finish(started.KE2)
	if err != nil {
		return nil, err
	}
	defer sessionKey.Wipe()
	defer exportKey.Wipe()
	var finished struct {
		Session identity.ID `json:"session"`
		Message []byte      `json:"message"`
	}
	if err := c.Call(ctx, Write, "login/finish", map[string]any{"login": started.Login, "ke3": ke3}, &finished); err != nil {
		return nil, err
	}
	s := newSession(c, finished.Session, identity.NewChannel(sessionKey, true))
	if err := s.greet(ch, m, finished.Message, exportKey); err != nil {
		s.Wipe()
		return nil, err
	}
	return s, nil
}

// inform gets all parts of the authentication information.
func inform(ctx context.Context, c Caller, ch *Challenge, m identity.Method, src Source, info *identity.AuthenticationInformation) error {
	answer, err := src.Get(ctx, ch)
	if err != nil {
		return err
	}
	info.Information = answer.Information
	if ch.PersonalInformation != "" {
		if info.Personal, err = src.Ask(ctx, Question{Topic: TopicAnswer, Text: ch.PersonalInformation}); err != nil {
			return err
		}
	}
	if m.HasServerPart() {
		if info.ServerPart, err = releasePart(ctx, c, ch, answer); err != nil {
			return err
		}
	}
	return nil
}

// releasePart has the server release its part for an ID token or a code, sealed
// to a key that serves this once.
func releasePart(ctx context.Context, c Caller, ch *Challenge, answer *Answer) (*secret.Bytes, error) {
	keys, err := ephemeral()
	if err != nil {
		return nil, err
	}
	defer keys.Wipe()
	in := map[string]any{"challenge": ch.Challenge, "client_public": keys.Public().Seal}
	if answer.IDToken != "" {
		in["id_token"] = answer.IDToken
	} else {
		in["code"] = answer.Code
	}
	var reply struct {
		SealedPart []byte `json:"sealed_part"`
	}
	if err := c.Call(ctx, Write, "login/release", in, &reply); err != nil {
		return nil, err
	}
	part, err := keys.Open(identity.ServerPartContext(ch.LoginID), reply.SealedPart)
	if err != nil {
		return nil, fmt.Errorf("the server's part does not open: %w", err)
	}
	return part, nil
}

// greet opens the server's first message: the authenticator's record and what it
// opens. The record must be the one that the login opens, and must say what the
// challenge said: a server that lied about the parameters is noticed here at the
// latest.
func (s *Session) greet(ch *Challenge, m identity.Method, message []byte, exportKey *secret.Bytes) error {
	var first struct {
		Authenticator []byte         `json:"authenticator"`
		Signature     []byte         `json:"signature"`
		Identities    []IdentityInfo `json:"identities"`
		Expires       time.Time      `json:"expires_time"`
	}
	if err := s.openMessage(0, identity.SessionLoginContext(s.id), message, &first); err != nil {
		return err
	}
	signed := &identity.SignedAuthenticator{Authenticator: first.Authenticator, Signature: first.Signature}
	a, err := signed.Verify()
	if err != nil {
		return err
	}
	if a.ID != ch.LoginID || a.Name != ch.Name || a.Method != m || a.KDF != ch.KDF || a.PIN != ch.PIN || a.PersonalInformation != ch.PersonalInformation {
		return fmt.Errorf("the server's record of authenticator %s says something else than its challenge did: %w", ch.Name, identity.ErrSignature)
	}
	if p := a.Parameters.Passkey; p != nil && !ch.Passkey.is(p) {
		return fmt.Errorf("the server's record of authenticator %s has another passkey than its challenge had: %w", ch.Name, identity.ErrSignature)
	}
	kek, err := identity.AuthenticatorKEK(exportKey, a.ID)
	if err != nil {
		return err
	}
	defer kek.Wipe()
	seed, err := identity.Unwrap(kek, identity.AuthenticatorSeedContext(a.ID), a.Wrapped)
	if err != nil {
		return err
	}
	defer seed.Wipe()
	keys, err := identity.NewKeys(seed)
	if err != nil {
		return err
	}
	if !a.Keys.Equal(keys.Public()) {
		keys.Wipe()
		return fmt.Errorf("the server's record of authenticator %s is not the one that this login opens: %w", ch.Name, identity.ErrSignature)
	}
	s.authenticator, s.keys, s.identities, s.expires = a, keys, first.Identities, first.Expires
	return nil
}

var errNoMessage = errors.New("the server's message does not open: it was changed on its way, or belongs to another session")
