package keyholder

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// ErrUnknownChange: no answer came to the request that changes a secret, so that
// either the old one or the new one is in force.
var ErrUnknownChange = errors.New("no answer came, so either the new secret is in force or the old one: log in with the new one, and with the old one if that fails; what the authenticator opens is the same with both")

// ChangeOptions are what can be changed of an authenticator beside its password,
// PIN, key file or certificate.
type ChangeOptions struct {
	// Keep leaves these as they are and changes the question only.
	Keep bool
	// PersonalQuestion is the new question; nil leaves question and answer as
	// they are, an empty text ends them.
	PersonalQuestion *string
}

// Change gives the session's authenticator another secret: the one that src makes,
// of the same kind. ID, name, kind and keys stay, so that every grant stays good. It
// is one write: after an error the old secret is in force, but for ErrUnknownChange.
// Other sessions of the authenticator end; devices that are bound with the old secret
// keep it until they are bound again. Not to be called while other goroutines use the
// session.
func (s *Session) Change(ctx context.Context, src Source, opts ChangeOptions) error {
	old := s.authenticator
	if src == nil || src.Method() != old.Method {
		return fmt.Errorf("keyholder: authenticators of kind %s need their own source", old.Method)
	}
	n := &Registering{Name: old.Name, ID: old.ID, PIN: old.PIN, Parameters: old.Parameters}
	if old.Method == identity.Passkey && !opts.Keep {
		site, err := passkeySite(ctx, s.caller, old.Name) // which may be another one by now
		if err != nil {
			return err
		}
		n.RelyingParty = site
	}
	info, err := s.newInformation(ctx, src, n, opts)
	if err != nil {
		wipeInformation(&info)
		return err
	}
	next := *old
	next.Parameters = n.Parameters
	if opts.PersonalQuestion != nil {
		next.PersonalInformation = *opts.PersonalQuestion
	}
	if err := s.store(ctx, &next, info); err != nil {
		wipeInformation(&info)
		return err
	}
	wipeInformation(&s.information)
	s.authenticator, s.information = &next, info
	return nil
}

// newInformation gets what is new and copies what stays.
func (s *Session) newInformation(ctx context.Context, src Source, n *Registering, opts ChangeOptions) (info identity.AuthenticationInformation, err error) {
	m, had := s.authenticator.Method, s.information
	if had.ServerPart != nil {
		info.ServerPart = secret.Copy(had.ServerPart.Expose())
	}
	switch {
	case opts.Keep:
		if had.Information != nil {
			info.Information = secret.Copy(had.Information.Expose())
		}
	case m == identity.Device:
		// Its place in the keyring is taken by the one that is in force: a process
		// that ended in between would have locked its user out.
		return info, errors.New("the secret of a device is random and never seen, so only the question beside it is changed. To replace it, make another authenticator of this kind and have it granted the same: nothing was changed")
	case m.HasServerPart() && !s.authenticator.PIN:
		return info, fmt.Errorf("authenticator %s has no PIN, and the rest of its secret is the server's and the third party's: nothing was changed. One with a PIN is another authenticator", n.Name)
	case m.HasServerPart():
		p, ok := src.(interface {
			newPIN(context.Context, *Registering) (*secret.Bytes, error)
		})
		if !ok {
			return info, fmt.Errorf("keyholder: this source of kind %s makes no PIN", m)
		}
		info.Information, err = p.newPIN(ctx, n)
	default:
		info.Information, err = src.New(ctx, n)
	}
	if err != nil {
		return info, err
	}
	switch q := opts.PersonalQuestion; {
	case q == nil && had.Personal != nil:
		info.Personal = secret.Copy(had.Personal.Expose())
	case q != nil && *q != "":
		info.Personal, err = src.Ask(ctx, Question{Topic: TopicAnswer, Text: *q, Fresh: true})
	}
	return info, err
}

// store registers the new secret and writes it with the same seed wrapped anew.
func (s *Session) store(ctx context.Context, next *identity.Authenticator, info identity.AuthenticationInformation) error {
	before, err := s.information.LoginSecret(next.ID, next.Method)
	if err != nil {
		return err
	}
	defer before.Wipe()
	loginSecret, err := info.LoginSecret(next.ID, next.Method)
	if err != nil {
		return err
	}
	defer loginSecret.Wipe()
	if loginSecret.Equal(before) {
		return errors.New("the new secret is the old one: nothing was changed")
	}
	reg, request, err := identity.StartRegistration(loginSecret, next.ID, next.KDF)
	if err != nil {
		return err
	}
	defer reg.Wipe()
	var reply struct {
		Response []byte `json:"response"`
	}
	path := "authenticators/" + next.Name
	if err := s.Call(ctx, Write, path+"/register", map[string]any{"id": next.ID, "request": request, "kind": next.Method}, &reply); err != nil {
		return err
	}
	registration, exportKey, _, err := reg.Finish(reply.Response)
	if err != nil {
		return err
	}
	defer exportKey.Wipe()
	signed, err := s.rewrap(next, exportKey)
	if err != nil {
		return err
	}
	err = s.Call(ctx, Write, path, map[string]any{"authenticator": signed.Authenticator, "signature": signed.Signature, "registration": registration}, nil)
	var refused *Refusal
	// A session that ended during the call says nothing about what the call did.
	if err == nil || !errors.Is(err, ErrSessionOver) && errors.As(err, &refused) && refused.Status < http.StatusInternalServerError {
		return err
	}
	return fmt.Errorf("%w (%w)", ErrUnknownChange, err)
}

// rewrap wraps the session's seed under the new export key and signs the record.
func (s *Session) rewrap(next *identity.Authenticator, exportKey *secret.Bytes) (*identity.SignedAuthenticator, error) {
	kek, err := identity.AuthenticatorKEK(exportKey, next.ID)
	if err != nil {
		return nil, err
	}
	defer kek.Wipe()
	seed := s.keys.Seed()
	if next.Wrapped, err = identity.Wrap(kek, identity.AuthenticatorSeedContext(next.ID), seed); err != nil {
		return nil, err
	}
	return identity.SignAuthenticator(next, s.keys)
}
