//go:build e2e

package e2e_test

import (
	"fmt"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/plugin/e2e"
)

// TestRequestsOutliveTheServer kills Vault while requests are pending, and right
// after the last approval was answered. What was stored counts: the next process goes
// on, and every signature verifies.
func TestRequestsOutliveTheServer(t *testing.T) {
	r := newApproverRigOn(t, harness.StartVault(t, e2e.Options{Storage: e2e.Raft}))
	r.write(t, "accounts/treasury", map[string]any{"algorithm": bip340, "threshold": 2, "shares": 3, "approvers": "alice,carol", "quorum": 2})
	link := r.write(t, "approvers/carol/enrol", map[string]any{"label": "to look"})
	mount := r.mountID(t, r.as(t, r.outside, "approve/enrol", map[string]any{"enrolment": link["enrolment"], "secret": link["secret"]})["mount_id"])
	message := []byte("pay 5 to frank")
	approves := func(who, request string) {
		t.Helper()
		d := r.display(t, "dave", request)
		o := r.open(t, who, d, mount)
		r.as(t, r.outside, "approve/answer", r.answer(t, who, o, approval.Approve, approval.Device, approval.Passkey))
	}
	restart := func() {
		t.Helper()
		r.Kill9(t)
		r.Restart(t)
		r.waitNodes(t, 3)
		time.Sleep(2500 * time.Millisecond) // forms that the last process showed are refused
	}
	signed := func(request string) map[string]any {
		t.Helper()
		d := r.ends(t, "dave", request, "signed")
		r.check(t, "treasury", message, d["result"].(map[string]any))
		return d
	}

	order := map[string]any{"input": b64(message), "request_id": "order-1"}
	ask := func() string { return r.as(t, r.people["dave"], "sign/treasury", order)["request"].(string) }
	request := ask()
	restart()
	if again := ask(); again != request {
		t.Fatalf("after a restart the repetition is request %s, it was %s", again, request)
	}
	approves("alice", request)
	restart()
	d := r.as(t, r.people["dave"], "requests/"+request+"/wait", map[string]any{"timeout": 0})
	if d["state"] != "pending" || number(t, d["approvals"]) != 1 {
		t.Fatalf("after a restart with one approval: %v", d)
	}
	approves("carol", request)
	restart() // approved, and signed or not
	end := signed(request)
	if number(t, end["approvals"]) != 2 {
		t.Errorf("ended with %v", end)
	}
	restart()
	if d := r.as(t, r.people["dave"], "sign/treasury", order); d["state"] != "signed" || d["request"] != request {
		t.Errorf("a repetition after the end: %v", d)
	}
	if list := r.read(t, "requests/"+request); list["result"] != nil {
		t.Errorf("root is given the result: %v", list)
	}

	// A change of policy is approved in the same way, also over a restart.
	asked := r.asAdmin(t, "dave", "accounts/treasury/policy", map[string]any{"approvers": "alice,carol", "quorum": 1})
	change := asked["request"].(string)
	if asked["action"] != "policy" {
		t.Fatalf("a change of policy answers %v", asked)
	}
	r.as(t, r.people["dave"], "requests/"+change+"/cancel", nil)
	r.ends(t, "dave", change, "cancelled")
}

// asAdmin writes with a person's token, which may change policies from then on.
func (r *approverRig) asAdmin(t testing.TB, who, path string, data map[string]any) map[string]any {
	t.Helper()
	if err := r.Client.Sys().PutPolicy(r.path, fmt.Sprintf(`
path "%[1]s/sign/*" { capabilities = ["update"] }
path "%[1]s/accounts/+/policy" { capabilities = ["create", "update"] }
path "%[1]s/requests/*" { capabilities = ["read", "update", "list"] }`, r.path)); err != nil {
		t.Fatal(err)
	}
	return r.as(t, r.people[who], path, data)
}
