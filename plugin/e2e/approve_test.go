//go:build e2e

package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-webauthn/webauthn/protocol/webauthncbor"
	"github.com/hashicorp/vault/api"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
	"vault-plugin-secrets-mpc/plugin/e2e"
)

// approverRig is a mount with three people who approve and one who asks, each a
// Vault user with an entity, and devices in software that speak to Vault's HTTP API
// without a token, as phones do.
type approverRig struct {
	*engine
	outside *api.Client            // without a token
	people  map[string]*api.Client // with the person's token
	devices map[string]*approvaltest.Approver
	totp    string // bob's
	step    uint64 // of bob's last code
}

// as writes with a client.
func (r *approverRig) as(t testing.TB, c *api.Client, path string, data map[string]any) map[string]any {
	t.Helper()
	s, err := c.Logical().Write(r.path+"/"+path, data)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if s == nil {
		return nil
	}
	return s.Data
}

func (r *approverRig) refusedAs(t testing.TB, c *api.Client, path string, data map[string]any, status int, texts ...string) {
	t.Helper()
	_, err := c.Logical().Write(r.path+"/"+path, data)
	checkRefusal(t, path, err, status, texts...)
}

func newApproverRig(t *testing.T) *approverRig {
	t.Helper()
	return newApproverRigOn(t, harness.Shared(t))
}

func newApproverRigOn(t *testing.T, v *e2e.Vault) *approverRig {
	t.Helper()
	path := "approve-" + strings.ToLower(t.Name()) // mounts stay until the shared Vault ends
	r := &approverRig{engine: enable(t, v, path, 3), people: map[string]*api.Client{}, devices: map[string]*approvaltest.Approver{}}
	clone := func(token string) *api.Client {
		c, err := v.Client.Clone()
		if err != nil {
			t.Fatal(err)
		}
		c.SetToken(token)
		c.SetMaxRetries(0)
		return c
	}
	r.outside = clone("")
	const auth = "approve-people"
	if err := v.Client.Sys().EnableAuthWithOptions(auth, &api.EnableAuthOptions{Type: "userpass"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Client.Sys().DisableAuth(auth) })
	if err := v.Client.Sys().PutPolicy(path, fmt.Sprintf(`
path "%[1]s/sign/*" { capabilities = ["update"] }
path "%[1]s/requests/*" { capabilities = ["read", "update", "list"] }`, path)); err != nil {
		t.Fatal(err)
	}
	r.write(t, "config/ui", map[string]any{"public_url": approvaltest.Origin})
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		if _, err := v.Client.Logical().Write("auth/"+auth+"/users/"+name, map[string]any{"password": "for-" + name, "token_policies": path}); err != nil {
			t.Fatal(err)
		}
		s, err := r.outside.Logical().Write("auth/"+auth+"/login/"+name, map[string]any{"password": "for-" + name})
		if err != nil {
			t.Fatal(err)
		}
		r.people[name] = clone(s.Auth.ClientToken)
		if name == "dave" {
			continue
		}
		r.write(t, "approvers/"+name, map[string]any{"entity_ids": s.Auth.EntityID})
		r.devices[name] = approvaltest.New(t, name)
		r.enrols(t, name, name != "bob")
	}
	out := r.write(t, "approvers/bob/totp", nil)
	r.totp = out["secret"].(string)
	r.step = uint64(time.Now().Unix()/30) - 1 // so that two more are right at once
	r.write(t, "approvers/bob/totp/confirm", map[string]any{"code": r.code(t, r.step)})
	return r
}

