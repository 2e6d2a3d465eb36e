package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
)

// identityListDoc is the JSON document of `identity list`.
type identityListDoc struct {
	Mount      string   `json:"mount"`
	Identities []string `json:"identities"`
}

func (a *app) identityListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the identities of the mount",
		Long: `List the identities of the mount. It needs a Vault token; 'mpckms login' shows the
identities that your authenticator opens, and needs none.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			l, err := c.list(cmd.Context(), "list identities", "identities")
			if err != nil {
				return err
			}
			doc := identityListDoc{Mount: c.mount, Identities: append([]string{}, l.Keys...)}
			return a.print(doc, func(t *text) {
				if len(doc.Identities) == 0 {
					t.line("No identities. Make one with 'mpckms identity create'.")
				}
				for _, name := range doc.Identities {
					t.line(name)
				}
			})
		},
	}
}

func (a *app) identityShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show IDENTITY",
		Short: "Show an identity: roles, levels and who has which",
		Long: `Show an identity: its roles and access levels, and which authenticator has which.
What is shown is what its owner has signed, checked here, and not older than what this
home has seen before; state and assets are what the server says.

It takes a Vault token if there is one, and logs in otherwise.`,
		Example: `  mpckms identity show acme
  mpckms identity show acme -o json`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			var stored storedIdentity
			if c.hasToken {
				_, err = c.do(cmd.Context(), request{what: "show identity " + quote(args[0]), capability: capRead, path: "identities/" + args[0]}, &stored)
			} else {
				var h *holder
				if h, err = a.enter(cmd, args[0]); err == nil {
					defer a.leave(h)
					err = refusedBy("show identity "+quote(args[0]), h.Call(cmd.Context(), keyholder.Read, "identities/"+args[0], nil, &stored))
				}
			}
			if err != nil {
				return err
			}
			m, err := a.verified(args[0], &stored)
			if err != nil {
				return refusedBy("show identity "+quote(args[0]), err)
			}
			doc := describe(m, &stored.serverFacts)
			return a.print(doc, doc.write)
		},
	}
}

// storedIdentity is what the server answers about one.
type storedIdentity struct {
	serverFacts
	Manifest  []byte `json:"manifest"`
	Signature []byte `json:"signature"`
}

// verified checks what the server shows under a name, against the pin too, and
// keeps the pin.
func (a *app) verified(name string, stored *storedIdentity) (*identity.Manifest, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	signed := &identity.SignedManifest{Manifest: stored.Manifest, Signature: stored.Signature}
	m, err := signed.Verify()
	if err != nil {
		return nil, err
	}
	if m.Name != name {
		return nil, fmt.Errorf("the server shows identity %q in its place: %w", m.Name, identity.ErrSignature)
	}
	pin, err := home.Pin(name)
	if err != nil {
		return nil, err
	}
	if pin, err = pin.Check(signed, m); err != nil {
		return nil, err
	}
	return m, home.SetPin(name, pin)
}

// deletedDoc is the JSON document of commands that delete something.
type deletedDoc struct {
	Name    string `json:"name"`
	Deleted bool   `json:"deleted"`
}

func (a *app) identityDeleteCommand() *cobra.Command {
	var confirm string
	cmd := &cobra.Command{
		Use:   "delete IDENTITY --confirm IDENTITY",
		Short: "Delete an identity and all of its assets, for good",
		Long: `Delete an identity and its assets. Secrets that are stored nowhere else are lost.
It is refused while an account needs one of its custody keys. It needs a Vault token.

Where the server has no such identity, what this home knows of it is forgotten.`,
		Example:           `  mpckms identity delete old-persona --confirm old-persona`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if confirm != name {
				return usagef(cmd, "give the identity's name once more, with --confirm: nothing was deleted")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			_, err = c.do(cmd.Context(), request{what: "delete identity " + quote(name), capability: capDelete, path: "identities/" + name}, nil)
			var r *refusal
			if err != nil && (!errors.As(err, &r) || r.status != http.StatusNotFound || r.noRoute()) {
				return err
			}
			home, herr := a.home()
			if herr == nil {
				herr = errors.Join(home.ForgetPin(name), home.ForgetAssets(name))
			}
			if herr != nil {
				return herr
			}
			doc := deletedDoc{Name: name, Deleted: err == nil}
			return a.print(doc, func(t *text) {
				if err != nil {
					t.line(fmt.Sprintf("The server has no identity %q; what this home knew of it is forgotten.", name))
					return
				}
				t.line(fmt.Sprintf("Identity %q and its assets are gone.", name))
			})
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "the identity's name once more")
	return cmd
}

func (a *app) identityFreezeCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "freeze IDENTITY [--reason TEXT]",
		Short: "Stop everybody from opening an identity and its accounts from signing",
		Long: `Freeze an identity until it is unfrozen: nobody opens it, and no account signs whose
custody key it holds. Nothing is lost by it.

It takes a Vault token if there is one, and logs in otherwise, with an authenticator that
opens the owner role.`,
		Example:           `  mpckms identity freeze acme --reason "a laptop was stolen"`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{}
			if reason != "" {
				body["reason"] = reason
			}
			return a.freezing(cmd, args[0], "freeze", body)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the people who look at the identity")
	return cmd
}

func (a *app) identityUnfreezeCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "unfreeze IDENTITY",
		Short:             "Let a frozen identity be opened again",
		Example:           `  mpckms identity unfreeze acme`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.freezing(cmd, args[0], "unfreeze", map[string]any{})
		},
	}
}

// frozenDoc is the JSON document of `identity freeze` and `unfreeze`.
type frozenDoc struct {
	Name  string `json:"name"`
	State string `json:"state"`
}

func (a *app) freezing(cmd *cobra.Command, name, verb string, body map[string]any) error {
	what, path := verb+" identity "+quote(name), "identities/"+name+"/"+verb
	c, err := a.connect()
	if err != nil {
		return err
	}
	if c.hasToken {
		_, err = c.do(cmd.Context(), request{what: what, capability: capUpdate, path: path, body: body}, nil)
	} else {
		err = a.inSession(cmd, name, func(ctx context.Context, s *keyholder.Session) error {
			return refusedBy(what, s.Call(ctx, keyholder.Write, path, body, nil))
		})
	}
	if err != nil {
		return err
	}
	doc := frozenDoc{Name: name, State: map[string]string{"freeze": "frozen", "unfreeze": "active"}[verb]}
	return a.print(doc, func(t *text) {
		if doc.State == "frozen" {
			t.line(fmt.Sprintf("Identity %q is frozen: nobody opens it, and none of its accounts sign.", name))
			return
		}
		t.line(fmt.Sprintf("Identity %q can be opened again.", name))
	})
}
