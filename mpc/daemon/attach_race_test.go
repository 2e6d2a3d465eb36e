package daemon

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// tellingToken calls bound when a wrapping key is looked for.
type tellingToken struct {
	node.Token
	bound func()
}

func (t tellingToken) Bind(ctx context.Context, key hsm.WrappingKey) error {
	t.bound()
	return t.Token.Bind(ctx, key)
}

// TestReplacedWhileItAttaches: another coordinator is enrolled while the one before
// attaches, on a connection that was let in earlier. It is out all the same.
func TestReplacedWhileItAttaches(t *testing.T) {
	h := newHost(t)
	dir, err := openState(h.settings.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	pin := func(c *coordinator) {
		t.Helper()
		err := dir.writeJSON(enrolledFile, &Enrolled{Version: stateVersion, Coordinator: hex.EncodeToString(c.pin[:]), MountID: hex.EncodeToString(testMount)})
		if err != nil {
			t.Error(err)
		}
	}
	first, second := newCoordinator(t, time.Now().Add(time.Hour)), newCoordinator(t, time.Now().Add(time.Hour))
	pin(first)
	token, err := h.open(t.Context(), configFor(h))
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.GenerateWrappingKey(t.Context(), pkcs11.KeyRequest{Domain: "eu", Version: 1, Label: "l", Suites: []hsm.Suite{hsm.SuiteHPKEP256}})
	if err != nil {
		t.Fatal(err)
	}
	_, identity, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{registry: newRegistry(h.settings, dir), logger: hclog.NewNullLogger(), identity: identity, turn: make(chan struct{}, 1)}
	s.template = node.Config{Host: &node.Host{ID: "eu-1", Domain: "eu", Token: tellingToken{lent{token}, func() {
		pin(second)
		s.detach(nil) // as an enrolment does
	}}}}
	t.Cleanup(func() { s.detach(nil); s.closing.Wait() })
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	c := &client{Conn: near, certs: certsOf(t, first), gone: s.detach}
	ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: clientInfo{client: c}})
	reply, err := s.Setup(ctx, &nodepb.SetupRequest{NodeId: "eu-1", MountId: bytes.Clone(testMount), WrappingKeys: []*nodepb.WrappingKey{
		{Domain: key.Domain, Version: key.Version, Suite: uint32(key.Suite), Id: key.ID, PublicKey: key.PublicKey}}})
	if status.Code(err) != codes.PermissionDenied || s.attached() != nil {
		t.Errorf("the coordinator that was replaced is attached: %v, %v", reply, err)
	}
}

func certsOf(t *testing.T, c *coordinator) []*x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.own.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{leaf}
}
