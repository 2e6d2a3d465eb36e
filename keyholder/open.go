package keyholder

import (
	"context"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/identity"
)

// Open fetches an identity and opens it with the authenticator of the session. It
// refuses a manifest that is older than what pins has or of another identity of
// the name, and has pins keep what it saw. The caller wipes what it returns.
// Errors: *Refusal, and those of identity.OpenIdentity.
func (s *Session) Open(ctx context.Context, name string, pins Pins) (*identity.Opened, error) {
	signed, err := FetchManifest(ctx, s, name)
	if err != nil {
		return nil, err
	}
	pin, err := pins.Pin(name)
	if err != nil {
		return nil, err
	}
	o, next, err := identity.OpenIdentity(signed, pin, s.authenticator.ID, s.keys)
	if err != nil {
		return nil, err
	}
	if o.Manifest.Name != name {
		err = fmt.Errorf("the server shows identity %s under the name %s: %w", o.Manifest.Name, name, identity.ErrSignature)
	} else {
		err = pins.SetPin(name, next)
	}
	if err != nil {
		o.Wipe()
		return nil, err
	}
	return o, nil
}

// FetchManifest reads the signed manifest of an identity. Nothing about it has
// been checked.
func FetchManifest(ctx context.Context, c Caller, name string) (*identity.SignedManifest, error) {
	if err := identity.CheckName("identity", name); err != nil {
		return nil, err
	}
	var s identity.SignedManifest
	if err := c.Call(ctx, Read, "identities/"+name, nil, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// Inform gets from a source what opens a device's binding, without any server. The
// caller wipes the parts.
func Inform(ctx context.Context, b *identity.Binding, src Source) (identity.AuthenticationInformation, error) {
	var info identity.AuthenticationInformation
	if src.Method() != b.Method || b.Method.HasServerPart() {
		return info, fmt.Errorf("this device is bound with an authenticator of kind %s: %w", b.Method, errors.ErrUnsupported)
	}
	ch := &Challenge{Name: b.AuthenticatorName, LoginID: b.Authenticator, KDF: b.KDF, PersonalInformation: b.PersonalInformation}
	if c := b.Parameters.Certificate; c != nil {
		ch.Certificate = &CertificateChallenge{Algorithm: c.Algorithm, Sealed: c.Sealed}
	}
	if p := b.Parameters.Passkey; p != nil {
		ch.Passkey = &PasskeyChallenge{RelyingParty: p.RelyingParty, CredentialID: p.CredentialID, Salt: p.Salt, PublicKey: p.PublicKey}
	}
	if err := inform(ctx, nil, ch, b.Method, src, &info); err != nil {
		wipeInformation(&info)
		return identity.AuthenticationInformation{}, err
	}
	return info, nil
}
