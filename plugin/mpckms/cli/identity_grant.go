package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

func (a *app) identityGrantCommand() *cobra.Command {
	var (
		level, expected string
		yes, custody    bool
	)
	cmd := &cobra.Command{
		Use:   "grant IDENTITY AUTHENTICATOR --level LEVEL",
		Short: "Give an authenticator a level of an identity, or another one",
		Long: `Give an authenticator, yours or somebody else's, a level of the identity: the keys of
the level's roles are sealed to the authenticator's public key. Compare the fingerprint of
that key with its owner, who sees it with 'mpckms login': a server could show a key of its
own instead. Give it with --fingerprint, or compare it when asked; --yes compares nothing.

For an authenticator that has a grant already, the level is changed, and --custody has
to be said again; --fingerprint is compared with the key that it has. Reading the public
key of one that has no grant needs a Vault token.`,
		Example: `  mpckms identity grant acme ben --level staff --fingerprint "925c 441c 5028 8cb5 e8f9 3f35 8e2d cd7a"
  mpckms identity grant acme ben-phone --level visitors --yes`,
		Args:              namesArg("identity", "authenticator"),
		ValidArgsFunction: a.completeNames(a.identityNames, a.authenticatorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if level == "" {
				return usagef(cmd, "give --level, what the authenticator is to open: 'mpckms identity show %s' lists the levels", args[0])
			}
			if err := checkName("level", level); err != nil {
				return usagef(cmd, "%v", err)
			}
			return a.changing(cmd, args[0], fmt.Sprintf("grant %q level %q", args[1], level), false, func(h *holder) ([]identity.Change, error) {
				if g := grantOf(h.opened.Manifest, args[1]); g != nil {
					return changeGrant(g, level, custody, expected)
				}
				who, err := a.grantee(cmd.Context(), h, args[1])
				if err != nil {
					return nil, err
				}
				if err := a.compare(cmd.Context(), who, expected, yes); err != nil {
					return nil, err
				}
				return []identity.Change{identity.AddGrant{Authenticator: who, Level: level, Custody: custody}}, nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&level, "level", "", "the access level")
	flags.StringVar(&expected, "fingerprint", "", "of the authenticator's key, as its owner has told you")
	flags.BoolVar(&yes, "yes", false, "do not ask to compare the fingerprint")
	flags.BoolVar(&custody, "custody", false, "a server-trusting authenticator may open roles with custody keys: then the server alone could sign")
	return cmd
}

// changeGrant gives who has a grant another level. A fingerprint that was given is
// compared with the key which has the grant, so that it is never passed over.
func changeGrant(g *identity.Grant, level string, custody bool, expected string) ([]identity.Change, error) {
	if got := g.Fingerprint(); expected != "" && !sameFingerprint(expected, got) {
		return nil, otherFingerprint(fmt.Sprintf("the authenticator %q that has a grant has the fingerprint %s, not the one given", g.Name, got))
	}
	return []identity.Change{identity.SetGrant{Authenticator: g.Authenticator, Level: level, Custody: custody}}, nil
}

// publicAuthenticator is what the server tells about one to who wants to grant it
// something.
type publicAuthenticator struct {
	Name           string              `json:"name"`
	ID             identity.ID         `json:"id"`
	Kind           identity.Method     `json:"kind"`
	PIN            bool                `json:"pin"`
	ServerTrusting bool                `json:"server_trusting"`
	State          string              `json:"state"`
	Public         identity.PublicKeys `json:"public"`
}

// grantee reads whom the grant is for: in the session where the server shows it
// there, with the Vault token otherwise.
func (a *app) grantee(ctx context.Context, h *holder, name string) (*identity.Authenticator, error) {
	what, path := "read authenticator "+quote(name), "authenticators/"+name
	var p publicAuthenticator
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	if c.hasToken {
		_, err = c.do(ctx, request{what: what, capability: capRead, path: path}, &p)
	} else {
		err = refusedBy(what, h.Call(ctx, keyholder.Read, path, nil, &p))
	}
	if err != nil {
		return nil, err
	}
	who := &identity.Authenticator{Format: 1, ID: p.ID, Name: name, Method: p.Kind, PIN: p.PIN, Keys: p.Public}
	switch {
	case p.Name != name || p.ID == identity.ID{} || !p.Kind.Valid() || p.Public.Check() != nil:
		return nil, refusedBy(what, errForm(errors.New("no authenticator with its keys")))
	case p.State == "lost":
		return nil, &refusal{what: fmt.Sprintf("authenticator %q was reported lost", name), advice: "Nothing was granted. If it was found: 'mpckms authenticator found " + name + "'."}
	case p.ServerTrusting != who.ServerTrusting():
		return nil, refusedBy(what, errors.New("the server says of its kind what cannot be"))
	}
	return who, nil
}

func otherFingerprint(what string) error {
	return &refusal{what: what, advice: "Nothing was granted. Either the fingerprint is another authenticator's, or the server showed a key of its own."}
}

// compare makes sure that the key is the authenticator's own.
func (a *app) compare(ctx context.Context, who *identity.Authenticator, expected string, yes bool) error {
	got := who.Fingerprint()
	switch {
	case expected != "" && !sameFingerprint(expected, got):
		return otherFingerprint(fmt.Sprintf("the server shows authenticator %q with the fingerprint %s, not the one given", who.Name, got))
	case expected != "" || yes:
		return nil
	}
	a.note("Authenticator %q (%s) has the fingerprint %s", who.Name, who.Method, got)
	if err := a.confirm(ctx, "Is it the same that its owner sees? Type yes to go on: "); err != nil {
		return errors.New("not confirmed: nothing was granted. Give --fingerprint, or --yes to compare nothing")
	}
	return nil
}
