package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

const (
	setupTimeout  = 10 * time.Second
	statusEvery   = time.Second
	statusTimeout = 2 * time.Second
	exitPoll      = 20 * time.Millisecond
	// stableAfter is how long a node must have run before its restarts count
	// from the beginning again.
	stableAfter = time.Minute
)

// localNode supervises one local node: one goroutine starts its process, waits
// for its end and starts it again.
type localNode struct {
	pool   *Pool
	id     string
	cancel context.CancelFunc
	done   chan struct{} // closed when supervise has returned

	mu        sync.Mutex
	state     NodeState
	since     time.Time
	proc      *process
	identity  mpc.NodeIdentity
	version   string
	hsm       string
	lastError string
	sessions  int
	restarts  int
	aux       nodeAux
}

// supervise runs until ctx ends.
func (n *localNode) supervise(ctx context.Context) {
	pause := n.pool.cfg.RestartMin
	for ctx.Err() == nil {
		started := time.Now()
		err := n.runOnce(ctx)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, ErrPINIncorrect) || errors.Is(err, ErrPINLocked) {
			// Trying again could lock the token. Apply starts a new node.
			n.setState(NodeFailed, err)
			n.pool.cfg.Logger.Error("node stopped: the token refuses the PIN", "node", n.id)
			<-ctx.Done()
			break
		}
		n.setState(NodeRestarting, err)
		n.pool.cfg.Logger.Warn("node ended and will be started again", "node", n.id, "error", err, "pause", pause)
		if time.Since(started) > stableAfter {
			pause = n.pool.cfg.RestartMin
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, n.pool.cfg.RestartMax)
		n.mu.Lock()
		n.restarts++
		n.mu.Unlock()
	}
	n.setState(NodeRestarting, nil)
}

// runOnce starts the process, sets the node up and watches it until it ends.
func (n *localNode) runOnce(ctx context.Context) error {
	proc, err := n.pool.launch.start(n.id)
	if err != nil {
		return err
	}
	defer proc.stop()
	if err := n.setUp(ctx, proc); err != nil {
		return err
	}
	defer n.detach()

	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Add(1)
	go func() {
		defer wg.Done()
		n.pollStatus(watch, proc)
	}()
	return proc.waitExit(ctx, exitPoll)
}

// setUp gives the process its name, token and keys, stores an identity it made,
// and marks the node ready.
func (n *localNode) setUp(ctx context.Context, proc *process) error {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	settings, ok := n.pool.currentSettings()
	if !ok {
		return ErrNotConfigured
	}
	keys, err := n.pool.cfg.Store.NodeKeys(ctx, n.id)
	if err != nil {
		return fmt.Errorf("loading the node's keys: %w", err)
	}
	request := &nodepb.SetupRequest{NodeId: n.id, MountId: settings.MountID[:]}
	for _, k := range settings.WrappingKeys {
		request.WrappingKeys = append(request.WrappingKeys, &nodepb.WrappingKey{Domain: k.Domain, Version: k.Version,
			Suite: uint32(k.Suite), Id: k.ID, PublicKey: k.PublicKey, Label: k.Label})
	}
	if keys != nil {
		request.Identity, request.IdentityEnvelope = keys.Identity[:], keys.IdentityEnvelope
		if keys.Aux != nil {
			request.AuxPublic, request.AuxEnvelope = keys.Aux.Public, keys.Aux.Envelope
		}
	}
	var reply *nodepb.SetupReply
	err = n.pool.logIn(ctx, func(t Token) error {
		request.Token = tokenToWire(t)
		reply, err = proc.client.Setup(ctx, request)
		return fromStatus(err)
	})
	if err != nil {
		return err
	}
	if len(reply.GetIdentity()) != len(mpc.NodeIdentity{}) {
		return errors.New("the node reported no identity")
	}
	identity := mpc.NodeIdentity(reply.GetIdentity())
	if keys == nil {
		keys = &NodeKeys{Identity: identity, IdentityEnvelope: reply.GetIdentityEnvelope()}
		if err := n.pool.cfg.Store.PutNodeKeys(ctx, n.id, keys); err != nil {
			return fmt.Errorf("storing the node's identity: %w", err)
		}
	}
	state, err := proc.client.Status(ctx, &nodepb.StatusRequest{})
	if err != nil {
		return fromStatus(err)
	}

	n.mu.Lock()
	n.proc, n.identity, n.version, n.lastError = proc, identity, reply.GetVersion(), ""
	n.hsm = state.GetHsm()
	n.aux = nodeAux{}
	if state.GetAuxGeneration() > 0 && keys.Aux != nil {
		n.aux = nodeAux{keys: keys.Aux, progress: 100, state: auxReady}
	}
	n.mu.Unlock()
	// Known to all before it is used: of any two nodes, the one that comes
	// later introduces both to each other.
	if err := n.pool.introduce(); err != nil {
		n.detach()
		return err
	}
	n.setState(NodeReady, nil)
	return nil
}

