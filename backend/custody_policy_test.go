package backend

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
	"vault-plugin-secrets-mpc/mpc/custody"
)

// heirRig is a request rig with an account, heir, that has an owner and whose
// signatures alice and bob both approve.
type heirRig struct{ *requestRig }

func newHeirRig(t *testing.T) *heirRig {
	t.Helper()
	g := &heirRig{newRequestRig(t)}
	o := newOwner(t, g.storage, "owner")
	g.must(asUpdate, "accounts/heir", map[string]any{"algorithm": "ed25519", "custody_identity": o.name, "custody_asset": "key", "approvers": "alice,bob"})
	return g
}

// asksFor has dave ask for another policy of heir's.
func (g *heirRig) asksFor(approvers string) string {
	g.t.Helper()
	d := g.mustBy("dave", asUpdate, "accounts/heir/policy", map[string]any{"approvers": approvers})
	if d["state"] != "pending" || d["action"] != "policy" || d["by_owner"] != true {
		g.t.Fatalf("asked for a policy: %v", d)
	}
	return d["request"].(string)
}

// agreed is an approved change to bob and carl.
func (g *heirRig) agreed() string {
	g.t.Helper()
	id := g.asksFor("bob,carl")
	g.approved(id)
	return id
}

func bringing(id string) map[string]any { return map[string]any{"operation": "refresh", "request": id} }

func (g *heirRig) begins(id string) map[string]any {
	g.t.Helper()
	return g.must(asUpdate, "custody/heir/begin", bringing(id))
}

// brings has the owner bring an approved policy into force.
func (g *heirRig) brings(id string) map[string]any {
	g.t.Helper()
	return g.must(asUpdate, "custody/heir/finish", g.finishing(g.begins(id), nil))
}

// names are those of the approvers of the policy in force.
func (g *heirRig) names() string {
	g.t.Helper()
	out := ""
	for _, a := range g.policy("heir").Approvers {
		out += a.Name + " "
	}
	return out
}

func (g *heirRig) epoch() uint64 { g.t.Helper(); return g.accountOf("heir").Record.Epoch }

