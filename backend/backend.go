package backend

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/rotation"
)

// defaultVersion is reported to Vault where Config names none.
const defaultVersion = "v0.1.0"

// Config is what main decides about a backend. NewEngine is required.
type Config struct {
	// Version of the plugin as Vault's catalogue shows it, "v" and semantic
	// version; default v0.1.0.
	Version string
	// NewEngine makes the node pool of a mount.
	NewEngine NewEngineFunc
	// Authority, where not empty, is the one authority that this host's nodes
	// take, 64 hex digits: the value of MPC_AUTHORITY.
	Authority string
	// Modules is the host's list of PKCS#11 modules, "name=path,name=path":
	// the value of MPC_PKCS11_MODULES. A broken list is reported by
	// config/hsm, not at start, so that a mount stays readable.
	Modules string
	// NoLocalNodes, where not empty, says why this program runs no nodes on
	// Vault's host, as a sentence goes on after "this host runs no local nodes: ".
	// Then config/hsm is refused and all nodes are on other hosts.
	NoLocalNodes string
	// Enroller reaches nodes on other hosts. Without one there are none.
	Enroller Enroller

	now func() time.Time // default time.Now
	// rotationInterval is the runner's timer; default rotation.DefaultInterval.
	rotationInterval time.Duration
	// presignInterval is the presigner's slow timer; default 15 s.
	presignInterval time.Duration
	// wrappingInterval is the timer of what looks after wrapping keys; default
	// 1 s.
	wrappingInterval time.Duration
	// requestBackoff and requestLook are those of requestsConfig.
	requestBackoff, requestLook time.Duration
	// elapsed is the time since the mount was opened by a clock that nobody
	// sets; default the process's monotonic clock.
	elapsed func() time.Duration
	// step is called between two steps of an operation; see steps.go.
	step func(ctx context.Context, name string) error
}

// backend is one mount.
type backend struct {
	*framework.Backend
	cfg    Config
	log    hclog.Logger
	store  *store
	spares *spareRule
	runner *rotation.Runner
	stock  *presigner
	keeper *keeper
	moves  moves
	grave  *graveyard
	signed *signedRequests
	// requests are those that wait for approvals.
	requests *approvalRequests
	metrics  *metrics

	hierarchy *hierarchy

	// Logins and sessions, all in memory.
	tickets    *tickets
	limits     *limiter
	sessions   *sessions
	answered   *answered
	providers  *providers
	decoy      *decoy
	loginSlots chan struct{} // a slot for each login that a node works at
	codeSlots  chan struct{} // a slot for each code that is being sent
	lockTurn   chan struct{} // capacity 1: held while locks are written

	people *approvers   // the directory of approvers, in memory
	desk   *approveDesk // approvers' devices, in memory

	accountLocks []*locksutil.LockEntry // striped by account name
	busy         busySet
	fit          poolFit
	custody      *custodyOps

	// ctx ends with Clean; what works in the background works under it.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup // background goroutines; Add only under engMu while open

	applyTurn chan struct{} // capacity 1: held while settings are applied
	loginTurn chan struct{} // capacity 1: held while identity keys are made or resealed

	joinMu sync.Mutex
	joins  map[string]joined // by domain

	engMu      sync.Mutex
	eng        Engine
	applied    bool   // eng runs with the stored settings
	generation uint64 // of the stored settings
	closed     bool
	background bool // startBackground has run
	beating    bool // the heartbeat is being written
	tending    bool // tend is running
	expiring   bool // old answers are being deleted
}

// Factory returns the function with which Vault makes a mount's backend. Vault
// calls it also to learn about paths and versions, so it is inert: it starts
// no goroutine and no process and touches no storage.
func Factory(cfg Config) logical.Factory {
	return func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
		b, err := newBackend(cfg, conf)
		if err != nil {
			return nil, err
		}
		own := *conf
		if own.System != nil {
			own.System = &systemView{SystemView: conf.System}
		}
		if err := b.Setup(ctx, &own); err != nil {
			return nil, err
		}
		return b, nil
	}
}

