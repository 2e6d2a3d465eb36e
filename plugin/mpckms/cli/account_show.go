package cli

import "github.com/spf13/cobra"

func (a *app) accountShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show an account: public key, shares, refresh",
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			acc, err := c.readAccount(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(acc, acc.write)
		},
	}
}
