package backend

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// enlist puts a person of tests into the directory, with keys of these kinds and what
// the coordinator checks.
func (m *mount) enlist(p *approvaltest.Approver, kinds ...approval.Kind) {
	m.t.Helper()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &approverRecord{Version: recordVersion, ID: p.ID.String(), Entities: []string{p.Name}, Created: at}
	device := ""
	for _, k := range p.Keys {
		if device == "" {
			device = k.ID().String()
		}
		if slices.Contains(kinds, k.Kind) {
			r.Keys = append(r.Keys, approverKeyRecord{Kind: k.Kind, Name: k.Name, Public: k.Public, RPID: k.RPID, Origins: k.Origins,
				Credential: k.Credential, Device: device, Added: at})
		}
	}
	if slices.Contains(kinds, approval.TOTP) {
		r.TOTP = &totpRecord{Secret: "JBSWY3DPEHPK3PXP", Confirmed: true, Added: at}
	}
	if err := m.b.store.putApprover(m.t.Context(), p.Name, r); err != nil {
		m.t.Fatal(err)
	}
}

// crew is people who may approve on a mount.
type crew map[string]*approvaltest.Approver

// staffed makes three approvers with a device key and a passkey, and one with a
// device key alone.
func staffed(m *mount) crew {
	m.t.Helper()
	c := crew{}
	for _, name := range []string{"ann", "ben", "carl"} {
		c[name] = approvaltest.New(m.t, name)
		m.enlist(c[name], approval.Device, approval.Passkey)
	}
	c["dora"] = approvaltest.New(m.t, "dora")
	m.enlist(c["dora"], approval.Device)
	m.fake.at = m.b.cfg.now
	return c
}

// policy is the account's, as its entry has it; nil for none.
func (m *mount) policy(name string) *approval.Policy {
	m.t.Helper()
	r := m.record(name)
	a, err := r.Current.account()
	if err != nil {
		m.t.Fatal(err)
	}
	p, err := r.Current.policy(&a.Record)
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// approves makes what is needed to change an account's policy to next.
func (m *mount) approves(c crew, name string, next *approval.Policy, expires time.Time, who ...string) *approval.Bundle {
	m.t.Helper()
	mount, err := m.b.mountID(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	s := approval.PolicySubject(mount, &m.accountOf(name).Record, next)
	s.Request, s.Requester, s.Expires = approvaltest.RandomID(), "entity:root", expires.Unix()
	var given []approval.Given
	for _, w := range who {
		given = append(given, c[w].Give(m.t, &s))
	}
	return approvaltest.Bundle(&s, given...)
}

var two = map[string]any{"approvers": "ann,ben,carl", "quorum": 2} // read only

func withTwo(more map[string]any) map[string]any {
	out := maps.Clone(two)
	maps.Copy(out, more)
	return out
}

// TestAccountWithPolicy: an account is made with the policy that was asked for, and
// says so everywhere.
func TestAccountWithPolicy(t *testing.T) {
	m := configured(t)
	c := staffed(m)
	d := m.must(logical.UpdateOperation, "accounts/alice", withTwo(map[string]any{"algorithm": "ed25519"}))
	p := m.policy("alice")
	if p == nil || p.Quorum != 2 || p.Factors != 2 || p.SignatureFactors != 1 || p.Expiry != 10*time.Minute || p.Since != 0 || len(p.Approvers) != 3 {
		t.Fatalf("the policy is %+v", p)
	}
	hash := p.Hash()
	if d["policy_hash"] != hex.EncodeToString(hash[:]) || d["policy"] != "2 of ann, ben, carl, each with 2 kinds of factors, 1 of which nodes verify; within 10m" {
		t.Errorf("made with %v, %v", d["policy_hash"], d["policy"])
	}
	if m.accountOf("alice").Record.PolicyHash != hash {
		t.Error("the public record names another policy")
	}
	for i, name := range []string{"ann", "ben", "carl"} {
		a := p.Approvers[i]
		if a.Name != name || a.ID != c[name].ID || !slices.Equal(a.Requesters, []string{"entity:" + name}) || len(a.Keys) != 2 ||
			a.Key(c[name].Of(t, approval.Device).ID()) == nil || a.Key(c[name].Of(t, approval.Passkey).ID()) == nil {
			t.Errorf("approver %d is %+v", i, a)
		}
	}
	d = m.must(logical.ReadOperation, "accounts/alice/policy", nil)
	raw, err := base64.StdEncoding.DecodeString(d["policy_bytes"].(string))
	if err != nil || string(raw) != string(p.Marshal()) || d["required"] != true || d["quorum"] != 2 || d["request_expiry"] != int64(600) || d["share_epoch"] != uint64(1) {
		t.Errorf("the policy is shown as %v", d)
	}
	if keys := d["approvers"].([]map[string]any)[0]["keys"].([]map[string]any); keys[1]["rp_id"] != approvaltest.RPID || keys[0]["key_id"] != c["ann"].Of(t, approval.Device).ID().String() {
		t.Errorf("keys are shown as %v", keys)
	}
	// What is enrolled later changes no account.
	m.enlist(approvaltest.New(t, "ann"), approval.Device, approval.Passkey)
	if again := m.policy("alice"); again.Hash() != hash {
		t.Error("the directory has changed a policy")
	}

	m.create("bob", "ed25519")
	if d := m.must(logical.ReadOperation, "accounts/bob", nil); d["policy_hash"] != nil || d["policy"] != nil {
		t.Errorf("an account without a policy says %v, %v", d["policy_hash"], d["policy"])
	}
	if d := m.must(logical.ReadOperation, "accounts/bob/policy", nil); len(d) != 2 || d["required"] != false {
		t.Errorf("no policy is shown as %v", d)
	}
	for filter, want := range map[bool]string{true: "alice", false: "bob"} {
		d := m.must(logical.ListOperation, "accounts/", map[string]any{"policy": filter})
		if keys := d["keys"].([]string); len(keys) != 1 || keys[0] != want {
			t.Errorf("policy=%v lists %v", filter, keys)
		}
		if info := d["key_info"].(map[string]any)[want].(map[string]any); info["policy"] != filter {
			t.Errorf("policy=%v: %v", filter, info)
		}
	}
	m.signs("bob")
	m.fails(logical.UpdateOperation, "accounts/alice/csr", map[string]any{"common_name": "x"}, http.StatusConflict, "could not see what they sign")
	m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"quorum": 1}, http.StatusBadRequest, "accounts/alice/policy")
	if again := m.policy("alice"); again.Hash() != hash {
		t.Error("settings have changed a policy")
	}
}

