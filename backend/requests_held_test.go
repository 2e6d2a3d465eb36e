package backend

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/approval"
)

// freezes stops the account, and unfreezes ends that.
func (g *requestRig) freezes() {
	g.must(asUpdate, "accounts/treasury/freeze", map[string]any{"reason": "lost laptop"})
}

func (g *requestRig) unfreezes() { g.must(asUpdate, "accounts/treasury/unfreeze", nil) }

// again asks once more for a request of dave's.
func (g *requestRig) again(id string) map[string]any {
	g.t.Helper()
	return g.mustBy("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64, "request": id})
}

// held waits until the request is held and returns what is told of it.
func (g *requestRig) held(id string) map[string]any {
	g.t.Helper()
	for range 100 {
		d := g.mustBy("dave", asUpdate, "requests/"+id+"/wait", map[string]any{"timeout": 1})
		if reason, _ := d["reason"].(string); d["state"] == "approved" && reason != "" {
			return d
		}
		if requestState(d["state"].(string)).ended() {
			g.t.Fatalf("it is %v: %v\nlog:\n%s", d["state"], d["reason"], g.logs)
		}
	}
	g.t.Fatalf("request %s is not held\nlog:\n%s", id, g.logs)
	return nil
}

// staysHeld has everything look that could set it off.
func (g *requestRig) staysHeld(id string) {
	g.t.Helper()
	g.ok(g.b.requests.tendAll(g.t.Context()))
	for range 5 {
		if d := g.mustBy("eve", asRead, "requests/"+id, nil); d["state"] != "approved" || d["reason"] == nil {
			g.t.Fatalf("it is %v: %v", d["state"], d["reason"])
		}
		time.Sleep(5 * time.Millisecond)
	}
	g.b.requests.queue.mu.Lock()
	defer g.b.requests.queue.mu.Unlock()
	if g.b.requests.queue.due[id] != nil {
		g.t.Error("it is to be done by itself")
	}
}

// heldOne is a request of dave's that had its quorum while the account was frozen.
func (g *requestRig) heldOne(more map[string]any) string {
	g.t.Helper()
	id := g.asks(more)
	g.gives(g.alice, id, approval.Approve)
	g.freezes()
	g.gives(g.bob, id, approval.Approve)
	g.held(id)
	return id
}

// TestRequestHeld: what is approved while its account is frozen signs nothing, also
// not by itself afterwards, and is signed when its requester asks again.
func TestRequestHeld(t *testing.T) {
	g := newRequestRig(t)
	id := g.heldOne(nil)
	d := g.held(id)
	for _, part := range []string{"has been frozen since", "lost laptop", "request=" + id} {
		if !strings.Contains(d["reason"].(string), part) {
			t.Errorf("%q is not in %q", part, d["reason"])
		}
	}
	g.staysHeld(id)
	asked := map[string]any{"input": helloBase64, "request": id}
	g.failsBy("dave", asUpdate, "sign/treasury", asked, http.StatusConflict, "has been frozen")
	g.staysHeld(id)
	g.unfreezes()
	g.staysHeld(id)
	g.restart(g.storage)
	g.staysHeld(id)
	// Nobody else, and nothing else.
	g.failsBy("eve", asUpdate, "sign/treasury", asked, http.StatusForbidden, "somebody else")
	g.fails(asUpdate, "sign/treasury", asked, http.StatusForbidden, "somebody else")
	for what, more := range map[string]map[string]any{
		"message": {"input": "d29ybGQ="}, "type": {"message_type": "eip191"}, "hash": {"hash_algorithm": "keccak-256"},
		"derivation": {"derivation_path": "m/1"}, "format": {"signature_format": "jws"},
	} {
		other := map[string]any{"input": helloBase64, "request": id}
		for k, v := range more {
			other[k] = v
		}
		if _, status, msg := g.by("dave", asUpdate, "sign/treasury", other); status != http.StatusConflict || !strings.Contains(msg, "not for this message") {
			t.Errorf("another %s: %d %s", what, status, msg)
		}
	}
	g.failsBy("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64, "request": id, "request_id": "x"}, http.StatusBadRequest, "leave one of them out")
	g.failsBy("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64, "request": "nonsense"}, http.StatusBadRequest, "32 lower-case hex digits")
	g.create("plain", "ecdsa-secp256k1")
	g.failsBy("dave", asUpdate, "sign/plain", asked, http.StatusBadRequest, "leave request out")
	g.staysHeld(id)
	if n := g.signaturesMade(); n != 0 {
		t.Fatalf("%v signatures", n)
	}
	if d := g.again(id); d["request"] != id {
		t.Errorf("asked again: %v", d)
	}
	end := g.ends(id)
	g.valid(end)
	if end["reason"] != nil {
		t.Errorf("signed, and it has the reason %v", end["reason"])
	}
	// Once more it is the same answer.
	if d := g.again(id); d["state"] != "signed" || d["result"] == nil {
		t.Errorf("asked once more: %v", d)
	}
	if n := g.signaturesMade(); n != 1 {
		t.Errorf("%v signatures", n)
	}
}

// TestRequestHeldRepeats: the same request_id asks again, too.
func TestRequestHeldRepeats(t *testing.T) {
	g := newRequestRig(t)
	order := map[string]any{"input": helloBase64, "request_id": "order-1"}
	id := g.heldOne(order)
	g.failsBy("dave", asUpdate, "sign/treasury", order, http.StatusConflict, "has been frozen")
	g.unfreezes()
	g.restart(g.storage)
	g.staysHeld(id)
	// Of somebody else it is another request.
	if d := g.mustBy("eve", asUpdate, "sign/treasury", order); d["request"] == id || d["state"] != "pending" {
		t.Errorf("somebody else asks: %v", d)
	}
	g.staysHeld(id)
	if d := g.mustBy("dave", asUpdate, "sign/treasury", order); d["request"] != id {
		t.Errorf("asked again: %v", d)
	}
	g.valid(g.ends(id))
}

// TestRequestHeldEnds: one that is held ends as any other does.
func TestRequestHeldEnds(t *testing.T) {
	g := newRequestRig(t)
	asked := func(id string) map[string]any { return map[string]any{"input": helloBase64, "request": id} }
	cancelled := g.heldOne(nil)
	if d := g.mustBy("dave", asUpdate, "requests/"+cancelled+"/cancel", nil); d["state"] != "cancelled" || d["reason"] != "by the requester" {
		t.Errorf("cancelled: %v", d)
	}
	g.unfreezes()
	g.failsBy("dave", asUpdate, "sign/treasury", asked(cancelled), http.StatusConflict, "is cancelled")

	// Frozen once more before it could be done.
	twice := g.heldOne(nil)
	g.unfreezes()
	g.fake.mu.Lock()
	g.fake.signErr = fmt.Errorf("away: %w", errCrash)
	g.fake.mu.Unlock()
	g.again(twice)
	g.freezes()
	g.held(twice)
	g.fake.mu.Lock()
	g.fake.signErr = nil
	g.fake.mu.Unlock()
	g.unfreezes()
	g.staysHeld(twice)

	expired := g.heldOne(nil)
	g.clock.pass(time.Hour)
	for _, id := range []string{twice, expired} {
		if d := g.ends(id); d["state"] != "expired" || !strings.Contains(fmt.Sprint(d["reason"]), "frozen") {
			t.Errorf("expired: %v %v", d["state"], d["reason"])
		}
	}
	g.unfreezes()
	g.failsBy("dave", asUpdate, "sign/treasury", asked(expired), http.StatusConflict, "is expired")
	order := map[string]any{"input": helloBase64, "request_id": "order-2"}
	late := g.heldOne(order)
	g.unfreezes()
	g.clock.pass(time.Hour)
	if d := g.mustBy("dave", asUpdate, "sign/treasury", order); d["request"] != late || d["state"] != "expired" {
		t.Errorf("repeated too late: %v", d)
	}

	// Approvals under another policy count for nothing.
	overtaken := g.heldOne(nil)
	g.policyIs(g.directoryPolicy(1))
	g.unfreezes()
	g.again(overtaken)
	if d := g.ends(overtaken); d["state"] != "failed" || !strings.Contains(fmt.Sprint(d["reason"]), "policy was changed") {
		t.Errorf("another policy: %v %v", d["state"], d["reason"])
	}
	// Deleted is not frozen: it may never come back.
	gone := g.asks(nil)
	g.must(logical.DeleteOperation, "accounts/treasury", nil)
	g.gives(g.alice, gone, approval.Approve)
	if d := g.ends(gone); d["state"] != "failed" || !strings.Contains(fmt.Sprint(d["reason"]), "was deleted") {
		t.Errorf("deleted: %v %v", d["state"], d["reason"])
	}
	if n := g.signaturesMade(); n != 0 {
		t.Errorf("%v signatures", n)
	}
}

// TestRequestHeldCrashes: the process ends, or storage fails, around the moment in
// which that it is held is stored, and around asking again. Nothing is signed while
// the account is frozen; what was stored as held signs only when asked for again; and
// it can be.
func TestRequestHeldCrashes(t *testing.T) {
	for _, step := range []string{stepRequestQuorum, stepRequestDoing, stepRequestHolding, stepRequestHeld} {
		t.Run(step, func(t *testing.T) {
			g := newRequestRig(t)
			id := g.asks(nil)
			g.gives(g.alice, id, approval.Approve)
			g.freezes()
			reached := make(chan struct{}, 1)
			g.stop = func(_ context.Context, name string) error {
				if name != step {
					return nil
				}
				select {
				case reached <- struct{}{}:
				default:
				}
				return errCrash
			}
			last := g.given(g.bob, id, approval.Approve)
			_, err := g.b.requests.give(t.Context(), id, last)
			if (err != nil) != (step == stepRequestQuorum) {
				t.Fatal(err)
			}
			<-reached
			g.restart(g.storage)
			if step == stepRequestQuorum {
				g.gives(g.bob, id, approval.Approve)
			}
			g.held(id)
			g.staysHeld(id)
			if n := g.signaturesMade(); n != 0 {
				t.Fatalf("%v signatures while frozen", n)
			}
			g.unfreezes()
			g.staysHeld(id)
			// Asked again, and the process ends before it is done.
			g.stop = func(_ context.Context, name string) error {
				if name == stepRequestDoing {
					return errCrash
				}
				return nil
			}
			g.again(id)
			g.restart(g.storage)
			g.valid(g.ends(id))
		})
	}
	for n := range 3 { // the last approval, holding it, asking again
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d late %v", n, late), func(t *testing.T) {
				g := newRequestRig(t)
				id := g.asks(nil)
				g.gives(g.alice, id, approval.Approve)
				g.freezes()
				whole := g.storage
				broken := &crashing{Storage: whole, left: n, late: late}
				g.restart(broken)
				if n == 2 {
					broken.left = 1000
				}
				_, _ = g.b.requests.give(t.Context(), id, g.given(g.bob, id, approval.Approve))
				if n == 2 {
					g.held(id)
					g.unfreezes()
					broken.mu.Lock()
					broken.left = 0
					broken.mu.Unlock()
					if _, status, _ := g.by("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64, "request": id}); status < 500 {
						t.Errorf("storage failed, and the answer was %d", status)
					}
					g.restart(whole)
				} else {
					for range 20 { // what is tried in the background
						g.by("dave", asRead, "requests/"+id, nil)
						time.Sleep(2 * time.Millisecond)
					}
					g.restart(whole)
					if r := g.request(id); !r.answeredBy(g.bob.ID.String()) {
						g.gives(g.bob, id, approval.Approve)
					}
					g.held(id)
					if n := g.signaturesMade(); n != 0 {
						t.Fatalf("%v signatures while frozen", n)
					}
					g.unfreezes()
					g.staysHeld(id)
				}
				g.again(id)
				g.valid(g.ends(id))
			})
		}
	}
}

