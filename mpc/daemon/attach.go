package daemon

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// attachment is one coordinator's use of the node: a fresh node.Node that knows
// nothing of the one before, which is what a new process is to a local node.
type attachment struct {
	node   *node.Node
	client *client
}

// server delegates nodepb.NodeServer to the present attachment. A call that does
// not come from the connection that attached is refused: a coordinator that was
// replaced cannot go on. All methods may be called concurrently.
type server struct {
	nodepb.UnimplementedNodeServer
	registry *registry
	logger   hclog.Logger
	// template is the node.Config of every attachment, but for what the registry
	// has pinned.
	template node.Config
	identity ed25519.PrivateKey

	turn    chan struct{}  // capacity 1: held while somebody attaches
	closing sync.WaitGroup // attachments that end

	mu       sync.Mutex
	current  *attachment // nil: nobody is attached
	draining bool
}

// Setup attaches the calling coordinator: it closes the attachment before and the
// connection that had it.
func (s *server) Setup(ctx context.Context, r *nodepb.SetupRequest) (*nodepb.SetupReply, error) {
	c, err := s.coordinator(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if s.isDraining() {
		return &nodepb.SetupReply{Failure: drainingFailure()}, nil
	}
	p, err := s.registry.present()
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	cfg := s.template
	host := *s.template.Host
	host.MountID, host.Authority = p.mountID, p.authority
	host.Identity = s.identity // nodes only read it; it is wiped after the last
	cfg.Host = &host
	fresh := node.New(cfg)
	reply, err := fresh.Setup(ctx, r)
	if err != nil || reply.GetFailure() != nil {
		s.end(&attachment{node: fresh})
		return reply, err
	}
	// Another one may have been enrolled since this one was looked at: before that
	// one is pushed aside, and once more behind the end of what was attached.
	if _, err := s.coordinator(ctx); err != nil {
		s.end(&attachment{node: fresh})
		return nil, err
	}
	old, ok := s.replace(&attachment{fresh, c})
	if !ok {
		s.end(&attachment{node: fresh})
		return &nodepb.SetupReply{Failure: drainingFailure()}, nil
	}
	if _, err := s.coordinator(ctx); err != nil {
		s.detach(c)
		if old != nil {
			s.end(old)
		}
		return nil, err
	}
	s.logger.Info("a coordinator attached", "from", c.RemoteAddr().String(), "replaces_another", old != nil)
	if c.ended.Load() {
		s.detach(c) // it ended before it was attached, when nobody looked for it
	}
	if old != nil {
		s.end(old)
		if old.client != c {
			old.client.Close() // it sees at once that it is no longer attached
		}
	}
	return reply, nil
}

// coordinator returns the calling connection if it is the enrolled coordinator's.
// The handshake has looked already, but it also lets those in that want to enrol.
func (s *server) coordinator(ctx context.Context) (*client, error) {
	c, err := clientOf(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	known, err := s.registry.known()
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if err := known.CheckClient(c.certs); err != nil {
		pin := c.pin()
		s.logger.Warn("refused: not the enrolled coordinator", "from", c.RemoteAddr().String(), "pin", hex.EncodeToString(pin[:]), "error", err)
		return nil, status.Error(codes.PermissionDenied, "this coordinator is not the one that is enrolled on this node: enrol it with `vault-plugin-secrets-mpc node enrol --again` on the node's host")
	}
	return c, nil
}

func drainingFailure() *nodepb.Failure {
	return &nodepb.Failure{Reason: nodepb.Failure_DRAINING, Text: "this node is about to end and takes nothing new"}
}

// replace makes a the present attachment and returns the one before.
func (s *server) replace(a *attachment) (old *attachment, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, false
	}
	old, s.current = s.current, a
	return old, true
}

// end closes an attachment's node, in the background: its sessions may compute for
// seconds. wait waits for it.
func (s *server) end(a *attachment) {
	s.closing.Go(func() {
		if err := a.node.Close(); err != nil {
			s.logger.Warn("an attachment did not end cleanly", "error", err)
		}
	})
}

// detach ends the present attachment if it is that of c, or any where c is nil.
func (s *server) detach(c *client) {
	s.mu.Lock()
	old := s.current
	if old == nil || (c != nil && old.client != c) {
		s.mu.Unlock()
		return
	}
	s.current = nil
	s.mu.Unlock()
	if c != nil {
		s.logger.Info("the coordinator's connection ended; it is no longer attached", "from", c.RemoteAddr().String())
	}
	s.end(old)
}

// revoke ends the attachment of a coordinator that is not the enrolled one any more:
// another CA, or another name. A file that cannot be read, or the end of a
// certificate's time, lets nobody in and throws nobody out.
func (s *server) revoke() {
	s.mu.Lock()
	a := s.current
	s.mu.Unlock()
	if a == nil {
		return
	}
	known, err := s.registry.known()
	if err != nil {
		return
	}
	if err := known.CheckClient(a.client.certs); errors.Is(err, nodelink.ErrWrongPeer) {
		s.logger.Warn("the coordinator's connection is ended: it is not the enrolled one any more", "from", a.client.RemoteAddr().String(), "error", err)
		s.detach(a.client)
		a.client.Close()
	}
}

// attached returns the present attachment's node, or nil.
func (s *server) attached() *node.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil
	}
	return s.current.node
}

// until returns when the attached coordinator's certificate expires; zero where
// nobody is attached. A connection outlives its certificate, and then cannot be made
// anew.
func (s *server) until() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return time.Time{}
	}
	return s.current.client.certs[0].NotAfter
}

// drain refuses what is new from now on.
func (s *server) drain() {
	s.mu.Lock()
	s.draining = true
	a := s.current
	s.mu.Unlock()
	if a != nil {
		a.node.Drain()
	}
}

func (s *server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// node returns the node that a call is for.
func (s *server) node(ctx context.Context) (*node.Node, error) {
	c, err := clientOf(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.current == nil:
		return nil, status.Error(codes.FailedPrecondition, "no coordinator is attached to this node; Setup comes first")
	case s.current.client != c:
		return nil, status.Error(codes.FailedPrecondition, "another coordinator has attached to this node since; connect anew")
	}
	return s.current.node, nil
}
