package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) accountSetCommand() *cobra.Command {
	var (
		refreshPeriod string
		presign       int
		metadata      []string
	)
	cmd := &cobra.Command{
		Use:   "set NAME (--presign N | --refresh-period PERIOD | --metadata KEY=VALUE …)",
		Short: "Change an account's settings",
		Long: `Change an account's settings; those not named stay. Its key, algorithm, threshold
and number of shares cannot be changed.`,
		Example: `  mpckms account set hot --presign 16
  mpckms account set hot --refresh-period 0 --metadata team=treasury`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{}
			if cmd.Flags().Changed("presign") {
				body["presign"] = presign
			}
			if cmd.Flags().Changed("refresh-period") {
				body["refresh_period"] = refreshPeriod
			}
			if cmd.Flags().Changed("metadata") {
				meta, err := parseMetadata(metadata)
				if err != nil {
					return usagef(cmd, "%v", err)
				}
				body["metadata"] = meta
			}
			if len(body) == 0 {
				return usagef(cmd, "give at least one of --presign, --refresh-period and --metadata")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			return a.changeAccount(cmd, c, args[0], body)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&presign, "presign", 0, presignUsage)
	flags.StringVar(&refreshPeriod, "refresh-period", "", "time between share refreshes, such as 10m; 0 for the mount's")
	flags.StringArrayVar(&metadata, "metadata", nil, "a note as key=value; may be repeated; replaces all notes there were")
	return cmd
}

// changeAccount looks first: the same write would create an account, were an
// algorithm given, and says something confusing without one.
func (a *app) changeAccount(cmd *cobra.Command, c *client, name string, body map[string]any) error {
	if _, err := c.readAccount(cmd.Context(), name); err != nil {
		return err
	}
	acc := &account{Name: name}
	_, err := c.do(cmd.Context(), request{
		what:       fmt.Sprintf("change account %q", name),
		capability: capUpdate, path: "accounts/" + name, body: body, account: name,
	}, acc)
	if err != nil {
		return err
	}
	if acc, err = a.afterWrite(cmd.Context(), c, acc, "changed"); err != nil {
		return err
	}
	return a.print(acc, acc.write)
}
