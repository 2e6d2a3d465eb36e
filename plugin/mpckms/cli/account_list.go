package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

type accountListDoc struct {
	Mount    string           `json:"mount"`
	Accounts []accountSummary `json:"accounts"`
	// NextAfter is what --after takes for the next page of --limit.
	NextAfter string `json:"next_after,omitempty"`

	filtered bool
}

// accountSummary is what a list tells of an account. Everything but the name is
// left out where the server does not tell it.
type accountSummary struct {
	Name         string            `json:"name"`
	ID           string            `json:"id,omitempty"`
	Algorithm    string            `json:"algorithm,omitempty"`
	Threshold    int               `json:"threshold,omitempty"`
	Shares       int               `json:"shares,omitempty"`
	State        string            `json:"state,omitempty"`
	PublicKeyHex string            `json:"public_key_hex,omitempty"`
	ShareEpoch   uint64            `json:"share_epoch,omitempty"`
	LastRefresh  string            `json:"last_refresh_time,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
}

const (
	// maxDetails is how many accounts a list reads one by one where the
	// server's list holds names only: about a millisecond each.
	maxDetails = 100
	// pageSize is how many accounts are asked for at once, the most the engine
	// gives.
	pageSize = 1000
)

// listFlags say which accounts are listed.
type listFlags struct {
	prefix, algorithm, state, metadata, after string
	limit                                     int
}

func (f *listFlags) filtered() bool {
	return f.prefix+f.algorithm+f.state+f.metadata+f.after != ""
}

func (a *app) accountListCommand() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the accounts of the mount",
		Long: `List the accounts of the mount, all of them, or those that fit every flag given.
With --limit only so many; the next ones are listed with --after.`,
		Example: `  mpckms account list --state frozen
  mpckms account list --prefix eu- --algorithm ed25519 --metadata team=payments
  mpckms account list --limit 50 --after eu-0049`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("limit") && (f.limit < 1 || f.limit > pageSize) {
				return usagef(cmd, "--limit takes 1 to %d", pageSize)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			doc := accountListDoc{Mount: c.mount, Accounts: []accountSummary{}, filtered: f.filtered()}
			if err := f.collect(cmd.Context(), c, &doc); err != nil {
				return err
			}
			if err := a.fillDetails(cmd.Context(), c, doc.Accounts); err != nil {
				return err
			}
			return a.print(doc, doc.write)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.prefix, "prefix", "", "accounts whose name begins so")
	flags.StringVar(&f.algorithm, "algorithm", "", "accounts of this algorithm")
	flags.StringVar(&f.state, "state", "", "accounts in this state: active, frozen or deleted")
	flags.StringVar(&f.metadata, "metadata", "", "accounts with this note: key, or key=value")
	flags.IntVar(&f.limit, "limit", 0, "at most so many, 1 to 1000 (default: all)")
	flags.StringVar(&f.after, "after", "", "accounts whose name comes after this one")
	complete(cmd, "algorithm", algorithmChoices...)
	complete(cmd, "state", states...)
	return cmd
}

func (f *listFlags) query(after string) map[string][]string {
	limit := f.limit
	if limit == 0 {
		limit = pageSize
	}
	query := map[string][]string{"details": {"true"}, "limit": {strconv.Itoa(limit)}}
	for field, value := range map[string]string{"prefix": f.prefix, "algorithm": f.algorithm, "state": f.state, "metadata": f.metadata, "after": after} {
		if value != "" {
			query[field] = []string{value}
		}
	}
	return query
}

// collect asks for one page with --limit, and else for all of them.
func (f *listFlags) collect(ctx context.Context, c *client, doc *accountListDoc) error {
	for after := f.after; ; {
		found, err := c.page(ctx, "list accounts", "accounts", f.query(after))
		if err != nil {
			return err
		}
		for _, name := range found.Keys {
			acc, err := summary(found, name)
			if err != nil {
				return err
			}
			if !f.fits(acc) {
				return &refusal{what: fmt.Sprintf("the server lists account %q, which does not fit what was asked for", name),
					advice: "An older version of the plugin ignores filters: 'mpckms status' shows which it is. 'mpckms account list' without flags works with it."}
			}
			doc.Accounts = append(doc.Accounts, acc)
		}
		switch {
		case found.NextAfter == "":
			return nil
		case f.limit > 0:
			doc.NextAfter = found.NextAfter
			return nil
		case found.NextAfter <= after:
			return &refusal{what: "the server's pages of accounts go in a circle",
				advice: "mpckms and the plugin may be of versions that do not fit together."}
		}
		after = found.NextAfter
	}
}

// fits checks an account against the flags. A server that does not know the
// filters lists all accounts, and somebody might act on the wrong ones. What the
// list does not tell cannot be what a filter went by.
func (f *listFlags) fits(acc accountSummary) bool {
	key, value, exact := strings.Cut(f.metadata, "=")
	note, noted := acc.Metadata[key]
	return strings.HasPrefix(acc.Name, f.prefix) && (f.after == "" || acc.Name > f.after) &&
		(f.algorithm == "" || acc.Algorithm == f.algorithm) &&
		(f.state == "" || acc.State == f.state) &&
		(f.metadata == "" || noted && (!exact || note == value))
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
				Metadata: full.Metadata,
			}
		case errors.As(err, &r) && (r.status == http.StatusForbidden || r.status == http.StatusNotFound):
		default:
			return err
		}
	}
	return nil
}

func (doc accountListDoc) write(t *text) {
	switch {
	case len(doc.Accounts) == 0 && doc.filtered:
		t.line("No account fits.")
		return
	case len(doc.Accounts) == 0:
		t.line("No accounts yet. Create one with 'mpckms account create NAME --algorithm …'.")
		return
	}
	rows := make([][]string, len(doc.Accounts))
	for i, acc := range doc.Accounts {
		sharing := (&account{Threshold: acc.Threshold, Shares: acc.Shares}).sharing()
		rows[i] = []string{acc.Name, acc.Algorithm, sharing, acc.State, count64(acc.ShareEpoch), moment(acc.LastRefresh)}
	}
	t.table("", []string{"NAME", "ALGORITHM", "SIGNERS", "STATE", "EPOCH", "LAST REFRESH"}, rows)
	if doc.NextAfter != "" {
		t.line(fmt.Sprintf("There are more: --after %s", doc.NextAfter))
	}
}
