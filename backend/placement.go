package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
)

// What the homes of an account's shares protect it from is said at its creation and
// whenever it is read, in the words of placement, and in warnings where the pool
// could do better.

func placementField() *framework.FieldSchema {
	return field(framework.TypeMap, "Where the shares live, and what that is worth: homes (share, domain, region), regions, most_in_region, region_compromise (safe, or t shares in one region), region_loss (survives, or stops signing), and domains, most_in_domain, domain_compromise, domain_loss for wrapping domains.")
}

// Values of the placement's fields.
const (
	placedSafe     = "safe"
	placedSurvives = "survives"
	placedStops    = "stops signing"
)

// placementAnswer says where the shares of an account live. Shares without a home of
// their own live in the domain that they are sealed to, in no region or, if all
// nodes of the domain are in one, in that.
func placementAnswer(a *mpc.Account, nodes []site) map[string]any {
	homes := settledHomes(a, nodes)
	g := mpc.GuaranteeOf(a.Record.Threshold, homes)
	list := make([]map[string]any, len(homes))
	for i, h := range homes {
		list[i] = map[string]any{"share": i + 1, "domain": h.Domain, "region": h.Region}
	}
	say := func(ok bool, yes, no string) string {
		if ok {
			return yes
		}
		return no
	}
	return map[string]any{
		"homes":             list,
		"regions":           g.Regions,
		"most_in_region":    g.MostInRegion,
		"region_compromise": say(g.RegionCompromise, placedSafe, "t shares in one region"),
		"region_loss":       say(g.RegionLoss, placedSurvives, placedStops),
		"domains":           g.Domains,
		"most_in_domain":    g.MostInDomain,
		"domain_compromise": say(g.DomainCompromise, placedSafe, "t shares in one domain"),
		"domain_loss":       say(g.DomainLoss, placedSurvives, placedStops),
	}
}

// settledHomes is homesOf with regions that follow from the nodes.
func settledHomes(a *mpc.Account, nodes []site) []mpc.Home {
	homes := homesOf(a)
	if len(a.Homes) > 0 {
		return homes
	}
	for i := range homes {
		in := map[string]bool{}
		for _, n := range nodes {
			if n.domain == homes[i].Domain {
				in[n.region] = true
			}
		}
		if len(in) == 1 {
			homes[i].Region = slices.Collect(maps.Keys(in))[0]
		}
	}
	return homes
}

// addPlacement adds placement to an account's answer.
func (b *backend) addPlacement(ctx context.Context, a *mpc.Account, out map[string]any) error {
	nodes, err := b.presentSites(ctx)
	if err == nil {
		out["placement"] = placementAnswer(a, nodes)
	}
	return err
}

// warnOfPlacement says where the shares of an account lie worse than the pool's
// regions and domains would allow. Pools of one region and domain are not warned of
// what is plain.
func (b *backend) warnOfPlacement(ctx context.Context, a *mpc.Account, resp *logical.Response) error {
	nodes, err := b.presentSites(ctx)
	if err != nil {
		return err
	}
	t, n := a.Record.Threshold, a.Record.Shares
	homes := settledHomes(a, nodes)
	g := mpc.GuaranteeOf(t, homes)
	regions := map[string]bool{}
	for _, s := range nodes {
		regions[s.region] = true
	}
	if len(regions) < 2 {
		return nil
	}
	if !g.RegionCompromise {
		name, most := mostOf(homes, func(h mpc.Home) string { return h.Region })
		resp.AddWarning(fmt.Sprintf("%s holds %d of the account's %d shares, and %d sign: whoever has everything there has the key. %s", regionText(name), most, n, t,
			allows((n+len(regions)-1)/len(regions) < t, "The pool's regions would allow better: see nodes/ for nodes that are missing, enrol more nodes in the other regions, and use accounts/:name/move", "With this many regions no account of these numbers does better: use more regions, or a higher threshold")))
	} else if !g.RegionLoss {
		name, most := mostOf(homes, func(h mpc.Home) string { return h.Region })
		resp.AddWarning(fmt.Sprintf("the account cannot sign without %s, which holds %d of its %d shares, of which %d sign. %s", regionText(name), most, n, t,
			allows(n-(n+len(regions)-1)/len(regions) >= t, "The pool's regions would allow better: see nodes/ for nodes that are missing, enrol more nodes in the other regions, and use accounts/:name/move", "With this many regions no account of these numbers does better: use more regions, or more shares")))
	} else if even := (n + len(regions) - 1) / len(regions); g.MostInRegion > even {
		resp.AddWarning(fmt.Sprintf("one region holds %d of the account's %d shares, and over the pool's %d regions it could be %d at most: enrol more nodes where there are few, and use accounts/:name/move", g.MostInRegion, n, len(regions), even))
	}
	return nil
}

func allows(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

// mostOf returns the name that most homes have, the first in order of equal ones.
func mostOf(homes []mpc.Home, name func(mpc.Home) string) (string, int) {
	count := map[string]int{}
	for _, h := range homes {
		count[name(h)]++
	}
	best, most := "", 0
	for _, k := range slices.Sorted(maps.Keys(count)) {
		if count[k] > most {
			best, most = k, count[k]
		}
	}
	return best, most
}

// presentSites returns the nodes of the pool as it is configured.
func (b *backend) presentSites(ctx context.Context) ([]site, error) {
	members, err := b.membership(ctx)
	if err != nil {
		return nil, err
	}
	return members.labels(), nil
}

// labels returns the nodes of a membership without their identities.
func (m *membership) labels() []site {
	var out []site
	for i := range m.local {
		out = append(out, localSite(i+1, m.nodes.Region))
	}
	for _, r := range m.remote {
		out = append(out, site{id: r.ID, domain: r.Domain, region: r.Region})
	}
	return out
}

// takeDomains reads the wrapping domains that a request names.
func (b *backend) takeDomains(ctx context.Context, data *framework.FieldData) ([]string, error) {
	v, sent := data.GetOk("domains")
	if !sent {
		return nil, nil
	}
	nodes, err := b.presentSites(ctx)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, n := range nodes {
		there[n.domain] = true
	}
	names := slices.Clone(v.([]string))
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names {
		if !there[name] {
			return nil, invalid("domains: no node of the pool has wrapping domain %q; there are %s", clip(name), strings.Join(slices.Sorted(maps.Keys(there)), ", "))
		}
	}
	if len(names) == 0 {
		return nil, invalid("domains is empty: name wrapping domains, or leave it out for all")
	}
	return names, nil
}

// nodesOf counts the nodes of some domains, of all where none is named.
func nodesOf(nodes []site, domains []string) int {
	n := 0
	for _, s := range nodes {
		if len(domains) == 0 || slices.Contains(domains, s.domain) {
			n++
		}
	}
	return n
}

// regionText names a region in a sentence.
func regionText(name string) string {
	if name == "" {
		return "the group of nodes that name no region"
	}
	return fmt.Sprintf("region %q", name)
}
