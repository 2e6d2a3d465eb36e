package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
)

// changing runs a command that changes an identity: log in, open, change, show.
func (a *app) changing(cmd *cobra.Command, name, what string, force bool, changes func(*holder) ([]identity.Change, error)) error {
	h, err := a.enter(cmd, name)
	if err != nil {
		return err
	}
	defer a.leave(h)
	list, err := changes(h)
	if err != nil {
		return err
	}
	if err := h.change(cmd.Context(), what, force, list...); err != nil {
		return err
	}
	if h.left {
		a.note("The authenticator that you logged in with opens identity %q no more. What it is now:", name)
	}
	return a.printIdentity(h)
}

func only(c identity.Change) func(*holder) ([]identity.Change, error) {
	return func(*holder) ([]identity.Change, error) { return []identity.Change{c}, nil }
}

func (a *app) identitySetKindCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set-kind IDENTITY KIND",
		Short: "Change what an identity is: person, persona or organization",
		Long: `Change what an identity is: person, persona or organization. The kind is for people to
read; it changes nothing about what opens. It takes the owner role.`,
		Example: `  mpckms identity set-kind acme organization`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef(cmd, "give an identity and its kind: person, persona or organization")
			}
			if err := identityArg(cmd, args[:1]); err != nil {
				return err
			}
			if !identity.Kind(args[1]).Valid() {
				return usagef(cmd, "an identity is a person, persona or organization, not %q", args[1])
			}
			return nil
		},
		ValidArgsFunction: a.completeNames(a.identityNames, func(context.Context, string) []string { return identityKinds }),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changing(cmd, args[0], "change the kind of identity "+quote(args[0]), false, only(identity.SetKind{Kind: identity.Kind(args[1])}))
		},
	}
}

func (a *app) roleAddCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "add IDENTITY ROLE",
		Short: "Add a role; your own level opens it",
		Long: `Add a role to an identity: a key pair of its own, which assets can be for. The
level of the authenticator that adds it opens it from then on; other levels get it with
'identity level set'.`,
		Example:           `  mpckms identity role add acme payroll`,
		Args:              namesArg("identity", "role"),
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changing(cmd, args[0], "add role "+quote(args[1]), false, only(identity.AddRole{Name: args[1]}))
		},
	}
}

func (a *app) roleRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove IDENTITY ROLE",
		Short: "Remove a role that no asset is for",
		Long: `Remove a role from the identity and from every level. It is refused while an
asset is for the role: move the asset to other roles, or delete it, first.`,
		Example:           `  mpckms identity role remove acme payroll`,
		Args:              namesArg("identity", "role"),
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changing(cmd, args[0], "remove role "+quote(args[1]), false, func(h *holder) ([]identity.Change, error) {
				return removeRole(h.opened.Manifest, args[1])
			})
		},
	}
}

func removeRole(m *identity.Manifest, role string) ([]identity.Change, error) {
	var changes []identity.Change
	for _, l := range m.Levels {
		if !slices.Contains(l.Roles, role) {
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(l.Roles), func(r string) bool { return r == role })
		if len(rest) == 0 {
			return nil, &refusal{what: fmt.Sprintf("level %q opens role %q and no other", l.Name, role),
				advice: "Nothing was changed. Remove the level first ('mpckms identity level remove'), or give it other roles."}
		}
		l.Roles = rest
		changes = append(changes, identity.SetLevel{Level: l})
	}
	return append(changes, identity.RemoveRole{Name: role}), nil
}

func (a *app) levelSetCommand() *cobra.Command {
	var (
		roles    []string
		trusting bool
	)
	cmd := &cobra.Command{
		Use:   "set IDENTITY LEVEL --role ROLE [--role ROLE]...",
		Short: "Set which roles a level opens",
		Long: `Make a level, or replace the roles that it opens. Authenticators that have the
level get the keys of roles that are added. They lose what is taken away only as far
as they have not copied it: after a loss use 'identity reset'.`,
		Example: `  mpckms identity level set acme staff --role web --role mail
  mpckms identity level set acme visitors --role web --server-trusting`,
		Args:              namesArg("identity", "level"),
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			l := identity.Level{Name: args[1], Roles: slices.Compact(slices.Sorted(slices.Values(roles))), ServerTrusting: trusting}
			if len(roles) == 0 {
				return usagef(cmd, "a level opens at least one role: --role ROLE")
			}
			if err := checkLevel(cmd, l); err != nil {
				return err
			}
			return a.changing(cmd, args[0], "set level "+quote(args[1]), false, only(identity.SetLevel{Level: l}))
		},
	}
	cmd.Flags().StringArrayVar(&roles, "role", nil, "a role that the level opens; may be repeated")
	cmd.Flags().BoolVar(&trusting, "server-trusting", false, "authenticators whose only secret the server keeps may have this level")
	return cmd
}

