package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) nodeCommand() *cobra.Command {
	cmd := group("node", "Look after MPC nodes ('status' lists them)")
	cmd.AddCommand(a.nodeRenewCommand())
	return cmd
}

// renewDoc is the JSON document of `node renew`.
type renewDoc struct {
	Node    string `json:"node"`
	Ordered bool   `json:"ordered"`
}

func (a *app) nodeRenewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "renew NODE",
		Short: "Have a node replace its auxiliary keys now",
		Long: `Have a node that is under suspicion replace its auxiliary keys now, without
waiting for aux_period. Signatures go on with the old ones until all nodes have
checked the new ones, some seconds later; then the old ones are wiped. Refresh
the ECDSA accounts as well, since a thief needs both.`,
		ValidArgsFunction: a.nodeIDs,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || !validName(args[0]) {
				return usagef(cmd, "give the name of one node, such as local-1")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			_, err = c.do(cmd.Context(), request{
				what:       fmt.Sprintf("renew the auxiliary keys of node %q", args[0]),
				capability: capUpdate, path: "nodes/" + args[0] + "/renew", body: struct{}{},
			}, nil)
			if err != nil {
				return err
			}
			doc := renewDoc{Node: args[0], Ordered: true}
			return a.print(doc, func(t *text) {
				t.line(fmt.Sprintf("%s makes new auxiliary keys; 'mpckms status' shows how far it is.", doc.Node))
			})
		},
	}
}
