package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// deadStorage fails the test when it is touched.
type deadStorage struct{ t *testing.T }

func (d deadStorage) Get(context.Context, string) (*logical.StorageEntry, error) {
	d.t.Error("storage was read")
	return nil, errors.New("dead")
}
func (d deadStorage) Put(context.Context, *logical.StorageEntry) error {
	d.t.Error("storage was written")
	return errors.New("dead")
}
func (d deadStorage) Delete(context.Context, string) error {
	d.t.Error("storage was deleted from")
	return errors.New("dead")
}
func (d deadStorage) List(context.Context, string) ([]string, error) {
	d.t.Error("storage was listed")
	return nil, errors.New("dead")
}

// TestFactoryIsInert: Vault calls Factory for metadata and at registration.
func TestFactoryIsInert(t *testing.T) {
	factory := Factory(Config{Version: "v1.2.3", NewEngine: func(EngineConfig) Engine {
		t.Error("an engine was made")
		return newFake(t)
	}})
	before := runtime.NumGoroutine()
	lb, err := factory(context.Background(), &logical.BackendConfig{StorageView: deadStorage{t}, System: logical.TestSystemView(), Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	if n := runtime.NumGoroutine(); n > before { // fewer: one of an earlier test has ended meanwhile
		t.Errorf("%d goroutines before, %d after", before, n)
	}
	if v := lb.(logical.PluginVersioner).PluginVersion().Version; v != "v1.2.3" {
		t.Errorf("version %q", v)
	}
	special := lb.SpecialPaths()
	if !slices.Equal(special.Root, []string{"config/*", "destroy/*", "recovery/*"}) {
		t.Errorf("root paths: %v", special.Root)
	}
	for _, p := range special.SealWrapStorage {
		if !strings.HasSuffix(p, "/") {
			t.Errorf("seal-wrap prefix %q does not end in a slash", p)
		}
	}
	lb.Cleanup(context.Background())

	if _, err := Factory(Config{})(context.Background(), &logical.BackendConfig{}); err == nil {
		t.Error("a backend without an engine was made")
	}
}

func TestInitializeStartsNodesInTheBackground(t *testing.T) {
	fake := newFake(t)
	storage := &logical.InmemStorage{}
	configure(open(t, storage, fake))
	fake.applied = nil

	m := open(t, storage, fake)
	if err := m.b.Initialize(t.Context(), &logical.InitializationRequest{Storage: storage}); err != nil {
		t.Fatal(err)
	}
	m.b.tasks.Wait()
	if len(fake.applied) != 1 {
		t.Fatalf("applied %d times", len(fake.applied))
	}
	// The periodic function is only the safety net.
	if _, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: storage}); err != nil {
		t.Errorf("periodic: %v", err)
	}
	m.create("alice", "bip340-secp256k1")
	if len(fake.applied) != 1 {
		t.Errorf("applied %d times", len(fake.applied))
	}
	m.b.Cleanup(t.Context())
	m.b.Cleanup(t.Context())
	if fake.closed != 1 {
		t.Errorf("closed %d times", fake.closed)
	}
	m.fails(logical.UpdateOperation, "config/hsm", map[string]any{"pin": testPIN}, http.StatusServiceUnavailable, "shutting down")
	m.b.startBackground() // must not start anything again
	m.b.tasks.Wait()
}

func TestInitializeUnconfigured(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	m.b.startBackground()
	m.b.tasks.Wait()
	if len(m.fake.applied) != 0 || strings.Contains(m.logs.String(), "[ERROR]") {
		t.Errorf("without a token: %d applied, log %s", len(m.fake.applied), m.logs)
	}
}

func TestPoolStartsOnFirstUse(t *testing.T) {
	fake := newFake(t)
	storage := &logical.InmemStorage{}
	configure(open(t, storage, fake))
	fake.applied = nil
	m := open(t, storage, fake)
	m.create("alice", "bip340-secp256k1")
	m.signs("alice")
	if len(fake.applied) != 1 {
		t.Errorf("applied %d times", len(fake.applied))
	}
	// A change by another server of the cluster is applied at the next use.
	m.b.InvalidateKey(t.Context(), keyHSM)
	m.signs("alice")
	if len(fake.applied) != 2 {
		t.Errorf("after an invalidation: applied %d times", len(fake.applied))
	}
}

