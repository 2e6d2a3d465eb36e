package pool

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/mpc"
)

// Config configures a pool.
type Config struct {
	// Store keeps the nodes' wrapped keys.
	Store  KeyStore
	Logger hclog.Logger
	// Launcher starts node processes; by default it runs Executable with Env.
	Launcher Launcher
	// Dialer connects to nodes on other hosts; by default over mpc/nodelink.
	Dialer Dialer
	// Executable is run with the argument "node" to start a local node;
	// default /proc/self/exe, since the file may have been replaced since its
	// checksum was verified.
	Executable string
	// Env is the whole environment of local nodes; see NodeEnv.
	Env []string
	// RestartMin and RestartMax bound the pause before a node that ended is
	// started again; defaults 100 ms and 15 s. It doubles while a node keeps
	// ending within a minute.
	RestartMin, RestartMax time.Duration
	// MaxWaiting bounds the jobs that wait for nodes, MaxWaitingPerAccount those
	// of one account; more are refused with a BusyError. Defaults 1024 and 128.
	MaxWaiting, MaxWaitingPerAccount int
	// OnPresignatureUsed is called whenever an account's stock has sunk because
	// of a request, outside of any lock and by the goroutine that signs: it
	// must not block. What expires or is lost with a node is not reported.
	OnPresignatureUsed func(mpc.AccountID)
	// OnPINRefused is called when the token has refused the PIN of the settings
	// whose Token.Accepted is given, once for those settings. It is called
	// outside of any lock and must not block.
	OnPINRefused func(accepted time.Time, reason error)

	// auxRetry and auxGrace replace the constants of that name in tests.
	auxRetry, auxGrace time.Duration
}

// Pool runs nodes and uses them. All methods may be called concurrently.
type Pool struct {
	cfg Config
	// started counts processes, to number them.
	started      atomic.Uint64
	logins       atomic.Uint64 // counts calls of Identity, so that nodes take turns
	drainTimeout time.Duration
	sched        *scheduler
	ctx          context.Context // ends with Close
	cancel       context.CancelFunc
	wg           sync.WaitGroup

	mu       sync.Mutex
	settings *Settings
	nodes    map[string]*poolNode
	leaving  map[string]*poolNode // removed by Apply, perhaps not ended yet
	// changed is closed and replaced whenever a node's readiness changes.
	changed chan struct{}
	closed  bool
	// refusedPIN is set when the token has refused the settings' PIN.
	refusedPIN error

	stock *stock
	aux   *auxPlan

	login    chan struct{} // capacity 1: held during a node's login
	keysTurn chan struct{} // capacity 1: held while a node's stored keys change
}

