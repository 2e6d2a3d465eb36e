package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) approverTOTPCommand() *cobra.Command {
	var confirm string
	var remove bool
	cmd := &cobra.Command{
		Use:   "totp NAME [--confirm CODE | --delete]",
		Short: "Give an approver one-time codes (TOTP)",
		Long: `Make a secret for one-time codes (RFC 6238) and print it, once, as the address that
authenticator apps take. It counts after a code of it was given with --confirm. The engine
checks these codes, and no node can: policies say how many factors nodes have to verify.`,
		Example: `  mpckms approver totp alice
  mpckms approver totp alice --confirm 123456
  mpckms approver totp alice --delete`,
		Args:              approverArg,
		ValidArgsFunction: a.completeNames(a.approvers),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			path := "approvers/" + args[0] + "/totp"
			req := request{what: fmt.Sprintf("change the one-time codes of approver %q", args[0]), capability: capUpdate, path: path, body: map[string]any{}}
			switch {
			case remove:
				req.capability, req.body = capDelete, nil
			case confirm != "":
				req.path, req.body = path+"/confirm", map[string]any{"code": confirm}
			}
			doc := struct {
				Approver  string `json:"approver"`
				Confirmed bool   `json:"confirmed"`
				Deleted   bool   `json:"deleted,omitempty"`
				URL       string `json:"url,omitempty"`
				Secret    string `json:"secret,omitempty"`
			}{Approver: args[0]}
			if _, err := c.do(cmd.Context(), req, &doc); err != nil {
				return err
			}
			doc.Approver, doc.Deleted, doc.Confirmed = args[0], remove, confirm != ""
			return a.print(doc, func(t *text) {
				switch {
				case remove:
					t.line("Approver " + doc.Approver + " has no one-time codes any more. Policies that count on them need a change.")
				case doc.Confirmed:
					t.line("One-time codes of approver " + doc.Approver + " are confirmed. They count once an account's policy has them.")
				default:
					t.pairs("", "Approver", doc.Approver, "Address", doc.URL, "Secret", doc.Secret)
					t.blank()
					t.line("It is shown once. Enter it into an authenticator app, then: mpckms approver totp " + doc.Approver + " --confirm CODE")
				}
			})
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "a code of the app, which shows that it has the secret")
	cmd.Flags().BoolVar(&remove, "delete", false, "end the one-time codes")
	cmd.MarkFlagsMutuallyExclusive("confirm", "delete")
	return cmd
}
