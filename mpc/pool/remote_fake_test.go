package pool

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// fakeRemotes connects to fake nodes on other hosts.
type fakeRemotes struct {
	host *fakeHost
	mu   sync.Mutex
	// setups and keys are what each node was last given.
	setups map[string]*nodepb.SetupRequest
	keys   map[string][]uint32
	skew   time.Duration
	ending map[string]bool
	// dumb nodes do not answer Status.
	dumb map[string]bool
}

func newFakeRemotes(h *fakeHost) *fakeRemotes {
	return &fakeRemotes{host: h, setups: map[string]*nodepb.SetupRequest{}, keys: map[string][]uint32{}, ending: map[string]bool{}, dumb: map[string]bool{}}
}

func (f *fakeRemotes) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeRemotes) setup(name string) *nodepb.SetupRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.setups[name]
}

func (f *fakeRemotes) versions(name string) []uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys[name]
}

func fakeKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func fakeRemote(name, region, domain string) RemoteNode {
	return RemoteNode{ID: name, Address: name + ":1", Region: region, Domain: domain,
		Identity: mpc.NodeIdentity(fakeKey(name).Public().(ed25519.PublicKey)), Pin: [32]byte{1}}
}

func (f *fakeRemotes) Dial(_ context.Context, n RemoteNode, own ClientCertificate) (Process, error) {
	if own.Key.Len() == 0 {
		return nil, errors.New("no certificate")
	}
	p, err := f.host.Start(n.ID)
	if err != nil {
		return nil, err
	}
	return &fakeLink{fakeProcess: p.(*fakeProcess), remotes: f, node: n}, nil
}

// fakeLink is a connection to a node that is what it was when it was first seen.
type fakeLink struct {
	*fakeProcess
	remotes *fakeRemotes
	node    RemoteNode
}

func (l *fakeLink) Client() nodepb.NodeClient { return l }
func (l *fakeLink) PID() int                  { return 0 }

func (l *fakeLink) Setup(_ context.Context, r *nodepb.SetupRequest, _ ...grpc.CallOption) (*nodepb.SetupReply, error) {
	l.remotes.mu.Lock()
	defer l.remotes.mu.Unlock()
	l.remotes.setups[l.name] = r
	l.remotes.take(l.name, r.GetWrappingKeys())
	return &nodepb.SetupReply{Version: "v1", Identity: fakeKey(l.name).Public().(ed25519.PublicKey), Domain: l.node.Domain, Region: l.node.Region}, nil
}

func (l *fakeLink) SetWrappingKeys(_ context.Context, r *nodepb.SetWrappingKeysRequest, _ ...grpc.CallOption) (*nodepb.SetWrappingKeysReply, error) {
	l.remotes.mu.Lock()
	defer l.remotes.mu.Unlock()
	l.remotes.take(l.name, r.GetWrappingKeys())
	return &nodepb.SetWrappingKeysReply{}, nil
}

func (f *fakeRemotes) take(name string, keys []*nodepb.WrappingKey) {
	f.keys[name] = nil
	for _, k := range keys {
		f.keys[name] = append(f.keys[name], k.GetVersion())
	}
}

