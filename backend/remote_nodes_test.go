package backend

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/pool"
)

var (
	eu1 = fakeNode{"eu-1", "eu", "eu", 6}
	eu2 = fakeNode{"eu-2", "eu", "eu", 7}
	us1 = fakeNode{"us-1", "us", "us", 8}
	us2 = fakeNode{"us-2", "us", "us", 9}
	ap1 = fakeNode{"ap-1", "ap", "ap", 10}
	ap2 = fakeNode{"ap-2", "ap", "ap", 11}
)

func TestEnrol(t *testing.T) {
	r := configured(t)
	if err := r.b.store.PutNodeKeys(t.Context(), "local-2", nodeKeysOf(2)); err != nil {
		t.Fatal(err)
	}
	got := r.enrolNode(eu1)
	if got["identity"] != nodeIdentity(6).String() || got["domain"] != "eu" || got["region"] != "eu" || got["zone"] != "eu-a" ||
		got["pin"] != pinOf(eu1) || got["address"] != eu1.address() || got["accept_on"] != nil || got["node_version"] != "v0.1.0" {
		t.Errorf("the answer: %v", got)
	}
	sent := r.fake.enroller.requests[0]
	mount, err := r.b.store.mount(t.Context())
	if err != nil || sent.MountID != mount.ID || sent.Address != eu1.address() {
		t.Errorf("the node was told %+v, %v", sent, err)
	}
	if len(sent.Peers) != 1 || sent.Peers[0] != (EnrolPeer{"local-2", nodeIdentity(2)}) {
		t.Errorf("the node was told peers %v", sent.Peers)
	}
	// It is in the pool, its domain has a key, and the mount shows the certificate
	// that the node pinned.
	s := r.fake.settings()
	if len(s.Remote) != 1 || s.Remote[0].ID != "eu-1" || s.Remote[0].Identity != nodeIdentity(6) || s.Remote[0].Pin != [32]byte{6, 0xbb} || s.Local != 5 {
		t.Errorf("the pool has %+v", s.Remote)
	}
	if !slices.ContainsFunc(s.WrappingKeys, func(k hsm.WrappingKey) bool { return k.Domain == "eu" && k.Version == 1 }) {
		t.Errorf("wrapping keys: %+v", s.WrappingKeys)
	}
	coordinator := r.must(logical.ReadOperation, "config/coordinator", nil)
	nodes := r.must(logical.ReadOperation, "config/nodes", nil)
	if coordinator["pin"] != got["coordinator_pin"] || nodes["coordinator_pin"] != got["coordinator_pin"] || coordinator["made"] != true ||
		!strings.Contains(coordinator["certificate"].(string), "BEGIN CERTIFICATE") || coordinator["private_key"] != nil {
		t.Errorf("config/coordinator: %v, config/nodes: %v", coordinator, nodes)
	}
	if list := r.must(logical.ListOperation, "config/nodes/", nil); !slices.Equal(list["keys"].([]string), []string{"eu-1"}) {
		t.Errorf("list: %v", list)
	}
	if read := r.must(logical.ReadOperation, "config/nodes/eu-1", nil); read["identity"] != got["identity"] || read["token"] != nil {
		t.Errorf("read: %v", read)
	}
	// The second one tells whose operators have to accept it.
	second := r.enrolNode(us1)
	if !slices.Equal(second["accept_on"].([]string), []string{"eu-1"}) || !strings.Contains(second["accept_command"].(string), "node peers add us-1 "+nodeIdentity(8).String()) {
		t.Errorf("the second answer: %v", second)
	}
	if strings.Contains(r.logs.String(), testSecret) || strings.Contains(r.logs.String(), "PRIVATE KEY") {
		t.Error("the log holds a secret")
	}
	// The same node again is the same node.
	r.enrolNode(eu1)
	if n := len(r.fake.settings().Remote); n != 2 {
		t.Errorf("%d nodes after one was enrolled twice", n)
	}
}

