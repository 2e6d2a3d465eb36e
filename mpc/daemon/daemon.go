package daemon

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// expiryWarning is how long before its certificate's end a node that starts says so.
const expiryWarning = 30 * 24 * time.Hour

// Config configures a daemon.
type Config struct {
	Settings *Settings
	// Version is reported to the coordinator.
	Version string
	// Logger; default none.
	Logger hclog.Logger
	// OpenToken opens the host's token; required.
	OpenToken OpenToken
	// Reload has certificates, peers and the CA read again; nil for never. They
	// are read again when their files change in any case.
	Reload <-chan os.Signal
	// Started is called when the node listens, with its address; may be nil.
	Started func(address net.Addr)
}

// Run serves until ctx ends, and then drains: running sessions have
// Settings.DrainTimeout. It returns nil then, and else an error for ExitCode: the
// token refused the PIN or went away, a listener failed, or the state is not fit.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	s := cfg.Settings
	dir, err := openState(s.StateDir)
	if err != nil {
		return err
	}
	unlock, err := dir.lock(serveLock, false)
	if err != nil {
		return err
	}
	defer unlock()
	d := &daemon{cfg: cfg, dir: dir, registry: newRegistry(s, dir), complaints: rate.NewLimiter(1, 20)}
	if err := d.prepare(ctx); err != nil {
		if ctx.Err() != nil { // it was told to end before it had begun
			err = nil
		}
		return errors.Join(err, d.close())
	}
	defer func() { err = errors.Join(err, d.close()) }()
	return d.serve(ctx)
}

// daemon is one run.
type daemon struct {
	cfg      Config
	dir      stateDir
	registry *registry
	cert     *certificate
	floor    *Floor
	token    node.Token
	identity *identityRecord
	private  ed25519.PrivateKey
	watch    tokenWatch
	metrics  *metrics
	server   *server
	address  string       // that is listened on
	calls    atomic.Int64 // unary calls that run
	// complaints bounds the lines about connections that were refused.
	complaints *rate.Limiter

	grpc *grpc.Server
	http []*http.Server
	jobs sync.WaitGroup
}

// prepare opens everything that serve needs, and makes what a new node lacks.
func (d *daemon) prepare(ctx context.Context) error {
	s, logger := d.cfg.Settings, d.cfg.Logger
	unlock, err := d.dir.lock(changeLock, true)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.registry.reload(); err != nil {
		return fmt.Errorf("%w: %w", ErrSettings, err)
	}
	if err := ensureCertificate(d.dir, s); err != nil {
		return err
	}
	if d.cert, err = newCertificate(d.dir, s, logger); err != nil {
		return err
	}
	enrolled, err := d.dir.has(enrolledFile)
	if err != nil {
		return err
	}
	if d.floor, err = openFloor(d.dir.path(floorFile), !enrolled); err != nil {
		return err
	}
	if d.identity, err = readIdentity(d.dir, s.Name); err != nil {
		return err
	}
	if d.token, err = openToken(ctx, s, d.cfg.OpenToken); err != nil {
		return err
	}
	if d.identity == nil {
		if enrolled {
			return fmt.Errorf("%w: %s is gone and this node is enrolled: restore it from a backup of this host, or remove %s to begin as a new node", ErrSettings, d.dir.path(identityFile), d.dir.path(enrolledFile))
		}
		if d.identity, err = makeIdentity(ctx, d.dir, s, d.token); err != nil {
			return err
		}
		logger.Info("an identity was made", "identity", d.identity.Identity)
	}
	d.private, err = openIdentity(ctx, d.identity, s.Name, d.token)
	return err
}

