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

// StoreManifest writes the next manifest of an identity, or its first, and pins it.
// force lets go of roles that nobody would open any more. The engine compares and
// swaps: a *Refusal with status 409 says that somebody else was first, and nothing
// was changed.
func StoreManifest(ctx context.Context, c Caller, pins Pins, s *identity.SignedManifest, force bool) error {
	m, err := s.Verify()
	if err != nil {
		return err
	}
	pin, err := pins.Pin(m.Name)
	if err != nil {
		return err
	}
	next, err := pin.Check(s, m)
	if err != nil {
		return err
	}
	in := map[string]any{"manifest": s.Manifest, "signature": s.Signature}
	if force {
		in["force"] = true
	}
	if err := c.Call(ctx, Write, "identities/"+m.Name, in, nil); err != nil {
		return err
	}
	return pins.SetPin(m.Name, next)
}

// AssetPins keeps the newest state of assets that was seen.
type AssetPins interface {
	AssetPin(identityName, asset string) (identity.AssetPin, error)
	SetAssetPin(identityName, asset string, p identity.AssetPin) error
	ForgetAssetPin(identityName, asset string) error
}

// FetchAsset reads an asset of an opened identity and verifies it, against what
// pins has too, and has pins keep what it saw.
func FetchAsset(ctx context.Context, c Caller, o *identity.Opened, name string, pins AssetPins) (*identity.Asset, *identity.SignedAsset, error) {
	if err := identity.CheckName("asset", name); err != nil {
		return nil, nil, err
	}
	var s identity.SignedAsset
	if err := c.Call(ctx, Read, "identities/"+o.Manifest.Name+"/assets/"+name, nil, &s); err != nil {
		return nil, nil, err
	}
	a, err := o.OpenAssetNamed(name, &s)
	if err != nil {
		return nil, nil, err
	}
	return a, &s, keepAsset(o.Manifest.Name, a, &s, pins)
}

// StoreAsset writes the next generation of an asset, or its first, and pins it. A
// *Refusal with status 409 says that somebody else was first.
func StoreAsset(ctx context.Context, c Caller, o *identity.Opened, s *identity.SignedAsset, pins AssetPins) error {
	a, err := o.OpenAsset(s)
	if err != nil {
		return err
	}
	err = c.Call(ctx, Write, "identities/"+o.Manifest.Name+"/assets/"+a.Name, map[string]any{"asset": s.Asset, "signature": s.Signature}, nil)
	if err != nil {
		return err
	}
	return keepAsset(o.Manifest.Name, a, s, pins)
}

func keepAsset(identityName string, a *identity.Asset, s *identity.SignedAsset, pins AssetPins) error {
	pin, err := pins.AssetPin(identityName, a.Name)
	if err != nil {
		return err
	}
	next, err := pin.Check(s, a)
	if err != nil {
		return err
	}
	return pins.SetAssetPin(identityName, a.Name, next)
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
	if err := inform(ctx, nil, ch, b.Method, src, &info); err != nil {
		wipeInformation(&info)
		return identity.AuthenticationInformation{}, err
	}
	return info, nil
}
