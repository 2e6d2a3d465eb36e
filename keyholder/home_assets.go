package keyholder

import (
	"os"
	"path/filepath"

	"vault-plugin-secrets-mpc/identity"
)

// homeAssets has IDENTITY/NAME.json: identity.AssetPin. A manifest does not say
// which generation its assets have, so that a server could show an older one.
const homeAssets = "assets"

var _ AssetPins = (*Home)(nil)

// AssetPin implements AssetPins.
func (h *Home) AssetPin(identityName, asset string) (p identity.AssetPin, err error) {
	sub, err := h.assets(identityName)
	if err != nil {
		return p, err
	}
	_, err = h.read(sub, asset, &p)
	return p, err
}

// SetAssetPin implements AssetPins. A pin of an older generation than the one on
// disk, which another process may have written meanwhile, is dropped.
func (h *Home) SetAssetPin(identityName, asset string, p identity.AssetPin) error {
	sub, err := h.assets(identityName)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(h.dir, sub), 0o700); err != nil {
		return err
	}
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	have, err := h.AssetPin(identityName, asset)
	if err != nil {
		return err
	}
	if have.Asset == p.Asset && have.Generation > p.Generation {
		return nil
	}
	return h.write(sub, asset, p)
}

// ForgetAssetPin implements AssetPins, for an asset that its user deleted.
func (h *Home) ForgetAssetPin(identityName, asset string) error {
	sub, err := h.assets(identityName)
	if err != nil {
		return err
	}
	return h.remove(sub, asset)
}

// ForgetAssets forgets all assets of an identity, with the identity.
func (h *Home) ForgetAssets(identityName string) error {
	sub, err := h.assets(identityName)
	if err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(h.dir, sub))
}

func (h *Home) assets(identityName string) (string, error) {
	return filepath.Join(homeAssets, identityName), identity.CheckName("identity", identityName)
}
