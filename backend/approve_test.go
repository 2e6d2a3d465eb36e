package backend

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

// TestApproveWholeWay: two of three approve, one with a passkey and one with a
// one-time code, and the bundle is what nodes take.
func TestApproveWholeWay(t *testing.T) {
	d := newDeskRig(t, nil)
	r := d.asks("entity:dave")
	out := d.opens(d.alice, r)
	subject := d.subject(r)
	for field, want := range map[string]any{
		"state": "pending", "action": "sign", "mount_id": fmt.Sprintf("%x", d.id), "account_id": d.record.AccountID.String(), "account": "treasury",
		"public_key": fmt.Sprintf("%x", d.record.PublicKey), "algorithm": "ecdsa-secp256k1", "requester": "entity:dave", "requester_name": "Dave",
		"expires": r.Expires.Unix(), "policy": encode64(r.Policy), "next_policy": "", "input": encode64(r.Input), "message_type": "raw",
		"hash_algorithm": "sha2-256", "approver_id": d.alice.ID.String(), "approver_name": "alice", "approvals": 0, "quorum": 2, "login": false,
		"digest": fmt.Sprintf("%x", sum(r.Input)), "message_hash": fmt.Sprintf("%x", subject.Message),
	} {
		if !reflect.DeepEqual(out[field], want) {
			t.Errorf("%s is %v, want %v", field, out[field], want)
		}
	}
	got := d.must(logical.UpdateOperation, "approve/answer", d.answer(d.alice, out["ticket"], d.statement(d.alice, r, approval.Approve), approval.Device, approval.Passkey))
	if got["state"] != "pending" || got["approvals"] != 1 || got["quorum"] != 2 {
		t.Errorf("%v", got)
	}
	in := d.answer(d.bob, d.opens(d.bob, r)["ticket"], d.statement(d.bob, r, approval.Approve), approval.Device)
	in["totp"] = d.code()
	if got = d.must(logical.UpdateOperation, "approve/answer", in); got["state"] != "approved" || got["approvals"] != 2 {
		t.Errorf("%v", got)
	}
	if who := d.given(r); !slices.Equal(who, []string{"alice approve device, passkey", "bob approve device, totp"}) {
		t.Errorf("%v", who)
	}
	if _, err := approval.Verify(d.policy, approval.SignSubject(d.id, &d.record, r.Input, mpc.MessageRaw, mpc.HashSHA256, mpc.Derivation{}), d.requests().bundle(d.stored(r)), d.clock.now()); err != nil {
		t.Errorf("nodes: %v", err)
	}
	// Nobody more is asked, and the ticket has ended.
	d.answerFails("again", in, http.StatusForbidden, "scan the code anew")
	if _, status, msg := d.send("approve/open", d.scans(d.carol, r, d.formAt(r, 0))); status != http.StatusConflict || !strings.Contains(msg, "approved") {
		t.Errorf("carol: %d %s", status, msg)
	}
}

// TestApproveRefuse: the device's signature over the refusal is enough; a request
// that cannot reach its quorum ends.
func TestApproveRefuse(t *testing.T) {
	d := newDeskRig(t, nil)
	r := d.asks("entity:dave")
	ticket := d.opens(d.alice, r)["ticket"]
	approve, refuse := d.statement(d.alice, r, approval.Approve), d.statement(d.alice, r, approval.Refuse)
	// A signature that approves refuses nothing, and the other way round.
	in := d.answer(d.alice, ticket, approve, approval.Device, approval.Passkey)
	in["decision"] = "refuse"
	d.answerFails("approve sent as refuse", in, http.StatusForbidden, "2 more tries")
	in = d.answer(d.alice, ticket, refuse, approval.Device, approval.Passkey)
	in["decision"] = "approve"
	d.answerFails("refuse sent as approve", in, http.StatusForbidden, "one more try")
	got := d.must(logical.UpdateOperation, "approve/answer", d.answer(d.alice, ticket, refuse, approval.Device))
	if got["state"] != "pending" || got["refusals"] != 1 || got["approvals"] != 0 {
		t.Errorf("%v", got)
	}
	got = d.must(logical.UpdateOperation, "approve/answer", d.answer(d.bob, d.opens(d.bob, r)["ticket"], d.statement(d.bob, r, approval.Refuse), approval.Device))
	if got["state"] != "refused" {
		t.Errorf("%v", got)
	}
	if who := d.given(r); !slices.Equal(who, []string{"alice refuse device", "bob refuse device"}) {
		t.Errorf("%v", who)
	}
}

