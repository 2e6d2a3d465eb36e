package client

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"
)

const someRequest = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"

// asked is a request as the engine sends it.
func asked(state string, more map[string]any) map[string]any {
	r := map[string]any{
		"request": someRequest, "state": state, "account": "gold", "account_id": "aa", "action": "sign", "requester": "entity:e", "requester_name": "carol",
		"created_time": "2026-01-02T03:04:05Z", "expires_time": "2026-01-02T03:14:05Z", "quorum": 2, "approvals": 1, "refusals": 0,
		"approvers": []string{"alice", "ben"}, "digest": "00ff", "policy_hash": "0d", "signature_format": "der", "by_owner": false,
		"answers": []any{map[string]any{"approver": "alice", "decision": "approve", "kinds": []string{"device", "totp"},
			"checked_by": map[string]any{"device": "nodes", "totp": "coordinator"}, "time": "2026-01-02T03:05:05Z"}},
	}
	maps.Copy(r, more)
	return r
}

// A request is never a signature: it is a typed error.
func TestPendingIsNoSignature(t *testing.T) {
	c, _ := start(t, answering(asked("pending", nil)))
	sig, err := c.Sign(context.Background(), "gold", SignRequest{Input: []byte("hello"), Format: FormatDER, RequestID: "order-7"})
	var pending *PendingError
	if sig != nil || !errors.Is(err, ErrPending) || !errors.As(err, &pending) {
		t.Fatalf("%v, %v", sig, err)
	}
	r := pending.Request
	if r.ID != someRequest || r.State != RequestPending || r.Quorum != 2 || r.Approvals != 1 || r.Requester != "entity:e" ||
		!r.Expires.Equal(time.Date(2026, 1, 2, 3, 14, 5, 0, time.UTC)) || len(r.Answers) != 1 || r.Answers[0].CheckedBy["totp"] != "coordinator" {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(err.Error(), "1 of 2 approvals") {
		t.Error(err)
	}
	for _, other := range []error{ErrConflict, ErrDenied, ErrAuxiliaryKeysPending} {
		if errors.Is(err, other) {
			t.Errorf("it is %v as well", other)
		}
	}
	if _, err := r.Signature(); !errors.Is(err, ErrPending) {
		t.Error(err)
	}
	// Neither one nor the other.
	for _, data := range []map[string]any{{"request": "../sys/seal", "state": "pending"}, {"state": "pending"}, {}} {
		c, _ := start(t, answering(data))
		if sig, err := c.Sign(context.Background(), "gold", SignRequest{Input: []byte("x")}); sig != nil || err == nil || errors.Is(err, ErrPending) {
			t.Errorf("%v: %v, %v", data, sig, err)
		}
	}
}

// The same Sign again, once the request is signed, has the signature.
func TestSignFindsItsRequest(t *testing.T) {
	c, _ := start(t, answering(asked("signed", map[string]any{"result": signed(nil), "request_id": "order-7"})))
	sig := must[*Signature](t)(c.Sign(context.Background(), "gold", SignRequest{Input: []byte("hello"), RequestID: "order-7"}))
	if len(sig.Bytes) != 3 {
		t.Errorf("%+v", sig)
	}
	c, _ = start(t, answering(asked("refused", map[string]any{"reason": "no"})))
	_, err := c.Sign(context.Background(), "gold", SignRequest{Input: []byte("hello"), RequestID: "order-7"})
	var ended *EndedError
	if !errors.As(err, &ended) || errors.Is(err, ErrPending) || ended.Request.State != RequestRefused || !strings.Contains(err.Error(), "refused: no; nothing was signed") {
		t.Error(err)
	}
}

func TestRequestWait(t *testing.T) {
	answers := []map[string]any{asked("pending", nil), asked("approved", nil), asked("signed", map[string]any{"result": signed(nil)})}
	c, f := start(t, nil)
	n := 0
	f.handler = func(request) reply {
		n++
		return reply{data: answers[n-1]}
	}
	sig := must[*Signature](t)(c.RequestWait(context.Background(), someRequest))
	if len(sig.Bytes) != 3 || n != 3 {
		t.Errorf("%+v after %d requests", sig, n)
	}
	got := f.requests()[0]
	if got.method != "PUT" || got.path != "team/mpc/requests/"+someRequest+"/wait" || got.body["timeout"] != "5s" {
		t.Errorf("%+v", got)
	}
	for _, state := range []string{"expired", "cancelled", "failed", "refused"} {
		c, _ := start(t, answering(asked(state, nil)))
		var ended *EndedError
		if _, err := c.RequestWait(context.Background(), someRequest); !errors.As(err, &ended) || string(ended.Request.State) != state {
			t.Errorf("%s: %v", state, err)
		}
	}
	// An owner's turn is no signature, and not waited for without end.
	c, _ = start(t, answering(asked("approved", map[string]any{"by_owner": true})))
	if _, err := c.RequestWait(context.Background(), someRequest); !errors.Is(err, ErrPending) {
		t.Error(err)
	}
	// Nor is one that is held.
	c, f = start(t, answering(asked("approved", map[string]any{"reason": "it has been frozen"})))
	var pending *PendingError
	if _, err := c.RequestWait(context.Background(), someRequest); !errors.As(err, &pending) || !pending.Request.Held() || !strings.Contains(err.Error(), "held: it has been frozen") {
		t.Error(err)
	}
	if _, err := c.Sign(context.Background(), "gold", SignRequest{Input: []byte("x"), Request: someRequest}); !errors.Is(err, ErrPending) {
		t.Error(err)
	}
	if all := f.requests(); all[len(all)-1].body["request"] != someRequest {
		t.Errorf("%+v", all[len(all)-1])
	}
	// Signed, and the result is for somebody else.
	c, _ = start(t, answering(asked("signed", nil)))
	if _, err := c.RequestWait(context.Background(), someRequest); err == nil || !strings.Contains(err.Error(), "whoever asked") {
		t.Error(err)
	}
	// Another request's answer.
	c, _ = start(t, answering(asked("signed", map[string]any{"request": strings.Repeat("0", 32), "result": signed(nil)})))
	if _, err := c.RequestWait(context.Background(), someRequest); err == nil {
		t.Error("another request's signature was taken")
	}
	ctx, cancel := context.WithCancel(context.Background())
	c, f = start(t, nil)
	f.handler = func(request) reply {
		cancel()
		return reply{data: asked("pending", nil)}
	}
	if _, err := c.RequestWait(ctx, someRequest); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRequestPaths(t *testing.T) {
	c, f := start(t, answering(asked("cancelled", nil)))
	r := must[*Request](t)(c.CancelRequest(context.Background(), someRequest))
	if r.State != RequestCancelled || !r.State.Ended() {
		t.Errorf("%+v", r)
	}
	f.expect("PUT", "team/mpc/requests/"+someRequest+"/cancel", nil, nil)
	c, f = start(t, answering(asked("pending", nil)))
	must[*Request](t)(c.Request(context.Background(), someRequest))
	f.expect("GET", "team/mpc/requests/"+someRequest, nil, nil)
	for _, id := range []string{"", "../../sys/seal", strings.ToUpper(someRequest), someRequest + "/cancel"} {
		if _, err := c.Request(context.Background(), id); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if len(f.requests()) != 1 {
		t.Error("an ID that is none was sent")
	}
}
