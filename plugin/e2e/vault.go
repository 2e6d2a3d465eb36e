//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// Storage says where a Vault keeps its data.
type Storage int

const (
	// Dev is a dev server: in memory, unsealed from the start, gone when it
	// stops. It inherits nothing of the caller's environment.
	Dev Storage = iota
	// File and Raft are production servers on disk: they can be killed,
	// started again on their data and unsealed.
	File
	Raft
)

// Options of a Vault; the zero value is a dev server.
type Options struct {
	Storage Storage
	// PluginEnv is registered with the plugin after what Enable sets itself,
	// each "NAME=value".
	PluginEnv []string
	// PluginDir, where not empty, holds another build of the plugin.
	PluginDir string
	// PINFile is put on the module list: the nodes' host provides the PIN.
	PINFile string
	// MoreModules are further entries of the module list.
	MoreModules string
	// AllowSHA1 puts SoftHSM on the list with its RSA, which is for tests.
	AllowSHA1 bool
	// Network, where not nil, is where the server and the commands run.
	Network Network

	member member
}

// member makes a Vault one server of a Cluster; the zero value is a Vault by
// itself, with a token and a Raft cluster of its own.
type member struct {
	node   string // Raft node ID; empty: "e2e"
	token  *Token // shared with the other servers
	leader *Vault // whose cluster to join; nil: found one
}

// Network is a place for processes whose network is not this process's own: a
// site of package netlab.
type Network interface {
	Start(cmd *exec.Cmd) error
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// start starts a command in a network, or in this process's own.
func start(n Network, cmd *exec.Cmd) error {
	if n == nil {
		return cmd.Start()
	}
	return n.Start(cmd)
}

// Vault is one running server. Methods may be called concurrently, except
// that nothing may run beside Kill9, Restart and Stop.
type Vault struct {
	Addr      string // http://127.0.0.1:port
	RootToken string
	Client    *api.Client // with the root token; never retries
	Token     Token       // the fresh SoftHSM token
	Dir       string      // private folder, removed at the end
	LogPath   string

	harness   *Harness
	opts      Options
	port      int
	cluster   int // second port: Vault's cluster address
	unsealKey string

	process Process // of the running, or last, server
	exited  chan struct{}

	registerOnce sync.Once
	registerErr  error
}

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 10 * time.Second
	// goneTimeout is how long plugin and nodes may outlive their Vault.
	goneTimeout = 3 * time.Second
)

// start brings up a Vault: token, configuration, process, unsealed.
func (h *Harness) start(opts Options) (v *Vault, err error) {
	dir, err := h.tempDir()
	if err != nil {
		return nil, err
	}
	v = &Vault{Dir: dir, LogPath: filepath.Join(dir, "vault.log"), harness: h, opts: opts}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, v.logTail(0))
			_ = v.close()
		}
	}()
	for _, sub := range []string{"plugins", "data", "home"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	if shared := opts.member.token; shared != nil {
		v.Token = *shared
	} else if v.Token, err = newToken(dir, "e2e"); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		if err = v.bringUp(); err == nil {
			return v, nil
		}
		// Somebody may have taken a port between our look and Vault's bind.
		if attempt == 3 || !strings.Contains(string(v.logTail(0)), "address already in use") {
			return nil, err
		}
		if err := errors.Join(killGroup(v.process), os.Remove(v.LogPath)); err != nil {
			return nil, err
		}
	}
}

func (v *Vault) bringUp() error {
	var err error
	if v.port, v.cluster, err = freePorts(); err != nil {
		return err
	}
	v.Addr = fmt.Sprintf("http://127.0.0.1:%d", v.port)
	if err := os.WriteFile(v.configPath(), []byte(v.config()), 0o600); err != nil {
		return err
	}
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return cfg.Error
	}
	cfg.Address = v.Addr
	cfg.MaxRetries = 0 // a 5xx is a result
	cfg.Timeout = 90 * time.Second
	if v.opts.Network != nil {
		transport, ok := cfg.HttpClient.Transport.(*http.Transport)
		if !ok {
			return fmt.Errorf("the API client has a transport %T", cfg.HttpClient.Transport)
		}
		transport.DialContext = v.opts.Network.DialContext
	}
	if v.Client, err = api.NewClient(cfg); err != nil {
		return err
	}
	if v.opts.Storage == Dev {
		v.RootToken = randomHex(16)
	}
	if err := v.launch(); err != nil {
		return err
	}
	switch {
	case v.opts.member.leader != nil:
		if err := v.join(v.opts.member.leader); err != nil {
			return err
		}
	case v.opts.Storage != Dev:
		init, err := v.Client.Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
		if err != nil {
			return fmt.Errorf("initialising: %w", err)
		}
		v.RootToken, v.unsealKey = init.RootToken, init.Keys[0]
		if err := v.unseal(); err != nil {
			return err
		}
	}
	v.Client.SetToken(v.RootToken)
	return v.awaitReady()
}

