package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/backend"
	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/mpc/pool"
	"vault-plugin-secrets-mpc/secret"
)

// enroller is backend.Enroller over mpc/nodelink.
type enroller struct{}

var _ backend.Enroller = enroller{}

// ParseToken implements backend.Enroller.
func (enroller) ParseToken(text string) (*backend.EnrolToken, error) {
	t, err := nodelink.ParseEnrolToken(text)
	if err != nil {
		return nil, err
	}
	return &backend.EnrolToken{NodeID: t.NodeID, Domain: t.Domain, Region: t.Region, Zone: t.Zone,
		Identity: t.Identity, Pin: t.Pin, Secret: t.Secret, Expires: t.Expires}, nil
}

// NewCertificate implements backend.Enroller.
func (enroller) NewCertificate(name string, notAfter time.Time) ([]byte, *secret.Bytes, error) {
	return nodelink.NewCertificate(name, notAfter)
}

// RenewCertificate implements backend.Enroller.
func (enroller) RenewCertificate(name string, key *secret.Bytes, notAfter time.Time) ([]byte, error) {
	return nodelink.RenewCertificate(name, key, notAfter)
}

// Enrol implements backend.Enroller. The node is known by the pin in its token, and
// the proofs bind both messages to this connection.
func (enroller) Enrol(ctx context.Context, r backend.EnrolRequest) (*backend.EnrolAnswer, error) {
	own, ownPin, err := clientPair(r.Client)
	if err != nil {
		return nil, err
	}
	link, err := nodelink.Dial(ctx, r.Address, own, nodelink.Peer{Pin: r.Token.Pin})
	if err != nil {
		return nil, dialError(err)
	}
	defer link.Close()
	request := &nodepb.EnrolRequest{NodeId: r.Token.NodeID, MountId: r.MountID[:], Authority: r.Authority}
	for _, p := range r.Peers {
		request.Peers = append(request.Peers, &nodepb.Member{NodeId: p.ID, Identity: p.Identity[:]})
	}
	request.Proof = nodelink.EnrolProof(r.Token.Secret.Expose(), request, ownPin, r.Token.Pin)
	reply, err := link.Enrolment().Enrol(ctx, request)
	if err != nil {
		return nil, callError(err)
	}
	want := nodelink.EnrolAnswerProof(r.Token.Secret.Expose(), reply, ownPin, r.Token.Pin)
	if !nodelink.SameProof(reply.GetProof(), want) {
		return nil, fmt.Errorf("%w: it has the node's TLS key and not the token's secret", backend.ErrStrangeNode)
	}
	if len(reply.GetIdentity()) != len(mpc.NodeIdentity{}) {
		return nil, fmt.Errorf("%w: it named no identity", backend.ErrStrangeNode)
	}
	return &backend.EnrolAnswer{Version: reply.GetVersion(), Identity: mpc.NodeIdentity(reply.GetIdentity()),
		Domain: reply.GetDomain(), Region: reply.GetRegion(), Zone: reply.GetZone()}, nil
}

// Reach implements backend.Enroller.
func (enroller) Reach(ctx context.Context, n pool.RemoteNode, client pool.ClientCertificate) error {
	own, _, err := clientPair(client)
	if err != nil {
		return err
	}
	link, err := nodelink.Dial(ctx, n.Address, own, nodelink.Peer{Pin: n.Pin, CA: n.CA, ServerName: n.ServerName})
	if err != nil {
		return dialError(err)
	}
	link.Close()
	return nil
}

// clientPair reads the coordinator's certificate and returns its pin with it.
func clientPair(c pool.ClientCertificate) (pair tls.Certificate, pin [32]byte, err error) {
	pair, err = tls.X509KeyPair(c.Certificate, c.Key.Expose())
	if err != nil { // the cause could quote the key
		return pair, pin, errors.New("the coordinator's certificate and key do not belong together: write config/coordinator")
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return pair, pin, err
	}
	return pair, nodelink.SPKI(leaf), nil
}

// dialError sorts why there is no connection.
func dialError(err error) error {
	if errors.Is(err, nodelink.ErrWrongPeer) {
		return fmt.Errorf("%w: %w", backend.ErrStrangeNode, err)
	}
	if errors.Is(err, nodelink.ErrCertificateExpired) {
		return err
	}
	return fmt.Errorf("%w: %w", backend.ErrUnreachableNode, err)
}

// callError sorts what became of a call. The node's own words are in the status.
func callError(err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return fmt.Errorf("%w: the connection ended before it answered (%s)", backend.ErrUnreachableNode, s.Message())
	case codes.Unimplemented:
		return fmt.Errorf("%w: it takes no mount now", backend.ErrRefusedByNode)
	}
	return fmt.Errorf("%w: %s", backend.ErrRefusedByNode, s.Message())
}