// TestPolicyRefused: what could not be fulfilled, or demands nothing, is refused
// before anything is made.
func TestPolicyRefused(t *testing.T) {
	m := configured(t)
	c := staffed(m)
	m.create("bob", "ed25519")
	m.enlist(&approvaltest.Approver{Approver: approval.Approver{ID: approvaltest.RandomID(), Name: "nobody"}})
	twin := approvaltest.New(t, "twin")
	m.enlist(twin, approval.Device, approval.Passkey)
	r, err := m.b.store.approver(t.Context(), "twin")
	if err != nil {
		t.Fatal(err)
	}
	r.Entities = []string{"ann", "twin"}
	if err := m.b.store.putApprover(t.Context(), "twin", r); err != nil {
		t.Fatal(err)
	}
	double := approvaltest.New(t, "double")
	double.Keys[0], double.Keys[1] = c["ann"].Keys[0], c["ann"].Keys[1]
	m.enlist(double, approval.Device, approval.Passkey)
	for _, bad := range []struct {
		data map[string]any
		text string
	}{
		{map[string]any{"quorum": 1}, "name those who are to approve"},
		{map[string]any{"request_expiry": "1h"}, "name those who are to approve"},
		{map[string]any{"approvers": ""}, "name those who are to approve"},
		{map[string]any{"approvers": []string{}}, "name those who are to approve"},
		{map[string]any{"approvers": "ann,zoe"}, `there is no approver "zoe"`},
		{map[string]any{"approvers": "ann,ann"}, "named twice"},
		{withTwo(map[string]any{"quorum": 0}), "the quorum must be 1 to 3"},
		{withTwo(map[string]any{"quorum": -1}), "the quorum must be 1 to 3"},
		{withTwo(map[string]any{"quorum": 4}), "the quorum must be 1 to 3"},
		{withTwo(map[string]any{"factors": 0}), "at least two different kinds"},
		{withTwo(map[string]any{"factors": 1}), "at least two different kinds"},
		{withTwo(map[string]any{"factors": 6}), "at least two different kinds"},
		{withTwo(map[string]any{"signature_factors": 0}), "must be 1 to"},
		{withTwo(map[string]any{"factors": 3}), `approver "ann" has no certificate and no totp and no login`},
		{withTwo(map[string]any{"factors": 3, "signature_factors": 3}), `approver "ann" has no certificate`},
		{withTwo(map[string]any{"request_expiry": 0}), "the expiry must be"},
		{withTwo(map[string]any{"request_expiry": "59s"}), "the expiry must be"},
		{withTwo(map[string]any{"request_expiry": "200h"}), "the expiry must be"},
		{map[string]any{"approvers": "dora"}, `approver "dora" has no passkey and no certificate and no totp and no login`},
		{map[string]any{"approvers": "dora", "signature_factors": 2}, `approver "dora" has no passkey and no certificate: the policy asks for 2`},
		{map[string]any{"approvers": "nobody"}, "has no device yet"},
		{map[string]any{"approvers": "ann,twin"}, `"ann" and "twin" are both entity:ann`},
		{map[string]any{"approvers": "ann,double"}, "nobody counts for two"},
		{map[string]any{"approvers": strings.Repeat("x,", 16) + "x"}, "a policy holds 16 at most"},
	} {
		m.fails(logical.UpdateOperation, "accounts/bob/policy", bad.data, http.StatusBadRequest, bad.text)
		create := maps.Clone(bad.data)
		create["algorithm"] = "ed25519"
		m.fails(logical.UpdateOperation, "accounts/alice", create, http.StatusBadRequest, bad.text)
	}
	m.fails(logical.UpdateOperation, "accounts/bob/policy", nil, http.StatusBadRequest, "name those who are to approve")
	m.fails(logical.UpdateOperation, "accounts/zoe/policy", two, http.StatusNotFound, "no account")
	m.fails(logical.ReadOperation, "accounts/zoe/policy", nil, http.StatusNotFound, "no account")
	m.fails(logical.ReadOperation, "accounts/alice", nil, http.StatusNotFound, "no account")
	if m.policy("bob") != nil {
		t.Error("a refused policy is in force")
	}
	m.signs("bob")
	m.must(logical.DeleteOperation, "accounts/bob", nil)
	m.fails(logical.UpdateOperation, "accounts/bob/policy", two, http.StatusConflict, "its policy stays")
}

