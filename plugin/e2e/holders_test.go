//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/keyholder"
	"vault-plugin-secrets-mpc/plugin/e2e"
)

// user is a person with a home of his own, who runs mpckms as processes of their
// own. Only what needs a Vault token gets one.
type user struct {
	e    *engine
	dir  string // MPCKMS_HOME is in it, and files of the person
	more []string
}

func newUser(t *testing.T, e *engine, more ...string) *user {
	t.Helper()
	return &user{e: e, dir: t.TempDir(), more: more}
}

func (u *user) path(name string) string { return filepath.Join(u.dir, name) }

// file writes a file that only the person can read and returns its path.
func (u *user) file(t *testing.T, name, content string) string {
	t.Helper()
	if err := os.WriteFile(u.path(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return u.path(name)
}

func (u *user) command(ctx context.Context, token string, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Getenv("MPC_CLI_BIN"), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.dir, "MPCKMS_HOME=" + u.path("home"), "MPCKMS_MOUNT=" + u.e.path, "VAULT_ADDR=" + u.e.Addr}, u.more...)
	if token != "" {
		cmd.Env = append(cmd.Env, "VAULT_TOKEN="+token)
	}
	return cmd
}

// run runs mpckms without a Vault token, admin with the root token.
func (u *user) run(t *testing.T, args ...string) e2e.Result { t.Helper(); return u.result(t, "", args) }
func (u *user) admin(t *testing.T, args ...string) e2e.Result {
	t.Helper()
	return u.result(t, u.e.RootToken, args)
}

func (u *user) result(t *testing.T, token string, args []string) e2e.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := u.command(ctx, token, args)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("mpckms %v: %v", args, err)
	}
	return e2e.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

func ok(t *testing.T, r e2e.Result, parts ...string) {
	t.Helper()
	if r.Code != 0 {
		t.Fatalf("exit %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	for _, p := range parts {
		if !strings.Contains(r.Stdout, p) {
			t.Errorf("the output lacks %q:\n%s%s", p, r.Stdout, r.Stderr)
		}
	}
}

func refusedWith(t *testing.T, r e2e.Result, code int, parts ...string) {
	t.Helper()
	if r.Code != code {
		t.Fatalf("exit %d, want %d:\n%s%s", r.Code, code, r.Stdout, r.Stderr)
	}
	for _, p := range parts {
		if !strings.Contains(r.Stderr, p) {
			t.Errorf("stderr lacks %q:\n%s", p, r.Stderr)
		}
	}
}

// running is an mpckms that somebody talks to while it runs.
type running struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout bytes.Buffer

	mu     sync.Mutex
	stderr strings.Builder
	read   sync.WaitGroup
}

func (u *user) start(t *testing.T, token string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	r := &running{cmd: u.command(ctx, token, args)}
	r.cmd.Stdout = &r.stdout
	var err error
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.read.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := stderr.Read(buf)
			r.mu.Lock()
			r.stderr.Write(buf[:n])
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	return r
}

func (r *running) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stderr.String()
}

func (r *running) wait(t *testing.T) e2e.Result {
	t.Helper()
	r.read.Wait()
	err := r.cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return e2e.Result{Stdout: r.stdout.String(), Stderr: r.said(), Code: r.cmd.ProcessState.ExitCode()}
}

// apiCaller is the engine's API as package keyholder wants it, in this process.
type apiCaller struct {
	c    *api.Client
	path string
}

func (a apiCaller) Call(ctx context.Context, op keyholder.Op, path string, in map[string]any, out any) error {
	l := a.c.Logical()
	var s *api.Secret
	var err error
	switch op {
	case keyholder.Read:
		s, err = l.ReadWithContext(ctx, a.path+"/"+path)
	case keyholder.List:
		s, err = l.ListWithContext(ctx, a.path+"/"+path)
	case keyholder.Write:
		s, err = l.WriteWithContext(ctx, a.path+"/"+path, in)
	case keyholder.Delete:
		s, err = l.DeleteWithContext(ctx, a.path+"/"+path)
	}
	var answer *api.ResponseError
	if errors.As(err, &answer) {
		return &keyholder.Refusal{Status: answer.StatusCode, Messages: answer.Errors}
	}
	if err != nil || s == nil || out == nil {
		return err
	}
	raw, err := json.Marshal(s.Data)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

// publicOf reads an authenticator's public half as the engine shows it.
func publicOf(t *testing.T, e *engine, name string) *identity.Authenticator {
	t.Helper()
	var d struct {
		ID     identity.ID         `json:"id"`
		Kind   identity.Method     `json:"kind"`
		PIN    bool                `json:"pin"`
		Public identity.PublicKeys `json:"public"`
	}
	if err := (apiCaller{e.Client, e.path}).Call(t.Context(), keyholder.Read, "authenticators/"+name, nil, &d); err != nil {
		t.Fatal(err)
	}
	return &identity.Authenticator{Format: 1, ID: d.ID, Name: name, Method: d.Kind, PIN: d.PIN, Keys: d.Public}
}

// owned makes an identity whose owner is a throwaway authenticator of this process,
// with a role that it grants to authenticators that mpckms made, and an asset for
// it.
func owned(t *testing.T, e *engine, name string, grants ...string) {
	t.Helper()
	c := apiCaller{e.Client, e.path}
	src := keyholder.KeyFile(silent{}, filepath.Join(t.TempDir(), "owner.key"))
	owner, keys, err := keyholder.Register(t.Context(), c, name+"-owner", identity.KeyFile, src, keyholder.RegisterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Wipe()
	signed, o, err := identity.Create(identity.NewIdentity{
		Name: name, Kind: identity.Organization, Roles: []string{"web"}, Authenticator: owner, Keys: keys, Level: "full", Time: time.Now(),
		Levels: []identity.Level{{Name: "full", Roles: []string{identity.OwnerRole, "web"}}, {Name: "staff", Roles: []string{"web"}, ServerTrusting: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { o.Wipe() }()
	write := func(s *identity.SignedManifest) {
		t.Helper()
		if err := c.Call(t.Context(), keyholder.Write, "identities/"+name, map[string]any{"manifest": s.Manifest, "signature": s.Signature}, nil); err != nil {
			t.Fatal(err)
		}
	}
	write(signed)
	var changes []identity.Change
	for _, g := range grants {
		changes = append(changes, identity.AddGrant{Authenticator: publicOf(t, e, g), Level: "staff"})
	}
	if signed, err = o.Change(time.Now(), changes...); err != nil {
		t.Fatal(err)
	}
	write(signed)
}

// silent answers nothing.
type silent struct{ keyholder.Prompter }

func (silent) Show(string) {}

// loginDoc is what `mpckms login -o json` says.
type loginDoc struct {
	Authenticator  string `json:"authenticator"`
	ServerTrusting bool   `json:"server_trusting"`
	Identities     []struct {
		Name    string   `json:"name"`
		Level   string   `json:"level"`
		Roles   []string `json:"roles"`
		Problem string   `json:"problem"`
	} `json:"identities"`
}

// opens checks that a login opened the identity's role with the authenticator.
func opens(t *testing.T, r e2e.Result, authenticator, name string) {
	t.Helper()
	ok(t, r)
	var d loginDoc
	if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil {
		t.Fatalf("%v\n%s", err, r.Stdout)
	}
	if d.Authenticator != authenticator || len(d.Identities) != 1 || d.Identities[0].Name != name || d.Identities[0].Problem != "" || !slices.Equal(d.Identities[0].Roles, []string{"web"}) {
		t.Fatalf("the login opened %+v", d)
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited too long for " + what)
		}
	}
}