// New returns a pool without nodes; Apply starts them.
func New(cfg Config) *Pool {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.Executable == "" {
		cfg.Executable = "/proc/self/exe"
	}
	if cfg.RestartMin <= 0 {
		cfg.RestartMin = 100 * time.Millisecond
	}
	if cfg.RestartMax <= 0 {
		cfg.RestartMax = 15 * time.Second
	}
	if cfg.MaxWaiting <= 0 {
		cfg.MaxWaiting = maxWaiting
	}
	if cfg.MaxWaitingPerAccount <= 0 {
		cfg.MaxWaitingPerAccount = maxWaitingPerAccount
	}
	if cfg.Launcher == nil {
		cfg.Launcher = subprocesses{executable: cfg.Executable, env: cfg.Env, logger: cfg.Logger}
	}
	if cfg.Dialer == nil {
		cfg.Dialer = links{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pool{
		cfg:          cfg,
		sched:        newScheduler(DefaultSessionsPerNode, cfg.MaxWaiting, cfg.MaxWaitingPerAccount),
		ctx:          ctx,
		cancel:       cancel,
		drainTimeout: drainTimeout,
		nodes:        map[string]*poolNode{},
		leaving:      map[string]*poolNode{},
		changed:      make(chan struct{}),
		login:        make(chan struct{}, 1),
		keysTurn:     make(chan struct{}, 1),
		stock:        newStock(),
		aux:          newAuxPlan(cfg.auxRetry, cfg.auxGrace),
	}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		p.auxiliaryLoop()
	}()
	return p
}

// Apply starts, stops or restarts nodes so that they fit the settings. It does
// not wait for them to be ready. A new PIN alone renews the nodes one after the
// other, so that signing goes on; a node that failed tries it at once.
//
// Versions of the wrapping key that came or went are handed to running nodes
// before Apply returns; a node that cannot take them is started again.
//
// A node that leaves the pool, or is renewed for a new PIN, first finishes its
// sessions, for 30 seconds at most. A node on another host is connected to anew
// when its address, certificate, labels or identity changes, or its wrapping
// domain has another key of the same version; the other nodes go on.
func (p *Pool) Apply(ctx context.Context, s Settings) error {
	before, had := p.currentSettings()
	if err := p.apply(s); err != nil {
		return err
	}
	if now, ok := p.currentSettings(); ok {
		p.sched.setLimit(now.SessionsPerNode)
	}
	p.shareWrappingKeys(ctx)
	if had && len(s.Remote) > 0 && !bytes.Equal(before.Recipients, s.Recipients) {
		p.introduce(ctx) // nodes on other hosts take the peers that the set names
	}
	return nil
}

func (p *Pool) apply(s Settings) error {
	if err := s.check(); err != nil {
		return err
	}
	s.Token.PIN, s.Client = s.Token.PIN.Clone(), s.Client.clone()
	s.WrappingKeys, s.Authority = slices.Clone(s.WrappingKeys), slices.Clone(s.Authority)
	s.Remote, s.Endorsements, s.Recipients = slices.Clone(s.Remote), slices.Clone(s.Endorsements), slices.Clone(s.Recipients)

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	old := p.settings
	if old == nil {
		old = &s
	}
	renew := !sameKeys(*old, s)
	p.settings = &s
	if renew || !old.Token.PIN.Equal(s.Token.PIN) || !old.Token.Accepted.Equal(s.Token.Accepted) {
		p.refusedPIN = nil // nodes that failed wait for this
	}
	if p.refusedPIN == nil {
		p.refusedPIN = s.Token.Refused
	}
	var later []string
	wanted := map[string]bool{}
	for i := 1; i <= s.Local; i++ {
		id := LocalNodeID(i)
		wanted[id] = true
		switch n := p.nodes[id]; {
		case n == nil, renew:
			p.startNodeLocked(id, nil)
		case p.refusedPIN == nil && n.wantsLogin(s.Token):
			later = append(later, id)
		}
		p.nodes[id].setRegion(s.LocalRegion)
	}
	for k := range s.Remote {
		r := &s.Remote[k]
		wanted[r.ID] = true
		if n := p.nodes[r.ID]; n == nil || !sameRemote(n.remote, r) || !sameConnection(*old, s, r.Domain) {
			p.startNodeLocked(r.ID, r)
		}
	}
	for id, n := range p.nodes {
		if !wanted[id] {
			p.leaveLocked(n)
		}
	}
	if len(later) > 0 {
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			p.renewOneByOne(&s, later)
		}()
	}
	p.notifyLocked()
	return nil
}

// renewTimeout is how long renewOneByOne waits for a node to be ready again.
const renewTimeout = 15 * time.Second

// renewOneByOne restarts nodes so that they log in with the settings' PIN. It
// stops when one does not come back, so that the others, which are logged in,
// go on; and when newer settings are applied.
func (p *Pool) renewOneByOne(s *Settings, ids []string) {
	for _, id := range ids {
		resume := p.drainForRenewal(id)
		p.mu.Lock()
		if p.settings != s || p.closed {
			p.mu.Unlock()
			resume()
			return
		}
		p.startNodeLocked(id, nil)
		n := p.nodes[id]
		n.setRegion(s.LocalRegion)
		p.mu.Unlock()
		timeout := time.NewTimer(renewTimeout)
		for !n.isReady() {
			p.mu.Lock()
			changed := p.changed
			p.mu.Unlock()
			if n.isFailed() {
				timeout.Stop()
				return
			}
			select {
			case <-changed:
			case <-time.After(50 * time.Millisecond): // readiness may have changed before changed was read
			case <-timeout.C:
				return
			case <-p.ctx.Done():
				timeout.Stop()
				return
			}
		}
		timeout.Stop()
	}
}

// startNodeLocked replaces the node of that name by a new supervised one, which
// waits for the old one's end, so that a name has one process at most. remote is
// nil for a local node.
func (p *Pool) startNodeLocked(id string, remote *RemoteNode) {
	old := p.nodes[id]
	if old != nil {
		old.cancel() // its goroutine stops the process and ends
	} else {
		old = p.leaving[id] // it ends when it has finished its sessions
	}
	ctx, cancel := context.WithCancel(p.ctx)
	n := &poolNode{pool: p, id: id, domain: hsm.DefaultDomain, cancel: cancel, done: make(chan struct{}), state: NodeStarting, since: time.Now()}
	if remote != nil {
		n.remote, n.domain, n.region, n.identity = remote, remote.Domain, remote.Region, remote.Identity
	}
	p.nodes[id] = n
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		defer close(n.done)
		if old != nil {
			<-old.done
		}
		n.supervise(ctx)
	}()
}