// TestPolicyDefaultsRemote: where some nodes are on other hosts, both factors are to
// be what they can verify.
func TestPolicyDefaultsRemote(t *testing.T) {
	m := configured(t)
	staffed(m)
	totp := approvaltest.New(t, "tess")
	m.enlist(totp, approval.Device, approval.TOTP)
	m.must(logical.UpdateOperation, "accounts/local", map[string]any{"algorithm": "ed25519", "approvers": "tess"})
	if p := m.policy("local"); p.SignatureFactors != 1 {
		t.Errorf("with local nodes alone the policy asks for %d signature factors", p.SignatureFactors)
	}
	m.enrolled("eu-1", "eu", 10)
	m.must(logical.UpdateOperation, "accounts/remote", withTwo(map[string]any{"algorithm": "ed25519", "domains": "default"}))
	if p := m.policy("remote"); p.SignatureFactors != 2 {
		t.Errorf("with a remote node the policy asks for %d signature factors", p.SignatureFactors)
	}
	m.fails(logical.UpdateOperation, "accounts/other", map[string]any{"algorithm": "ed25519", "approvers": "tess"}, http.StatusBadRequest, `approver "tess" has no passkey and no certificate`)
	m.must(logical.UpdateOperation, "accounts/other", map[string]any{"algorithm": "ed25519", "domains": "default", "approvers": "tess", "signature_factors": 1})
}

