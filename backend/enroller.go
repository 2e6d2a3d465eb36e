package backend

import (
	"context"
	"errors"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/secret"
)

// Enroller makes nodes on other hosts this mount's own. Methods may be called
// concurrently.
type Enroller interface {
	// ParseToken reads what `node enrol` printed on the node's host. Its error
	// quotes nothing of the text.
	ParseToken(text string) (*EnrolToken, error)
	// Enrol dials the node, makes sure that it is the one that the token is of,
	// and has it pin this coordinator. Errors wrap one of the Err…Node below where
	// they can.
	Enrol(ctx context.Context, r EnrolRequest) (*EnrolAnswer, error)
	// Reach dials an enrolled node and hangs up.
	Reach(ctx context.Context, n pool.RemoteNode, own pool.ClientCertificate) error
	// NewCertificate makes a self-signed TLS certificate, PEM, and its key, PKCS#8
	// in PEM.
	NewCertificate(name string, notAfter time.Time) (certificate []byte, key *secret.Bytes, err error)
	// RenewCertificate makes another one for a key of NewCertificate's.
	RenewCertificate(name string, key *secret.Bytes, notAfter time.Time) (certificate []byte, err error)
}

// Why a node on another host was not enrolled or reached.
var (
	// ErrUnreachableNode: nothing that speaks TLS answered in time.
	ErrUnreachableNode = errors.New("the node cannot be reached")
	// ErrStrangeNode: somebody else answered.
	ErrStrangeNode = errors.New("another party than the node answered")
	// ErrRefusedByNode: the node answered and said no; the text says why.
	ErrRefusedByNode = errors.New("the node refused")
)

// EnrolToken is what a node's operator hands over.
type EnrolToken struct {
	NodeID, Domain, Region, Zone string
	Identity                     mpc.NodeIdentity
	Pin                          [32]byte      // SHA-256 of the node's TLS public key
	Secret                       *secret.Bytes // 32 bytes, for the caller to wipe
	Expires                      time.Time
}

// EnrolRequest is what the node is to pin. Who calls wipes the secrets in it.
type EnrolRequest struct {
	Token     *EnrolToken
	Address   string
	MountID   [16]byte
	Authority []byte // Ed25519 public key, or empty
	Peers     []EnrolPeer
	Client    pool.ClientCertificate
}

// EnrolPeer is one of the pool's present nodes.
type EnrolPeer struct {
	ID       string
	Identity mpc.NodeIdentity
}

// EnrolAnswer is what the node said of itself, under the token's secret.
type EnrolAnswer struct {
	Version              string
	Identity             mpc.NodeIdentity
	Domain, Region, Zone string
}
