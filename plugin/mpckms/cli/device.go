package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/secret"
)

func (a *app) deviceCommand() *cobra.Command {
	cmd := group("device", "This device: an approver's, and bound to identities")
	cmd.Long = `A device can be two things, which have nothing to do with one another:

An approver's device holds a key of its own and answers requests for approval: 'enrol' makes
it one, 'factors' shows what it holds, 'show', 'approve' and 'refuse' answer the request whose
code was scanned.

A device that is bound to an identity keeps its assets, to open them without the server:
'bind', 'list', 'sync' and 'unbind'.`
	cmd.AddCommand(a.deviceEnrolCommand(), a.deviceFactorsCommand(), a.deviceShowCommand(), a.deviceApproveCommand(), a.deviceRefuseCommand(),
		a.deviceBindCommand(), a.deviceListCommand(), a.deviceSyncCommand(), a.deviceUnbindCommand())
	return cmd
}

// deviceDoc is the JSON document of a binding.
type deviceDoc struct {
	Identity      string `json:"identity"`
	Authenticator string `json:"authenticator"`
	Device        string `json:"device"` // ID
	Assets        int    `json:"assets"`
	Synced        string `json:"synced_time"`
}

func deviceDocOf(b *identity.Binding) deviceDoc {
	return deviceDoc{Identity: b.IdentityName, Authenticator: b.AuthenticatorName, Device: b.DeviceID.String(),
		Assets: len(b.Assets), Synced: b.Synced.UTC().Format(time.RFC3339)}
}

func (doc deviceDoc) write(t *text) {
	t.pairs("", "Identity", doc.Identity, "Authenticator", doc.Authenticator, "Device", doc.Device,
		"Assets", fmt.Sprint(doc.Assets), "As of", doc.Synced)
}

// devicesPath is where the server keeps the devices of an authenticator.
func devicesPath(authenticator string) string { return "authenticators/" + authenticator + "/devices" }

func (a *app) deviceBindCommand() *cobra.Command {
	var label string
	cmd := &cobra.Command{
		Use:   "bind IDENTITY [--label TEXT]",
		Short: "Keep an identity on this device, to open it without the server",
		Long: `Keep an identity's assets and the role keys of your level on this device, under a key
that only your authenticator opens. 'secret show --offline' then needs no server.

Who steals the device's storage can try passwords on it as fast as Argon2id lets him.
Authenticators whose secret the server keeps a part of (a third party's account, a phone)
cannot be bound.`,
		Example:           `  mpckms device bind acme --label "Ada's laptop"`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, home, err := a.logIn(cmd, args[0])
			if err != nil {
				return err
			}
			defer a.endSession(s)
			if label == "" {
				label, _ = os.Hostname() // an empty one is the server's to refuse
			}
			b, err := a.bind(cmd.Context(), s, home, args[0], label)
			if err != nil {
				return err
			}
			doc := deviceDocOf(b)
			return a.print(doc, doc.write)
		},
	}
	cmd.Flags().StringVar(&label, "label", "", "what people call this device (default: its host name)")
	return cmd
}

func (a *app) bind(ctx context.Context, s *keyholder.Session, home *keyholder.Home, name, label string) (*identity.Binding, error) {
	what := "bind this device to identity " + quote(name)
	if _, err := home.Binding(name); err == nil {
		return nil, &refusal{what: fmt.Sprintf("this device is bound to identity %q already", name),
			advice: "'mpckms device sync " + name + "' fetches what has changed; 'mpckms device unbind " + name + "' ends it."}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	h, err := hold(ctx, loggedIn(s, home), home, name)
	if err != nil {
		return nil, err
	}
	defer h.close()
	assets, err := h.mine(ctx)
	if err != nil {
		return nil, err
	}
	b, err := identity.Bind(h.opened, s.Authenticator(), s.Info(), identity.NewID(), assets, time.Now())
	if err != nil {
		return nil, refusedBy(what, err)
	}
	raw, err := b.Marshal()
	if err != nil {
		return nil, refusedBy(what, err)
	}
	// The server first: a device that it does not know of could not be revoked.
	path := devicesPath(s.Authenticator().Name)
	if err := s.Call(ctx, keyholder.Write, path, map[string]any{"identity": name, "label": label, "device": b.DeviceID.String()}, nil); err != nil {
		return nil, refusedBy(what, err)
	}
	if err := home.SetBinding(name, raw); err != nil {
		return nil, errors.Join(err, s.Call(ctx, keyholder.Delete, path+"/"+b.DeviceID.String(), nil, nil))
	}
	return b, nil
}

// mine returns the assets of which this authenticator opens at least one key.
func (h *holder) mine(ctx context.Context) ([]*identity.SignedAsset, error) {
	names, err := h.assetNames(ctx)
	if err != nil {
		return nil, err
	}
	var out []*identity.SignedAsset
	for _, name := range names {
		x, signed, err := h.asset(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, role := range x.Roles() {
			if h.opened.Roles[role] != nil {
				out = append(out, signed)
				break
			}
		}
	}
	return out, nil
}

// deviceListDoc is the JSON document of `device list`.
type deviceListDoc struct {
	Devices []deviceDoc `json:"devices"`
}

func (a *app) deviceListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the identities that this device is bound to",
		Long: `List the identities that this device is bound to, as this home has them; no server is
asked. 'mpckms authenticator show' lists the devices that the server knows of.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			names, err := home.Bindings()
			if err != nil {
				return err
			}
			doc := deviceListDoc{Devices: []deviceDoc{}}
			for _, name := range names {
				b, err := binding(home, name)
				if err != nil {
					return err
				}
				doc.Devices = append(doc.Devices, deviceDocOf(b))
			}
			return a.print(doc, func(t *text) {
				if len(doc.Devices) == 0 {
					t.line("This device is bound to no identity.")
					return
				}
				var rows [][]string
				for _, d := range doc.Devices {
					rows = append(rows, []string{d.Identity, d.Authenticator, fmt.Sprint(d.Assets), d.Synced})
				}
				t.table("", []string{"IDENTITY", "AUTHENTICATOR", "ASSETS", "AS OF"}, rows)
			})
		},
	}
}

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

func (a *app) deviceUnbindCommand() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use:   "unbind IDENTITY [--local]",
		Short: "Remove an identity's keys from this device",
		Example: `  mpckms device unbind acme
  mpckms device unbind acme --local`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			home, b, err := a.bound(args[0])
			if err != nil {
				return err
			}
			if err := home.ForgetBinding(args[0]); err != nil {
				return err
			}
			if !local {
				if err := a.tellUnbound(cmd, b); err != nil {
					return fmt.Errorf("the keys are removed from this device, but the server was not told: %w", err)
				}
			}
			doc := deletedDoc{Name: args[0], Deleted: true}
			return a.print(doc, func(t *text) { t.line(fmt.Sprintf("This device is no longer bound to identity %q.", args[0])) })
		},
	}
	cmd.Flags().BoolVar(&local, "local", false, "do not tell the server, which goes on listing the device")
	return cmd
}

func (a *app) tellUnbound(cmd *cobra.Command, b *identity.Binding) error {
	s, _, err := a.logInAs(cmd, b.AuthenticatorName)
	if err != nil {
		return err
	}
	defer a.endSession(s)
	err = s.Call(cmd.Context(), keyholder.Delete, devicesPath(b.AuthenticatorName)+"/"+b.DeviceID.String(), nil, nil)
	return refusedBy("unbind the device", err)
}

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
