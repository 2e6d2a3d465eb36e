package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

// maxSessions bounds the sessions a node runs at once; more are refused as
// busy. Each holds at most one share and mpc.MaxSessionSize of messages.
const maxSessions = 64

// Token is what a node needs of its PKCS#11 token; *pkcs11.Token is one.
type Token interface {
	hsm.KeyExchanger
	Info() pkcs11.TokenInfo
	GenerateWrappingKey(ctx context.Context, domain string, version uint32, label string) (hsm.WrappingKey, error)
	Bind(ctx context.Context, key hsm.WrappingKey) error
	Close() error
}

// Config configures a node.
type Config struct {
	// Version is reported to the coordinator.
	Version string
	Logger  hclog.Logger
	// OpenToken loads a module and logs in.
	OpenToken func(ctx context.Context, c pkcs11.Config) (Token, error)
	// SessionTime bounds every session; default 2 minutes.
	SessionTime time.Duration
}

// Node serves nodepb.NodeServer. All methods may be called concurrently.
type Node struct {
	nodepb.UnimplementedNodeServer
	cfg      Config
	sessions chan struct{}         // one token per running session
	hsm      atomic.Pointer[error] // nil while the last token call worked
	stock    *stock                // presignatures

	mu sync.RWMutex
	// Set once by Setup.
	id       string
	mountID  [16]byte
	token    Token
	keys     []hsm.WrappingKey
	identity ed25519.PrivateKey
	setup    bool
	// Changing.
	roster map[string]mpc.NodeIdentity
	aux    auxState
}

var errNotSetUp = errors.New("the node has not been set up")

// New returns a node that waits for Setup or Probe.
func New(cfg Config) *Node {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.SessionTime <= 0 {
		cfg.SessionTime = maxSessionTime
	}
	return &Node{cfg: cfg, sessions: make(chan struct{}, maxSessions), stock: newStock(), roster: map[string]mpc.NodeIdentity{}}
}

// sealingKey is the wrapping key new envelopes are sealed to.
func (n *Node) sealingKey() (hsm.WrappingKey, error) {
	if len(n.keys) == 0 {
		return hsm.WrappingKey{}, errors.New("the node has no wrapping key")
	}
	return n.keys[len(n.keys)-1], nil
}

// seal wraps a secret of this node or a share; it needs public keys only.
func (n *Node) seal(c hsm.Context, plain *secret.Bytes) ([]byte, uint32, error) {
	key, err := n.sealingKey()
	if err != nil {
		return nil, 0, err
	}
	envelope, err := hsm.Seal(c, plain, []hsm.WrappingKey{key})
	return envelope, key.Version, err
}

// open unwraps an envelope with the token.
func (n *Node) open(ctx context.Context, c hsm.Context, envelope []byte) (*secret.Bytes, error) {
	plain, _, err := hsm.Open(ctx, n.token, n.keys, c, envelope)
	if errors.Is(err, pkcs11.ErrUnavailable) || errors.Is(err, pkcs11.ErrPINIncorrect) || errors.Is(err, pkcs11.ErrPINLocked) {
		n.hsm.Store(&err)
	} else if err == nil {
		n.hsm.Store(nil)
	}
	return plain, err
}

// ready returns errNotSetUp before Setup has succeeded. What Setup sets does
// not change afterwards and is read without the lock.
func (n *Node) ready() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if !n.setup {
		return errNotSetUp
	}
	return nil
}

// Close ends the node's use of the token and forgets presignatures.
func (n *Node) Close() error {
	n.stock.close()
	n.mu.Lock()
	token := n.token
	n.token, n.setup = nil, false
	n.mu.Unlock()
	if token == nil {
		return nil
	}
	return token.Close()
}
