package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// Defaults of a policy.
const (
	defaultFactors       = 2
	defaultRequestExpiry = 10 * time.Minute
	// Nodes on Vault's host take the coordinator's word for much already; where some
	// are elsewhere, both factors are to be what they can verify.
	defaultSignatureFactors       = 1
	defaultSignatureFactorsRemote = 2
)

// policyFields are the fields that make a policy.
func policyFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"approvers": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Names of the approvers (approvers/), up to 16. Their keys are copied as they are now.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Approvers"},
		},
		"quorum": {
			Type:         framework.TypeInt,
			Description:  "How many approvers have to approve each signature; default all of them. Nobody approves a request of their own.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Quorum"},
		},
		"factors": {
			Type:         framework.TypeInt,
			Description:  "How many different kinds of factors each approver uses, 2 to 5; default 2.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Factors", Value: defaultFactors},
		},
		"signature_factors": {
			Type:         framework.TypeInt,
			Description:  "How many of those are signatures that nodes verify (device, passkey, certificate), 1 to 3; default 1, or 2 where the mount has nodes on other hosts.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Signature factors"},
		},
		"request_expiry": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long a request waits for approvals, and approvals count, 1m to 168h; default 10m.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Request expiry", Value: "10m"},
		},
	}
}

// withPolicyFields adds them to a path's.
func withPolicyFields(into map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	maps.Copy(into, policyFields())
	return into
}

// hasRemoteNodes reports whether the pool has nodes on other hosts.
func (b *backend) hasRemoteNodes(ctx context.Context) (bool, error) {
	members, err := b.membership(ctx)
	if err != nil {
		return false, err
	}
	return len(members.remote) > 0, nil
}

// policyFrom makes the policy that a request asks for, out of the approvers as the
// directory has them now; nil where none of the fields was sent. remote says that the
// pool has nodes on other hosts. Since is the caller's to set.
//
// A policy that could not be fulfilled is a 400 that says what is missing; so is one
// that demands nothing, and a field without approvers: none of them ever comes out as
// no policy.
func (b *backend) policyFrom(ctx context.Context, data *framework.FieldData, remote bool) (*approval.Policy, error) {
	sent := false
	for name := range policyFields() {
		if _, ok := data.GetOk(name); ok {
			sent = true
		}
	}
	if !sent {
		return nil, nil
	}
	names, _ := data.Get("approvers").([]string)
	if len(names) == 0 {
		return nil, errNoApprovers()
	}
	if len(names) > approval.MaxApprovers {
		return nil, invalid("%d approvers, and a policy holds %d at most", len(names), approval.MaxApprovers)
	}
	p := &approval.Policy{Quorum: len(names), Factors: defaultFactors, SignatureFactors: defaultSignatureFactors, Expiry: defaultRequestExpiry}
	if remote {
		p.SignatureFactors = defaultSignatureFactorsRemote
	}
	for field, value := range map[string]*int{"quorum": &p.Quorum, "factors": &p.Factors, "signature_factors": &p.SignatureFactors} {
		if v, ok := data.GetOk(field); ok {
			*value = v.(int)
		}
	}
	if v, ok := data.GetOk("request_expiry"); ok {
		p.Expiry = time.Duration(v.(int)) * time.Second
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return nil, invalid("approver %q is named twice: nobody counts for two", clip(name))
		}
		a, err := b.approverFor(ctx, name)
		if err != nil {
			return nil, err
		}
		p.Approvers = append(p.Approvers, *a)
	}
	if err := fulfillable(p); err != nil {
		return nil, err
	}
	if err := p.Check(); err != nil {
		return nil, invalid("this policy cannot be: %v", err)
	}
	if n := len(p.Marshal()); n > approval.MaxPolicy {
		return nil, invalid("this policy has %d bytes, and may have %d: name fewer approvers, or take keys away that they do not use", n, approval.MaxPolicy)
	}
	return p, nil
}

func errNoApprovers() error {
	return invalid("there is no policy that asks for nobody, and none can be taken away: name those who are to approve in approvers (list approvers/ for those there are)")
}

// approverFor copies an approver out of the directory.
func (b *backend) approverFor(ctx context.Context, name string) (*approval.Approver, error) {
	r, err := b.store.approver(ctx, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, invalid("there is no approver %q: vault write <mount>/approvers/NAME makes one, and list approvers/ shows those there are", clip(name))
	}
	a, err := r.approver(name)
	if err != nil {
		return nil, err
	}
	return &a, nil
}

// fulfillable says what an approver lacks, and how it is had; and that no two
// approvers are one person.
func fulfillable(p *approval.Policy) error {
	for i := range p.Approvers {
		a := &p.Approvers[i]
		all, signature := a.Kinds()
		// Bounds are for Check to say.
		switch {
		case signature < p.SignatureFactors && p.SignatureFactors <= 3:
			return invalid("approver %q has no %s: the policy asks for %d kinds of factors that nodes verify (signature_factors), and there is %s. Enrol one (approvers/%s/enrol), or ask for fewer",
				a.Name, strings.Join(lacking(a, true), " and no "), p.SignatureFactors, kindsOf(a, true), a.Name)
		case all < p.Factors && p.Factors <= 5:
			return invalid("approver %q has no %s: the policy asks for %d kinds of factors from each approver (factors), and there is %s. Enrol a device with a passkey (approvers/%s/enrol), or set up a one-time code (approvers/%s/totp)",
				a.Name, strings.Join(lacking(a, false), " and no "), p.Factors, kindsOf(a, false), a.Name, a.Name)
		}
		for n := range i {
			other := &p.Approvers[n]
			for _, r := range a.Requesters {
				if r != requesterNone && slices.Contains(other.Requesters, r) {
					return invalid("approvers %q and %q are both %s: nobody counts for two", other.Name, a.Name, r)
				}
			}
		}
	}
	return nil
}

// kinds lists all kinds of factors in order, or those that nodes verify.
func kinds(signature bool) []approval.Kind {
	all := []approval.Kind{approval.Device, approval.Passkey, approval.Certificate, approval.TOTP, approval.Login}
	if signature {
		return all[:3]
	}
	return all
}

func hasKind(a *approval.Approver, k approval.Kind) bool {
	return slices.Contains(a.Checked, k) || slices.ContainsFunc(a.Keys, func(key approval.Key) bool { return key.Kind == k })
}

func lacking(a *approval.Approver, signature bool) (out []string) {
	for _, k := range kinds(signature) {
		if !hasKind(a, k) {
			out = append(out, string(k))
		}
	}
	return out
}

func kindsOf(a *approval.Approver, signature bool) string {
	var out []string
	for _, k := range kinds(signature) {
		if hasKind(a, k) {
			out = append(out, string(k))
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, " and ")
}

// policyWarnings says what a policy makes impossible that its owner may not expect.
func policyWarnings(p *approval.Policy) []string {
	if p.Quorum < len(p.Approvers) {
		return nil
	}
	var asking []string
	for i := range p.Approvers {
		if !slices.Equal(p.Approvers[i].Requesters, []string{requesterNone}) {
			asking = append(asking, p.Approvers[i].Name)
		}
	}
	if len(asking) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("all %d approvers have to approve, and nobody approves a request of their own: what %s ask for can never be signed. Name more approvers, or a lower quorum, if they are to ask", len(p.Approvers), strings.Join(asking, " and "))}
}
