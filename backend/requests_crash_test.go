package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// TestRequestCrashes: the process ends at each step of a request's life. The next one
// finds a state from which the request goes on, and it ends with a valid signature.
func TestRequestCrashes(t *testing.T) {
	for _, step := range []string{stepRequestOpening, stepRequestOpened, stepRequestQuorum, stepRequestDoing, stepRequestDone, stepRequestStored} {
		t.Run(step, func(t *testing.T) {
			g := newRequestRig(t)
			g.stop = func(_ context.Context, name string) error {
				if name == step {
					return errCrash
				}
				return nil
			}
			order := map[string]any{"input": helloBase64, "request_id": "order-1"}
			d, status, _ := g.by("dave", asUpdate, "sign/treasury", order)
			if opening := step == stepRequestOpening || step == stepRequestOpened; opening != (status != http.StatusOK) {
				t.Fatalf("asked: %d", status)
			}
			if d != nil {
				id := d["request"].(string)
				g.gives(g.alice, id, approval.Approve)
				if _, err := g.b.requests.give(t.Context(), id, g.given(g.bob, id, approval.Approve)); (err != nil) != (step == stepRequestQuorum) {
					t.Fatalf("the last approval: %v", err)
				}
			}
			g.restart(g.storage)
			// A repetition finds what there is, or asks.
			d = g.mustBy("dave", asUpdate, "sign/treasury", order)
			id := d["request"].(string)
			for _, a := range []*approvaltest.Approver{g.alice, g.bob} {
				if r := g.request(id); r.State == requestPending && !r.answeredBy(a.ID.String()) {
					g.gives(a, id, approval.Approve)
				}
			}
			g.valid(g.ends(id))
			if all := g.mustBy("dave", logical.ListOperation, "requests/", nil)["keys"].([]string); len(all) != 1 {
				t.Errorf("%d requests", len(all))
			}
		})
	}
}

// TestRequestStorageFails: storage stops at each of the writes, before it is done or
// after. What is stored then is a state from which the request goes on.
func TestRequestStorageFails(t *testing.T) {
	for n := range 5 {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d late %v", n, late), func(t *testing.T) {
				g := newRequestRig(t)
				whole := g.storage
				broken := &crashing{Storage: whole, left: n, late: late}
				g.restart(broken)
				order := map[string]any{"input": helloBase64, "request_id": "order-1"}
				if d, _, _ := g.by("dave", asUpdate, "sign/treasury", order); d != nil {
					id := d["request"].(string)
					for _, a := range []*approvaltest.Approver{g.alice, g.bob} {
						r, err := g.b.store.request(t.Context(), id)
						if err != nil || r == nil {
							break
						}
						s, _, err := g.b.requests.subject(t.Context(), r)
						if err != nil {
							break
						}
						given := a.Give(t, &s)
						out := givenRecord{Approver: a.ID.String(), Name: a.Name, Decision: approval.Approve, Kinds: []approval.Kind{approval.Device, approval.Passkey}}
						for _, sig := range given.Signatures {
							out.Signatures = append(out.Signatures, signedFactor{Key: sig.Key.String(), Signature: sig.Signature, AuthenticatorData: sig.AuthenticatorData, ClientData: sig.ClientData})
						}
						_, _ = g.b.requests.give(t.Context(), id, out)
					}
					for range 20 { // what is done in the background
						if d, _, _ := g.by("dave", asUpdate, "requests/"+id+"/wait", map[string]any{"timeout": 0}); d == nil || d["state"] == "signed" {
							break
						}
						time.Sleep(2 * time.Millisecond)
					}
				}
				g.restart(whole)
				id := g.mustBy("dave", asUpdate, "sign/treasury", order)["request"].(string)
				for _, a := range []*approvaltest.Approver{g.alice, g.bob} {
					if r := g.request(id); r.State == requestPending && !r.answeredBy(a.ID.String()) {
						g.gives(a, id, approval.Approve)
					}
				}
				g.valid(g.ends(id))
			})
		}
	}
}

