package cli

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// fullLevel is the level of who creates an identity: all of its roles.
const fullLevel = "full"

func (a *app) identityCreateCommand() *cobra.Command {
	var (
		kind                    string
		roles, levels, trusting []string
	)
	cmd := &cobra.Command{
		Use:   "create IDENTITY --kind KIND [--role ROLE]... [--level LEVEL=ROLE,ROLE]...",
		Short: "Create an identity; your authenticator opens all of it",
		Long: `Create an identity. It has the role owner, which alone may change it, and the roles
that are named. The authenticator that creates it has level full, which opens them all.

Creating one needs a Vault token that may write identities, besides the login.`,
		Example: `  mpckms identity create ada --kind person --authenticator ada-password
  mpckms identity create acme --kind organization --role web --role treasury \
      --level staff=web --level visitors=web --server-trusting visitors`,
		Args: identityArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKind(cmd, kind); err != nil {
				return err
			}
			if err := checkRoles(roles); err != nil {
				return usagef(cmd, "%v", err)
			}
			extra, err := parseLevels(cmd, levels, trusting)
			if err != nil {
				return err
			}
			roles = slices.DeleteFunc(roles, func(r string) bool { return r == identity.OwnerRole })
			for _, l := range extra {
				for _, r := range l.Roles {
					if r != identity.OwnerRole && !slices.Contains(roles, r) {
						return usagef(cmd, "level %q opens role %q, which no --role makes", l.Name, r)
					}
				}
			}
			if !slices.ContainsFunc(extra, func(l identity.Level) bool { return l.Name == fullLevel }) {
				extra = append(extra, identity.Level{Name: fullLevel, Roles: append([]string{identity.OwnerRole}, roles...)})
			}
			return a.createIdentity(cmd, identity.NewIdentity{Name: args[0], Kind: identity.Kind(kind), Roles: roles, Levels: extra, Level: fullLevel})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&kind, "kind", string(identity.Person), "whose it is: person, persona or organization")
	complete(cmd, "kind", identityKinds...)
	flags.StringArrayVar(&roles, "role", nil, "a role beside owner; may be repeated")
	flags.StringArrayVar(&levels, "level", nil, "an access level as NAME=ROLE,ROLE; may be repeated")
	flags.StringArrayVar(&trusting, "server-trusting", nil, "name of such a level that authenticators may have whose only secret the server keeps")
	return cmd
}

func (a *app) createIdentity(cmd *cobra.Command, n identity.NewIdentity) error {
	what := "create identity " + quote(n.Name)
	c, err := a.connect()
	if err != nil {
		return err
	}
	if !c.hasToken {
		return &refusal{what: "cannot " + what, client: c, status: http.StatusForbidden}
	}
	s, home, err := a.logIn(cmd, "")
	if err != nil {
		return err
	}
	defer a.endSession(s)
	if err := refuseKnown(home, n.Name); err != nil {
		return err
	}
	n.Authenticator, n.Keys, n.Time = s.Authenticator(), s.Keys(), time.Now()
	signed, opened, err := identity.Create(n)
	if err != nil {
		return notValid(what, "Nothing was created.", err)
	}
	defer opened.Wipe()
	var there struct{}
	_, err = c.do(cmd.Context(), request{what: "read identity " + quote(n.Name), capability: capRead, path: "identities/" + n.Name}, &there)
	if err == nil {
		return &refusal{what: fmt.Sprintf("identity %q exists already; nothing was changed", n.Name),
			advice: "Look at it with 'mpckms identity show " + n.Name + "', or choose another name."}
	}
	if _, err := c.do(cmd.Context(), request{what: what, capability: capCreate, path: "identities/" + n.Name, body: manifestBody(signed, false)}, nil); err != nil {
		return err
	}
	pin, err := identity.Pin{}.Check(signed, opened.Manifest)
	if err == nil {
		err = home.SetPin(n.Name, pin)
	}
	if err != nil {
		return refusedBy("remember the new identity "+quote(n.Name), err)
	}
	doc := describe(opened.Manifest, nil)
	return a.print(doc, doc.write)
}

// refuseKnown: a name that this home has pinned is another identity's.
func refuseKnown(home *keyholder.Home, name string) error {
	pin, err := home.Pin(name)
	if err != nil {
		return err
	}
	if pin.Identity != (identity.ID{}) {
		return &refusal{what: fmt.Sprintf("this home knows an identity %q already, with the ID %s; nothing was changed", name, pin.Identity),
			advice: "If that one was deleted elsewhere, 'mpckms identity forget " + name + "' forgets it here and deletes nothing. Else choose another name."}
	}
	return nil
}
