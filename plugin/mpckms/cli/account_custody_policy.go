package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/approver"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// An owner's consent to another policy of an account with custody. Its approvers have
// approved it already; what is released here is for the hash of the policy that was
// shown, and for no other.

// policyOffer is a change of policy as custody/:name/begin shows it, once checked: the
// present policy is the one that the account's record names, and the next may follow.
type policyOffer struct {
	account               string
	present, next         *approval.Policy
	presentHash, nextHash [32]byte
}

// offeredPolicy asks for the change that was approved with t's request. It releases
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
	record, err := mpc.ParsePublicRecord(o.Record)
	if err != nil {
		return nil, fmt.Errorf("the account's record: %w", err)
	}
	if hex.EncodeToString(record.AccountID[:]) != t.id {
		return nil, errors.New("the server shows another account's record than the one that the asset names")
	}
	if len(o.NextPolicy) == 0 {
		return nil, errors.New("the server shows no policy that is to come: nothing was released, and the account keeps its policy")
	}
	p := &policyOffer{account: t.account, presentHash: record.PolicyHash}
	if p.present, err = approval.ParsePolicy(o.Policy); err != nil {
		return nil, fmt.Errorf("the policy in force: %w", err)
	}
	if p.present.Hash() != record.PolicyHash {
		return nil, errors.New("the server shows another policy in force than the one that the account's record names")
	}
	if p.next, err = approval.ParsePolicy(o.NextPolicy); err != nil {
		return nil, fmt.Errorf("the policy to come: %w", err)
	}
	p.nextHash = p.next.Hash()
	return p, p.next.Follows(p.present, record.Epoch)
}

func (p *policyOffer) write(t *text) {
	t.line(fmt.Sprintf("With new shares, account %s gets another policy (- goes, + comes):", p.account))
	t.blank()
	for _, l := range approver.Compare(p.present, p.next) {
		t.line(l)
	}
	t.blank()
	t.pairs("", "Policy hash", hex.EncodeToString(p.presentHash[:]), "New policy hash", hex.EncodeToString(p.nextHash[:]))
}

// agreeToPolicy shows the policy that was approved with a request, asks, and makes t
// the refresh that brings this policy.
func (a *app) agreeToPolicy(ctx context.Context, c *custodian, t *custodyTask, how policyConsent) error {
	t.request = how.request
	p, err := c.offeredPolicy(ctx, t)
	if err != nil {
		return err
	}
	var shown text
	p.write(&shown)
	prompter{a}.Show(shown.b.String())
	if !how.yes {
		if err := a.confirm(ctx, "Is this the policy that you agree to? Type yes to go on: "); err != nil {
			return &refusal{what: "nothing was released: account " + quote(p.account) + " keeps its policy", cause: err,
				advice: "The request stays approved until it expires. Whoever asked for it can end it with 'mpckms request cancel " + how.request + "'."}
		}
	}
	t.present, t.purpose.NextPolicy = p.presentHash, p.nextHash[:]
	return nil
}

// policyConsent says which approved change of policy a refresh is to bring; the zero
// value is none.
type policyConsent struct {
	request string
	yes     bool // do not ask
}
