package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/errutil"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	testModules = "softhsm=/usr/lib/softhsm/libsofthsm2.so"
	testURI     = "pkcs11:token=prod?module-name=softhsm"
)

// mount is one backend over a storage and a fake engine that may outlive it.
type mount struct {
	t       *testing.T
	b       *backend
	storage logical.Storage
	fake    *fakeEngine
	logs    *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func open(t *testing.T, storage logical.Storage, fake *fakeEngine) *mount {
	t.Helper()
	// The clock moves by itself, so that epochs differ in their times.
	return openAt(t, storage, fake, tickingClock())
}

// openAt is open with a clock.
func openAt(t *testing.T, storage logical.Storage, fake *fakeEngine, now func() time.Time) *mount {
	t.Helper()
	return openWith(t, storage, fake, func(c *Config) { c.now = now })
}

// openWith is open with changes to the configuration.
func openWith(t *testing.T, storage logical.Storage, fake *fakeEngine, change func(*Config)) *mount {
	t.Helper()
	m := &mount{t: t, storage: storage, fake: fake, logs: &logBuffer{}}
	config := Config{
		NewEngine: func(c EngineConfig) Engine {
			fake.mu.Lock()
			defer fake.mu.Unlock()
			fake.used, fake.store = c.OnPresignatureUsed, c.Store
			return fake
		},
		Modules:          testModules,
		Enroller:         fake.enroller,
		now:              tickingClock(),
		rotationInterval: time.Hour, // tests say when
		wrappingInterval: time.Hour,
	}
	change(&config)
	factory := Factory(config)
	view := logical.TestSystemView()
	view.PluginEnvironment = &logical.PluginEnvironment{VaultVersion: "1.21.0"}
	lb, err := factory(context.Background(), &logical.BackendConfig{
		StorageView: storage,
		System:      view,
		Logger:      hclog.New(&hclog.LoggerOptions{Output: m.logs, Level: hclog.Trace}),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.b = lb.(*backend)
	t.Cleanup(func() {
		m.b.Cleanup(context.Background())
		if strings.Contains(m.logs.String(), testPIN) {
			t.Errorf("the PIN is in the log:\n%s", m.logs)
		}
	})
	return m
}

// bareStore is a store without a backend.
func bareStore(s logical.Storage) *store {
	return newStore(s, newSpareRule(time.Now, func() bool { return true }, hclog.NewNullLogger()))
}

// tickingClock begins at the real time: the rotation runner reads that.
func tickingClock() func() time.Time {
	var mu sync.Mutex
	now := time.Now()
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Second)
		return now
	}
}

// configured returns a mount with a token.
func configured(t *testing.T) *mount {
	t.Helper()
	m := open(t, &logical.InmemStorage{}, newFake(t))
	m.must(logical.UpdateOperation, "config/hsm", map[string]any{"uri": testURI, "pin": testPIN})
	return m
}

// do sends a request the way Vault does: existence check first, where there is
// one, then the operation. It checks what must hold for every answer: the
// response schema, no PIN, a status.
func (m *mount) do(op logical.Operation, path string, data map[string]any) (*logical.Response, int, string) {
	m.t.Helper()
	ctx := context.Background()
	// As over gRPC: numbers and slices arrive as JSON makes them.
	var body map[string]any
	if raw, err := json.Marshal(data); err != nil {
		m.t.Fatal(err)
	} else if err := json.Unmarshal(raw, &body); err != nil {
		m.t.Fatal(err)
	}
	req := &logical.Request{Operation: op, Path: path, Data: body, Storage: m.storage}
	if op == logical.UpdateOperation {
		found, exists, err := m.b.HandleExistenceCheck(ctx, req)
		if _, ok := err.(errutil.UserError); ok { // Vault answers these by 400
			return nil, http.StatusBadRequest, err.Error()
		}
		if err != nil {
			return nil, http.StatusInternalServerError, "internal error" // all that Vault says then
		}
		if found && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := m.b.HandleRequest(ctx, req)
	status, msg := answer(resp, err)
	if said := fmt.Sprintf("%+v %v", resp, err); strings.Contains(said, testPIN) {
		m.t.Errorf("%s %s: the PIN is in the answer: %s", op, path, said)
	}
	if status == http.StatusOK && resp != nil {
		if _, err := json.Marshal(resp.Data); err != nil { // the plugin protocol does
			m.t.Errorf("%s %s: the answer is not JSON: %v", op, path, err)
		}
		if p := m.b.Route(path); p != nil {
			m.checkSchema(p, req.Operation, resp)
		}
	}
	return resp, status, msg
}

func (m *mount) checkSchema(p *framework.Path, op logical.Operation, resp *logical.Response) {
	m.t.Helper()
	schema.ValidateResponse(m.t, schema.GetResponseSchema(m.t, p, op), resp, true)
}

// answer is what Vault makes of a handler's return values.
func answer(resp *logical.Response, err error) (int, string) {
	status, verr := logical.RespondErrorCommon(&logical.Request{Operation: logical.UpdateOperation}, resp, err)
	if verr == nil && err == nil {
		return http.StatusOK, ""
	}
	logical.AdjustErrorStatusCode(&status, verr)
	return status, verr.Error()
}

// must sends a request that has to succeed and returns the data.
func (m *mount) must(op logical.Operation, path string, data map[string]any) map[string]any {
	m.t.Helper()
	resp, status, msg := m.do(op, path, data)
	if status != http.StatusOK {
		m.t.Fatalf("%s %s: %d %s\nlog:\n%s", op, path, status, msg, m.logs)
	}
	if resp == nil {
		return nil
	}
	return resp.Data
}

// fails sends a request that has to be answered by the status and a text.
func (m *mount) fails(op logical.Operation, path string, data map[string]any, status int, text string) {
	m.t.Helper()
	_, got, msg := m.do(op, path, data)
	if got != status || !strings.Contains(msg, text) {
		m.t.Errorf("%s %s %v: %d %q, want %d and %q", op, path, data, got, msg, status, text)
	}
}

func (m *mount) create(name, algorithm string) map[string]any {
	m.t.Helper()
	return m.must(logical.UpdateOperation, "accounts/"+name, map[string]any{"algorithm": algorithm})
}

// signs checks that an account signs and that its signature verifies.
func (m *mount) signs(name string) map[string]any {
	m.t.Helper()
	data := m.must(logical.UpdateOperation, "sign/"+name, map[string]any{"input": "aGVsbG8="})
	v := m.must(logical.UpdateOperation, "verify/"+name, map[string]any{"input": "aGVsbG8=", "signature": data["signature"]})
	if v["valid"] != true {
		m.t.Errorf("the signature of %s is not valid", name)
	}
	v = m.must(logical.UpdateOperation, "verify/"+name, map[string]any{"input": "aGVsbG9v", "signature": data["signature"]})
	if v["valid"] != false {
		m.t.Errorf("the signature of %s is valid for another message", name)
	}
	return data
}

// keys lists everything in a storage.
func keys(t *testing.T, s logical.Storage) []string {
	t.Helper()
	all, err := logical.CollectKeys(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// errCrash is what every storage call returns after the crash.
var errCrash = fmt.Errorf("crashed")

// crashing is a storage that stops at its n-th write, as if the process died
// there: the write happens (late) or not, and nothing works any more after it.
type crashing struct {
	logical.Storage
	mu    sync.Mutex
	left  int // writes that still succeed
	late  bool
	dead  bool
	wrote int
}

func (c *crashing) write(do func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return errCrash
	}
	if c.left == 0 {
		c.dead = true
		if c.late {
			_ = do()
		}
		return errCrash
	}
	c.left--
	c.wrote++
	return do()
}

func (c *crashing) Put(ctx context.Context, e *logical.StorageEntry) error {
	return c.write(func() error { return c.Storage.Put(ctx, e) })
}

func (c *crashing) Delete(ctx context.Context, key string) error {
	return c.write(func() error { return c.Storage.Delete(ctx, key) })
}

func (c *crashing) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return nil, errCrash
	}
	return c.Storage.Get(ctx, key)
}

func (c *crashing) List(ctx context.Context, prefix string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return nil, errCrash
	}
	return c.Storage.List(ctx, prefix)
}

// snapshot copies a storage.
func snapshot(t *testing.T, s logical.Storage) *logical.InmemStorage {
	t.Helper()
	out := &logical.InmemStorage{}
	for _, k := range keys(t, s) {
		e, err := s.Get(context.Background(), k)
		if err != nil {
			t.Fatal(err)
		}
		if err := out.Put(context.Background(), &logical.StorageEntry{Key: k, Value: bytes.Clone(e.Value)}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}
