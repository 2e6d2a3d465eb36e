package nodelink

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Peer says which certificate the other side must show. Pin and CA may both be
// set; then both must hold. One of them has to be.
type Peer struct {
	// Pin is the SHA-256 of the certificate's public key (SubjectPublicKeyInfo,
	// DER), so that a certificate can be renewed for the same key; zero for none.
	Pin [32]byte
	// CA holds PEM certificates, one of which must have signed the other side's;
	// empty for none.
	CA []byte
	// ServerName is the name that a certificate signed by CA must be for. With an
	// address that is dialled and no name given, the host in it.
	ServerName string
}

// Errors that callers branch on. What is wrong with whose certificate is in the
// text that wraps them.
var (
	// ErrCertificateExpired: a certificate is not valid now, on either side.
	ErrCertificateExpired = errors.New("certificate is not valid now")
	// ErrWrongPeer: the other side is not the one that was pinned.
	ErrWrongPeer = errors.New("not the peer that is pinned")
)

// SPKI is what pins are made of: the SHA-256 of the certificate's
// SubjectPublicKeyInfo, DER.
func SPKI(cert *x509.Certificate) [32]byte { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// ClientTLS is the coordinator's configuration: TLS 1.3, own as its certificate,
// and only peer is spoken to. Certificates are checked for their time on both
// sides, with pins as well.
func ClientTLS(own tls.Certificate, peer Peer) (*tls.Config, error) {
	leaf, err := leafOf(own)
	if err != nil {
		return nil, fmt.Errorf("the coordinator's certificate: %w", err)
	}
	roots, err := peer.roots()
	if err != nil {
		return nil, fmt.Errorf("the node's certificate authority: %w", err)
	}
	if roots == nil && peer.Pin == [32]byte{} {
		return nil, errors.New("a node on another host needs a pin or a certificate authority to be known by")
	}
	if roots != nil && peer.ServerName == "" {
		return nil, errors.New("a node that is known by a certificate authority needs the name in its certificate")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		ServerName: peer.ServerName,
		// The time of this side's own certificate is looked at for each connection,
		// because the other side can only answer "bad certificate".
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if err := validNow("the coordinator's own certificate", leaf, time.Now()); err != nil {
				return nil, err
			}
			return &own, nil
		},
		// Go's own check knows no pins and does not say whose certificate it is;
		// VerifyConnection below does all of it, and runs for every connection.
		InsecureSkipVerify:     true, //nolint:gosec // replaced, see above
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			return peer.check("the node's certificate", s.PeerCertificates, roots, x509.ExtKeyUsageServerAuth, time.Now())
		},
	}, nil
}

// ServerConfig is how a node listens. Its functions are called for each
// connection and may be called concurrently.
type ServerConfig struct {
	// Certificate returns the certificate to show.
	Certificate func() (*tls.Certificate, error)
	// Client returns what a client's certificate is checked against; anyone with a
	// certificate that is valid now is let in where any is true, for callers that
	// then look themselves, as an enrolment does.
	Client func() (peer Peer, any bool, err error)
}

// ServerTLS is a node's configuration: TLS 1.3, and a certificate is demanded of
// every client.
func ServerTLS(c ServerConfig) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			own, err := c.Certificate()
			if err != nil {
				return nil, err
			}
			return own, nil // an expired one, too: the coordinator then says so
		},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			peer, any, err := c.Client()
			if err != nil {
				return err
			}
			if any {
				if len(s.PeerCertificates) == 0 {
					return fmt.Errorf("%w: none was shown", ErrWrongPeer)
				}
				return validNow(whoseClient, s.PeerCertificates[0], time.Now())
			}
			return peer.CheckClient(s.PeerCertificates)
		},
	}
}

// CheckClient judges a coordinator's certificates, the leaf first, as ServerTLS
// does for a connection.
func (p Peer) CheckClient(certs []*x509.Certificate) error {
	roots, err := p.roots()
	if err != nil {
		return fmt.Errorf("the certificate authority of coordinators: %w", err)
	}
	return p.check(whoseClient, certs, roots, x509.ExtKeyUsageClientAuth, time.Now())
}

const whoseClient = "the coordinator's certificate"

// roots parses CA; nil where there is none.
func (p Peer) roots() (*x509.CertPool, error) {
	if len(bytes.TrimSpace(p.CA)) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(p.CA) {
		return nil, errors.New("no certificate in PEM form was found in it")
	}
	return pool, nil
}

// check judges the other side's certificates, the leaf first. The time is looked at
// before the CA, so that an expired certificate is not reported as a wrong one.
func (p Peer) check(whose string, certs []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) error {
	if len(certs) == 0 {
		return fmt.Errorf("%w: none was shown", ErrWrongPeer)
	}
	leaf := certs[0]
	pinned := p.Pin != [32]byte{}
	if !pinned && roots == nil {
		return fmt.Errorf("%w: nothing is pinned", ErrWrongPeer)
	}
	if pinned {
		if got := SPKI(leaf); subtle.ConstantTimeCompare(got[:], p.Pin[:]) != 1 {
			return fmt.Errorf("%w: %s has the pin %s, expected is %s; if its key was replaced on purpose, pin the new one", ErrWrongPeer, whose, hex.EncodeToString(got[:]), hex.EncodeToString(p.Pin[:]))
		}
	}
	if err := validNow(whose, leaf, now); err != nil {
		return err
	}
	if roots == nil {
		return nil
	}
	if p.ServerName == "" { // Verify would take every certificate of the CA
		return fmt.Errorf("%w: %s is to be known by a certificate authority and the name in it, and no name is known: it needs a DNS name", ErrWrongPeer, whose)
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: p.ServerName, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrWrongPeer, whose, err)
	}
	return nil
}

// validNow checks the time of one certificate.
func validNow(whose string, c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("%s expired on %s (%w): renew it, for the same key where that is pinned", whose, c.NotAfter.UTC().Format(time.RFC3339), ErrCertificateExpired)
	case now.Before(c.NotBefore):
		return fmt.Errorf("%s is valid from %s only (%w): compare the clocks of the two hosts", whose, c.NotBefore.UTC().Format(time.RFC3339), ErrCertificateExpired)
	}
	return nil
}

// leafOf returns the certificate that a key pair is for.
func leafOf(c tls.Certificate) (*x509.Certificate, error) {
	if c.Leaf != nil {
		return c.Leaf, nil
	}
	if len(c.Certificate) == 0 {
		return nil, errors.New("there is none")
	}
	return x509.ParseCertificate(c.Certificate[0])
}