func TestEnrolRefusals(t *testing.T) {
	r := configured(t)
	r.up(eu1)
	path := "config/nodes/eu-1"
	later := r.b.cfg.now().Add(time.Hour)
	with := func(k string, v any) map[string]any {
		d := map[string]any{"address": eu1.address(), "token": eu1.token(later)}
		d[k] = v
		return d
	}
	other := eu1
	other.domain = "recovery:eu"
	for _, c := range []struct {
		path string
		data map[string]any
		text string
	}{
		{path, with("token", "hello"), "Nothing was changed"},
		{path, with("token", eu1.token(r.b.cfg.now().Add(-time.Second))), "the token expired at"},
		{path, with("token", us1.token(later)), `of node "us-1"`},
		{path, with("token", other.token(later)), "Nothing was changed"},
		{path, with("address", "eu-1"), "not HOST:PORT"},
		{path, with("address", ":8300"), "not HOST:PORT"},
		{path, with("tls_server_name", "x"), "send both or neither"},
		{path, with("force", true), "force is for removing"},
		{path, with("address", "elsewhere.example.com:8300"), "the token can be used still"},
		{"config/nodes/local-1", with("token", eu1.token(later)), "kept for nodes on Vault's own host"},
		{"config/nodes/EU-1", with("token", eu1.token(later)), "not a name for a node"},
		{"config/nodes/" + strings.Repeat("a", 49), with("token", eu1.token(later)), "not a name for a node"},
	} {
		r.fails(logical.UpdateOperation, c.path, c.data, http.StatusBadRequest, c.text)
	}
	r.fails(logical.UpdateOperation, path, map[string]any{"address": eu1.address()}, http.StatusNotFound, "no node")
	for _, c := range []struct {
		err  error
		text string
	}{
		{fmt.Errorf("%w: the proof is wrong", ErrStrangeNode), "do not go on"},
		{fmt.Errorf("%w: it is enrolled with another mount", ErrRefusedByNode), "node enrol"},
		{fmt.Errorf("%w: timeout", ErrUnreachableNode), "The pool stays as it was"},
	} {
		r.fake.enroller.err = c.err
		r.fails(logical.UpdateOperation, path, with("token", eu1.token(later)), http.StatusBadRequest, c.text)
	}
	// A node whose answer is not what its token says.
	r.fake.enroller.nodes[eu1.address()].Domain = "us"
	r.fails(logical.UpdateOperation, path, with("token", eu1.token(later)), http.StatusBadRequest, "another identity, domain, region or zone")
	if list, _, _ := r.do(logical.ListOperation, "config/nodes/", nil); list != nil && list.Data["keys"] != nil {
		t.Errorf("enrolled after refusals: %v", list.Data)
	}
	if n := len(r.fake.settings().Remote); n != 0 {
		t.Errorf("%d nodes in the pool after refusals", n)
	}
	// An identity never changes under its name, and has one name.
	r.enrolNode(eu1)
	impostor := eu1
	impostor.number = 12
	r.up(impostor)
	r.fails(logical.UpdateOperation, path, with("token", impostor.token(later)), http.StatusBadRequest, "an identity never changes under a name")
	twin := eu1
	twin.id = "eu-9"
	r.up(twin)
	r.fails(logical.UpdateOperation, "config/nodes/eu-9", map[string]any{"address": twin.address(), "token": twin.token(later)}, http.StatusBadRequest, `already, as "eu-1"`)
}