// TestFirstPolicy: an account that has none is refreshed at once, and has the policy
// with its new shares.
func TestFirstPolicy(t *testing.T) {
	m := configured(t)
	staffed(m)
	before := m.create("alice", "ed25519")
	d := m.must(logical.UpdateOperation, "accounts/alice/policy", two)
	after := m.must(logical.ReadOperation, "accounts/alice", nil)
	if after["public_key_hex"] != before["public_key_hex"] || after["share_epoch"] != uint64(2) || after["policy_hash"] != d["policy_hash"] || d["since_epoch"] != uint64(1) || d["session_id"] == nil {
		t.Errorf("the policy %v came with %v", d, after)
	}
	// The same again changes nothing and asks nobody.
	again := m.must(logical.UpdateOperation, "accounts/alice/policy", two)
	if again["policy_hash"] != d["policy_hash"] || again["share_epoch"] != uint64(2) || again["session_id"] != nil {
		t.Errorf("the same policy once more: %v", again)
	}
	// Epochs to come have it.
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	m.must(logical.UpdateOperation, "accounts/alice/rename", map[string]any{"new_name": "alicia"})
	m.must(logical.DeleteOperation, "accounts/alicia", nil)
	m.must(logical.UpdateOperation, "accounts/alicia/restore", nil)
	m.must(logical.UpdateOperation, "accounts/alicia/freeze", nil)
	m.must(logical.UpdateOperation, "accounts/alicia/unfreeze", nil)
	m.must(logical.UpdateOperation, "accounts/alicia/move", nil)
	m.must(logical.UpdateOperation, "wrapping-keys/rotate", nil)
	if _, err := m.b.rewrapAccount(t.Context(), "alicia"); err != nil {
		t.Fatal(err)
	}
	last := m.must(logical.ReadOperation, "accounts/alicia", nil)
	if last["policy_hash"] != d["policy_hash"] || last["share_epoch"].(uint64) < 3 || last["wrapping_version"] != 2 {
		t.Errorf("afterwards the account is %v", last)
	}
}

// TestCrashDuringFirstPolicy: whatever is written last, the account has its old epoch
// without a policy or the new one with it, and the request may be repeated.
func TestCrashDuringFirstPolicy(t *testing.T) {
	crashEverywhere(t, func(m *mount) { withAccount(m); staffed(m) },
		func(m *mount) { m.do(logical.UpdateOperation, "accounts/alice/policy", two) },
		func(t *testing.T, m *mount) {
			m.fake.at = m.b.cfg.now
			d := m.must(logical.ReadOperation, "accounts/alice", nil)
			if (d["policy_hash"] != nil) != (d["share_epoch"] == uint64(2)) {
				t.Errorf("policy %v in epoch %v", d["policy_hash"], d["share_epoch"])
			}
			m.must(logical.UpdateOperation, "accounts/alice/policy", two)
			if d := m.must(logical.ReadOperation, "accounts/alice", nil); d["policy_hash"] == nil || d["share_epoch"] != uint64(2) {
				t.Errorf("after a repetition: policy %v in epoch %v", d["policy_hash"], d["share_epoch"])
			}
		})
}

