package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// authenticatorsDoc is the JSON document of `authenticator list`.
type authenticatorsDoc struct {
	Home           string               `json:"home"`
	Authenticators []authenticatorEntry `json:"authenticators"`
}

type authenticatorEntry struct {
	Name string          `json:"name"`
	Kind identity.Method `json:"kind,omitempty"`
	// Uses says what it is used with here: a path, a token.
	Uses       string   `json:"uses,omitempty"`
	KnownHere  bool     `json:"known_here"`
	Identities []string `json:"identities"`
}

func (a *app) authenticatorListCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the authenticators that are known here",
		Long: `List the authenticators that are known here, what they are used with, and which identities
they opened at their last login. With --all those that the server has for everybody too,
which needs a Vault token.`,
		Example: `  mpckms authenticator list
  mpckms authenticator list --all`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			known, err := home.Authenticators()
			if err != nil {
				return err
			}
			doc := &authenticatorsDoc{Home: home.Dir(), Authenticators: []authenticatorEntry{}}
			for _, k := range known {
				doc.Authenticators = append(doc.Authenticators, authenticatorEntry{Name: k.Name, Kind: k.Method, Uses: uses(k), KnownHere: true, Identities: append([]string{}, k.Identities...)})
			}
			if all {
				if err := a.addOthers(cmd, doc); err != nil {
					return err
				}
			}
			return a.print(doc, doc.write)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "those of everybody, which the server has")
	return cmd
}

func (a *app) addOthers(cmd *cobra.Command, doc *authenticatorsDoc) error {
	c, err := a.tokenCaller("list the authenticators")
	if err != nil {
		return err
	}
	var list struct {
		Keys []string `json:"keys"`
	}
	if err := c.Call(cmd.Context(), keyholder.List, "authenticators", nil, &list); err != nil {
		return failedTo(c.what, err)
	}
	for _, name := range list.Keys {
		if !slices.ContainsFunc(doc.Authenticators, func(e authenticatorEntry) bool { return e.Name == name }) {
			doc.Authenticators = append(doc.Authenticators, authenticatorEntry{Name: name, Identities: []string{}})
		}
	}
	slices.SortFunc(doc.Authenticators, func(x, y authenticatorEntry) int { return strings.Compare(x.Name, y.Name) })
	return nil
}

// uses says what an authenticator is used with, for people.
func uses(k keyholder.Known) string {
	switch {
	case k.KeyFile != "":
		return k.KeyFile
	case k.TokenURI != "":
		return k.Module + ", " + k.TokenURI
	case k.Key != "":
		return k.Key
	case k.Method == identity.Device && k.FileKeyring:
		return "a file of this home"
	case k.Method == identity.Device:
		return "the keyring of this user"
	}
	return ""
}

func (d *authenticatorsDoc) write(t *text) {
	if len(d.Authenticators) == 0 {
		t.line("No authenticators are known in " + d.Home + ".")
		t.line("Make one with 'mpckms authenticator create', or log in with one from elsewhere: 'mpckms login --authenticator NAME --kind KIND'.")
		return
	}
	rows := make([][]string, len(d.Authenticators))
	for i, e := range d.Authenticators {
		rows[i] = []string{e.Name, string(e.Kind), e.Uses, strings.Join(e.Identities, ", "), yesNo(e.KnownHere)}
	}
	t.table("", []string{"AUTHENTICATOR", "KIND", "USED WITH", "OPENED LAST", "KNOWN HERE"}, rows)
}

func (a *app) authenticatorShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show an authenticator, what it opens and the devices bound with it",
		Example:           `  mpckms authenticator show ada`,
		Args:              authenticatorArg,
		ValidArgsFunction: a.completeNames(a.authenticatorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.authenticatorState(cmd, args[0], "show", "", nil)
		},
	}
}

func (a *app) authenticatorLostCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "lost NAME",
		Short: "Report an authenticator lost: it stops working at once",
		Long: `Report an authenticator lost. Nobody logs in with it from now on, its sessions end, and
devices bound with it learn it at their next contact. What somebody copied before stays
copied: 'mpckms identity reset' replaces every key that it opened.`,
		Example:           `  mpckms authenticator lost ada-card --reason "left in a train"`,
		Args:              authenticatorArg,
		ValidArgsFunction: a.completeNames(a.authenticatorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.authenticatorState(cmd, args[0], "report the loss of", "lost", map[string]any{"reason": reason})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who look later")
	return cmd
}

