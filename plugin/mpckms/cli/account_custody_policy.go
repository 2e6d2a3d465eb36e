package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/approver"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// An owner's consent to a policy of an account with custody: to another one, which the
// present one's approvers have approved already, or to the first. What is released here
// is for the hash of the policy that was shown, and for no other.

// policyOffer is a change of policy as custody/:name/begin shows it, once checked: the
// present policy is the one that the account's record names, and the next may follow.
type policyOffer struct {
	account               string
	present, next         *approval.Policy // present is nil for none
	presentHash, nextHash [32]byte
}

// offeredPolicy asks for the change that was approved with t's request, or for the first
// policy, of t's fields. It releases
// nothing: the nodes' offers that come with it are left to expire, since who reads
// takes longer than they last.
func (c *custodian) offeredPolicy(ctx context.Context, t *custodyTask) (*policyOffer, error) {
	var o offered
	if err := c.Call(ctx, keyholder.Write, "custody/"+t.account+"/begin", t.beginBody(), &o); err != nil {
		return nil, refusedBy(t.what, err)
	}
	p, err := readPolicyOffer(t, &o)
	if err != nil {
		return nil, refusedBy(t.what, err)
	}
	return p, nil
}

func readPolicyOffer(t *custodyTask, o *offered) (*policyOffer, error) {
	record, err := t.recordIn(o)
	if err != nil {
		return nil, err
	}
	if len(o.NextPolicy) == 0 {
		return nil, errors.New("the server shows no policy that is to come: nothing was released, and the account keeps its policy")
	}
	p := &policyOffer{account: t.account, presentHash: record.PolicyHash}
	if record.PolicyHash != mpc.EmptySetHash() {
		if p.present, err = approval.ParsePolicy(o.Policy); err != nil {
			return nil, fmt.Errorf("the policy in force: %w", err)
		}
		if p.present.Hash() != record.PolicyHash {
			return nil, errors.New("the server shows another policy in force than the one that the account's record names")
		}
	} else if t.request != "" {
		return nil, errors.New("the account's record names no policy, and a change of one was approved")
	}
	if p.next, err = approval.ParsePolicy(o.NextPolicy); err != nil {
		return nil, fmt.Errorf("the policy to come: %w", err)
	}
	p.nextHash = p.next.Hash()
	return p, p.next.Follows(p.present, record.Epoch)
}

func (p *policyOffer) write(t *text) {
	if p.present == nil {
		t.line(fmt.Sprintf("With new shares, account %s gets its first policy. It can be changed afterwards and not be taken off:", p.account))
		t.blank()
		for _, l := range approver.PolicyLines(p.next) {
			t.line("+ " + l)
		}
		t.blank()
		t.pairs("", "New policy hash", hex.EncodeToString(p.nextHash[:]))
		return
	}
	t.line(fmt.Sprintf("With new shares, account %s gets another policy (- goes, + comes):", p.account))
	t.blank()
	for _, l := range approver.Compare(p.present, p.next) {
		t.line(l)
	}
	t.blank()
	t.pairs("", "Policy hash", hex.EncodeToString(p.presentHash[:]), "New policy hash", hex.EncodeToString(p.nextHash[:]))
}

// agreeToPolicy shows the policy that was approved, or asked for as the first one, asks,
// and makes t the refresh that brings this policy. It returns the policy.
func (a *app) agreeToPolicy(ctx context.Context, c *custodian, t *custodyTask, how policyConsent) (*approval.Policy, error) {
	t.request, t.policy = how.request, how.first
	p, err := c.offeredPolicy(ctx, t)
	if err != nil {
		return nil, err
	}
	var shown text
	p.write(&shown)
	prompter{a}.Show(shown.b.String())
	if !how.yes {
		if err := a.confirm(ctx, "Is this the policy that you agree to? Type yes to go on: "); err != nil {
			r := &refusal{what: "nothing was released: account " + quote(p.account) + " keeps its policy", cause: err}
			if how.request != "" {
				r.advice = "The request stays approved until it expires. Whoever asked for it can end it with 'mpckms request cancel " + how.request + "'."
			}
			return nil, r
		}
	}
	t.present, t.purpose.NextPolicy = p.presentHash, p.nextHash[:]
	return p.next, nil
}

// policyConsent says which policy a refresh is to bring; the zero value is none.
type policyConsent struct {
	request string         // a change that was approved
	first   map[string]any // or the fields of an account's first policy
	yes     bool           // do not ask
}

func (c *policyConsent) any() bool { return c.request != "" || c.first != nil }

// ownerPolicy gives an account with custody its first policy, as its owner.
func (a *app) ownerPolicy(cmd *cobra.Command, name string, body map[string]any, yes bool) error {
	if !yes && !a.interactive() {
		return usagef(cmd, "account %s has custody, so that its owner agrees to its policy, and there is no terminal to ask on: --yes agrees without a question", name)
	}
	_, next, err := a.custodyRefresh(cmd, name, policyConsent{first: body, yes: yes})
	if err != nil {
		return err
	}
	d := policyDocOf(name, next)
	return a.print(d, d.write)
}

// policyDocOf describes a policy as the engine does.
func policyDocOf(account string, p *approval.Policy) *policyDoc {
	hash := p.Hash()
	d := &policyDoc{Account: account, Quorum: p.Quorum, Factors: p.Factors, SignatureFactors: p.SignatureFactors,
		Expiry: seconds(p.Expiry / time.Second), PolicyHash: hex.EncodeToString(hash[:]), SinceEpoch: p.Since}
	for i := range p.Approvers {
		a := &p.Approvers[i]
		person := policyPerson{Name: a.Name, ID: a.ID.String(), Requesters: a.Requesters, Keys: []approverFactor{}, Checked: []string{}}
		for n := range a.Keys {
			k := &a.Keys[n]
			person.Keys = append(person.Keys, approverFactor{KeyID: k.ID().String(), Kind: string(k.Kind), Name: k.Name})
		}
		for _, k := range a.Checked {
			person.Checked = append(person.Checked, string(k))
		}
		d.Approvers = append(d.Approvers, person)
	}
	return d
}
