package backend

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/approval"
	"vault-plugin-secrets-mpc/mpc/approval/approvaltest"
)

// requestRig is a mount with three approvers and an account, treasury, that two of
// them have to approve each signature of. dave asks.
type requestRig struct {
	*mount
	clock            *steadyClock
	alice, bob, carl *approvaltest.Approver
	stop             func(ctx context.Context, step string) error // called at each step; nil for nothing
}

const helloBase64 = "aGVsbG8="

func newRequestRig(t *testing.T) *requestRig { return newRequestRigOn(t, &logical.InmemStorage{}) }

func newRequestRigOn(t *testing.T, storage logical.Storage) *requestRig {
	t.Helper()
	g := &requestRig{clock: newSteadyClock()}
	fake := newFake(t)
	fake.at = g.clock.now
	g.mount = g.reopened(t, storage, fake)
	g.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
	g.alice, g.bob, g.carl = approvaltest.New(t, "alice"), approvaltest.New(t, "bob"), approvaltest.New(t, "carl")
	for _, a := range []*approvaltest.Approver{g.alice, g.bob, g.carl} {
		r := &approverRecord{ID: a.ID.String(), Entities: []string{a.Name}, Created: g.clock.now()}
		for _, k := range a.Keys {
			r.Keys = append(r.Keys, approverKeyRecord{Kind: k.Kind, Name: k.Name, Public: k.Public, RPID: k.RPID, Origins: k.Origins,
				Credential: k.Credential, Device: a.Keys[0].ID().String(), Added: g.clock.now()})
		}
		g.ok(g.b.store.putApprover(t.Context(), a.Name, r))
	}
	g.must(logical.UpdateOperation, "accounts/treasury", map[string]any{"algorithm": "ecdsa-secp256k1", "approvers": "alice,bob,carl", "quorum": 2})
	return g
}

// reopened is another start over the same storage and nodes.
func (g *requestRig) reopened(t *testing.T, storage logical.Storage, fake *fakeEngine) *mount {
	return openWith(t, storage, fake, func(c *Config) {
		c.now = g.clock.now
		c.requestBackoff, c.requestLook = time.Millisecond, 10*time.Millisecond
		c.step = func(ctx context.Context, name string) error {
			if g.stop != nil {
				return g.stop(ctx, name)
			}
			return nil
		}
	})
}

// restart is a failover: memory is gone.
func (g *requestRig) restart(storage logical.Storage) {
	g.t.Helper()
	g.b.Cleanup(context.Background())
	g.stop = nil
	g.mount = g.reopened(g.t, storage, g.fake)
}

// by sends a request with a token of a Vault entity.
func (m *mount) by(entity string, op logical.Operation, path string, data map[string]any) (map[string]any, int, string) {
	m.t.Helper()
	var body map[string]any
	raw, err := json.Marshal(data)
	m.ok(err)
	m.ok(json.Unmarshal(raw, &body))
	resp, err := m.b.HandleRequest(context.Background(), &logical.Request{
		Operation: op, Path: path, Data: body, Storage: m.storage, EntityID: entity, DisplayName: "userpass-" + entity, MountPoint: "mpc/",
	})
	status, msg := answer(resp, err)
	if status != http.StatusOK || resp == nil {
		return nil, status, msg
	}
	if p := m.b.Route(path); p != nil {
		m.checkSchema(p, op, resp)
	}
	return resp.Data, status, msg
}

func (m *mount) mustBy(entity string, op logical.Operation, path string, data map[string]any) map[string]any {
	m.t.Helper()
	out, status, msg := m.by(entity, op, path, data)
	if status != http.StatusOK {
		m.t.Fatalf("%s %s by %s: %d %s\nlog:\n%s", op, path, entity, status, msg, m.logs)
	}
	return out
}

func (m *mount) failsBy(entity string, op logical.Operation, path string, data map[string]any, status int, text string) {
	m.t.Helper()
	_, got, msg := m.by(entity, op, path, data)
	if got != status || !strings.Contains(msg, text) {
		m.t.Errorf("%s %s by %q %v: %d %q, want %d and %q", op, path, entity, data, got, msg, status, text)
	}
}

// asks opens a request of dave's and returns its ID.
func (g *requestRig) asks(more map[string]any) string {
	g.t.Helper()
	data := map[string]any{"input": helloBase64}
	for k, v := range more {
		data[k] = v
	}
	return g.mustBy("dave", logical.UpdateOperation, "sign/treasury", data)["request"].(string)
}

