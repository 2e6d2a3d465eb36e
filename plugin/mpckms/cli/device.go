package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
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
