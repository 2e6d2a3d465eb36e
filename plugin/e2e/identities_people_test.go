//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// person is somebody with a home folder, a key file or password, and no Vault
// token: what he runs is a process of its own.
type person struct {
	v             *e2e.Vault
	authenticator string
	home          string
	address       string   // of Vault, or of what stands before it
	secrets       []string // flags that answer for him
}

// newPerson makes an authenticator with a key file. The operator's token is used
// for that and never again.
func newPerson(t testing.TB, v *e2e.Vault, mount, authenticator string) *person {
	t.Helper()
	p := &person{v: v, authenticator: authenticator, home: t.TempDir(), address: v.Addr}
	p.must(t, p.withToken(mount), nil, "authenticator", "create", authenticator, "--kind", "key-file", "--key-file", filepath.Join(p.home, "key"), "--mount", mount)
	return p
}

// newTypist makes one with a password.
func newTypist(t testing.TB, v *e2e.Vault, mount, authenticator, password string) *person {
	t.Helper()
	p := &person{v: v, authenticator: authenticator, home: t.TempDir(), address: v.Addr}
	file := filepath.Join(p.home, "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.secrets = []string{"--passphrase-file", file}
	p.must(t, p.withToken(mount), nil, "authenticator", "create", authenticator, "--kind", "password", "--mount", mount)
	return p
}

func (p *person) withToken(string) []string { return []string{"VAULT_TOKEN=" + p.v.RootToken} }

// run runs mpckms with these settings beside his own.
func (p *person) run(t testing.TB, env []string, stdin []byte, args ...string) e2e.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, harness.CLIBin, append(args, p.secrets...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.home, "MPCKMS_HOME=" + filepath.Join(p.home, "mpckms"), "VAULT_ADDR=" + p.address, "VAULT_MAX_RETRIES=0"}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("mpckms %s: %v", strings.Join(args, " "), err)
	}
	return e2e.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

func (p *person) must(t testing.TB, env []string, stdin []byte, args ...string) string {
	t.Helper()
	r := p.run(t, env, stdin, args...)
	if r.Code != 0 {
		t.Fatalf("%s: mpckms %s: exit %d\n%s%s", p.authenticator, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// does runs a command of his, without a token, that must succeed.
func (p *person) does(t testing.TB, args ...string) string {
	t.Helper()
	return p.must(t, nil, nil, args...)
}

// operates is does with the operator's token beside.
func (p *person) operates(t testing.TB, args ...string) string {
	t.Helper()
	return p.must(t, p.withToken(""), nil, args...)
}

// asks decodes the document of a command that must succeed.
func (p *person) asks(t testing.TB, out any, args ...string) {
	t.Helper()
	if err := json.Unmarshal([]byte(p.does(t, append(args, "-o", "json")...)), out); err != nil {
		t.Fatalf("mpckms %s: %v", strings.Join(args, " "), err)
	}
}

// refused runs a command that must fail with 1 and say all of these, on stderr and
// with nothing on stdout.
func (p *person) refused(t testing.TB, says []string, args ...string) {
	t.Helper()
	r := p.run(t, nil, nil, args...)
	if r.Code != 1 || r.Stdout != "" {
		t.Errorf("%s: mpckms %s: exit %d, want 1: %s%s", p.authenticator, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	for _, part := range says {
		if !strings.Contains(strings.ReplaceAll(r.Stderr, "\n", " "), part) {
			t.Errorf("%s: mpckms %s does not say %q: %s", p.authenticator, strings.Join(args, " "), part, r.Stderr)
		}
	}
}

// put stores a secret.
func (p *person) put(t testing.TB, asset, value string, roles ...string) {
	t.Helper()
	args := []string{"secret", "put", asset, "--file", "-"}
	for _, r := range roles {
		args = append(args, "--role", r)
	}
	p.must(t, nil, []byte(value), args...)
}

// shows checks what a secret is for him.
func (p *person) shows(t testing.TB, asset, want string, more ...string) {
	t.Helper()
	if got := p.does(t, append([]string{"secret", "show", asset}, more...)...); got != want+"\n" {
		t.Errorf("%s: %s is %q, want %q", p.authenticator, asset, got, want)
	}
}

// acme is an organization on a mount: ada and her drawer open everything, ben opens
// web. Names begin with the mount's test, since mounts are shared.
func acme(t testing.TB, v *e2e.Vault, name string) (ada, drawer, ben *person) {
	t.Helper()
	ada, drawer, ben = newTypist(t, v, "mpc", name+"-ada", "a river of stars"), newPerson(t, v, "mpc", name+"-key"), newPerson(t, v, "mpc", name+"-ben")
	ada.operates(t, "identity", "create", name, "--kind", "organization", "--role", "web", "--role", "treasury", "--level", "staff=web")
	ada.operates(t, "identity", "grant", name, drawer.authenticator, "--level", "full", "--yes")
	ada.operates(t, "identity", "grant", name, ben.authenticator, "--level", "staff", "--yes")
	ada.put(t, name+"/dns", "dns token", "web")
	ada.put(t, name+"/safe", "safe code", "treasury")
	return ada, drawer, ben
}

// rawWrite puts bytes in the place of a stored record, as who owns the storage can.
func rawWrite(t testing.TB, v *e2e.Vault, mount, key string, value []byte) {
	t.Helper()
	_, err := v.Client.Logical().Write("sys/raw/logical/"+v.MountUUID(t, mount)+"/"+key,
		map[string]any{"value": base64.StdEncoding.EncodeToString(value), "encoding": "base64"})
	if err != nil {
		t.Fatal(err)
	}
}