// TestCustodyPolicy: approvers and owner change a policy, and neither does alone.
func TestCustodyPolicy(t *testing.T) {
	g := newHeirRig(t)
	g.failsBy("alice", asUpdate, "accounts/heir/policy", map[string]any{"approvers": "bob,carl"}, http.StatusForbidden, "of their own")
	g.fails(asUpdate, "accounts/heir/policy", map[string]any{"approvers": "bob,carl"}, http.StatusForbidden, "no Vault entity")
	id := g.asksFor("bob,carl")
	waits := g.mustBy("dave", asUpdate, "sign/heir", map[string]any{"input": helloBase64})["request"].(string)
	// The owner without approvals.
	g.fails(asUpdate, "custody/heir/begin", bringing(id), http.StatusConflict, "is pending")
	g.gives(g.alice, id, approval.Approve)
	g.fails(asUpdate, "custody/heir/begin", bringing(id), http.StatusConflict, "is pending")
	g.gives(g.bob, id, approval.Approve)
	// Approvals without the owner.
	g.fails(asUpdate, "accounts/heir/refresh", nil, http.StatusConflict, "user custody")
	g.ok(g.b.requests.tendAll(t.Context()))
	g.b.requests.queue.mu.Lock()
	queued := g.b.requests.queue.due[id]
	g.b.requests.queue.mu.Unlock()
	if d := g.mustBy("dave", asRead, "requests/"+id, nil); queued != nil || d["state"] != "approved" || d["by_owner"] != true || g.names() != "alice bob " {
		t.Fatalf("without its owner: %v, approvers %s", d, g.names())
	}
	for what, c := range map[string]struct {
		account string
		data    map[string]any
		status  int
		says    string
	}{
		"a request to sign":        {"heir", bringing(waits), http.StatusConflict, "is no change of the policy"},
		"a signature with it":      {"heir", map[string]any{"operation": "sign", "input": helloBase64, "request": id}, http.StatusForbidden, "somebody else"},
		"a message with it":        {"heir", map[string]any{"operation": "refresh", "input": helloBase64, "request": id}, http.StatusBadRequest, "operation=sign"},
		"no request":               {"heir", bringing("0a"), http.StatusBadRequest, "not the ID"},
		"one that there is not":    {"heir", bringing("00112233445566778899aabbccddeeff"), http.StatusNotFound, "there is no request"},
		"an account with no owner": {"treasury", bringing(id), http.StatusBadRequest, "no user custody"},
	} {
		t.Logf("%s", what)
		g.fails(asUpdate, "custody/"+c.account+"/begin", c.data, c.status, c.says)
	}
	g.failsBy("dave", asUpdate, "custody/heir/begin", map[string]any{"operation": "sign", "input": helloBase64, "request": id}, http.StatusConflict, "not for this message")
	g.owned("other", "ed25519")
	g.fails(asUpdate, "custody/other/begin", bringing(id), http.StatusConflict, "is no change of the policy")
	g.fails(asUpdate, "accounts/other/policy", map[string]any{"approvers": "alice"}, http.StatusConflict, "its owner brings the first one")

	// What is shown is what is released for.
	begun := g.begins(id)
	present, next := g.policy("heir").Marshal(), g.request(id).NextPolicy
	record := g.accountOf("heir").Record
	if begun["policy"] != encode64(present) || begun["next_policy"] != encode64(next) {
		t.Error("begin shows other policies")
	}
	p := custody.Purpose{Operation: custody.OpRefresh, Record: record.Hash()}
	p.NextCustody, _ = base64.StdEncoding.DecodeString(begun["next_custody_public_key"].(string))
	hash := hashOf(next)
	p.NextPolicy = hash[:]
	for _, s := range begun["signers"].([]map[string]any) {
		node, err := mpc.ParseNodeIdentity(s["identity"].(string))
		g.ok(err)
		p.Signers = append(p.Signers, custody.Signer{Index: mpc.Index(s["index"].(int)), Node: node})
	}
	if want := p.Hash(); begun["purpose"] != encode64(want[:]) {
		t.Error("the purpose does not name the policy to come")
	}

	// A refresh that keeps the policy comes between: what was approved still counts, and
	// what was begun does not.
	if d := g.finishOwned("heir", g.beginOwned("heir", map[string]any{"operation": "refresh"})); d["share_epoch"] != uint64(2) || g.names() != "alice bob " {
		t.Fatalf("a refresh: %v, approvers %s", d, g.names())
	}
	g.fails(asUpdate, "custody/heir/finish", g.finishing(begun, nil), http.StatusConflict, "new shares")
	if g.state(id) != requestApproved {
		t.Fatalf("after a refresh the change is %s", g.state(id))
	}
	second := g.asksFor("alice,carl")
	g.approved(second)
	twice := g.begins(id)
	begun = g.begins(id)
	d := g.must(asUpdate, "custody/heir/finish", g.finishing(begun, nil))
	if d["share_epoch"] != uint64(3) || d["policy_hash"] != fmt.Sprintf("%x", hash) || g.names() != "bob carl " {
		t.Fatalf("with the owner: %v, approvers %s", d, g.names())
	}
	end := g.mustBy("dave", asRead, "requests/"+id, nil)
	if result, _ := end["result"].(map[string]any); end["state"] != "signed" || result["policy_hash"] != fmt.Sprintf("%x", hash) {
		t.Errorf("the request is %v", end)
	}
	if r := g.request(waits); r.State != requestFailed {
		t.Errorf("what waited under the policy before is %s", r.State)
	}
	// Once. What was approved under the policy before is void.
	g.fails(asUpdate, "custody/heir/finish", g.finishing(twice, nil), http.StatusConflict, "is signed")
	g.fails(asUpdate, "custody/heir/begin", bringing(id), http.StatusConflict, "is done")
	g.fails(asUpdate, "custody/heir/begin", bringing(second), http.StatusConflict, "policy was changed after this was asked")
	if g.state(second) != requestFailed || g.epoch() != 3 {
		t.Errorf("the other change is %s, epoch %d", g.state(second), g.epoch())
	}
	// The new approvers count, and the old one does not.
	sign := g.mustBy("dave", asUpdate, "sign/heir", map[string]any{"input": helloBase64})["request"].(string)
	if _, err := g.b.requests.give(t.Context(), sign, g.given(g.alice, sign, approval.Approve)); err == nil {
		t.Error("the approver who left still approves")
	}
	g.gives(g.bob, sign, approval.Approve)
	g.gives(g.carl, sign, approval.Approve)
	begun = g.mustBy("dave", asUpdate, "custody/heir/begin", map[string]any{"operation": "sign", "input": helloBase64, "request": sign})
	signed := g.mustBy("dave", asUpdate, "custody/heir/finish", g.finishing(begun, nil))
	if v := g.must(asUpdate, "verify/heir", map[string]any{"input": helloBase64, "signature": signed["signature"]}); v["valid"] != true {
		t.Error("the signature is not valid")
	}
}