// TestChangePolicy: another policy needs the approvals of the present one's quorum,
// outlives refreshes, and cannot be brought back by what approved it once.
func TestChangePolicy(t *testing.T) {
	m := configured(t)
	c := staffed(m)
	m.must(logical.UpdateOperation, "accounts/alice", withTwo(map[string]any{"algorithm": "ed25519"}))
	key := m.accountOf("alice").Record.PublicKey
	first := m.policy("alice")
	soon := m.b.cfg.now().Add(9 * time.Minute)
	next := func(quorum int) *approval.Policy {
		p := *m.policy("alice")
		p.Quorum, p.Since = quorum, m.accountOf("alice").Record.Epoch
		return &p
	}
	loose := next(1)
	forged := m.approves(c, "alice", loose, soon, "ann", "ben")
	forged.Given[1] = m.approves(c, "alice", next(3), soon, "ben").Given[0]
	later := *loose
	later.Since = 7
	other := approvaltest.New(t, "ann")
	for what, bundle := range map[string]*approval.Bundle{
		"none":          nil,
		"one of two":    m.approves(c, "alice", loose, soon, "ann"),
		"one twice":     m.approves(c, "alice", loose, soon, "ann", "ann"),
		"a stranger's":  m.approves(crew{"ann": other, "ben": c["ben"]}, "alice", loose, soon, "ann", "ben"),
		"of another":    m.approves(c, "alice", next(3), soon, "ann", "ben"),
		"one forged":    forged,
		"expired":       m.approves(c, "alice", loose, m.b.cfg.now().Add(-time.Second), "ann", "ben"),
		"for long":      m.approves(c, "alice", loose, m.b.cfg.now().Add(time.Hour), "ann", "ben"),
		"dora's":        m.approves(c, "alice", loose, soon, "ann", "dora"),
		"of no epoch":   m.approves(c, "alice", &later, soon, "ann", "ben"),
		"of two others": m.approves(c, "alice", next(2), soon, "ann", "ben"),
	} {
		if _, err := m.b.changePolicy(t.Context(), "alice", loose.Marshal(), bundle); err == nil {
			t.Fatalf("%s: the policy was changed", what)
		} else if status, _ := m.b.classify(err); status != http.StatusConflict {
			t.Errorf("%s: %d %v", what, status, err)
		}
	}
	if _, err := m.b.changePolicy(t.Context(), "alice", later.Marshal(), m.approves(c, "alice", &later, soon, "ann", "ben")); err == nil {
		t.Error("a policy of an epoch to come was taken")
	}
	if got := m.accountOf("alice").Record; got.Epoch != 1 || m.fake.approvals != 0 {
		t.Fatalf("after refusals the account is in epoch %d, and nodes have taken %d bundles", got.Epoch, m.fake.approvals)
	}

	// A refresh between asking and now does no harm.
	approvals := m.approves(c, "alice", loose, soon, "ann", "ben")
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	change := func(p *approval.Policy, b *approval.Bundle) error {
		_, err := m.b.changePolicy(t.Context(), "alice", p.Marshal(), b)
		return err
	}
	if err := change(loose, approvals); err != nil {
		t.Fatal(err)
	}
	if got := m.accountOf("alice").Record; got.Epoch != 3 || got.PolicyHash != loose.Hash() || string(got.PublicKey) != string(key) || m.fake.approvals != 1 {
		t.Fatalf("epoch %d after the change, and nodes have taken %d bundles", got.Epoch, m.fake.approvals)
	}
	// Done is done: a repetition is success and no refresh.
	if err := change(loose, approvals); err != nil || m.accountOf("alice").Record.Epoch != 3 {
		t.Errorf("a repetition: %v, epoch %d", err, m.accountOf("alice").Record.Epoch)
	}
	// Back to what the first one said, which is another policy; then the approvals of
	// the change that was undone are of no use.
	back := next(2)
	if !says(back, first) || back.Hash() == first.Hash() {
		t.Fatal("the policy that goes back is not like the first, or is the first")
	}
	if err := change(back, m.approves(c, "alice", back, soon, "carl")); err != nil {
		t.Fatal(err)
	}
	if err := change(loose, approvals); err == nil {
		t.Fatal("an approved change was replayed after it had been undone")
	}
	// Nodes say the same where the coordinator does not look.
	r := m.record("alice")
	request := refreshOf(m, "alice")
	request.NextPolicy, request.Policy, request.Approvals = loose.Marshal(), r.Current.Policy, approvals.Marshal()
	if _, err := m.fake.Refresh(t.Context(), *request); err == nil {
		t.Error("nodes took a replayed change")
	}
	if m.policy("alice").Hash() != back.Hash() {
		t.Error("the policy is another one")
	}
}

