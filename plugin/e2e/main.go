//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Harness is one run of the suite. Its methods may be called concurrently.
type Harness struct {
	// VaultBin is the vault binary (environment: MPC_VAULT_BIN, required).
	VaultBin string
	// PluginDir holds the built plugin (MPC_PLUGIN_DIR; needed by Enable).
	PluginDir string
	// PluginVersion is the version it was built with (MPC_PLUGIN_VERSION,
	// default v0.1.0).
	PluginVersion string
	// CLIBin is the built mpckms (MPC_CLI_BIN; needed by Mpckms).
	CLIBin string

	reaper *reaper

	shared, sharedRaft suiteVault
}

// suiteVault is started on first use and stopped by Main.
type suiteVault struct {
	once  sync.Once
	vault *Vault
	err   error
}

// Main is the body of a suite's TestMain:
//
//	var harness *e2e.Harness
//
//	func TestMain(m *testing.M) {
//		os.Exit(e2e.Main(m, func(h *e2e.Harness) { harness = h }))
//	}
//
// Whatever happens to the tests, a panic, a timeout or SIGKILL included, every
// process they started is ended: a second process sees to it.
func Main(m *testing.M, use func(*Harness)) int {
	if os.Getenv(reaperEnv) != "" {
		return reap(os.Stdin)
	}
	h, err := newHarness()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer h.reaper.close()
	use(h)
	code := m.Run()
	if err := h.stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		if code == 0 {
			code = 1
		}
	}
	return code
}

func newHarness() (*Harness, error) {
	h := &Harness{
		VaultBin:      os.Getenv("MPC_VAULT_BIN"),
		PluginDir:     os.Getenv("MPC_PLUGIN_DIR"),
		PluginVersion: os.Getenv("MPC_PLUGIN_VERSION"),
		CLIBin:        os.Getenv("MPC_CLI_BIN"),
	}
	if h.VaultBin == "" {
		return nil, errors.New("MPC_VAULT_BIN is not set; run the suite with make e2e")
	}
	if h.PluginVersion == "" {
		h.PluginVersion = "v0.1.0"
	}
	// The API client reads its defaults from VAULT_*: nothing of the caller's
	// own Vault may reach the tests.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "VAULT_") {
			if err := os.Unsetenv(name); err != nil {
				return nil, err
			}
		}
	}
	var err error
	h.reaper, err = startReaper()
	return h, err
}

// Shared returns the suite's one dev Vault, started on first use and stopped
// by Main. Use a mount of your own in it. When the test fails, what Vault
// logged during the test is printed.
func (h *Harness) Shared(t testing.TB) *Vault {
	t.Helper()
	return h.suite(t, &h.shared, Options{Storage: Dev})
}

// SharedRaft is Shared with a Vault that stores on Raft, for tests that seal,
// kill, restart or restore it and leave it active. Do not run them in parallel.
func (h *Harness) SharedRaft(t testing.TB) *Vault {
	t.Helper()
	return h.suite(t, &h.sharedRaft, Options{Storage: Raft})
}

func (h *Harness) suite(t testing.TB, s *suiteVault, opts Options) *Vault {
	t.Helper()
	s.once.Do(func() { s.vault, s.err = h.start(opts) })
	if s.err != nil {
		t.Fatalf("starting a Vault for the suite: %v", s.err)
	}
	s.vault.logOnFailure(t)
	return s.vault
}

func (h *Harness) stopShared() error {
	var errs []error
	for _, s := range []*suiteVault{&h.shared, &h.sharedRaft} {
		if s.vault != nil {
			errs = append(errs, s.vault.close())
		}
	}
	return errors.Join(errs...)
}

// StartVault starts a Vault for one test and stops it when the test ends. A
// process that outlives it by more than three seconds fails the test.
func (h *Harness) StartVault(t testing.TB, opts Options) *Vault {
	t.Helper()
	v, err := h.start(opts)
	if err != nil {
		t.Fatalf("starting Vault: %v", err)
	}
	t.Cleanup(func() {
		if err := v.close(); err != nil {
			t.Error(err)
		}
	})
	v.logOnFailure(t) // cleanups run last to first: before the log is removed
	return v
}

// EndWithSuite hands over the process group of a leader that a test started
// itself: should the test process die, the group is ended all the same.
func (h *Harness) EndWithSuite(t testing.TB, leader Process) {
	t.Helper()
	if leader.group != leader.PID || leader.session != leader.PID {
		t.Fatalf("%v leads no session", leader)
	}
	if err := h.reaper.watchGroup(leader); err != nil {
		t.Fatal(err)
	}
}

// tempDir makes a private folder that the reaper removes in every case.
func (h *Harness) tempDir() (string, error) {
	dir, err := os.MkdirTemp("", tempPrefix)
	if err != nil {
		return "", err
	}
	// Vault resolves its plugin folder and refuses files outside of it.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	return dir, h.reaper.watchDir(dir)
}