func TestChangeRemote(t *testing.T) {
	r := configured(t)
	r.enrolNode(eu1)
	r.fails(logical.UpdateOperation, "config/nodes/eu-1", map[string]any{"address": "10.0.0.1:1"}, http.StatusBadRequest, "Vault goes on with eu-1.example.com:8300")
	r.fake.enroller.nodes["10.0.0.1:1"] = r.fake.enroller.nodes[eu1.address()]
	got := r.must(logical.UpdateOperation, "config/nodes/eu-1", map[string]any{"address": "10.0.0.1:1", "tls_ca": "pem", "tls_server_name": "eu-1.example.com"})
	if got["address"] != "10.0.0.1:1" || got["tls_ca"] != "pem" || got["domain"] != "eu" {
		t.Errorf("changed: %v", got)
	}
	if n := r.fake.settings().Remote[0]; n.Address != "10.0.0.1:1" || n.Pin != [32]byte{} || string(n.CA) != "pem" || n.ServerName != "eu-1.example.com" {
		t.Errorf("the pool has %+v", n)
	}
	r.must(logical.UpdateOperation, "config/nodes/eu-1", map[string]any{"tls_ca": "", "tls_server_name": ""})
	if n := r.fake.settings().Remote[0]; n.Pin != [32]byte{6, 0xbb} || n.ServerName != "" {
		t.Errorf("back at the pin: %+v", n)
	}
}

// TestRemoteOnly: a mount without config/hsm has the nodes that are enrolled.
func TestRemoteOnly(t *testing.T) {
	for name, reason := range map[string]string{"a build that could": "", "a build without cgo": "made without cgo"} {
		t.Run(name, func(t *testing.T) {
			fake := newFake(t)
			fake.nodes = 0
			r := openWith(t, &logical.InmemStorage{}, fake, func(c *Config) { c.NoLocalNodes = reason })
			if reason != "" {
				r.fails(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN}, http.StatusBadRequest, "made without cgo. Nothing was changed")
				r.fails(logical.UpdateOperation, "config/nodes", map[string]any{"local": 3}, http.StatusBadRequest, "register the build with cgo")
				r.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "ed25519"}, http.StatusBadRequest, "3 shares need as many nodes and there are 0")
				if d := r.must(logical.ReadOperation, "config/nodes", nil); d["local"] != 0 {
					t.Errorf("config/nodes: %v", d)
				}
			}
			for _, n := range []fakeNode{eu1, us1, ap1} {
				r.enrolNode(n)
			}
			s := fake.settings()
			if s.Local != 0 || len(s.Remote) != 3 || s.Token.Module != "" || s.Token.PIN.Len() != 0 {
				t.Errorf("settings: %d local, %d remote, token %q", s.Local, len(s.Remote), s.Token.Module)
			}
			got := r.create("alice", "ed25519")
			p := got["placement"].(map[string]any)
			if p["regions"] != 3 || p["most_in_region"] != 1 || p["region_compromise"] != "safe" || p["region_loss"] != "survives" ||
				p["domains"] != 3 || p["domain_compromise"] != "safe" || p["domain_loss"] != "survives" {
				t.Errorf("placement: %v", p)
			}
			r.signs("alice")
			r.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
			r.signs("alice")
		})
	}
}

func TestRemoveRemote(t *testing.T) {
	fake := newFake(t)
	r := open(t, &logical.InmemStorage{}, fake)
	for _, n := range []fakeNode{eu1, eu2, us1, us2, ap1} {
		r.enrolNode(n)
	}
	r.create("alice", "ed25519")
	if err := r.b.store.PutNodeKeys(t.Context(), "ap-1", nodeKeysOf(10)); err != nil {
		t.Fatal(err)
	}
	r.fails(logical.DeleteOperation, "config/nodes/ap-1", nil, http.StatusBadRequest, `1 share(s) in wrapping domain "ap" in region "ap", and 0 node(s)`)
	r.fails(logical.DeleteOperation, "config/nodes/sa-1", nil, http.StatusNotFound, "no node")
	// One of two in a region, the one that has seen nothing or, after the other has
	// taken its share, either.
	spare := "eu-2"
	if a := r.accountOf("alice"); !hasSeen(a, nodeIdentity(6)) {
		spare = "eu-1"
	}
	r.must(logical.DeleteOperation, "config/nodes/"+spare, nil)
	if n := len(fake.settings().Remote); n != 4 {
		t.Errorf("%d nodes are left", n)
	}
	r.signs("alice")
	r.must(logical.DeleteOperation, "config/nodes/ap-1", map[string]any{"force": true})
	if keys, err := r.b.store.NodeKeys(t.Context(), "ap-1"); err != nil || keys != nil {
		t.Errorf("its keys stay: %v, %v", keys, err)
	}
	// It comes back under its name, also with another identity.
	again := ap1
	again.number = 13
	r.enrolNode(again)
	if n := len(fake.settings().Remote); n != 4 {
		t.Errorf("%d nodes after it came back", n)
	}
}

