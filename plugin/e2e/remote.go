//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RemoteOptions of a node daemon.
type RemoteOptions struct {
	Name   string // of the node, in its own configuration
	Region string
	Zone   string
	Domain string // wrapping domain; empty: "default", which needs Token

	// Network is where the daemon runs, Host its address there. Nil: on this
	// process's loopback.
	Network Network
	Host    string
	// Token is shared with others; nil: one of its own, in a store of its own.
	Token *Token
	// PluginDir, where not empty, holds another build of the plugin.
	PluginDir string
	// Env are further variables of the daemon, each "NAME=value".
	Env []string
	// TLS and More are put into node.hcl: the lines of its tls block, and
	// whatever else belongs at its top level.
	TLS, More string
}

// Remote is one node daemon with a folder, a configuration and a state of its
// own, as an operator would set it up. Methods may be called concurrently,
// except that nothing may run beside Start, Kill9 and Terminate.
type Remote struct {
	RemoteOptions
	Token   Token
	Dir     string
	Config  string // path of node.hcl
	LogPath string
	Address string // host:port that Vault dials

	harness   *Harness
	telemetry string
	process   Process
	exited    chan struct{}
	code      int // once exited is closed
}

const (
	// remotePort and telemetryPort are those of the documentation. In a network
	// of its own nobody else can have them.
	remotePort    = 8300
	telemetryPort = 8301
	// drainTimeout is what node.hcl says, in seconds; Terminate waits longer.
	drainTimeout = 10
)

// NewRemote sets up a node daemon, which Start starts. When the test ends, it
// is ended and its folder removed.
func (h *Harness) NewRemote(t testing.TB, opts RemoteOptions) *Remote {
	t.Helper()
	r, err := h.newRemote(opts)
	if err != nil {
		t.Fatalf("setting up node %s: %v", opts.Name, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of what node %s logged:\n%s", r.Name, r.logTail())
		}
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (h *Harness) newRemote(opts RemoteOptions) (*Remote, error) {
	dir, err := h.tempDir()
	if err != nil {
		return nil, err
	}
	r := &Remote{RemoteOptions: opts, Dir: dir, Config: filepath.Join(dir, "node.hcl"), LogPath: filepath.Join(dir, "node.log"), harness: h}
	if opts.Token != nil {
		r.Token = *opts.Token
	} else if r.Token, err = newToken(dir, opts.Name); err != nil {
		return nil, err
	}
	host, port, telemetry := opts.Host, remotePort, telemetryPort
	if opts.Network == nil {
		if port, telemetry, err = freePorts(); err != nil {
			return nil, err
		}
		host = "127.0.0.1"
	}
	r.Address = fmt.Sprintf("%s:%d", host, port)
	r.telemetry = fmt.Sprintf("127.0.0.1:%d", telemetry)
	for _, sub := range []string{"state", "home"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "pin"), []byte(r.Token.PIN+"\n"), 0o600); err != nil {
		return nil, err
	}
	return r, r.WriteConfig()
}

// WriteConfig writes node.hcl anew, after a change of the options.
func (r *Remote) WriteConfig() error {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %q\n", name, value)
		}
	}
	line("name", r.Name)
	line("region", r.Region)
	line("zone", r.Zone)
	line("domain", r.Domain)
	line("listen", r.Address)
	line("state_dir", filepath.Join(r.Dir, "state"))
	line("drain_timeout", fmt.Sprintf("%ds", drainTimeout))
	b.WriteString("hsm {\n")
	line("  module", r.Token.Module)
	line("  token", r.Token.Label)
	line("  pin_file", filepath.Join(r.Dir, "pin"))
	b.WriteString("}\n")
	if r.TLS != "" {
		fmt.Fprintf(&b, "tls {\n%s\n}\n", r.TLS)
	}
	b.WriteString("telemetry {\n")
	line("  listen", r.telemetry)
	b.WriteString("}\n")
	b.WriteString(r.More)
	return os.WriteFile(r.Config, []byte(b.String()), 0o600)
}

// command prepares `vault-plugin-secrets-mpc node ARGS`.
func (r *Remote) command(args ...string) *exec.Cmd {
	dir := r.PluginDir
	if dir == "" {
		dir = r.harness.PluginDir
	}
	cmd := exec.Command(filepath.Join(dir, pluginName), append([]string{"node"}, args...)...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(r.Dir, "home"), "TMPDIR=" + r.Dir, "SOFTHSM2_CONF=" + r.Token.Conf,
	}, r.Env...)
	return cmd
}

// Run runs one of the node's commands on its host, such as "enrol" or
// "peers list", with --config after it.
func (r *Remote) Run(t testing.TB, args ...string) Result {
	t.Helper()
	return r.run(t, r.command(append(args, "--config", r.Config)...))
}

