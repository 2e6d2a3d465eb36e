package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

type accountListDoc struct {
	Mount    string           `json:"mount"`
	Accounts []accountSummary `json:"accounts"`
}

// accountSummary is what a list tells of an account. Everything but the name is
// left out where the server does not tell it.
type accountSummary struct {
	Name         string `json:"name"`
	ID           string `json:"id,omitempty"`
	Algorithm    string `json:"algorithm,omitempty"`
	Threshold    int    `json:"threshold,omitempty"`
	Shares       int    `json:"shares,omitempty"`
	State        string `json:"state,omitempty"`
	PublicKeyHex string `json:"public_key_hex,omitempty"`
	ShareEpoch   uint64 `json:"share_epoch,omitempty"`
	LastRefresh  string `json:"last_refresh_time,omitempty"`
}

// maxDetails is how many accounts a list reads one by one where the server's
// list holds names only: about a millisecond each.
const maxDetails = 100

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
				acc, err := summary(found, name)
				if err != nil {
					return err
				}
				doc.Accounts = append(doc.Accounts, acc)
			}
			if err := a.fillDetails(cmd.Context(), c, doc.Accounts); err != nil {
				return err
			}
			return a.print(doc, doc.write)
		},
	}
}

func summary(found listing, name string) (accountSummary, error) {
	var acc accountSummary
	if err := decodeInfo(found.KeyInfo[name], &acc); err != nil {
		return acc, &refusal{what: fmt.Sprintf("what the list says about account %q cannot be read", name), cause: err}
	}
	acc.Name = name
	return acc, nil
}

// fillDetails reads accounts of which the list told no more than the name.
// Accounts that the token may not read, or that are gone, stay as they are.
func (a *app) fillDetails(ctx context.Context, c *client, accounts []accountSummary) error {
	bare := 0
	for i := range accounts {
		acc := &accounts[i]
		if acc.Algorithm != "" || !validName(acc.Name) {
			continue
		}
		if bare++; bare > maxDetails {
			a.note("Note: details are shown for the first %d accounts; 'mpckms account show NAME' has the others", maxDetails)
			return nil
		}
		full, err := c.readAccount(ctx, acc.Name)
		var r *refusal
		switch {
		case err == nil:
			*acc = accountSummary{
				Name: acc.Name, ID: full.ID, Algorithm: full.Algorithm,
				Threshold: full.Threshold, Shares: full.Shares, State: full.State,
				PublicKeyHex: full.PublicKeyHex, ShareEpoch: full.ShareEpoch, LastRefresh: full.LastRefresh,
			}
		case errors.As(err, &r) && (r.status == http.StatusForbidden || r.status == http.StatusNotFound):
		default:
			return err
		}
	}
	return nil
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