// TestModuleVanishes: the host's list changed under a configured mount.
func TestModuleVanishes(t *testing.T) {
	m := configured(t)
	m.b.cfg.Modules = "nss=/usr/lib/nss.so"
	m.b.settingsChanged()
	m.fails(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1"}, http.StatusServiceUnavailable, "no longer on the host's list")
}

// TestStandbyStaysQuiet: only a server that may write runs nodes, and requests
// with effects are forwarded.
func TestStandbyStaysQuiet(t *testing.T) {
	for _, state := range []consts.ReplicationState{
		consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary, consts.ReplicationDRSecondary,
	} {
		fake := newFake(t)
		storage := &logical.InmemStorage{}
		withAccount(open(t, storage, fake))
		fake.applied = nil
		m := open(t, storage, fake)
		view := logical.TestSystemView()
		view.ReplicationStateVal = state
		if err := m.b.Setup(t.Context(), &logical.BackendConfig{System: view, StorageView: storage}); err != nil {
			t.Fatal(err)
		}
		m.b.startBackground()
		m.b.tasks.Wait()
		if len(fake.applied) != 0 {
			t.Errorf("state %v: nodes were started", state)
		}
		if state == consts.ReplicationDRSecondary {
			continue // takes no requests
		}
		for path, op := range map[string]logical.Operation{
			"sign/alice": logical.UpdateOperation, "accounts/alice/refresh": logical.UpdateOperation, "accounts/bob": logical.CreateOperation,
			"accounts/alice": logical.UpdateOperation, "destroy/alice": logical.DeleteOperation, "config/hsm": logical.UpdateOperation,
			"config/nodes": logical.UpdateOperation, "config/rotation": logical.ReadOperation, "wrapping-keys/": logical.ListOperation,
			"wrapping-keys/1": logical.ReadOperation, "wrapping-keys/rotate": logical.UpdateOperation, "rotation/catch-up": logical.UpdateOperation,
			"destroy/wrapping-keys": logical.UpdateOperation, "nodes/local-1": logical.ReadOperation, "nodes/": logical.ListOperation,
		} {
			_, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: path, Storage: storage})
			if !errors.Is(err, logical.ErrReadOnly) {
				t.Errorf("state %v: %s %s is not forwarded: %v", state, op, path, err)
			}
		}
		m.must(logical.ReadOperation, "accounts/alice", nil)
	}
}

type slowClose struct {
	*fakeEngine
	release chan struct{}
}

func (s slowClose) Close(context.Context) error { <-s.release; return nil }

func TestCleanReturnsWithinASecond(t *testing.T) {
	m := configured(t)
	slow := slowClose{newFake(t), make(chan struct{})}
	m.b.eng = slow
	start := time.Now()
	m.b.Cleanup(t.Context())
	// The limit itself is below a second; a busy machine may add to it.
	if took := time.Since(start); closeTimeout >= time.Second || took > 5*time.Second {
		t.Errorf("Clean took %v of %v", took, closeTimeout)
	}
	close(slow.release)
}

// TestCleanCancelsRequests: a request under way ends when the mount does.
func TestCleanCancelsRequests(t *testing.T) {
	m := configured(t)
	m.fake.block, m.fake.entered = make(chan struct{}), make(chan string, 1)
	done := make(chan int)
	go func() {
		_, status, _ := m.do(logical.UpdateOperation, "accounts/alice", map[string]any{"algorithm": "bip340-secp256k1"})
		done <- status
	}()
	<-m.fake.entered
	start := time.Now()
	m.b.Cleanup(t.Context())
	if status := <-done; status != http.StatusServiceUnavailable {
		t.Errorf("status %d", status)
	}
	if took := time.Since(start); took > requestTimeout-time.Second {
		t.Errorf("the request ended after %v, by its own deadline", took)
	}
	if strings.Contains(strings.Join(keys(t, m.storage), " "), prefixAccounts) {
		t.Error("a half-made account stayed")
	}
}

