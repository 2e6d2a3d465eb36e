package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/hsm/modules"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/derive"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// fault is an error with an answer of its own: what happened and what to do.
// It is written for the caller and holds no secret.
type fault struct {
	status int
	msg    string
	err    error // cause, not shown
}

func (f *fault) Error() string { return f.msg }
func (f *fault) Unwrap() error { return f.err }

// invalid is a 400: the caller can mend the request.
func invalid(format string, args ...any) error {
	return &fault{status: http.StatusBadRequest, msg: fmt.Sprintf(format, args...)}
}

// unknown is a 404.
func unknown(format string, args ...any) error {
	return &fault{status: http.StatusNotFound, msg: fmt.Sprintf(format, args...)}
}

// conflict is a 409: right request, wrong moment.
func conflict(format string, args ...any) error {
	return &fault{status: http.StatusConflict, msg: fmt.Sprintf(format, args...)}
}

// errEpochChanged: the account was refreshed, rolled back or destroyed while
// an operation ran on what was read before. The operation may be repeated.
var errEpochChanged = errors.New("the account's share epoch changed meanwhile")

// probeError marks an error as the outcome of trying out settings that the
// caller just sent: a wrong PIN is then the caller's to mend.
type probeError struct{ err error }

func (e *probeError) Error() string { return e.err.Error() }
func (e *probeError) Unwrap() error { return e.err }

// translate turns an error into what a handler returns to Vault. Every error
// leaves the backend through it.
//
// 400 goes as an error response, which clients see word for word. Other codes
// go as a coded error, the only kind that keeps its status on the way from an
// external plugin through Vault; clients see the text after "1 error
// occurred". The CLI and the API client repeat 5xx twice by themselves, so
// 5xx stands for what a repetition may mend or cannot harm, and whatever the
// caller has to act on first is a 4xx. They repeat 429 as well, with a growing
// pause: it stands for nodes that are busy, where that is right.
//
//	400  the request; or settings just sent that the token refused
//	404  unknown account, node or path
//	409  not now: an operation under way, auxiliary keys still being made
//	429  more requests wait for nodes than are let in
//	503  HSM or nodes unavailable, time ran out, shutting down
//	500  everything else
func (b *backend) translate(op string, err error) (*logical.Response, error) {
	// Vault forwards the request on exactly this error. It comes from storage
	// as text, since the storage of an external plugin is behind gRPC.
	if strings.Contains(err.Error(), logical.ErrReadOnly.Error()) {
		return nil, logical.ErrReadOnly
	}
	status, msg := b.classify(err)
	if status >= http.StatusInternalServerError {
		msg = op + ": " + msg
	}
	if status == http.StatusBadRequest {
		return logical.ErrorResponse(msg), logical.ErrInvalidRequest
	}
	return nil, logical.CodedError(status, msg)
}

// classify returns the status and the text for the caller.
func (b *backend) classify(err error) (int, string) {
	var (
		f        *fault
		probe    *probeError
		aux      *pool.AuxPendingError
		tooFew   *pool.TooFewNodesError
		noNode   *pool.NoEligibleNodeError
		busy     *pool.BusyError
		doomed   *doomedError
		moving   *movingError
		lost     *pool.CustodyLostError
		say      = func(what string) string { return err.Error() + ": " + what }
		operator = http.StatusServiceUnavailable
	)
	if errors.As(err, &f) {
		return f.status, f.msg
	}
	if errors.As(err, &probe) {
		operator = http.StatusBadRequest
	}
	switch {
	case errors.Is(err, mpc.ErrInput), errors.Is(err, derive.ErrPath), errors.Is(err, derive.ErrTweak), errors.Is(err, derive.ErrAlgorithm):
		return http.StatusBadRequest, err.Error()
	case errors.As(err, &lost):
		return http.StatusConflict, say("nothing of the account has changed, and the releases are void; begin again")
	case errors.As(err, &aux):
		return http.StatusConflict, say("ECDSA signing works once they are ready; watch nodes/ and repeat the request then")
	case errors.As(err, &busy):
		return http.StatusTooManyRequests, say("nothing was done; repeat the request after a pause, which clients of Vault do by themselves. If it happens often, send less at once, raise sessions_per_node or local in config/nodes, or use more processors")
	case errors.Is(err, pool.ErrNotConfigured) && b.cfg.NoLocalNodes != "":
		return http.StatusBadRequest, "there are no nodes: this host runs no local nodes: " + b.cfg.NoLocalNodes + "; enrol nodes of other hosts: vault write <mount>/config/nodes/NAME address=HOST:PORT token=TOKEN"
	case errors.Is(err, pool.ErrNotConfigured):
		return http.StatusBadRequest, "no HSM is configured: vault write <mount>/config/hsm uri=\"pkcs11:token=LABEL?module-name=NAME\" pin=PIN, or enrol nodes of other hosts with config/nodes/NAME"
	case errors.Is(err, pool.ErrPINIncorrect):
		return operator, say("write config/hsm with the right PIN")
	case errors.Is(err, pool.ErrPINLocked):
		return operator, say("unlock it with the HSM's own tools, then write config/hsm")
	case errors.Is(err, pool.ErrTokenNotFound):
		return operator, say("check the token and serial of the uri in config/hsm, and that Vault's host sees the token")
	case errors.Is(err, pool.ErrNoSuite):
		return http.StatusBadRequest, say("choose another suite in config/hsm, auto for one that the token can do")
	case errors.Is(err, pool.ErrModule):
		return operator, say("check " + modules.Variable + " on Vault's host and that the file fits its system")
	case errors.Is(err, pool.ErrHSMUnavailable):
		return http.StatusServiceUnavailable, say("nothing was changed; repeat the request once the HSM answers")
	case errors.As(err, &noNode) && noNode.NoSpares:
		return http.StatusServiceUnavailable, say("Vault's storage was restored, or may have been, so what is known about who has seen which share may be incomplete. Nothing is lost: once these nodes are ready (see nodes/) the account signs and is refreshed, and from then on any node may take over again")
	case errors.As(err, &noNode), errors.As(err, &tooFew):
		return http.StatusServiceUnavailable, say("see nodes/ for what each node waits for")
	case errors.Is(err, pool.ErrClosed):
		return http.StatusServiceUnavailable, say("repeat the request")
	case errors.Is(err, pool.ErrBelowFloor), errors.Is(err, pool.ErrSwitchedOff), errors.Is(err, pool.ErrUnpinned):
		return http.StatusConflict, err.Error()
	case errors.Is(err, pool.ErrDraining), errors.Is(err, pool.ErrStrands):
		return http.StatusServiceUnavailable, say("repeat the request")
	case errors.Is(err, errEpochChanged), errors.As(err, &doomed), errors.As(err, &moving):
		return http.StatusConflict, say("repeat the request")
	case errors.Is(err, errVoid), errors.Is(err, errRolledBack):
		return http.StatusInternalServerError, say("nothing is lost, it is tried again by itself; if it happens again, see nodes/ for a node that is ill")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable, "it did not finish in time; nothing half-made stays. Repeat the request; if ECDSA signatures take longer than session_timeout, raise it in config/nodes (" + err.Error() + ")"
	case errors.Is(err, pool.ErrWrappingKey):
		return http.StatusInternalServerError, say("do not change the token; restore the key or the token from its backup")
	case errors.Is(err, pool.ErrShareUnusable):
		return http.StatusInternalServerError, say("t shares that open are enough to sign, but a refresh needs all of them: restore the account's entry from a backup of Vault's storage; other accounts are not affected")
	}
	return http.StatusInternalServerError, err.Error()
}