func (v *Vault) configPath() string { return filepath.Join(v.Dir, "vault.hcl") }

func (v *Vault) config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plugin_directory = %q\n", filepath.Join(v.Dir, "plugins"))
	// sys/raw shows what the plugin stored, below Vault's own encryption.
	b.WriteString("raw_storage_endpoint = true\ndisable_mlock = true\nlog_level = \"debug\"\n")
	if v.opts.Storage == Dev {
		return b.String()
	}
	kind := map[Storage]string{File: "file", Raft: "raft"}[v.opts.Storage]
	fmt.Fprintf(&b, "storage %q {\n  path = %q\n", kind, filepath.Join(v.Dir, "data"))
	if v.opts.Storage == Raft {
		node, multiplier := v.opts.member.node, 1
		if node == "" {
			node = "e2e"
		} else {
			// Three servers on a busy machine miss heartbeats. Vault's default is 5.
			multiplier = 2
			// Default: 2 s and 10 s, after which a server that joined may vote.
			b.WriteString("  autopilot_update_interval = \"500ms\"\n  autopilot_reconcile_interval = \"1s\"\n")
		}
		fmt.Fprintf(&b, "  node_id = %q\n  performance_multiplier = %d\n", node, multiplier)
	}
	b.WriteString("}\n")
	fmt.Fprintf(&b, "listener \"tcp\" {\n  address = \"127.0.0.1:%d\"\n  cluster_address = \"127.0.0.1:%d\"\n  tls_disable = true\n}\n", v.port, v.cluster)
	fmt.Fprintf(&b, "api_addr = %q\ncluster_addr = \"https://127.0.0.1:%d\"\n", v.Addr, v.cluster)
	return b.String()
}

// launch starts the server process and waits until it answers, sealed or not.
func (v *Vault) launch() error {
	logFile, err := os.OpenFile(v.LogPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close() // the process has its own
	args := []string{"server", "-config=" + v.configPath()}
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(v.Dir, "home"), "TMPDIR=" + v.Dir}
	if v.opts.Storage == Dev {
		args = append(args, "-dev", "-dev-no-store-token", fmt.Sprintf("-dev-listen-address=127.0.0.1:%d", v.port))
		env = append(env, "VAULT_DEV_ROOT_TOKEN_ID="+v.RootToken)
	}
	cmd := exec.Command(v.harness.VaultBin, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, logFile, logFile
	// A session, and so a group, of its own: it names Vault, its plugins and
	// their nodes together, also when they have become orphans.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := start(v.opts.Network, cmd); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() { // ends with the process, which close and the reaper see to
		defer close(exited)
		_ = cmd.Wait()
	}()
	v.exited = exited
	if v.process, err = lookUp(cmd.Process.Pid); err != nil {
		return fmt.Errorf("Vault ended at once: %w", err)
	}
	if err := v.harness.reaper.watchGroup(v.process); err != nil {
		return err
	}
	return v.await("it answers", func(ctx context.Context) bool {
		_, err := v.Client.Sys().SealStatusWithContext(ctx)
		return err == nil
	})
}

func (v *Vault) unseal() error {
	status, err := v.Client.Sys().Unseal(v.unsealKey)
	if err != nil {
		return fmt.Errorf("unsealing: %w", err)
	}
	if status.Sealed {
		return errors.New("unsealing: still sealed")
	}
	return nil
}

// awaitReady waits until the server is active. One of a cluster may as well be
// a standby that knows the active one.
func (v *Vault) awaitReady() error {
	if v.opts.member.node == "" {
		return v.await("it is active", v.active)
	}
	return v.await("it is active or a standby", func(ctx context.Context) bool {
		leader, err := v.Client.Sys().LeaderWithContext(ctx)
		return err == nil && leader.LeaderAddress != ""
	})
}

func (v *Vault) active(ctx context.Context) bool {
	health, err := v.Client.Sys().HealthWithContext(ctx)
	return err == nil && health.Initialized && !health.Sealed && !health.Standby
}