// TestEnrolElsewhere: a node that is enrolled again from another region would leave the
// shares that live where it was to nobody.
func TestEnrolElsewhere(t *testing.T) {
	r := open(t, &logical.InmemStorage{}, newFake(t))
	for _, n := range []fakeNode{eu1, us1, ap1} {
		r.enrolNode(n)
	}
	r.create("alice", "ed25519")
	moved := eu1
	moved.region = "europe"
	r.up(moved)
	before := len(r.fake.enroller.requests)
	r.fails(logical.UpdateOperation, "config/nodes/eu-1", map[string]any{"address": moved.address(), "token": moved.token(r.b.cfg.now().Add(time.Hour))},
		http.StatusBadRequest, `1 share(s) in wrapping domain "eu" in region "eu", and 0 node(s)`)
	if len(r.fake.enroller.requests) != before {
		t.Error("the node was asked to pin this mount")
	}
	if got := r.must(logical.ReadOperation, "config/nodes/eu-1", nil); got["region"] != "eu" {
		t.Errorf("it is in region %v now", got["region"])
	}
	r.up(eu1)
	r.signs("alice")
	// With another node where the share lives it may go.
	r.enrolNode(eu2)
	if a := r.accountOf("alice"); !hasSeen(a, nodeIdentity(6)) || hasSeen(a, nodeIdentity(7)) {
		t.Fatalf("exposures: %v", a.Exposures)
	}
	r.enrolNode(moved)
	if got := r.must(logical.ReadOperation, "config/nodes/eu-1", nil); got["region"] != "europe" {
		t.Errorf("it is in region %v still", got["region"])
	}
}

func TestLocalZero(t *testing.T) {
	r := configured(t)
	r.fails(logical.UpdateOperation, "config/nodes", map[string]any{"local": 0}, http.StatusBadRequest, "it can be 0 with 2 or more")
	r.enrolNode(eu1)
	r.fails(logical.UpdateOperation, "config/nodes", map[string]any{"local": 0}, http.StatusBadRequest, "while 1 node(s)")
	r.enrolNode(us1)
	got := r.must(logical.UpdateOperation, "config/nodes", map[string]any{"local": 0})
	if got["local"] != 0 || !slices.Equal(got["remote"].([]string), []string{"eu-1", "us-1"}) {
		t.Errorf("config/nodes: %v", got)
	}
	if s := r.fake.settings(); s.Local != 0 || s.Token.Module != "" {
		t.Errorf("settings: %d local, token %q", s.Local, s.Token.Module)
	}
	r.must(logical.UpdateOperation, "config/nodes", map[string]any{"local": 3, "region": "ap"})
	if s := r.fake.settings(); s.Local != 3 || s.LocalRegion != "ap" || s.Token.Module != "softhsm" {
		t.Errorf("settings: %d local in %q, token %q", s.Local, s.LocalRegion, s.Token.Module)
	}
	r.fails(logical.UpdateOperation, "config/nodes", map[string]any{"region": "A b"}, http.StatusBadRequest, "not a name for a region")
	r.create("alice", "ed25519")
	// Its shares live in the region of the local nodes too, which cannot be renamed
	// under them.
	r.fails(logical.UpdateOperation, "config/nodes", map[string]any{"region": "sa"}, http.StatusBadRequest, `in wrapping domain "default" in region "ap"`)
	r.fails(logical.UpdateOperation, "config/nodes", map[string]any{"local": 0}, http.StatusBadRequest, "keep local")
}

