package pool

import (
	"context"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/secret"
)

// Token says which PKCS#11 token nodes use and how they log in.
type Token struct {
	// Module names the PKCS#11 library on the list of each node's host.
	Module string
	// Label and Serial select the token; one of them may be empty, not both.
	Label  string
	Serial string
	// PIN travels to nodes over their encrypted connection only. It is empty
	// where the nodes' host provides it.
	PIN *secret.Bytes
	// Accepted is when a Probe last found the PIN right. Settings with another
	// time have a refused PIN tried again.
	Accepted time.Time
	// Refused, where not nil, says that the token has refused this PIN before,
	// perhaps in an earlier process: nodes fail with it and do not try.
	Refused error
}

// TokenInfo is what a token says about itself.
type TokenInfo struct {
	Label, Serial, Manufacturer, Model string
}

// Settings is everything the pool needs to know to run nodes.
type Settings struct {
	// MountID is the mount's random identity; node keys bind to it.
	MountID [16]byte
	Token   Token
	// WrappingKeys holds every live version in ascending order, one key for each
	// wrapping domain that has the version; the last version is used to seal, and
	// every domain in use has it. Running nodes take changes over.
	WrappingKeys []hsm.WrappingKey
	// Endorsements holds nodes' words for keys of WrappingKeys, which nodes of
	// other domains need to seal to them.
	Endorsements []KeyEndorsement
	// Local is the number of local nodes, local-1…local-N; 0 for a pool of remote
	// nodes only, for which Token is empty.
	Local int
	// LocalRegion is the region of local nodes; empty for none.
	LocalRegion string
	// Remote are the nodes on other hosts.
	Remote []RemoteNode
	// Client is how this coordinator shows itself to them.
	Client ClientCertificate
	// SessionsPerNode bounds the sessions a node runs at once; more wait in
	// turn. 0 means DefaultSessionsPerNode.
	SessionsPerNode int
	// AuxPeriod is how old a node's auxiliary keys may become, give or take a
	// tenth, before new ones are made; 0 means that they stay. Keys without a
	// time of making come from a version that served fewer algorithms and are
	// renewed in any case.
	AuxPeriod time.Duration
	// Authority is the Ed25519 public key (32 bytes) that signs recipient sets
	// and recovery targets; empty where there is none, and then no node seals
	// to anything but its own token. Nodes pin it when they start.
	Authority []byte
	// Recipients is the signed recipient set in force, empty for none. Nodes on
	// other hosts take the peers that it names; running nodes are told of changes
	// when they are introduced anew.
	Recipients []byte
}

// RemoteNode is a node on another host that has been enrolled.
type RemoteNode struct {
	ID string
	// Address is where it listens, host:port.
	Address string
	// Region and Zone are labels; Domain is the wrapping domain of its token.
	Region, Zone, Domain string
	// Identity is pinned at enrolment and never changes under the same ID.
	Identity mpc.NodeIdentity
	// Pin is SHA-256 of the SubjectPublicKeyInfo of its TLS certificate. It is all
	// zero where CA is set, and then ServerName is what the certificate is for.
	Pin [32]byte
	// CA holds PEM certificates.
	CA         []byte
	ServerName string
}

// ClientCertificate is the coordinator's TLS certificate, PEM, and its key, PKCS#8
// in PEM.
type ClientCertificate struct {
	Certificate []byte
	Key         *secret.Bytes
}

// KeyEndorsement is a node's word for a wrapping key of its own domain; see
// hsm.EndorseKey.
type KeyEndorsement struct {
	Domain    string
	Version   uint32
	Identity  mpc.NodeIdentity
	Signature []byte
}

// DefaultSessionsPerNode suits signatures that keep a processor busy for
// milliseconds: enough to hide the waiting for messages.
const DefaultSessionsPerNode = 16

// KeyStore keeps nodes' wrapped keys. The pool calls it outside of any lock;
// implementations must allow concurrent calls for different nodes.
type KeyStore interface {
	// NodeKeys returns nil, nil for a node that has none yet.
	NodeKeys(ctx context.Context, nodeID string) (*NodeKeys, error)
	PutNodeKeys(ctx context.Context, nodeID string, keys *NodeKeys) error
}

