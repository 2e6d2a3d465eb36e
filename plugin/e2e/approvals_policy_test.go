//go:build e2e

package e2e_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"testing"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

// openPolicy is open for a request to change a policy.
func (r *approverRig) openPolicy(t testing.TB, who string, d *display, mount [16]byte) (*openedRequest, *approval.Policy) {
	t.Helper()
	out := r.as(t, r.outside, "approve/open", r.scan(t, who, d, d.form(0), mount))
	raw := func(field string) []byte {
		b, err := base64.StdEncoding.DecodeString(out[field].(string))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	public, err := hex.DecodeString(out["public_key"].(string))
	if err != nil {
		t.Fatal(err)
	}
	next, err := approval.ParsePolicy(raw("next_policy"))
	if err != nil {
		t.Fatal(err)
	}
	return &openedRequest{ticket: out["ticket"], subject: approval.Subject{
		Action: approval.ChangePolicy, Mount: mount, Account: mpc.AccountID(r.id(t, out["account_id"])), PublicKey: public, Request: d.request,
		Requester: out["requester"].(string), RequesterName: out["requester_name"].(string), Algorithm: mpc.Algorithm(out["algorithm"].(string)),
		Policy: sha256.Sum256(raw("policy")), NextPolicy: next.Hash(), Epoch: uint64(number(t, out["epoch"])), Expires: int64(number(t, out["expires"])),
	}}, next
}

// approves has somebody with a passkey approve.
func (r *approverRig) approves(t testing.TB, who string, o *openedRequest) map[string]any {
	t.Helper()
	return r.as(t, r.outside, "approve/answer", r.answer(t, who, o, approval.Approve, approval.Device, approval.Passkey))
}

// TestApprovalsPolicyChange: approvers replace themselves over the HTTP API. Refreshes
// in between void nothing; what was asked under the old policy ends, and its approvers
// approve nothing any more.
func TestApprovalsPolicyChange(t *testing.T) {
	r := newApproverRig(t)
	r.people["olga"] = r.clientOf(t, "olga")
	first := r.write(t, "accounts/estate", map[string]any{"algorithm": "ed25519", "threshold": 2, "shares": 3, "approvers": "alice,carol", "quorum": 2, "request_expiry": "30m"})
	link := r.write(t, "approvers/carol/enrol", map[string]any{"label": "to look"})
	mount := r.mountID(t, r.as(t, r.outside, "approve/enrol", map[string]any{"enrolment": link["enrolment"], "secret": link["secret"]})["mount_id"])
	epoch := func() int { return number(t, r.read(t, "accounts/estate")["share_epoch"]) }
	began := epoch()

	// Under the old policy: one that half of them approved, one that nobody has seen.
	half, unseen := r.ask(t, "dave", "estate", []byte("half approved")), r.ask(t, "dave", "estate", []byte("not seen"))
	before := r.display(t, "dave", half)
	r.approves(t, "alice", r.open(t, "alice", before, mount))

	out := r.as(t, r.people["olga"], "accounts/estate/policy", map[string]any{"approvers": "carol,bob", "quorum": 1})
	if out["state"] != "pending" || out["action"] != "policy" || number(t, out["epoch"]) != began {
		t.Fatalf("asking for another policy: %v", out)
	}
	change := out["request"].(string)
	d := r.display(t, "olga", change)
	r.write(t, "accounts/estate/refresh", nil)
	o, next := r.openPolicy(t, "alice", d, mount)
	if next.Quorum != 1 || len(next.Approvers) != 2 || next.Approver(r.devices["alice"].ID) != nil {
		t.Errorf("the device is shown %+v", next)
	}
	r.approves(t, "alice", o)
	r.write(t, "accounts/estate/refresh", nil)
	if now := r.read(t, "accounts/estate"); number(t, now["share_epoch"]) != began+2 || now["policy_hash"] != first["policy_hash"] {
		t.Errorf("before it is approved: epoch %v, policy %v", now["share_epoch"], now["policy_hash"])
	}
	o, _ = r.openPolicy(t, "carol", d, mount)
	r.approves(t, "carol", o)
	done := r.ends(t, "olga", change, "signed")
	after := r.read(t, "accounts/estate")
	hash := next.Hash()
	if number(t, after["share_epoch"]) != began+3 || after["policy_hash"] != hex.EncodeToString(hash[:]) || after["public_key_hex"] != first["public_key_hex"] {
		t.Errorf("afterwards: epoch %v, policy %v, want %x; %v", after["share_epoch"], after["policy_hash"], hash, done)
	}

	// What was asked before is over, and says why, to a device and to who asked.
	const text = "the account's policy was changed after this was asked"
	r.refusedAs(t, r.outside, "approve/open", r.scan(t, "carol", before, before.form(0), mount), http.StatusConflict, text)
	for _, request := range []string{half, unseen} {
		got := r.ends(t, "dave", request, "failed")
		if reason, _ := got["reason"].(string); got["result"] != nil || reason == "" || reason[:len(text)] != text {
			t.Errorf("request %s under the old policy: %v, %q", request, got["result"], reason)
		}
	}

	// The new policy counts: alice is nobody, carol is enough.
	message := []byte("under the new policy")
	request := r.ask(t, "dave", "estate", message)
	d = r.display(t, "dave", request)
	r.refusedAs(t, r.outside, "approve/open", r.scan(t, "alice", d, d.form(0), mount), http.StatusForbidden, "is not for this device")
	r.approves(t, "carol", r.open(t, "carol", d, mount))
	r.check(t, "estate", message, r.ends(t, "dave", request, "signed")["result"].(map[string]any))
	r.write(t, "accounts/estate/refresh", nil)
	if now := epoch(); now != began+4 {
		t.Errorf("epoch %d after another refresh, want %d", now, began+4)
	}
}