// TestApproveForms: the present form and the one before it, each once from each
// device; everything else is refused alike.
func TestApproveForms(t *testing.T) {
	d := newDeskRig(t, nil)
	r, other := d.asks("entity:dave"), d.asks("entity:dave")
	d.clock.pass(10 * time.Second) // into the middle of nothing: whole periods
	d.clock.pass(500 * time.Millisecond)
	period := 2 * time.Second
	id, _ := approval.ParseID(r.ID)
	k := d.alice.Of(t, approval.Device)
	writes := d.storage.writes()
	d.refusedOpening("two periods old", d.scans(d.alice, r, d.formAt(r, -2*period)))
	d.refusedOpening("of the period to come", d.scans(d.alice, r, d.formAt(r, period)))
	d.refusedOpening("of another request", d.scans(d.alice, r, d.formAt(other, 0)))
	d.refusedOpening("nothing at all", d.scans(d.alice, r, approval.Form{}))
	changed := func(change func(map[string]any)) map[string]any {
		in := d.scans(d.alice, r, d.formAt(r, 0))
		change(in)
		return in
	}
	d.refusedOpening("a request that is not", changed(func(in map[string]any) { in["request"] = strings.Repeat("ab", 16) }))
	d.refusedOpening("a key of nobody", changed(func(in map[string]any) { in["key"] = strings.Repeat("cd", 16) }))
	d.refusedOpening("another's key", changed(func(in map[string]any) { in["key"] = d.bob.Of(t, approval.Device).ID().String() }))
	d.refusedOpening("the passkey's ID", changed(func(in map[string]any) { in["key"] = d.alice.Of(t, approval.Passkey).ID().String() }))
	d.refusedOpening("another time than was signed", changed(func(in map[string]any) { in["time"] = in["time"].(int64) + 1 }))
	d.refusedOpening("a signature of zeros", changed(func(in map[string]any) { in["signature"] = encode64(make([]byte, 64)) }))
	d.refusedOpening("a stranger who is an approver elsewhere", d.scans(approvaltest.New(t, "eve"), r, d.formAt(r, 0)))
	for _, off := range []time.Duration{2*time.Minute + time.Second, -2*time.Minute - time.Second} {
		d.refusedOpening("a clock that is off", d.signsOpening(d.alice, k, id, d.formAt(r, 0), d.clock.now().Add(off).Unix()))
	}
	if n := d.storage.writes() - writes; n != 0 {
		t.Errorf("%d writes to storage without a proof", n)
	}
	// By exactly one period: accepted. Its replay is not, from the same device.
	stale := d.scans(d.alice, r, d.formAt(r, -period))
	d.must(logical.UpdateOperation, "approve/open", stale)
	d.refusedOpening("a replay", stale)
	d.refusedOpening("the same form, signed anew", d.signsOpening(d.alice, k, id, d.formAt(r, -period), d.clock.now().Unix()+1))
	d.must(logical.UpdateOperation, "approve/open", d.scans(d.bob, r, d.formAt(r, -period)))
	d.must(logical.UpdateOperation, "approve/open", d.signsOpening(d.alice, k, id, d.formAt(r, 0), d.clock.now().Add(-119*time.Second).Unix()))
	// Shown before a restart: whether it was used is forgotten, so it is refused.
	again := openAt(t, d.mount.storage, d.fake, d.clock.now)
	d.mount = again
	d.useRequests(again.b)
	d.refusedOpening("shown before the restart", d.scans(d.carol, r, d.formAt(r, 0)))
	d.clock.pass(period)
	d.must(logical.UpdateOperation, "approve/open", d.scans(d.carol, r, d.formAt(r, 0)))
	if log := d.logs.String(); !strings.Contains(log, causeForm) {
		t.Errorf("the operator is not told: %s", log)
	}
}