// TestCustodyPolicyEnds: what ended between approval and consent is not brought.
func TestCustodyPolicyEnds(t *testing.T) {
	g := newHeirRig(t)
	id := g.agreed()
	begun := g.begins(id)
	g.mustBy("dave", asUpdate, "requests/"+id+"/cancel", nil)
	g.fails(asUpdate, "custody/heir/finish", g.finishing(begun, nil), http.StatusConflict, "is cancelled")
	g.fails(asUpdate, "custody/heir/begin", bringing(id), http.StatusConflict, "is cancelled")

	id = g.asksFor("bob,carl")
	g.gives(g.bob, id, approval.Refuse)
	g.fails(asUpdate, "custody/heir/begin", bringing(id), http.StatusConflict, "is refused")

	id = g.agreed()
	begun = g.begins(id)
	g.clock.pass(defaultRequestExpiry - 30*time.Second)
	twice := g.begins(id)
	g.clock.pass(time.Minute)
	g.fails(asUpdate, "custody/heir/finish", g.finishing(begun, nil), http.StatusConflict, "is expired")
	g.fails(asUpdate, "custody/heir/finish", g.finishing(twice, nil), http.StatusConflict, "is expired")
	g.fails(asUpdate, "custody/heir/begin", bringing(id), http.StatusConflict, "is expired")

	// A deleted account keeps its policy.
	id = g.agreed()
	begun = g.begins(id)
	g.must(logical.DeleteOperation, "accounts/heir", nil)
	g.fails(asUpdate, "custody/heir/finish", g.finishing(begun, nil), http.StatusConflict, "was deleted")
	g.fails(asUpdate, "custody/heir/begin", bringing(id), http.StatusConflict, "was deleted")
	if g.names() != "alice bob " || g.epoch() != 1 {
		t.Errorf("the policy was changed: %s, epoch %d", g.names(), g.epoch())
	}
}