func TestNodes(t *testing.T) {
	m := open(t, &logical.InmemStorage{}, newFake(t))
	m.fails(logical.ReadOperation, "nodes/local-1", nil, 400, "no HSM is configured")
	m.fails(logical.ListOperation, "nodes/", nil, 400, "no HSM is configured")
	configure(m)
	list := m.must(logical.ListOperation, "nodes/", nil)
	if n := len(list["keys"].([]string)); n != 5 {
		t.Errorf("%d nodes", n)
	}
	info := list["key_info"].(map[string]any)["local-3"].(map[string]any)
	node := m.must(logical.ReadOperation, "nodes/local-3", nil)
	for k, want := range map[string]any{
		"state": "ready", "pid": 103, "hsm": "ok", "aux_state": "renewing", "aux_progress": 40, "presignatures": 7,
		"aux_made_time": "2026-01-02T03:04:05Z", "aux_next_due": "", "aux_peers": 4, "aux_peers_ready": 2,
		"aux_generation": uint64(3), "last_error": "", "version": "v0.1.0",
	} {
		if node[k] != want || info[k] != want {
			t.Errorf("%s = %v and %v, want %v", k, node[k], info[k], want)
		}
	}
	m.fails(logical.ReadOperation, "nodes/local-9", nil, 404, `no node "local-9"`)
	m.fails(logical.UpdateOperation, "nodes/local-9/renew", nil, 404, `no node "local-9"`)
	m.fails(logical.UpdateOperation, "nodes/local-2/renew", map[string]any{"now": true}, 400, "takes no fields")
	if d := m.must(logical.UpdateOperation, "nodes/local-2/renew", nil); d != nil || fmt.Sprint(m.fake.renewed) != "[local-2]" {
		t.Errorf("renewed %v: %v", m.fake.renewed, d)
	}
}

func TestUnknownPaths(t *testing.T) {
	m := configured(t)
	for _, path := range []string{"keys/alice", "accounts/alice/shares", "config", "config/nothing", "sign", "nope", "wrapping-keys/x", "rotation"} {
		for _, op := range []logical.Operation{logical.ReadOperation, logical.ListOperation, logical.UpdateOperation, logical.DeleteOperation, logical.PatchOperation} {
			m.fails(op, path, map[string]any{"x": 1}, 404, "paths are config/")
		}
	}
}

// TestEveryPathIsDocumented keeps help, examples and OpenAPI complete.
func TestEveryPathIsDocumented(t *testing.T) {
	m := configured(t)
	ids := map[string]string{}
	for _, p := range m.b.Paths {
		if p.HelpSynopsis == "" || !strings.Contains(p.HelpDescription, "  $ ") {
			t.Errorf("%s: help without an example", p.Pattern)
		}
		if p.DisplayAttrs == nil || p.DisplayAttrs.OperationPrefix == "" {
			t.Errorf("%s: no display attributes", p.Pattern)
		}
		for name, f := range p.Fields {
			if f.Description == "" {
				t.Errorf("%s: field %s is not described", p.Pattern, name)
			}
		}
		for op, h := range p.Operations {
			props := h.Properties()
			if props.Summary == "" || (len(props.Responses) == 0 && !props.Unpublished) {
				t.Errorf("%s %s: no summary or no response", op, p.Pattern)
			}
			id := p.DisplayAttrs.OperationVerb + "/" + p.DisplayAttrs.OperationSuffix + "/" + string(op)
			if other, twice := ids[id]; twice {
				t.Errorf("%s and %s have one OpenAPI name", p.Pattern, other)
			}
			ids[id] = p.Pattern
		}
		resp, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: samplePath(p), Storage: m.storage})
		if err != nil || resp == nil {
			t.Errorf("help of %s: %v", p.Pattern, err)
		}
	}
	if !m.b.Paths[0].Fields["pin"].DisplayAttrs.Sensitive {
		t.Error("the PIN is not marked as sensitive")
	}
	resp, err := m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: "", Storage: m.storage})
	if err != nil || resp.Data["openapi"] == nil {
		t.Errorf("no OpenAPI document: %v", err)
	}
}

func samplePath(p *framework.Path) string {
	s := strings.NewReplacer("^", "", "$", "", namePattern, "alice", "(?P<id>[^/]+)", "local-1", `(?P<version>\d+)`, "1", "/?", "", "(?P<path>.*)", "nope").Replace(p.Pattern)
	return s
}