// TestApproveGuesses: strangers are turned away by 429 after 20 failures, alike for
// requests that there are not; a device of the policy gets through all the same, and
// is limited for itself.
func TestApproveGuesses(t *testing.T) {
	d := newDeskRig(t, nil)
	r := d.asks("entity:dave")
	d.clock.pass(time.Minute)
	eve := approvaltest.New(t, "eve")
	missing := *r
	missing.ID = strings.Repeat("ab", 16)
	for _, target := range []*requestRecord{r, &missing} {
		for i := range approveFailures {
			if i%2 == 0 {
				d.refusedOpening("a guess", d.scans(eve, target, approval.Form{byte(i)}))
				continue
			}
			_, status, msg := d.send("approve/progress", map[string]any{"request": target.ID, "proof": encode64(make([]byte, 32))})
			if status != http.StatusForbidden || !strings.Contains(msg, errCodeRefused().Error()) {
				t.Fatalf("%d %s", status, msg)
			}
		}
		if _, status, msg := d.send("approve/open", d.scans(eve, target, d.formAt(r, 0))); status != http.StatusTooManyRequests || !strings.Contains(msg, errApproveLocked().Error()) {
			t.Errorf("after 20: %d %s", status, msg)
		}
	}
	d.opens(d.alice, r)
	for i := range approveFailures {
		d.refusedOpening("a device", d.scans(d.bob, r, approval.Form{byte(i)}))
	}
	limited := func(who *approvaltest.Approver) bool {
		_, status, _ := d.send("approve/open", d.scans(who, r, d.formAt(r, 0)))
		return status == http.StatusTooManyRequests
	}
	d.clock.pass(2 * time.Second)
	if !limited(d.bob) || limited(d.carol) || limited(d.alice) {
		t.Error("a device is limited for itself alone")
	}
	d.clock.pass(time.Minute)
	if limited(d.bob) {
		t.Error("a minute is over")
	}
	if v := d.b.metrics.approvalRefusals; metricValue(t, v.WithLabelValues(causeUnknown)) != approveFailures || metricValue(t, v.WithLabelValues(causeLimited)) == 0 ||
		metricValue(t, v.WithLabelValues(causeForm)) != approveFailures {
		t.Error("the metric does not count by cause")
	}
}

// TestApproveProven: who has shown a key of the policy is told what is the matter.
func TestApproveProven(t *testing.T) {
	d := newDeskRig(t, nil)
	own := d.asks("entity:alice")
	d.clock.pass(4 * time.Second)
	opening := func(a *approvaltest.Approver, r *requestRecord, status int, text string) {
		t.Helper()
		d.clock.pass(2 * time.Second)
		if _, got, msg := d.send("approve/open", d.scans(a, r, d.formAt(r, 0))); got != status || !strings.Contains(msg, text) {
			t.Errorf("%d %s, want %d %s", got, msg, status, text)
		}
	}
	opening(d.alice, own, http.StatusForbidden, "you asked for this yourself")
	r := d.asks("entity:dave")
	d.approves(d.alice, r)
	opening(d.alice, r, http.StatusConflict, "answered this request already (approve")
	_, err := d.requests().cancel(t.Context(), r.ID, "not any more")
	d.ok(err)
	opening(d.bob, r, http.StatusConflict, "cancelled (not any more)")
	r = d.asks("entity:dave")
	d.clock.pass(10*time.Minute + time.Second)
	opening(d.bob, r, http.StatusConflict, "expired")
}

