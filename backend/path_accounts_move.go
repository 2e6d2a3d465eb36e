package backend

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
)

// A move gives the shares of an account other homes, by two refreshes:
//
//	shares of epoch e            sealed to the old homes
//	  → first refresh            nodes of the old homes make the shares of e+1 and seal them to the new
//	shares of epoch e+1          sealed to the new homes; the nodes that made them know them
//	  → second refresh           nodes of the new homes make the shares of e+2
//	shares of epoch e+2          known to the new homes alone
//
// Each is stored by one Put as every refresh is, so that a crash in between leaves an
// account that signs at its new homes; the next refresh, scheduled or by repeating
// the request, is the second one.

func (b *backend) pathAccountMove() []*framework.Path {
	answer := accountAnswerFields()
	answer["session_id"] = field(framework.TypeString, "ID of the protocol session of the last refresh, in hex.")
	return []*framework.Path{{
		Pattern:      "accounts/" + namePattern + "/move$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "move", OperationSuffix: "account"},
		Fields: map[string]*framework.FieldSchema{
			"name": nameField(),
			"domains": {
				Type:         framework.TypeCommaStringSlice,
				Description:  "The wrapping domains that the shares are to live in; default all of the pool.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Domains"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: b.operation("Move the shares of an account to other wrapping domains or regions.", true, b.handle("accounts/move", 0, b.accountMove), answer),
		},
		HelpSynopsis: "Move the shares of an account to other wrapping domains or regions.",
		HelpDescription: `
Deals the shares of an account over the pool's nodes anew, as evenly over regions and
wrapping domains as their numbers allow; the public key stays:

  $ vault write -force mpc/accounts/alice/move
  $ vault write mpc/accounts/alice/move domains=eu,us

That is for accounts that are older than the pool's regions, for a region that leaves
or comes, and for a new HSM: enrol nodes that use it, with a domain of its own, and
name that domain. The account is refreshed twice: its present nodes seal new shares
to the new homes, and then the nodes there make others, which the nodes before know
nothing of. If it is interrupted, the account signs as before, and repeating the
request, or the next scheduled refresh, finishes it.

Shares are sealed to another domain only if the recipient set in force names the nodes
that vouch for its key (mpc/config/recovery): without that, whoever has Vault could
name a token of his own.

Shares of an account with user custody cannot be moved: its owner makes a new account.
`,
	}}
}

func (b *backend) accountMove(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := checkAccountName(data)
	if err != nil {
		return nil, err
	}
	domains, err := b.takeDomains(ctx, data)
	if err != nil {
		return nil, err
	}
	r, err := b.needAccount(ctx, name)
	if err != nil {
		return nil, err
	}
	if r.Custody != nil {
		return nil, invalid("account %q has user custody: only its owner can have its shares made anew, and that keeps them in their wrapping domains and regions (mpckms account refresh); for other ones, create a new account with domains, and move what the key protects", name)
	}
	moves := false
	res, err := b.refreshTo(ctx, name, func(eng Engine, a *mpc.Account) ([]mpc.Home, error) {
		target, err := b.planMove(ctx, eng, a, domains)
		moves = len(target) > 0
		return target, err
	})
	if err == nil && moves {
		b.accountChanged(name, res.record)
		if err = b.step(ctx, stepMoveSealed); err == nil {
			res, err = b.endMove(ctx, name)
		}
	}
	if err != nil {
		b.runner.Failed(name, err)
		return nil, err
	}
	b.accountChanged(name, res.record)
	resp, err := b.accountAnswer(ctx, name, res.record)
	if err != nil {
		return nil, err
	}
	resp.Data["session_id"] = res.sessionID.String()
	a, err := res.record.Current.account()
	if err != nil {
		return nil, err
	}
	return resp, b.warnOfPlacement(ctx, a, resp)
}

// endMove is the second refresh.
func (b *backend) endMove(ctx context.Context, name string) (*refreshed, error) {
	res, err := b.refreshAccount(ctx, name)
	if err == nil {
		return res, nil
	}
	status, why := b.classify(err)
	if status < http.StatusInternalServerError {
		status = http.StatusConflict
	}
	return nil, &fault{status: status, err: err, msg: fmt.Sprintf("the shares of account %q are at their new homes and sign there, and the nodes that they left know them until the next refresh, which was tried and failed (%s): it is tried again by itself, or repeat the request", name, why)}
}

// planMove returns the homes that the shares are to have; nil where they are there,
// and a refresh is all that is left to do. Only nodes that are ready count: a region
// that is away gets nothing.
func (b *backend) planMove(ctx context.Context, eng Engine, a *mpc.Account, domains []string) ([]mpc.Home, error) {
	nodes := eng.Nodes()
	var sites []mpc.Site
	for _, n := range nodes {
		if n.State == pool.NodeReady && (len(domains) == 0 || slices.Contains(domains, domainOf(n))) {
			sites = append(sites, mpc.Site{Home: mpc.Home{Domain: domainOf(n), Region: n.Region}, Nodes: 1})
		}
	}
	// Equally good plans take turns, so that no region has the extra share of all.
	rand.Shuffle(len(sites), func(i, j int) { sites[i], sites[j] = sites[j], sites[i] })
	plan, err := mpc.PlanHomes(a.Record.Threshold, a.Record.Shares, sites)
	if err != nil {
		return nil, conflict("nothing was moved: %v; see nodes/ for nodes that are not ready, or name more domains", err)
	}
	target := mpc.KeepHomes(presentHomes(a, nodes), plan)
	if sameHomes(a, target) {
		return nil, nil
	}
	return target, b.checkForeign(ctx, a, target)
}

// presentHomes returns where the shares are, those of accounts without homes where
// the nodes that hold them are.
func presentHomes(a *mpc.Account, nodes []pool.NodeStatus) []mpc.Home {
	homes := homesOf(a)
	if len(a.Homes) > 0 {
		return homes
	}
	at := identitiesOf(nodes)
	for id, i := range a.Exposures {
		if n, ok := at[id]; ok && int(i) <= len(homes) && domainOf(n) == homes[i-1].Domain {
			homes[i-1].Region = n.Region
		}
	}
	return homes
}

// sameHomes reports whether a plan changes nothing. An account without homes that
// would get homes in no region, in the domains that it has, needs none.
func sameHomes(a *mpc.Account, target []mpc.Home) bool {
	if len(a.Homes) > 0 {
		return slices.Equal(a.Homes, target)
	}
	return slices.Equal(homesOf(a), target)
}

// checkForeign fails where a share would be sealed to a domain that the recipient
// set in force does not name: nodes of the other domains would refuse to.
func (b *backend) checkForeign(ctx context.Context, a *mpc.Account, target []mpc.Home) error {
	var missing []string
	raw, _, err := b.setInForce(ctx)
	if err != nil {
		return err
	}
	set := &recovery.RecipientSet{}
	if raw != nil {
		signed, err := recovery.ParseSignedSet(raw)
		if err != nil {
			return err
		}
		set = signed.Unverified()
	}
	for i, h := range homesOf(a) {
		to := target[i].Domain
		if to != h.Domain && !set.HasDomain(to) && !slices.Contains(missing, to) {
			missing = append(missing, to)
		}
	}
	if len(missing) == 0 {
		return b.checkJoined(ctx, a, target)
	}
	slices.Sort(missing)
	return invalid("nothing was moved: shares are sealed to another wrapping domain only on the word of nodes that the recipient set in force names, and it names none for %s. Have the authority sign a set that does (mpckms authority sign-set), and write it to config/recovery", strings.Join(missing, ", "))
}

// checkJoined fails while a domain that shares are to move to has no key yet.
func (b *backend) checkJoined(ctx context.Context, a *mpc.Account, target []mpc.Home) error {
	homes := homesOf(a)
	for i, h := range target {
		if h.Domain == homes[i].Domain {
			continue
		}
		joined, err := b.hasDomain(ctx, h.Domain)
		if err != nil {
			return err
		}
		if !joined {
			return conflict("nothing was moved: the wrapping key of domain %q is not made yet, which happens by itself once a node of it is ready; see wrapping-keys/ and nodes/, and repeat the request", h.Domain)
		}
	}
	return nil
}
