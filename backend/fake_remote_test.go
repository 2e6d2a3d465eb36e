package backend

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// The fake engine's nodes on other hosts: those of the settings. Methods without a
// lock of their own are for callers that hold f.mu.

// fakeSite is a node that is ready.
type fakeSite struct {
	identity mpc.NodeIdentity
	home     mpc.Home
}

func (f *fakeEngine) remote(state pool.NodeState) []pool.NodeStatus {
	var out []pool.NodeStatus
	if len(f.applied) == 0 {
		return nil
	}
	for _, n := range f.settings().Remote {
		s := pool.NodeStatus{ID: n.ID, State: state, Version: "v0.1.0", Identity: n.Identity.String(), HSM: "ok", Remote: true,
			Address: n.Address, Region: n.Region, Zone: n.Zone, Domain: n.Domain, Token: pool.TokenInfo{Label: "hsm of " + n.Domain, Serial: "serial of " + n.Domain}, RTT: 12345678, ClockSkew: -3 * time.Millisecond}
		if f.away[n.ID] {
			s.State = pool.NodeRestarting
		}
		out = append(out, s)
	}
	return out
}

func (f *fakeEngine) spreads() bool {
	s := f.settings()
	return len(s.Remote) > 0 || s.LocalRegion != ""
}

// all returns the nodes that are ready.
func (f *fakeEngine) all() []fakeSite {
	s := f.settings()
	var out []fakeSite
	for i := 1; i <= s.Local; i++ {
		out = append(out, fakeSite{nodeIdentity(i), mpc.Home{Domain: hsm.DefaultDomain, Region: s.LocalRegion}})
	}
	for _, n := range s.Remote {
		if !f.away[n.ID] {
			out = append(out, fakeSite{n.Identity, mpc.Home{Domain: n.Domain, Region: n.Region}})
		}
	}
	return out
}

func (f *fakeEngine) places(domains []string) []mpc.Site {
	var out []mpc.Site
	for _, n := range f.all() {
		if len(domains) == 0 || slices.Contains(domains, n.home.Domain) {
			out = append(out, mpc.Site{Home: n.home, Nodes: 1})
		}
	}
	return out
}

func (f *fakeEngine) homesAfter(q *pool.RefreshRequest) []mpc.Home {
	if q.Homes != nil {
		return q.Homes
	}
	return q.Account.Homes
}

// lives reports whether a node may open a share, as far as homes go.
func (f *fakeEngine) lives(a *mpc.Account, node mpc.NodeIdentity, i mpc.Index) bool {
	if len(a.Homes) == 0 {
		return true
	}
	return slices.ContainsFunc(f.all(), func(n fakeSite) bool { return n.identity == node && n.home == a.Homes[i-1] })
}

// settle gives the shares of a fresh epoch their homes: envelopes, who has seen them,
// and, after a refresh, the nodes that made those which move.
func (f *fakeEngine) settle(res *pool.KeyResult, homes []mpc.Home, old *mpc.Account) error {
	a := &res.Account
	a.Homes, a.Exposures = slices.Clone(homes), mpc.Exposures{}
	seen := map[mpc.NodeIdentity]mpc.Index{}
	f.seen[a.Record.EpochID] = seen
	if old != nil {
		for node, i := range old.Exposures { // those that sealed to the new home
			if f.lives(old, node, i) && homesOf(old)[i-1] != homes[i-1] {
				a.Exposures[node], seen[node] = i, i
			}
		}
	}
	for k, h := range homes {
		i := mpc.Index(k + 1)
		found := false
		for _, n := range f.all() {
			if _, taken := seen[n.identity]; n.home == h && !taken {
				a.Exposures[n.identity], seen[n.identity], found = i, i, true
				break
			}
		}
		if !found {
			return &pool.NoEligibleNodeError{Index: i, Domain: h.Domain, Region: h.Region}
		}
		a.Shares[k].Envelope = inDomain(a.Shares[k].Envelope, h.Domain)
	}
	return nil
}

// inDomain is an envelope that is sealed to another domain.
func inDomain(envelope []byte, domain string) []byte {
	e, err := hsm.ParseEnvelope(envelope)
	if err != nil {
		return envelope // a test's garbage
	}
	e.Holders[0].Seals[0].Domain = domain
	out, err := e.Marshal()
	if err != nil {
		panic(err)
	}
	return out
}

// fakeEnroller stands in for the network: nodes answer at their addresses.
type fakeEnroller struct {
	t *testing.T

	mu       sync.Mutex
	nodes    map[string]*EnrolAnswer // by address
	err      error                   // of the next call
	requests []EnrolRequest
	reached  []pool.RemoteNode
}

// testSecret is in no answer, log or error.
const testSecret = "enrolment-secret-51823-abcdefghi"

