package keyholder

import (
	"context"

	"vault-plugin-secrets-mpc/identity"
)

// Reading and writing the records of an identity that somebody has opened.

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