// TestApproveFactors: what is asked for, and nothing of others.
func TestApproveFactors(t *testing.T) {
	d := newDeskRig(t, func(p *approval.Policy) { p.Factors, p.SignatureFactors = 3, 2 })
	r := d.asks("entity:dave")
	st := d.statement(d.alice, r, approval.Approve)
	ticket := d.opens(d.alice, r)["ticket"]
	in := d.answer(d.alice, ticket, st, approval.Device, approval.Passkey)
	for range 5 { // too few is no guess
		d.answerFails("two of three", in, http.StatusBadRequest, "nothing was recorded")
	}
	in = d.answer(d.alice, ticket, st, approval.Device)
	in["totp"] = d.code()
	d.answerFails("one signature of two", in, http.StatusBadRequest, "2 of which are signatures")
	if n := d.stored(r).count(approval.Approve); n != 0 {
		t.Fatal("recorded")
	}
	in = d.answer(d.alice, ticket, st, approval.Device, approval.Certificate)
	in["totp"] = d.code() // was not used up
	d.must(logical.UpdateOperation, "approve/answer", in)
	if who := d.given(r); !slices.Equal(who, []string{"alice approve certificate, device, totp"}) {
		t.Errorf("%v", who)
	}

	// Of a certificate's key instead of the device's; another's signature; a key
	// twice; the device's of another person: each is a wrong factor.
	for what, wrong := range map[string]func() []any{
		"without the device": func() []any {
			s := d.statement(d.bob, r, approval.Approve)
			return []any{factorOf(d.bob.Sign(t, approval.Passkey, s)), factorOf(d.bob.Sign(t, approval.Certificate, s))}
		},
		"carol's passkey": func() []any {
			return []any{factorOf(d.bob.Sign(t, approval.Device, d.statement(d.bob, r, approval.Approve))), factorOf(d.carol.Sign(t, approval.Passkey, d.statement(d.carol, r, approval.Approve)))}
		},
		"carol's approval with bob's key": func() []any {
			s := d.statement(d.carol, r, approval.Approve)
			return []any{factorOf(d.bob.Sign(t, approval.Device, s)), factorOf(d.bob.Sign(t, approval.Passkey, s))}
		},
		"a passkey that nobody touched": func() []any {
			s := d.statement(d.bob, r, approval.Approve)
			h := s.Hash()
			return []any{factorOf(d.bob.Sign(t, approval.Device, s)), factorOf(d.bob.Assert(t, d.bob.Of(t, approval.Passkey), approvaltest.Assertion{Challenge: h[:], Flags: approvaltest.UserPresent}))}
		},
		"a passkey of another page": func() []any {
			s := d.statement(d.bob, r, approval.Approve)
			h := s.Hash()
			return []any{factorOf(d.bob.Sign(t, approval.Device, s)), factorOf(d.bob.Assert(t, d.bob.Of(t, approval.Passkey), approvaltest.Assertion{Challenge: h[:], Origin: "https://evil.example"}))}
		},
	} {
		in := map[string]any{"ticket": d.opens(d.bob, r)["ticket"], "decision": "approve", "signatures": wrong(), "totp": d.code()}
		d.answerFails(what, in, http.StatusForbidden, "2 more tries")
		d.answerFails(what, in, http.StatusForbidden, "one more try")
		d.answerFails(what, in, http.StatusForbidden, "authenticate again")
		d.answerFails(what, in, http.StatusForbidden, "this opening of the request is over")
	}
	if who := d.given(r); len(who) != 1 {
		t.Errorf("%v", who)
	}
}

