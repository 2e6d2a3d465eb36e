package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
	"vault-plugin-secrets-mpc/mpc/custody"
	"vault-plugin-secrets-mpc/secret"
)

// policyNodes is an account with custody and a policy, of which a change was approved.
type policyNodes struct {
	*nodes
	present, next *approval.Policy
}

func newPolicyNodes(t *testing.T) *policyNodes {
	t.Helper()
	n := &policyNodes{nodes: newNodes(t)}
	alice, ben, cora := approvaltest.New(t, "alice"), approvaltest.New(t, "ben"), approvaltest.New(t, "cora")
	n.present, n.next = approvaltest.Policy(t, 2, alice, ben), approvaltest.Policy(t, 2, ben, cora)
	n.record.PolicyHash, n.next.Since = n.present.Hash(), 1
	for i := range n.envelopes { // they are sealed under the record
		wrapping := hsm.WrappingKey{Domain: hsm.DefaultDomain, Version: 1, Suite: hsm.SuiteHPKEP256, PublicKey: p256(t).PublicKey().Bytes()}
		var err error
		if n.envelopes[i], n.parts[i], err = hsm.SealCustody(hsm.ShareContext(uint8(i+1), n.record.Hash()), secret.Copy([]byte("share")),
			[]hsm.WrappingKey{wrapping}, n.owner.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
	n.brings(n.next)
	return n
}

// brings has the server answer a refresh with a request as for that policy.
func (n *policyNodes) brings(next *approval.Policy) {
	hash := next.Hash()
	n.lie = func(p *custody.Purpose) { p.NextPolicy = hash[:] }
	n.hide = func(o map[string]any) { o["policy"], o["next_policy"] = n.present.Marshal(), next.Marshal() }
}

func (n *policyNodes) task() custodyTask {
	t := n.sign()
	t.what, t.mayRefresh, t.request = "refresh", false, "00112233445566778899aabbccddeeff"
	t.purpose = custody.Purpose{Operation: custody.OpRefresh, NextCustody: n.owner.PublicKey().Bytes()}
	return t
}

// agrees is what agreeToPolicy makes of a task once its user has said yes.
func (p *policyOffer) agrees(t *custodyTask) {
	t.present, t.purpose.NextPolicy = p.presentHash, p.nextHash[:]
}

func TestCustodianPolicy(t *testing.T) {
	n := newPolicyNodes(t)
	task := n.task()
	p, err := n.custodian().offeredPolicy(t.Context(), &task)
	if err != nil {
		t.Fatal(err)
	}
	if n.opened != 0 {
		t.Error("something was released before anybody agreed")
	}
	var shown text
	p.write(&shown)
	for _, want := range []string{"alice", "cora", "New policy hash"} {
		if !strings.Contains(shown.b.String(), want) {
			t.Errorf("%q is not shown:\n%s", want, shown.b.String())
		}
	}
	p.agrees(&task)
	if want := sha256.Sum256(n.next.Marshal()); !bytes.Equal(task.purpose.NextPolicy, want[:]) {
		t.Error("the release is not for the policy that was shown")
	}
	if err := n.custodian().run(t.Context(), task, nil); err != nil || n.opened != 3 {
		t.Errorf("%d releases, %v", n.opened, err)
	}
}

// TestCustodianPolicyReleasesNothingElse: whatever the server says, a policy is
// released for that was shown and agreed to, and none by a plain refresh.
func TestCustodianPolicyReleasesNothingElse(t *testing.T) {
	shown := func(change func(n *policyNodes)) error {
		n := newPolicyNodes(t)
		change(n)
		task := n.task()
		_, err := n.custodian().offeredPolicy(t.Context(), &task)
		if n.opened != 0 {
			t.Errorf("%d releases", n.opened)
		}
		return err
	}
	for what, x := range map[string]struct {
		change func(n *policyNodes)
		says   string
	}{
		"no policy to come":           {func(n *policyNodes) { n.hide = nil }, "no policy that is to come"},
		"another policy in force":     {func(n *policyNodes) { n.hide = edited(n.hide, "policy", n.next.Marshal()) }, "another policy in force"},
		"none in force":               {func(n *policyNodes) { n.hide = edited(n.hide, "policy", []byte(nil)) }, "the policy in force"},
		"garbage to come":             {func(n *policyNodes) { n.hide = edited(n.hide, "next_policy", []byte("x")) }, "the policy to come"},
		"one that is not later":       {func(n *policyNodes) { n.next.Since = 0; n.brings(n.next) }, "ask for the change again"},
		"one from later than now":     {func(n *policyNodes) { n.next.Since = 7; n.brings(n.next) }, "the account is in epoch 1"},
		"another account's record":    {func(n *policyNodes) { n.hide = edited(n.hide, "record", newPolicyNodes(t).otherAccount()) }, "another account's record"},
		"a record without its policy": {func(n *policyNodes) { n.hide = edited(n.hide, "record", newNodes(t).record.Marshal()) }, "names no policy"},
	} {
		var r *refusal
		if err := shown(x.change); !errors.As(err, &r) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, x := range map[string]struct {
		change func(n *policyNodes) // after the policy was shown and agreed to
		says   string
	}{
		"another policy": {func(n *policyNodes) {
			other := *n.next
			other.Quorum = 1
			n.brings(&other)
		}, "something else"},
		"a plain refresh":        {func(n *policyNodes) { n.lie, n.hide = nil, nil }, "something else"},
		"the policy has changed": {func(n *policyNodes) { n.record.PolicyHash = [32]byte{7} }, "another policy by now"},
	} {
		n := newPolicyNodes(t)
		task := n.task()
		p, err := n.custodian().offeredPolicy(t.Context(), &task)
		if err != nil {
			t.Fatal(err)
		}
		p.agrees(&task)
		x.change(n)
		if err := n.custodian().run(t.Context(), task, nil); err == nil || !strings.Contains(err.Error(), x.says) || n.opened != 0 {
			t.Errorf("%s: %d releases, %v", what, n.opened, err)
		}
	}
	// A plain refresh for which the nodes were told of a policy.
	n := newPolicyNodes(t)
	if err := n.custodian().refresh(t.Context(), "gold", n.task().id, n.owner, nil); err == nil || !strings.Contains(err.Error(), "something else") || n.opened != 0 {
		t.Errorf("a plain refresh: %d releases, %v", n.opened, err)
	}
}

// TestCustodianFirstPolicy: of an account without a policy, what is shown is what is
// released for.
func TestCustodianFirstPolicy(t *testing.T) {
	n := &policyNodes{nodes: newNodes(t)}
	n.next = approvaltest.Policy(t, 1, approvaltest.New(t, "ada"))
	n.next.Since = 1
	hash := n.next.Hash()
	n.lie = func(p *custody.Purpose) { p.NextPolicy = hash[:] }
	n.hide = func(o map[string]any) { o["next_policy"] = n.next.Marshal() }
	task := n.task()
	task.request, task.policy = "", map[string]any{"approvers": []string{"ada"}, "quorum": 1}
	if body := task.beginBody(); body["quorum"] != 1 || body["approvers"] == nil || body["request"] != nil || body["operation"] != "refresh" {
		t.Errorf("begins with %v", body)
	}
	p, err := n.custodian().offeredPolicy(t.Context(), &task)
	if err != nil {
		t.Fatal(err)
	}
	var shown text
	p.write(&shown)
	if out := shown.b.String(); !strings.Contains(out, "first policy") || !strings.Contains(out, `+ approver "ada"`) {
		t.Errorf("shown: %s", out)
	}
	d := policyDocOf("gold", p.next)
	if d.PolicyHash != hex.EncodeToString(hash[:]) || d.Quorum != 1 || len(d.Approvers) != 1 || len(d.Approvers[0].Keys) == 0 || d.Expiry <= 0 {
		t.Errorf("described as %+v", d)
	}
	p.agrees(&task)
	if err := n.custodian().run(t.Context(), task, nil); err != nil || n.opened != 3 {
		t.Errorf("%d releases, %v", n.opened, err)
	}
	// Its approvers' keys were changed in the directory, or by the server, since.
	n.opened = 0
	n.lie = func(p *custody.Purpose) { p.NextPolicy = bytes.Repeat([]byte{9}, 32) }
	if err := n.custodian().run(t.Context(), task, nil); err == nil || !strings.Contains(err.Error(), "something else") || n.opened != 0 {
		t.Errorf("another first policy: %d releases, %v", n.opened, err)
	}
}

// edited is hide with one field of the answer replaced.
func edited(hide func(map[string]any), field string, value any) func(map[string]any) {
	return func(o map[string]any) {
		hide(o)
		o[field] = value
	}
}

func (n *policyNodes) otherAccount() []byte {
	n.record.AccountID[0]++
	return n.record.Marshal()
}
