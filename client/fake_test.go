package client

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// fake is a Vault that answers as a test says, and notes what it was asked. The
// engine itself is asked in plugin/e2e.
type fake struct {
	t       *testing.T
	handler func(r request) reply

	mu   sync.Mutex
	seen []request
}

// request is what the server got.
type request struct {
	method, path string // path below /v1/
	query        map[string]string
	body         map[string]any
}

// reply is what it answers: data within Vault's frame, or the raw text.
type reply struct {
	status int // 0: 200
	data   any
	errors []string // for a status of 400 or more, without data
	raw    string
}

// start returns a client of the mount "team/mpc" on a fake Vault.
func start(t *testing.T, handler func(r request) reply) (*Client, *fake) {
	t.Helper()
	f := &fake{t: t, handler: handler}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	cfg := api.DefaultConfig()
	cfg.Address = server.URL
	vault, err := api.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	vault.SetToken("token")
	vault.SetMinRetryWait(time.Millisecond)
	vault.SetMaxRetryWait(2 * time.Millisecond)
	return New(vault, "/team/mpc/"), f
}

// answering is a handler that answers everything with the same data.
func answering(data any) func(request) reply {
	return func(request) reply { return reply{data: data} }
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	got := request{method: r.Method, path: r.URL.Path[len("/v1/"):], query: map[string]string{}}
	for k := range r.URL.Query() {
		got.query[k] = r.URL.Query().Get(k)
	}
	if body, err := io.ReadAll(r.Body); err != nil {
		f.t.Errorf("reading the request: %v", err)
	} else if len(body) > 0 {
		if err := json.Unmarshal(body, &got.body); err != nil {
			f.t.Errorf("the request's body %q: %v", body, err)
		}
	}
	f.mu.Lock()
	f.seen = append(f.seen, got)
	f.mu.Unlock()

	out := f.handler(got)
	if out.status == 0 {
		out.status = http.StatusOK
	}
	w.WriteHeader(out.status)
	if out.raw != "" {
		_, _ = io.WriteString(w, out.raw)
		return
	}
	var frame any = map[string]any{"request_id": "x", "data": out.data, "warnings": []string{"a word"}}
	if out.status >= 400 && out.data == nil {
		if out.errors == nil {
			out.errors = []string{}
		}
		frame = map[string]any{"errors": out.errors}
	}
	if err := json.NewEncoder(w).Encode(frame); err != nil {
		f.t.Errorf("answering: %v", err)
	}
}

// requests returns what came in so far.
func (f *fake) requests() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]request(nil), f.seen...)
}

// expect checks the one request that came in.
func (f *fake) expect(method, path string, body, query map[string]any) {
	f.t.Helper()
	seen := f.requests()
	if len(seen) != 1 {
		f.t.Fatalf("%d requests, want one: %v", len(seen), seen)
	}
	got := seen[0]
	if got.method != method || got.path != path {
		f.t.Errorf("%s %s, want %s %s", got.method, got.path, method, path)
	}
	if !(len(got.body) == 0 && len(body) == 0) && !reflect.DeepEqual(got.body, body) {
		f.t.Errorf("body %v, want %v", got.body, body)
	}
	asked := map[string]any{}
	for k, v := range got.query {
		asked[k] = v
	}
	if !(len(asked) == 0 && len(query) == 0) && !reflect.DeepEqual(asked, query) {
		f.t.Errorf("query %v, want %v", asked, query)
	}
}

// must ends the test on an error.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// quickly shortens the pauses of a wait.
func quickly(o *options) { o.pause = time.Millisecond }
