package cli

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) approverCommand() *cobra.Command {
	cmd := group("approver", "People and machines who approve signatures")
	cmd.AddCommand(a.approverListCommand(), a.approverShowCommand(), a.approverCreateCommand(), a.approverEnrolCommand(),
		a.approverConfirmCommand(), a.approverTOTPCommand(), a.approverDeleteCommand())
	return cmd
}

// approverDoc is an approver as the engine describes it.
type approverDoc struct {
	Name       string           `json:"name"`
	ID         string           `json:"id"`
	Identity   string           `json:"identity,omitempty"`
	Entities   []string         `json:"entity_ids,omitempty"`
	NoEntity   bool             `json:"no_entity,omitempty"`
	Requesters []string         `json:"requesters,omitempty"`
	Factors    []approverFactor `json:"factors"`
	Checked    []string         `json:"checked,omitempty"`
	TOTP       struct {
		State string `json:"state,omitempty"`
	} `json:"totp"`
	Created string `json:"created_time,omitempty"`
}

type approverFactor struct {
	KeyID     string `json:"key_id"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Added     string `json:"added_time,omitempty"`
	CheckedBy string `json:"checked_by"`
}

func (d *approverDoc) write(t *text) {
	who := d.Identity
	if who != "" {
		who = "identity " + who
	}
	if len(d.Entities) > 0 {
		who = strings.TrimPrefix(who+", entities "+strings.Join(d.Entities, ", "), ", ")
	}
	if who == "" {
		who = "without a Vault entity"
	}
	t.pairs("", "Approver", d.Name, "ID", d.ID, "Who", who, "Checked by the coordinator", strings.Join(d.Checked, ", "), "One-time code", d.TOTP.State, "Created", moment(d.Created))
	t.blank()
	if len(d.Factors) == 0 {
		t.line("No device is enrolled yet: 'mpckms approver enrol " + d.Name + "'.")
		return
	}
	rows := make([][]string, len(d.Factors))
	for i, f := range d.Factors {
		rows[i] = []string{f.KeyID, f.Kind, f.Name, f.CheckedBy, moment(f.Added)}
	}
	t.table("", []string{"KEY ID", "KIND", "NAME", "CHECKED BY", "ADDED"}, rows)
}

// approverArg takes exactly one approver's name.
func approverArg(cmd *cobra.Command, args []string) error {
	if len(args) != 1 || !validName(args[0]) {
		return usagef(cmd, "give the name of the approver, and nothing else")
	}
	return nil
}

func (a *app) approverListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the approvers whom policies may name",
		Example: `  mpckms approver list`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			l, err := c.list(cmd.Context(), "list approvers", "approvers")
			if err != nil {
				return err
			}
			doc := struct {
				Mount     string   `json:"mount"`
				Approvers []string `json:"approvers"`
			}{a.mount, append([]string{}, l.Keys...)}
			return a.print(doc, func(t *text) {
				if len(doc.Approvers) == 0 {
					t.line("No approvers. Make one with 'mpckms approver create NAME'.")
				}
				for _, name := range doc.Approvers {
					t.line(name)
				}
			})
		},
	}
}

// readApprover reads one approver.
func (c *client) readApprover(cmd *cobra.Command, what, name string) (*approverDoc, error) {
	d := &approverDoc{}
	if _, err := c.do(cmd.Context(), request{what: what, capability: capRead, path: "approvers/" + name}, d); err != nil {
		return nil, err
	}
	d.normalize(name)
	return d, nil
}

func (d *approverDoc) normalize(name string) {
	d.Name = name
	if d.Factors == nil {
		d.Factors = []approverFactor{}
	}
}

func (a *app) approverShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show an approver and the factors it has",
		Example:           `  mpckms approver show alice`,
		Args:              approverArg,
		ValidArgsFunction: a.completeNames(a.approvers),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			d, err := c.readApprover(cmd, fmt.Sprintf("show approver %q", args[0]), args[0])
			if err != nil {
				return err
			}
			return a.print(d, d.write)
		},
	}
}

func (a *app) approverCreateCommand() *cobra.Command {
	var of string
	var entities []string
	var noEntity bool
	cmd := &cobra.Command{
		Use:   "create NAME (--identity IDENTITY | --entity-id ID | --no-entity)",
		Short: "Store an approver, and say who it is",
		Long: `Store an approver, and say under which Vault entities or identity the same person may ask
for signatures: nobody approves a request of their own. --no-entity says that there are none,
of a machine for example. An approver with an --identity may log in as it for a factor.`,
		Example: `  mpckms approver create alice --entity-id 7d2e3179-f69b-450c-7179-ac8ee8bd8ca9
  mpckms approver create ben --identity ben
  mpckms approver create guard --no-entity`,
		Args: approverArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			if of == "" && len(entities) == 0 && !noEntity {
				return usagef(cmd, "say who the approver is: --identity, --entity-id or --no-entity")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			what := fmt.Sprintf("create approver %q", args[0])
			// A write to one that exists would change it.
			_, err = c.readApprover(cmd, what, args[0])
			var r *refusal
			switch {
			case err == nil:
				return &refusal{what: fmt.Sprintf("approver %q exists already; nothing was changed", args[0]), advice: "Look at it with 'mpckms approver show " + args[0] + "', or choose another name."}
			case !errors.As(err, &r) || r.status != http.StatusForbidden && (r.status != http.StatusNotFound || r.noRoute() || r.unsupportedPath()):
				return err
			}
			body := map[string]any{}
			if of != "" {
				body["identity"] = of
			}
			if len(entities) > 0 {
				body["entity_ids"] = entities
			}
			if noEntity {
				body["no_entity"] = true
			}
			d := &approverDoc{}
			if _, err := c.do(cmd.Context(), request{what: what, capability: capUpdate, path: "approvers/" + args[0], body: body}, d); err != nil {
				return err
			}
			d.normalize(args[0])
			return a.print(d, d.write)
		},
	}
	cmd.Flags().StringVar(&of, "identity", "", "the identity of this mount that the approver is")
	a.completeFlag(cmd, "identity", a.identityNames)
	cmd.Flags().StringArrayVar(&entities, "entity-id", nil, "a Vault entity of the same person; may be repeated")
	cmd.Flags().BoolVar(&noEntity, "no-entity", false, "the approver has no Vault entity")
	return cmd
}

func (a *app) approverDeleteCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "delete NAME [--key-id ID]",
		Short: "Delete an approver, or one of its factors",
		Long: `Delete an approver, or with --key-id one of its keys. Accounts' policies hold copies and
go on as they are; the answer names the accounts that need a change of policy.`,
		Example: `  mpckms approver delete alice --key-id 5f0e…9a
  mpckms approver delete alice`,
		Args:              approverArg,
		ValidArgsFunction: a.completeNames(a.approvers),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			path, what := "approvers/"+args[0], fmt.Sprintf("delete approver %q", args[0])
			if key != "" {
				path, what = path+"/factors/"+key, fmt.Sprintf("delete a key of approver %q", args[0])
				if !validName(key) {
					return usagef(cmd, "--key-id takes 32 hex digits")
				}
			}
			doc := struct {
				Approver string   `json:"approver"`
				KeyID    string   `json:"key_id,omitempty"`
				Deleted  bool     `json:"deleted"`
				Accounts []string `json:"accounts"`
			}{}
			if _, err := c.do(cmd.Context(), request{what: what, capability: capDelete, path: path}, &doc); err != nil {
				return err
			}
			doc.Approver, doc.KeyID, doc.Deleted, doc.Accounts = args[0], key, true, append([]string{}, slices.Sorted(slices.Values(doc.Accounts))...)
			return a.print(doc, func(t *text) {
				t.line("Deleted.")
				if len(doc.Accounts) > 0 {
					t.line("Policies of these accounts go on having what was deleted; each needs a change of its policy: " + strings.Join(doc.Accounts, ", "))
				}
			})
		},
	}
	cmd.Flags().StringVar(&key, "key-id", "", "only this key")
	return cmd
}