// NodeKeys is what is stored for one node: public halves in clear, secret
// halves as hsm envelopes, receipts signed by the node itself.
type NodeKeys struct {
	// Identity is the node's Ed25519 public key.
	Identity mpc.NodeIdentity
	// IdentityEnvelope wraps the Ed25519 seed.
	IdentityEnvelope []byte
	// Aux is nil until the node has made auxiliary keys.
	Aux *AuxKeys
}

// AuxKeys is one generation of a node's auxiliary keys (see mpc/cmp).
type AuxKeys struct {
	Generation uint64
	// Made is when they were made; the zero time counts as long ago.
	Made time.Time
	// Public is the signed public half with its proofs; about 85 KiB.
	Public []byte
	// Envelope wraps the secret half.
	Envelope []byte
	// Receipts are this node's signed statements "I have checked that peer's
	// auxiliary keys of that generation", by peer node ID and generation
	// ("local-2#7"); an older version wrote the node ID alone.
	Receipts map[string][]byte
}

// CreateRequest asks for a new key.
type CreateRequest struct {
	AccountID mpc.AccountID
	Algorithm mpc.Algorithm
	Threshold int
	Shares    int
	// RecipientsHash and PolicyHash go into the public record.
	RecipientsHash, PolicyHash [32]byte
	// Policy is the policy whose hash is PolicyHash (approval.Policy, marshalled);
	// empty for none.
	Policy []byte
	// Recipients is the signed recipient set in force, whose hash is
	// RecipientsHash; empty for none.
	Recipients []byte
	// Custody is the public half of the custody key that each share is to need as
	// well, an uncompressed P-256 point; empty for none.
	Custody []byte
	// Domains, where not empty, are the only wrapping domains whose nodes get a
	// share.
	Domains []string
}

// KeyResult is a new share epoch, agreed by all n nodes.
type KeyResult struct {
	Account   mpc.Account
	SessionID mpc.SessionID
	// Certificate holds the nodes' signatures over (account ID, public key,
	// record hash): at creation, the account's birth certificate.
	Certificate []Endorsement
	// WrappingVersion is the wrapping-key version the shares are sealed to.
	WrappingVersion uint32
}

// Endorsement is one node's signature over an epoch's record, 64 bytes.
type Endorsement struct {
	NodeID    string
	Identity  mpc.NodeIdentity
	Signature []byte
}

// SignRequest asks for one signature.
type SignRequest struct {
	Account     mpc.Account
	Input       []byte
	MessageType mpc.MessageType
	// Hash is used for raw messages, HashNone where the scheme hashes itself;
	// for a digest it says how long it is (mpc.SigningInput).
	Hash mpc.HashAlgorithm
	// Derivation names the child key to sign with; zero for the account's own.
	Derivation mpc.Derivation
	// Policy is the policy that the account's record names, and Approvals what its
	// approvers have signed (approval.Policy and approval.Bundle, marshalled); both
	// empty for an account without a policy.
	Policy, Approvals []byte
	// Expose is called before a share is handed to a node that the account's
	// exposures do not show with it. It must have stored the new exposures
	// durably when it returns nil, and must fail if the account's epoch has
	// changed. Where the placement rule would break, because another session
	// has placed shares meanwhile, it fails with an *ExposedError; where the nodes
	// that are configured could no longer serve all shares, with ErrStrands.
	Expose func(ctx context.Context, added mpc.Exposures) error
}

// SignResult is a verified signature and who made it.
type SignResult struct {
	Signature mpc.Signature
	Signers   []mpc.Signer
	SessionID mpc.SessionID
	// Attempts counts sessions, 1 for a signature at the first try.
	Attempts int
	// Presigned says that a presignature was used up.
	Presigned bool
}

// PresignRequest asks for one presignature: the part of an ECDSA signature
// that does not depend on the message. It stays in the memory of the nodes
// that made it.
type PresignRequest struct {
	Account mpc.Account
	// Lifetime is how long nodes keep it, at most MaxPresignLifetime.
	Lifetime time.Duration
	// Expose is called as in SignRequest.
	Expose func(ctx context.Context, added mpc.Exposures) error
}

// MaxPresignLifetime is the longest lifetime that nodes accept.
const MaxPresignLifetime = 24 * time.Hour

