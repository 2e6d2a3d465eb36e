package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
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

// Config configures a node.
type Config struct {
	// Version is reported to the coordinator.
	Version string
	Logger  hclog.Logger
	// Modules is the list of PKCS#11 modules of this node's host: the value of
	// modules.Variable.
	Modules string
	// Authority, where not empty, is the one authority that this node takes, 64
	// hex digits: the value of AuthorityVariable, which the host's operator set.
	Authority string
	// OpenToken loads a module and logs in.
	OpenToken func(ctx context.Context, c pkcs11.Config) (Token, error)
	// SessionTime bounds every session; default 2 minutes.
	SessionTime time.Duration
	// LastWords is how long a session whose time is over may take to say so, before
	// its stream is ended: a coordinator that reads nothing would hold it for ever.
	// Default 1 second.
	LastWords time.Duration
	// Now is the clock by which approvals expire; default time.Now.
	Now func() time.Time
	// Observer, where not nil, counts sessions and failures.
	Observer Observer
	// Host is set for a node on another host than its coordinator's, which takes
	// less on the coordinator's word; nil for a local node.
	Host *Host
}

// Node serves nodepb.NodeServer. All methods may be called concurrently.
type Node struct {
	nodepb.UnimplementedNodeServer
	cfg      Config
	sessions chan struct{}         // one token per running session
	hsm      atomic.Pointer[error] // nil while the last token call worked
	hsmUsed  atomic.Int64          // when that was, Unix nanoseconds
	draining atomic.Bool           // see Drain
	keys     keyring
	stock    *stock // presignatures
	logins   *logins
	offers   *offers // to owners of custody keys

	closing  context.Context    // ends with Close
	stop     context.CancelFunc // of closing
	running  sync.WaitGroup     // sessions, and calls for logins
	watching sync.WaitGroup     // the watch over the token

	mu sync.RWMutex
	// Set once by Setup.
	id       string
	mountID  [16]byte
	token    Token
	identity ed25519.PrivateKey
	// authority signs recipient sets; nil: there are none.
	authority ed25519.PublicKey
	setup     bool // until Close
	closed    bool
	// Changing.
	roster  map[string]mpc.NodeIdentity
	vouched vouched // by the authority; only with Config.Host
	aux     auxState
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
	if cfg.LastWords <= 0 {
		cfg.LastWords = time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	n := &Node{cfg: cfg, sessions: make(chan struct{}, maxSessions), stock: newStock(), logins: newLogins(), offers: newOffers(), roster: map[string]mpc.NodeIdentity{}}
	if cfg.Host != nil {
		n.keys.domain = cfg.Host.Domain
	}
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

// seal wraps a secret of this node or a share for a version of the wrapping key,
// with 0 for the newest, and returns the version.
func (n *Node) seal(ctx context.Context, c hsm.Context, plain *secret.Bytes, version uint32) ([]byte, uint32, error) {
	key, err := n.sealingKey(ctx, version)
	if err != nil {
		return nil, 0, err
	}
	envelope, err := hsm.Seal(c, plain, []hsm.WrappingKey{key})
	return envelope, key.Version, err
}

// open unwraps an envelope with the token.
func (n *Node) open(ctx context.Context, c hsm.Context, envelope []byte) (*secret.Bytes, error) {
	plain, _, err := hsm.Open(ctx, n.token, n.keys.all(), c, envelope)
	return plain, n.noted(n.tokenAway(ctx, err))
}

// openShare unwraps a share with the token and, for an account with user custody,
// the owner's part k2. An envelope of the other kind does not open: with nil, one
// that needs a custody key, and with a part one that needs none.
func (n *Node) openShare(ctx context.Context, c hsm.Context, envelope []byte, k2 *secret.Bytes) (*secret.Bytes, error) {
	if k2 == nil {
		return n.open(ctx, c, envelope)
	}
	plain, _, err := hsm.OpenWith(ctx, n.token, n.keys.all(), c, envelope, k2)
	return plain, n.noted(n.tokenAway(ctx, err))
}

// tokenAway tells a token that is away, with everything in it, from one that
// lacks a single key. Modules say the same of both: SoftHSM without its folder
// is a token without keys.
func (n *Node) tokenAway(ctx context.Context, err error) error {
	if !errors.Is(err, hsm.ErrKeyNotFound) {
		return err
	}
	newest, none := n.keys.sealing(0)
	if none != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if n.token.Bind(ctx, newest) == nil {
		return err
	}
	return fmt.Errorf("%w: it does not show the wrapping key that it had: %w", hsm.ErrUnavailable, err)
}

// lookTimeout bounds a second look for a key; Bind would wait longer for one
// that is being made.
const lookTimeout = 300 * time.Millisecond

// noted remembers how a token call went, for Status, and returns err.
func (n *Node) noted(err error) error {
	switch {
	case err == nil:
		n.hsm.Store(nil)
		n.hsmUsed.Store(time.Now().UnixNano())
	case errors.Is(err, hsm.ErrUnavailable), errors.Is(err, hsm.ErrTokenNotFound), isPIN(err):
		n.hsm.Store(&err)
	}
	return err
}

func isPIN(err error) bool {
	return errors.Is(err, hsm.ErrPINIncorrect) || errors.Is(err, hsm.ErrPINLocked)
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
// that they compute (seconds, for ECDSA). It wipes presignatures, the keys of offers,
// auxiliary keys and identity keys and ends the use of the token, which is closed
// unless it is the host's. It may be called more than once.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed, n.setup = true, false
	token := n.token // stays set: calls that have begun use it, and fail
	n.mu.Unlock()
	n.stop()
	n.stock.close()
	n.offers.close()
	n.running.Wait()
	n.logins.close()
	n.watching.Wait()
	n.mu.Lock()
	n.aux.closeLocked()
	n.mu.Unlock()
	if token == nil || n.cfg.Host != nil {
		return nil
	}
	return token.Close()
}
