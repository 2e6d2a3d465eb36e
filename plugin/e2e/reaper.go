//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

const (
	// reaperEnv makes a test binary behave as the reaper.
	reaperEnv  = "MPC_E2E_REAPER"
	tempPrefix = "mpc-e2e-"
)

// reaper is a second process that is told of everything that must not survive
// the tests, and clears it away when its standard input ends: the system
// closes that pipe however the test process dies.
type reaper struct {
	mu    sync.Mutex
	pipe  io.WriteCloser
	child *exec.Cmd
}

// startReaper runs this same binary once more, as the reaper.
func startReaper() (*reaper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	child := exec.Command(self)
	child.Env = []string{reaperEnv + "=1", "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.Getenv("TMPDIR"), "MPC_KEEP=" + os.Getenv("MPC_KEEP")}
	// A group of its own, so that Ctrl-C does not reach it. No stdout or
	// stderr of ours either: `go test` waits until the last holder closes them.
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := child.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := child.Start(); err != nil {
		return nil, fmt.Errorf("starting the reaper: %w", err)
	}
	return &reaper{pipe: pipe, child: child}, nil
}

// watchGroup hands over a process group, named by its leader.
func (r *reaper) watchGroup(leader Process) error {
	return r.tell("group %d %d\n", leader.PID, leader.Start)
}

// watchDir hands over a folder made with tempPrefix.
func (r *reaper) watchDir(dir string) error { return r.tell("dir %s\n", dir) }

func (r *reaper) tell(format string, args ...any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := fmt.Fprintf(r.pipe, format, args...); err != nil {
		return fmt.Errorf("telling the reaper: %w", err)
	}
	return nil
}

// close lets the reaper do its work and waits for it.
func (r *reaper) close() {
	_ = r.pipe.Close()
	_ = r.child.Wait()
}

// reap is the reaper process: it reads until its input ends, then clears away.
func reap(in io.Reader) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	var groups []Process
	var dirs []string
	for lines := bufio.NewScanner(in); lines.Scan(); {
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		switch kind {
		case "group":
			var p Process
			if _, err := fmt.Sscan(rest, &p.PID, &p.Start); err == nil {
				groups = append(groups, p)
			}
		case "dir":
			dirs = append(dirs, rest)
		}
	}
	code := 0
	for _, g := range groups {
		if err := killGroup(g); err != nil {
			code = 1
		}
	}
	for _, dir := range dirs {
		if os.Getenv("MPC_KEEP") == "1" || !strings.HasPrefix(filepath.Base(dir), tempPrefix) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			code = 1
		}
	}
	return code
}
