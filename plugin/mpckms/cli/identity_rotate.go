package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
)

// rotateDoc is the JSON document of `identity rotate`.
type rotateDoc struct {
	Identity   string   `json:"identity"`
	Generation uint64   `json:"generation"`
	Roles      []string `json:"roles"`    // whose keys were replaced
	Assets     []string `json:"assets"`   // encrypted anew
	Accounts   []string `json:"accounts"` // with a new custody key and new shares
	// Change is set where an earlier reset was unfinished and is finished now: the
	// secrets that the lost authenticator could open.
	Change []exposedKey `json:"change_at_source,omitempty"`
}

func (a *app) identityRotateCommand() *cobra.Command {
	var (
		roles   []string
		custody bool
	)
	cmd := &cobra.Command{
		Use:   "rotate IDENTITY [--role ROLE]...",
		Short: "Replace role keys and encrypt their assets anew, without a loss",
		Long: `Replace the keys of roles, of all if none is named, and encrypt everything that is for them
anew. All who have a grant keep what they open. With --custody the custody keys of their
accounts are replaced as well, and the shares refreshed and sealed to the new ones.

It needs an authenticator that opens these roles and the owner role. It can be interrupted at
any point: run it again, and it goes on. What it finds unfinished it finishes as after a loss:
with new custody keys. The owner role can have new keys 255 times. After a loss use 'identity reset', which takes the grant away too.`,
		Example: `  mpckms identity rotate acme
  mpckms identity rotate acme --role treasury --custody`,
		Args:              identityArg,
		ValidArgsFunction: a.completeNames(a.identityNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkRoles(roles); err != nil {
				return usagef(cmd, "--role: %v", err)
			}
			h, err := a.enter(cmd, args[0])
			if err != nil {
				return err
			}
			defer a.leave(h)
			r := &resetting{holder: h, custody: &accountReplacer{a, h}}
			doc, err := r.rotate(cmd.Context(), roles, custody)
			if err != nil {
				return err
			}
			return a.print(doc, doc.write)
		},
	}
	cmd.Flags().StringArrayVar(&roles, "role", nil, "a role whose keys to replace; may be repeated (default: all)")
	cmd.Flags().BoolVar(&custody, "custody", false, "replace the custody keys of their accounts too")
	return cmd
}

// rotate replaces the keys of these roles, or of all. What an earlier run, or a reset,
// left unfinished is finished first, and as a reset would: its pending roles do not say
// which of the two it was.
func (r *resetting) rotate(ctx context.Context, roles []string, custody bool) (*rotateDoc, error) {
	r.doc = resetDoc{Identity: r.name, Roles: []string{}, Assets: []string{}, Accounts: []string{}, Change: []exposedKey{}}
	m := r.opened.Manifest
	if len(roles) == 0 {
		for _, role := range m.Roles {
			roles = append(roles, role.Name)
		}
	}
	for _, role := range roles {
		if m.Role(role) == nil {
			return nil, &refusal{what: fmt.Sprintf("identity %q has no role %q", r.name, role), advice: "Nothing was changed."}
		}
	}
	pending := pendingRoles(m)
	if err := r.holdsAll("rotate", append(slices.Clone(pending), roles...)); err != nil {
		return nil, err
	}
	var change []exposedKey
	if len(pending) > 0 {
		if err := r.finish(ctx); err != nil {
			return nil, err
		}
		change = r.doc.Change
	}
	// With --custody they are rotated in any case: whether the earlier run replaced
	// custody keys is not known.
	roles = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(roles))), func(role string) bool { return !custody && slices.Contains(pending, role) })
	if len(roles) > 0 {
		r.keep = !custody
		if err := r.change(ctx, "rotate the keys of identity "+quote(r.name), false, identity.RotateRoles{Roles: roles}); err != nil {
			return nil, err
		}
		if err := r.finish(ctx); err != nil {
			return nil, err
		}
	}
	slices.Sort(r.doc.Roles)
	return &rotateDoc{Identity: r.name, Generation: r.doc.Generation, Roles: r.doc.Roles, Assets: r.doc.Assets, Accounts: append([]string{}, r.replaced...), Change: change}, nil
}

func (doc rotateDoc) write(t *text) {
	t.line(fmt.Sprintf("The role keys of identity %q are new; who opened them before opens them now.", doc.Identity))
	t.blank()
	t.pairs("",
		"Generation", count64(doc.Generation),
		"New role keys", fmt.Sprint(len(doc.Roles)),
		"Assets encrypted anew", fmt.Sprint(len(doc.Assets)),
		"Accounts with new custody keys", fmt.Sprint(len(doc.Accounts)),
	)
	if len(doc.Change) == 0 {
		return
	}
	t.blank()
	t.line("Keys were being replaced before, and that is finished now. If it was after a loss, change these secrets where they are used:")
	var rows [][]string
	for _, c := range doc.Change {
		rows = append(rows, []string{c.Asset, c.Key})
	}
	t.table("  ", []string{"ASSET", "KEY"}, rows)
}
