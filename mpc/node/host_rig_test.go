package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/verify"
	"vault-plugin-secrets-mpc/recovery"
	"vault-plugin-secrets-mpc/secret"
)

// hosts is a world whose nodes have hosts of their own: each its identity and its
// pinned peers, and a token for each wrapping domain. The test is the coordinator.
type hosts struct {
	*world
	people  *custodians // the authority, and who rebuilds accounts
	domains map[string]*testDomain
	of      map[string]*Host // by node
	mu      sync.Mutex       // for known
	known   map[string]map[string]mpc.NodeIdentity
	floors  map[string]*testFloor
	counts  *counts
	now     func() time.Time // of nodes that are attached from now on; nil: the real one
}

// testDomain is one token and the wrapping keys in it.
type testDomain struct {
	token *hsmtest.Fake
	keys  []*nodepb.WrappingKey
}

// testFloor keeps the floor as Floor describes it, in memory: it outlives nodes.
type testFloor struct {
	mu    sync.Mutex
	known map[mpc.AccountID]mpc.PublicRecord
	set   uint64 // newest
}

func (f *testFloor) Newest(_ [16]byte, _ ed25519.PublicKey, serial uint64) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set = max(f.set, serial)
	return f.set, nil
}

func (f *testFloor) Check(r *mpc.PublicRecord) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.checkLocked(r)
}

func (f *testFloor) checkLocked(r *mpc.PublicRecord) error {
	switch at, ok := f.known[r.AccountID]; {
	case !ok:
		return nil
	case r.Epoch < at.Epoch:
		return fmt.Errorf("%w: epoch %d has been used", ErrBelowFloor, at.Epoch)
	case r.Epoch == at.Epoch && r.Hash() != at.Hash():
		return fmt.Errorf("%w: another record of the same epoch has been used", ErrBelowFloor)
	case r.PolicyHash == mpc.EmptySetHash() && at.PolicyHash != mpc.EmptySetHash():
		return fmt.Errorf("%w: the account had a policy", ErrBelowFloor)
	}
	return nil
}

func (f *testFloor) Raise(_ context.Context, r *mpc.PublicRecord) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.checkLocked(r); err != nil {
		return err
	}
	f.known[r.AccountID] = *r
	return nil
}

// counts is an Observer.
type counts struct {
	mu       sync.Mutex
	sessions map[nodepb.Failure_Reason]int
	calls    map[nodepb.Failure_Reason]int
}

func (c *counts) Session(_ string, r nodepb.Failure_Reason, _ time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions[r]++
}

func (c *counts) Failed(_ string, r nodepb.Failure_Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[r]++
}

func (c *counts) of(r nodepb.Failure_Reason) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions[r] + c.calls[r]
}

// newHosts sets up one node for each of the domains named, n1 in the first and so
// on. All of them know each other.
func newHosts(t *testing.T, domains ...string) *hosts {
	t.Helper()
	h := &hosts{people: newCustodians(t, len(domains)), domains: map[string]*testDomain{}, of: map[string]*Host{},
		known: map[string]map[string]mpc.NodeIdentity{}, floors: map[string]*testFloor{},
		counts: &counts{sessions: map[nodepb.Failure_Reason]int{}, calls: map[nodepb.Failure_Reason]int{}}}
	h.world = &world{t: t, clients: map[string]nodepb.NodeClient{}, setups: map[string]*nodepb.SetupReply{}, nodes: map[string]*Node{},
		algorithm: mpc.BIP340Secp256k1, patience: 30 * time.Second, hasty: 500 * time.Millisecond}
	identities := map[string]mpc.NodeIdentity{}
	for k, domain := range domains {
		id := fmt.Sprint("n", k+1)
		if h.domains[domain] == nil {
			h.domains[domain] = &testDomain{token: hsmtest.NewFake("fake", "1234")}
		}
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		identities[id] = mpc.NodeIdentity(public)
		h.ids, h.known[id], h.floors[id] = append(h.ids, id), map[string]mpc.NodeIdentity{}, &testFloor{known: map[mpc.AccountID]mpc.PublicRecord{}}
		h.of[id] = &Host{ID: id, MountID: [16]byte(mount), Token: h.domains[domain].open(t), Identity: private, Domain: domain, Region: "r-" + domain, Zone: "z",
			Authority: h.people.public(), Floor: h.floors[id], Sets: h.floors[id], Peer: func(peer string) (mpc.NodeIdentity, bool) {
				h.mu.Lock()
				defer h.mu.Unlock()
				known, ok := h.known[id][peer]
				return known, ok
			}}
	}
	for _, id := range h.ids {
		for peer, identity := range identities {
			if peer != id {
				h.known[id][peer] = identity
			}
		}
		h.attach(id)
	}
	h.round(1)
	return h
}

