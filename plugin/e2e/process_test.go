//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

// family starts a shell with one child in a session of its own, and returns
// both, the leader first.
func family(t *testing.T) []Process {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "sleep 60 & wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	leader, err := lookUp(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := killGroup(leader); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
	})
	deadline := time.Now().Add(5 * time.Second)
	for {
		if tree := ProcessTree(t, leader.PID); len(tree) == 1 && len(tree[0].Cmdline) > 0 && tree[0].Cmdline[0] == "sleep" {
			return []Process{leader, tree[0]}
		}
		if time.Now().After(deadline) {
			t.Fatal("the shell's child did not appear")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestProcessTreeNamesDescendants(t *testing.T) {
	both := family(t)
	child := both[1]
	if child.PPID != both[0].PID || child.Exe == "" || !slices.Equal(child.Cmdline, []string{"sleep", "60"}) {
		t.Errorf("child: %+v", child)
	}
	tree := ProcessTree(t, os.Getpid())
	for _, p := range both {
		if !slices.ContainsFunc(tree, func(q Process) bool { return q.PID == p.PID && q.Start == p.Start }) {
			t.Errorf("%v is missing below this process", p)
		}
	}
}

func TestAwaitGone(t *testing.T) {
	both := family(t)
	if left := awaitGone(both, 50*time.Millisecond); len(left) != 2 {
		t.Fatalf("running processes taken for gone: %v are left", left)
	}
	// The orphan must be told from its dead parent, and a zombie be gone: the
	// shell is not waited for before the clean-up.
	if err := syscall.Kill(both[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	left := awaitGone(both, 500*time.Millisecond)
	if len(left) != 1 || left[0].PID != both[1].PID {
		t.Errorf("left: %v", left)
	}
	group, err := members(both[0])
	if err != nil || len(group) != 1 || group[0].PID != both[1].PID {
		t.Errorf("members without their leader: %v, %v", group, err)
	}
	if err := killGroup(both[0]); err != nil {
		t.Fatal(err)
	}
	if left := awaitGone(both, 0); len(left) != 0 {
		t.Errorf("left after killGroup: %v", left)
	}
}

func TestARecycledIDIsNotOurs(t *testing.T) {
	both := family(t)
	other := both[0]
	other.Start-- // an earlier process that had this ID
	if other.Alive() {
		t.Error("an ID alone was taken for the process")
	}
	if group, err := members(other); err != nil || len(group) != 0 {
		t.Errorf("members: %v, %v", group, err)
	}
	if group, err := members(Process{}); err != nil || len(group) != 0 {
		t.Errorf("members of no process: %v, %v", group, err)
	}
}