// serve listens until it is over.
func (d *daemon) serve(ctx context.Context) error {
	s, logger := d.cfg.Settings, d.cfg.Logger
	d.metrics = newMetrics(d.cfg.Version, s, d.status)
	public, err := d.identity.public()
	if err != nil {
		return err
	}
	d.server = &server{registry: d.registry, logger: logger, identity: d.private, turn: make(chan struct{}, 1), template: node.Config{
		Version: d.cfg.Version, Logger: logger, Observer: d.metrics,
		Host: &node.Host{ID: s.Name, Token: lent{d.token}, Domain: s.Domain, Region: s.Region, Zone: s.Zone,
			Peer: d.registry.peer, Floor: d.floor, Sets: d.floor, Switches: s.Switches},
	}}
	// A stop for what goes wrong, told from ctx by its cause.
	running, fail := context.WithCancelCause(context.Background())
	defer fail(nil)
	listener, err := nodelink.Listen(ctx, s.Listen)
	if err != nil {
		return fmt.Errorf("listening for coordinators: %w", err)
	}
	d.address = listener.Addr().String()
	d.grpc = grpc.NewServer(append(nodelink.ServerOptions(),
		grpc.Creds(clientCredentials{TransportCredentials: credentials.NewTLS(nodelink.ServerTLS(nodelink.ServerConfig{Certificate: d.cert.get, Client: d.registry.client})),
			gone: d.server.detach, failed: d.handshakeFailed}),
		grpc.MaxConcurrentStreams(512),
		grpc.ChainUnaryInterceptor(logFailures(logger, &d.calls), node.RecoverUnary(logger)))...)
	nodepb.RegisterNodeServer(d.grpc, d.server)
	nodepb.RegisterEnrolmentServer(d.grpc, &enrolment{registry: d.registry, cert: d.cert, version: d.cfg.Version, identity: public, logger: logger, complaints: d.complaints,
		replaced: func() { d.server.detach(nil) }})
	if err := d.serveHTTP(ctx, fail); err != nil {
		listener.Close()
		return err
	}
	d.jobs.Go(func() {
		if err := d.grpc.Serve(bounded{listener, make(chan struct{}, maxConnections)}); err != nil {
			fail(fmt.Errorf("listening for coordinators: %w", err))
		}
	})
	watching, stopWatching := context.WithCancel(running)
	defer stopWatching()
	d.jobs.Go(func() {
		if err := d.watch.watch(watching, d.token, d.identity.Key.key()); err != nil {
			fail(err)
		}
	})
	d.jobs.Go(func() { d.reloads(watching) })
	st := d.status()
	logger.Info("the node listens", "node", s.Name, "address", d.address, "domain", s.Domain, "region", s.Region, "zone", s.Zone,
		"identity", st.Identity, "pin", st.Pin, "enrolled", st.Enrolled)
	if left := time.Until(st.CertificateExpires); left < expiryWarning {
		logger.Warn("the node's certificate expires soon, or has: replace its file, for the same key where that is pinned", "valid_until", st.CertificateExpires.UTC().Format(time.RFC3339))
	}
	if d.cfg.Started != nil {
		d.cfg.Started(listener.Addr())
	}
	select {
	case <-ctx.Done():
		d.drain(running)
		return nil
	case <-running.Done():
		err := context.Cause(running)
		logger.Error("the node ends", "error", err)
		return err
	}
}

// reloads reads files again on a signal, and ends connections that the files as they
// are now would not let in.
func (d *daemon) reloads(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			d.server.revoke()
			continue
		case <-d.cfg.Reload:
		case <-ctx.Done():
			return
		}
		_, err := d.cert.reload(true)
		if err = errors.Join(err, d.registry.reload()); err != nil {
			d.cfg.Logger.Error("files cannot be read again", "error", err)
			continue
		}
		d.cfg.Logger.Info("certificates and peers were read again", "certificate_expires", d.cert.expires().UTC().Format(time.RFC3339))
	}
}

func (d *daemon) handshakeFailed(remote net.Addr, err error) {
	d.metrics.refused.Inc()
	if !d.complaints.Allow() {
		return // the metric counts them all; strangers must not fill the disk
	}
	d.cfg.Logger.Warn("a connection was refused", "from", remote.String(), "error", err)
}

// serveHTTP starts the control socket and, where it is wanted, telemetry.
func (d *daemon) serveHTTP(ctx context.Context, fail context.CancelCauseFunc) error {
	local, err := listenControl(ctx, d.dir)
	if err != nil {
		return fmt.Errorf("the control socket: %w", err)
	}
	d.start(local, fail, controlHandler(d.status, d.floor, func(account string, epoch uint64) {
		d.cfg.Logger.Warn("the floor of an account was lowered by this host's operator", "account", account, "epoch", epoch)
	}))
	if d.cfg.Settings.Telemetry == "" {
		return nil
	}
	l, err := nodelink.Listen(ctx, d.cfg.Settings.Telemetry)
	if err != nil {
		return fmt.Errorf("telemetry.listen: %w", err)
	}
	d.cfg.Logger.Info("telemetry listens", "address", l.Addr().String())
	d.start(l, fail, telemetry(d.metrics, d.status))
	return nil
}

func (d *daemon) start(l net.Listener, fail context.CancelCauseFunc, h http.Handler) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 60 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	d.http = append(d.http, server)
	d.jobs.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fail(fmt.Errorf("serving %s: %w", l.Addr(), err))
		}
	})
}

// status is what telemetry and `node status` show.
func (d *daemon) status() Status {
	s := d.cfg.Settings
	st := Status{Node: s.Name, Version: d.cfg.Version, PID: os.Getpid(), Region: s.Region, Zone: s.Zone, Domain: s.Domain,
		Identity: d.identity.Identity, Listen: d.address, HSM: "ok", FloorAccounts: d.floor.count(), CertificateExpires: d.cert.expires(),
		Draining: d.server.isDraining(), Peers: map[string]string{}}
	if pin, err := d.cert.pin(); err == nil {
		st.Pin = hex.EncodeToString(pin[:])
	}
	if err := d.watch.state(); err != nil {
		st.HSM = err.Error()
	}
	if err := d.registry.show(&st); err != nil {
		st.Problem = err.Error()
	}
	if n := d.server.attached(); n != nil {
		st.Attached, st.Sessions, st.CoordinatorExpires = true, n.Sessions(), d.server.until()
	}
	return st
}
