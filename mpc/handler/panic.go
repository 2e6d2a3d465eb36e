package handler

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"vault-plugin-secrets-mpc/mpc"
)

// errJoining marks a panic after a message was verified, while a round's
// messages were put together.
var errJoining = errors.New("joining the messages of a round")

// guard runs f and turns a panic into an error. The panic's value is not
// passed on: it may hold anything that was in memory.
func (p *Party) guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = mpc.ErrPanic
			if joining() {
				err = fmt.Errorf("%w (%w)", mpc.ErrPanic, errJoining)
			}
		}
	}()
	return f()
}

// joining reports, within a deferred call, whether the panic came from below the
// library's finalize. The stack is the only witness: the library verifies a
// message and ends its round in one call.
func joining() bool {
	pcs := make([]uintptr, 64)
	for skip := 1; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs)
		frames := runtime.CallersFrames(pcs[:n])
		for more := n > 0; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if strings.HasSuffix(f.Function, "/protocol.(*MultiHandler).finalize") {
				return true
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}