// TestLocalWithoutKey: local nodes that come back after the last version that had a key
// in their token was destroyed would keep the whole pool from starting.
func TestLocalWithoutKey(t *testing.T) {
	r := configured(t)
	r.enrolNode(eu1)
	r.enrolNode(us1)
	r.must(logical.UpdateOperation, "config/nodes", map[string]any{"local": 0})
	r.must(logical.UpdateOperation, "config/rotation", map[string]any{"retire_after": 1})
	if _, err := r.b.makeVersion(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.b.destroyVersion(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.fails(logical.UpdateOperation, "config/nodes", map[string]any{"local": 5}, http.StatusBadRequest, "write config/hsm again")
	if _, err := r.b.settings(t.Context()); err != nil {
		t.Errorf("the pool does not start any more: %v", err)
	}
	r.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
	r.must(logical.UpdateOperation, "config/nodes", map[string]any{"local": 5})
	r.create("alice", "ed25519")
	r.signs("alice")
}

// TestLocalKeysGo: what local nodes leave behind keeps no version of the wrapping key
// alive once there are none.
func TestLocalKeysGo(t *testing.T) {
	r := configured(t)
	if err := r.b.store.PutNodeKeys(t.Context(), "local-1", nodeKeysOf(1)); err != nil {
		t.Fatal(err)
	}
	has := func() bool {
		k, err := r.b.store.NodeKeys(t.Context(), "local-1")
		if err != nil {
			t.Fatal(err)
		}
		return k != nil
	}
	r.enrolNode(eu1)
	r.enrolNode(us1)
	r.must(logical.UpdateOperation, "config/nodes", map[string]any{"local": 0})
	r.pass()
	if !has() {
		t.Fatal("the keys were removed although no version was made without their token: local nodes may come back as they were")
	}
	if _, err := r.b.makeVersion(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A program without local nodes says nothing about those that another one has.
	r.b.store.noLocal = true
	nodes, err := r.b.store.nodesConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	nodes.Local = 3
	if err := r.b.store.putNodesConfig(t.Context(), nodes); err != nil {
		t.Fatal(err)
	}
	r.pass()
	if !has() {
		t.Error("the keys were removed although config/nodes counts local nodes")
	}
	r.b.store.noLocal, nodes.Local = false, 0
	if err := r.b.store.putNodesConfig(t.Context(), nodes); err != nil {
		t.Fatal(err)
	}
	r.b.keeper.ended(chore{what: choreNodeKeys, node: "local-1"}, nil) // its wait is over
	r.pass()
	if has() {
		t.Error("the keys of local nodes stay, and so does the version that they are sealed to")
	}
}

func TestCoordinator(t *testing.T) {
	r := configured(t)
	if resp, _, _ := r.do(logical.ReadOperation, "config/coordinator", nil); resp != nil {
		t.Errorf("before the first: %v", resp.Data)
	}
	make := func() (string, string) {
		cert, key, err := nodelink.NewCertificate("mpc", time.Now().Add(100*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return string(cert), string(key.Expose())
	}
	cert, key := make()
	other, otherKey := make()
	for _, c := range []struct {
		data map[string]any
		text string
	}{
		{map[string]any{"certificate": cert}, "send both"},
		{map[string]any{"certificate": cert, "private_key": otherKey}, "do not belong together"},
		{map[string]any{"certificate": "x", "private_key": key}, "not PEM"},
	} {
		r.fails(logical.UpdateOperation, "config/coordinator", c.data, http.StatusBadRequest, c.text)
	}
	got := r.must(logical.UpdateOperation, "config/coordinator", map[string]any{"certificate": cert, "private_key": key})
	if got["made"] != false || got["private_key"] != nil || len(got["pin"].(string)) != 64 {
		t.Errorf("the answer: %v", got)
	}
	if wrote := r.enrolNode(eu1); wrote["coordinator_pin"] != got["pin"] {
		t.Errorf("the node pinned %v, not %v", wrote["coordinator_pin"], got["pin"])
	}
	change := map[string]any{"certificate": other, "private_key": otherKey}
	r.fails(logical.UpdateOperation, "config/coordinator", change, http.StatusBadRequest, "would refuse this mount")
	r.must(logical.UpdateOperation, "config/coordinator", map[string]any{"certificate": cert, "private_key": key}) // the same key
	change["force"] = true
	r.must(logical.UpdateOperation, "config/coordinator", change)
	if got := string(r.fake.settings().Client.Certificate); got != other {
		t.Error("the pool shows another certificate")
	}
	if r.fake.settings().Client.Key.Len() != 0 {
		t.Error("the key outlived Apply")
	}
	if strings.Contains(r.logs.String(), "PRIVATE KEY") {
		t.Error("the log holds a private key")
	}
}

func TestRenewCoordinator(t *testing.T) {
	r := configured(t)
	r.fails(logical.UpdateOperation, "config/coordinator", nil, http.StatusBadRequest, "send certificate and private_key")
	r.enrolNode(eu1)
	before := r.must(logical.ReadOperation, "config/coordinator", nil)
	got := r.must(logical.UpdateOperation, "config/coordinator", nil)
	if got["pin"] != before["pin"] || got["certificate"] == before["certificate"] || got["made"] != true {
		t.Errorf("renewed: %v, before: %v", got, before)
	}
	if string(r.fake.settings().Client.Certificate) != got["certificate"] {
		t.Error("the pool shows another certificate")
	}
	if resp, _, _ := r.do(logical.UpdateOperation, "config/authority", map[string]any{"public_key": strings.Repeat("ab", 32)}); resp == nil || len(resp.Warnings) != 1 {
		t.Error("nobody says that the node does not know the authority")
	}
}

// TestLoginsKeepTheirDomain: the last node that could open the identity keys stays.
func TestLoginsKeepTheirDomain(t *testing.T) {
	m := enrolled(t)
	if _, err := m.b.identityServerKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.enrolNode(eu1)
	m.enrolNode(us1)
	m.fails(logical.UpdateOperation, "config/nodes", map[string]any{"local": 0}, http.StatusBadRequest, `log in by are sealed in wrapping domain "default"`)
	m.must(logical.DeleteOperation, "config/nodes/eu-1", nil)
}

func TestNodesOfOtherHosts(t *testing.T) {
	r := configured(t)
	r.enrolNode(eu1)
	got := r.must(logical.ReadOperation, "nodes/eu-1", nil)
	if got["remote"] != true || got["address"] != eu1.address() || got["region"] != "eu" || got["zone"] != "eu-a" || got["domain"] != "eu" ||
		got["rtt_ms"] != 12.35 || got["clock_skew_ms"] != -3.0 {
		t.Errorf("nodes/eu-1: %v", got)
	}
	if got := r.must(logical.ReadOperation, "nodes/local-1", nil); got["remote"] != false || got["domain"] != "default" || got["address"] != "" {
		t.Errorf("nodes/local-1: %v", got)
	}
	text, _ := r.must(logical.ReadOperation, "metrics", nil)[logical.HTTPRawBody].([]byte)
	if s := string(text); !strings.Contains(s, `mpc_node_rtt_seconds{node="eu-1"}`) || !strings.Contains(s, `mpc_region_nodes_ready{region="eu"} 1`) ||
		strings.Contains(s, `mpc_node_rtt_seconds{node="local-1"}`) {
		t.Errorf("metrics:\n%s", s)
	}
}

// account reads an account as nodes use it.
func (r *mount) accountOf(name string) *mpc.Account {
	r.t.Helper()
	rec, err := r.b.needAccount(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	a, err := r.b.store.usable(r.t.Context(), rec)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func hasSeen(a *mpc.Account, id mpc.NodeIdentity) bool {
	_, ok := a.Exposures[id]
	return ok
}

func nodeKeysOf(i int) *pool.NodeKeys {
	return &pool.NodeKeys{Identity: nodeIdentity(i), IdentityEnvelope: fakeEnvelope([]byte("seed"), 1)}
}
