package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/mpc/nodelink"
)

// authority is a CA of coordinators' certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func sign(t *testing.T, template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newAuthority(t *testing.T, path string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a := &authority{sign(t, template, template, key.Public(), key), key}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) coordinator(t *testing.T, name string) *coordinator {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := sign(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, a.cert, key.Public(), a.key)
	return &coordinator{t: t, own: tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, pin: nodelink.SPKI(cert)}
}

// TestCoordinatorByAuthority: with a CA the name counts, and not the key.
func TestCoordinatorByAuthority(t *testing.T) {
	h := newHost(t)
	h.settings.TLS.ClientCAFile = filepath.Join(t.TempDir(), "ca.pem")
	ca := newAuthority(t, h.settings.TLS.ClientCAFile)
	h.start()
	token := h.token()
	defer token.Secret.Wipe()
	stranger := newCoordinator(t, time.Now().Add(time.Hour))
	if _, err := stranger.enrol(h.address, token, enrolRequest(), nil); err == nil || !strings.Contains(err.Error(), "client_ca_file") {
		t.Errorf("a coordinator of no CA enrols: %v", err)
	}
	first := ca.coordinator(t, "vault-a")
	if _, err := first.enrol(h.address, token, enrolRequest(), nil); err != nil {
		t.Fatal(err)
	}
	first.attach(h.address)
	renewed := ca.coordinator(t, "vault-a")
	renewed.node = token.Pin
	l := renewed.link(h.address)
	if r, err := l.Client().Setup(t.Context(), setupRequest()); err != nil || r.GetFailure() != nil {
		t.Errorf("another key for the same name: %v, %v", r, err)
	}
	for name, c := range map[string]*coordinator{
		"another name":                 ca.coordinator(t, "vault-b"),
		"the name without the CA":      newAuthority(t, filepath.Join(t.TempDir(), "other.pem")).coordinator(t, "vault-a"),
		"a coordinator that is no one": stranger,
	} {
		c.node = token.Pin
		if _, err := c.dial(h.address); err == nil {
			t.Errorf("%s is let in", name)
		}
	}
	// The file is read again when it changes; the old CA counts no more.
	if err := os.Remove(h.settings.TLS.ClientCAFile); err != nil {
		t.Fatal(err)
	}
	if _, err := renewed.dial(h.address); err == nil {
		t.Error("without the file somebody is let in")
	}
	next := newAuthority(t, h.settings.TLS.ClientCAFile)
	if _, err := renewed.dial(h.address); err == nil {
		t.Error("a certificate of the old CA is let in")
	}
	waitDown(t, l) // nor does it stay where it was let in before
	moved := next.coordinator(t, "vault-a")
	moved.node = token.Pin
	moved.attach2(h.address)
}

// attach2 is attach for a node whose keys are made.
func (c *coordinator) attach2(address string) {
	c.t.Helper()
	l := c.link(address)
	if r, err := l.Client().Setup(c.t.Context(), setupRequest()); err != nil || r.GetFailure() != nil {
		c.t.Errorf("%v, %v", r, err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := bounded{l, make(chan struct{}, 2)}
	accepted := make(chan net.Conn)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := b.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	defer func() { l.Close(); <-ended }()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	first := <-accepted
	dial()
	defer (<-accepted).Close()
	// The third is closed at once, and leaves room for nobody.
	if _, err := dial().Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) || err != io.EOF && !strings.Contains(err.Error(), "reset") {
		t.Errorf("one too many: %v", err)
	}
	first.Close()
	first.Close() // twice frees one place
	dial()
	defer (<-accepted).Close()
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("two places were freed")
	}
}
