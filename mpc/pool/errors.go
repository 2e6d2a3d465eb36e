package pool

import (
	"errors"
	"fmt"
	"strings"

	"vault-plugin-secrets-mpc/hsm"
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
	// ErrBelowFloor: a node on another host has worked with a newer record of the
	// account, or with another one of the same epoch.
	ErrBelowFloor = errors.New("a node has seen a newer state of this account: if Vault was restored from a snapshot on purpose, the operator of the node's host lowers its floor (node floor lower)")
	// ErrSwitchedOff: the operator of a node's host does not allow the operation.
	ErrSwitchedOff = errors.New("switched off by the operator of the node's host, in its node.hcl")
	// ErrUnpinned: a node does not know another one that was to work with it, and
	// takes nobody's word for it but its own host's and the authority's.
	ErrUnpinned = errors.New("a node has not been told of another one")
	// ErrApprovals: the account demands approvals, and a node has not got those that
	// it demands for this request.
	ErrApprovals = errors.New("the nodes refuse: approvals are missing, have expired, or are not for this request")
	// ErrOneNode comes with ErrApprovals where one node alone said so, and no other
	// could take its place: its clock may be wrong, so that with another node the
	// same approvals may do.
	ErrOneNode = errors.New("one node refuses, and no other is there in its place")
	// ErrDraining: the node is about to end and takes nothing new.
	ErrDraining = errors.New("the node is about to end and takes nothing new; it is asked again when it is back")
	// ErrStrands: were this node to see this share, none would be left in the
	// configured pool for another one. Nothing was stored and nothing handed over.
	ErrStrands = errors.New("the pool is changing, and the nodes that remain could not serve every share of the account after this")
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
type TooFewNodesError struct {
	Ready, Needed, Configured int
	// WaitsFor names the nodes that are not ready, with where they are; empty in a
	// pool of local nodes.
	WaitsFor []string
	// Domains are the wrapping domains that the nodes have to be of; empty for any.
	Domains []string
}

func (e *TooFewNodesError) Error() string {
	of := ""
	if len(e.Domains) > 0 {
		of = " of wrapping domain " + strings.Join(e.Domains, ", ")
	}
	s := fmt.Sprintf("%d of %d nodes%s are ready, %d are needed", e.Ready, e.Configured, of, e.Needed)
	if len(e.WaitsFor) > 0 {
		s += "; not ready: " + strings.Join(e.WaitsFor, ", ")
	}
	return s
}

// NoEligibleNodeError: the placement rule leaves a share without a node.
type NoEligibleNodeError struct {
	Index mpc.Index
	// Domain is the wrapping domain that the share is sealed to, and Region where it
	// lives, empty where it may be served anywhere in the domain.
	Domain, Region string
	// Local says that more local nodes would help.
	Local bool
	// WaitsFor names the nodes that may serve the share but are not ready.
	WaitsFor []string
	// NoSpares: only nodes known to have the share may serve it, since what
	// is known of the account may be incomplete (mpc.Account.NoSpares).
	NoSpares bool
}

// where is the share with its home, as far as that is not where all shares are.
func (e *NoEligibleNodeError) where() string {
	s := fmt.Sprintf("share %d", e.Index)
	var home []string
	if e.Region != "" {
		home = append(home, fmt.Sprintf("region %q", e.Region))
	}
	if e.Domain != "" && e.Domain != hsm.DefaultDomain {
		home = append(home, fmt.Sprintf("wrapping domain %q", e.Domain))
	}
	if len(home) > 0 {
		s += " (" + strings.Join(home, ", ") + ")"
	}
	return s
}

func (e *NoEligibleNodeError) Error() string {
	if e.NoSpares {
		which := "none of them is in the pool"
		if len(e.WaitsFor) > 0 {
			which = strings.Join(e.WaitsFor, ", ") + " not ready"
		}
		return fmt.Sprintf("%s may only be served by nodes that are known to have it until the account's next refresh: %s",
			e.where(), which)
	}
	switch {
	case len(e.WaitsFor) > 0:
		return fmt.Sprintf("%s can only be served by %s, and none of them is ready", e.where(), strings.Join(e.WaitsFor, ", "))
	case e.Local:
		return fmt.Sprintf("no node of the pool may serve %s in this epoch: raise local in config/nodes to what it was", e.where())
	}
	return fmt.Sprintf("no node of the pool may serve %s in this epoch: enrol the node that was taken away again, or one more there", e.where())
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
