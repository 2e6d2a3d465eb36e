package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/hsmtest"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/nodelink"
	"vault-plugin-secrets-mpc/mpc/nodepb"
	"vault-plugin-secrets-mpc/secret"
)

const testPIN = "pin-8d2f71c0"

// fakeToken is a software token as a daemon opens it.
type fakeToken struct {
	*hsmtest.FakeToken
	label string
}

func (f fakeToken) Info() pkcs11.TokenInfo { return pkcs11.TokenInfo{Label: f.label, PINChecked: true} }

// log collects what a daemon writes.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(b) }
func (l *log) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// host is a node's host: its files and token, and a daemon that can be started
// more than once.
type host struct {
	t        *testing.T
	settings *Settings
	fake     *hsmtest.Fake
	opened   atomic.Int64
	openErr  error
	log      log
	reload   chan os.Signal

	address string
	stop    context.CancelFunc
	ended   chan error
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "mpcd") // the test's name would make the path too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	pin := filepath.Join(dir, "pin")
	if err := os.WriteFile(pin, []byte(testPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`
name = "eu-1"
region = "eu"
zone = "eu-a"
domain = "eu"
listen = "127.0.0.1:0"
state_dir = %q
drain_timeout = "10s"
hsm {
  module = "/fake.so"
  token = "fake"
  pin_file = %q
}
telemetry { listen = "127.0.0.1:0" }
`, filepath.Join(dir, "state"), pin)
	s, err := ParseSettings("node.hcl", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &host{t: t, settings: s, fake: hsmtest.NewFake("fake", testPIN), reload: make(chan os.Signal, 1)}
}

func (h *host) open(_ context.Context, c pkcs11.Config) (node.Token, error) {
	h.opened.Add(1)
	if h.openErr != nil {
		return nil, h.openErr
	}
	token, err := h.fake.Open(c.Label, c.PIN)
	if err != nil {
		return nil, err
	}
	return fakeToken{token, c.Label}, nil
}

// start runs the daemon until stop or the end of the test.
func (h *host) start() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	h.stop, h.ended = cancel, ended
	cfg := Config{Settings: h.settings, Version: "v0.test", OpenToken: h.open, Reload: h.reload, Started: func(a net.Addr) { started <- a },
		Logger: hclog.New(&hclog.LoggerOptions{Output: &h.log, Level: hclog.Debug})}
	go func() { ended <- Run(ctx, cfg) }()
	h.t.Cleanup(func() { cancel(); <-ended })
	select {
	case a := <-started:
		h.address = a.String()
	case err := <-ended:
		ended <- err
		h.t.Fatalf("the daemon ended: %v", err)
	}
}

// wait waits for the daemon's end.
func (h *host) wait() error {
	err := <-h.ended
	h.ended <- err // for the cleanup
	return err
}

func (h *host) end() error { h.stop(); return h.wait() }

func (h *host) token() *nodelink.EnrolToken {
	h.t.Helper()
	t, err := OpenEnrolment(h.t.Context(), h.settings, h.open, true)
	if err != nil {
		h.t.Fatal(err)
	}
	return t
}

func (h *host) dir() stateDir { return stateDir(h.settings.StateDir) }

// coordinator is the other side.
type coordinator struct {
	t    *testing.T
	own  tls.Certificate
	pin  [32]byte
	node [32]byte // pin of the node
}

func newCoordinator(t *testing.T, until time.Time) *coordinator {
	t.Helper()
	cert, key, err := nodelink.NewCertificate("coordinator", until)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	own, err := tls.X509KeyPair(cert, key.Expose())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return &coordinator{t: t, own: own, pin: nodelink.SPKI(leaf)}
}

func (c *coordinator) dial(address string) (*nodelink.Link, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	l, err := nodelink.Dial(ctx, address, c.own, nodelink.Peer{Pin: c.node})
	if err == nil {
		c.t.Cleanup(l.Close)
	}
	return l, err
}

func (c *coordinator) link(address string) *nodelink.Link {
	c.t.Helper()
	l, err := c.dial(address)
	if err != nil {
		c.t.Fatal(err)
	}
	return l
}

var testMount = bytes.Repeat([]byte{3}, 16)

func peerIdentity(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func enrolRequest() *nodepb.EnrolRequest {
	return &nodepb.EnrolRequest{NodeId: "eu-1", MountId: bytes.Clone(testMount),
		Peers: []*nodepb.Member{{NodeId: "local-1", Identity: peerIdentity(1)}, {NodeId: "eu-1", Identity: peerIdentity(9)}}}
}

// enrol uses a token; change, which may be nil, is applied after the proof.
func (c *coordinator) enrol(address string, token *nodelink.EnrolToken, r *nodepb.EnrolRequest, change func(*nodepb.EnrolRequest)) (*nodepb.EnrolReply, error) {
	c.node = token.Pin
	l, err := c.dial(address)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	r.Proof = nodelink.EnrolProof(token.Secret.Expose(), r, c.pin, token.Pin)
	if change != nil {
		change(r)
	}
	reply, err := l.Enrolment().Enrol(c.t.Context(), r)
	if err != nil {
		return nil, err
	}
	if !nodelink.SameProof(reply.GetProof(), nodelink.EnrolAnswerProof(token.Secret.Expose(), reply, c.pin, token.Pin)) {
		return nil, errors.New("the answer's proof is wrong")
	}
	return reply, nil
}

// enrolled returns a coordinator that a running host has let in.
func (h *host) enrolled() *coordinator {
	h.t.Helper()
	c := newCoordinator(h.t, time.Now().Add(time.Hour))
	token := h.token()
	defer token.Secret.Wipe()
	if _, err := c.enrol(h.address, token, enrolRequest(), nil); err != nil {
		h.t.Fatal(err)
	}
	return c
}

func setupRequest() *nodepb.SetupRequest {
	return &nodepb.SetupRequest{NodeId: "eu-1", MountId: bytes.Clone(testMount)}
}

// attach sets a fresh link up, with a first wrapping key.
func (c *coordinator) attach(address string) (*nodelink.Link, *nodepb.SetupReply) {
	c.t.Helper()
	l := c.link(address)
	reply, err := l.Client().Setup(c.t.Context(), setupRequest())
	if err != nil || reply.GetFailure() != nil {
		c.t.Fatal(err, reply.GetFailure())
	}
	made, err := l.Client().MakeWrappingKey(c.t.Context(), &nodepb.MakeWrappingKeyRequest{Version: 1, Suites: []uint32{uint32(hsm.SuiteHPKEP256)}})
	if err != nil || made.GetFailure() != nil {
		c.t.Fatal(err, made.GetFailure())
	}
	set, err := l.Client().SetWrappingKeys(c.t.Context(), &nodepb.SetWrappingKeysRequest{WrappingKeys: []*nodepb.WrappingKey{made.GetWrappingKey()}})
	if err != nil || set.GetFailure() != nil {
		c.t.Fatal(err, set.GetFailure())
	}
	return l, reply
}

// waitDown waits until a link has noticed its end.
func waitDown(t *testing.T, l *nodelink.Link) {
	t.Helper()
	for range 3000 {
		if l.Down() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the link is still up")
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(what)
}

func pinHex(pin [32]byte) string { return hex.EncodeToString(pin[:]) }

func secretOf(b []byte) *secret.Bytes { return secret.New(b) }

func configFor(h *host) pkcs11.Config {
	return pkcs11.Config{Label: "fake", PIN: secret.Copy([]byte(testPIN))}
}