// TestRequestsAfterRestart: what was stored in each state is found in it, and an
// approved one goes on without anybody looking at it.
func TestRequestsAfterRestart(t *testing.T) {
	g := newRequestRig(t)
	ids := map[requestState]string{}
	for _, s := range []requestState{requestPending, requestApproved, requestSigned, requestRefused, requestCancelled} {
		ids[s] = g.asks(nil)
	}
	g.gives(g.alice, ids[requestPending], approval.Approve)
	g.approved(ids[requestSigned])
	g.valid(g.ends(ids[requestSigned]))
	g.gives(g.alice, ids[requestRefused], approval.Refuse)
	g.gives(g.carl, ids[requestRefused], approval.Refuse)
	g.mustBy("eve", asUpdate, "requests/"+ids[requestCancelled]+"/cancel", nil)
	g.fake.signErr = fmt.Errorf("signing: %w", pool.ErrHSMUnavailable)
	g.approved(ids[requestApproved])
	for s, id := range ids {
		if g.state(id) != s {
			t.Errorf("%s is %s", s, g.state(id))
		}
	}
	g.fake.mu.Lock()
	g.fake.signErr = nil
	g.fake.mu.Unlock()
	g.restart(g.storage)
	delete(ids, requestApproved)
	for s, id := range ids {
		if d := g.mustBy("dave", asRead, "requests/"+id, nil); d["state"] != string(s) {
			t.Errorf("%s is %s after a restart", s, d["state"])
		}
	}
	if d := g.request(ids[requestCancelled]); d.Reason != "by entity eve" {
		t.Errorf("cancelled: %q", d.Reason)
	}
	g.gives(g.bob, ids[requestPending], approval.Approve)
	g.valid(g.ends(ids[requestPending]))
	g.b.requests.tend()
	for range 1000 {
		if n, _ := value(g.scrape(), "mpc_approval_requests", "state=signed"); n == 3 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("nobody has looked, and it was never signed")
}

// TestRequestTransient: what may pass leaves it approved until it expires.
func TestRequestTransient(t *testing.T) {
	g := newRequestRig(t)
	id := g.asks(nil)
	late := g.asks(nil)
	trouble := func(err error) {
		g.fake.mu.Lock()
		defer g.fake.mu.Unlock()
		g.fake.signErr = err
	}
	trouble(fmt.Errorf("signing: %w", &pool.BusyError{Waiting: 9}))
	g.approved(id)
	for range 1000 {
		if d := g.mustBy("dave", asRead, "requests/"+id, nil); d["trouble"] != nil {
			if d["state"] != "approved" {
				t.Errorf("state %v", d["state"])
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	trouble(nil)
	g.valid(g.ends(id))
	trouble(pool.ErrHSMUnavailable)
	g.approved(late)
	g.clock.pass(time.Hour)
	if d := g.ends(late); d["state"] != "expired" {
		t.Errorf("the HSM was away for an hour: %v", d["state"])
	}
	// What one node says may be its clock's fault.
	trouble(fmt.Errorf("signing: %w: %w", pool.ErrOneNode, pool.ErrApprovals))
	id = g.asks(nil)
	g.approved(id)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		d := g.mustBy("dave", asRead, "requests/"+id, nil)
		if text, _ := d["trouble"].(string); d["state"] == "approved" && strings.Contains(text, "one node refuses") {
			break
		}
		if d["state"] != "approved" || time.Now().After(end) {
			t.Fatalf("one node refuses: %v %v", d["state"], d["trouble"])
		}
	}
	trouble(nil)
	g.valid(g.ends(id))
	// A refusal of nodes stays.
	trouble(fmt.Errorf("signing: %w", pool.ErrApprovals))
	id = g.asks(nil)
	g.approved(id)
	if d := g.ends(id); d["state"] != "failed" || !strings.Contains(fmt.Sprint(d["reason"]), "the nodes refuse") {
		t.Errorf("nodes refuse: %v %v", d["state"], d["reason"])
	}
}

// TestRequestOvertaken: the account is not what it was when it was asked.
func TestRequestOvertaken(t *testing.T) {
	g := newRequestRig(t)
	renamed := g.asks(nil)
	g.must(asUpdate, "accounts/treasury/rename", map[string]any{"new_name": "vault"})
	g.must(asUpdate, "accounts/vault/rename", map[string]any{"new_name": "cellar"})
	g.approved(renamed)
	if d := g.ends(renamed); d["state"] != "signed" {
		t.Errorf("after a rename: %v %v", d["state"], d["reason"])
	}
	g.must(asUpdate, "accounts/cellar/rename", map[string]any{"new_name": "treasury"})
	// Another policy before the last approval: approvals under the old one are void.
	id := g.asks(nil)
	other := g.asks(nil)
	g.gives(g.alice, id, approval.Approve)
	last := g.given(g.bob, id, approval.Approve)
	g.policyIs(g.directoryPolicy(1))
	if _, err := g.b.requests.give(t.Context(), id, last); err == nil || !strings.Contains(err.Error(), "policy was changed") {
		t.Errorf("an approval under another policy: %v", err)
	}
	if g.state(id) != requestFailed {
		t.Errorf("it is %s", g.state(id))
	}
	if _, err := g.b.requests.update(t.Context(), other, func(r *requestRecord) error { // as if stored before the change
		r.State = requestApproved
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if d := g.ends(other); d["state"] != "failed" || !strings.Contains(fmt.Sprint(d["reason"]), "policy was changed") {
		t.Errorf("another policy: %v %v", d["state"], d["reason"])
	}
	// Said to be approved, in storage, by nobody.
	id = g.asks(nil)
	if _, err := g.b.requests.update(t.Context(), id, func(r *requestRecord) error { r.State = requestApproved; return nil }); err != nil {
		t.Fatal(err)
	}
	if d := g.ends(id); d["state"] != "failed" || !strings.Contains(fmt.Sprint(d["reason"]), "do not hold") {
		t.Errorf("approved by nobody: %v %v", d["state"], d["reason"])
	}
	if n := g.signaturesMade(); n != 1 {
		t.Errorf("%v signatures", n)
	}
}

func TestRequestChangesPolicy(t *testing.T) {
	for _, step := range []string{"", stepRequestDoing, stepRefreshMade, stepRefreshStored, stepRequestDone} {
		t.Run("crash at "+step, func(t *testing.T) {
			g := newRequestRig(t)
			d := g.mustBy("dave", asUpdate, "accounts/treasury/policy", map[string]any{"approvers": "alice,bob,carl", "quorum": 1})
			id, _ := d["request"].(string)
			if d["action"] != "policy" || d["state"] != "pending" || id == "" {
				t.Fatalf("asked: %v", d)
			}
			g.must(asUpdate, "accounts/treasury/refresh", nil) // does no harm
			if step != "" {
				g.stop = func(_ context.Context, name string) error {
					if name == step {
						return errCrash
					}
					return nil
				}
			}
			g.approved(id)
			if step != "" {
				time.Sleep(20 * time.Millisecond)
				g.restart(g.storage)
			}
			if end := g.ends(id); end["state"] != "signed" || end["result"].(map[string]any)["policy_hash"] != end["next_policy_hash"] {
				t.Fatalf("ended: %v", end)
			}
			one := g.asks(nil)
			g.gives(g.carl, one, approval.Approve)
			g.valid(g.ends(one))
		})
	}
}

func TestRequestBounds(t *testing.T) {
	g := newRequestRig(t)
	id := g.asks(nil)
	f := *factsOf(g.request(id))
	x := g.b.requests.index
	x.mu.Lock()
	for n := range maxPendingPerAccount - 1 {
		one := f
		one.id = fmt.Sprint(n)
		x.all[one.id] = &one
	}
	x.mu.Unlock()
	g.failsBy("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64}, http.StatusTooManyRequests, "as many as it may")
	x.mu.Lock()
	x.all["0"].state = requestSigned
	x.mu.Unlock()
	g.asks(nil)
	g.failsBy("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64}, http.StatusTooManyRequests, "as many as it may")
	if len(x.opening) != 0 {
		t.Errorf("still opening: %v", x.opening)
	}
}

func TestRequestWait(t *testing.T) {
	g := newRequestRig(t)
	id := g.asks(nil)
	if d := g.mustBy("dave", asUpdate, "requests/"+id+"/wait", map[string]any{"timeout": 0}); d["state"] != "pending" {
		t.Errorf("without waiting: %v", d)
	}
	// Woken by an answer, and by what another server stored.
	for _, a := range []func(){
		func() { g.gives(g.alice, id, approval.Approve) },
		func() {
			r := g.request(id)
			r.end(requestCancelled, g.clock.now(), "elsewhere")
			g.ok(g.b.store.putRequest(t.Context(), r))
		},
	} {
		before := len(g.request(id).Given)
		woken := make(chan map[string]any, 1)
		go func() {
			r, err := g.b.requests.wait(context.Background(), id, maxRequestWait)
			if err != nil {
				woken <- nil
				return
			}
			woken <- requestAnswer(r)
		}()
		for {
			g.b.requests.waits.mu.Lock()
			n := g.b.requests.waits.n
			g.b.requests.waits.mu.Unlock()
			if n == 1 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond) // so that it has had its first look
		a()
		if d := <-woken; d == nil || d["approvals"] == before && d["state"] == "pending" {
			t.Errorf("woken with %v", d)
		}
	}
	// Bounded.
	w := newRequestWaits()
	for range maxWaitingOne {
		if _, _, err := w.enter(id); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := w.enter(id)
	var f *fault
	if !errors.As(err, &f) || f.status != http.StatusTooManyRequests {
		t.Errorf("one more who waits: %v", err)
	}
	_, leave, err := w.enter("another")
	g.ok(err)
	leave()
	if w.n != maxWaitingOne {
		t.Errorf("%d wait", w.n)
	}
}

func TestRequestCode(t *testing.T) {
	g := newRequestRig(t)
	id := g.asks(nil)
	d := g.mustBy("dave", asUpdate, "requests/"+id+"/code", nil)
	r := g.request(id)
	if d["seed"] != encode64(r.Seed) || d["period_ms"] != int64(2000) || d["created_unix_ms"] != r.Created.UnixMilli() || d["link_base"] != "mpc:" || d["display_url"] != nil {
		t.Errorf("code: %v", d)
	}
	if r.Created.Nanosecond()%int(time.Millisecond) != 0 {
		t.Error("displays count from another moment than the server")
	}
	g.failsBy("alice", asUpdate, "requests/"+id+"/code", nil, http.StatusForbidden, "only whoever asked")
	g.fails(asUpdate, "requests/"+id+"/code", nil, http.StatusForbidden, "only whoever asked")
	for _, d := range []map[string]any{g.mustBy("dave", asRead, "requests/"+id, nil), g.mustBy("dave", logical.ListOperation, "requests/", nil)} {
		if strings.Contains(fmt.Sprint(d), encode64(r.Seed)) {
			t.Error("the seed is shown")
		}
	}
	g.must(asUpdate, "config/ui", map[string]any{"public_url": "https://vault.example.com"})
	d = g.mustBy("dave", asUpdate, "requests/"+id+"/code", nil)
	want := fmt.Sprintf("https://vault.example.com/v1/mpc/ui/show#r=%s&s=%s&c=%d&p=2000", id, encode64URL(r.Seed), r.Created.UnixMilli())
	if d["display_url"] != want || d["link_base"] != "https://vault.example.com/v1/mpc/ui/phone" {
		t.Errorf("code with pages: %v", d)
	}
	if strings.Contains(g.logs.String(), encode64(r.Seed)) {
		t.Error("the seed is in the log")
	}
}

func TestRequestOfOwner(t *testing.T) {
	g := newRequestRig(t)
	o := newOwner(t, g.storage, "owner-of-carol")
	g.must(asUpdate, "accounts/carol", map[string]any{"algorithm": "ed25519", "custody_identity": o.name, "custody_asset": "key", "approvers": "alice,bob", "quorum": 1})
	begin := func(request string) map[string]any {
		return map[string]any{"operation": "sign", "input": helloBase64, "request": request}
	}
	g.failsBy("dave", asUpdate, "custody/carol/begin", helloToSign, http.StatusConflict, "approval policy")
	d := g.mustBy("dave", asUpdate, "sign/carol", map[string]any{"input": helloBase64})
	id := d["request"].(string)
	if d["by_owner"] != true {
		t.Errorf("asked: %v", d)
	}
	g.failsBy("dave", asUpdate, "custody/carol/begin", begin(id), http.StatusConflict, "is pending")
	g.gives(g.alice, id, approval.Approve)
	g.failsBy("eve", asUpdate, "custody/carol/begin", begin(id), http.StatusForbidden, "somebody else")
	g.failsBy("dave", asUpdate, "custody/carol/begin", map[string]any{"operation": "sign", "input": "d29ybGQ=", "request": id}, http.StatusConflict, "not for this message")
	g.failsBy("dave", asUpdate, "custody/carol/begin", map[string]any{"operation": "refresh", "request": id}, http.StatusConflict, "no change of the policy")
	begun := g.mustBy("dave", asUpdate, "custody/carol/begin", begin(id))
	if g.state(id) != requestApproved {
		t.Fatalf("begun, and it is %s", g.state(id))
	}
	// After a failover the owner begins again.
	g.restart(g.storage)
	g.failsBy("dave", asUpdate, "custody/carol/finish", g.finishing(begun, nil), http.StatusConflict, "begin again")
	begun = g.mustBy("dave", asUpdate, "custody/carol/begin", begin(id))
	twice := g.mustBy("dave", asUpdate, "custody/carol/begin", begin(id))
	signed := g.mustBy("dave", asUpdate, "custody/carol/finish", g.finishing(begun, nil))
	if v := g.must(asUpdate, "verify/carol", map[string]any{"input": helloBase64, "signature": signed["signature"]}); v["valid"] != true {
		t.Error("the signature is not valid")
	}
	end := g.mustBy("dave", asRead, "requests/"+id, nil)
	if result, _ := end["result"].(map[string]any); end["state"] != "signed" || result["signature"] != signed["signature"] {
		t.Errorf("ended: %v", end)
	}
	g.failsBy("dave", asUpdate, "custody/carol/finish", g.finishing(twice, nil), http.StatusConflict, "is signed")
	// Cancelled between begin and finish.
	id = g.mustBy("dave", asUpdate, "sign/carol", map[string]any{"input": helloBase64})["request"].(string)
	g.gives(g.bob, id, approval.Approve)
	begun = g.mustBy("dave", asUpdate, "custody/carol/begin", begin(id))
	g.mustBy("dave", asUpdate, "requests/"+id+"/cancel", nil)
	g.failsBy("dave", asUpdate, "custody/carol/finish", g.finishing(begun, nil), http.StatusConflict, "is cancelled")
	// An account without a policy takes no request.
	g.owned("eve", "ed25519")
	g.failsBy("dave", asUpdate, "custody/eve/begin", begin(id), http.StatusBadRequest, "leave request out")
}
