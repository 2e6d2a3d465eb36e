package backend

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/recovery"
)

func placementOf(d map[string]any) map[string]any { return d["placement"].(map[string]any) }

func homesIn(d map[string]any) (domains, regions []string) {
	for _, h := range placementOf(d)["homes"].([]map[string]any) {
		domains, regions = append(domains, h["domain"].(string)), append(regions, h["region"].(string))
	}
	slices.Sort(domains)
	slices.Sort(regions)
	return domains, regions
}

// TestMove: an account of a pool without regions goes to regions, and from there to
// one domain of another HSM.
func TestMove(t *testing.T) {
	m := configured(t)
	created := m.create("alice", "ed25519")
	if p := placementOf(created); p["regions"] != 1 || p["region_compromise"] != "t shares in one region" || p["region_loss"] != "stops signing" {
		t.Errorf("placement in one place: %v", p)
	}
	if resp, _, _ := m.do(logical.ReadOperation, "accounts/alice", nil); len(resp.Warnings) > 0 {
		t.Errorf("a pool of one place warns: %v", resp.Warnings)
	}
	m.must(logical.UpdateOperation, "accounts/alice/move", nil) // moves nothing
	if a := m.accountOf("alice"); a.Record.Epoch != 2 || a.Homes != nil {
		t.Errorf("epoch %d with homes %v", a.Record.Epoch, a.Homes)
	}
	m.must(logical.UpdateOperation, "config/nodes", map[string]any{"region": "ap"})
	for _, n := range []fakeNode{eu1, eu2, us1, us2} {
		m.enrolNode(n)
	}
	m.fails(logical.UpdateOperation, "accounts/alice/move", map[string]any{"domains": "sa"}, http.StatusBadRequest, `has wrapping domain "sa"; there are default, eu, us`)
	m.fails(logical.UpdateOperation, "accounts/alice/move", nil, http.StatusBadRequest, "it names none for eu, us")
	m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"domains": "eu"}, http.StatusBadRequest, "accounts/alice/move")
	if a := m.accountOf("alice"); a.Record.Epoch != 2 {
		t.Errorf("a refused move made epoch %d", a.Record.Epoch)
	}
	m.names(eu1, us1)
	got := m.must(logical.UpdateOperation, "accounts/alice/move", nil)
	if got["public_key_hex"] != created["public_key_hex"] || got["share_epoch"] != uint64(4) {
		t.Errorf("after a move: %v", got)
	}
	if domains, regions := homesIn(got); !slices.Equal(domains, []string{"default", "eu", "us"}) || !slices.Equal(regions, []string{"ap", "eu", "us"}) {
		t.Errorf("homes: %v %v", domains, regions)
	}
	if p := placementOf(got); p["region_compromise"] != "safe" || p["region_loss"] != "survives" || p["domain_compromise"] != "safe" {
		t.Errorf("placement: %v", p)
	}
	m.onlyAtHome("alice")
	m.signs("alice")
	m.must(logical.UpdateOperation, "accounts/alice/refresh", nil)
	m.onlyAtHome("alice")

	// A new HSM: all of it to one domain, which is said to be weak.
	m.fails(logical.UpdateOperation, "accounts/alice/move", map[string]any{"domains": "eu"}, http.StatusConflict, "nothing was moved")
	resp, _, _ := m.do(logical.UpdateOperation, "accounts/alice/move", map[string]any{"domains": "eu,us"})
	if domains, _ := homesIn(resp.Data); slices.Contains(domains, "default") {
		t.Errorf("homes: %v", domains)
	}
	if !slices.ContainsFunc(resp.Warnings, func(w string) bool { return strings.Contains(w, "whoever has everything there has the key") }) {
		t.Errorf("warnings: %v", resp.Warnings)
	}
	m.onlyAtHome("alice")
	m.signs("alice")
}

// TestMoveGoesOn: what fails between the two refreshes is finished by repeating the
// request, and the account signs meanwhile.
func TestMoveGoesOn(t *testing.T) {
	m := configured(t)
	m.create("alice", "ed25519")
	m.must(logical.UpdateOperation, "config/nodes", map[string]any{"region": "ap"})
	for _, n := range []fakeNode{eu1, us1} {
		m.enrolNode(n)
	}
	m.names(eu1, us1)
	m.b.cfg.step = func(_ context.Context, name string) error {
		if name == stepMoveSealed {
			m.fake.mu.Lock()
			m.fake.refreshErr = errors.New("the network is away")
			m.fake.mu.Unlock()
		}
		return nil
	}
	_, status, text := m.do(logical.UpdateOperation, "accounts/alice/move", nil)
	if status != http.StatusInternalServerError || !strings.Contains(text, "are at their new homes and sign there") {
		t.Errorf("%d %s", status, text)
	}
	m.b.cfg.step = nil
	m.fake.refreshErr = nil
	m.signs("alice")
	if a := m.accountOf("alice"); a.Record.Epoch != 2 || len(a.Homes) != 3 {
		t.Fatalf("epoch %d, homes %v", a.Record.Epoch, a.Homes)
	}
	got := m.must(logical.UpdateOperation, "accounts/alice/move", nil)
	if got["share_epoch"] != uint64(3) { // one refresh was left
		t.Errorf("epoch %v", got["share_epoch"])
	}
	m.onlyAtHome("alice")
}

