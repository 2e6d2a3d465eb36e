package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) accountCommand() *cobra.Command {
	cmd := group("account", "Create, list, change, freeze, delete accounts and sign with them")
	cmd.AddCommand(a.accountPolicyCommand(), a.accountListCommand(), a.accountCreateCommand(), a.accountShowCommand(),
		a.accountSetCommand(), a.accountSignCommand(), a.accountSignBatchCommand(), a.accountVerifyCommand(),
		a.accountDeriveCommand(), a.accountAddressCommand(), a.accountJWKCommand(), a.accountCSRCommand(),
		a.accountRefreshCommand(), a.accountRenameCommand(), a.accountFreezeCommand(), a.accountUnfreezeCommand(),
		a.accountDeleteCommand(), a.accountRestoreCommand(), a.accountDestroyCommand())
	return cmd
}

// account is an account as the engine describes it, and the JSON document of
// `account show` and `account create`. Fields are only ever added.
type account struct {
	Name             string            `json:"name"`
	ID               string            `json:"id"`
	Algorithm        string            `json:"algorithm"`
	Threshold        int               `json:"threshold"`
	Shares           int               `json:"shares"`
	PublicKey        string            `json:"public_key"` // PEM
	PublicKeyHex     string            `json:"public_key_hex"`
	ChainCode        string            `json:"chain_code"` // hex, empty where nothing is derived
	Presign          int               `json:"presign"`
	Presignatures    int               `json:"presignatures"`
	SparesAllowed    *bool             `json:"spares_allowed"` // null where the server does not say
	ShareEpoch       uint64            `json:"share_epoch"`
	EpochID          string            `json:"epoch_id"`
	RecordHash       string            `json:"record_hash"` // of the epoch's public record, hex
	WrappingVersion  uint32            `json:"wrapping_version"`
	State            string            `json:"state"`
	Created          string            `json:"created_time"`
	LastRefresh      string            `json:"last_refresh_time"`
	NextRefresh      string            `json:"next_refresh_time"`
	RefreshPeriod    seconds           `json:"refresh_period"`
	LastRefreshError string            `json:"last_refresh_error"`
	Metadata         map[string]string `json:"metadata"`
	// Addresses are by chain; the server leaves them out where there are none.
	Addresses map[string]string `json:"addresses,omitempty"`
	// RecipientsCurrent: the shares are sealed to the recovery recipients in
	// force; null where the server does not say.
	RecipientsCurrent *bool  `json:"recipients_current,omitempty"`
	Frozen            string `json:"frozen_time,omitempty"`
	FrozenReason      string `json:"frozen_reason,omitempty"`
	Deleted           string `json:"deleted_time,omitempty"`
	DestroyTime       string `json:"destroy_time,omitempty"` // when a deleted account is removed for good
	BirthCertificate  any    `json:"birth_certificate"`
	BirthRecordHash   string `json:"birth_record_hash"` // what the certificate signs
	// Custody says who has the account's custody key; null for one that has none.
	Custody        *custodyDoc `json:"custody,omitempty"`
	CustodyPending bool        `json:"custody_pending,omitempty"` // its custody key is being replaced
	RefreshDue     bool        `json:"refresh_due,omitempty"`
	// PolicyHash names the approval policy in force, hex; empty for none.
	PolicyHash string `json:"policy_hash,omitempty"`
	Policy     string `json:"policy,omitempty"` // in a line
}

func (acc *account) sharing() string {
	if acc.Threshold == 0 || acc.Shares == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d", acc.Threshold, acc.Shares)
}

