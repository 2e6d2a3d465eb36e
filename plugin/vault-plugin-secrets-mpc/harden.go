package main

import (
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// mclOnFault makes mlockall lock pages when they are first used, so that Go's
// large reservations do not count (linux/mman.h).
const mclOnFault = 4

// harden forbids core dumps and keeps other processes of the same user from
// reading this one's memory.
func harden(logger hclog.Logger) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		logger.Warn("core dumps could not be forbidden", "error", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		logger.Warn("the process could not be made undumpable", "error", err)
	}
}

// lockMemory keeps shares out of swap where the host allows it; where not, it
// says so once and goes on.
func lockMemory(logger hclog.Logger) {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | mclOnFault); err != nil {
		logger.Warn("memory could not be locked and may be swapped: allow it with LimitMEMLOCK=infinity or disable swap", "error", err)
	}
}
