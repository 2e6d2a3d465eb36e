//go:build e2e

package e2e_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
	"vault-plugin-secrets-mpc/plugin/e2e/netlab"
)

// TestLabApprovals: three nodes on other hosts, whose operators let them serve accounts
// with a policy only, check approvals themselves, each by its own clock.
func TestLabApprovals(t *testing.T) {
	needCluster(t)
	library := skewLibrary(t)
	c := newRemoteCluster(t, netlab.Config{}, "eu", "eu-1@eu", "us-1@us", "ap-1@ap")
	restart := func(name string, env ...string) {
		t.Helper()
		node := c.nodes[name]
		if node.Running() {
			node.Kill9(t)
		}
		node.Env, node.More = env, "switches {\n  require_policy = true\n}\n"
		if err := node.WriteConfig(); err != nil {
			t.Fatal(err)
		}
		node.Start(t)
	}
	for name := range c.nodes {
		restart(name)
	}
	c.awaitReady(t, true, c.names("")...)

	outside, err := c.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	outside.SetToken("")
	r := &approverRig{engine: c.engine, outside: outside, people: map[string]*api.Client{"dave": c.clientOf(t, "dave")}, devices: map[string]*approvaltest.Approver{}}
	r.write(t, "config/ui", map[string]any{"public_url": approvaltest.Origin})
	for _, name := range []string{"alice", "carol"} {
		r.write(t, "approvers/"+name, map[string]any{"no_entity": true})
		r.devices[name] = approvaltest.New(t, name)
		r.enrols(t, name, true)
	}
	link := r.write(t, "approvers/carol/enrol", map[string]any{"label": "to look"})
	mount := r.mountID(t, r.as(t, r.outside, "approve/enrol", map[string]any{"enrolment": link["enrolment"], "secret": link["secret"]})["mount_id"])

	// The nodes themselves refuse an account that nobody is to approve for.
	account := map[string]any{"algorithm": "ed25519", "threshold": 2, "shares": 3}
	c.refuse(t, "accounts/bare", account, http.StatusConflict, "demands no approvals", "require_policy")
	account["approvers"], account["request_expiry"] = "alice,carol", "3m"
	c.write(t, "accounts/far", account)
	if p := c.read(t, "accounts/far/policy"); number(t, p["signature_factors"]) != 2 || number(t, p["quorum"]) != 2 {
		t.Errorf("with remote nodes the policy is %v", p)
	}
	ask := func(message string) string {
		t.Helper()
		request := r.ask(t, "dave", "far", []byte(message))
		d := r.display(t, "dave", request)
		for _, who := range []string{"alice", "carol"} {
			r.approves(t, who, r.open(t, who, d, mount))
		}
		return request
	}
	signed := func(message, request string) []string {
		t.Helper()
		result := r.ends(t, "dave", request, "signed")["result"].(map[string]any)
		r.check(t, "far", []byte(message), result)
		return signers(result)
	}
	signed("pay 5 to Bob", ask("pay 5 to Bob"))

	// One node's clock is an hour ahead: for it, all approvals have expired.
	const ahead = time.Hour
	restart("us-1", "LD_PRELOAD="+library, fmt.Sprintf("MPC_TEST_CLOCK_SKEW=%d", int64(ahead/time.Second)))
	c.nodes["ap-1"].Kill9(t)
	c.awaitReady(t, false, "ap-1")
	c.awaitReady(t, true, "us-1", "eu-1")
	// With ap-1 away there is nobody in its place, and the reason is shown.
	request := ask("with a clock that is ahead")
	trouble := ""
	c.await(t, time.Minute, "why the request is not signed", func() bool {
		d := r.as(t, r.people["dave"], "requests/"+request+"/wait", map[string]any{"timeout": 1})
		trouble, _ = d["trouble"].(string)
		if d["state"] != "approved" {
			t.Fatalf("the request is %v: %v", d["state"], d["reason"])
		}
		return trouble != ""
	})
	t.Logf("the trouble: %s", trouble)
	if !strings.Contains(trouble, "expired") || !strings.Contains(trouble, "By this node's clock") || !strings.Contains(trouble, "us-1") {
		t.Errorf("the trouble is %q", trouble)
	}
	// Two with right clocks are enough, for this request and others.
	restart("ap-1")
	c.awaitReady(t, true, "ap-1")
	for _, message := range []string{"with a clock that is ahead", "another one"} {
		if request == "" {
			request = ask(message)
		}
		if by := signed(message, request); slices.Contains(by, "us-1") {
			t.Errorf("the node for which the approvals have expired is one of %v", by)
		}
		request = ""
	}
}
