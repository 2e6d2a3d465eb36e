package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

const (
	setupTimeout  = 10 * time.Second
	statusEvery   = time.Second
	statusTimeout = 2 * time.Second
	exitPoll      = 20 * time.Millisecond
	// A node that has missed mutePolls answers, or reported for awayPolls that
	// its token does not work, is started again.
	mutePolls = 2
	awayPolls = 3
	// tokenPause bounds the pause between two looks for a token that is away.
	tokenPause = 2 * time.Second
	// stableAfter is how long a node must have run before its restarts count
	// from the beginning again.
	stableAfter = time.Minute
)

// hsmOK is what a node reports while its token works.
const hsmOK = "ok"

// poolNode supervises one node: one goroutine starts its process, or connects to
// it, waits for its end and starts it again.
type poolNode struct {
	pool *Pool
	id   string
	// remote says where a node on another host is; nil for a local one.
	remote *RemoteNode
	domain string // the wrapping domain of its token
	token  TokenInfo
	cancel context.CancelFunc
	done   chan struct{} // closed when supervise has returned

	mu     sync.Mutex
	region string // its label
	state  NodeState
	// draining keeps the node from new sessions; it will be stopped.
	draining  bool
	drains    int // reasons for that
	since     time.Time
	proc      *process
	identity  mpc.NodeIdentity
	version   string
	hsm       string
	lastError string
	// hsmTrouble is set while the node cannot start because of its token.
	hsmTrouble error
	// login is what the process logged in with; pinRefused is set when the token
	// refused the PIN in a later login, after the module had lost its sessions.
	login      Token
	pinRefused bool
	sessions   int
	// presignatures is how many the process held when it was last asked.
	presignatures int
	restarts      int
	wrapping      []hsm.WrappingKey // that the process was given
	aux           nodeAux
	// mute counts the status calls in a row that had no answer; ending is set
	// while a remote node says that it is about to end.
	mute   int
	ending bool
	rtt    time.Duration // of status calls, smoothed
	skew   time.Duration // the node's clock minus this one's
}

// supervise runs until ctx ends.
func (n *poolNode) supervise(ctx context.Context) {
	pause := n.pool.cfg.RestartMin
	for ctx.Err() == nil {
		started := time.Now()
		err := n.runOnce(ctx)
		if ctx.Err() != nil {
			break
		}
		if n.remote == nil && isPIN(err) {
			// Trying again could lock the token: wait for another PIN.
			n.setState(NodeFailed, err)
			n.pool.cfg.Logger.Error("node stopped: the token refuses the PIN", "node", n.id)
			n.pool.awaitPIN(ctx)
			continue
		}
		pause = n.report(err, pause, time.Since(started))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = n.nextPause(err, pause)
		n.mu.Lock()
		n.restarts++
		n.mu.Unlock()
	}
	n.setState(NodeRestarting, nil)
}

// report shows why the process ended, or could not be set up, and returns the
// pause before the next one.
func (n *poolNode) report(err error, pause, ran time.Duration) time.Duration {
	state, log := NodeRestarting, n.pool.cfg.Logger.Warn
	if n.remote != nil && lasts(err) {
		state = NodeFailed
	}
	n.mu.Lock()
	if n.remote != nil && err != nil && n.lastError == err.Error() {
		log = n.pool.cfg.Logger.Debug // it may be away for long
	}
	n.mu.Unlock()
	n.setState(state, err)
	if ran > stableAfter {
		pause = n.pool.cfg.RestartMin
	}
	what := "node ended and will be started again"
	if n.remote != nil {
		what = "node on another host is not connected; trying again"
	}
	log(what, "node", n.id, "error", err, "pause", pause.String())
	return pause
}

func (n *poolNode) nextPause(err error, pause time.Duration) time.Duration {
	pause = min(2*pause, n.pool.cfg.RestartMax)
	if errors.Is(err, ErrHSMUnavailable) {
		pause = min(pause, tokenPause) // it may be back at any moment
	}
	if n.remote != nil {
		pause = min(pause, remotePause)
	}
	return pause
}

