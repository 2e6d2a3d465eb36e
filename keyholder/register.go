package keyholder

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/secret"
)

// RegisterOptions are what can be chosen of a new authenticator.
type RegisterOptions struct {
	// PersonalQuestion is asked at each login, its answer being a part of the
	// login secret. Empty: none.
	PersonalQuestion string
	// PIN adds a PIN to a third-party account or phone. Without one such an
	// authenticator is server-trusting.
	PIN bool
	// Phone is the number that codes are sent to; only the server keeps it.
	Phone string
	// Provider is the name of the third party in config/identities/oidc.
	Provider string
	// KDF is identity.DefaultKDF if zero.
	KDF identity.KDF
	// Now is time.Now if nil.
	Now func() time.Time
}

// Register makes an authenticator and stores it with the server. c needs a Vault
// token that may write authenticators. What it returns are the public record and
// the authenticator's keys, which the caller wipes. After an error the server has
// no new authenticator, unless the error says that no answer came.
func Register(ctx context.Context, c Caller, name string, m identity.Method, src Source, opts RegisterOptions) (*identity.Authenticator, *identity.Keys, error) {
	if err := checkRegister(name, m, src, &opts); err != nil {
		return nil, nil, err
	}
	n := &Registering{Name: name, PIN: opts.PIN}
	_, _ = rand.Read(n.ID[:])
	if m == identity.OIDC {
		n.Provider = &OIDCChallenge{}
		if err := c.Call(ctx, Read, "config/identities/oidc/"+opts.Provider, nil, n.Provider); err != nil {
			return nil, nil, err
		}
		n.Provider.Provider = opts.Provider
	}
	if m == identity.Passkey {
		site, err := passkeySite(ctx, c, name)
		if err != nil {
			return nil, nil, err
		}
		n.RelyingParty = site
	}
	var info identity.AuthenticationInformation
	defer wipeInformation(&info)
	var err error
	if info.Information, err = src.New(ctx, n); err != nil {
		return nil, nil, err
	}
	a, keys, err := register(ctx, c, n, m, src, opts, info)
	if err != nil {
		var refused *Refusal
		if u, ok := src.(interface{ Undo(*Registering) error }); ok && errors.As(err, &refused) {
			err = errors.Join(err, u.Undo(n))
		}
		return nil, nil, err
	}
	return a, keys, nil
}