func (l *fakeLink) Status(ctx context.Context, _ *nodepb.StatusRequest, _ ...grpc.CallOption) (*nodepb.StatusReply, error) {
	l.remotes.mu.Lock()
	dumb, ending, now := l.remotes.dumb[l.name], l.remotes.ending[l.name], time.Now().Add(l.remotes.skew)
	l.remotes.mu.Unlock()
	if dumb {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &nodepb.StatusReply{Hsm: hsmOK, Draining: ending, TimeUnixMs: now.UnixMilli()}, nil
}

// fakeRegions is a pool of two local nodes and two in each of eu and us, of which us
// has a token of its own.
func fakeRegions(t *testing.T) (*Pool, *fakeHost, *fakeRemotes, Settings) {
	t.Helper()
	h := &fakeHost{t: t, acts: map[string]string{}, running: map[string]*fakeProcess{}, starts: map[string]int{}}
	remotes := newFakeRemotes(h)
	p := New(Config{Store: &memoryKeys{by: map[string]NodeKeys{}}, Launcher: h, Dialer: remotes, RestartMin: time.Millisecond, RestartMax: 5 * time.Millisecond})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	s := Settings{MountID: [16]byte{7}, Token: Token{Module: "none", Label: "none", PIN: secret.New([]byte("1234"))},
		WrappingKeys: []hsm.WrappingKey{{Domain: hsm.DefaultDomain, Version: 1, ID: []byte{1}}, {Domain: "us", Version: 1, ID: []byte{2}}},
		Local:        2, LocalRegion: "here", Client: ClientCertificate{Certificate: []byte("c"), Key: secret.New([]byte("k"))},
		Remote: []RemoteNode{fakeRemote("eu-1", "eu", hsm.DefaultDomain), fakeRemote("eu-2", "eu", hsm.DefaultDomain),
			fakeRemote("us-1", "us", "us"), fakeRemote("us-2", "us", "us")}}
	applied(t, p, s, 6)
	return p, h, remotes, s
}

func applied(t *testing.T, p *Pool, s Settings, ready int) {
	t.Helper()
	if err := p.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nodes ready", func() bool { nodes, _, _, _ := p.ready(); return len(nodes) == ready })
}

// TestApplyRemote: what is changed of one node on another host touches no other
// node, and none is told more than it needs.
func TestApplyRemote(t *testing.T) {
	p, h, remotes, s := fakeRegions(t)
	starts := func() map[string]int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return maps.Clone(h.starts)
	}
	if r := remotes.setup("eu-1"); r.GetToken() != nil || len(r.GetIdentityEnvelope()) > 0 || len(r.GetWrappingKeys()) != 1 || r.GetWrappingKeys()[0].GetDomain() != hsm.DefaultDomain {
		t.Errorf("a remote node was told %v", r)
	}
	if r := remotes.setup("us-1"); len(r.GetWrappingKeys()) != 1 || r.GetWrappingKeys()[0].GetDomain() != "us" {
		t.Errorf("a node of another domain was told %v", r)
	}
	for what, c := range map[string]struct {
		change    func(*Settings)
		restarted []string
	}{
		"address": {func(s *Settings) { s.Remote[0].Address = "elsewhere:1" }, []string{"eu-1"}},
		"pin":     {func(s *Settings) { s.Remote[1].Pin[5] = 9 }, []string{"eu-2"}},
		"CA":      {func(s *Settings) { s.Remote[2].CA = []byte("ca") }, []string{"us-1"}},
		"region":  {func(s *Settings) { s.Remote[3].Region = "ca" }, []string{"us-2"}},
		"certificate": {func(s *Settings) { s.Client.Certificate = []byte("d") },
			[]string{"eu-1", "eu-2", "us-1", "us-2"}},
		"local region": {func(s *Settings) { s.LocalRegion = "there" }, nil},
		"version": {func(s *Settings) {
			s.WrappingKeys = append(s.WrappingKeys, hsm.WrappingKey{Domain: "us", Version: 2, ID: []byte{3}})
		}, nil},
		"another key": {func(s *Settings) { s.WrappingKeys[1].ID = []byte{8} }, []string{"us-1", "us-2"}},
		"nothing":     {func(*Settings) {}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			applied(t, p, s, 6)
			before := starts()
			changed := s
			changed.Remote, changed.WrappingKeys = slices.Clone(s.Remote), slices.Clone(s.WrappingKeys)
			c.change(&changed)
			applied(t, p, changed, 6)
			eventually(t, "the nodes that had to start again", func() bool {
				after := starts()
				return !slices.ContainsFunc(c.restarted, func(id string) bool { return after[id] != before[id]+1 })
			})
			for id, n := range starts() {
				if !slices.Contains(c.restarted, id) && n != before[id] {
					t.Errorf("%s was started again", id)
				}
			}
			if what == "version" && (!slices.Equal(remotes.versions("us-1"), []uint32{1, 2}) || !slices.Equal(remotes.versions("eu-1"), []uint32{1})) {
				t.Errorf("us-1 has %v, eu-1 %v", remotes.versions("us-1"), remotes.versions("eu-1"))
			}
		})
	}
	for what, change := range map[string]func(*Settings){
		"a local node's name": func(s *Settings) { s.Remote[0].ID = "local-7" },
		"a name twice":        func(s *Settings) { s.Remote[0].ID = "us-1" },
		"no identity":         func(s *Settings) { s.Remote[0].Identity = mpc.NodeIdentity{} },
		"no token":            func(s *Settings) { s.Token = Token{} },
		"no key for the local nodes": func(s *Settings) {
			s.WrappingKeys = s.WrappingKeys[1:]
		},
	} {
		bad := s
		bad.Remote = slices.Clone(s.Remote)
		change(&bad)
		if err := p.Apply(context.Background(), bad); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	// Without local nodes no token is needed, and without keys nodes wait for theirs.
	bare := s
	bare.Local, bare.Token, bare.WrappingKeys = 0, Token{}, s.WrappingKeys[1:]
	applied(t, p, bare, 4)
	ready, _, _, err := p.candidates()
	if err != nil || len(ready) != 2 {
		t.Errorf("%v can have shares, %v", ready, err)
	}
	bare.Remote = nil
	if err := p.Apply(context.Background(), bare); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an empty pool", func() bool { return len(p.Nodes()) == 0 })
}

