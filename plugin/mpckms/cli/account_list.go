package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

type accountListDoc struct {
	Mount    string           `json:"mount"`
	Accounts []accountSummary `json:"accounts"`
}

// accountSummary is what a list tells of an account. Fields that the server
// leaves out of its list are empty.
type accountSummary struct {
	Name         string `json:"name"`
	ID           string `json:"id"`
	Algorithm    string `json:"algorithm"`
	Threshold    int    `json:"threshold"`
	Shares       int    `json:"shares"`
	State        string `json:"state"`
	PublicKeyHex string `json:"public_key_hex"`
	ShareEpoch   uint64 `json:"share_epoch"`
	LastRefresh  string `json:"last_refresh_time"`
}

func (a *app) accountListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the accounts of the mount",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			found, err := c.list(cmd.Context(), "list accounts", "accounts")
			if err != nil {
				return err
			}
			doc := accountListDoc{Mount: c.mount, Accounts: []accountSummary{}}
			for _, name := range found.Keys {
				acc := accountSummary{}
				if err := decodeInfo(found.KeyInfo[name], &acc); err != nil {
					return &refusal{what: fmt.Sprintf("what the list says about account %q cannot be read", name), cause: err}
				}
				acc.Name = name
				doc.Accounts = append(doc.Accounts, acc)
			}
			return a.print(doc, doc.write)
		},
	}
}

func (doc accountListDoc) write(t *text) {
	if len(doc.Accounts) == 0 {
		t.line("No accounts yet. Create one with 'mpckms account create NAME --algorithm …'.")
		return
	}
	rows := make([][]string, len(doc.Accounts))
	for i, acc := range doc.Accounts {
		sharing := (&account{Threshold: acc.Threshold, Shares: acc.Shares}).sharing()
		rows[i] = []string{acc.Name, acc.Algorithm, sharing, acc.State, count64(acc.ShareEpoch), acc.LastRefresh}
	}
	t.table("", []string{"NAME", "ALGORITHM", "SIGNERS", "STATE", "EPOCH", "LAST REFRESH"}, rows)
}