// launch starts a local node's process, or connects to a remote node.
func (n *poolNode) launch(ctx context.Context) (*process, error) {
	if n.remote == nil {
		return n.pool.launch(n.id)
	}
	settings, ok := n.pool.currentSettings()
	if !ok {
		return nil, ErrNotConfigured
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	running, err := n.pool.cfg.Dialer.Dial(ctx, *n.remote, settings.Client)
	if err != nil {
		return nil, err
	}
	return &process{Process: running, client: running.Client(), number: n.pool.started.Add(1), remote: true}, nil
}

// runOnce starts the process, sets the node up and watches it until it ends.
func (n *poolNode) runOnce(ctx context.Context) error {
	proc, err := n.launch(ctx)
	if err != nil {
		return err
	}
	defer proc.Stop()
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
func (n *poolNode) setUp(ctx context.Context, proc *process) error {
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
	own := keysOf(settings.WrappingKeys, n.domain)
	request := &nodepb.SetupRequest{NodeId: n.id, MountId: settings.MountID[:], Authority: settings.Authority,
		WrappingKeys: wrappingKeysToWire(own)}
	fresh := keys == nil
	if n.remote != nil {
		keys, fresh = n.storedFor(keys)
	}
	if keys != nil {
		request.Identity, request.IdentityEnvelope = keys.Identity[:], keys.IdentityEnvelope
		if keys.Aux != nil {
			request.AuxPublic, request.AuxEnvelope = keys.Aux.Public, keys.Aux.Envelope
		}
	}
	var reply *nodepb.SetupReply
	var used Token
	if n.remote != nil {
		request.Identity, request.IdentityEnvelope = nil, nil
		reply, err = n.attach(ctx, proc, request)
	} else {
		err = n.pool.logIn(ctx, func(t Token) error {
			used, request.Token = t, tokenToWire(t)
			if reply, err = proc.client.Setup(ctx, request); err != nil {
				return err
			}
			return fromFailure(reply.GetFailure())
		})
	}
	if errors.Is(err, ErrTokenNotFound) || errors.Is(err, ErrModule) {
		// The settings were good once: a probe has found the token with them.
		return fmt.Errorf("%w: %w", ErrHSMUnavailable, err)
	}
	if err != nil {
		return err
	}
	if len(reply.GetIdentity()) != len(mpc.NodeIdentity{}) {
		return errors.New("the node reported no identity")
	}
	identity := mpc.NodeIdentity(reply.GetIdentity())
	if keys == nil {
		keys = &NodeKeys{Identity: identity, IdentityEnvelope: reply.GetIdentityEnvelope()}
	}
	if fresh {
		if err := n.pool.cfg.Store.PutNodeKeys(ctx, n.id, keys); err != nil {
			return fmt.Errorf("storing the node's identity: %w", err)
		}
	}
	asked := time.Now()
	state, err := proc.client.Status(ctx, &nodepb.StatusRequest{})
	if err != nil {
		return err
	}

	n.mu.Lock()
	n.proc, n.identity, n.version, n.lastError = proc, identity, clip(reply.GetVersion()), ""
	n.mute, n.rtt = 0, 0
	n.noteAnswer(state, asked, time.Now())
	n.login, n.pinRefused = used, false
	// Of a node on another host this is its own word, and it gets into storage.
	n.token = TokenInfo{Label: clip(reply.GetToken().GetLabel()), Serial: clip(reply.GetToken().GetSerial())}
	n.hsm, n.wrapping = state.GetHsm(), own
	n.aux = nodeAux{}
	if state.GetAuxGeneration() > 0 && keys.Aux != nil {
		n.aux = nodeAux{keys: keys.Aux, hash: auxHash(keys.Aux.Public), progress: 100, state: auxReady}
	}
	n.mu.Unlock()
	if err := n.takeWrappingKeys(ctx); err != nil { // they may have changed since
		n.detach()
		return err
	}
	if now, ok := n.pool.currentSettings(); ok && n.remote == nil && !now.Token.samePIN(used) {
		// Apply may have looked before this node could be seen as logged in.
		n.detach()
		return errors.New("the PIN was changed while the node logged in")
	}
	// Known to all before it is used: of any two nodes, the one that comes
	// later introduces both to each other. A node that does not listen must
	// not keep this one away.
	if err := n.pool.introduce(ctx)[n.id]; err != nil {
		n.detach()
		return err
	}
	n.setState(NodeReady, nil)
	return nil
}

// trouble returns what keeps the node from using its token, if anything does.
func (n *poolNode) trouble() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hsmTrouble
}

func (n *poolNode) isFailed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state == NodeFailed
}

// client returns nil while the node is not ready.
func (n *poolNode) client() nodepb.NodeClient {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil {
		return nil
	}
	return n.proc.client
}

// incarnation numbers the node's process: another one, or the same name's next
// node, has another number. It is 0 while no process is set up. What a process
// keeps in memory only is gone when the number has changed.
func (n *poolNode) incarnation() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil {
		return 0
	}
	return n.proc.number
}

func (n *poolNode) candidate() (candidate, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := candidate{id: n.id, identity: n.identity, domain: n.domain, region: n.region}
	if n.remote != nil {
		c.rtt = n.rtt // of local nodes, it says only how busy this host is
	}
	return c, n.identity != mpc.NodeIdentity{}
}

// described is the node's name and, of a remote one, where it is.
func (n *poolNode) described() string {
	switch {
	case n.remote == nil:
		return n.id
	case n.remote.Region == "":
		return fmt.Sprintf("%s (wrapping domain %q)", n.id, n.remote.Domain)
	}
	return fmt.Sprintf("%s (region %q, wrapping domain %q)", n.id, n.remote.Region, n.remote.Domain)
}

func (n *poolNode) status() NodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := NodeStatus{ID: n.id, State: n.state, Version: n.version, Sessions: n.sessions, Presignatures: n.presignatures, Restarts: n.restarts,
		HSM: n.hsm, LastError: n.lastError, Since: n.since, Aux: n.aux.status(), Domain: n.domain, Token: n.token, Region: n.region, RTT: n.rtt, ClockSkew: n.skew}
	if n.remote != nil {
		s.Remote, s.Address, s.Zone = true, n.remote.Address, n.remote.Zone
	}
	if n.proc != nil {
		s.PID = n.proc.PID()
		if n.draining || n.ending {
			s.State = NodeDraining
		}
	}
	if n.identity != (mpc.NodeIdentity{}) {
		s.Identity = n.identity.String()
	}
	return s
}

func tokenToWire(t Token) *nodepb.Token {
	return &nodepb.Token{Module: t.Module, Label: t.Label, Serial: t.Serial, Pin: t.PIN.Expose()}
}