func (a *app) authenticatorFoundCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "found NAME",
		Short:             "Take back the report that an authenticator is lost",
		Example:           `  mpckms authenticator found ada-card`,
		Args:              authenticatorArg,
		ValidArgsFunction: a.completeNames(a.authenticatorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.authenticatorState(cmd, args[0], "take back the loss of", "found", nil)
		},
	}
}

func (a *app) authenticatorUnlockCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unlock NAME",
		Short: "Let an authenticator be tried again after too many wrong tries",
		Long: `Let an authenticator be tried again before its lock ends by itself. Ask its owner first
whether the wrong tries were his.`,
		Example:           `  mpckms authenticator unlock ada`,
		Args:              authenticatorArg,
		ValidArgsFunction: a.completeNames(a.authenticatorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.authenticatorState(cmd, args[0], "unlock", "unlock", nil)
		},
	}
}

// authenticatorState carries out a verb, if there is one, with the Vault token and
// shows the authenticator as it is then.
func (a *app) authenticatorState(cmd *cobra.Command, name, what, verb string, in map[string]any) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	c, err := a.tokenCaller(fmt.Sprintf("%s authenticator %q", what, name))
	if err != nil {
		return err
	}
	if verb != "" {
		if err := c.Call(cmd.Context(), keyholder.Write, "authenticators/"+name+"/"+verb, in, nil); err != nil {
			return failedTo(c.what, err)
		}
	}
	doc, err := a.readAuthenticator(cmd.Context(), c, home, name)
	if err != nil {
		return err
	}
	return a.print(doc, doc.write)
}

func (a *app) authenticatorDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete an authenticator that no identity grants anything",
		Long: `Delete an authenticator from the server, and what is known of it here: for kind device also
its secret in the keyring. A key file or token is left alone. While an identity grants it a
level it is not deleted: 'mpckms identity revoke' takes the level away.`,
		Example:           `  mpckms authenticator delete ada-old`,
		Args:              authenticatorArg,
		ValidArgsFunction: a.completeNames(a.authenticatorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			c, err := a.tokenCaller(fmt.Sprintf("delete authenticator %q", args[0]))
			if err != nil {
				return err
			}
			if err := c.Call(cmd.Context(), keyholder.Delete, "authenticators/"+args[0], nil, nil); err != nil {
				return failedTo(c.what, err)
			}
			if _, err := a.forget(home, args[0]); err != nil {
				return failedTo("forget authenticator "+args[0]+", which was deleted from the server", err)
			}
			return a.print(map[string]string{"deleted": args[0]}, func(t *text) { t.line("Authenticator " + args[0] + " was deleted.") })
		},
	}
}

func (a *app) authenticatorForgetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "forget NAME",
		Short: "Forget here how an authenticator is used; the server keeps it",
		Long: `Forget here how an authenticator is used. The server keeps it, and it can be made known
again with 'mpckms login --authenticator NAME --kind KIND'; but the secret of kind device is
nowhere else and is gone then.`,
		Example:           `  mpckms authenticator forget ada-old`,
		Args:              authenticatorArg,
		ValidArgsFunction: a.completeNames(a.authenticatorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			known, err := a.forget(home, args[0])
			if err == nil && !known {
				err = &refusal{what: fmt.Sprintf("authenticator %q is not known in %s", args[0], home.Dir())}
			}
			if err != nil {
				return err
			}
			return a.print(map[string]string{"forgotten": args[0]}, func(t *text) { t.line("Authenticator " + args[0] + " is not known here any more.") })
		},
	}
}

// forget removes what this home and the keyring have of an authenticator.
func (a *app) forget(home *keyholder.Home, name string) (known bool, err error) {
	k, known, err := home.Authenticator(name)
	if err != nil || !known {
		return known, err
	}
	if k.Method == identity.Device {
		err = a.keyring(home, k.FileKeyring).Delete(name)
	}
	return true, errors.Join(err, home.ForgetAuthenticator(name))
}
