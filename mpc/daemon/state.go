package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Names in the state directory.
const (
	identityFile    = "identity.json"
	certificateFile = "node.crt"
	keyFile         = "node.key"
	enrolledFile    = "enrolled.json"
	peersFile       = "peers.json"
	windowFile      = "enrol.window"
	floorFile       = "floor.db"
	controlSocket   = "control.sock"
	serveLock       = "serve.lock"
	changeLock      = "change.lock"
)

// maxStateFile bounds every file that is read whole, in bytes.
const maxStateFile = 4 << 20

// ErrInUse: a daemon runs on the state directory.
var ErrInUse = errors.New("a daemon is running on this state directory")

// stateDir is the state directory. Files in it are replaced as a whole, by a
// rename, and are on the disk before a write returns.
type stateDir string

// notTheService says that another user ran a command than the one who owns the
// state directory.
func notTheService(path string) error {
	return fmt.Errorf("%w: user %d may not use state_dir %s: run this command as the user of the service, for example with sudo -u mpc-node", ErrSettings, os.Geteuid(), path)
}

// openState makes the directory if it is not there and refuses one that others may
// look into.
func openState(path string) (stateDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("state_dir: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("state_dir: %w", err)
	}
	// What another user writes here, root included, the daemon could not read.
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("%w: state_dir %s belongs to user %s and this is user %d: run this command as the user of the service, for example with sudo -u mpc-node", ErrSettings, path, userName(st.Uid), os.Geteuid())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%w: state_dir %s may be used by others than its owner (mode %04o): run chmod 0700 on it, and make a new identity if somebody may have read it", ErrSettings, path, info.Mode().Perm())
	}
	return stateDir(path), nil
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func (d stateDir) path(name string) string { return filepath.Join(string(d), name) }

func (d stateDir) has(name string) (bool, error) {
	_, err := os.Stat(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// write replaces a file; mode 0600.
func (d stateDir) write(name string, content []byte) (err error) {
	f, err := os.CreateTemp(string(d), "."+name+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), d.path(name)); err != nil {
		return err
	}
	return d.sync()
}

// remove removes a file for good; one that is not there is fine.
func (d stateDir) remove(name string) error {
	if err := os.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.sync()
}

// sync makes names of files durable.
func (d stateDir) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// read returns a file's content; fs.ErrNotExist where there is none.
func (d stateDir) read(name string) ([]byte, error) {
	info, err := os.Stat(d.path(name))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxStateFile {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", d.path(name), maxStateFile)
	}
	return os.ReadFile(d.path(name))
}

func (d stateDir) writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return d.write(name, append(b, '\n'))
}

// stateVersion is the version of every JSON file in the state directory.
const stateVersion = 1

// readJSON reads a file of writeJSON's into v and checks its version.
func (d stateDir) readJSON(name string, v interface{ version() int }) error {
	b, err := d.read(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s is damaged (%w): restore it from a backup of this host", d.path(name), err)
	}
	if v.version() != stateVersion {
		return fmt.Errorf("%s has version %d, this program reads %d: run the version that wrote it", d.path(name), v.version(), stateVersion)
	}
	return nil
}

// lock takes an exclusive lock until unlock, or returns ErrInUse where wait is
// false and somebody has it. It ends with the process.
func (d stateDir) lock(name string, wait bool) (unlock func(), err error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (%s): stop it first, or give this one another state_dir", ErrInUse, d)
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}
