package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// ErrBelowFloor: the account's record is older than what this node has worked with,
// or contradicts it. Only this host's operator can lower its floor.
var ErrBelowFloor = errors.New("refused by this node's floor")

// ErrSwitchedOff: this host's operator does not allow it.
var ErrSwitchedOff = errors.New("switched off on this node")

// Host is what a remote node has from its own host. With it, Setup takes neither
// a token nor an identity from the coordinator, and nothing that the host has
// pinned can be changed by one.
type Host struct {
	// ID and MountID were pinned at enrolment; Setup refuses others.
	ID      string
	MountID [16]byte
	// Token is logged in. The node does not close it: it outlives the node, since
	// each coordinator that attaches gets a new one.
	Token Token
	// Identity is the node's own signing key, wrapped by its own token.
	Identity ed25519.PrivateKey
	// Domain is the wrapping domain of the token; Region and Zone are labels.
	Domain, Region, Zone string
	// Authority signs recipient sets; nil for none.
	Authority ed25519.PublicKey
	// Peer returns a peer's identity as this host has pinned it. It is asked anew
	// for every session, so that what the host's operator changes counts at once.
	// A peer that it does not know is refused, whatever the coordinator says,
	// unless a recipient set that Authority has signed names it.
	Peer func(nodeID string) (mpc.NodeIdentity, bool)
	// Floor remembers accounts durably; required.
	Floor Floor
	// Sets remembers recipient sets durably. With nil the node remembers them for as
	// long as it lives.
	Sets Sets
	// Switches are what the host's operator allows.
	Switches Switches
}

// takes refuses what a coordinator may not bring to a node that has it from its own
// host. It wipes a PIN.
func (h *Host) takes(r *nodepb.SetupRequest) error {
	pin := secret.New(r.GetToken().GetPin())
	given := pin.Len() > 0
	pin.Wipe()
	own := mpc.NodeIdentity(h.Identity.Public().(ed25519.PublicKey))
	switch t := r.GetToken(); {
	case string(r.GetMountId()) != string(h.MountID[:]):
		return refused("this node was enrolled for mount %x and works for no other: to give it to this mount, enrol it anew (vault-plugin-secrets-mpc node enrol on its host)", h.MountID)
	case r.GetNodeId() != h.ID:
		return refused("this node's name is %q, not %q", h.ID, r.GetNodeId())
	case given || t.GetModule() != "" || t.GetLabel() != "" || t.GetSerial() != "":
		return refused("this node has its token and its PIN from its own host; what was sent was not tried")
	case len(r.GetIdentityEnvelope()) > 0:
		return refused("this node has its identity from its own host")
	case len(r.GetIdentity()) > 0 && string(r.GetIdentity()) != string(own[:]):
		return refused("this node's identity is %s, not the one that is pinned for it: if its host has given it a new one, delete the node on the mount and enrol it anew", own)
	case len(r.GetAuthority()) > 0 && h.Authority == nil:
		return refused("this node's host has pinned no authority and takes none from a coordinator: its operator writes authority = \"%x\" into node.hcl, or enrols the node anew", r.GetAuthority())
	case len(r.GetAuthority()) > 0 && string(r.GetAuthority()) != string(h.Authority):
		return refused("this node's host has pinned another authority, %x", []byte(h.Authority))
	}
	return nil
}

// Observer counts what a node does, for its host's metrics. Its methods may be
// called concurrently and return at once.
type Observer interface {
	// Session is called when a session has ended, with the operation as Start
	// spells it, empty where there was none, and UNKNOWN for one that succeeded.
	Session(operation string, failure nodepb.Failure_Reason, took time.Duration)
	// Failed is called when another call than a session has failed.
	Failed(call string, failure nodepb.Failure_Reason)
}

// Floor is what a remote node remembers of accounts over restarts: for each the
// lowest epoch that it still works with, that epoch's record and its policy. Its
// methods may be called concurrently.
type Floor interface {
	// Check refuses a record that is older than the floor, is another record of
	// the same epoch, or has no policy where the floor has one, with an error that
	// wraps ErrBelowFloor and says which. An account that it does not know passes.
	Check(record *mpc.PublicRecord) error
	// Raise is Check, and where the record is newer it raises the floor durably
	// before it returns nil. It is called for records only whose share this node
	// has opened; that they are those of the account is the coordinator's word.
	Raise(ctx context.Context, record *mpc.PublicRecord) error
}

// Sets is what a remote node remembers of recipient sets over restarts. Its methods
// may be called concurrently.
type Sets interface {
	// Newest durably remembers the serial number of a set that the authority has
	// signed, before it returns, and returns the highest that it ever was called
	// with for this mount and authority.
	Newest(mountID [16]byte, authority ed25519.PublicKey, serial uint64) (uint64, error)
}

// Switches are restrictions that a remote node's own operator sets. The zero value
// allows what a local node does.
type Switches struct {
	// RequirePolicy refuses accounts that demand no approvals.
	RequirePolicy bool
	// RequireSpread refuses key generation and refresh where one wrapping domain
	// would get as many shares as sign.
	RequireSpread bool
	// Operations and Algorithms, where not empty, are the only ones served:
	// "keygen", "refresh", "sign", "presign", "rewrap", "import", "login".
	Operations []string
	Algorithms []mpc.Algorithm
	// KeepWrappingKeys refuses to destroy wrapping keys.
	KeepWrappingKeys bool
}