func newBackend(cfg Config, conf *logical.BackendConfig) (*backend, error) {
	if cfg.NewEngine == nil {
		return nil, errors.New("backend: Config.NewEngine is required")
	}
	if conf == nil {
		return nil, errors.New("backend: no configuration from Vault")
	}
	if cfg.Version == "" {
		cfg.Version = defaultVersion
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.elapsed == nil {
		opened := time.Now()
		cfg.elapsed = func() time.Duration { return time.Since(opened) }
	}
	log := conf.Logger
	if log == nil {
		log = hclog.NewNullLogger()
	}
	b := &backend{
		cfg:          cfg,
		log:          log,
		accountLocks: locksutil.CreateLocks(),
		hierarchy:    newHierarchy(),
		applyTurn:    make(chan struct{}, 1),
		loginTurn:    make(chan struct{}, 1),
	}
	if err := b.newLogins(); err != nil {
		return nil, err
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.metrics = newMetrics(cfg.Version)
	b.custody = newCustodyOps(time.Now)
	b.spares = newSpareRule(cfg.now, b.active, log)
	b.store = newStore(conf.StorageView, b.spares)
	b.store.noLocal = cfg.NoLocalNodes != ""
	b.grave = newGraveyard()
	b.stock = newPresigner(presignConfig{
		Source:   b,
		Interval: cfg.presignInterval,
		Logger:   log.Named("presign"),
		now:      cfg.now,
	})
	b.runner = rotation.New(rotation.Config{
		Store:     b,
		Refresher: b,
		Rewrapper: b,
		Policy:    rotationPolicy(defaultRotation()),
		Interval:  cfg.rotationInterval,
		Logger:    log.Named("rotation"),
	})
	b.signed = newSignedRequests(signedConfig{
		Store: b.store, Closing: b.ctx, Logger: log.Named("signed-requests"), now: cfg.now, step: b.step,
	})
	b.requests = newApprovalRequests(requestsConfig{
		Store: b.store, Subject: b.requestSubject, Complete: b.completeRequest, InForce: b.inForce, Go: b.inBackground, Metrics: b.metrics,
		Logger: log.Named("requests"), Backoff: cfg.requestBackoff, Look: cfg.requestLook, now: cfg.now, step: b.step,
	})
	var err error
	if b.desk, err = newApproveDesk(cfg.now, b.requests, b, b.metrics.approvalRefusals); err != nil {
		return nil, err
	}
	b.keeper = newKeeper(keeperConfig{Pass: b.wrappingPass, Interval: cfg.wrappingInterval, now: cfg.now})
	b.Backend = &framework.Backend{
		BackendType:    logical.TypeLogical,
		RunningVersion: cfg.Version,
		Help:           strings.TrimSpace(backendHelp),
		PathsSpecial: &logical.Paths{
			Root:            []string{prefixConfig + "*", "destroy/*", "recovery/*"},
			SealWrapStorage: sealWrapped(),
			// People log in without a Vault token; see login.go.
			// So do approvers' devices: see path_approve_enrol.go. The pages are for them.
			Unauthenticated: []string{"login/*", "session/*", "approve/*", "ui/*"},
		},
		Paths: framework.PathAppend(
			b.pathConfigHSM(),
			b.pathConfigNodes(),
			b.pathConfigRemote(),
			b.pathConfigCoordinator(),
			b.pathConfigRotation(),
			b.pathConfigAuthority(),
			b.pathConfigAccounts(),
			b.pathConfigIdentities(),
			b.pathConfigOIDC(),
			b.pathConfigUI(),
			b.pathRotation(),
			b.pathWrappingKeys(),
			b.pathNodes(),
			b.pathAccountList(),
			b.pathAccountState(),
			b.pathAccountRestore(),
			b.pathAccountRename(),
			b.pathAccountMove(),
			b.pathAccountPolicy(),
			b.pathAccounts(),
			b.pathDerive(),
			b.pathAddresses(),
			b.pathJWK(),
			b.pathCSR(),
			b.pathSign(),
			b.pathRequests(),
			b.pathVerify(),
			b.pathCustody(),
			b.pathDestroy(),
			b.pathRecovery(),
			b.pathRecoveryAccounts(),
			b.pathIdentities(),
			b.pathIdentityState(),
			b.pathAssets(),
			b.pathAuthenticators(),
			b.pathAuthenticatorState(),
			b.pathAuthenticatorRegister(),
			b.pathDevices(),
			b.pathApprovers(),
			b.pathApproveEnrol(),
			b.pathApprove(),
			b.pathLogin(),
			b.pathSession(),
			b.pathMetrics(),
			b.pathUI(),
			b.pathUnknown(), // last: it matches everything
		),
		InitializeFunc: b.initialize,
		PeriodicFunc:   b.periodic,
		Invalidate:     b.invalidate,
		Clean:          b.clean,
	}
	return b, nil
}

// initialize runs inside unsealing and must not delay it: it only begins the
// background work, and only on a server that may write.
func (b *backend) initialize(context.Context, *logical.InitializationRequest) error {
	b.startBackground()
	return nil
}

// periodic is called every minute on the active server, also during unmount.
// It writes the heartbeat, is the safety net of the runner's own timer, and
// returns at once.
func (b *backend) periodic(context.Context, *logical.Request) error {
	b.startBackground()
	b.runner.Kick()
	b.store.forgetKeys(keyHSM) // a write that failed may have taken effect
	b.keeper.Kick()
	b.beat()
	b.expireSigned()
	b.expireEnrolments()
	b.sessions.sweep()
	b.desk.sweep()
	b.writeLocks() // what could not be written before
	return nil
}

// active says whether this server is the one that writes storage.
func (b *backend) active() bool { return b.WriteSafeReplicationState() }

// beat writes the heartbeat in the background, unless that is still being done.
func (b *backend) beat() {
	b.engMu.Lock()
	defer b.engMu.Unlock()
	if b.closed || b.beating || !b.active() {
		return
	}
	b.beating = true
	b.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(b.ctx, heartbeatTimeout)
		defer cancel()
		err := b.spares.beat(ctx)
		if err != nil && b.ctx.Err() == nil {
			b.log.Warn("the heartbeat was not written; a later start may take storage for restored", "error", err)
		}
		b.engMu.Lock()
		b.beating = false
		b.engMu.Unlock()
		// After it: what was deleted is not looked at in storage that was
		// exchanged and not noticed yet.
		b.tend(err == nil)
	})
}

