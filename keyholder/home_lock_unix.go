//go:build unix

package keyholder

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// lock keeps other processes out of a read and the write that follows from it.
// The kernel frees it when the process ends.
func (h *Home) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(h.dir, homeLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}