// logIn runs a node's login, one at a time over the whole pool, and none after
// the token has refused the PIN: real tokens lock after a few wrong ones, and
// all nodes have the same. Apply lifts the refusal.
func (p *Pool) logIn(ctx context.Context, login func(Token) error) error {
	select {
	case p.login <- struct{}{}:
		defer func() { <-p.login }()
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	refused := p.refusedPIN
	settings := p.settings
	p.mu.Unlock()
	if refused != nil {
		return refused
	}
	err := login(settings.Token)
	if errors.Is(err, ErrPINIncorrect) || errors.Is(err, ErrPINLocked) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.settings != settings {
			return errors.New("the settings changed during a login that failed")
		}
		p.refusedPIN = err
	}
	return err
}

// introduce tells every running node the identities of all others. It fails
// when a node that is running does not take them.
func (p *Pool) introduce() error {
	var members []*nodepb.Member
	nodes := p.all()
	for _, n := range nodes {
		if c, ok := n.candidate(); ok {
			members = append(members, &nodepb.Member{NodeId: c.id, Identity: c.identity[:]})
		}
	}
	for _, n := range nodes {
		client := n.client()
		if client == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(p.ctx, statusTimeout)
		_, err := client.SetRoster(ctx, &nodepb.SetRosterRequest{Members: members})
		cancel()
		if err != nil && n.client() == client {
			return fmt.Errorf("introducing nodes to %s: %w", n.id, err)
		}
	}
	return nil
}

// pollStatus keeps the figures people see up to date.
func (n *localNode) pollStatus(ctx context.Context, proc *process) {
	t := time.NewTicker(statusEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		call, cancel := context.WithTimeout(ctx, statusTimeout)
		s, err := proc.client.Status(call, &nodepb.StatusRequest{})
		cancel()
		n.mu.Lock()
		if err != nil {
			n.lastError = "the node does not answer"
		} else {
			n.hsm, n.sessions = s.GetHsm(), int(s.GetSessions())
			if n.aux.state == auxGenerating {
				n.aux.progress = int(s.GetAuxProgress())
			}
		}
		n.mu.Unlock()
	}
}

// detach marks the node as not usable: its process has ended.
func (n *localNode) detach() {
	n.mu.Lock()
	n.proc, n.sessions = nil, 0
	if n.state == NodeReady {
		n.state, n.since = NodeRestarting, time.Now()
	}
	n.mu.Unlock()
	n.pool.notify()
}

func (n *localNode) setState(s NodeState, err error) {
	n.mu.Lock()
	if n.state != s {
		n.state, n.since = s, time.Now()
	}
	if err != nil {
		n.lastError = err.Error()
	}
	n.mu.Unlock()
	n.pool.notify()
}

func (n *localNode) isReady() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state == NodeReady && n.proc != nil && !n.proc.exited()
}

func (n *localNode) isFailed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state == NodeFailed
}

// client returns nil while the node is not ready.
func (n *localNode) client() nodepb.NodeClient {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil {
		return nil
	}
	return n.proc.client
}

func (n *localNode) candidate() (candidate, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return candidate{id: n.id, identity: n.identity}, n.identity != mpc.NodeIdentity{}
}

func (n *localNode) status() NodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := NodeStatus{ID: n.id, State: n.state, Version: n.version, Sessions: n.sessions, Restarts: n.restarts,
		HSM: n.hsm, LastError: n.lastError, Since: n.since, Aux: n.aux.status()}
	if n.proc != nil {
		s.PID = n.proc.pid
	}
	if n.identity != (mpc.NodeIdentity{}) {
		s.Identity = n.identity.String()
	}
	return s
}

func tokenToWire(t Token) *nodepb.Token {
	return &nodepb.Token{ModulePath: t.ModulePath, Label: t.Label, Serial: t.Serial, Pin: t.PIN.Expose()}
}

// fromStatus maps the gRPC codes of a node's token errors back to this
// package's errors, with the node's explanation.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	var kind error
	switch s.Code() {
	case codes.PermissionDenied:
		kind = ErrPINIncorrect
	case codes.ResourceExhausted:
		kind = ErrPINLocked
	case codes.NotFound:
		kind = ErrTokenNotFound
	case codes.FailedPrecondition:
		kind = ErrModule
	case codes.DataLoss:
		kind = ErrWrappingKey
	case codes.Unavailable, codes.DeadlineExceeded:
		kind = ErrHSMUnavailable
	default:
		return errors.New(s.Message())
	}
	return fmt.Errorf("%w: %s", kind, s.Message())
}
