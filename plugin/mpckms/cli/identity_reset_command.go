package cli

import (
	"github.com/spf13/cobra"
)

func (a *app) identityResetCommand() *cobra.Command {
	var lost, roles []string
	cmd := &cobra.Command{
		Use:   "reset IDENTITY --lost AUTHENTICATOR... [--role ROLE]...",
		Short: "Replace all keys that a lost authenticator could open",
		Long: `Take an authenticator's grant away and replace everything that it opened: the
keys of its roles, the encryption of their assets, and the custody keys of their
accounts, whose shares are refreshed and sealed to the new ones. It is for an
authenticator that was lost or stolen, and for somebody who leaves.

Where several were lost at once, name all of them in one command: keys that are
replaced are sealed to everybody who stays. --role replaces the keys of a role that
nobody lost, for example after 'identity revoke'.

It needs another authenticator that opens the same roles and the owner role. It can be
interrupted at any point: run it again, and it goes on.

The roles are those of its level as it is now. Where it had another level before, or
where its grant was revoked already, name the roles that it opened then with --role. Who
had an authenticator that opens the owner role may have granted others something: look
at the list of those that is shown.

What the authenticator could read, it may have read. The command ends with the list of
these secrets: change them where they are used.`,
		Example: `  mpckms identity reset acme --lost ada --authenticator ada-key
  mpckms identity reset acme --lost ada --lost ada-phone --authenticator ada-key
  mpckms identity reset acme --role payroll`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(lost)+len(roles) == 0 {
				return usagef(cmd, "--lost names the authenticator that was lost, or --role a role")
			}
			for _, name := range lost {
				if err := checkName("authenticator", name); err != nil {
					return usagef(cmd, "--lost names the authenticator: %v", err)
				}
			}
			if err := checkRoles(roles); err != nil {
				return usagef(cmd, "--role: %v", err)
			}
			h, err := a.enter(cmd, args[0])
			if err != nil {
				return err
			}
			defer a.leave(h)
			r := &resetting{holder: h, custody: &accountReplacer{a, h}, roles: roles}
			if err := r.run(cmd.Context(), lost...); err != nil {
				return err
			}
			return a.print(r.doc, r.doc.write)
		},
	}
	cmd.Flags().StringArrayVar(&lost, "lost", nil, "an authenticator that was lost; may be repeated")
	a.completeFlag(cmd, "lost", a.authenticatorNames)
	cmd.Flags().StringArrayVar(&roles, "role", nil, "another role that is to have new keys, such as one that it opened once; may be repeated")
	return cmd
}
