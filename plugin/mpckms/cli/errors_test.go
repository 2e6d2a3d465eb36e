package cli

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestServerErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		args   string
		key    string
		answer http.HandlerFunc
		stderr []string
	}{
		{"denied list", "account list", "LIST mpc/accounts", fails(403, "1 error occurred:\n\t* permission denied\n\n"),
			[]string{"permission denied", `path "mpc/accounts" { capabilities = ["list"] }`}},
		{"denied show", "account show a", "GET mpc/accounts/a", fails(403, "permission denied"),
			[]string{`path "mpc/accounts/a" { capabilities = ["read"] }`}},
		{"denied create", "account create a --algorithm x", "PUT mpc/accounts/a", fails(403, "permission denied"),
			[]string{`path "mpc/accounts/a" { capabilities = ["create"] }`}},
		{"denied sign", "account sign a --input x", "PUT mpc/sign/a", fails(403, "permission denied"),
			[]string{`path "mpc/sign/a" { capabilities = ["update"] }`}},
		{"denied refresh", "account refresh a", "PUT mpc/accounts/a/refresh", fails(403, "permission denied"),
			[]string{`path "mpc/accounts/a/refresh" { capabilities = ["update"] }`}},
		{"engine's own 403", "account sign a --input x", "PUT mpc/sign/a", fails(403, "the policy wants two approvals"),
			[]string{"the policy wants two approvals (status 403)"}},
		{"sealed", "account sign a --input x", "PUT mpc/sign/a", fails(503, "Vault is sealed"),
			[]string{"Vault is sealed", "vault operator unseal"}},
		{"mount missing", "account list", "", nil,
			[]string{`nothing is mounted at "mpc/"`, "vault secrets enable -path=mpc mpc", "--mount"}},
		{"other engine", "account list", "LIST mpc/accounts", fails(404, "1 error occurred:\n\t* unsupported path\n\n"),
			[]string{"does not know mpc/accounts", "mpckms status"}},
		{"older engine", "account freeze a", "PUT mpc/accounts/a/freeze", fails(404, `there is no path "accounts/a/freeze" here; paths are …`),
			[]string{"does not know mpc/accounts/a/freeze", "an older version of the plugin"}},
		{"in Vault's frame", "account show a", "GET mpc/accounts/a", fails(404, "1 error occurred:\n\t* there is no account \"a\"\n\n"),
			[]string{`cannot show account "a": there is no account "a" (status 404)`}},
		{"no such account", "account show a", "GET mpc/accounts/a", fails(404, `no account "a"`),
			[]string{`no account "a" (status 404)`, "mpckms account list"}},
		{"no such account, no message", "account show a", "GET mpc/accounts/a", fails(404),
			[]string{"not found", "mpckms account list"}},
		{"bad request", "account create a --algorithm x", "PUT mpc/accounts/a", fails(400, "unknown algorithm: use one of …"),
			[]string{"unknown algorithm: use one of … (status 400)"}},
		{"create failed halfway", "account create a --algorithm x", "PUT mpc/accounts/a", fails(500, "boom"),
			[]string{"boom (status 500)", "may have been created", "mpckms account show a"}},
		{"not Vault", "account show a", "GET mpc/accounts/a", raw(404, "<html>not here</html>"),
			[]string{"does not come from Vault", "VAULT_ADDR"}},
		{"not Vault, 200", "account show a", "GET mpc/accounts/a", raw(200, "<html>hello</html>"),
			[]string{"does not come from Vault", "VAULT_ADDR"}},
		{"wrong form", "account show a", "GET mpc/accounts/a", data(`{"threshold":"many"}`),
			[]string{"expected form", "versions"}},
		{"no data", "account show a", "GET mpc/accounts/a", data(`null`),
			[]string{"cannot show account"}},
		{"no signature", "account sign a --input x", "PUT mpc/sign/a", raw(204, ""),
			[]string{"the answer holds no signature"}},
		{"not valid", "account verify a --input x --signature AA==", "PUT mpc/verify/a", data(`{"valid":false}`),
			[]string{"the signature is not valid"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			if strings.HasPrefix(test.args, "account create") {
				s.on("GET mpc/accounts/a", fails(404, "there is no such account"))
			}
			if test.answer != nil {
				s.on(test.key, test.answer)
			}
			res := run(t, strings.Fields(test.args)...)
			res.want(t, 1, test.stderr...)
			if res.stdout != "" && test.name != "not valid" {
				t.Errorf("stdout should be empty: %q", res.stdout)
			}
			if test.key != "" && len(s.called(test.key)) != 1 {
				t.Errorf("%d requests, want 1", len(s.called(test.key)))
			}
		})
	}
}