func checkRegister(name string, m identity.Method, src Source, opts *RegisterOptions) error {
	if err := identity.CheckName("authenticator", name); err != nil {
		return err
	}
	if opts.KDF == (identity.KDF{}) {
		opts.KDF = identity.DefaultKDF()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	switch {
	case src == nil || src.Method() != m:
		return fmt.Errorf("keyholder: authenticators of kind %s need their own source", m)
	case opts.PIN && !m.HasServerPart():
		return fmt.Errorf("authenticators of kind %s have no PIN beside them", m)
	case (m == identity.Phone) != (opts.Phone != ""):
		return errors.New("authenticators of kind phone need a phone number, and others have none")
	case (m == identity.OIDC) != (opts.Provider != ""):
		return errors.New("authenticators of kind oidc need a provider, and others have none")
	}
	return opts.KDF.Check()
}

// register does the cryptography and the requests. It does not wipe info.
func register(ctx context.Context, c Caller, n *Registering, m identity.Method, src Source, opts RegisterOptions, info identity.AuthenticationInformation) (*identity.Authenticator, *identity.Keys, error) {
	if opts.PersonalQuestion != "" {
		answer, err := src.Ask(ctx, Question{Topic: TopicAnswer, Text: opts.PersonalQuestion, Fresh: true})
		defer answer.Wipe()
		if err != nil {
			return nil, nil, err
		}
		info.Personal = answer
	}
	var wrappedPart []byte
	if m.HasServerPart() {
		part, wrapped, err := newServerPart(ctx, c, n, m)
		if err != nil {
			return nil, nil, err
		}
		defer part.Wipe()
		info.ServerPart, wrappedPart = part, wrapped
	}
	loginSecret, err := info.LoginSecret(n.ID, m)
	if err != nil {
		return nil, nil, err
	}
	defer loginSecret.Wipe()
	reg, request, err := identity.StartRegistration(loginSecret, n.ID, opts.KDF)
	if err != nil {
		return nil, nil, err
	}
	defer reg.Wipe()
	var reply struct {
		Response []byte `json:"response"`
	}
	in := map[string]any{"id": n.ID, "request": request, "kind": m}
	if err := c.Call(ctx, Write, "authenticators/"+n.Name+"/register", in, &reply); err != nil {
		return nil, nil, err
	}
	registration, exportKey, _, err := reg.Finish(reply.Response)
	if err != nil {
		return nil, nil, err
	}
	defer exportKey.Wipe()
	a, keys, signed, err := newAuthenticator(n, m, opts, exportKey)
	if err != nil {
		return nil, nil, err
	}
	in = map[string]any{"authenticator": signed.Authenticator, "signature": signed.Signature, "registration": registration}
	if m.HasServerPart() {
		in["server_part"] = wrappedPart
	}
	if m == identity.Phone {
		in["phone"] = opts.Phone
	}
	if err := c.Call(ctx, Write, "authenticators/"+n.Name, in, nil); err != nil {
		keys.Wipe()
		return nil, nil, err
	}
	return a, keys, nil
}

// newServerPart has the server make its part: the part, sealed to a key that
// serves this once, and the same wrapped by the server's HSM, for it to store. It
// comes before the registration, since it is a part of the login secret.
func newServerPart(ctx context.Context, c Caller, n *Registering, m identity.Method) (part *secret.Bytes, wrapped []byte, err error) {
	keys, err := ephemeral()
	if err != nil {
		return nil, nil, err
	}
	defer keys.Wipe()
	var reply struct {
		ServerPart []byte `json:"server_part"`
		SealedPart []byte `json:"sealed_part"`
	}
	in := map[string]any{"id": n.ID, "kind": m, "client_public": keys.Public().Seal}
	if err := c.Call(ctx, Write, "authenticators/"+n.Name+"/register", in, &reply); err != nil {
		return nil, nil, err
	}
	if len(reply.ServerPart) == 0 {
		return nil, nil, errors.New("the server made no part of its own for this kind of authenticator: nothing was made")
	}
	if part, err = keys.Open(identity.ServerPartContext(n.ID), reply.SealedPart); err != nil {
		return nil, nil, fmt.Errorf("the server's part does not open, so nothing was made: %w", err)
	}
	return part, reply.ServerPart, nil
}

func ephemeral() (*identity.Keys, error) {
	seed := identity.NewSeed()
	defer seed.Wipe()
	return identity.NewKeys(seed)
}

// newAuthenticator draws the seed and wraps it under the export key.
func newAuthenticator(n *Registering, m identity.Method, opts RegisterOptions, exportKey *secret.Bytes) (*identity.Authenticator, *identity.Keys, *identity.SignedAuthenticator, error) {
	kek, err := identity.AuthenticatorKEK(exportKey, n.ID)
	if err != nil {
		return nil, nil, nil, err
	}
	defer kek.Wipe()
	seed := identity.NewSeed()
	defer seed.Wipe()
	wrapped, err := identity.Wrap(kek, identity.AuthenticatorSeedContext(n.ID), seed)
	if err != nil {
		return nil, nil, nil, err
	}
	keys, err := identity.NewKeys(seed)
	if err != nil {
		return nil, nil, nil, err
	}
	a := &identity.Authenticator{
		Format: 1, ID: n.ID, Name: n.Name, Method: m, Keys: keys.Public(), KDF: opts.KDF,
		Created: opts.Now().UTC().Truncate(time.Second), PersonalInformation: opts.PersonalQuestion,
		PIN: opts.PIN, Wrapped: wrapped, Parameters: n.Parameters,
	}
	signed, err := identity.SignAuthenticator(a, keys)
	if err != nil {
		keys.Wipe()
		return nil, nil, nil, err
	}
	return a, keys, signed, nil
}

func wipeInformation(i *identity.AuthenticationInformation) {
	i.Information.Wipe()
	i.ServerPart.Wipe()
	i.Personal.Wipe()
}