// startBackground starts nodes, the rotation runner, the presigner and the
// keeper of wrapping keys. Later
// calls have no effect, nor have calls on a server that cannot write or after
// Clean.
func (b *backend) startBackground() {
	if !b.active() {
		return
	}
	b.engMu.Lock()
	defer b.engMu.Unlock()
	if b.closed || b.background {
		return
	}
	b.background = true
	b.tasks.Go(func() {
		// Before the heartbeat in storage is replaced by one of ours.
		if err := b.spares.decide(b.ctx); err != nil && b.ctx.Err() == nil {
			b.log.Warn("whether storage was restored is not known yet: no spare nodes are used before it is", "error", err)
		}
		b.loadPolicy(b.ctx)
		b.runner.Start(b.ctx)
		b.stock.start(b.ctx)
		b.keeper.Start(b.ctx)
		if _, err := b.engine(b.ctx); err != nil && !errors.Is(err, pool.ErrNotConfigured) && b.ctx.Err() == nil {
			// The next request that needs nodes tries again.
			b.log.Error("nodes were not started", "error", err)
		}
		b.signed.prepare(b.ctx)
		b.requests.tend()
	})
}

// inBackground runs f until it returns or the mount ends; false where that has ended
// or this server does not write, and nothing runs.
func (b *backend) inBackground(f func(ctx context.Context)) bool {
	b.engMu.Lock()
	defer b.engMu.Unlock()
	if b.closed || !b.active() {
		return false
	}
	b.tasks.Go(func() { f(b.ctx) })
	return true
}

// loadPolicy tells the runner what config/rotation says.
func (b *backend) loadPolicy(ctx context.Context) {
	r, err := b.store.rotationConfig(ctx)
	if err != nil {
		b.log.Warn("config/rotation cannot be read, defaults are used", "error", err)
		r = defaultRotation()
	}
	b.runner.SetPolicy(rotationPolicy(r))
}

// invalidate is called when another server changed an entry.
func (b *backend) invalidate(_ context.Context, key string) {
	b.store.invalidate(key)
	if strings.HasPrefix(key, prefixSigned) {
		b.signed.invalidate()
	}
	if id, ok := strings.CutPrefix(key, prefixRequests); ok {
		b.requests.invalidate(id)
	}
	if key == keyMount || key == keyHSM || key == keyNodes || key == keyRotation || key == keyRecovery || key == keyPINRefusal || key == keyCoordinator ||
		strings.HasPrefix(key, prefixWrapping) || strings.HasPrefix(key, prefixRemote) {
		b.settingsChanged()
		b.keeper.Kick()
	}
	// The runner and the presigner read an account when its turn comes.
}

// clean ends everything this mount runs, within a second. Vault may not call
// it at all; nodes end by themselves when this process does.
func (b *backend) clean(context.Context) {
	b.engMu.Lock()
	first := !b.closed
	b.closed = true
	eng := b.eng
	b.engMu.Unlock()
	if !first {
		return
	}
	b.cancel()
	b.sessions.endAll()
	b.providers.forget("")
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	ended := make(chan error, 1)
	go func() { // ends with ctx, or with what it waits for
		var errs []error
		if eng != nil {
			errs = append(errs, eng.Close(ctx))
		}
		errs = append(errs, b.runner.Stop(ctx), b.stock.stop(ctx), b.keeper.Stop(ctx))
		b.tasks.Wait()
		ended <- errors.Join(errs...)
	}()
	select {
	case err := <-ended:
		if err != nil {
			b.log.Warn("the mount did not end cleanly", "error", err)
		}
	case <-ctx.Done():
		b.log.Warn("the mount did not end within its time; its nodes end with this process")
	}
}

const backendHelp = `
Threshold keys: every account's private key exists only as n shares, each
wrapped by a key in a PKCS#11 token and stored by Vault. Any t of them sign
together on MPC nodes; the key itself is never put together. Shares are
refreshed all the time while the public key stays the same.

Begin with the token, then create an account and sign:

  $ vault write mpc/config/hsm uri="pkcs11:token=prod?module-name=softhsm" pin=@pin-file
  $ vault write mpc/accounts/alice algorithm=bip340-secp256k1 threshold=2 shares=3
  $ vault write mpc/sign/alice input=$(printf hello | base64)
`
