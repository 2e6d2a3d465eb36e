//go:build faults

package backend

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Faults of real processes, for end-to-end tests; see Config.step. A binary that
// is installed anywhere is built without them.

// Victims that a file of orders may name.
const (
	killPlugin = "kill-plugin"
	killNode   = "kill-node"
	killVault  = "kill-vault"
)

// WithFaults makes every step look into a folder. A file "order" of two lines, a
// victim and the name of a step, has the victim killed with SIGKILL when that
// step is passed next; the file is renamed to "done" just before.
func WithFaults(cfg Config, dir string) Config {
	cfg.step = func(_ context.Context, name string) error {
		order := filepath.Join(dir, "order")
		text, err := os.ReadFile(order)
		if err != nil {
			return nil // no order
		}
		victim, step, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		if step != name || os.Rename(order, filepath.Join(dir, "done")) != nil {
			return nil
		}
		switch victim {
		case killPlugin:
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		case killVault:
			_ = syscall.Kill(os.Getppid(), syscall.SIGKILL)
		case killNode:
			for _, pid := range children(os.Getpid()) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				break
			}
		}
		return nil
	}
	return cfg
}

// children lists the processes whose parent is pid.
func children(pid int) (out []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// pid (name) state ppid …; the name may hold anything.
		fields := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err == nil {
				out = append(out, child)
			}
		}
	}
	return out
}