// await polls until ready, the time is up or the process has ended.
func (v *Vault) await(what string, ready func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for !ready(ctx) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("Vault: waited %v until %s", startTimeout, what)
		case <-v.exited:
			return fmt.Errorf("Vault ended while waiting until %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// PID is the process ID of the server.
func (v *Vault) PID() int { return v.process.PID }

// Kill9 kills the server process alone, with SIGKILL, and waits for its end.
// It returns the plugins and nodes that ran below it at that moment.
func (v *Vault) Kill9(t testing.TB) []Process {
	t.Helper()
	below := ProcessTree(t, v.process.PID)
	if err := syscall.Kill(v.process.PID, syscall.SIGKILL); err != nil {
		t.Fatalf("killing Vault: %v", err)
	}
	<-v.exited
	return below
}

// Restart starts a stopped or killed server again on its data, unsealed. Not
// for dev servers, whose data is gone.
func (v *Vault) Restart(t testing.TB) {
	t.Helper()
	if v.opts.Storage == Dev {
		t.Fatal("a dev server cannot be restarted; start with Options{Storage: Raft}")
	}
	select {
	case <-v.exited:
	default:
		t.Fatal("Restart: Vault still runs")
	}
	if err := errors.Join(killGroup(v.process), v.launch()); err != nil {
		t.Fatalf("restarting Vault: %v", err)
	}
	if err := v.unseal(); err != nil {
		t.Fatal(err)
	}
	if err := v.awaitReady(); err != nil {
		t.Fatal(err)
	}
}

// Seal seals the server; its plugins and nodes end. Unseal opens it again and
// waits until it is active.
func (v *Vault) Seal(t testing.TB) {
	t.Helper()
	if err := v.Client.Sys().Seal(); err != nil {
		t.Fatalf("sealing: %v", err)
	}
}

// Unseal is Seal's counterpart.
func (v *Vault) Unseal(t testing.TB) {
	t.Helper()
	if err := errors.Join(v.unseal(), v.awaitReady()); err != nil {
		t.Fatal(err)
	}
}

// Stop asks the server to end, as a service manager would, and waits. What
// still runs of its plugins and nodes three seconds later fails the test.
func (v *Vault) Stop(t testing.TB) {
	t.Helper()
	if err := v.terminate(); err != nil {
		t.Error(err)
	}
}

// terminate ends the server and everything below it; the error names what had
// to be killed.
func (v *Vault) terminate() error {
	if v.exited == nil {
		return nil // never started
	}
	var errs []error
	select {
	case <-v.exited:
	default:
		if err := syscall.Kill(v.process.PID, syscall.SIGTERM); err != nil {
			errs = append(errs, err)
		}
		select {
		case <-v.exited:
		case <-time.After(stopTimeout):
			errs = append(errs, fmt.Errorf("Vault ignored SIGTERM for %v", stopTimeout))
			_ = syscall.Kill(v.process.PID, syscall.SIGKILL)
			<-v.exited
		}
	}
	left, err := members(v.process)
	if err != nil {
		errs = append(errs, err)
	}
	for _, p := range awaitGone(left, goneTimeout) {
		errs = append(errs, fmt.Errorf("outlived Vault by %v: %v", goneTimeout, p))
	}
	return errors.Join(append(errs, killGroup(v.process))...)
}

// close ends everything and removes the folder; MPC_KEEP=1 keeps it.
func (v *Vault) close() error {
	err := v.terminate()
	if os.Getenv("MPC_KEEP") == "1" {
		fmt.Fprintln(os.Stderr, "e2e: kept", v.Dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(v.Dir))
}

// freePorts returns two free loopback ports. A dev server takes the port after
// its own as cluster address, so the two are neighbours. They lie below those
// that the system gives to outgoing connections (ip(7), 32768 and up): while a
// killed server is down, none of these may take its port.
func freePorts() (int, int, error) {
	const lowest, count = 20000, 12000
	for range 50 {
		port := lowest + 2*rand.IntN(count/2)
		if freePort(port) && freePort(port+1) {
			return port, port + 1, nil
		}
	}
	return 0, 0, errors.New("no two neighbouring free ports on 127.0.0.1")
}

func freePort(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

// AwaitDeath waits until the server process, which somebody else kills, has
// ended.
func (v *Vault) AwaitDeath(t testing.TB) {
	t.Helper()
	select {
	case <-v.exited:
	case <-time.After(stopTimeout):
		t.Fatal("Vault still runs")
	}
}