// TestChangePolicyAsked: the whole way of a change, from the request to the policy in
// force; two changes at once, of which the first to be approved wins.
func TestChangePolicyAsked(t *testing.T) {
	m := configured(t)
	c := staffed(m)
	m.must(logical.UpdateOperation, "accounts/alice", withTwo(map[string]any{"algorithm": "ed25519"}))
	m.fails(logical.UpdateOperation, "accounts/alice/policy", map[string]any{"approvers": "ann,ben"}, http.StatusForbidden, "")
	ask := func(data map[string]any) map[string]any {
		t.Helper()
		resp, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: "accounts/alice/policy", Data: data, Storage: m.storage, EntityID: "olga"})
		if status, msg := answer(resp, err); status != http.StatusOK {
			t.Fatalf("asking: %d %s", status, msg)
		}
		return resp.Data
	}
	one := ask(map[string]any{"approvers": "ann,ben", "quorum": 1})
	other := ask(map[string]any{"approvers": "ann,ben,carl", "quorum": 3})
	if one["state"] != "pending" || one["action"] != "policy" || one["epoch"] != uint64(1) || m.accountOf("alice").Record.Epoch != 1 {
		t.Fatalf("asked for: %v", one)
	}
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	give := func(id, who string) error {
		r, err := m.b.requests.get(t.Context(), id)
		if err != nil {
			return err
		}
		subject, _, err := m.b.requests.subject(t.Context(), r)
		if err != nil {
			return err
		}
		g := givenRecord{Approver: c[who].ID.String(), Name: who, Decision: approval.Approve, Kinds: []approval.Kind{approval.Device, approval.Passkey}, Time: m.b.cfg.now()}
		for _, s := range c[who].Give(t, &subject).Signatures {
			g.Signatures = append(g.Signatures, signedFactor{Key: s.Key.String(), Signature: s.Signature, AuthenticatorData: s.AuthenticatorData, ClientData: s.ClientData})
		}
		_, err = m.b.requests.give(t.Context(), id, g)
		return err
	}
	id := one["request"].(string)
	for _, who := range []string{"ann", "carl"} {
		if err := give(id, who); err != nil {
			t.Fatal(err)
		}
	}
	end := func(id string) *requestRecord {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for {
			r, err := m.b.requests.get(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			if r.State.ended() {
				return r
			}
			select {
			case <-ctx.Done():
				t.Fatalf("request %s is %s", id, r.State)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	m.b.startBackground()
	if r := end(id); r.State != requestSigned {
		t.Fatalf("the change is %s: %s", r.State, r.Reason)
	}
	p := m.policy("alice")
	if p.Quorum != 1 || len(p.Approvers) != 2 || p.Since != 1 || m.accountOf("alice").Record.Epoch < 3 {
		t.Errorf("the policy is %+v in epoch %d", p, m.accountOf("alice").Record.Epoch)
	}
	if r := end(other["request"].(string)); r.State != requestFailed || !strings.Contains(r.Reason, "policy was changed after this was asked") {
		t.Errorf("what was asked under the policy before is %s: %s", r.State, r.Reason)
	}
	if err := give(other["request"].(string), "ann"); err == nil {
		t.Error("a request under the policy before took an answer")
	}
}

// refreshOf is a request for a refresh of an account as it is now.
func refreshOf(m *mount, name string) *pool.RefreshRequest {
	m.t.Helper()
	return &pool.RefreshRequest{Account: *m.accountOf(name)}
}

// TestCrashDuringPolicyChange: at every write and every step, what was approved is in
// force or not, and doing it again is success.
func TestCrashDuringPolicyChange(t *testing.T) {
	for _, step := range []string{"", stepRefreshMade, stepRefreshChecked, stepRefreshStored} {
		t.Run(step, func(t *testing.T) {
			base, fake := &logical.InmemStorage{}, newFake(t)
			m := open(t, base, fake)
			configure(m)
			c := staffed(m)
			m.must(logical.UpdateOperation, "accounts/alice", withTwo(map[string]any{"algorithm": "ed25519"}))
			next := *m.policy("alice")
			next.Quorum, next.Since = 1, 1
			approvals := m.approves(c, "alice", &next, m.b.cfg.now().Add(9*time.Minute), "ann", "ben")
			crashed := errors.New("crash")
			m = openWith(t, base, fake, func(cfg *Config) {
				cfg.now = m.b.cfg.now
				cfg.step = func(_ context.Context, name string) error {
					if name == step {
						return crashed
					}
					return nil
				}
			})
			if _, err := m.b.changePolicy(t.Context(), "alice", next.Marshal(), approvals); step != "" && !errors.Is(err, crashed) {
				t.Fatal(err)
			}
			m = openWith(t, snapshot(t, base), fake, func(cfg *Config) { cfg.now = m.b.cfg.now })
			p, record := m.policy("alice"), m.accountOf("alice").Record
			if done := step == "" || step == stepRefreshStored; done != (p.Quorum == 1) || done != (record.Epoch == 2) {
				t.Errorf("quorum %d in epoch %d", p.Quorum, record.Epoch)
			}
			if _, err := m.b.changePolicy(t.Context(), "alice", next.Marshal(), approvals); err != nil {
				t.Fatal(err)
			}
			if record := m.accountOf("alice").Record; record.PolicyHash != next.Hash() || record.Epoch != 2 {
				t.Errorf("after a repetition: epoch %d", record.Epoch)
			}
		})
	}
}

// TestPolicyWithCustody: a policy comes with the account; its owner's refreshes keep it,
// and nothing but one that is for another policy (TestCustodyPolicy) replaces it.
func TestPolicyWithCustody(t *testing.T) {
	m := configured(t)
	c := staffed(m)
	o := newOwner(t, m.storage, "owner")
	m.must(logical.UpdateOperation, "accounts/carol", withTwo(map[string]any{"algorithm": "ed25519", "custody_identity": o.name, "custody_asset": "key"}))
	p := m.policy("carol")
	if p == nil || p.Quorum != 2 {
		t.Fatalf("the policy is %+v", p)
	}
	next := *p
	next.Quorum, next.Since = 1, 1
	if _, err := m.b.changePolicy(t.Context(), "carol", next.Marshal(), m.approves(c, "carol", &next, m.b.cfg.now().Add(time.Minute), "ann", "ben")); err == nil {
		t.Error("the policy of an account with user custody was changed without its owner")
	}
	d := m.finishOwned("carol", m.beginOwned("carol", map[string]any{"operation": "refresh"}))
	if d["share_epoch"] != uint64(2) || m.policy("carol").Hash() != p.Hash() {
		t.Errorf("after its refresh the account is %v", d)
	}
	bare := m.owned("bare", "ed25519")
	m.fails(logical.UpdateOperation, "accounts/bare/policy", two, http.StatusConflict, "its owner brings the first one")
	_ = bare
}

// TestPolicyFromNodesRefused: an epoch with another policy than was asked for is not
// stored.
func TestPolicyFromNodesRefused(t *testing.T) {
	m := configured(t)
	staffed(m)
	m.must(logical.UpdateOperation, "accounts/alice", withTwo(map[string]any{"algorithm": "ed25519"}))
	before := string(mustJSON(t, m.record("alice")))
	p := *m.policy("alice")
	p.Quorum = 1
	for what, hash := range map[string][32]byte{"none": mpc.EmptySetHash(), "another": p.Hash()} {
		m.fake.spoilRecord = func(r *mpc.PublicRecord) { r.PolicyHash = hash }
		m.fails(logical.UpdateOperation, "accounts/alice/refresh", nil, http.StatusInternalServerError, "policy")
		m.fails(logical.UpdateOperation, "accounts/new", withTwo(map[string]any{"algorithm": "ed25519"}), http.StatusInternalServerError, "no account was created")
		if string(mustJSON(t, m.record("alice"))) != before {
			t.Errorf("%s: the account was changed", what)
		}
	}
	m.fake.spoilRecord = nil
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
}

// TestPolicyStays: an import takes no policy away.
func TestPolicyStays(t *testing.T) {
	p := fixedPolicy()
	at := func(since uint64) []byte {
		q := *p
		q.Since = since
		return q.Marshal()
	}
	for name, c := range map[string]struct {
		inForce, imported []byte
		refused           bool
	}{
		"none":           {nil, nil, false},
		"a first one":    {nil, at(5), false},
		"the same":       {at(5), at(5), false},
		"a later one":    {at(5), at(6), false},
		"taken away":     {at(5), nil, true},
		"an earlier one": {at(5), at(4), true},
		"not a policy":   {at(5), []byte("x"), true},
	} {
		if err := policyStays("alice", c.inForce, c.imported); (err != nil) != c.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func mustJSON(t *testing.T, r *accountRecord) []byte {
	t.Helper()
	return fmt.Appendf(nil, "%+v", *r)
}
