package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/mpc/approval"
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
	// PolicyHash is that of the policy which the refresh brought into force.
	PolicyHash string `json:"policy_hash,omitempty"`
}

func (a *app) accountRefreshCommand() *cobra.Command {
	var policy policyConsent
	cmd := &cobra.Command{
		Use:   "refresh NAME",
		Short: "Replace an account's shares now; its public key stays",
		Long: `Replace all shares of an account by new ones now, without waiting for its
refresh period. The public key stays the same; shares of the old epoch no longer
combine with those of the new one.

An account with custody is refreshed by who opens its custody key: the command logs in,
and needs no Vault token.

--request names a change of such an account's policy ('mpckms account policy set') that its
approvers have approved. The command shows the policy in force and the one to come, asks, and
brings it into force with the new shares. Without --request the policy stays.`,
		Example: `  mpckms account refresh treasury
  mpckms account refresh gold --authenticator ada
  mpckms account refresh gold --request 5f0e…9a`,
		Args:              accountArg,
		ValidArgsFunction: a.accountNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case policy.request == "" && (policy.yes || cmd.Flags().Changed("request")):
				return usagef(cmd, "--yes goes with --request, which names the request that was approved; without both the policy stays")
			case policy.request != "":
				if _, err := approval.ParseID(policy.request); err != nil {
					return usagef(cmd, "%q is not the ID of a request: it has 32 lower-case hex digits", policy.request)
				}
				if !policy.yes && !a.interactive() {
					return usagef(cmd, "there is no terminal to ask on: with --yes the policy that was approved is brought into force without a question")
				}
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			name := args[0]
			acc, err := a.refreshAccount(cmd, c, name, policy)
			if err != nil {
				return err
			}
			doc := refreshDoc{
				Name: name, State: acc.State, PublicKeyHex: acc.PublicKeyHex,
				ShareEpoch: acc.ShareEpoch, EpochID: acc.EpochID, WrappingVersion: acc.WrappingVersion,
				LastRefresh: acc.LastRefresh, NextRefresh: acc.NextRefresh, LastRefreshError: acc.LastRefreshError,
			}
			if policy.request != "" {
				doc.PolicyHash = acc.PolicyHash
			}
			return a.print(doc, doc.write)
		},
	}
	a.acceptFlags(cmd)
	cmd.Flags().StringVar(&policy.request, "request", "", "of an account with custody: the change of its policy, approved, that the refresh is to bring")
	cmd.Flags().BoolVar(&policy.yes, "yes", false, "with --request: agree to the policy without being asked")
	return cmd
}

// refreshAccount refreshes with the Vault token, or with the custody key where the
// account has one.
func (a *app) refreshAccount(cmd *cobra.Command, c *client, name string, policy policyConsent) (*account, error) {
	if a.asHolder(c) || policy.request != "" {
		acc, _, err := a.custodyRefresh(cmd, name, policy)
		return acc, err
	}
	acc := &account{Name: name}
	_, err := c.do(cmd.Context(), request{
		what:       fmt.Sprintf("refresh account %q", name),
		capability: capUpdate, path: "accounts/" + name + "/refresh",
		body: struct{}{}, account: name,
	}, acc)
	if needsCustody(err) {
		acc, _, err := a.custodyRefresh(cmd, name, policy)
		return acc, err
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
		"Policy hash", doc.PolicyHash,
	)
}
