package nodelink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// How a dead host is noticed. gRPC asks at most every 10 s on the client's side,
// so TCP does it there: probes after 2 s of silence, every second, and 5 s without
// an answer to a probe or to data (TCP_USER_TIMEOUT, which gRPC sets to
// pingTimeout) end the connection. A process that hangs on a live host is noticed
// by gRPC's pings, after 15 s, and by whoever asks it for its Status.
const (
	tcpIdle     = 2 * time.Second
	tcpInterval = time.Second
	tcpCount    = 3
	pingEvery   = 10 * time.Second // the least that gRPC's client takes
	pingTimeout = 5 * time.Second

	// A node needs not be quick to notice that its coordinator died: the next one to
	// attach takes its place at once. A busy host must not look like a dead one.
	serverPingEvery   = 5 * time.Second
	serverPingTimeout = 10 * time.Second
)

func tcpKeepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: tcpIdle, Interval: tcpInterval, Count: tcpCount}
}

// Link is one connection to a node on another host. It does not connect again: a
// connection that ended stays down, since the node forgot with it who it worked
// for. All methods may be called concurrently.
type Link struct {
	conn    *grpc.ClientConn
	once    *single
	stop    context.CancelFunc
	watched sync.WaitGroup
	down    chan struct{} // closed when the connection has ended
}

// Dial connects to the node at address (host:port) and checks that it is peer. It
// returns when the node has taken the connection, at the first failure, or when
// ctx ends. The errors wrap ErrCertificateExpired and ErrWrongPeer where these
// are the cause.
func Dial(ctx context.Context, address string, own tls.Certificate, peer Peer) (*Link, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return nil, fmt.Errorf("%q is no address of a node; write host:port", address)
	}
	if peer.ServerName == "" && len(peer.CA) > 0 {
		peer.ServerName = host
	}
	config, err := ClientTLS(own, peer)
	if err != nil {
		return nil, err
	}
	once := &single{TransportCredentials: credentials.NewTLS(config)}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(once),
		grpc.WithContextDialer(once.dial),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)))
	if err != nil {
		return nil, err
	}
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if state == connectivity.TransientFailure || state == connectivity.Shutdown {
			conn.Close()
			return nil, fmt.Errorf("node at %s: %w", address, once.why())
		}
		if !conn.WaitForStateChange(ctx, state) {
			conn.Close()
			return nil, fmt.Errorf("node at %s: %w", address, errors.Join(ctx.Err(), once.err()))
		}
	}
	watch, stop := context.WithCancel(context.Background())
	l := &Link{conn: conn, once: once, stop: stop, down: make(chan struct{})}
	l.watched.Go(func() {
		defer close(l.down)
		conn.WaitForStateChange(watch, connectivity.Ready)
	})
	return l, nil
}

// Client speaks to the node. After Down its calls fail.
func (l *Link) Client() nodepb.NodeClient { return nodepb.NewNodeClient(l.conn) }

// Enrolment speaks to the part of the node that takes a coordinator.
func (l *Link) Enrolment() nodepb.EnrolmentClient { return nodepb.NewEnrolmentClient(l.conn) }

// Down reports whether the connection has ended; it is polled and answers at once.
func (l *Link) Down() bool {
	select {
	case <-l.down:
		return true
	default:
		return false
	}
}

// closeTime is how long gRPC may say goodbye to a node that may not be there.
const closeTime = 500 * time.Millisecond

// Close ends the connection. It may be called more than once.
func (l *Link) Close() {
	l.stop()
	cut := time.AfterFunc(closeTime, l.once.cut)
	defer cut.Stop()
	_ = l.conn.Close()
	l.watched.Wait()
}

// single lets one connection be made, and remembers what became of it: gRPC would
// try again by itself and tells its callers little.
type single struct {
	credentials.TransportCredentials
	mu     sync.Mutex
	dialed bool
	raw    net.Conn // once it was dialed
	failed error
}

// cut ends the connection below TLS and gRPC, which may wait for what cannot be sent.
func (s *single) cut() {
	s.mu.Lock()
	raw := s.raw
	s.mu.Unlock()
	if raw != nil {
		raw.Close()
	}
}

var errEnded = errors.New("the connection has ended")

func (s *single) dial(ctx context.Context, address string) (net.Conn, error) {
	s.mu.Lock()
	again := s.dialed
	s.dialed = true
	s.mu.Unlock()
	if again {
		return nil, errEnded
	}
	d := net.Dialer{KeepAliveConfig: tcpKeepAlive()}
	c, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		s.mu.Lock()
		s.raw = c
		s.mu.Unlock()
	}
	return c, s.note(err)
}

// ClientHandshake implements credentials.TransportCredentials.
func (s *single) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := s.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, s.note(err)
	}
	// In TLS 1.3 the server judges the client's certificate after the client is done,
	// so a refusal comes as an alert in place of the first byte. It is waited for
	// here: were something written before, a failed write could hide the alert. A
	// node speaks first: gRPC's server sends its SETTINGS at once.
	first := &firstByte{Conn: c}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	_, err = io.ReadFull(c, first.b[:])
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, nil, s.note(err)
	}
	return first, info, nil
}

// Clone implements credentials.TransportCredentials. gRPC clones nothing that is
// given to NewClient; sharing keeps what is remembered in one place.
func (s *single) Clone() credentials.TransportCredentials { return s }

// note remembers the first error and returns err.
func (s *single) note(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.failed == nil {
		s.failed = err
	}
	return err
}

func (s *single) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// why explains a connection that could not be made.
func (s *single) why() error {
	err := s.err()
	if err == nil {
		return errors.New("the connection could not be made")
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the node closed the connection at once: it is about to end, or has too many connections")
	}
	// All that a server can say is an alert (RFC 8446, 6.2).
	if text := err.Error(); strings.Contains(text, "remote error: tls:") {
		return fmt.Errorf("the node refused this coordinator's certificate (%w): it is not the one that was enrolled there, or it is not valid by the node's clock; the node's log says which", err)
	}
	return err
}

// firstByte gives back a byte that was read ahead. gRPC reads from one goroutine.
type firstByte struct {
	net.Conn
	b    [1]byte
	back bool // given back
}

func (c *firstByte) Read(b []byte) (int, error) {
	if c.back || len(b) == 0 {
		return c.Conn.Read(b)
	}
	c.back = true
	b[0] = c.b[0]
	return 1, nil
}

// ServerOptions are a listening node's: the message limits of local nodes, pings
// that notice a coordinator that died, and leave for the coordinator's own.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPingEvery, Timeout: serverPingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
	}
}

// Listen opens a node's address, with the same TCP probes as Dial.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	c := net.ListenConfig{KeepAliveConfig: tcpKeepAlive()}
	return c.Listen(ctx, "tcp", address)
}
