package pool

import (
	"errors"
	"fmt"
	"strings"

	"vault-plugin-secrets-mpc/mpc"
)

// Errors that callers branch on. Errors returned by the pool wrap one of them
// (or are one of the types below) wherever a caller could act on it.
var (
	// ErrNotConfigured: the pool has no token to work with yet.
	ErrNotConfigured = errors.New("no HSM is configured")
	// ErrHSMUnavailable: module, token or device does not answer.
	ErrHSMUnavailable = errors.New("HSM unavailable")
	// ErrPINIncorrect: the token refused the PIN. It is not tried again.
	ErrPINIncorrect = errors.New("the token refused the PIN")
	// ErrPINLocked: the token refuses every PIN until it is unlocked.
	ErrPINLocked = errors.New("the token's PIN is locked")
	// ErrTokenNotFound: no token with that label and serial in the module.
	ErrTokenNotFound = errors.New("token not found")
	// ErrModule: the PKCS#11 module could not be loaded or initialized.
	ErrModule = errors.New("PKCS#11 module cannot be used")
	// ErrNoSuite: the token can do none of the sealing suites asked for.
	ErrNoSuite = errors.New("the token can do none of the wanted suites")
	// ErrWrappingKey: the pinned wrapping key is missing or not the pinned one.
	ErrWrappingKey = errors.New("wrapping key unusable")
	// ErrShareUnusable: a wrapped share did not open or does not match its
	// public share.
	ErrShareUnusable = errors.New("wrapped share unusable")
	// ErrUnknownNode: the pool has no node of that name.
	ErrUnknownNode = errors.New("no such node")
	// ErrClosed: the pool is shutting down.
	ErrClosed = errors.New("the node pool is shutting down")
)

// BusyError: so many requests wait for nodes that this one was not taken.
// Nothing was done for it.
type BusyError struct {
	// Waiting is how many requests wait, of this account where PerAccount; 0
	// where it is nodes that answered so.
	Waiting    int
	PerAccount bool
}

func (e *BusyError) Error() string {
	if e.Waiting == 0 {
		return "the nodes are busy: they are at limits of their own"
	}
	of := ""
	if e.PerAccount {
		of = " of this account"
	}
	return fmt.Sprintf("the nodes are busy: %d requests%s wait for them already", e.Waiting, of)
}

// TooFewNodesError: fewer healthy nodes than shares or signers needed.
type TooFewNodesError struct{ Ready, Needed, Configured int }

func (e *TooFewNodesError) Error() string {
	return fmt.Sprintf("%d of %d nodes are ready, %d are needed", e.Ready, e.Configured, e.Needed)
}

// NoEligibleNodeError: the placement rule leaves a share without a node.
type NoEligibleNodeError struct {
	Index mpc.Index
	// WaitsFor names the nodes that may serve the share but are not ready.
	WaitsFor []string
	// NoSpares: only nodes known to have the share may serve it, since what
	// is known of the account may be incomplete (mpc.Account.NoSpares).
	NoSpares bool
}

func (e *NoEligibleNodeError) Error() string {
	if e.NoSpares {
		which := "none of them is in the pool"
		if len(e.WaitsFor) > 0 {
			which = strings.Join(e.WaitsFor, ", ") + " not ready"
		}
		return fmt.Sprintf("share %d may only be served by nodes that are known to have it until the account's next refresh: %s",
			e.Index, which)
	}
	if len(e.WaitsFor) == 0 {
		return fmt.Sprintf("no node of the pool may serve share %d in this epoch: raise local in config/nodes to what it was", e.Index)
	}
	return fmt.Sprintf("share %d can only be served by %s, and none of them is ready",
		e.Index, strings.Join(e.WaitsFor, ", "))
}

// RefusedError: a node says that the request is wrong in itself. Another node
// would say the same.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

// ExposedError: a node was about to be handed a share although it has seen
// another one of the epoch. Nothing was stored and nothing handed over.
type ExposedError struct {
	Node       mpc.NodeIdentity
	Seen, Want mpc.Index
	// Current holds all exposures of the epoch as they are stored.
	Current mpc.Exposures
}

func (e *ExposedError) Error() string {
	return fmt.Sprintf("node %s has had share %d in this epoch and must not get share %d", e.Node, e.Seen, e.Want)
}

// AuxPendingError: an ECDSA signature needs auxiliary keys that nodes are
// still making.
type AuxPendingError struct{ Nodes []AuxProgress }

// AuxProgress is one node's progress in percent.
type AuxProgress struct {
	NodeID   string
	Progress int
}

func (e *AuxPendingError) Error() string {
	parts := make([]string, len(e.Nodes))
	for i, n := range e.Nodes {
		parts[i] = fmt.Sprintf("%s %d %%", n.NodeID, n.Progress)
	}
	return "auxiliary keys are still being made (" + strings.Join(parts, ", ") + ")"
}

// SessionError: every attempt at a session failed within the deadline.
type SessionError struct {
	Operation string // "create", "sign", "presign" or "refresh"
	// Culprits are the nodes and shares that the last failing node blames, as
	// "local-3 (share 2)", if it blames any. That is its word: it may lie.
	Culprits []string
	Attempts int
	Err      error
}

func (e *SessionError) Error() string {
	s := fmt.Sprintf("%s failed after %d attempt(s): %v", e.Operation, e.Attempts, e.Err)
	if len(e.Culprits) > 0 {
		s += " (blamed: " + strings.Join(e.Culprits, ", ") + ")"
	}
	return s
}

func (e *SessionError) Unwrap() error { return e.Err }