func TestCreateInDomains(t *testing.T) {
	m := configured(t)
	for _, n := range []fakeNode{eu1, eu2, us1, us2, ap1} {
		m.enrolNode(n)
	}
	m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "ed25519", "domains": "eu,sa"}, http.StatusBadRequest, `"sa"`)
	m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "ed25519", "domains": "eu"}, http.StatusBadRequest, "domain(s) eu have 2")
	got := m.must(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "ed25519", "domains": "eu,us,ap"})
	if domains, _ := homesIn(got); !slices.Equal(domains, []string{"ap", "eu", "us"}) {
		t.Errorf("homes: %v", domains)
	}
	// A node that seals elsewhere than it said is not believed.
	m.fake.mismatch = func(res *pool.KeyResult) {
		res.Account.Shares[0].Envelope = inDomain(res.Account.Shares[0].Envelope, "default")
	}
	_, status, text := m.do(logical.UpdateOperation, "accounts/bob", map[string]any{"algorithm": "ed25519", "domains": "eu,us,ap"})
	if status != http.StatusInternalServerError || !strings.Contains(text, "no account was created") {
		t.Errorf("%d %s", status, text)
	}
	m.fake.mismatch = func(res *pool.KeyResult) {
		res.Account.Homes[0], res.Account.Homes[1] = res.Account.Homes[1], res.Account.Homes[0]
		for i, h := range res.Account.Homes {
			res.Account.Shares[i].Envelope = inDomain(res.Account.Shares[i].Envelope, h.Domain)
		}
	}
	_, status, text = m.do(logical.UpdateOperation, "accounts/alice/refresh", nil)
	if status != http.StatusInternalServerError || !strings.Contains(text, "the refresh is void") {
		t.Errorf("a refresh that moves shares by itself: %d %s", status, text)
	}
	m.fake.mismatch = nil
	m.signs("alice")
}

func TestCanServeHomes(t *testing.T) {
	id := func(i byte) *mpc.NodeIdentity { return &mpc.NodeIdentity{i} }
	eu, us := mpc.Home{Domain: "eu", Region: "eu"}, mpc.Home{Domain: "us", Region: "us"}
	at := func(i byte, h mpc.Home) site { return site{identity: id(i), domain: h.Domain, region: h.Region} }
	a := &mpc.Account{Record: mpc.PublicRecord{Shares: 3}, Homes: []mpc.Home{eu, us, us},
		Exposures: mpc.Exposures{*id(1): 1, *id(2): 2, *id(3): 3}}
	west := us
	west.Region = "us-west"
	for name, c := range map[string]struct {
		nodes []site
		want  bool
	}{
		"all at home":                      {[]site{at(1, eu), at(2, us), at(3, us)}, true},
		"a spare of the same home":         {[]site{at(1, eu), at(2, us), at(4, us)}, true},
		"a spare of another home":          {[]site{at(1, eu), at(2, us), at(4, eu)}, false},
		"another region of the domain":     {[]site{at(1, eu), at(2, us), at(4, west)}, false},
		"one that has seen another share":  {[]site{at(1, eu), at(2, us), at(1, us)}, false},
		"a node that has left its home":    {[]site{at(1, eu), at(2, us), at(3, eu)}, false},
		"a node without an identity":       {[]site{at(1, eu), at(2, us), {domain: "us", region: "us"}}, true},
		"a node without one, of elsewhere": {[]site{at(1, eu), at(2, us), {domain: hsm.DefaultDomain}}, false},
	} {
		if got := canServe(a, c.nodes); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// onlyAtHome checks that nobody but nodes of their homes has seen the shares of the
// present epoch, and that each is sealed to its home.
func (m *mount) onlyAtHome(name string) {
	m.t.Helper()
	a := m.accountOf(name)
	m.fake.mu.Lock()
	defer m.fake.mu.Unlock()
	for node, i := range a.Exposures {
		if !m.fake.lives(a, node, i) {
			m.t.Errorf("%s: node %v, which is not at home, has seen share %d", name, node, i)
		}
	}
	for k, h := range a.Homes {
		if d := recovery.WrappingDomain(a.Shares[k].Envelope); d != h.Domain {
			m.t.Errorf("%s: share %d lives in %q and is sealed to %q", name, k+1, h.Domain, d)
		}
	}
}
