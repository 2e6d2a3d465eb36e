//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// Adopt takes over a process that a test's shell left running in the background. It
// has to lead a group and a session of its own (setsid), which it is given a moment
// to make. The process is ended with the test, and whatever becomes of the test.
func (h *Harness) Adopt(t testing.TB, pid int) Process {
	t.Helper()
	p, err := h.adopt(pid)
	if err != nil {
		t.Fatalf("process %d, which was started in the background: %v", pid, err)
	}
	t.Cleanup(func() {
		if err := killGroup(p); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (h *Harness) adopt(pid int) (Process, error) {
	for end := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		p, err := lookUp(pid)
		if err != nil {
			return Process{}, fmt.Errorf("it ended at once: %w", err)
		}
		if p.group == pid && p.session == pid {
			return p, h.reaper.watchGroup(p)
		}
		if time.Now().After(end) {
			return Process{}, fmt.Errorf("it is in group %d and session %d", p.group, p.session)
		}
	}
}