// TestKnownOutcome checks that nothing is left open where the engine has said what
// became of a request.
func TestKnownOutcome(t *testing.T) {
	s := newServer(t)
	s.on("GET mpc/accounts/a", fails(404, "there is no such account"))
	s.on("PUT mpc/accounts/a", fails(503, "HSM unavailable: nothing was changed"))
	res := run(t, "account", "create", "a", "--algorithm", "x")
	res.want(t, 1, "nothing was changed (status 503)", "Try again")
	if strings.Contains(res.stderr, "may have been created") {
		t.Errorf("contradicts the engine: %s", res.stderr)
	}
}

func TestUsageErrors(t *testing.T) {
	s := newServer(t)
	long := filepath.Join(t.TempDir(), "long")
	if err := os.WriteFile(long, make([]byte, maxInput+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args   []string
		stderr string
	}{
		{[]string{"nonsense"}, "unknown command"},
		{[]string{"account", "nonsense"}, "unknown command"},
		{[]string{"acount"}, "Did you mean this?\n  account\n"},
		{[]string{"account", "lst"}, `unknown command "lst", did you mean list?`},
		{[]string{"status", "extra"}, "unexpected argument"},
		{[]string{"status", "--nonsense"}, "unknown flag"},
		{[]string{"status", "-o", "yaml"}, "-o table or -o json"},
		{[]string{"status", "--mount", "a/../b"}, "not a mount path"},
		{[]string{"status", "--mount", ""}, "not a mount path"},
		{[]string{"account", "show"}, "which account"},
		{[]string{"account", "show", "a", "b"}, "one account name"},
		{[]string{"account", "show", "a/refresh"}, "not an account name: use up to 128 letters"},
		{[]string{"account", "show", ".."}, "not an account name"},
		{[]string{"account", "show", "a?b"}, "not an account name"},
		{[]string{"account", "create", "a"}, "--algorithm is needed"},
		{[]string{"account", "create", "a", "--algorithm", "x", "--threshold", "two"}, "invalid argument"},
		{[]string{"account", "create", "a", "--algorithm", "x", "--metadata", "k"}, "key=value"},
		{[]string{"account", "create", "a", "--algorithm", "x", "--metadata", "k=1", "--metadata", "k=2"}, "twice"},
		{[]string{"account", "sign", "a"}, "exactly one of"},
		{[]string{"account", "sign", "a", "--input", "x", "--digest", "00"}, "exactly one of"},
		{[]string{"account", "sign", "a", "--digest", "00"}, "64 hex digits"},
		{[]string{"account", "sign", "a", "--digest", strings.Repeat("zz", 32)}, "64 hex digits"},
		{[]string{"account", "sign", "a", "--digest", strings.Repeat("00", 32), "--hash-algorithm", "sha2-256"}, "does not go with"},
		{[]string{"account", "sign", "a", "--input-file", "/does/not/exist"}, "cannot be read"},
		{[]string{"account", "sign", "a", "--input", ""}, "the message is empty"},
		{[]string{"account", "sign", "a", "--input-file", "/dev/null"}, "the message is empty"},
		{[]string{"account", "sign", "a", "--input-file", long}, "give --digest"},
		{[]string{"account", "sign", "a", "--input", "x", "--timeout", "0s"}, "longer than 0"},
		{[]string{"account", "verify", "a", "--input", "x"}, "--signature takes"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			res := run(t, test.args...)
			res.want(t, 2, test.stderr)
			if res.stdout != "" {
				t.Errorf("stdout should be empty: %q", res.stdout)
			}
		})
	}
	if len(s.calls) != 0 {
		t.Errorf("wrong usage reached the server: %v", s.calls)
	}
	t.Setenv("VAULT_SKIP_VERIFY", "perhaps")
	run(t, "account", "list").want(t, 2, "VAULT_SKIP_VERIFY")
}

