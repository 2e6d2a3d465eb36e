package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// change is a command that changes an account's life by one request whose
// answer is the account.
type change struct {
	what       string // "freeze": "cannot freeze account …"
	done       string // "frozen": "account … was frozen, but …"
	capability string
	path       string // below the mount
	body       any
	query      map[string][]string
}

// apply sends a change and prints the account as it is after it, under the name
// that it has then.
func (a *app) apply(cmd *cobra.Command, name, after string, ch change) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	acc := &account{}
	_, err = c.do(cmd.Context(), request{
		what: fmt.Sprintf("%s account %q", ch.what, name), capability: ch.capability,
		path: ch.path, body: ch.body, query: ch.query, account: name,
	}, acc)
	if err != nil {
		return err
	}
	if acc.Name == "" {
		acc.Name = after
	}
	if acc, err = a.afterWrite(cmd.Context(), c, acc, ch.done); err != nil {
		return err
	}
	return a.print(acc, acc.write)
}

func (a *app) accountFreezeCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "freeze NAME [--reason TEXT]",
		Short: "Stop an account from signing; it can be unfrozen",
		Long: `Stop an account from signing until it is unfrozen. Its shares go on being
refreshed and rewrapped meanwhile.`,
		Example:           `  mpckms account freeze hot --reason "laptop of the operator was lost"`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{}
			if reason != "" {
				body["reason"] = reason
			}
			return a.apply(cmd, args[0], args[0], change{what: "freeze", done: "frozen",
				capability: capUpdate, path: "accounts/" + args[0] + "/freeze", body: body})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the people who look at the account")
	return cmd
}

func (a *app) accountUnfreezeCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "unfreeze NAME",
		Short:             "Let a frozen account sign again",
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.apply(cmd, args[0], args[0], change{what: "unfreeze", done: "unfrozen",
				capability: capUpdate, path: "accounts/" + args[0] + "/unfreeze", body: struct{}{}})
		},
	}
}

func (a *app) accountDeleteCommand() *cobra.Command {
	var after string
	cmd := &cobra.Command{
		Use:   "delete NAME [--after DURATION]",
		Short: "Delete an account after a waiting time; until then it can be restored",
		Long: `Delete an account. It signs no more from now on, and is removed for good when the
waiting time is over: the mount's (deletion_wait of config/accounts) or a longer
one. 'account restore' takes the deletion back until then.`,
		Example: `  mpckms account delete hot
  mpckms account delete hot --after 720h`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			var query map[string][]string
			if after != "" {
				query = map[string][]string{"delete_after": {after}}
			}
			return a.apply(cmd, args[0], args[0], change{what: "delete", done: "deleted",
				capability: capDelete, path: "accounts/" + args[0], query: query})
		},
	}
	cmd.Flags().StringVar(&after, "after", "", "the waiting time, such as 720h: not shorter than the mount's, which is the default")
	return cmd
}

func (a *app) accountRestoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore NAME",
		Short: "Take the deletion of an account back",
		Long: `Take the deletion of an account back while its waiting time lasts. An account that
was frozen before it was deleted is frozen again.`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.apply(cmd, args[0], args[0], change{what: "restore", done: "restored",
				capability: capUpdate, path: "accounts/" + args[0] + "/restore", body: struct{}{}})
		},
	}
}

func (a *app) accountRenameCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rename NAME NEW-NAME",
		Short: "Give an account another name; its key and shares stay",
		Long: `Give an account another name. Its key, ID and shares stay; policies and programs
that name it have to follow.`,
		Example: `  mpckms account rename hot payments`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef(cmd, "give the account's name and its new one")
			}
			for _, name := range args {
				if err := accountArg(cmd, []string{name}); err != nil {
					return err
				}
			}
			return nil
		},
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.apply(cmd, args[0], args[1], change{what: "rename", done: "renamed",
				capability: capUpdate, path: "accounts/" + args[0] + "/rename", body: map[string]any{"new_name": args[1]}})
		},
	}
}

// destroyedDoc is the JSON document of `account destroy`.
type destroyedDoc struct {
	Name      string `json:"name"`
	Destroyed bool   `json:"destroyed"`
}

func (a *app) accountDestroyCommand() *cobra.Command {
	var confirm string
	cmd := &cobra.Command{
		Use:   "destroy NAME [--confirm NAME]",
		Short: "Remove an account and its shares at once, for good",
		Long: `Remove an account and every share of it from Vault's storage, at once. What only
its key can sign for is lost, unless custodians can rebuild it from a bundle.
'account delete' does the same after a waiting time, and can be taken back.

The name has to be given once more: at the terminal, or with --confirm.`,
		Example:           `  mpckms account destroy test-7 --confirm test-7`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if !cmd.Flags().Changed("confirm") {
				var err error
				if confirm, err = a.askName(cmd.Context(), name); err != nil {
					return err
				}
			}
			if confirm != name {
				return usagef(cmd, "the name given to confirm is another one: nothing was destroyed")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			_, err = c.do(cmd.Context(), request{
				what: fmt.Sprintf("destroy account %q", name), capability: capUpdate,
				path: "destroy/" + name, body: struct{}{}, account: name,
			}, nil)
			if err != nil {
				return err
			}
			doc := destroyedDoc{Name: name, Destroyed: true}
			return a.print(doc, func(t *text) {
				t.line(fmt.Sprintf("Account %q and its shares are gone.", name))
			})
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "the account's name once more")
	return cmd
}

// maxTypedName bounds what is read of a typed name, in bytes.
const maxTypedName = 512

// askName has somebody type an account's name at a terminal. A program must
// give the flag: what comes through a pipe was not thought about twice.
func (a *app) askName(ctx context.Context, name string) (string, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", fmt.Errorf("there is no terminal to confirm it: nothing was destroyed. Give --confirm %s", name)
	}
	_, _ = io.WriteString(a.stderr, clean(fmt.Sprintf("Account %q and all its shares will be removed for good. Type its name to go on", name))+": ")
	line, _ := bufio.NewReader(io.LimitReader(f, maxTypedName)).ReadString('\n')
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("nothing was destroyed: %w", err)
	}
	return strings.TrimSpace(line), nil
}