func (r *approverRig) code(t testing.TB, step uint64) string {
	t.Helper()
	code, err := hotp.GenerateCodeCustom(r.totp, step, hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// nextCode is one that was not used; each call takes a later one.
func (r *approverRig) nextCode(t testing.TB) string {
	t.Helper()
	r.await(t, 2*time.Minute, "time for another one-time code", func() bool { return uint64(time.Now().Unix()/30)+1 > r.step })
	r.step = max(r.step+1, uint64(time.Now().Unix()/30)-1)
	return r.code(t, r.step)
}

// enrols enrols a person's device, with its passkey or without.
func (r *approverRig) enrols(t *testing.T, name string, passkey bool) {
	t.Helper()
	a := r.devices[name]
	link := r.write(t, "approvers/"+name+"/enrol", map[string]any{"label": "phone"})
	body := map[string]any{"enrolment": link["enrolment"], "secret": link["secret"]}
	begun := r.as(t, r.outside, "approve/enrol", body)
	keys := []approval.Key{*a.Of(t, approval.Device)}
	if passkey {
		keys = append(keys, *a.Of(t, approval.Passkey))
	}
	mount, enrolment, approver := r.mountID(t, begun["mount_id"]), r.id(t, link["enrolment"]), r.id(t, begun["approver_id"])
	a.ID = approver
	private := a.Private(t, keys[0].ID())
	body["device"] = map[string]any{"name": name + "'s phone", "public": b64(keys[0].Public), "signature": b64(approvaltest.SignRaw(t, private, approval.EnrolMessage(mount, enrolment, approver, keys)))}
	if passkey {
		attestation, clientData := registration(t, a, &keys[1], begun["challenge"].(string))
		body["passkey"] = map[string]any{"name": "passkey", "attestation_object": b64(attestation), "client_data_json": b64(clientData), "transports": []string{"internal"}}
	}
	r.as(t, r.outside, "approve/enrol/finish", body)
	r.write(t, "approvers/"+name+"/confirm", map[string]any{"code": approval.EnrolCode(mount, enrolment, approver, keys), "enrolment": link["enrolment"]})
}

func (r *approverRig) id(t testing.TB, text any) approval.ID {
	t.Helper()
	id, err := approval.ParseID(text.(string))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (r *approverRig) mountID(t testing.TB, text any) (id [16]byte) {
	t.Helper()
	raw, err := hex.DecodeString(text.(string))
	if err != nil || copy(id[:], raw) != len(id) {
		t.Fatalf("mount ID %v: %v", text, err)
	}
	return id
}

// registration is what an authenticator answers when the passkey is made (WebAuthn,
// section 6.5), without attestation.
func registration(t testing.TB, a *approvaltest.Approver, k *approval.Key, challenge string) (attestation, clientData []byte) {
	t.Helper()
	clientData, err := json.Marshal(map[string]any{"type": "webauthn.create", "challenge": challenge, "origin": approvaltest.Origin, "crossOrigin": false})
	if err != nil {
		t.Fatal(err)
	}
	point, err := a.Private(t, k.ID()).PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	cose, err := webauthncbor.Marshal(map[int]any{1: 2, 3: -7, -1: 1, -2: point[1:33], -3: point[33:]})
	if err != nil {
		t.Fatal(err)
	}
	rp := sha256.Sum256([]byte(approvaltest.RPID))
	data := append(rp[:], approvaltest.UserPresent|approvaltest.UserVerified|approvaltest.AttestedData, 0, 0, 0, 0)
	data = append(data, make([]byte, 16)...) // AAGUID
	data = binary.BigEndian.AppendUint16(data, uint16(len(k.Credential)))
	data = append(append(data, k.Credential...), cose...)
	attestation, err = webauthncbor.Marshal(map[string]any{"fmt": "none", "attStmt": map[string]any{}, "authData": data})
	if err != nil {
		t.Fatal(err)
	}
	return attestation, clientData
}

// display is what shows the moving code of a request.
type display struct {
	request approval.ID
	seed    []byte
	period  time.Duration
	created time.Time
	ahead   time.Duration // the server's clock
}

func (r *approverRig) display(t testing.TB, who, request string) *display {
	t.Helper()
	out := r.as(t, r.people[who], "requests/"+request+"/code", nil)
	seed, err := base64.StdEncoding.DecodeString(out["seed"].(string))
	if err != nil {
		t.Fatal(err)
	}
	ms := func(field string) time.Time { return time.UnixMilli(int64(number(t, out[field]))) }
	return &display{r.id(t, request), seed, time.Duration(number(t, out["period_ms"])) * time.Millisecond, ms("created_unix_ms"), time.Until(ms("server_unix_ms"))}
}

// form is what is shown so many periods from now.
func (d *display) form(periods int) approval.Form {
	n := approval.Period(d.created, time.Now().Add(d.ahead), d.period)
	return approval.FormAt(d.seed, d.request, n+uint64(periods)) // wraps for negative ones
}

// scan is what a person's device sends to see a request.
func (r *approverRig) scan(t testing.TB, who string, d *display, f approval.Form, mount [16]byte) map[string]any {
	t.Helper()
	a := r.devices[who]
	k := a.Of(t, approval.Device)
	now := time.Now().Unix()
	signature := approvaltest.SignRaw(t, a.Private(t, k.ID()), approval.OpenMessage(mount, d.request, f, k.ID(), now))
	return map[string]any{"request": d.request.String(), "form": base64.RawURLEncoding.EncodeToString(f[:]), "key": k.ID().String(), "time": now, "signature": b64(signature)}
}

// opened is a request on a device.
type openedRequest struct {
	ticket  any
	subject approval.Subject
	input   []byte
}

// mount reads the mount's ID where devices have it from: their enrolment. Here from
// the account's approver, through the first request.
func (r *approverRig) open(t testing.TB, who string, d *display, mount [16]byte) *openedRequest {
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
	o := &openedRequest{ticket: out["ticket"], input: raw("input")}
	o.subject = approval.Subject{
		Action: approval.Sign, Mount: mount, Account: mpc.AccountID(r.id(t, out["account_id"])), PublicKey: public, Request: d.request,
		Requester: out["requester"].(string), RequesterName: out["requester_name"].(string), Algorithm: mpc.Algorithm(out["algorithm"].(string)),
		MessageType: mpc.MessageType(out["message_type"].(string)), Hash: mpc.HashAlgorithm(out["hash_algorithm"].(string)), Message: sha256.Sum256(o.input),
		DerivationPath: out["derivation_path"].(string), TaprootTweak: out["taproot_tweak"].(string),
		Policy: sha256.Sum256(raw("policy")), Expires: int64(number(t, out["expires"])),
	}
	return o
}

// answer is what a device sends for a decision.
func (r *approverRig) answer(t testing.TB, who string, o *openedRequest, d approval.Decision, kinds ...approval.Kind) map[string]any {
	t.Helper()
	a := r.devices[who]
	st := &approval.Statement{Subject: o.subject, Decision: d, Approver: a.ID}
	var signatures []any
	for _, kind := range kinds {
		s := a.Sign(t, kind, st)
		signatures = append(signatures, map[string]any{"key": s.Key.String(), "signature": b64(s.Signature), "authenticator_data": b64(s.AuthenticatorData), "client_data": b64(s.ClientData)})
	}
	return map[string]any{"ticket": o.ticket, "decision": string(d), "signatures": signatures}
}

// ask asks for a signature and returns the request.
func (r *approverRig) ask(t testing.TB, who, account string, message []byte) string {
	t.Helper()
	out := r.as(t, r.people[who], "sign/"+account, map[string]any{"input": b64(message)})
	if out["state"] != "pending" || out["signature"] != nil {
		t.Fatalf("sign answers %v", out)
	}
	return out["request"].(string)
}

// ends waits until the request is in a state.
func (r *approverRig) ends(t testing.TB, who, request, state string) map[string]any {
	t.Helper()
	var out map[string]any
	r.await(t, 2*time.Minute, "request in state "+state, func() bool {
		out = r.as(t, r.people[who], "requests/"+request+"/wait", map[string]any{"timeout": 5})
		return out["state"] == state
	})
	return out
}

// TestApprovals: people approve signatures with devices over the HTTP API, and real
// nodes take their word for it and nobody else's.
func TestApprovals(t *testing.T) {
	r := newApproverRig(t)
	first := r.read(t, "approvers/alice")
	if first["id"] != r.devices["alice"].ID.String() {
		t.Fatalf("alice is %v", first)
	}
	policy := map[string]any{"algorithm": "bip340-secp256k1", "threshold": 2, "shares": 3, "approvers": "alice,bob,carol", "quorum": 2}
	r.write(t, "accounts/treasury", policy)
	policy["request_expiry"] = "1m"
	r.write(t, "accounts/hasty", policy)
	// The mount's ID, as the devices know it since they were enrolled.
	link := r.write(t, "approvers/carol/enrol", map[string]any{"label": "to look"})
	mount := r.mountID(t, r.as(t, r.outside, "approve/enrol", map[string]any{"enrolment": link["enrolment"], "secret": link["secret"]})["mount_id"])
	next := func(d *display) { time.Sleep(d.period) } // so that a device has not used the form

	// One approval of two; it expires while the rest of the test runs.
	message := []byte("pay 5 to eve")
	hasty := r.ask(t, "dave", "hasty", message)
	hastyDisplay := r.display(t, "dave", hasty)
	hastyAlice := r.open(t, "alice", hastyDisplay, mount)
	r.as(t, r.outside, "approve/answer", r.answer(t, "alice", hastyAlice, approval.Approve, approval.Device, approval.Passkey))

	t.Run("whole way", func(t *testing.T) {
		message := []byte("pay 5 to frank")
		request := r.ask(t, "dave", "treasury", message)
		d := r.display(t, "dave", request)
		o := r.open(t, "alice", d, mount)
		if !bytes.Equal(o.input, message) {
			t.Errorf("the device is shown %q", o.input)
		}
		out := r.as(t, r.outside, "approve/answer", r.answer(t, "alice", o, approval.Approve, approval.Device, approval.Passkey))
		if out["state"] != "pending" || number(t, out["approvals"]) != 1 {
			t.Errorf("%v", out)
		}
		proof := approval.ProgressProof(d.seed, d.request)
		if p := r.as(t, r.outside, "approve/progress", map[string]any{"request": request, "proof": b64(proof[:])}); p["state"] != "pending" || number(t, p["approvals"]) != 1 || number(t, p["quorum"]) != 2 {
			t.Errorf("%v", p)
		}
		in := r.answer(t, "bob", r.open(t, "bob", d, mount), approval.Approve, approval.Device)
		r.refusedAs(t, r.outside, "approve/answer", in, http.StatusBadRequest, "totp")
		in["totp"] = r.nextCode(t)
		if out = r.as(t, r.outside, "approve/answer", in); number(t, out["approvals"]) != 2 {
			t.Errorf("%v", out)
		}
		done := r.ends(t, "dave", request, "signed")
		result, ok := done["result"].(map[string]any)
		if !ok {
			t.Fatalf("no result: %v", done)
		}
		r.check(t, "treasury", message, result)
	})
	t.Run("nobody approves for himself", func(t *testing.T) {
		message := []byte("pay alice")
		request := r.ask(t, "alice", "treasury", message)
		d := r.display(t, "alice", request)
		r.refusedAs(t, r.outside, "approve/open", r.scan(t, "alice", d, d.form(0), mount), http.StatusForbidden, "you asked for this yourself")
		r.as(t, r.outside, "approve/answer", r.answer(t, "carol", r.open(t, "carol", d, mount), approval.Approve, approval.Device, approval.Passkey))
		in := r.answer(t, "bob", r.open(t, "bob", d, mount), approval.Approve, approval.Device)
		in["totp"] = r.nextCode(t)
		r.as(t, r.outside, "approve/answer", in)
		r.check(t, "treasury", message, r.ends(t, "alice", request, "signed")["result"].(map[string]any))
	})
	t.Run("without an entity nobody asks", func(t *testing.T) {
		r.refuse(t, "sign/treasury", map[string]any{"input": b64(message)}, http.StatusForbidden)
	})
	t.Run("replays and codes of others", func(t *testing.T) {
		request, other := r.ask(t, "dave", "treasury", []byte("one")), r.ask(t, "dave", "treasury", []byte("two"))
		d, e := r.display(t, "dave", request), r.display(t, "dave", other)
		const text = "the code is not valid any more, or is not for this device"
		refused := func(in map[string]any) {
			t.Helper()
			r.refusedAs(t, r.outside, "approve/open", in, http.StatusForbidden, text)
		}
		in := r.scan(t, "alice", d, d.form(0), mount)
		ticket := r.as(t, r.outside, "approve/open", in)["ticket"]
		refused(in)
		next(d)
		refused(r.scan(t, "alice", d, e.form(0), mount))
		refused(r.scan(t, "alice", d, d.form(-3), mount))
		stranger := approvaltest.New(t, "eve")
		r.devices["eve"] = stranger
		refused(r.scan(t, "eve", d, d.form(0), mount))
		missing := *d
		missing.request = approval.ID{1}
		refused(r.scan(t, "alice", &missing, d.form(0), mount))

		// What alice has signed for one request is nothing for another.
		o := r.open(t, "alice", d, mount)
		good := r.answer(t, "alice", o, approval.Approve, approval.Device, approval.Passkey)
		next(d)
		otherTicket := r.open(t, "alice", e, mount).ticket
		crossed := map[string]any{"ticket": otherTicket, "decision": "approve", "signatures": good["signatures"]}
		r.refusedAs(t, r.outside, "approve/answer", crossed, http.StatusForbidden, "not over this request")
		crossed = map[string]any{"ticket": o.ticket, "decision": "refuse", "signatures": good["signatures"]}
		r.refusedAs(t, r.outside, "approve/answer", crossed, http.StatusForbidden, "not over this request")
		r.as(t, r.outside, "approve/answer", good)
		r.refusedAs(t, r.outside, "approve/answer", good, http.StatusForbidden, "scan the code anew")
		good["ticket"] = ticket
		r.refusedAs(t, r.outside, "approve/answer", good, http.StatusForbidden, "scan the code anew")
		// Two refuse, so the quorum cannot be reached.
		for _, who := range []string{"bob", "carol"} {
			r.as(t, r.outside, "approve/answer", r.answer(t, who, r.open(t, who, e, mount), approval.Refuse, approval.Device))
		}
		r.ends(t, "dave", other, "refused")
		r.as(t, r.people["dave"], "requests/"+request+"/cancel", nil)
		next(d)
		r.refusedAs(t, r.outside, "approve/open", r.scan(t, "carol", d, d.form(0), mount), http.StatusConflict, "cancelled")
	})
	t.Run("second approver missing", func(t *testing.T) {
		o := r.open(t, "carol", hastyDisplay, mount)
		in := r.answer(t, "carol", o, approval.Approve, approval.Device, approval.Passkey)
		done := r.ends(t, "dave", hasty, "expired")
		if number(t, done["approvals"]) != 1 || done["result"] != nil {
			t.Errorf("%v", done)
		}
		_, err := r.outside.Logical().Write(r.path+"/approve/answer", in)
		checkRefusal(t, "after the expiry", err, http.StatusForbidden, "is over")
		next(hastyDisplay)
		r.refusedAs(t, r.outside, "approve/open", r.scan(t, "carol", hastyDisplay, hastyDisplay.form(0), mount), http.StatusConflict, "expired")
	})
	if log := string(r.Log(t)); strings.Contains(log, r.totp) {
		t.Error("the secret of one-time codes is in the log")
	}
	if !slices.Contains(r.read(t, "requests/"+hasty)["approvers"].([]any), any("carol")) {
		t.Error("carol may not answer")
	}
}