func (e *fakeEnroller) ParseToken(text string) (*EnrolToken, error) {
	t, err := nodelink.ParseEnrolToken(text)
	if err != nil {
		return nil, err
	}
	return &EnrolToken{NodeID: t.NodeID, Domain: t.Domain, Region: t.Region, Zone: t.Zone, Identity: t.Identity, Pin: t.Pin,
		Secret: t.Secret, Expires: t.Expires}, nil
}

func (e *fakeEnroller) Enrol(ctx context.Context, r EnrolRequest) (*EnrolAnswer, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if string(r.Token.Secret.Expose()) != testSecret || r.Client.Key.Len() == 0 {
		e.t.Error("an enrolment without the token's secret or the coordinator's key")
	}
	r.Token, r.Client.Key = nil, nil // wiped by the caller
	e.requests = append(e.requests, r)
	if err := e.err; err != nil {
		e.err = nil
		return nil, err
	}
	n := e.nodes[r.Address]
	if n == nil {
		return nil, fmt.Errorf("%w: dial tcp %s: connection refused", ErrUnreachableNode, r.Address)
	}
	return n, ctx.Err()
}

func (e *fakeEnroller) Reach(ctx context.Context, n pool.RemoteNode, own pool.ClientCertificate) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if own.Key.Len() == 0 {
		e.t.Error("a node is dialled without the coordinator's key")
	}
	e.reached = append(e.reached, n)
	if err := e.err; err != nil {
		e.err = nil
		return err
	}
	if e.nodes[n.Address] == nil {
		return fmt.Errorf("%w: dial tcp %s: connection refused", ErrUnreachableNode, n.Address)
	}
	return ctx.Err()
}

func (e *fakeEnroller) NewCertificate(name string, notAfter time.Time) ([]byte, *secret.Bytes, error) {
	return nodelink.NewCertificate(name, notAfter)
}

func (e *fakeEnroller) RenewCertificate(name string, key *secret.Bytes, notAfter time.Time) ([]byte, error) {
	return nodelink.RenewCertificate(name, key, notAfter)
}

// fakeNode is a node on another host as a test describes it.
type fakeNode struct {
	id, domain, region string
	number             int // of its identity, 6 to 16
}

func (n fakeNode) address() string { return n.id + ".example.com:8300" }

// token is what the node's operator hands over.
func (n fakeNode) token(expires time.Time) string {
	t := nodelink.EnrolToken{NodeID: n.id, Domain: n.domain, Region: n.region, Zone: n.region + "-a", Identity: nodeIdentity(n.number),
		Pin: [32]byte{byte(n.number), 0xbb}, Secret: secret.New([]byte(testSecret)), Expires: expires}
	return t.Encode()
}

// up makes a node answer at its address.
func (m *mount) up(n fakeNode) {
	e := m.fake.enroller
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nodes[n.address()] = &EnrolAnswer{Version: "v0.1.0", Identity: nodeIdentity(n.number), Domain: n.domain, Region: n.region, Zone: n.region + "-a"}
}

func (m *mount) enrolment(n fakeNode) map[string]any {
	return map[string]any{"address": n.address(), "token": n.token(m.b.cfg.now().Add(15 * time.Minute))}
}

// enrolNode brings a node up and enrols it.
func (m *mount) enrolNode(n fakeNode) map[string]any {
	m.t.Helper()
	m.up(n)
	return m.must(logical.UpdateOperation, "config/nodes/"+n.id, m.enrolment(n))
}

// names has the authority sign a set that names the nodes, and puts it in force.
func (m *mount) names(nodes ...fakeNode) {
	m.t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		m.t.Fatal(err)
	}
	m.must(logical.UpdateOperation, "config/authority", map[string]any{"public_key": hex.EncodeToString(public)})
	m.namesBy(private, 1, nodes...)
}

func (m *mount) namesBy(authority ed25519.PrivateKey, serial uint64, nodes ...fakeNode) {
	m.t.Helper()
	var domains []recovery.Domain
	for _, n := range nodes {
		k := slices.IndexFunc(domains, func(d recovery.Domain) bool { return d.Name == n.domain })
		if k < 0 {
			domains, k = append(domains, recovery.Domain{Name: n.domain}), len(domains)
		}
		domains[k].Nodes = append(domains[k].Nodes, recovery.DomainNode{ID: n.id, Identity: nodeIdentity(n.number).String()})
	}
	set, err := recovery.NewDomainSet(serial, nil, domains)
	if err != nil {
		m.t.Fatal(err)
	}
	signed, err := set.Sign(authority)
	if err != nil {
		m.t.Fatal(err)
	}
	m.must(logical.UpdateOperation, "config/recovery", map[string]any{"set": string(signed)})
}

func pinOf(n fakeNode) string {
	pin := [32]byte{byte(n.number), 0xbb}
	return hex.EncodeToString(pin[:])
}
