package doctor

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/secret"
)

// Proc is where Linux shows its processes.
const Proc = "/proc"

// maxEnviron bounds a process's environment, in bytes.
const maxEnviron = 4 << 20

// Process is a running process of the plugin, or what it can tell.
type Process struct {
	PID int
	// UID is the user it runs as.
	UID uint32
	// Modules is its module list; Known says whether its environment could be
	// read, Set whether the list is there.
	Modules    string
	Known, Set bool
	// Root is the file system as the process sees it, under Proc; a unit may
	// hide parts of the host's.
	Root string
}

// ErrNoProcess says that no process runs the plugin, as far as this user sees.
var ErrNoProcess = errors.New("no running process of the plugin is seen here")

// FindPlugin looks for a process whose program is the file exe, also where the
// file was replaced since. proc is Proc, or a tree like it.
func FindPlugin(proc, exe string) (*Process, error) {
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, ErrNoProcess
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids) // the plugin is older than its nodes
	for _, pid := range pids {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		program, err := os.Readlink(filepath.Join(dir, "exe"))
		if err != nil || strings.TrimSuffix(program, " (deleted)") != exe {
			continue
		}
		p := &Process{PID: pid, Root: filepath.Join(dir, "root")}
		if p.UID, err = uidOf(filepath.Join(dir, "status")); err != nil {
			continue // it has just ended
		}
		p.Modules, p.Set, err = environ(filepath.Join(dir, "environ"), modules.Variable)
		p.Known = err == nil
		return p, nil
	}
	return nil, ErrNoProcess
}

// environ reads one variable of a process and forgets the others, which may be
// secrets.
func environ(file, name string) (value string, set bool, err error) {
	f, err := os.Open(filepath.Clean(file))
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	defer secret.Wipe(raw)
	if err != nil {
		return "", false, err
	}
	for entry := range bytes.SplitSeq(raw, []byte{0}) {
		if rest, ok := bytes.CutPrefix(entry, []byte(name+"=")); ok {
			return string(rest), true, nil
		}
	}
	return "", false, nil
}

// uidOf reads the effective user of a process out of its status: the second
// number after "Uid:".
func uidOf(status string) (uint32, error) {
	raw, err := os.ReadFile(filepath.Clean(status))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			fields := strings.Fields(rest)
			if len(fields) < 2 {
				break
			}
			uid, err := strconv.ParseUint(fields[1], 10, 32)
			return uint32(uid), err
		}
	}
	return 0, errors.New("no user in the process's status")
}

// hides reports whether a path of the host is missing in what the process sees.
// known is false where that cannot be found out.
func (p *Process) hides(path string) (hidden, known bool) {
	if p == nil {
		return false, false
	}
	if _, err := os.Stat(p.Root + "/."); err != nil {
		return false, false
	}
	// Lstat: what an absolute link leads to would be looked up in our own root.
	_, err := os.Lstat(p.Root + filepath.Clean(path))
	switch {
	case err == nil:
		return false, true
	case errors.Is(err, fs.ErrNotExist):
		return true, true
	}
	return false, false
}
