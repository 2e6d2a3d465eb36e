package node

import (
	"errors"
	"fmt"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/identity"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/cmp"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// errAuxPending: some member's auxiliary keys are not made or not checked yet.
var errAuxPending = errors.New("auxiliary keys are not ready")

// errUnpinned: a member of the session is not in this node's roster. It may be
// on its way.
var errUnpinned = errors.New("not pinned on this node")

// errBusy: a bound of this node is reached; later there may be room.
var errBusy = errors.New("the node is at a limit of its own")

// refusedError marks a request that is wrong in itself: no other node would
// take it either.
type refusedError struct{ err error }

func (e refusedError) Error() string { return e.err.Error() }
func (e refusedError) Unwrap() error { return e.err }

func refused(format string, args ...any) error { return refusedError{fmt.Errorf(format, args...)} }

// failure translates an error for the coordinator. It is the one place where
// errors of the HSM, the library and this package become reasons.
func failure(err error) *nodepb.Failure {
	f := &nodepb.Failure{Reason: nodepb.Failure_PROTOCOL, Text: err.Error()}
	var refusal refusedError
	var abort *mpc.AbortError
	switch {
	case errors.As(err, &refusal), errors.Is(err, mpc.ErrInput), errors.Is(err, derive.ErrPath),
		errors.Is(err, derive.ErrTweak), errors.Is(err, derive.ErrAlgorithm),
		errors.Is(err, identity.ErrRecord), errors.Is(err, identity.ErrOpen), errors.Is(err, identity.ErrWeakKDF),
		errors.Is(err, hsm.ErrCustodyPart):
		f.Reason = nodepb.Failure_REFUSED
	case errors.Is(err, errApprovals):
		f.Reason = nodepb.Failure_APPROVALS
	case errors.Is(err, errPresignatureGone), errors.Is(err, cmp.ErrPresignatureUsed):
		f.Reason = nodepb.Failure_PRESIGNATURE_GONE
	case errors.Is(err, errBusy):
		f.Reason = nodepb.Failure_BUSY
	case errors.Is(err, errDraining):
		f.Reason = nodepb.Failure_DRAINING
	case errors.Is(err, ErrBelowFloor):
		f.Reason = nodepb.Failure_BELOW_FLOOR
	case errors.Is(err, ErrSwitchedOff):
		f.Reason = nodepb.Failure_SWITCHED_OFF
	case errors.Is(err, errUnpinned):
		f.Reason = nodepb.Failure_UNPINNED
	case errors.Is(err, errAuxPending):
		f.Reason = nodepb.Failure_AUX_PENDING
	case errors.Is(err, pkcs11.ErrPINIncorrect):
		f.Reason = nodepb.Failure_PIN_INCORRECT
	case errors.Is(err, pkcs11.ErrPINLocked):
		f.Reason = nodepb.Failure_PIN_LOCKED
	case errors.Is(err, hsm.ErrNoSuite):
		f.Reason = nodepb.Failure_NO_SUITE
	case errors.Is(err, pkcs11.ErrTokenNotFound):
		f.Reason = nodepb.Failure_TOKEN_NOT_FOUND
	case errors.Is(err, pkcs11.ErrModule):
		f.Reason = nodepb.Failure_MODULE
	case errors.Is(err, pkcs11.ErrUnavailable), errors.Is(err, errNotSetUp):
		f.Reason = nodepb.Failure_HSM_UNAVAILABLE
	case errors.Is(err, pkcs11.ErrKeyNotFound), errors.Is(err, pkcs11.ErrKeyMismatch),
		errors.Is(err, hsm.ErrUnknownKeyVersion), errors.Is(err, errNoVersion):
		f.Reason = nodepb.Failure_WRAPPING_KEY
	case errors.Is(err, hsm.ErrEnvelope), errors.Is(err, hsm.ErrOpen), errors.Is(err, hsm.ErrNeedsCustodyKey),
		errors.Is(err, mpc.ErrShareMismatch):
		f.Reason = nodepb.Failure_SHARE_UNUSABLE
	case errors.As(err, &abort):
		for _, i := range abort.Culprits {
			f.Culprits = append(f.Culprits, uint32(i))
		}
	}
	return f
}
