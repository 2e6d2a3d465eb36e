package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// refreshDoc is the JSON document of `account refresh`.
type refreshDoc struct {
	Name             string `json:"name"`
	State            string `json:"state"`
	PublicKeyHex     string `json:"public_key_hex"`
	ShareEpoch       uint64 `json:"share_epoch"`
	EpochID          string `json:"epoch_id"`
	WrappingVersion  uint32 `json:"wrapping_version"`
	LastRefresh      string `json:"last_refresh_time"`
	NextRefresh      string `json:"next_refresh_time"`
	LastRefreshError string `json:"last_refresh_error"`
}

func (a *app) accountRefreshCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "refresh NAME",
		Short: "Replace an account's shares now; its public key stays",
		Long: `Replace all shares of an account by new ones now, without waiting for its
refresh period. The public key stays the same; shares of the old epoch no longer
combine with those of the new one.

An account with custody is refreshed by who opens its custody key: the command logs in,
and needs no Vault token.`,
		Example: `  mpckms account refresh treasury
  mpckms account refresh gold --authenticator ada`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			name := args[0]
			acc, err := a.refreshAccount(cmd, c, name)
			if err != nil {
				return err
			}
			doc := refreshDoc{
				Name: name, State: acc.State, PublicKeyHex: acc.PublicKeyHex,
				ShareEpoch: acc.ShareEpoch, EpochID: acc.EpochID, WrappingVersion: acc.WrappingVersion,
				LastRefresh: acc.LastRefresh, NextRefresh: acc.NextRefresh, LastRefreshError: acc.LastRefreshError,
			}
			return a.print(doc, doc.write)
		},
	}
	a.acceptFlags(cmd)
	return cmd
}

// refreshAccount refreshes with the Vault token, or with the custody key where the
// account has one.
func (a *app) refreshAccount(cmd *cobra.Command, c *client, name string) (*account, error) {
	if a.asHolder(c) {
		return a.custodyRefresh(cmd, name)
	}
	acc := &account{Name: name}
	_, err := c.do(cmd.Context(), request{
		what:       fmt.Sprintf("refresh account %q", name),
		capability: capUpdate, path: "accounts/" + name + "/refresh",
		body: struct{}{}, account: name,
	}, acc)
	if needsCustody(err) {
		return a.custodyRefresh(cmd, name)
	}
	if err != nil {
		return nil, err
	}
	return a.afterWrite(cmd.Context(), c, acc, "refreshed")
}

func (doc refreshDoc) write(t *text) {
	t.pairs("",
		"Name", doc.Name,
		"State", doc.State,
		"Public key", doc.PublicKeyHex,
		"Share epoch", count64(doc.ShareEpoch),
		"Epoch ID", doc.EpochID,
		"Wrapping version", count64(uint64(doc.WrappingVersion)),
		"Last refresh", moment(doc.LastRefresh),
		"Next refresh", moment(doc.NextRefresh),
		"Last refresh error", doc.LastRefreshError,
	)
}