// TestApproveTampered: each field of what is asked for is under the signature.
func TestApproveTampered(t *testing.T) {
	d := newDeskRig(t, nil)
	r := d.asks("entity:dave")
	good := *d.statement(d.alice, r, approval.Approve)
	changes := map[string]func(*approval.Statement){
		"Action":         func(s *approval.Statement) { s.Subject.Action = approval.ChangePolicy },
		"Mount":          func(s *approval.Statement) { s.Subject.Mount[0] ^= 1 },
		"Account":        func(s *approval.Statement) { s.Subject.Account[0] ^= 1 },
		"PublicKey":      func(s *approval.Statement) { s.Subject.PublicKey = append([]byte{3}, s.Subject.PublicKey[1:]...) },
		"Request":        func(s *approval.Statement) { s.Subject.Request[0] ^= 1 },
		"Requester":      func(s *approval.Statement) { s.Subject.Requester = "entity:mallory" },
		"RequesterName":  func(s *approval.Statement) { s.Subject.RequesterName = "Eve" },
		"Algorithm":      func(s *approval.Statement) { s.Subject.Algorithm = mpc.Ed25519 },
		"MessageType":    func(s *approval.Statement) { s.Subject.MessageType = mpc.MessageDigest },
		"Hash":           func(s *approval.Statement) { s.Subject.Hash = mpc.HashKeccak256 },
		"Message":        func(s *approval.Statement) { s.Subject.Message[31] ^= 1 },
		"DerivationPath": func(s *approval.Statement) { s.Subject.DerivationPath = "m/0" },
		"TaprootTweak":   func(s *approval.Statement) { s.Subject.TaprootTweak = "none" },
		"Policy":         func(s *approval.Statement) { s.Subject.Policy[0] ^= 1 },
		"NextPolicy":     func(s *approval.Statement) { s.Subject.NextPolicy[0] ^= 1 },
		"Epoch":          func(s *approval.Statement) { s.Subject.Epoch++ },
		"Expires":        func(s *approval.Statement) { s.Subject.Expires++ },
	}
	for i := range reflect.TypeOf(approval.Subject{}).NumField() {
		if name := reflect.TypeOf(approval.Subject{}).Field(i).Name; changes[name] == nil {
			t.Errorf("nobody changes %s", name)
		}
	}
	changes["Approver"] = func(s *approval.Statement) { s.Approver = d.bob.ID }
	for field, change := range changes {
		st := good
		change(&st)
		in := d.answer(d.alice, d.opens(d.alice, r)["ticket"], &st, approval.Device, approval.Passkey)
		d.answerFails(field, in, http.StatusForbidden, "is not over this request")
	}
	if who := d.given(r); len(who) != 0 {
		t.Errorf("%v", who)
	}
	d.approves(d.alice, r)
}

// TestApproveOtherTickets: a ticket is one device's, for one request.
func TestApproveOtherTickets(t *testing.T) {
	d := newDeskRig(t, nil)
	r, other := d.asks("entity:dave"), d.asks("entity:dave")
	d.answerFails("of nobody", d.answer(d.alice, encode64URL(make([]byte, 32)), d.statement(d.alice, r, approval.Approve), approval.Device, approval.Passkey), http.StatusForbidden, "scan the code anew")
	ticket := d.opens(d.alice, r)["ticket"]
	d.answerFails("of alice, used by bob", d.answer(d.bob, ticket, d.statement(d.bob, r, approval.Approve), approval.Device, approval.Passkey), http.StatusForbidden, "no key")
	d.answerFails("for another request", d.answer(d.alice, ticket, d.statement(d.alice, other, approval.Approve), approval.Device, approval.Passkey), http.StatusForbidden, "not over this request")
	// Another device of alice, enrolled in the directory and not in the policy.
	eve := approvaltest.New(t, "eve")
	in := d.answer(d.alice, ticket, d.statement(d.alice, r, approval.Approve), approval.Passkey)
	in["signatures"] = append(in["signatures"].([]any), factorOf(eve.Sign(t, approval.Device, d.statement(d.alice, r, approval.Approve))))
	d.answerFails("a device that the policy does not have", in, http.StatusForbidden, "last try")

	// Five minutes; a restart.
	ticket = d.opens(d.alice, r)["ticket"]
	d.clock.pass(approveTicketTTL)
	good := func() map[string]any {
		return d.answer(d.alice, ticket, d.statement(d.alice, r, approval.Approve), approval.Device, approval.Passkey)
	}
	d.answerFails("after five minutes", good(), http.StatusForbidden, "scan the code anew")
	ticket = d.opens(d.alice, r)["ticket"]
	d.mount = openAt(t, d.mount.storage, d.fake, d.clock.now)
	d.useRequests(d.b)
	d.answerFails("after a restart", good(), http.StatusForbidden, "with a restart of the server")
	d.approves(d.alice, r)
}

