package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/custody"
)

// What makes an account with custody sign and refresh, on top of custodian.

// custodyPause is how long to wait before an operation is begun again.
const custodyPause = time.Second

// pinnedNodes is the roster of a home.
type pinnedNodes struct{ roster keyholder.Roster }

// Known implements roster.
func (p pinnedNodes) Known(node mpc.NodeIdentity) error {
	if p.roster.Holds(node.String()) {
		return nil
	}
	return &refusal{
		what: "a node with the identity " + node.String() + " is to take part, which this home does not know",
		advice: "Nothing was released to it. If the engine's operators have set up nodes anew, compare the identity with theirs\n" +
			"('mpckms status') and accept the nodes as they are now with --accept-nodes.",
	}
}

// custodian is who uses the holder's custody keys. The first time, the nodes are
// taken as the server shows them; from then on they are those.
func (a *app) custodian(ctx context.Context, h *holder) (*custodian, error) {
	known, err := h.home.Roster()
	if err != nil {
		return nil, err
	}
	if len(known.Nodes) == 0 || a.acceptNodes {
		seen, err := keyholder.FetchRoster(ctx, h)
		if err != nil {
			return nil, refusedBy("read the nodes", err)
		}
		for _, change := range known.Changes(seen) {
			a.note("Remembered: %s", change)
		}
		if err := h.home.SetRoster(seen); err != nil {
			return nil, err
		}
		known = seen
	}
	return &custodian{Caller: h, nodes: pinnedNodes{known}, now: time.Now, pause: custodyPause}, nil
}

// custodial opens what is needed to use an account's custody key: the account as
// the server shows it to who is logged in, the identity and the asset. h is
// returned for the caller to leave.
func (a *app) custodial(cmd *cobra.Command, name string) (h *holder, acc *account, asset *identity.Asset, err error) {
	what := "use account " + quote(name)
	s, home, err := a.logIn(cmd, "")
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			a.endSession(s)
		}
	}()
	acc = &account{}
	if err := s.Call(cmd.Context(), keyholder.Read, "accounts/"+name, nil, acc); err != nil {
		return nil, nil, nil, refusedBy(what, err)
	}
	acc.Name = name
	if acc.Custody == nil {
		return nil, nil, nil, &refusal{what: fmt.Sprintf("account %q has no custody key: it signs for who has a Vault token that may use it", name)}
	}
	if err := home.SeenAccount(name, keyholder.AccountPin{ID: acc.ID, PublicKey: acc.PublicKeyHex}, a.acceptAccount); err != nil {
		err := refusedBy(what, err)
		var r *refusal
		if errors.As(err, &r) && errors.Is(err, identity.ErrRolledBack) {
			r.advice = "Nothing was signed. If the account was renamed, or destroyed and made anew, say so with --accept-account; if you know\n" +
				"of nothing like that, somebody may want you to sign with another account than you think."
		}
		return nil, nil, nil, err
	}
	if err := errors.Join(checkName("identity", acc.Custody.Identity), checkName("asset", acc.Custody.Asset)); err != nil {
		return nil, nil, nil, refusedBy(what, err)
	}
	if h, err = hold(cmd.Context(), loggedIn(s, home), home, acc.Custody.Identity); err != nil {
		return nil, nil, nil, err
	}
	h.home = home
	if asset, _, err = h.asset(cmd.Context(), acc.Custody.Asset); err != nil {
		h.close()
		return nil, nil, nil, err
	}
	return h, acc, asset, nil
}

