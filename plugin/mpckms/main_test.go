package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The test binary is mpckms when this is set, so that tests see a real process:
// its exit code, its streams and its home directory.
const beMPCKMS = "TEST_BE_MPCKMS"

func TestMain(m *testing.M) {
	if os.Getenv(beMPCKMS) != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

func mpckms(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.Env = append([]string{beMPCKMS + "=1"}, env...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func TestProcess(t *testing.T) {
	const token = "hvs.from-the-token-file"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != token || r.Header.Get("X-Vault-Namespace") != "team" {
			w.WriteHeader(http.StatusForbidden)
		} else {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(`{"errors":[]}`))
	}))
	defer server.Close()
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".vault-token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"HOME=" + home, "VAULT_ADDR=" + server.URL, "VAULT_NAMESPACE=team"}

	if code, out, errOut := mpckms(t, env, "account", "list"); code != 0 || !strings.Contains(out, "No accounts yet") || errOut != "" {
		t.Errorf("with ~/.vault-token: code %d\n%s%s", code, out, errOut)
	}
	if code, out, errOut := mpckms(t, append(env, "VAULT_TOKEN=hvs.another-token"), "account", "list"); code != 1 || out != "" || !strings.Contains(errOut, "permission denied") {
		t.Errorf("with another VAULT_TOKEN: code %d\n%s%s", code, out, errOut)
	}
	if code, out, errOut := mpckms(t, []string{"VAULT_ADDR=" + server.URL}, "account", "list"); code != 1 || !strings.Contains(errOut, "No token was sent") {
		t.Errorf("without a home: code %d\n%s%s", code, out, errOut)
	}
	if code, out, _ := mpckms(t, nil, "nonsense"); code != 2 || out != "" {
		t.Errorf("wrong usage: code %d, stdout %q", code, out)
	}
	if code, out, _ := mpckms(t, nil, "version"); code != 0 || !strings.HasPrefix(out, "mpckms "+version+" ") {
		t.Errorf("version: code %d, stdout %q", code, out)
	}
}