// TestApproveTOTP: wrong codes are counted and end the ticket, and then lock the
// approver's codes; a right one counts once, over all requests.
func TestApproveTOTP(t *testing.T) {
	d := newDeskRig(t, nil)
	r, other := d.asks("entity:dave"), d.asks("entity:dave")
	with := func(a *approvaltest.Approver, r *requestRecord, ticket any, code string) map[string]any {
		in := d.answer(a, ticket, d.statement(a, r, approval.Approve), approval.Device)
		in["totp"] = code
		return in
	}
	code := func() string { return d.code() }
	d.must(logical.UpdateOperation, "approve/answer", with(d.alice, r, d.opens(d.alice, r)["ticket"], code()))
	d.answerFails("a replay for another request", with(d.alice, other, d.opens(d.alice, other)["ticket"], code()), http.StatusForbidden, "used before")
	d.clock.pass(30 * time.Second)
	d.must(logical.UpdateOperation, "approve/answer", with(d.alice, other, d.opens(d.alice, other)["ticket"], code()))

	// Without the signature of the device no code is looked at.
	ticket := d.opens(d.bob, r)["ticket"]
	in := with(d.bob, r, ticket, code())
	in["signatures"] = []any{map[string]any{"key": d.bob.Of(t, approval.Device).ID().String(), "signature": encode64(make([]byte, 64))}}
	d.answerFails("a right code alone", in, http.StatusForbidden, "is not over this request")
	wrong := "000000"
	if code() == wrong {
		wrong = "000001"
	}
	d.answerFails("wrong", with(d.bob, r, ticket, wrong), http.StatusForbidden, "one more try")
	d.answerFails("wrong", with(d.bob, r, ticket, wrong), http.StatusForbidden, "last try")
	ticket = d.opens(d.bob, r)["ticket"]
	d.answerFails("wrong", with(d.bob, r, ticket, wrong), http.StatusForbidden, "2 more tries")
	d.answerFails("wrong", with(d.bob, r, ticket, wrong), http.StatusForbidden, "one more try")
	ticket = d.opens(d.bob, r)["ticket"]
	d.answerFails("the fifth", with(d.bob, r, ticket, wrong), http.StatusForbidden, "2 more tries")
	d.answerFails("locked", with(d.bob, r, ticket, code()), http.StatusTooManyRequests, "too many")
	// A passkey in its place does.
	d.must(logical.UpdateOperation, "approve/answer", d.answer(d.bob, ticket, d.statement(d.bob, r, approval.Approve), approval.Device, approval.Passkey))
	if who := d.given(r); len(who) != 2 {
		t.Errorf("%v", who)
	}
	d.clock.pass(time.Minute)
	d.must(logical.UpdateOperation, "approve/answer", with(d.bob, other, d.opens(d.bob, other)["ticket"], code()))
}

// TestApproveTOTPNotInPolicy: the directory's codes count only if the policy says so.
func TestApproveTOTPNotInPolicy(t *testing.T) {
	d := newDeskRig(t, func(p *approval.Policy) { p.Approvers[0].Checked = nil })
	r := d.asks("entity:dave")
	in := d.answer(d.alice, d.opens(d.alice, r)["ticket"], d.statement(d.alice, r, approval.Approve), approval.Device)
	in["totp"] = d.code()
	d.answerFails("not in the policy", in, http.StatusBadRequest, "names no one-time codes")
}

