package backend

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
)

const (
	asRead   = logical.ReadOperation
	asUpdate = logical.UpdateOperation
)

func TestRequestLife(t *testing.T) {
	g := newRequestRig(t)
	d := g.mustBy("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64, "signature_format": "compact"})
	id := d["request"].(string)
	if d["state"] != "pending" || d["quorum"] != 2 || d["approvals"] != 0 || d["requester"] != "entity:dave" || d["requester_name"] != "userpass-dave" ||
		d["signature"] != nil || d["result"] != nil || fmt.Sprint(d["approvers"]) != "[alice bob carl]" || d["digest"] != "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" {
		t.Errorf("asked: %v", d)
	}
	g.gives(g.alice, id, approval.Approve)
	if d := g.mustBy("dave", asRead, "requests/"+id, nil); d["state"] != "pending" || d["approvals"] != 1 || d["input"] != helloBase64 {
		t.Errorf("after one approval: %v", d)
	}
	g.gives(g.bob, id, approval.Approve)
	end := g.ends(id)
	g.valid(end)
	if raw, err := base64.StdEncoding.DecodeString(end["result"].(map[string]any)["signature"].(string)); err != nil || len(raw) != 64 {
		t.Errorf("the format that was asked for was forgotten: %v", end["result"])
	}
	answers := end["answers"].([]map[string]any)
	if len(answers) != 2 || answers[0]["approver"] != "alice" || fmt.Sprint(answers[0]["checked_by"]) != "map[device:nodes passkey:nodes]" {
		t.Errorf("answers: %v", answers)
	}
	// The result is the requester's.
	if d := g.mustBy("eve", asRead, "requests/"+id, nil); d["state"] != "signed" || d["result"] != nil {
		t.Errorf("somebody else is told %v", d)
	}
	if d := g.must(asRead, "requests/"+id, nil); d["result"] != nil {
		t.Errorf("a token without an entity is told %v", d)
	}
	// Signed once, with approvals, and everything is counted.
	if n := g.signaturesMade(); n != 1 {
		t.Errorf("%v signatures were made", n)
	}
	s := g.scrape()
	for state, want := range map[string]float64{"pending": 1, "approved": 1, "signed": 1, "failed": 0} {
		if n, _ := value(s, "mpc_approval_requests_total", "state="+state); n != want {
			t.Errorf("%v requests have come to %s", n, state)
		}
	}
	if n, ok := value(s, "mpc_approval_requests", "state=signed"); !ok || n != 1 {
		t.Errorf("%v signed requests are kept", n)
	}
	if strings.Contains(g.logs.String(), helloBase64) || strings.Contains(g.logs.String(), "hello") {
		t.Error("the message is in the log")
	}
	// It ends here.
	g.failsBy("dave", asUpdate, "requests/"+id+"/cancel", nil, http.StatusConflict, "is signed already")
	if _, err := g.b.requests.give(t.Context(), id, g.given(g.carl, id, approval.Refuse)); err == nil || !strings.Contains(err.Error(), "takes no answers") {
		t.Errorf("an answer after the end: %v", err)
	}
}

func TestRequestRefusesToOpen(t *testing.T) {
	g := newRequestRig(t)
	hello := map[string]any{"input": helloBase64}
	g.fails(asUpdate, "sign/treasury", hello, http.StatusForbidden, "no Vault entity")
	for what, c := range map[string]struct {
		data map[string]any
		text string
	}{
		"batch":     {map[string]any{"batch_input": []any{hello}}, "one request for each item"},
		"no input":  {map[string]any{}, "input is missing"},
		"type":      {map[string]any{"input": helloBase64, "message_type": "nonsense"}, "message_type"},
		"typed":     {map[string]any{"input": base64.StdEncoding.EncodeToString([]byte("{}")), "message_type": "eip712"}, ""},
		"path":      {map[string]any{"input": helloBase64, "derivation_path": "m/0'"}, ""},
		"format":    {map[string]any{"input": helloBase64, "signature_format": "nonsense"}, "signature_format"},
		"too long":  {map[string]any{"input": base64.StdEncoding.EncodeToString(make([]byte, maxRequestInput+1))}, "message_type=digest"},
		"unknown":   {map[string]any{"input": helloBase64, "approvals": "all"}, "approvals"},
		"requestid": {map[string]any{"input": helloBase64, "request_id": "a b"}, "request_id"},
	} {
		t.Run(what, func(t *testing.T) {
			g.failsBy("dave", asUpdate, "sign/treasury", c.data, http.StatusBadRequest, c.text)
		})
	}
	if all := g.mustBy("dave", logical.ListOperation, "requests/", nil); all["keys"] != nil {
		t.Errorf("something was opened: %v", all)
	}
	g.must(asUpdate, "accounts/treasury/freeze", map[string]any{"reason": "audit"})
	g.failsBy("dave", asUpdate, "sign/treasury", hello, http.StatusConflict, "frozen")
	g.must(asUpdate, "accounts/treasury/unfreeze", nil)
	// Where the requester is an approver there have to be enough others.
	g.policyIs(g.directoryPolicy(3))
	g.failsBy("alice", asUpdate, "sign/treasury", hello, http.StatusForbidden, "nobody approves a request of their own")
	g.mustBy("dave", asUpdate, "sign/treasury", hello)
	g.failsBy("dave", asRead, "requests/nonsense", nil, http.StatusBadRequest, "32 lower-case hex digits")
	g.failsBy("dave", asRead, "requests/00000000000000000000000000000000", nil, http.StatusNotFound, "there is no request")
	g.failsBy("dave", asUpdate, "requests/00000000000000000000000000000000/wait", map[string]any{"timeout": 6}, http.StatusBadRequest, "0 to 5")
	g.failsBy("dave", logical.ListOperation, "requests/", map[string]any{"state": "nonsense"}, http.StatusBadRequest, "is not pending")
}

// TestNoSignatureWithoutApprovals: every other way to a signature is closed.
func TestNoSignatureWithoutApprovals(t *testing.T) {
	g := newRequestRig(t)
	v, a, _, err := g.b.readSignable(t.Context(), "treasury")
	g.ok(err)
	m := &message{input: []byte("hello"), kind: mpc.MessageRaw, hash: mpc.HashSHA256}
	tries := map[string]*granted{
		"none": nil, "empty": {}, "no approvals": {policy: v.policy}, "another policy": {policy: g.directoryPolicy(1).Marshal(), approvals: []byte("x")},
	}
	for what, with := range tries {
		m.granted = with
		if _, _, err := g.b.signAccount(t.Context(), g.fake, "treasury", v.unsettled, a, m); err == nil || errorsIsFake(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// And approvals do not serve for an account that demands none.
	g.create("open", "ecdsa-secp256k1")
	v, a, _, err = g.b.readSignable(t.Context(), "open")
	g.ok(err)
	m.granted = &granted{policy: v.policy, approvals: []byte("x")}
	if _, _, err := g.b.signAccount(t.Context(), g.fake, "open", v.unsettled, a, m); err == nil || errorsIsFake(err) {
		t.Errorf("approvals for an account without a policy: %v", err)
	}
	g.must(asUpdate, "accounts/web", map[string]any{"algorithm": "ecdsa-p256", "approvers": "alice,bob", "quorum": 1})
	g.fails(asUpdate, "accounts/web/csr", map[string]any{"common_name": "web"}, http.StatusConflict, "approval policy")
	if _, _, _, err := g.b.readForSigning(t.Context(), "treasury"); err == nil {
		t.Error("an account with a policy is ready for signing")
	}
	if n := g.signaturesMade(); n != 0 {
		t.Errorf("%v signatures were made", n)
	}
}

// errorsIsFake: the error is the fake nodes', which were asked then.
func errorsIsFake(err error) bool { return strings.Contains(err.Error(), "the nodes refuse") }

func TestRequestIDRepeated(t *testing.T) {
	g := newRequestRig(t)
	order := map[string]any{"request_id": "order-1"}
	id := g.asks(order)
	if again := g.asks(order); again != id {
		t.Errorf("a repetition is another request: %s, %s", id, again)
	}
	g.failsBy("dave", asUpdate, "sign/treasury", map[string]any{"input": "d29ybGQ=", "request_id": "order-1"}, http.StatusConflict, "another payload")
	g.failsBy("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64, "request_id": "order-1", "signature_format": "compact"}, http.StatusConflict, "another payload")
	other := g.mustBy("eve", asUpdate, "sign/treasury", map[string]any{"input": "d29ybGQ=", "request_id": "order-1"})["request"]
	if other == id {
		t.Error("somebody else's request_id is the same request")
	}
	if first, second := g.asks(nil), g.asks(nil); first == second {
		t.Error("without a request_id a repetition is the same request")
	}
	g.approved(id)
	g.valid(g.ends(id))
	g.restart(g.storage)
	d := g.mustBy("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64, "request_id": "order-1"})
	g.valid(d)
	if n := g.signaturesMade(); n != 0 { // counted since the restart
		t.Errorf("it was signed again: %v", n)
	}
	// At once.
	ids := make([]any, 16)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			d, _, _ := g.by("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64, "request_id": "order-2"})
			ids[i] = d["request"]
		})
	}
	all.Wait()
	for _, one := range ids {
		if one == nil || one != ids[0] {
			t.Errorf("at once: %v", ids)
			break
		}
	}
}

func TestRequestRefused(t *testing.T) {
	g := newRequestRig(t)
	id := g.asks(nil)
	if r := g.gives(g.alice, id, approval.Refuse); r.State != requestPending {
		t.Errorf("one of three refuses, two are needed: %s", r.State)
	}
	if r := g.gives(g.bob, id, approval.Refuse); r.State != requestRefused || r.Ended.IsZero() {
		t.Errorf("two of three refuse: %s", r.State)
	}
	// Of alice's request bob and carl alone decide: each can refuse it.
	own := g.mustBy("alice", asUpdate, "sign/treasury", map[string]any{"input": helloBase64})
	if fmt.Sprint(own["approvers"]) != "[bob carl]" {
		t.Errorf("who may answer alice: %v", own["approvers"])
	}
	id = own["request"].(string)
	if _, err := g.b.requests.give(t.Context(), id, g.given(g.alice, id, approval.Approve)); err == nil || !strings.Contains(err.Error(), "of their own") {
		t.Errorf("alice approves her own request: %v", err)
	}
	if r := g.gives(g.carl, id, approval.Refuse); r.State != requestRefused {
		t.Errorf("one of two refuses, both are needed: %s", r.State)
	}
	if n := g.signaturesMade(); n != 0 {
		t.Errorf("%v signatures were made", n)
	}
}

// TestRequestAnswersChecked: what is not an answer is not stored.
func TestRequestAnswersChecked(t *testing.T) {
	g := newRequestRig(t)
	id := g.asks(nil)
	other := g.asks(nil)
	g.gives(g.alice, id, approval.Approve)
	one := func(change func(*givenRecord)) givenRecord {
		out := g.given(g.bob, id, approval.Approve)
		change(&out)
		return out
	}
	for what, c := range map[string]struct {
		given givenRecord
		text  string
	}{
		"twice":        {g.given(g.alice, id, approval.Approve), "answered"},
		"changed mind": {g.given(g.alice, id, approval.Refuse), "answered"},
		"one factor":   {g.given(g.bob, id, approval.Approve, approval.Device), "1 kinds of factors"},
		"nothing":      {one(func(r *givenRecord) { r.Signatures = nil }), "no signature"},
		"one claimed": {one(func(r *givenRecord) {
			r.Signatures = r.Signatures[:1]
			r.Kinds = []approval.Kind{approval.Device, approval.TOTP}
		}), "1 kinds of factors"},
		"another's":            {one(func(r *givenRecord) { r.Approver = g.carl.ID.String() }), "has no key"},
		"nobody's":             {one(func(r *givenRecord) { r.Approver = strings.Repeat("ab", 16) }), "is not one of"},
		"of another request":   {one(func(r *givenRecord) { r.Signatures = g.given(g.bob, other, approval.Approve).Signatures }), "not one over this request"},
		"of a refusal":         {one(func(r *givenRecord) { r.Signatures = g.given(g.bob, id, approval.Refuse).Signatures }), "not one over this request"},
		"a refusal by consent": {one(func(r *givenRecord) { r.Decision = approval.Refuse }), "not one over this request"},
		"no decision":          {one(func(r *givenRecord) { r.Decision = "" }), "approve or refuse"},
	} {
		if _, err := g.b.requests.give(t.Context(), id, c.given); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", what, err, c.text)
		}
	}
	if r := g.request(id); len(r.Given) != 1 || r.State != requestPending {
		t.Errorf("%d answers are stored, %s", len(r.Given), r.State)
	}
}

func TestRequestApprovalsAtOnce(t *testing.T) {
	g := newRequestRig(t)
	for range 10 {
		id := g.asks(nil)
		answers := []givenRecord{g.given(g.alice, id, approval.Approve), g.given(g.bob, id, approval.Approve), g.given(g.carl, id, approval.Refuse), g.given(g.alice, id, approval.Approve)}
		var all sync.WaitGroup
		for _, a := range answers {
			all.Go(func() { _, _ = g.b.requests.give(context.Background(), id, a) })
		}
		all.Wait()
		g.valid(g.ends(id))
		r := g.request(id)
		if n := r.count(approval.Approve); n != 2 || len(r.Given) > 3 {
			t.Fatalf("%d approvals of %d answers are stored", n, len(r.Given))
		}
	}
	if n := g.signaturesMade(); n != 10 {
		t.Errorf("%v signatures for 10 requests", n)
	}
}

func TestRequestApprovedAndCancelledAtOnce(t *testing.T) {
	g := newRequestRig(t)
	signed := 0
	for range 30 {
		before := g.signaturesMade()
		id := g.asks(nil)
		g.gives(g.alice, id, approval.Approve)
		last := g.given(g.bob, id, approval.Approve)
		var all sync.WaitGroup
		var cancelled int
		all.Go(func() { _, _ = g.b.requests.give(context.Background(), id, last) })
		all.Go(func() { _, cancelled, _ = g.by("dave", asUpdate, "requests/"+id+"/cancel", nil) })
		all.Wait()
		d := g.ends(id)
		switch {
		case d["state"] == "signed" && cancelled == http.StatusConflict && g.signaturesMade() == before+1:
			g.valid(d)
			signed++
		case d["state"] == "cancelled" && cancelled == http.StatusOK && g.signaturesMade() == before && d["result"] == nil:
		default:
			t.Fatalf("cancel said %d, the request is %v, %v signatures more", cancelled, d["state"], g.signaturesMade()-before)
		}
	}
	t.Logf("%d of 30 were signed", signed)
}

func TestRequestsManyAtOnce(t *testing.T) {
	g := newRequestRig(t)
	const n = 60
	ids := make([]string, n)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			d, status, msg := g.by("dave", asUpdate, "sign/treasury", map[string]any{"input": helloBase64})
			if status != http.StatusOK {
				t.Errorf("%d %s", status, msg)
				return
			}
			ids[i] = d["request"].(string)
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, id := range ids { // signed on the test's own goroutine
		g.approved(id)
	}
	for _, id := range ids {
		g.valid(g.ends(id))
	}
	if made := g.signaturesMade(); made != n {
		t.Errorf("%v signatures for %d requests", made, n)
	}
	d := g.mustBy("dave", logical.ListOperation, "requests/", map[string]any{"account": "treasury", "state": "signed"})
	if keys := d["keys"].([]string); len(keys) != n {
		t.Errorf("%d of %d are listed", len(keys), n)
	}
	if d := g.mustBy("dave", logical.ListOperation, "requests/", map[string]any{"account": "another"}); d["keys"] != nil {
		t.Errorf("requests of another account: %v", d["keys"])
	}
}

func TestRequestExpires(t *testing.T) {
	g := newRequestRig(t)
	looked, tended, answered := g.asks(nil), g.asks(nil), g.asks(nil)
	late := g.given(g.alice, answered, approval.Approve)
	g.clock.pass(10*time.Minute + time.Second)
	if d := g.mustBy("dave", logical.ListOperation, "requests/", map[string]any{"state": "expired"}); len(d["keys"].([]string)) != 3 {
		t.Errorf("listed as expired: %v", d)
	}
	if g.state(looked) != requestPending {
		t.Error("nobody has looked, and it has moved")
	}
	if d := g.mustBy("dave", asRead, "requests/"+looked, nil); d["state"] != "expired" || g.state(looked) != requestExpired {
		t.Errorf("looked at: %v", d["state"])
	}
	if _, err := g.b.requests.give(t.Context(), answered, late); err == nil || !strings.Contains(err.Error(), "is expired") {
		t.Errorf("an approval that is late: %v", err)
	}
	g.ok(g.b.requests.tendAll(t.Context()))
	if g.state(tended) != requestExpired {
		t.Error("the periodic function has not ended it")
	}
	g.failsBy("dave", asUpdate, "requests/"+looked+"/cancel", nil, http.StatusConflict, "is expired already")
	g.failsBy("dave", asUpdate, "requests/"+looked+"/code", nil, http.StatusConflict, "no code any more")
	// Seven days later they are gone.
	g.clock.pass(requestKept - time.Minute)
	g.ok(g.b.requests.tendAll(t.Context()))
	g.state(tended)
	g.clock.pass(2 * time.Minute)
	g.ok(g.b.requests.tendAll(t.Context()))
	g.failsBy("dave", asRead, "requests/"+looked, nil, http.StatusNotFound, "there is no request")
	if d := g.mustBy("dave", logical.ListOperation, "requests/", nil); d["keys"] != nil {
		t.Errorf("still listed: %v", d)
	}
}

// TestRequestExpiresWhileSigning: what nodes have signed in time is given out; what
// they have not is not signed afterwards.
func TestRequestExpiresWhileSigning(t *testing.T) {
	g := newRequestRig(t)
	id := g.asks(nil)
	g.stop = func(_ context.Context, step string) error {
		if step == stepRequestDone {
			g.clock.pass(time.Hour)
			if d := g.mustBy("dave", asRead, "requests/"+id, nil); d["state"] != "approved" {
				t.Errorf("while it is being signed: %v", d["state"])
			}
			g.failsBy("dave", asUpdate, "requests/"+id+"/cancel", nil, http.StatusConflict, "cannot be cancelled")
		}
		return nil
	}
	g.approved(id)
	g.valid(g.ends(id))

	g.stop = func(_ context.Context, step string) error {
		if step == stepRequestDoing {
			g.clock.pass(time.Hour)
		}
		return nil
	}
	made := g.signaturesMade()
	id = g.asks(nil)
	g.approved(id)
	if d := g.ends(id); d["state"] != "expired" || d["result"] != nil || g.signaturesMade() != made {
		t.Errorf("it was late: %v", d)
	}
}
