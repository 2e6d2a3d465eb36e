package nodelink

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"vault-plugin-secrets-mpc/mpc/nodepb"
)

func selfSigned(t *testing.T, name string, from, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issue(t, name, from, until, key, nil, nil)
}

// issue makes a certificate, signed by a CA or by itself.
func issue(t *testing.T, name string, from, until time.Time, key *ecdsa.PrivateKey, ca *x509.Certificate, caKey *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: from, NotAfter: until, BasicConstraintsValid: true, IsCA: ca == nil && strings.HasPrefix(name, "ca"),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ca == nil {
		ca, caKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

type stubNode struct{ nodepb.UnimplementedNodeServer }

func (stubNode) Status(context.Context, *nodepb.StatusRequest) (*nodepb.StatusReply, error) {
	return &nodepb.StatusReply{Hsm: "ok"}, nil
}

// testServer is a node that listens.
type testServer struct {
	address string
	mu      sync.Mutex
	own     tls.Certificate
	client  Peer
	any     bool
	grpc    *grpc.Server
}

func serveNode(t *testing.T, own tls.Certificate, client Peer) *testServer {
	t.Helper()
	s := &testServer{own: own, client: client}
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	config := ServerTLS(ServerConfig{
		Certificate: func() (*tls.Certificate, error) { s.mu.Lock(); defer s.mu.Unlock(); return &s.own, nil },
		Client:      func() (Peer, bool, error) { s.mu.Lock(); defer s.mu.Unlock(); return s.client, s.any, nil },
	})
	s.grpc = grpc.NewServer(append(ServerOptions(), grpc.Creds(credentials.NewTLS(config)))...)
	nodepb.RegisterNodeServer(s.grpc, stubNode{})
	var done sync.WaitGroup
	done.Go(func() { _ = s.grpc.Serve(l) })
	t.Cleanup(func() { s.grpc.Stop(); done.Wait() })
	return s
}

func hour() (from, until time.Time) {
	return time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
}

func dialFor(t *testing.T, address string, own tls.Certificate, peer Peer) (*Link, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return Dial(ctx, address, own, peer)
}

func TestDial(t *testing.T) {
	from, until := hour()
	coordinator, node := selfSigned(t, "coordinator", from, until), selfSigned(t, "eu-1", from, until)
	s := serveNode(t, node, Peer{Pin: SPKI(coordinator.Leaf)})
	l, err := dialFor(t, s.address, coordinator, Peer{Pin: SPKI(node.Leaf)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if reply, err := l.Client().Status(t.Context(), &nodepb.StatusRequest{}); err != nil || reply.GetHsm() != "ok" {
		t.Fatalf("%v, %v", reply, err)
	}
	if l.Down() {
		t.Fatal("a link that works is down")
	}
	// Over the limit of one message: refused, and the link goes on.
	big := &nodepb.OpenShareRequest{Envelope: make([]byte, MaxMessage+1)}
	if _, err := l.Client().OpenShare(t.Context(), big); err == nil || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("a message over the limit: %v", err)
	}
	s.grpc.Stop()
	for i := 0; !l.Down(); i++ {
		if i == 1000 {
			t.Fatal("the link does not notice that the node is gone")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := l.Client().Status(t.Context(), &nodepb.StatusRequest{}); err == nil {
		t.Error("a call on a link that is down succeeded")
	}
}

func TestRenewedCertificateKeepsItsPin(t *testing.T) {
	first, key, err := NewCertificate("eu-1", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	second, err := RenewCertificate("eu-1", key, time.Now().Add(48*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var pins [2][32]byte
	for i, cert := range [][]byte{first, second} {
		pair, err := tls.X509KeyPair(cert, key.Expose())
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := leafOf(pair)
		if err != nil {
			t.Fatal(err)
		}
		if pins[i] = SPKI(leaf); leaf.DNSNames[0] != "eu-1" {
			t.Errorf("names %v", leaf.DNSNames)
		}
	}
	if pins[0] != pins[1] {
		t.Error("another pin")
	}
	if _, _, err := NewCertificate("", time.Now().Add(time.Hour)); err == nil {
		t.Error("a certificate without a name")
	}
	if _, _, err := NewCertificate("x", time.Now().Add(-48*time.Hour)); err == nil {
		t.Error("a certificate that never is valid")
	}
}

// TestDialRefuses says for each fault whose certificate it is about.
func TestDialRefuses(t *testing.T) {
	from, until := hour()
	past := time.Now().Add(-time.Minute)
	coordinator, node := selfSigned(t, "coordinator", from, until), selfSigned(t, "eu-1", from, until)
	other := selfSigned(t, "coordinator", from, until)
	oldNode, oldCoordinator := selfSigned(t, "eu-1", from, past), selfSigned(t, "coordinator", from, past)
	early := selfSigned(t, "eu-1", time.Now().Add(30*time.Minute), until)
	pin := func(c tls.Certificate) Peer { return Peer{Pin: SPKI(c.Leaf)} }
	for _, test := range []struct {
		name               string
		node, coordinator  tls.Certificate
		knowsNode, knowsMe Peer
		any                bool
		is                 error
		says               string
	}{
		{"the node is another", node, coordinator, pin(other), pin(coordinator), false, ErrWrongPeer, "the node's certificate has the pin"},
		{"the node's expired", oldNode, coordinator, pin(oldNode), pin(coordinator), false, ErrCertificateExpired, "the node's certificate expired"},
		{"the node's is not valid yet", early, coordinator, pin(early), pin(coordinator), false, ErrCertificateExpired, "compare the clocks"},
		{"our own expired", node, oldCoordinator, pin(node), pin(oldCoordinator), false, ErrCertificateExpired, "the coordinator's own certificate expired"},
		{"we are another", node, other, pin(node), pin(coordinator), false, nil, "refused this coordinator's certificate"},
		{"the node pins nobody", node, coordinator, pin(node), Peer{}, false, nil, "refused this coordinator's certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serveNode(t, test.node, test.knowsMe)
			s.any = test.any
			l, err := dialFor(t, s.address, test.coordinator, test.knowsNode)
			if err == nil {
				l.Close()
				t.Fatal("connected")
			}
			if test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestServerJudgesExpiryWithPinsToo(t *testing.T) {
	from, _ := hour()
	old := selfSigned(t, "coordinator", from, time.Now().Add(-time.Minute))
	err := Peer{Pin: SPKI(old.Leaf)}.CheckClient([]*x509.Certificate{old.Leaf})
	if !errors.Is(err, ErrCertificateExpired) || !strings.Contains(err.Error(), "the coordinator's certificate expired") {
		t.Errorf("error %v", err)
	}
	if err := (Peer{}).CheckClient([]*x509.Certificate{old.Leaf}); !errors.Is(err, ErrWrongPeer) {
		t.Errorf("nothing pinned: %v", err)
	}
	if err := (Peer{Pin: [32]byte{1}}).CheckClient(nil); !errors.Is(err, ErrWrongPeer) {
		t.Errorf("no certificate: %v", err)
	}
}

func TestCertificateAuthority(t *testing.T) {
	from, until := hour()
	caKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ca := issue(t, "ca", from, until, caKey, nil, nil)
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	node := issue(t, "eu-1.example.com", from, until, key, ca.Leaf, caKey)
	coordinator := issue(t, "vault", from, until, key, ca.Leaf, caKey)
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate[0]})
	s := serveNode(t, node, Peer{CA: roots, ServerName: "vault"})
	for name, test := range map[string]struct {
		peer Peer
		own  tls.Certificate
		says string // empty: connects
	}{
		"both by CA":           {Peer{CA: roots, ServerName: "eu-1.example.com"}, coordinator, ""},
		"CA and pin":           {Peer{CA: roots, ServerName: "eu-1.example.com", Pin: SPKI(node.Leaf)}, coordinator, ""},
		"CA and another pin":   {Peer{CA: roots, ServerName: "eu-1.example.com", Pin: [32]byte{1}}, coordinator, "pin"},
		"another name":         {Peer{CA: roots, ServerName: "eu-2.example.com"}, coordinator, "eu-2"},
		"the address's host":   {Peer{CA: roots}, coordinator, "127.0.0.1"},
		"client of no CA":      {Peer{CA: roots, ServerName: "eu-1.example.com"}, selfSigned(t, "vault", from, until), "refused this coordinator"},
		"client's wrong name":  {Peer{CA: roots, ServerName: "eu-1.example.com"}, node, "refused this coordinator"},
		"a CA that is no PEM":  {Peer{CA: []byte("x"), ServerName: "eu-1.example.com"}, coordinator, "PEM"},
		"nothing known at all": {Peer{}, coordinator, "needs a pin"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := dialFor(t, s.address, test.own, test.peer)
			if err == nil {
				l.Close()
			}
			if (test.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestNoOlderTLS(t *testing.T) {
	from, until := hour()
	coordinator, node := selfSigned(t, "coordinator", from, until), selfSigned(t, "eu-1", from, until)
	s := serveNode(t, node, Peer{Pin: SPKI(coordinator.Leaf)})
	_, err := tls.Dial("tcp", s.address, &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, Certificates: []tls.Certificate{coordinator}})
	if err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: %v", err)
	}
	// And no client without a certificate gets further than the handshake.
	c, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("no certificate: %v", err)
	}
}

// TestDialEndsWithItsContext dials somebody who takes the connection and says
// nothing.
func TestDialEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from, until := hour()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, l.Addr().String(), selfSigned(t, "c", from, until), Peer{Pin: [32]byte{1}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if _, err := Dial(t.Context(), "no-port", selfSigned(t, "c", from, until), Peer{Pin: [32]byte{1}}); err == nil {
		t.Error("an address without a port")
	}
	l.Close()
	if _, err := dialFor(t, l.Addr().String(), selfSigned(t, "c", from, until), Peer{Pin: [32]byte{1}}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestAuthorityWithoutAName: a CA that is asked for no name would vouch for every
// certificate that it has ever signed.
func TestAuthorityWithoutAName(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from, until := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ca := issue(t, "ca", from, until, key, nil, nil)
	c := issue(t, "anybody", from, until, key, ca.Leaf, key)
	peer := Peer{CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate[0]})}
	if err := peer.CheckClient([]*x509.Certificate{c.Leaf}); !errors.Is(err, ErrWrongPeer) {
		t.Errorf("without a name: %v", err)
	}
	peer.ServerName = "anybody"
	if err := peer.CheckClient([]*x509.Certificate{c.Leaf}); err != nil {
		t.Error(err)
	}
}
