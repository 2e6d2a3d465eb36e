package pool

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

const (
	// dialTimeout bounds the making of a connection. A host that is away refuses or
	// is silent; one that is there answers within a few round trips.
	dialTimeout = 5 * time.Second
	// remotePause bounds the pause between two tries to reach a node on another
	// host, so that one that is back is soon used again.
	remotePause = 5 * time.Second
)

// Dialer connects to nodes on other hosts. The default is mpc/nodelink. Calls may
// be concurrent.
type Dialer interface {
	// Dial connects to the node and makes sure that it is the one that was pinned.
	// The Process is one attachment: its Client works until the connection ends,
	// which Exited reports, its PID is 0, and Stop ends the connection and not the
	// node. own's key is the caller's.
	Dial(ctx context.Context, n RemoteNode, own ClientCertificate) (Process, error)
}

// links is the default Dialer.
type links struct{}

func (links) Dial(ctx context.Context, n RemoteNode, own ClientCertificate) (Process, error) {
	cert, err := tls.X509KeyPair(own.Certificate, own.Key.Expose())
	if err != nil {
		// The cause may quote what it could not read.
		return nil, errors.New("the coordinator's TLS certificate and key do not fit together")
	}
	link, err := nodelink.Dial(ctx, n.Address, cert, nodelink.Peer{Pin: n.Pin, CA: n.CA, ServerName: n.ServerName})
	if err != nil {
		return nil, err
	}
	return attachment{link: link, client: link.Client()}, nil
}

// attachment is a connection to a node on another host.
type attachment struct {
	link   *nodelink.Link
	client nodepb.NodeClient
}

func (a attachment) Client() nodepb.NodeClient { return a.client }
func (a attachment) PID() int                  { return 0 }
func (a attachment) Exited() bool              { return a.link.Down() }
func (a attachment) Stop()                     { a.link.Close() }

// MismatchError: a node on another host is not what the settings say. It is not
// used; it is looked at again now and then.
type MismatchError struct {
	NodeID, What string // What is "identity", "wrapping domain" or "region"
	Got, Want    string
}

func (e *MismatchError) Error() string {
	if e.What == "identity" {
		return fmt.Sprintf("%s has the identity %s, and %s was enrolled: it is another node and gets nothing; enrol it under a name of its own",
			e.NodeID, e.Got, e.Want)
	}
	return fmt.Sprintf("%s says that its %s is %q, and it was enrolled with %q: it gets nothing until its own configuration says so again, or it is enrolled anew",
		e.NodeID, e.What, e.Got, e.Want)
}

// lasts reports whether err is unlikely to go away by itself: a remote node that
// has it counts as failed, though it is tried again.
func lasts(err error) bool {
	var mismatch *MismatchError
	return errors.As(err, &mismatch) || isPIN(err) || errors.Is(err, nodelink.ErrWrongPeer) || errors.Is(err, nodelink.ErrCertificateExpired)
}

// attach sets a remote node up: it has its token, its identity and its name from
// its own host, and gets the wrapping keys of its own domain only.
func (n *poolNode) attach(ctx context.Context, proc *process, request *nodepb.SetupRequest) (*nodepb.SetupReply, error) {
	reply, err := proc.client.Setup(ctx, request)
	if err != nil {
		return nil, err
	}
	if err := fromFailure(reply.GetFailure()); err != nil {
		return nil, err
	}
	switch {
	case !bytes.Equal(reply.GetIdentity(), n.remote.Identity[:]):
		got := "none"
		if len(reply.GetIdentity()) == len(mpc.NodeIdentity{}) {
			got = mpc.NodeIdentity(reply.GetIdentity()).String()
		}
		return nil, &MismatchError{NodeID: n.id, What: "identity", Got: got, Want: n.remote.Identity.String()}
	case reply.GetDomain() != n.remote.Domain:
		return nil, &MismatchError{NodeID: n.id, What: "wrapping domain", Got: clip(reply.GetDomain()), Want: n.remote.Domain}
	case reply.GetRegion() != n.remote.Region:
		return nil, &MismatchError{NodeID: n.id, What: "region", Got: clip(reply.GetRegion()), Want: n.remote.Region}
	}
	return reply, nil
}

// clip bounds what a node says of itself in errors.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// storedFor returns the stored keys of a remote node. A node that was enrolled with
// another identity under a name that was in use before starts without auxiliary
// keys: those stored are not its own.
func (n *poolNode) storedFor(keys *NodeKeys) (mine *NodeKeys, changed bool) {
	if keys != nil && keys.Identity == n.remote.Identity {
		return keys, false
	}
	return &NodeKeys{Identity: n.remote.Identity}, true
}

// sameRemote reports whether a running connection to a can be used as b.
func sameRemote(a, b *RemoteNode) bool {
	return a.ID == b.ID && a.Address == b.Address && a.Region == b.Region && a.Zone == b.Zone && a.Domain == b.Domain &&
		a.Identity == b.Identity && a.Pin == b.Pin && bytes.Equal(a.CA, b.CA) && a.ServerName == b.ServerName
}

func (c ClientCertificate) same(o ClientCertificate) bool {
	return bytes.Equal(c.Certificate, o.Certificate) && c.Key.Equal(o.Key)
}

func (c ClientCertificate) clone() ClientCertificate {
	return ClientCertificate{Certificate: bytes.Clone(c.Certificate), Key: c.Key.Clone()}
}