// TestCustodyPolicyNodesRefuse: nodes have the last word, and an epoch with another
// policy than what was agreed to is not stored.
func TestCustodyPolicyNodesRefuse(t *testing.T) {
	g := newHeirRig(t)
	id := g.agreed()
	for _, hash := range [][32]byte{g.policy("heir").Hash(), mpc.EmptySetHash(), {1}} {
		g.fake.mismatch = nil
		g.fake.spoilRecord = func(r *mpc.PublicRecord) { r.PolicyHash = hash }
		_, status, msg := g.by("", asUpdate, "custody/heir/finish", g.finishing(g.begins(id), nil))
		if status != http.StatusInternalServerError {
			t.Errorf("an epoch with policy %x: %d %s", hash[:4], status, msg)
		}
	}
	// And a plain refresh that comes back with the policy that was approved.
	next := hashOf(g.request(id).NextPolicy)
	g.fake.spoilRecord = func(r *mpc.PublicRecord) { r.PolicyHash = next }
	if _, status, msg := g.by("", asUpdate, "custody/heir/finish", g.finishing(g.beginOwned("heir", map[string]any{"operation": "refresh"}), nil)); status != http.StatusInternalServerError {
		t.Errorf("a plain refresh that changes the policy: %d %s", status, msg)
	}
	g.fake.spoilRecord = nil
	// Nodes whose clock says that approvals are over.
	g.fake.at = func() time.Time { return g.clock.now().Add(time.Hour) }
	if _, status, msg := g.by("", asUpdate, "custody/heir/finish", g.finishing(g.begins(id), nil)); status == http.StatusOK {
		t.Errorf("nodes that refuse: %d %s", status, msg)
	}
	g.fake.at = g.clock.now
	if g.state(id) != requestApproved || g.names() != "alice bob " || g.epoch() != 1 {
		t.Fatalf("the request is %s, approvers %s, epoch %d", g.state(id), g.names(), g.epoch())
	}
	g.brings(id)
	if g.names() != "bob carl " {
		t.Errorf("approvers %s", g.names())
	}
}

// TestCustodyPolicyCrashes: the process ends at each step between asking and the end.
// The next one finds the policy before and a request that the owner may go on with, or
// the policy to come and a request that is done; also long after.
func TestCustodyPolicyCrashes(t *testing.T) {
	for _, step := range []string{stepRequestOpened, stepRequestQuorum, stepCustodyOffered, stepRefreshMade, stepRefreshChecked, stepRefreshStored, stepRequestStored} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s late %v", step, late), func(t *testing.T) {
				g := newHeirRig(t)
				id, crashed := "", false
				stop := func(_ context.Context, name string) error {
					if crashed = crashed || name == step; crashed {
						return errCrash // nothing is done after it either
					}
					return nil
				}
				if step == stepRequestOpened || step == stepRequestQuorum {
					g.stop = stop
				}
				if d, _, _ := g.by("dave", asUpdate, "accounts/heir/policy", map[string]any{"approvers": "bob,carl"}); d != nil {
					id = d["request"].(string)
				} else { // stored, and its answer lost
					id = g.must(logical.ListOperation, "requests/", nil)["keys"].([]string)[0]
					g.restart(g.storage)
				}
				for _, a := range []*approvaltest.Approver{g.alice, g.bob} {
					_, _ = g.b.requests.give(t.Context(), id, g.given(a, id, approval.Approve))
				}
				g.stop = stop
				if begun, status, _ := g.by("", asUpdate, "custody/heir/begin", bringing(id)); status == http.StatusOK {
					_, _, _ = g.by("", asUpdate, "custody/heir/finish", g.finishing(begun, nil))
				}
				if !crashed {
					t.Fatal("the step was not reached")
				}
				g.restart(g.storage)
				stored := step == stepRefreshStored || step == stepRequestStored
				if stored != (g.names() == "bob carl ") || stored != (g.epoch() == 2) {
					t.Fatalf("approvers %s, epoch %d", g.names(), g.epoch())
				}
				if late {
					g.clock.pass(time.Hour)
				}
				d := g.mustBy("dave", asRead, "requests/"+id, nil)
				switch {
				case stored:
					if result, _ := d["result"].(map[string]any); d["state"] != "signed" || result["policy_hash"] != fmt.Sprintf("%x", g.policy("heir").Hash()) {
						t.Errorf("in force, and the request is %v", d)
					}
					g.fails(asUpdate, "custody/heir/begin", bringing(id), http.StatusConflict, "is done")
				case late:
					if d["state"] != "expired" {
						t.Errorf("not in force, and the request is %v", d["state"])
					}
					g.fails(asUpdate, "custody/heir/begin", bringing(id), http.StatusConflict, "is expired")
				default:
					for _, a := range []*approvaltest.Approver{g.alice, g.bob} {
						if r := g.request(id); r.State == requestPending && !r.answeredBy(a.ID.String()) {
							g.gives(a, id, approval.Approve)
						}
					}
					g.brings(id)
					if g.names() != "bob carl " || g.state(id) != requestSigned {
						t.Errorf("after a repetition: %s, request %s", g.names(), g.state(id))
					}
				}
				if g.epoch() > 2 {
					t.Errorf("epoch %d", g.epoch())
				}
			})
		}
	}
}