// TestRemoteHealth: a node that does not answer, or that says that it is about to
// end, gets no sessions; clocks and ways are measured.
func TestRemoteHealth(t *testing.T) {
	p, _, remotes, _ := fakeRegions(t)
	status := func(id string) NodeStatus {
		all := p.Nodes()
		return all[slices.IndexFunc(all, func(s NodeStatus) bool { return s.ID == id })]
	}
	remotes.set(func() { remotes.skew = time.Hour })
	eventually(t, "a clock that is wrong", func() bool { return status("us-1").ClockSkew > 59*time.Minute })
	if s := status("us-1"); !s.Remote || s.RTT <= 0 || s.Address != "us-1:1" || s.Region != "us" || s.Domain != "us" {
		t.Errorf("%+v", s)
	}
	if s := status("local-1"); s.Remote || s.Region != "here" || s.Domain != hsm.DefaultDomain {
		t.Errorf("%+v", s)
	}
	remotes.set(func() { remotes.ending["eu-1"] = true })
	eventually(t, "a node that ends", func() bool { return status("eu-1").State == NodeDraining && !p.node("eu-1").isReady() })
	remotes.set(func() { remotes.ending["eu-1"] = false })
	eventually(t, "a node that is back", func() bool { return p.node("eu-1").isReady() })
	remotes.set(func() { remotes.dumb["eu-2"] = true })
	eventually(t, "a node that does not answer", func() bool { return !p.node("eu-2").isReady() })
	remotes.set(func() { remotes.dumb["eu-2"] = false })
	eventually(t, "a node that answers again", func() bool { return p.node("eu-2").isReady() })
}

// TestHostRefuses: a node that its own host keeps from an operation is passed over,
// and what it says is the answer where nobody else can do its work.
func TestHostRefuses(t *testing.T) {
	for act, want := range map[string]error{"below floor": ErrBelowFloor, "switched off": ErrSwitchedOff, "unpinned": ErrUnpinned} {
		t.Run(act, func(t *testing.T) {
			p, h, _ := fakePool(t, 3)
			h.set("local-2", act)
			for range 10 {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				j := newFakeJob(p, 2, 3)
				_, _, err := j.run(ctx)
				cancel()
				if err != nil {
					t.Fatal(err)
				}
			}
			h.set("local-1", act)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, _, err := newFakeJob(p, 2, 3).run(ctx)
			if !errors.Is(err, want) || !strings.Contains(err.Error(), "local-") || ctx.Err() != nil {
				t.Errorf("nobody else is left: %v", err)
			}
		})
	}
}

// TestAwayRegion: who waits for a region is told which, and by what nodes.
func TestAwayRegion(t *testing.T) {
	p, _, _, s := fakeRegions(t)
	s.Remote = s.Remote[:3]
	applied(t, p, s, 5)
	where := siting{regions: true, homes: []mpc.Home{{Domain: hsm.DefaultDomain, Region: "here"}, {Domain: "us", Region: "us"}, {Domain: "us", Region: "us"}}}
	j := &job{pool: p, operation: "refresh", n: 3, count: 3, seen: mpc.Exposures{}, where: where}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, _, err := j.run(ctx)
	var none *NoEligibleNodeError
	if !errors.As(err, &none) || none.Index != 3 || none.Region != "us" || none.Domain != "us" || none.Local || strings.Contains(err.Error(), "raise local") {
		t.Errorf("a share without a node: %v", err)
	}
	where.homes[1] = where.homes[0]
	where.homes[2] = where.homes[0]
	j = &job{pool: p, operation: "refresh", n: 3, count: 3, seen: mpc.Exposures{}, where: where}
	again, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	if _, _, err = j.run(again); !errors.As(err, &none) || !none.Local || !strings.Contains(err.Error(), "raise local") {
		t.Errorf("a third share for two local nodes: %v", err)
	}
}