func (d *testDomain) open(t *testing.T) Token {
	t.Helper()
	view, err := d.token.Open("fake", secret.Copy([]byte("1234")))
	if err != nil {
		t.Fatal(err)
	}
	return fakeToken{view, "fake"}
}

// attach is what a coordinator's attachment does: a new node with the same host.
func (h *hosts) attach(id string) {
	h.t.Helper()
	h.clients[id], h.nodes[id] = h.serveAs(Config{Version: "test", SessionTime: h.limit, Host: h.of[id], Observer: h.counts, Now: h.now})
	reply, err := h.clients[id].Setup(h.ctx(), h.setup(id))
	if err != nil || reply.GetFailure() != nil {
		h.t.Fatal(err, reply.GetFailure())
	}
	h.setups[id] = reply
}

// switchOn gives a node's host other switches and attaches anew.
func (h *hosts) switchOn(id string, s Switches) {
	h.t.Helper()
	host := *h.of[id]
	host.Switches = s
	h.of[id] = &host
	h.attach(id)
}

// pin has a host pin another identity for a peer, or none.
func (h *hosts) pin(id, peer string, identity *mpc.NodeIdentity) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if delete(h.known[id], peer); identity != nil {
		h.known[id][peer] = *identity
	}
}

// forget lowers a floor as far as it goes.
func (f *testFloor) forget(id mpc.AccountID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, id)
}

func (f *testFloor) epoch(id mpc.AccountID) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known[id].Epoch
}

// setup is an honest coordinator's request.
func (h *hosts) setup(id string) *nodepb.SetupRequest {
	return &nodepb.SetupRequest{NodeId: id, MountId: mount, Authority: h.people.public(), WrappingKeys: h.domains[h.of[id].Domain].keys}
}

// round makes a version of the wrapping key in every domain.
func (h *hosts) round(version uint32) {
	h.t.Helper()
	for name, d := range h.domains {
		d.keys = append(d.keys, h.makeKey(h.nodeOf(name), version).GetWrappingKey())
	}
	h.shareKeys()
}

func (h *hosts) shareKeys() {
	h.t.Helper()
	for _, id := range h.ids {
		reply, err := h.clients[id].SetWrappingKeys(h.ctx(), &nodepb.SetWrappingKeysRequest{WrappingKeys: h.domains[h.of[id].Domain].keys})
		if err != nil || reply.GetFailure() != nil {
			h.t.Fatal(err, reply.GetFailure())
		}
	}
}

func (h *hosts) makeKey(id string, version uint32) *nodepb.MakeWrappingKeyReply {
	h.t.Helper()
	reply, err := h.clients[id].MakeWrappingKey(h.ctx(), &nodepb.MakeWrappingKeyRequest{Version: version, Suites: []uint32{uint32(hsm.SuiteHPKEP256)}})
	if err != nil || reply.GetFailure() != nil {
		h.t.Fatal(err, reply.GetFailure())
	}
	return reply
}

// nodeOf is the first node of a domain.
func (h *hosts) nodeOf(domain string) string {
	for _, id := range h.ids {
		if h.of[id].Domain == domain {
			return id
		}
	}
	h.t.Fatalf("no node in %s", domain)
	return ""
}