// TestCustodyFirstPolicy: an owner gives an account its first policy, once.
func TestCustodyFirstPolicy(t *testing.T) {
	g := newHeirRig(t)
	g.owned("bare", "ed25519")
	first := map[string]any{"operation": "refresh", "approvers": "alice,bob", "quorum": 2}
	for what, c := range map[string]struct {
		account string
		data    map[string]any
		status  int
		says    string
	}{
		"one that there is":      {"heir", first, http.StatusConflict, "whose approvers approve another one"},
		"with a request":         {"bare", map[string]any{"operation": "refresh", "approvers": "alice", "request": "00112233445566778899aabbccddeeff"}, http.StatusBadRequest, "do not go together"},
		"with a signature":       {"bare", map[string]any{"operation": "sign", "input": helloBase64, "approvers": "alice"}, http.StatusBadRequest, "is for operation=refresh"},
		"of nobody":              {"bare", map[string]any{"operation": "refresh", "quorum": 1}, http.StatusBadRequest, "approvers"},
		"of somebody unknown":    {"bare", map[string]any{"operation": "refresh", "approvers": "zoe"}, http.StatusBadRequest, "there is no approver"},
		"that cannot be reached": {"bare", map[string]any{"operation": "refresh", "approvers": "alice", "quorum": 2}, http.StatusBadRequest, "quorum"},
	} {
		t.Logf("%s", what)
		g.fails(asUpdate, "custody/"+c.account+"/begin", c.data, c.status, c.says)
	}
	begun := g.must(asUpdate, "custody/bare/begin", first)
	twice := g.must(asUpdate, "custody/bare/begin", first)
	raw, err := base64.StdEncoding.DecodeString(begun["next_policy"].(string))
	g.ok(err)
	next, err := approval.ParsePolicy(raw)
	g.ok(err)
	if next.Quorum != 2 || next.Since != 1 || begun["policy"] != nil {
		t.Fatalf("begun with %v", begun)
	}
	if p := g.policy("bare"); p != nil {
		t.Fatal("it has a policy before its owner has released anything")
	}
	d := g.must(asUpdate, "custody/bare/finish", g.finishing(begun, nil))
	if d["policy_hash"] != fmt.Sprintf("%x", next.Hash()) || d["share_epoch"] != uint64(2) || g.policy("bare").Hash() != next.Hash() {
		t.Errorf("the account is %v", d)
	}
	g.fails(asUpdate, "custody/bare/finish", g.finishing(twice, nil), http.StatusConflict, "new shares")
	g.fails(asUpdate, "custody/bare/begin", helloToSign, http.StatusConflict, "approval policy")
	g.fails(asUpdate, "custody/bare/begin", first, http.StatusConflict, "whose approvers approve another one")
	// From then on as any other.
	id := g.mustBy("dave", asUpdate, "accounts/bare/policy", map[string]any{"approvers": "bob,carl"})["request"].(string)
	g.approved(id)
	if d := g.must(asUpdate, "custody/bare/finish", g.finishing(g.must(asUpdate, "custody/bare/begin", bringing(id)), nil)); d["share_epoch"] != uint64(3) {
		t.Errorf("the account is %v", d)
	}
	// Deleted between the two halves.
	g.owned("gone", "ed25519")
	begun = g.must(asUpdate, "custody/gone/begin", first)
	g.must(logical.DeleteOperation, "accounts/gone", nil)
	g.fails(asUpdate, "custody/gone/finish", g.finishing(begun, nil), http.StatusConflict, "was deleted")
	g.fails(asUpdate, "custody/gone/begin", first, http.StatusConflict, "was deleted")
}
