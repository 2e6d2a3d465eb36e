package cli

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/plugin/mpckms/doctor"
)

// What can be known from outside of whether policies can be kept: a policy holds
// copies of its approvers' keys, which count whatever becomes of the approvers here;
// but one-time codes and logins are checked against the directory, and passkeys answer
// on the page of their origins alone. Whether people still have their devices nobody
// here knows.

// heldPolicy is a policy, as far as doctor looks at it.
type heldPolicy struct {
	Quorum    int          `json:"quorum"`
	Factors   int          `json:"factors"`
	Signature int          `json:"signature_factors"`
	Approvers []heldPerson `json:"approvers"`
}

type heldPerson struct {
	Name    string          `json:"name"`
	ID      string          `json:"id"`
	Keys    []heldKey       `json:"keys"`
	Checked []approval.Kind `json:"checked"`
}

type heldKey struct {
	ID      string        `json:"key_id"`
	Kind    approval.Kind `json:"kind"`
	Origins []string      `json:"origins"`
}

// answers says whether a passkey can be used on the page. nil stands for a page that
// nobody knows, where it may be.
func (k *heldKey) answers(ui *uiSettings) bool {
	if k.Kind != approval.Passkey || ui == nil {
		return true
	}
	u, err := url.Parse(ui.PublicURL)
	return err == nil && u.Host != "" && slices.Contains(k.Origins, u.Scheme+"://"+u.Host)
}

// able says whether this person could approve under the policy. here is what the
// directory has of them, nil for nothing.
func (p *heldPerson) able(policy *heldPolicy, here *approverDoc, ui *uiSettings) bool {
	signed, kinds := map[approval.Kind]bool{}, map[approval.Kind]bool{}
	for i := range p.Keys {
		if k := &p.Keys[i]; k.answers(ui) {
			signed[k.Kind], kinds[k.Kind] = true, true
		}
	}
	for _, kind := range p.Checked {
		switch {
		case here == nil:
		case kind == approval.TOTP && here.TOTP.State == "confirmed", kind == approval.Login && here.Identity != "":
			kinds[kind] = true
		}
	}
	return len(signed) >= max(policy.Signature, 1) && len(kinds) >= policy.Factors
}

// gone says that the policy counts on keys which the directory has no more.
func (p *heldPerson) gone(here *approverDoc) bool {
	return here == nil || slices.ContainsFunc(p.Keys, func(k heldKey) bool {
		return !slices.ContainsFunc(here.Factors, func(f approverFactor) bool { return f.KeyID == k.ID })
	})
}

// maxSearched is how many accounts the engine looks at for those with a policy, which
// is the most that it takes.
const maxSearched = 1000

// examinePolicies looks at accounts whose signatures people approve. ui is nil where
// it could not be read.
func (x *examination) examinePolicies(ui *uiSettings) {
	a := x.report.In(areaApprovals)
	x.said = nil
	found, err := x.page(x.ctx, "list accounts with a policy", "accounts", map[string][]string{"policy": {"true"}, "limit": {fmt.Sprint(maxSearched)}})
	if err != nil {
		skip(a, "policies", err)
		return
	}
	policies := map[string]*heldPolicy{}
	var names []string
	for _, name := range found.Keys[:min(len(found.Keys), maxExamined)] {
		if !validName(name) {
			continue
		}
		p := &heldPolicy{}
		_, err := x.ask(request{path: "accounts/" + name + "/policy", account: name}, p)
		switch {
		case missing(err):
			continue // gone since the list was made
		case err != nil:
			skip(a, "policies", err)
			return
		case len(p.Approvers) > 0:
			names, policies[name] = append(names, name), p
		}
	}
	if found.NextAfter != "" || len(found.Keys) > maxExamined {
		a.Skip("further policies", fmt.Sprintf("only %d are looked at, of the first %d accounts", maxExamined, maxSearched))
	}
	if len(names) == 0 {
		a.OK("policies", "no account looked at has one: nobody has to approve a signature")
		return
	}
	here, err := x.directory()
	if err != nil {
		skip(a, "policies", err)
		return
	}
	var stuck, former, mute []string
	for _, name := range names {
		p := policies[name]
		able, gone, passkeys := 0, false, false
		for i := range p.Approvers {
			who := &p.Approvers[i]
			if who.able(p, here[who.ID], ui) {
				able++
			}
			gone = gone || who.gone(here[who.ID])
			passkeys = passkeys || slices.ContainsFunc(who.Keys, func(k heldKey) bool { return !k.answers(ui) })
		}
		if able < p.Quorum {
			stuck = append(stuck, fmt.Sprintf("%s (%d of %d)", name, able, p.Quorum))
		}
		if gone {
			former = append(former, name)
		}
		if passkeys {
			mute = append(mute, name)
		}
	}
	x.judgePolicies(a, len(names), stuck, former, mute)
}

func (x *examination) judgePolicies(a *doctor.Area, looked int, stuck, former, mute []string) {
	of := fmt.Sprintf(" of %s with a policy", plural(looked, "account"))
	if len(stuck) > 0 {
		a.Problem("policies", fmt.Sprintf("%d%s cannot get the approvals it takes, with whom of these can: %s", len(stuck), of, some(stuck)),
			"Such an account signs nothing, and nobody can approve another policy for it. Bring back what it counts on: the identities behind\n"+
				"logins, or the public_url of config/ui that its passkeys are for. A one-time code or approver that was deleted does not come back.")
	} else {
		a.OK("policies", "none"+of+" lacks the approvers it takes, as far as the engine knows")
	}
	if len(mute) > 0 {
		a.Warn("passkeys", fmt.Sprintf("%d%s names passkeys that no page here can ask for, since config/ui has another public_url or none: %s", len(mute), of, some(mute)),
			fmt.Sprintf("vault write %s/config/ui public_url=https://… as it was when they were enrolled; or enrol anew, then change the policies.", x.client.mount))
	}
	if len(former) > 0 {
		a.Warn("former approvers", fmt.Sprintf("%d%s goes on counting approvers, or keys, that were deleted: %s", len(former), of, some(former)),
			"A policy holds copies until its approvers approve another one: mpckms account policy set NAME --approver …")
	}
}

// directory reads the approvers that there are, by ID.
func (x *examination) directory() (map[string]*approverDoc, error) {
	x.said = nil
	found, err := x.list(x.ctx, "list approvers", "approvers")
	if err != nil {
		return nil, err
	}
	out := map[string]*approverDoc{}
	for _, name := range found.Keys {
		if !validName(name) {
			continue
		}
		d := &approverDoc{}
		if _, err := x.ask(request{path: "approvers/" + name}, d); missing(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		out[d.ID] = d
	}
	return out, nil
}

// some is a few of the names.
func some(names []string) string {
	const shown = 5
	if len(names) > shown {
		return strings.Join(names[:shown], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