// TestApproveRaces: of two answers of one approver at once one counts; what ends
// between opening and answer is said.
func TestApproveRaces(t *testing.T) {
	d := newDeskRig(t, nil)
	r := d.asks("entity:dave")
	var answers []map[string]any
	for range 4 {
		answers = append(answers, d.answer(d.alice, d.opens(d.alice, r)["ticket"], d.statement(d.alice, r, approval.Approve), approval.Device, approval.Passkey))
	}
	answers = append(answers, answers...) // each ticket twice
	statuses := make([]int, len(answers))
	var wg sync.WaitGroup
	for i, in := range answers {
		wg.Go(func() { _, statuses[i], _ = d.send("approve/answer", in) })
	}
	wg.Wait()
	good := 0
	for _, s := range statuses {
		switch s {
		case http.StatusOK:
			good++
		case http.StatusConflict, http.StatusForbidden:
		default:
			t.Errorf("status %d", s)
		}
	}
	if who := d.given(r); good != 1 || len(who) != 1 {
		t.Errorf("%d succeeded: %v, %v", good, statuses, who)
	}

	in := d.answer(d.bob, d.opens(d.bob, r)["ticket"], d.statement(d.bob, r, approval.Approve), approval.Device, approval.Passkey)
	_, err := d.requests().cancel(t.Context(), r.ID, "")
	d.ok(err)
	d.answerFails("cancelled meanwhile", in, http.StatusConflict, "cancelled")

	r = d.asks("entity:dave")
	d.clock.pass(8 * time.Minute)
	out := d.opens(d.bob, r)
	if until, err := time.Parse(time.RFC3339Nano, out["ticket_expires_time"].(string)); err != nil || !until.Equal(r.Expires) {
		t.Errorf("the ticket lasts until %v, the request until %s", out["ticket_expires_time"], r.Expires)
	}
	in = d.answer(d.bob, out["ticket"], d.statement(d.bob, r, approval.Approve), approval.Device, approval.Passkey)
	d.clock.pass(2 * time.Minute)
	d.answerFails("expired meanwhile", in, http.StatusForbidden, "is over")
	if got := d.stored(r); len(got.Given) != 0 {
		t.Errorf("%v", got.Given)
	}
}

// TestApproveProgress: for whoever has the seed, and nobody else.
func TestApproveProgress(t *testing.T) {
	d := newDeskRig(t, nil)
	r, other := d.asks("entity:dave"), d.asks("entity:dave")
	id, _ := approval.ParseID(r.ID)
	proof := approval.ProgressProof(r.Seed, id)
	d.approves(d.alice, r)
	writes := d.storage.writes()
	ask := map[string]any{"request": r.ID, "proof": base64.StdEncoding.EncodeToString(proof[:])}
	got := d.must(logical.UpdateOperation, "approve/progress", ask)
	if got["state"] != "pending" || got["approvals"] != 1 || got["quorum"] != 2 || got["approvers"] != 3 || got["expires"] != r.Expires.Unix() ||
		!reflect.DeepEqual(got["names"], []string{"alice"}) {
		t.Errorf("%v", got)
	}
	for _, wrong := range []map[string]any{
		{"request": other.ID, "proof": ask["proof"]}, {"request": strings.Repeat("ab", 16), "proof": ask["proof"]}, {"request": r.ID, "proof": encode64(make([]byte, 32))},
	} {
		if _, status, msg := d.send("approve/progress", wrong); status != http.StatusForbidden || !strings.Contains(msg, errCodeRefused().Error()) {
			t.Errorf("%v: %d %s", wrong, status, msg)
		}
	}
	d.clock.pass(10 * time.Minute)
	if got = d.must(logical.UpdateOperation, "approve/progress", ask); got["state"] != "expired" {
		t.Errorf("%v", got)
	}
	if n := d.storage.writes() - writes; n != 0 {
		t.Errorf("%d writes", n)
	}
}

// TestApproveSecrets: nothing that lets somebody in is in the log.
func TestApproveSecrets(t *testing.T) {
	d := newDeskRig(t, nil)
	r := d.asks("entity:dave")
	ticket := d.opens(d.alice, r)["ticket"].(string)
	form := d.formAt(r, 0)
	in := d.answer(d.alice, ticket, d.statement(d.alice, r, approval.Approve), approval.Device)
	in["totp"] = "918273"
	d.answerFails("wrong", in, http.StatusForbidden, "tries")
	log := d.logs.String()
	for _, secret := range []string{ticket, encode64URL(form[:]), fmt.Sprintf("%x", form), "918273", encode64(r.Seed), fmt.Sprintf("%x", r.Seed), d.totp, "pay 5"} {
		if strings.Contains(log, secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}