// set signs a recipient set that names every domain and its nodes, after change.
func (h *hosts) set(serial uint64, by ed25519.PrivateKey, recipients []recovery.Recipient, change func([]recovery.Domain) []recovery.Domain) (signed []byte, hash [32]byte) {
	h.t.Helper()
	var domains []recovery.Domain
	for name := range h.domains {
		d := recovery.Domain{Name: name}
		for _, id := range h.ids {
			if h.of[id].Domain == name {
				d.Nodes = append(d.Nodes, recovery.DomainNode{ID: id, Identity: h.nodes[id].self().String()})
			}
		}
		domains = append(domains, d)
	}
	if change != nil {
		domains = change(domains)
	}
	s, err := recovery.NewDomainSet(serial, recipients, domains)
	if err != nil {
		h.t.Fatal(err)
	}
	if signed, err = s.Sign(by); err != nil {
		h.t.Fatal(err)
	}
	parsed, err := recovery.ParseSignedSet(signed)
	if err != nil {
		h.t.Fatal(err)
	}
	return signed, parsed.Hash()
}

// start begins key generation of 2 of 3.
func (h *hosts) keygen() *nodepb.Start {
	s := h.world.keygen()
	s.WrappingVersion = 1
	s.Members = h.placed(1, 2, 3)
	rand.Read(s.AccountId)
	return s
}

// placed are members with the domains that their shares go to.
func (h *hosts) placed(indices ...int) []*nodepb.Member {
	members := h.members(indices...)
	for _, m := range members {
		m.Domain = h.of[m.GetNodeId()].Domain
	}
	return members
}

// held is an account as its coordinator stores it.
type held struct {
	record    *mpc.PublicRecord
	envelopes map[uint32][]byte
	// approve, where not nil, puts policy and approvals into a request for a signature.
	approve func(*mpc.PublicRecord, *nodepb.Start)
}

func (h *hosts) make(start *nodepb.Start, from *held) *held {
	h.t.Helper()
	hand := hooks{}
	if from != nil {
		hand = handing(from.envelopes)
	}
	record, envelopes := h.made(h.session(start, hand))
	if len(envelopes) != len(start.GetMembers()) {
		h.t.Fatalf("%d envelopes", len(envelopes))
	}
	made := &held{record: record, envelopes: envelopes}
	if from != nil {
		made.approve = from.approve
	}
	return made
}

func (h *hosts) refresh(a *held) *nodepb.Start {
	return &nodepb.Start{Operation: opRefresh, Members: h.placed(1, 2, 3), Record: a.record.Marshal(), WrappingVersion: 1}
}

func (h *hosts) signing(a *held) *nodepb.Start {
	s := &nodepb.Start{Operation: opSign, Members: h.members(1, 3), Record: a.record.Marshal(), Input: []byte("pay bob"), MessageType: "raw", HashAlgorithm: "none"}
	if a.approve != nil {
		a.approve(a.record, s)
	}
	return s
}

// signs demands that nodes sign an honest request.
func (h *hosts) signs(a *held) {
	h.t.Helper()
	results := h.session(h.signing(a), handing(a.envelopes))
	for i, r := range results {
		if r.outcome == nil || !verify.Signature(a.record.Algorithm, a.record.PublicKey, []byte("pay bob"), r.outcome.GetSignature()) {
			h.t.Errorf("an honest signature, share %d: %v", i, r.failure)
		}
	}
	if len(results) != 2 {
		h.t.Errorf("an honest signature: %d of 2 nodes answered", len(results))
	}
}

// refuses demands that nobody released anything and that one node says why: with
// that reason, and text in its text.
func (h *hosts) refuses(results map[uint32]outcome, reason nodepb.Failure_Reason, text string) {
	h.t.Helper()
	said := false
	for i, r := range results {
		if r.outcome != nil {
			h.t.Errorf("share %d was released", i)
		}
		said = said || saysSo(r.failure, reason, text)
	}
	if !said {
		h.t.Errorf("nobody says %v, %q: %v", reason, text, results)
	}
}

func saysSo(f *nodepb.Failure, reason nodepb.Failure_Reason, text string) bool {
	return f != nil && f.GetReason() == reason && strings.Contains(f.GetText(), text)
}

// evilKey is a wrapping key whose private half the coordinator has.
func (h *hosts) evilKey(domain string, version uint32) *nodepb.WrappingKey {
	key := h.people.keys[0].PublicKey().Bytes()
	return &nodepb.WrappingKey{Domain: domain, Version: version, Suite: uint32(hsm.SuiteHPKEP256), Id: bytes.Repeat([]byte{0xee}, 16), PublicKey: key}
}
