package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// bound is this home and its binding to an identity.
func (a *app) bound(name string) (*keyholder.Home, *identity.Binding, error) {
	home, err := a.home()
	if err != nil {
		return nil, nil, err
	}
	b, err := binding(home, name)
	return home, b, err
}

// binding reads this device's binding to an identity.
func binding(home *keyholder.Home, name string) (*identity.Binding, error) {
	raw, err := home.Binding(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &refusal{what: fmt.Sprintf("this device is not bound to identity %q", name),
			advice: "While the server can be reached: 'mpckms device bind " + name + "'."}
	}
	if err != nil {
		return nil, err
	}
	b, err := identity.ParseBinding(raw)
	if err != nil {
		return nil, refusedBy("read this device's binding to identity "+quote(name), err)
	}
	return b, nil
}

func (a *app) deviceSyncCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "sync IDENTITY",
		Short: "Fetch what has changed; forget the keys if the device was revoked",
		Long: `Fetch what has changed since the device was bound, or synced last. A device that was
revoked, whose authenticator was reported lost or has no grant any more, forgets its keys.`,
		Example:           `  mpckms device sync acme`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			home, b, err := a.bound(args[0])
			if err != nil {
				return err
			}
			if err := a.sync(cmd, home, b); err != nil {
				return err
			}
			doc := deviceDocOf(b)
			return a.print(doc, doc.write)
		},
	}
}

func (a *app) sync(cmd *cobra.Command, home *keyholder.Home, b *identity.Binding) error {
	ctx, name := cmd.Context(), b.IdentityName
	s, _, err := a.logInAs(cmd, b.AuthenticatorName)
	if err != nil {
		if reportedLost(err) {
			return a.revoked(home, name, "its authenticator was reported lost")
		}
		return err
	}
	defer a.endSession(s)
	var device struct {
		State string `json:"state"`
	}
	err = s.Call(ctx, keyholder.Read, devicesPath(b.AuthenticatorName)+"/"+b.DeviceID.String(), nil, &device)
	switch {
	case statusOf(err) == http.StatusNotFound, err == nil && device.State != "bound":
		return a.revoked(home, name, "the server has revoked it")
	case err != nil:
		return refusedBy("sync this device", err)
	}
	h, err := hold(ctx, loggedIn(s, home), home, name)
	if errors.Is(err, identity.ErrNotGranted) {
		return a.revoked(home, name, "its authenticator has no grant any more")
	}
	if err != nil {
		return err
	}
	defer h.close()
	assets, err := h.mine(ctx)
	if err != nil {
		return err
	}
	err = b.Update(h.opened, s.Info(), assets, time.Now())
	if errors.Is(err, identity.ErrOpen) { // it was bound with a secret that has been changed since
		err = b.Rebind(h.opened, s.Authenticator(), s.Info(), assets, time.Now())
	}
	if err != nil {
		return refusedBy("sync this device", err)
	}
	raw, err := b.Marshal()
	if err != nil {
		return refusedBy("sync this device", err)
	}
	return home.SetBinding(name, raw)
}

// reportedLost recognizes the refusal of a login whose authenticator was reported
// lost, which the server gives to nobody but who has its secret.
func reportedLost(err error) bool {
	var r *refusal
	return statusOf(err) == http.StatusConflict || errors.As(err, &r) && r.status == http.StatusConflict && r.said("reported lost")
}

// revoked forgets a binding and says so.
func (a *app) revoked(home *keyholder.Home, name, why string) error {
	if err := home.ForgetBinding(name); err != nil {
		return err
	}
	return &refusal{what: fmt.Sprintf("this device is no longer bound to identity %q: %s", name, why),
		advice: "Its keys were removed from this device. If that is a mistake, bind it anew with an authenticator that has a grant."}
}
