package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

const testToken = "hvs.secret-token-0123456789"

// server answers as Vault and the engine document it. It stands in for them in
// tests of formatting, errors and exit codes only.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]http.HandlerFunc // "GET mpc/accounts/a", "LIST mpc/accounts", "PUT …"
	calls   []call
}

type call struct {
	key   string
	token string
	body  map[string]any
	query url.Values
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{answers: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	for _, kv := range os.Environ() {
		if k, _, _ := strings.Cut(kv, "="); strings.HasPrefix(k, "VAULT_") || k == envMount {
			t.Setenv(k, "")
		}
	}
	t.Setenv("VAULT_ADDR", s.URL)
	t.Setenv("VAULT_TOKEN", testToken)
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	method := r.Method
	if r.URL.Query().Get("list") == "true" {
		method = "LIST"
	}
	key := method + " " + strings.TrimPrefix(r.URL.Path, "/v1/")
	c := call{key: key, token: r.Header.Get("X-Vault-Token"), query: r.URL.Query()}
	b, _ := io.ReadAll(r.Body)
	if len(b) > 0 {
		_ = json.Unmarshal(b, &c.body)
	}
	r.Body = io.NopCloser(bytes.NewReader(b)) // for answers that look at it
	s.mu.Lock()
	s.calls = append(s.calls, c)
	answer := s.answers[key]
	s.mu.Unlock()
	if answer == nil {
		answer = fails(404, `no handler for route "`+key+`". route entry not found.`)
	}
	answer(w, r)
}

func (s *server) on(key string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[key] = h
}

func (s *server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

func (s *server) called(key string) (found []call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c.key == key {
			found = append(found, c)
		}
	}
	return found
}

// data answers 200 with a Vault envelope around a JSON object.
func data(object string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"request_id":"1","data":`+object+`,"warnings":null}`)
	}
}

func raw(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func fails(status int, messages ...string) http.HandlerFunc {
	if messages == nil {
		messages = []string{}
	}
	b, _ := json.Marshal(map[string]any{"errors": messages})
	return raw(status, string(b))
}

type result struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, args ...string) result {
	t.Helper()
	return runConfig(t, Config{Args: args})
}

func runConfig(t *testing.T, cfg Config) result {
	t.Helper()
	var out, errOut lockedBuffer
	cfg.Stdout, cfg.Stderr = &out, &errOut
	if cfg.StoredToken == nil {
		cfg.StoredToken = func() (string, error) { return "", nil }
	}
	if cfg.retryPause == 0 {
		cfg.retryPause = time.Millisecond
	}
	if cfg.progressPause == 0 {
		cfg.progressPause = time.Hour // only tests of progress want it
	}
	if cfg.batchPace == 0 {
		cfg.batchPace = time.Hour // sizes do not depend on this machine's speed
	}
	code := Run(t.Context(), cfg)
	res := result{code, out.String(), errOut.String()}
	if strings.Contains(res.stdout+res.stderr, testToken) {
		t.Errorf("the token was printed:\n%s%s", res.stdout, res.stderr)
	}
	return res
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (r result) want(t *testing.T, code int, stderrParts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d; stderr:\n%s", r.code, code, r.stderr)
	}
	if len(stderrParts) == 0 && r.stderr != "" {
		t.Errorf("unexpected stderr:\n%s", r.stderr)
	}
	for _, part := range stderrParts {
		if !strings.Contains(r.stderr, part) {
			t.Errorf("stderr lacks %q:\n%s", part, r.stderr)
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("output differs from %s:\n--- got\n%s--- want\n%s", path, got, want)
	}
}
