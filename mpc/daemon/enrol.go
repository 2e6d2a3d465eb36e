package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// maxPeers bounds the peers that an enrolment brings.
const maxPeers = 256

// enrolment serves nodepb.EnrolmentServer.
type enrolment struct {
	nodepb.UnimplementedEnrolmentServer
	registry *registry
	cert     *certificate
	version  string
	identity mpc.NodeIdentity
	logger   hclog.Logger
	// complaints bounds the lines about what was refused.
	complaints *rate.Limiter
	// replaced is called when another coordinator than the one before is enrolled.
	replaced func()
	mu       sync.Mutex // one enrolment at a time; held over writes to the disk
}

// Enrol implements nodepb.EnrolmentServer. What it refuses stays as it was, and the
// window stays open: a stranger could close it otherwise.
func (e *enrolment) Enrol(ctx context.Context, r *nodepb.EnrolRequest) (*nodepb.EnrolReply, error) {
	c, err := clientOf(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	reply, err := e.enrol(c, r)
	if err != nil {
		pin := c.pin()
		if !e.complaints.Allow() {
			return nil, status.Error(codes.PermissionDenied, err.Error())
		}
		e.logger.Warn("enrolment refused", "from", c.RemoteAddr().String(), "pin", hex.EncodeToString(pin[:]), "error", err)
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	return reply, nil
}

func (e *enrolment) enrol(c *client, r *nodepb.EnrolRequest) (*nodepb.EnrolReply, error) {
	d, s := e.registry.dir, e.registry.settings
	unlock, err := d.lock(changeLock, true) // a command may open another window
	if err != nil {
		return nil, err
	}
	defer unlock()
	w, err := readWindow(d, time.Now())
	if errors.Is(err, errNoWindow) {
		return nil, errors.Join(err, d.remove(windowFile)) // where its time is over
	}
	if err != nil {
		return nil, err
	}
	defer w.secret.Wipe()
	own, err := e.cert.pin()
	if err != nil {
		return nil, err
	}
	coordinator := c.pin()
	if !nodelink.SameProof(r.GetProof(), nodelink.EnrolProof(w.secret.Expose(), r, coordinator, own)) {
		return nil, errors.New("the proof is not that of the token that is open on this node: use the newest one that `node enrol` printed, all of it")
	}
	fresh, err := e.accept(c, r, s)
	if err != nil {
		return nil, err
	}
	ca, err := e.registry.authorities()
	if err != nil {
		return nil, err
	}
	if ca != nil {
		if err := (nodelink.Peer{CA: ca, ServerName: fresh.Name}).CheckClient(c.certs); err != nil {
			return nil, fmt.Errorf("tls.client_ca_file of this node: %w", err)
		}
	}
	// The token ends before it has done anything: after a crash between the two
	// writes nobody is enrolled, and a new token is needed.
	if err := d.remove(windowFile); err != nil {
		return nil, fmt.Errorf("the enrolment's state cannot be written: %w", err)
	}
	if err := d.writeJSON(enrolledFile, fresh); err != nil {
		return nil, fmt.Errorf("the enrolment's state cannot be written: %w; make a new token", err)
	}
	e.logger.Info("a coordinator was enrolled", "from", c.RemoteAddr().String(), "pin", fresh.Coordinator, "mount_id", fresh.MountID, "peers", len(fresh.Peers))
	e.replaced()
	reply := &nodepb.EnrolReply{Version: e.version, Identity: e.identity[:], Domain: s.Domain, Region: s.Region, Zone: s.Zone}
	reply.Proof = nodelink.EnrolAnswerProof(w.secret.Expose(), reply, coordinator, own)
	return reply, nil
}

// accept checks what an enrolment wants to pin.
func (e *enrolment) accept(c *client, r *nodepb.EnrolRequest, s *Settings) (*Enrolled, error) {
	pin := c.pin()
	fresh := &Enrolled{Version: stateVersion, Coordinator: hex.EncodeToString(pin[:]), Name: c.name(),
		MountID: hex.EncodeToString(r.GetMountId()), Peers: map[string]string{}, Time: time.Now().UTC().Truncate(time.Second)}
	var mount [16]byte
	if len(r.GetMountId()) != len(mount) || mount == [16]byte(r.GetMountId()) {
		return nil, errors.New("the mount ID has 16 bytes and is not zero")
	}
	if r.GetNodeId() != s.Name {
		return nil, fmt.Errorf("this node is %q and the coordinator calls it %q: use the node's own name at Vault", s.Name, r.GetNodeId())
	}
	if a := r.GetAuthority(); len(a) > 0 {
		fresh.Authority = hex.EncodeToString(a)
		key, err := parseAuthority(fresh.Authority)
		if err != nil {
			return nil, errors.New("the authority's key has 32 bytes")
		}
		if s.Authority != nil && !s.Authority.Equal(key) {
			return nil, errors.New("the coordinator has another authority key than this node's node.hcl: find out which is right before you change either")
		}
	}
	if len(r.GetPeers()) > maxPeers {
		return nil, fmt.Errorf("more than %d peers", maxPeers)
	}
	for _, p := range r.GetPeers() {
		name := p.GetNodeId()
		if _, twice := fresh.Peers[name]; twice || !nodelink.ValidName(name) || len(p.GetIdentity()) != len(mpc.NodeIdentity{}) {
			return nil, errors.New("the list of peers is malformed")
		}
		if name == s.Name {
			continue // the node knows itself
		}
		id := mpc.NodeIdentity(p.GetIdentity())
		if own, ok := s.Peers[name]; ok && own != id {
			return nil, fmt.Errorf("peer %q has another identity in this node's node.hcl: find out which is right before you change either", name)
		}
		fresh.Peers[name] = id.String()
	}
	return fresh, nil
}