func TestNetworkErrors(t *testing.T) {
	newServer(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	l.Close()

	t.Setenv("VAULT_ADDR", closed)
	run(t, "account", "list").want(t, 1, "connection refused by "+closed, "VAULT_ADDR")
	run(t, "account", "create", "a", "--algorithm", "x").want(t, 1, `cannot create account "a": connection refused`)
	t.Setenv("VAULT_ADDR", strings.Replace(closed, "://", "://user:hunter2-password@", 1))
	res := run(t, "account", "list")
	res.want(t, 1, "connection refused")
	if strings.Contains(res.stderr, "hunter2") {
		t.Errorf("the address's password was printed:\n%s", res.stderr)
	}

	tls := httptest.NewUnstartedServer(http.NotFoundHandler())
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	defer tls.Close()
	t.Setenv("VAULT_MAX_RETRIES", "0")
	t.Setenv("VAULT_ADDR", tls.URL)
	run(t, "account", "list").want(t, 1, "certificate", "VAULT_CACERT")

	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	t.Setenv("VAULT_ADDR", strings.Replace(plain.URL, "http:", "https:", 1))
	run(t, "account", "list").want(t, 1, "http:// instead of https://")
}

func TestClientTimeout(t *testing.T) {
	s := newServer(t)
	release := make(chan struct{})
	s.on("GET mpc/accounts/a", fails(404, "there is no such account"))
	s.on("PUT mpc/accounts/a", func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	t.Setenv("VAULT_CLIENT_TIMEOUT", "50ms")
	run(t, "account", "create", "a", "--algorithm", "x").want(t, 1, "no answer in time", "may have been created")
	if n := len(s.called("PUT mpc/accounts/a")); n != 1 {
		t.Errorf("a write without an answer was sent %d times", n)
	}
}

func TestRetrySafely(t *testing.T) {
	answer := func(method string, status int) *http.Response {
		return &http.Response{StatusCode: status, Request: &http.Request{Method: method}}
	}
	reset := func(op string) error { return &url.Error{Op: op, URL: "http://vault", Err: syscall.ECONNRESET} }
	refused := &url.Error{Op: "Get", URL: "http://vault", Err: syscall.ECONNREFUSED}
	for _, test := range []struct {
		name string
		resp *http.Response
		err  error
		want bool
	}{
		{"read, 500", answer("GET", 500), nil, true},
		{"read, 429", answer("GET", 429), nil, true},
		{"read, 404", answer("GET", 404), nil, false},
		{"read, reset", nil, reset("Get"), true},
		{"read, refused", nil, refused, false},
		{"write, 500", answer("PUT", 500), nil, false},
		{"write, 502", answer("PUT", 502), nil, false},
		{"write, 429", answer("PUT", 429), nil, true},
		{"write, 412", answer("PUT", 412), nil, true},
		{"write, 200", answer("PUT", 200), nil, false},
		{"write, reset", nil, reset("Put"), false},
		{"unknown error", nil, errors.New("x"), false},
	} {
		if got, _ := retrySafely(context.Background(), test.resp, test.err); got != test.want {
			t.Errorf("%s: retry is %v, want %v", test.name, got, test.want)
		}
	}
}
