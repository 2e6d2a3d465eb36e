package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"vault-plugin-secrets-mpc/mpc/nodelink"
)

// maxConnections bounds the connections that are open at once, strangers' included:
// a host needs few, and each costs a handshake.
const maxConnections = 128

// client is one coordinator's connection. An attachment belongs to the connection
// that made it and ends with it.
type client struct {
	net.Conn
	certs []*x509.Certificate // leaf first; not empty
	once  sync.Once
	ended atomic.Bool
	gone  func(*client)
}

// Close implements net.Conn; gRPC calls it when it is done with the connection.
func (c *client) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.ended.Store(true)
		c.gone(c)
	})
	return err
}

func (c *client) pin() [32]byte { return nodelink.SPKI(c.certs[0]) }

// name is what the certificate is for: its first DNS name, or else its common name.
func (c *client) name() string {
	if names := c.certs[0].DNSNames; len(names) > 0 {
		return names[0]
	}
	return c.certs[0].Subject.CommonName
}

// clientInfo is how a connection reaches the calls on it.
type clientInfo struct {
	credentials.TLSInfo
	client *client
}

// clientOf returns the connection that a call came on.
func clientOf(ctx context.Context) (*client, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(clientInfo); ok {
			return info.client, nil
		}
	}
	return nil, errors.New("a call without a certificate")
}

// clientCredentials hands on what a TLS connection said of its client.
type clientCredentials struct {
	credentials.TransportCredentials
	gone   func(*client)
	failed func(remote net.Addr, err error)
}

// ServerHandshake implements credentials.TransportCredentials.
func (c clientCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		c.failed(raw.RemoteAddr(), err)
		return nil, nil, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok || len(t.State.PeerCertificates) == 0 {
		conn.Close()
		return nil, nil, errors.New("a connection without a certificate")
	}
	k := &client{Conn: conn, certs: t.State.PeerCertificates, gone: c.gone}
	return k, clientInfo{t, k}, nil
}

// Clone implements credentials.TransportCredentials.
func (c clientCredentials) Clone() credentials.TransportCredentials {
	c.TransportCredentials = c.TransportCredentials.Clone()
	return c
}

// bounded closes connections above a bound at once.
type bounded struct {
	net.Listener
	slots chan struct{}
}

func (b bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.slots <- struct{}{}:
			return &slot{Conn: c, slots: b.slots}, nil
		default:
			c.Close()
		}
	}
}

type slot struct {
	net.Conn
	once  sync.Once
	slots chan struct{}
}

func (s *slot) Close() error {
	err := s.Conn.Close()
	s.once.Do(func() { <-s.slots })
	return err
}