// task is the use of an asset's custody key for its account, which is the one that
// the user named: which asset that account has is the server's word.
func (h *holder) task(what string, acc *account, asset *identity.Asset, purpose custody.Purpose) (custodyTask, error) {
	switch asset.Account {
	case acc.ID:
	case "":
		return custodyTask{}, &refusal{what: "cannot " + what + ": asset " + quote(h.name+"/"+asset.Name) + " names no account yet",
			advice: "Finish it: 'mpckms account create " + acc.Name + " --custody " + h.name + "/" + asset.Name + "' with the options that it was begun with."}
	default:
		return custodyTask{}, refusedBy(what, fmt.Errorf("the server shows asset %s for account %q, and that holds the custody key of another account: %w",
			quote(h.name+"/"+asset.Name), acc.Name, identity.ErrSignature))
	}
	key, err := h.custodyKey(asset, identity.CustodyKey)
	if err != nil {
		return custodyTask{}, err
	}
	return custodyTask{what: what, account: acc.Name, id: asset.Account, key: key, purpose: purpose}, nil
}

// asHolder: there is no Vault token, but this home knows an authenticator, so that
// an account can only be one with custody.
func (a *app) asHolder(c *client) bool {
	if c.hasToken {
		return false
	}
	home, err := a.home()
	if err != nil {
		return false
	}
	known, err := home.Authenticators()
	return err == nil && len(known) > 0
}

// custodyRefresh replaces the shares of an account with custody, and brings a
// policy where one is named and the owner agrees. It returns that policy, nil for none.
func (a *app) custodyRefresh(cmd *cobra.Command, name string, policy policyConsent) (*account, *approval.Policy, error) {
	h, shown, asset, err := a.custodial(cmd, name)
	if err != nil {
		return nil, nil, err
	}
	defer a.leave(h)
	if identity.Pending(asset) {
		return nil, nil, &refusal{what: fmt.Sprintf("the custody key of account %q is being replaced, and that is not finished", name),
			advice: "'mpckms identity reset " + h.name + "' with the authenticator that was lost goes on with it."}
	}
	t, err := h.task("refresh account "+quote(name), shown, asset, custody.Purpose{Operation: custody.OpRefresh})
	if err != nil {
		return nil, nil, err
	}
	t.purpose.NextCustody = t.key.PublicKey().Bytes()
	c, err := a.custodian(cmd.Context(), h)
	if err != nil {
		return nil, nil, err
	}
	var next *approval.Policy
	if policy.any() {
		if next, err = a.agreeToPolicy(cmd.Context(), c, &t, policy); err != nil {
			return nil, nil, err
		}
	}
	acc := &account{Name: name}
	return acc, next, c.run(cmd.Context(), t, acc)
}

// errNoAccount: by the server's word the account that an asset names is gone.
var errNoAccount = errors.New("there is no such account any more")

// custodyAccount finds the account that an asset names.
func (h *holder) custodyAccount(ctx context.Context, asset *identity.Asset) (*account, error) {
	what := "find the account of asset " + quote(h.name+"/"+asset.Name)
	var facts struct {
		Account string `json:"account_name"`
	}
	if err := h.Call(ctx, keyholder.Read, h.assetPath(asset.Name), nil, &facts); err != nil {
		return nil, refusedBy(what, err)
	}
	if facts.Account == "" {
		return nil, refusedBy(what, errNoAccount)
	}
	if !validName(facts.Account) {
		return nil, refusedBy(what, errors.New("the server names none"))
	}
	acc := &account{Name: facts.Account}
	if err := h.Call(ctx, keyholder.Read, "accounts/"+facts.Account, nil, acc); err != nil {
		return nil, refusedBy(what, err)
	}
	if acc.ID != asset.Account || acc.Custody == nil {
		return nil, refusedBy(what, errors.New("the server shows another account than the one that the asset names"))
	}
	return acc, nil
}

const acceptNodesUsage = "take the engine's nodes as it shows them now, in place of those that this home remembers"

// acceptFlags are those of commands that use a custody key.
func (a *app) acceptFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.acceptNodes, "accept-nodes", false, acceptNodesUsage)
	cmd.Flags().BoolVar(&a.acceptAccount, "accept-account", false, "the name stands for another account with custody than this home remembers")
}