// Close stops all nodes and waits for them, at most until ctx ends. The pool
// cannot be used afterwards.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.notifyLocked() // jobs that wait end
	p.mu.Unlock()
	p.cancel()
	done := make(chan struct{})
	go func() {
		p.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Nodes returns a snapshot of every node, ordered by name, and then of those
// that finish their sessions before they leave.
func (p *Pool) Nodes() []NodeStatus {
	nodes, departing := p.shown()
	out := make([]NodeStatus, 0, len(nodes))
	for _, n := range nodes {
		s := n.status()
		s.Aux.Peers = len(nodes) - 1
		for _, peer := range nodes {
			if peer != n && n.accepted(peer) && peer.accepted(n) {
				s.Aux.PeersReady++
			}
		}
		s.Aux.complete()
		s.Aux.NextDue = p.auxDue(n)
		out = append(out, s)
	}
	for _, n := range departing {
		s := n.status()
		s.Aux.complete()
		out = append(out, s)
	}
	return out
}

// node returns the node of that name, or nil.
func (p *Pool) node(id string) *poolNode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes[id]
}

// all returns the nodes ordered by name.
func (p *Pool) all() []*poolNode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return byName(p.nodes)
}

// shown returns the nodes, and those that leave and have no successor yet, both
// ordered by name. No name is in both, nor missing from both.
func (p *Pool) shown() (nodes, departing []*poolNode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	departing = slices.DeleteFunc(byName(p.leaving), func(n *poolNode) bool { return p.nodes[n.id] != nil })
	return byName(p.nodes), departing
}

func byName(nodes map[string]*poolNode) []*poolNode {
	out := make([]*poolNode, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *poolNode) int {
		if len(a.id) != len(b.id) {
			return len(a.id) - len(b.id) // local-2 before local-10
		}
		return strings.Compare(a.id, b.id)
	})
	return out
}

// ready returns the nodes that can take part in sessions now, and a channel
// that is closed when that may have changed.
func (p *Pool) ready() (nodes []*poolNode, configured int, changed <-chan struct{}, err error) {
	p.mu.Lock()
	changed, closed, settings := p.changed, p.closed, p.settings
	p.mu.Unlock()
	switch {
	case closed:
		return nil, 0, nil, ErrClosed
	case settings == nil:
		return nil, 0, nil, ErrNotConfigured
	}
	all := p.all()
	for _, n := range all {
		if n.isReady() {
			nodes = append(nodes, n)
		}
	}
	return nodes, len(all), changed, nil
}

// candidates returns the nodes that could serve a share now, and otherwise what
// ready does. A node whose token has no wrapping key yet is ready for nothing but
// to make one.
func (p *Pool) candidates() (ready []candidate, configured int, changed <-chan struct{}, err error) {
	nodes, configured, changed, err := p.ready()
	if err != nil {
		return nil, 0, nil, err
	}
	ready = make([]candidate, 0, len(nodes))
	for _, n := range nodes {
		if c, ok := n.candidate(); ok && (n.remote == nil || n.newestKey() > 0) {
			ready = append(ready, c)
		}
	}
	return ready, configured, changed, nil
}

// members returns all nodes of the pool, ready or not. One that was never ready in
// this process has no identity here, and counts as one that has seen nothing; the
// callback that stores exposures knows better.
func (p *Pool) members() []candidate {
	nodes := p.all()
	out := make([]candidate, 0, len(nodes))
	for _, n := range nodes {
		c, _ := n.candidate()
		out = append(out, c)
	}
	return out
}

// launch starts a node process; the caller stops it.
func (p *Pool) launch(name string) (*process, error) {
	running, err := p.cfg.Launcher.Start(name)
	if err != nil {
		return nil, err
	}
	return &process{Process: running, client: running.Client(), number: p.started.Add(1)}, nil
}

// notify wakes everybody who waits for a change.
func (p *Pool) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notifyLocked()
}

func (p *Pool) notifyLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Pool) currentSettings() (Settings, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settings == nil {
		return Settings{}, false
	}
	return *p.settings, true
}