// RunLine runs a command line that some answer told the node's operator to run,
// with this node's configuration for FILE.
func (r *Remote) RunLine(t testing.TB, line string) Result {
	t.Helper()
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != pluginName || words[1] != "node" {
		t.Fatalf("%q is no command of a node", line)
	}
	for i, w := range words {
		if w == "FILE" {
			words[i] = r.Config
		}
	}
	return r.run(t, r.command(words[2:]...))
}

func (r *Remote) run(t testing.TB, cmd *exec.Cmd) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := start(r.Network, cmd)
	if err == nil {
		timer := time.AfterFunc(startTimeout, func() { _ = cmd.Process.Kill() })
		err = cmd.Wait()
		timer.Stop()
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// tokenPrefix begins what `node enrol` prints for Vault's operator.
const tokenPrefix = "mpcnode1."

// Enrol opens the node for a coordinator and returns the token to give to it.
func (r *Remote) Enrol(t testing.TB) string {
	t.Helper()
	result := r.Run(t, "enrol")
	for _, word := range strings.Fields(result.Stdout) {
		if strings.HasPrefix(word, tokenPrefix) && result.Code == 0 {
			return word
		}
	}
	t.Fatalf("node enrol of %s ends with %d and prints no token: %s", r.Name, result.Code, result.Stderr)
	return ""
}

// Start starts the daemon and waits until it says that it is healthy.
func (r *Remote) Start(t testing.TB) {
	t.Helper()
	if err := r.launch(); err != nil {
		t.Fatalf("starting node %s: %v\n%s", r.Name, err, r.logTail())
	}
}

func (r *Remote) launch() error {
	logFile, err := os.OpenFile(r.LogPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close() // the process has its own
	cmd := r.command("serve", "--config", r.Config)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // see Vault.launch
	if err := start(r.Network, cmd); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() { // ends with the process, which close and the reaper see to
		defer close(exited)
		_ = cmd.Wait()
		r.code = cmd.ProcessState.ExitCode()
	}()
	r.exited = exited
	if r.process, err = lookUp(cmd.Process.Pid); err != nil {
		return fmt.Errorf("it ended at once: %w", err)
	}
	if err := r.harness.reaper.watchGroup(r.process); err != nil {
		return err
	}
	return r.await("it is healthy", func(ctx context.Context) bool {
		status, _, err := r.Telemetry(ctx, "/healthz")
		return err == nil && status == http.StatusOK
	})
}

func (r *Remote) await(what string, ready func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for !ready(ctx) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v until %s", startTimeout, what)
		case <-r.exited:
			return fmt.Errorf("it ended, with code %d, while waiting until %s", r.code, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// Telemetry asks the daemon's own endpoint, on its host.
func (r *Remote) Telemetry(ctx context.Context, path string) (status int, body string, err error) {
	dial := new(net.Dialer).DialContext
	if r.Network != nil {
		dial = r.Network.DialContext
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.telemetry+path, nil)
	if err != nil {
		return 0, "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// Running says whether the daemon's process runs.
func (r *Remote) Running() bool {
	if r.exited == nil {
		return false
	}
	select {
	case <-r.exited:
		return false
	default:
		return true
	}
}

// PID is the process ID of the running, or last, daemon.
func (r *Remote) PID() int { return r.process.PID }

// Kill9 kills the daemon with SIGKILL and waits for its end.
func (r *Remote) Kill9(t testing.TB) {
	t.Helper()
	if err := killGroup(r.process); err != nil {
		t.Fatalf("killing node %s: %v", r.Name, err)
	}
	<-r.exited
}

// Terminate asks the daemon to end, as a service manager would, waits and
// returns its exit code.
func (r *Remote) Terminate(t testing.TB) int {
	t.Helper()
	if err := syscall.Kill(r.process.PID, syscall.SIGTERM); err != nil {
		t.Fatalf("terminating node %s: %v", r.Name, err)
	}
	select {
	case <-r.exited:
	case <-time.After(drainTimeout*time.Second + stopTimeout):
		t.Errorf("node %s ignored SIGTERM for %v", r.Name, drainTimeout*time.Second+stopTimeout)
		r.Kill9(t)
	}
	return r.code
}

// Log returns everything that the daemon has logged.
func (r *Remote) Log(t testing.TB) string {
	t.Helper()
	log, err := os.ReadFile(r.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	return string(log)
}

func (r *Remote) logTail() []byte {
	log, err := os.ReadFile(r.LogPath)
	if err != nil {
		return fmt.Appendf(nil, "(no log: %v)", err)
	}
	return log[max(0, len(log)-4<<10):]
}

func (r *Remote) close() error {
	err := killGroup(r.process)
	if r.exited != nil {
		<-r.exited
	}
	if os.Getenv("MPC_KEEP") == "1" {
		fmt.Fprintln(os.Stderr, "e2e: kept", r.Dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(r.Dir))
}