// TestRequestOfFrozenOwner: of an account with user custody what was approved waits
// for its owner anyway; a freeze of the account, or of the identity, is over before.
func TestRequestOfFrozenOwner(t *testing.T) {
	g := newRequestRig(t)
	o := newOwner(t, g.storage, "owner-of-carol")
	g.must(asUpdate, "accounts/carol", map[string]any{"algorithm": "ed25519", "custody_identity": o.name, "custody_asset": "key", "approvers": "alice,bob", "quorum": 1})
	begin := func(id string) map[string]any {
		return map[string]any{"operation": "sign", "input": helloBase64, "request": id}
	}
	for path, says := range map[string]string{"accounts/carol": "has been frozen", "identities/" + o.name: "frozen"} {
		id := g.mustBy("dave", asUpdate, "sign/carol", map[string]any{"input": helloBase64})["request"].(string)
		g.must(asUpdate, path+"/freeze", nil)
		g.gives(g.alice, id, approval.Approve)
		g.failsBy("dave", asUpdate, "custody/carol/begin", begin(id), http.StatusConflict, says)
		if d := g.mustBy("dave", asRead, "requests/"+id, nil); d["state"] != "approved" {
			t.Errorf("%s frozen: %v %v", path, d["state"], d["reason"])
		}
		g.must(asUpdate, path+"/unfreeze", nil)
		if d := g.mustBy("dave", asUpdate, "sign/carol", map[string]any{"input": helloBase64, "request": id}); d["request"] != id || d["state"] != "approved" {
			t.Errorf("asked again: %v", d)
		}
		begun := g.mustBy("dave", asUpdate, "custody/carol/begin", begin(id))
		// Frozen between begin and finish: nothing of it is lost either.
		g.must(asUpdate, path+"/freeze", nil)
		g.failsBy("dave", asUpdate, "custody/carol/finish", g.finishing(begun, nil), http.StatusConflict, says)
		if g.state(id) != requestApproved {
			t.Errorf("%s frozen again: %s", path, g.state(id))
		}
		g.must(asUpdate, path+"/unfreeze", nil)
		signed := g.mustBy("dave", asUpdate, "custody/carol/finish", g.finishing(begun, nil))
		if v := g.must(asUpdate, "verify/carol", map[string]any{"input": helloBase64, "signature": signed["signature"]}); v["valid"] != true {
			t.Error("the signature is not valid")
		}
	}
}

// TestRequestAskedForWhileBusy: what is added while an attempt ends, as a request that
// was held just now is when its requester asks again, is not lost; what has ended is.
func TestRequestAskedForWhileBusy(t *testing.T) {
	u := newRequestQueue(&approvalRequests{cfg: requestsConfig{Go: func(func(context.Context)) bool { return true }}})
	begun := func(id string) bool {
		ids, _ := u.take()
		return slices.Contains(ids, id)
	}
	u.add("a")
	if !begun("a") || begun("a") {
		t.Fatal("it is not begun once")
	}
	u.add("a")
	u.ended("a", nil)
	if !begun("a") {
		t.Fatal("it is lost")
	}
	u.add("a")
	u.drop("a") // it has ended meanwhile
	u.ended("a", nil)
	if begun("a") || len(u.due) > 0 {
		t.Error("what has ended is done again")
	}
}
