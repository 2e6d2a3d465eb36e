package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/secret"
)

// openOffline is openOnline from this device's binding.
func (a *app) openOffline(cmd *cobra.Command, name, asset, key string, doc *secretDoc) (*secret.Bytes, error) {
	home, b, err := a.bound(name)
	if err != nil {
		return nil, err
	}
	info, err := a.localInformation(cmd, home, b)
	if err != nil {
		return nil, err
	}
	defer func() {
		info.Information.Wipe()
		info.Personal.Wipe()
	}()
	o, err := b.Open(info)
	if errors.Is(err, identity.ErrOpen) {
		return nil, &refusal{what: "login failed: what was given does not open this device's binding to identity " + quote(name)}
	}
	if err != nil {
		return nil, refusedBy("open identity "+quote(name)+" on this device", err)
	}
	defer o.Wipe()
	x, err := b.Asset(o, asset)
	if err != nil {
		return nil, refusedBy("read asset "+quote(doc.Asset)+" on this device", err)
	}
	if x == nil {
		return nil, &refusal{what: fmt.Sprintf("this device has no asset %s that opens for you, as of %s", quote(doc.Asset), b.Synced.UTC().Format(time.RFC3339)),
			advice: "While the server can be reached: 'mpckms device sync " + name + "'."}
	}
	return openKeyOf(o, x, key, doc)
}

// localInformation gets what the authenticator logs in with, without a server.
func (a *app) localInformation(cmd *cobra.Command, home *keyholder.Home, b *identity.Binding) (info identity.AuthenticationInformation, err error) {
	src, err := a.knownSource(cmd, home, b.AuthenticatorName, b.Method)
	if err != nil {
		return info, err
	}
	return keyholder.Inform(cmd.Context(), b, src)
}
