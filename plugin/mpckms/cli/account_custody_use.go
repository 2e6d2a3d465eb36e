package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
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

// custodySign signs with an account that has custody. body is that of sign/:name.
func (a *app) custodySign(cmd *cobra.Command, name string, body map[string]any, timeout time.Duration, noWait bool, w *waitFor, doc *signDoc) (asked bool, err error) {
	h, shown, asset, err := a.custodial(cmd, name)
	if err != nil {
		return false, err
	}
	defer a.leave(h)
	purpose, finish, err := signPurpose(body)
	if err != nil {
		return false, err
	}
	t, err := h.task(fmt.Sprintf("sign with account %q", name), shown, asset, purpose)
	if err != nil {
		return false, err
	}
	t.finish, t.mayRefresh = finish, !identity.Pending(asset)
	format, _ := body["signature_format"].(string)
	want, err := wantedFrom(shown, purpose, format)
	if err != nil {
		return false, refusedBy(t.what, err)
	}
	if _, before := body["request"]; before && shown.PolicyHash == "" {
		return false, &refusal{what: "cannot " + t.what, cause: errors.New("nobody has to approve for the account, so that there is no request: leave --request out")}
	}
	if shown.PolicyHash != "" {
		r, err := a.custodyApproval(cmd, h, name, body, w)
		switch {
		case err != nil:
			return false, err
		case r == nil:
			return true, nil
		case r.hasResult():
			return false, r.custodySignature(t.what, want, doc)
		}
		t.request = r.Request
		delete(t.finish, "request_id") // it is the request's, which has been asked for
	}
	c, err := a.custodian(cmd.Context(), h)
	if err != nil {
		return false, err
	}
	deadline := time.Now().Add(timeout)
	for told := false; ; {
		err := c.sign(cmd.Context(), t, want, doc)
		var r *refusal
		if !errors.As(err, &r) || !auxiliaryKeysPending(r) {
			return false, err
		}
		r.advice = waitAdvice
		if noWait || time.Now().After(deadline) {
			return false, r
		}
		if !told {
			a.note("Waiting up to %s: %s", timeout, strings.Join(r.messages, "; "))
			told = true
		}
		select {
		case <-cmd.Context().Done():
			r.cause = cmd.Context().Err()
			return false, r
		case <-time.After(a.retryPause):
		}
	}
}

// custodySignature is signatureOf for an account with custody: a result that was
// stored is checked like a new signature.
func (d *requestDoc) custodySignature(what string, want *wantedSignature, doc *signDoc) error {
	var answer signDoc
	if err := d.signatureOf(&answer); err != nil {
		return err
	}
	if err := want.checked(what, &answer); err != nil {
		return err
	}
	answer.Name = doc.Name
	*doc = answer
	return nil
}

// custodyApproval asks for approvals as the account's owner, or finds what was asked
// for before under the same request ID, and returns a request that is approved or
// signed. It returns nil where that is not so yet, or never will be, after printing it.
func (a *app) custodyApproval(cmd *cobra.Command, h *holder, name string, body map[string]any, w *waitFor) (*requestDoc, error) {
	what := fmt.Sprintf("sign with account %q", name)
	var raw json.RawMessage
	if err := h.Call(cmd.Context(), keyholder.Write, "sign/"+name, body, &raw); err != nil {
		return nil, asked(what, err)
	}
	d := pendingAnswer(raw)
	switch {
	case d == nil:
		return nil, &refusal{what: "cannot " + what, cause: errors.New("the answer is not a request for approvals, which the account demands; nothing was signed")}
	case d.State == "approved" || d.State == "signed":
		return d, nil
	case d.ended(): // asked for before under the same request ID
		return nil, errors.Join(a.printRequest(d), requestEnd(d))
	case !w.wait:
		return nil, a.pending(cmd, h, d, w)
	}
	end, err := a.untilApproved(cmd.Context(), h, d, w)
	if err != nil {
		return nil, err
	}
	if err := requestEnd(end); err != nil {
		return nil, errors.Join(a.printRequest(end), err)
	}
	return end, nil
}

// signPurpose takes the purpose out of a request to sign; what is left goes with
// the second half, and does not change what is signed.
func signPurpose(body map[string]any) (custody.Purpose, map[string]any, error) {
	p := custody.Purpose{Operation: custody.OpSign}
	finish := map[string]any{}
	for k, v := range body {
		text, _ := v.(string)
		switch k {
		case "input":
			input, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return p, nil, err
			}
			p.Input = input
		case "message_type":
			p.MessageType = text
		case "hash_algorithm":
			p.HashAlgorithm = text
		case "derivation_path":
			p.DerivationPath = text
		case "taproot_tweak":
			p.TaprootTweak = text
		case "request": // goes with the first half, where it was found to be approved
		default:
			finish[k] = v
		}
	}
	return p, finish, nil
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