// record is a request as it is stored.
func (g *requestRig) request(id string) *requestRecord {
	g.t.Helper()
	r, err := g.b.store.request(g.t.Context(), id)
	g.ok(err)
	if r == nil {
		g.t.Fatalf("request %s is not stored", id)
	}
	return r
}

func (g *requestRig) state(id string) requestState {
	g.t.Helper()
	return g.request(id).State
}

// given is an approver's answer with device key and passkey.
func (g *requestRig) given(a *approvaltest.Approver, id string, d approval.Decision, kinds ...approval.Kind) givenRecord {
	g.t.Helper()
	s, _, err := g.b.requests.subject(g.t.Context(), g.request(id))
	g.ok(err)
	if len(kinds) == 0 {
		kinds = []approval.Kind{approval.Device, approval.Passkey}
	}
	out := givenRecord{Approver: a.ID.String(), Name: a.Name, Decision: d, Kinds: kinds}
	for _, k := range kinds {
		if !k.Signature() {
			continue
		}
		sig := a.Sign(g.t, k, &approval.Statement{Subject: s, Decision: d, Approver: a.ID})
		out.Signatures = append(out.Signatures, signedFactor{Key: sig.Key.String(), Signature: sig.Signature, AuthenticatorData: sig.AuthenticatorData, ClientData: sig.ClientData})
	}
	return out
}

func (g *requestRig) gives(a *approvaltest.Approver, id string, d approval.Decision) *requestRecord {
	g.t.Helper()
	r, err := g.b.requests.give(g.t.Context(), id, g.given(a, id, d))
	g.ok(err)
	return r
}

// approved has two approve.
func (g *requestRig) approved(id string) {
	g.t.Helper()
	g.gives(g.alice, id, approval.Approve)
	g.gives(g.bob, id, approval.Approve)
}

// ends waits until the request has ended and returns what dave is told.
func (g *requestRig) ends(id string) map[string]any {
	g.t.Helper()
	for range 100 {
		d := g.mustBy("dave", logical.UpdateOperation, "requests/"+id+"/wait", map[string]any{"timeout": 1})
		if requestState(d["state"].(string)).ended() {
			return d
		}
	}
	g.t.Fatalf("request %s does not end\nlog:\n%s", id, g.logs)
	return nil
}

// valid checks the result of a request that is signed.
func (g *requestRig) valid(d map[string]any) {
	g.t.Helper()
	result, _ := d["result"].(map[string]any)
	if d["state"] != "signed" || result == nil {
		g.t.Fatalf("no result: %v\nlog:\n%s", d, g.logs)
	}
	v := g.must(logical.UpdateOperation, "verify/treasury", map[string]any{"input": helloBase64, "signature": result["signature"], "signature_format": result["signature_format"]})
	if v["valid"] != true {
		g.t.Errorf("the signature is not valid: %v", result)
	}
}

// policyIs replaces the account's policy, as approved by alice and bob.
func (g *requestRig) policyIs(p *approval.Policy) {
	g.t.Helper()
	v, err := g.b.store.signable(g.t.Context(), "treasury")
	g.ok(err)
	p.Since = v.account.Record.Epoch
	mount, err := g.b.mountID(g.t.Context())
	g.ok(err)
	s := approval.PolicySubject(mount, &v.account.Record, p)
	s.Request, s.Requester, s.Expires = approvaltest.RandomID(), "entity:dave", g.clock.now().Add(5*time.Minute).Unix()
	_, err = g.b.changePolicy(g.t.Context(), "treasury", p.Marshal(), approvaltest.Bundle(&s, g.alice.Give(g.t, &s), g.bob.Give(g.t, &s)))
	g.ok(err)
}

// directory is the policy of treasury, of those who are in the directory.
func (g *requestRig) directoryPolicy(quorum int) *approval.Policy {
	g.t.Helper()
	p := approvaltest.Policy(g.t, quorum, g.alice, g.bob, g.carl)
	for i := range p.Approvers {
		p.Approvers[i].Checked = nil
	}
	return p
}

func (g *requestRig) signaturesMade() float64 {
	n, _ := value(g.scrape(), "mpc_signatures_total", "algorithm="+string(mpc.ECDSASecp256k1), "presigned=false")
	return n
}
