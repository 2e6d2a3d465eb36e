//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process names one process for good: an ID may be used again, an ID with its
// start time is not.
type Process struct {
	PID   int
	PPID  int
	Start uint64 // clock ticks since the system started
	// Exe is where the executable link leads; empty when this user may not
	// read it, as with a process that made itself undumpable.
	Exe string
	// Cmdline is the argument vector.
	Cmdline []string

	state   byte
	group   int
	session int
}

func (p Process) String() string {
	return fmt.Sprintf("%d (parent %d) %s", p.PID, p.PPID, strings.Join(p.Cmdline, " "))
}

// Alive reports whether the process still runs. A zombie does not: it holds
// nothing but its exit code.
func (p Process) Alive() bool {
	now, err := lookUp(p.PID)
	return err == nil && now.Start == p.Start && now.state != 'Z' && now.state != 'X'
}

// lookUp reads /proc/PID/stat (proc_pid_stat(5)).
func lookUp(pid int) (Process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Process{}, err
	}
	// The second field, the name in parentheses, may hold spaces and
	// parentheses: fields are counted from the last one.
	_, rest, ok := cutLast(string(stat), ") ")
	fields := strings.Fields(rest) // fields[0] is field 3, the state
	if !ok || len(fields) < 20 {
		return Process{}, fmt.Errorf("%s/stat: unknown form %q", dir, stat)
	}
	p := Process{PID: pid, state: fields[0][0]}
	var errs [4]error
	p.PPID, errs[0] = strconv.Atoi(fields[1])
	p.group, errs[1] = strconv.Atoi(fields[2])
	p.session, errs[2] = strconv.Atoi(fields[3])
	p.Start, errs[3] = strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return Process{}, fmt.Errorf("%s/stat: %w", dir, err)
	}
	p.Exe, _ = os.Readlink(dir + "/exe")
	if raw, err := os.ReadFile(dir + "/cmdline"); err == nil && len(raw) > 0 {
		p.Cmdline = strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	}
	return p, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// processes returns all running processes; zombies are left out.
func processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// A process that ended meanwhile is no error.
		if p, err := lookUp(pid); err == nil && p.state != 'Z' && p.state != 'X' {
			all = append(all, p)
		}
	}
	return all, nil
}

// ProcessTree returns the descendants of a process, parents first. Call it
// before a kill: orphans have a new parent.
func ProcessTree(t testing.TB, pid int) []Process {
	t.Helper()
	tree, err := descendants(pid)
	if err != nil {
		t.Fatalf("listing processes: %v", err)
	}
	return tree
}

func descendants(pid int) ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	var tree []Process
	for parents := []int{pid}; len(parents) > 0; {
		var next []int
		for _, p := range all {
			if slices.Contains(parents, p.PPID) {
				tree = append(tree, p)
				next = append(next, p.PID)
			}
		}
		parents = next
	}
	return tree, nil
}

// WaitGone fails the test when one of the processes still runs after the time.
func WaitGone(t testing.TB, gone []Process, within time.Duration) {
	t.Helper()
	for _, p := range awaitGone(gone, within) {
		t.Errorf("still running after %v: %v", within, p)
	}
}

// awaitGone returns the processes that still run after the time.
func awaitGone(gone []Process, within time.Duration) (left []Process) {
	deadline := time.Now().Add(within)
	for {
		left = slices.DeleteFunc(slices.Clone(gone), func(p Process) bool { return !p.Alive() })
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// members returns the running processes of the group and session that leader
// founded, the leader included.
func members(leader Process) ([]Process, error) {
	if leader.PID <= 1 {
		// Never started. Group 0 is that of kernel threads, or of processes
		// outside of this container.
		return nil, nil
	}
	if now, err := lookUp(leader.PID); err == nil && now.Start != leader.Start {
		// The ID is somebody else's. The system does not give away the ID of
		// a group that still has members, so ours is empty.
		return nil, nil
	}
	all, err := processes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p Process) bool {
		return p.group != leader.PID || p.session != leader.PID
	}), nil
}

// killGroup kills what is left of the group, again until nothing is: a member
// may have started another meanwhile.
func killGroup(leader Process) error {
	for range 50 {
		left, err := members(leader)
		if err != nil || len(left) == 0 {
			return err
		}
		for _, p := range left {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("killing %v: %w", p, err)
			}
		}
		awaitGone(left, time.Second)
	}
	return fmt.Errorf("the group of process %d does not die", leader.PID)
}
