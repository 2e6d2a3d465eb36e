package backend

import (
	"context"
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

// deskRig is a mount with three approvers in its directory, real requests, and in
// place of an account a public key: what approvers do depends on nothing else of it.
type deskRig struct {
	*mount
	clock   *steadyClock
	storage *countingStorage
	id      [16]byte
	record  mpc.PublicRecord
	policy  *approval.Policy
	alice   *approvaltest.Approver // tied to entity:alice, as the others to theirs
	bob     *approvaltest.Approver
	carol   *approvaltest.Approver
	totp    string // everybody's secret, base32
}

func newDeskRig(t *testing.T, change func(*approval.Policy)) *deskRig {
	t.Helper()
	m, clock, storage := loginMount(t)
	// At the beginning of a one-time code's step, so that none ends between two lines
	// of a test.
	now := clock.now()
	clock.pass(now.Truncate(30 * time.Second).Add(31 * time.Second).Sub(now))
	d := &deskRig{mount: m, clock: clock, storage: storage, totp: "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"}
	d.alice, d.bob, d.carol = approvaltest.New(t, "alice"), approvaltest.New(t, "bob"), approvaltest.New(t, "carol")
	d.policy = approvaltest.Policy(t, 2, d.alice, d.bob, d.carol)
	if change != nil {
		change(d.policy)
		d.ok(d.policy.Check())
	}
	mount, err := m.b.mountID(t.Context())
	d.ok(err)
	d.id = mount
	d.record = mpc.PublicRecord{AccountID: mpc.AccountID{7}, Algorithm: mpc.ECDSASecp256k1, PublicKey: append([]byte{2}, make([]byte, 32)...), PolicyHash: d.policy.Hash()}
	for _, a := range []*approvaltest.Approver{d.alice, d.bob, d.carol} {
		d.ok(m.b.store.putApprover(t.Context(), a.Name, d.directory(a)))
	}
	d.useRequests(m.b)
	return d
}

// directory is an approver as the directory has it.
func (d *deskRig) directory(a *approvaltest.Approver) *approverRecord {
	r := &approverRecord{ID: a.ID.String(), Entities: []string{a.Name}, Created: d.clock.now(),
		TOTP: &totpRecord{Secret: d.totp, Confirmed: true, Added: d.clock.now()}}
	for _, k := range a.Keys {
		r.Keys = append(r.Keys, approverKeyRecord{Kind: k.Kind, Name: k.Name, Public: k.Public, RPID: k.RPID, Origins: k.Origins,
			Credential: k.Credential, Device: a.Keys[0].ID().String(), Added: d.clock.now()})
	}
	return r
}

// useRequests gives a mount requests whose account is the rig's; what is approved
// waits, as if no node answered.
func (d *deskRig) useRequests(b *backend) {
	b.desk.requests = newApprovalRequests(requestsConfig{
		InForce: func(context.Context, *requestRecord) (map[string]any, error) { return nil, nil },
		Store:   b.store, Logger: b.log, Metrics: b.metrics, now: d.clock.now, step: func(context.Context, string) error { return nil },
		Subject: func(_ context.Context, r *requestRecord) (approval.Subject, *approval.Policy, error) {
			return d.subject(r), d.policy, nil
		},
		Complete: func(context.Context, *requestRecord) (map[string]any, error) { return nil, errCrash },
		Go:       func(func(context.Context)) bool { return false },
	})
}

func (d *deskRig) requests() *approvalRequests { return d.b.desk.requests.(*approvalRequests) }

// subject is what devices put together for themselves.
func (d *deskRig) subject(r *requestRecord) approval.Subject {
	s := approval.SignSubject(d.id, &d.record, r.Input, mpc.MessageType(r.MessageType), mpc.HashAlgorithm(r.HashAlgorithm), mpc.Derivation{Path: r.DerivationPath})
	s.Request, _ = approval.ParseID(r.ID)
	s.Requester, s.RequesterName, s.Expires = r.Requester, r.RequesterName, r.Expires.Unix()
	return s
}

// asks opens a request of somebody's.
func (d *deskRig) asks(requester string) *requestRecord {
	d.t.Helper()
	r, _, err := d.requests().open(d.t.Context(), &requestRecord{
		Action: approval.Sign, Account: "treasury", AccountID: d.record.AccountID.String(), Requester: requester, RequesterName: "Dave",
		Policy: d.policy.Marshal(), Input: []byte("pay 5 to bob"), MessageType: string(mpc.MessageRaw), HashAlgorithm: string(mpc.HashSHA256),
		SignatureFormat: "der", Period: 2000, Algorithm: string(mpc.ECDSASecp256k1),
	})
	d.ok(err)
	return r
}

func (d *deskRig) stored(r *requestRecord) *requestRecord {
	d.t.Helper()
	out, err := d.requests().read(d.t.Context(), r.ID)
	d.ok(err)
	return out
}

// formAt is what the display shows so long from now.
func (d *deskRig) formAt(r *requestRecord, from time.Duration) approval.Form {
	id, _ := approval.ParseID(r.ID)
	n := approval.Period(r.Created, d.clock.now().Add(from), time.Duration(r.Period)*time.Millisecond)
	return approval.FormAt(r.Seed, id, n)
}

// scans is a device's message for a form.
func (d *deskRig) scans(a *approvaltest.Approver, r *requestRecord, f approval.Form) map[string]any {
	d.t.Helper()
	id, _ := approval.ParseID(r.ID)
	return d.signsOpening(a, a.Of(d.t, approval.Device), id, f, d.clock.now().Unix())
}

func (d *deskRig) signsOpening(a *approvaltest.Approver, k *approval.Key, id approval.ID, f approval.Form, at int64) map[string]any {
	d.t.Helper()
	signature := approvaltest.SignRaw(d.t, a.Private(d.t, k.ID()), approval.OpenMessage(d.id, id, f, k.ID(), at))
	return map[string]any{"request": id.String(), "form": encode64URL(f[:]), "key": k.ID().String(), "time": at, "signature": encode64(signature)}
}

// opens has a device scan what is shown now.
func (d *deskRig) opens(a *approvaltest.Approver, r *requestRecord) map[string]any {
	d.t.Helper()
	d.clock.pass(2 * time.Second) // so that nobody has used the form
	return d.must(logical.UpdateOperation, "approve/open", d.scans(a, r, d.formAt(r, 0)))
}

func (d *deskRig) statement(a *approvaltest.Approver, r *requestRecord, decision approval.Decision) *approval.Statement {
	return &approval.Statement{Subject: d.subject(r), Decision: decision, Approver: a.ID}
}

// factorOf is a signature as it is sent.
func factorOf(s approval.Signature) map[string]any {
	return map[string]any{"key": s.Key.String(), "signature": encode64(s.Signature), "authenticator_data": encode64(s.AuthenticatorData), "client_data": encode64(s.ClientData)}
}

// answer is what a device sends; the signatures are over the statement.
func (d *deskRig) answer(a *approvaltest.Approver, ticket any, st *approval.Statement, kinds ...approval.Kind) map[string]any {
	d.t.Helper()
	var signatures []any
	for _, kind := range kinds {
		signatures = append(signatures, factorOf(a.Sign(d.t, kind, st)))
	}
	return map[string]any{"ticket": ticket, "decision": string(st.Decision), "signatures": signatures}
}

// approves is the whole way with device and passkey.
func (d *deskRig) approves(a *approvaltest.Approver, r *requestRecord) map[string]any {
	d.t.Helper()
	ticket := d.opens(a, r)["ticket"]
	return d.must(logical.UpdateOperation, "approve/answer", d.answer(a, ticket, d.statement(a, r, approval.Approve), approval.Device, approval.Passkey))
}

// code is the one-time code of now.
func (d *deskRig) code() string {
	d.t.Helper()
	code, err := hotp.GenerateCodeCustom(d.totp, uint64(d.clock.now().Unix()/30), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
	d.ok(err)
	return code
}

// refusedOpening checks for the one text.
func (d *deskRig) refusedOpening(what string, in map[string]any) {
	d.t.Helper()
	_, status, msg := d.send("approve/open", in)
	if status != http.StatusForbidden || !strings.Contains(msg, errCodeRefused().Error()) {
		d.t.Errorf("%s: %d %q", what, status, msg)
	}
}

func (d *deskRig) answerFails(what string, in map[string]any, status int, text string) {
	d.t.Helper()
	_, got, msg := d.send("approve/answer", in)
	if got != status || !strings.Contains(msg, text) {
		d.t.Errorf("%s: %d %q, want %d and %q", what, got, msg, status, text)
	}
}

// given is who has answered, with which kinds.
func (d *deskRig) given(r *requestRecord) []string {
	d.t.Helper()
	var out []string
	for _, g := range d.stored(r).Given {
		kinds := slices.Clone(g.Kinds)
		slices.Sort(kinds)
		out = append(out, g.Name+" "+string(g.Decision)+" "+joinKinds(kinds))
	}
	return out
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// metricValue is what a counter stands at.
func metricValue(t *testing.T, c prometheus.Counter) int {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return int(m.GetCounter().GetValue())
}