func (acc *account) write(t *text) {
	period := acc.RefreshPeriod.String()
	if period == "" {
		period = "the mount's"
	}
	t.pairs("",
		"Name", acc.Name,
		"ID", acc.ID,
		"Algorithm", acc.Algorithm,
		"Signers", acc.sharing(),
		"State", acc.State,
		"Frozen", strings.TrimSpace(moment(acc.Frozen)+" "+parenthesized(acc.FrozenReason)),
		"Deleted", moment(acc.Deleted),
		"Removed for good", moment(acc.DestroyTime),
		"Public key", acc.PublicKeyHex,
		"Chain code", acc.ChainCode,
		"Presignatures", acc.stock(),
		"Share epoch", count64(acc.ShareEpoch),
		"Epoch ID", acc.EpochID,
		"Record hash", acc.RecordHash,
		"Custody", acc.custody(),
		"Wrapping version", count64(uint64(acc.WrappingVersion)),
		"Created", moment(acc.Created),
		"Refresh period", period,
		"Last refresh", moment(acc.LastRefresh),
		"Next refresh", moment(acc.NextRefresh),
		"Approvals", acc.Policy,
		"Last refresh error", acc.LastRefreshError,
		"Birth certificate", acc.certificate(),
	)
	if acc.SparesAllowed != nil && !*acc.SparesAllowed {
		t.line("Until the next refresh no other node may take over a share: Vault's storage may have been restored.")
	}
	section(t, "Addresses", acc.Addresses)
	section(t, "Metadata", acc.Metadata)
	if acc.PublicKey != "" {
		t.blank()
		t.block(acc.PublicKey)
	}
}

// section prints a map under a title, sorted; nothing where it is empty.
func section(t *text, title string, values map[string]string) {
	if len(values) == 0 {
		return
	}
	t.blank()
	t.line(title)
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(values)) {
		pairs = append(pairs, k, values[k])
	}
	t.pairs("  ", pairs...)
}

// custody says who has the custody key and whether something waits for him.
func (acc *account) custody() string {
	if acc.Custody == nil {
		return ""
	}
	s := acc.Custody.Identity + "/" + acc.Custody.Asset
	switch {
	case acc.CustodyPending:
		s += " (a new custody key waits: run 'mpckms identity reset' again)"
	case acc.RefreshDue:
		s += " (a refresh is due, which the next signature makes)"
	}
	return s
}

// stock is "3 of 8 ready", or "" for an account that keeps none.
func (acc *account) stock() string {
	if acc.Presign == 0 && acc.Presignatures == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d ready", acc.Presignatures, acc.Presign)
}

// certificate says that there is one; it is too long for a table.
func (acc *account) certificate() string {
	switch cert := acc.BirthCertificate.(type) {
	case nil:
		return ""
	case []any:
		return fmt.Sprintf("%d node signatures (see -o json)", len(cert))
	case string:
		if cert == "" {
			return ""
		}
	}
	return "present (see -o json)"
}

// readAccount reads one account.
func (c *client) readAccount(ctx context.Context, name string) (*account, error) {
	acc := &account{Name: name}
	found, err := c.do(ctx, request{
		what:       fmt.Sprintf("show account %q", name),
		capability: capRead, path: "accounts/" + name, account: name,
	}, acc)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, &refusal{what: fmt.Sprintf("cannot show account %q", name),
			cause: errNotVault, client: c, path: c.mount + "/accounts/" + name}
	}
	acc.normalize()
	return acc, nil
}

// afterWrite completes what a write answered about an account by reading the
// account, where the answer does not describe it. The write is done by then, so
// a token that may not read gets a warning, not an error.
func (a *app) afterWrite(ctx context.Context, c *client, answer *account, done string) (*account, error) {
	if answer.PublicKeyHex == "" {
		full, err := c.readAccount(ctx, answer.Name)
		var r *refusal
		switch {
		case err == nil:
			return full, nil
		case errors.As(err, &r) && r.status == http.StatusForbidden:
			a.note("Warning: account %q was %s, but the token may not read it", answer.Name, done)
		default:
			return nil, fmt.Errorf("account %q was %s, but: %w", answer.Name, done, err)
		}
	}
	answer.normalize()
	return answer, nil
}

// normalize makes JSON documents stable: an object where nothing was set.
func (acc *account) normalize() {
	if acc.Metadata == nil {
		acc.Metadata = map[string]string{}
	}
}

// decodeInfo reads one entry of a list's key_info; nothing there is fine.
func decodeInfo(raw json.RawMessage, out any) error {
	if len(raw) == 0 {
		return nil
	}
	return json.Unmarshal(raw, out)
}