// RefreshRequest asks for the next share epoch of an account: new shares of
// the same key.
type RefreshRequest struct {
	Account mpc.Account
	// Expose is called as in SignRequest, for exposures in the account's
	// current epoch. Those of the new epoch come back with the result.
	Expose func(ctx context.Context, added mpc.Exposures) error
	// Recipients is the signed recipient set for the new epoch, OldRecipients
	// the one that the account's present record names; empty for none.
	Recipients, OldRecipients []byte
	// Homes, where not nil, is where the new shares are to live: shares whose
	// domain differs from where they are now are sealed to the other domain.
	Homes []mpc.Home
	// NextPolicy, where not empty, is the policy of the new epoch. Policy is then the
	// present one and Approvals what its approvers have signed, both empty for an
	// account that had none.
	NextPolicy, Policy, Approvals []byte
}

// RewrapRequest asks for every share of an account to be sealed anew, to the
// newest wrapping-key version. Epoch, record and shares stay what they are.
type RewrapRequest struct {
	Account mpc.Account
	// Recipients is the signed recipient set that the account's record names;
	// empty for none.
	Recipients []byte
	// Expose is called as in SignRequest: who reseals a share has opened it.
	Expose func(ctx context.Context, added mpc.Exposures) error
}

// RewrapResult holds all n shares in index order, each sealed to
// WrappingVersion.
type RewrapResult struct {
	Shares          []mpc.WrappedShare
	WrappingVersion uint32
}

// ImportRequest asks for an account to be made from recovery deals: by people
// who together hold enough shares of an account that was lost.
type ImportRequest struct {
	// Old is the public record of the lost account.
	Old mpc.PublicRecord
	// Deals are what the custodians dealt, in any order.
	Deals [][]byte
	// Recipients is the signed recipient set in force; empty for none.
	Recipients []byte
	// Target names this mount, as the deals do.
	Target [32]byte
	// Exposures says which node has seen which share in earlier attempts to
	// import what was dealt for this account and target, and Expose stores what
	// is added, as in RewrapRequest. The same deals give the same shares each
	// time, so that a node which got another share at each attempt would have t
	// of them before long.
	Exposures mpc.Exposures
	Expose    func(ctx context.Context, added mpc.Exposures) error
}

// KeyObject is what a token holds under one CKA_ID: so many private and public
// key objects.
type KeyObject struct {
	ID              []byte
	Private, Public int
}

// NodeState is a node's condition as operators see it.
type NodeState string

// Node states.
const (
	NodeStarting   NodeState = "starting"
	NodeReady      NodeState = "ready"
	NodeRestarting NodeState = "restarting"
	// NodeFailed needs a person. A local node is not tried again before the settings
	// change (wrong PIN); a remote one, which shows another certificate or identity
	// than was enrolled, is looked at every few seconds.
	NodeFailed NodeState = "failed"
	// NodeDraining finishes its sessions and then ends: it leaves the pool, or, on
	// another host, has been told to end there.
	NodeDraining NodeState = "draining"
)

// NodeStatus is a snapshot of one node.
type NodeStatus struct {
	ID       string
	State    NodeState
	Version  string
	PID      int
	Identity string // hex, empty before the node has one
	Sessions int    // protocol sessions running now
	// Presignatures is how many the node holds, of all accounts.
	Presignatures int
	Restarts      int
	// HSM is "ok" or says what is wrong, without secrets.
	HSM       string
	LastError string
	Since     time.Time // of the current State
	Aux       AuxStatus
	// Remote says that the node is on another host; then Address is where.
	Remote       bool
	Address      string
	Region, Zone string
	Domain       string
	// Token is what a node on another host said of its token, label and serial
	// number.
	Token TokenInfo
	// RTT is the time of a status call, smoothed; 0 before the first.
	RTT time.Duration
	// ClockSkew is the node's clock minus this one's, as far as the time of a call
	// lets one see.
	ClockSkew time.Duration
}

// AuxStatus says how far a node's auxiliary keys are.
type AuxStatus struct {
	// State is "none", "generating", "checking", "ready", or "renewing" while
	// the next generation is made and checked and this one is in use.
	State string
	// Generation is the one in use; Made is when it was made, the zero time for
	// long ago.
	Generation uint64
	Made       time.Time
	// NextDue is when the next generation will be asked for; the zero time
	// where none is planned. Nodes take turns, so it may be made later.
	NextDue time.Time
	// Progress is 0…100 over generating and checking with every peer, of the
	// next generation where State is "renewing".
	Progress int
	// Peers is the number of other nodes, PeersReady those with which checks
	// are complete both ways.
	Peers, PeersReady int
}
