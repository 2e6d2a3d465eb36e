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
	hsm.PrivateKeys
	Info() pkcs11.TokenInfo
	GenerateWrappingKey(ctx context.Context, r pkcs11.KeyRequest) (hsm.WrappingKey, error)
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

	closing context.Context    // ends with Close
	stop    context.CancelFunc // of closing
	running sync.WaitGroup     // sessions

	mu sync.RWMutex
	// Set once by Setup.
	id       string
	mountID  [16]byte
	token    Token
	keys     []hsm.WrappingKey
	identity ed25519.PrivateKey
	setup    bool // until Close
	closed   bool
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
	n := &Node{cfg: cfg, sessions: make(chan struct{}, maxSessions), stock: newStock(), roster: map[string]mpc.NodeIdentity{}}
	n.closing, n.stop = context.WithCancel(context.Background())
	return n
}

// enter counts a session as running, for Close to wait for.
func (n *Node) enter() bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.closed {
		return false
	}
	n.running.Add(1)
	return true
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

// Close ends all sessions and waits for them, at most for the step of a protocol
// that they compute (seconds, for ECDSA). It wipes presignatures and auxiliary
// keys and ends the use of the token. It may be called more than once.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed, n.setup = true, false
	token := n.token // stays set: calls that have begun use it, and fail
	n.mu.Unlock()
	n.stop()
	n.stock.close()
	n.running.Wait()
	n.mu.Lock()
	n.aux.closeLocked()
	n.mu.Unlock()
	if token == nil {
		return nil
	}
	return token.Close()
}
