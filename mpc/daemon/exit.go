package daemon

import (
	"errors"

	"vault-plugin-secrets-mpc/hsm"
)

// Exit codes of `node serve` and the commands beside it. Service managers and
// scripts tell by them what a restart can do.
const (
	ExitOK = 0
	// ExitFailed: anything else, such as an address that is in use; a restart may
	// help.
	ExitFailed = 1
	// ExitSettings: wrong usage, node.hcl or a file that it names; a restart does
	// not help.
	ExitSettings = 2
	// ExitPIN: the token refused the PIN, or would be locked by one more wrong one.
	// A restart would try it again and may lock the token: there must be none.
	ExitPIN = 3
	// ExitToken: the token or its module is away or needs a new process; a restart
	// is the remedy.
	ExitToken = 4
	// ExitNotReady: `node status` found that the node is not ready.
	ExitNotReady = 5
)

// ExitCode is the process's exit code for an error of this package.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, hsm.ErrPINIncorrect), errors.Is(err, hsm.ErrPINLocked):
		return ExitPIN
	case errors.Is(err, ErrSettings):
		return ExitSettings
	case errors.Is(err, hsm.ErrUnavailable), errors.Is(err, hsm.ErrNewProcess), errors.Is(err, hsm.ErrTokenNotFound), errors.Is(err, hsm.ErrModule):
		return ExitToken
	}
	return ExitFailed
}