// custodyCreate makes an account with custody: the asset with a new custody key,
// then the account, and then the asset names the account. Each step is found done
// when it is run again.
func (a *app) custodyCreate(cmd *cobra.Command, c *client, name, where string, roles []string, body map[string]any) (*account, error) {
	ctx, what := cmd.Context(), "create account "+quote(name)
	owner, assetName, err := assetName(cmd, where)
	if err != nil {
		return nil, err
	}
	h, err := a.enter(cmd, owner)
	if err != nil {
		return nil, err
	}
	defer a.leave(h)
	asset, err := h.custodyAsset(ctx, assetName, roles)
	if err != nil {
		return nil, err
	}
	acc, err := c.readAccount(ctx, name)
	var r *refusal
	switch {
	case err == nil: // made before, perhaps by a run that was interrupted
		if asset.Account != "" || acc.Custody == nil || string(acc.Custody.PublicKey) != string(asset.Key(identity.CustodyKey).Public) {
			return nil, &refusal{what: fmt.Sprintf("account %q exists already; nothing was changed", name),
				advice: "Look at it with 'mpckms account show " + name + "', or choose another name."}
		}
	case errors.As(err, &r) && (r.status == http.StatusForbidden || r.status == http.StatusNotFound && !r.noRoute() && !r.unsupportedPath()):
		if asset.Account != "" {
			return nil, &refusal{what: fmt.Sprintf("asset %s holds the custody key of another account, with the ID %s; nothing was created", quote(where), asset.Account),
				advice: "Each account has a custody key of its own: choose another name for the asset."}
		}
		body["custody_identity"], body["custody_asset"] = owner, assetName
		acc = &account{Name: name}
		if _, err := c.do(ctx, request{what: what, capability: capCreate, path: "accounts/" + name, body: body, account: name}, acc); err != nil {
			return nil, err
		}
		if acc, err = a.afterWrite(ctx, c, acc, "created"); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	if acc.Custody == nil || string(acc.Custody.PublicKey) != string(asset.Key(identity.CustodyKey).Public) {
		return nil, &refusal{what: fmt.Sprintf("the server says that account %q has another custody key than that in %s", name, quote(where)),
			advice: "Do not use the account: it may sign without you."}
	}
	if err := h.write(ctx, asset, func(next *identity.Asset) error { next.Account = acc.ID; return nil }); err != nil {
		return nil, fmt.Errorf("account %q was created, but its asset does not name it yet (run the command again to go on): %w", name, err)
	}
	if err := h.home.SeenAccount(name, keyholder.AccountPin{ID: acc.ID, PublicKey: acc.PublicKeyHex}, true); err != nil {
		return nil, err
	}
	// Now, while its maker looks on, is the time to meet the nodes.
	if _, err := a.custodian(ctx, h); err != nil {
		return nil, err
	}
	return acc, nil
}

// custodyAsset returns the asset that is to hold a new account's custody key,
// which is made with a new key if need be.
func (h *holder) custodyAsset(ctx context.Context, name string, roles []string) (*identity.Asset, error) {
	asset, _, err := h.asset(ctx, name)
	if err == nil {
		if asset.Kind != identity.AccountAsset {
			return nil, &refusal{what: fmt.Sprintf("%s is a secret already; nothing was created", quote(h.name+"/"+name)), advice: "Choose another name for the custody key."}
		}
		return asset, h.sameRoles(asset, roles)
	}
	if !errors.Is(err, errNoAsset) {
		return nil, err
	}
	if len(roles) == 0 {
		return nil, noRoles(h.name)
	}
	public, private, err := identity.NewCustodyKey()
	if err != nil {
		return nil, err
	}
	defer private.Wipe()
	err = h.write(ctx, h.opened.NewAsset(name, identity.AccountAsset), func(next *identity.Asset) error {
		k, err := identity.SealAssetKey(h.opened.Manifest, next, identity.CustodyKey, public, private, roles)
		if err == nil {
			next.Put(*k)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	asset, _, err = h.asset(ctx, name)
	return asset, err
}

func noRoles(identityName string) error {
	return &refusal{what: "for which roles is the custody key? Nothing was created", advice: "Name them with --role; 'mpckms identity show " + identityName + "' lists them."}
}

// sameRoles: a custody key that is there already is for the roles that are meant.
// It may be of a run that was interrupted, or of somebody else with any role, who
// would have a key of the account that is to be made.
func (h *holder) sameRoles(asset *identity.Asset, roles []string) error {
	if len(roles) == 0 {
		return noRoles(h.name)
	}
	want := slices.Compact(slices.Sorted(slices.Values(roles)))
	if have := asset.Roles(); !slices.Equal(have, want) {
		return &refusal{what: fmt.Sprintf("%s exists already, with a custody key for roles %s and not for %s; nothing was created", quote(h.name+"/"+asset.Name), strings.Join(have, ", "), strings.Join(want, ", ")),
			advice: "If you have not made it yourself, somebody else knows its key: choose another name. Otherwise give the roles that it was made for."}
	}
	return nil
}

const acceptNodesUsage = "take the engine's nodes as it shows them now, in place of those that this home remembers"

// acceptFlags are those of commands that use a custody key.
func (a *app) acceptFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.acceptNodes, "accept-nodes", false, acceptNodesUsage)
	cmd.Flags().BoolVar(&a.acceptAccount, "accept-account", false, "the name stands for another account with custody than this home remembers")
}