func (a *app) levelRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "remove IDENTITY LEVEL",
		Short:             "Remove a level that no authenticator has",
		Example:           `  mpckms identity level remove acme visitors`,
		Args:              namesArg("identity", "level"),
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changing(cmd, args[0], "remove level "+quote(args[1]), false, only(identity.RemoveLevel{Name: args[1]}))
		},
	}
}

func (a *app) identityRevokeCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "revoke IDENTITY AUTHENTICATOR [--force]",
		Short: "Take an authenticator's grant away, without replacing keys",
		Long: `Take an authenticator's grant away. It opens nothing that the server shows from
then on; what it has copied before it can still decrypt. Where that matters, use
'identity reset', which replaces the keys as well.

A grant that is the last to open a role stays, unless --force says that what only
this role may use is to be lost.`,
		Example:           `  mpckms identity revoke acme ben`,
		Args:              namesArg("identity", "authenticator"),
		ValidArgsFunction: a.completeNames(a.identityNames, a.authenticatorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changing(cmd, args[0], "revoke the grant of "+quote(args[1]), force, func(h *holder) ([]identity.Change, error) {
				g := grantOf(h.opened.Manifest, args[1])
				if g == nil {
					return nil, noGrant(args[0], args[1])
				}
				return []identity.Change{identity.RemoveGrant{Authenticator: g.Authenticator, Force: force}}, nil
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if nobody opens one of its roles afterwards")
	return cmd
}

func noGrant(name, authenticator string) error {
	return &refusal{what: fmt.Sprintf("authenticator %q has no grant in identity %q", authenticator, name),
		advice: "'mpckms identity show " + name + "' lists who has one."}
}

func (doc resetDoc) write(t *text) {
	who := "whoever had the old keys"
	switch {
	case len(doc.Lost) == 1:
		who = quote(doc.Lost[0])
		t.line(fmt.Sprintf("Identity %q is reset: authenticator %s opens nothing of the roles with new keys that is stored from now on.", doc.Identity, who))
	case len(doc.Lost) > 1:
		who = quotedList(doc.Lost)
		t.line(fmt.Sprintf("Identity %q is reset: authenticators %s open nothing of the roles with new keys that is stored from now on.", doc.Identity, who))
	default:
		t.line(fmt.Sprintf("Identity %q is reset: the old keys open nothing of the roles with new keys that is stored from now on.", doc.Identity))
	}
	t.blank()
	t.pairs("",
		"Generation", count64(doc.Generation),
		"New role keys", fmt.Sprint(len(doc.Roles)),
		"Assets encrypted anew", fmt.Sprint(len(doc.Assets)),
		"Accounts with new custody keys", fmt.Sprint(len(doc.Accounts)),
	)
	if len(doc.Kept) > 0 {
		t.blank()
		t.line(fmt.Sprintf("Roles with the keys that they had: %s. The level of %s did not open them; if an earlier one did, run the reset again with --role for them.", strings.Join(doc.Kept, ", "), who))
	}
	if slices.Contains(doc.Roles, identity.OwnerRole) {
		t.blank()
		t.line(fmt.Sprintf("These authenticators open the identity. Whoever had %s may have granted some: revoke what you do not know, and reset once more for it:", who))
		var rows [][]string
		for _, g := range doc.Open {
			rows = append(rows, []string{g.Authenticator, g.Level, g.Granted})
		}
		t.table("  ", []string{"AUTHENTICATOR", "LEVEL", "SINCE"}, rows)
	}
	for _, name := range doc.Untied {
		t.blank()
		t.line(fmt.Sprintf("%s could open the custody key %s, which belongs to no account yet, or no more. Delete it before an account is made with it.", who, name))
	}
	if len(doc.Change) == 0 {
		return
	}
	t.blank()
	t.line(fmt.Sprintf("%s could read these secrets. Change them where they are used:", who))
	var rows [][]string
	for _, c := range doc.Change {
		rows = append(rows, []string{c.Asset, c.Key})
	}
	t.table("  ", []string{"ASSET", "KEY"}, rows)
}

func quotedList(names []string) string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = quote(name)
	}
	return strings.Join(out, ", ")
}

// accountReplacer puts new custody keys in force for an identity's accounts.
type accountReplacer struct {
	a *app
	h *holder
}

// InForce implements custodyReplacer.
func (r *accountReplacer) InForce(ctx context.Context, asset *identity.Asset) (string, []byte, error) {
	acc, err := r.h.custodyAccount(ctx, asset)
	if err != nil {
		return "", nil, err
	}
	return acc.Name, acc.Custody.PublicKey, nil
}

// Replace implements custodyReplacer.
func (r *accountReplacer) Replace(ctx context.Context, account string, asset *identity.Asset) error {
	key, err := r.h.custodyKey(asset, identity.CustodyKey)
	if err != nil {
		return err
	}
	c, err := r.a.custodian(ctx, r.h)
	if err != nil {
		return err
	}
	return c.refresh(ctx, account, asset.Account, key, asset.Key(identity.NextCustodyKey).Public)
}
