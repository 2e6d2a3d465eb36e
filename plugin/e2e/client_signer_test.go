//go:build e2e

package e2e_test

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	mpcclient "vault-plugin-secrets-mpc/client"
)

// TestClientSignerServesTLS: a certificate authority and a TLS 1.3 server, both of
// which have a threshold account for a key; Go and OpenSSL shake hands with it.
func TestClientSignerServesTLS(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	ca := threshold(t, e, "tls-ca", mpcclient.Ed25519)
	caCert := certify(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "threshold CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, ca.Public(), ca)

	for name, algorithm := range map[string]mpcclient.Algorithm{"tls-p256": mpcclient.ECDSAP256, "tls-ed25519": mpcclient.Ed25519} {
		t.Run(name, func(t *testing.T) {
			key := threshold(t, e, name, algorithm)
			cert := certify(t, &x509.Certificate{
				Subject: pkix.Name{CommonName: name}, DNSNames: []string{"server.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			}, caCert, key.Public(), ca)
			addr := serveTLS(t, tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key})

			roots := x509.NewCertPool()
			roots.AddCert(caCert)
			conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "server.example", MinVersion: tls.VersionTLS13}}).
				DialContext(deadline(t, 2*time.Minute), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if state := conn.(*tls.Conn).ConnectionState(); state.Version != tls.VersionTLS13 || !state.PeerCertificates[0].Equal(cert) {
				t.Errorf("TLS version %x with %v", state.Version, state.PeerCertificates)
			}
			if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if answer, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(answer), "hello") {
				t.Errorf("%q, %v", answer, err)
			}

			caFile := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caCert.Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(deadline(t, 2*time.Minute), "openssl", "s_client", "-brief", "-tls1_3", "-connect", addr,
				"-CAfile", caFile, "-verify_return_error", "-verify_hostname", "server.example").CombinedOutput()
			if err != nil || !strings.Contains(string(out), "Verification: OK") || !strings.Contains(string(out), "TLSv1.3") {
				t.Errorf("openssl s_client: %v\n%s", err, out)
			}
		})
	}
}

// threshold makes an account and returns its key. The account keeps presignatures,
// as one should that serves handshakes.
func threshold(t *testing.T, e *engine, name string, algorithm mpcclient.Algorithm) crypto.Signer {
	t.Helper()
	c := clientOf(t, e)
	o := mpcclient.CreateOptions{Algorithm: algorithm}
	if algorithm == mpcclient.ECDSAP256 {
		o.Presign = 2
	}
	if _, err := c.CreateAccount(t.Context(), name, o); err != nil {
		t.Fatal(err)
	}
	key, err := c.Signer(t.Context(), name, mpcclient.WaitForAuxiliaryKeys(5*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certify makes a certificate, self-signed where there is no parent.
func certify(t *testing.T, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if parent == template {
		parent = cert
	}
	if err := cert.CheckSignatureFrom(parent); err != nil {
		t.Fatal(err)
	}
	return cert
}

// serveTLS answers "hello" until the test ends.
func serveTLS(t *testing.T, cert tls.Certificate) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return l.Addr().String()
}

// TestClientSignerServesSSH: a host key and a user's key that nobody has.
func TestClientSignerServesSSH(t *testing.T) {
	e := shared(t)
	e.waitAuxiliary(t)
	sshKey := func(name string, algorithm mpcclient.Algorithm) ssh.Signer {
		t.Helper()
		s, err := ssh.NewSignerFromSigner(threshold(t, e, name, algorithm))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	host, user := sshKey("ssh-host", mpcclient.ECDSAP256), sshKey("ssh-user", mpcclient.Ed25519)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	server := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(user.PublicKey().Marshal()) {
			return nil, io.ErrUnexpectedEOF
		}
		return nil, nil
	}}
	server.AddHostKey(host)
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			defer conn.Close()
			_, _, _, err = ssh.NewServerConn(conn, server)
		}
		served <- err
	}()
	conn, err := (&net.Dialer{}).DialContext(deadline(t, 2*time.Minute), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	c, _, _, err := ssh.NewClientConn(conn, "host.example", &ssh.ClientConfig{
		User: "alice", Auth: []ssh.AuthMethod{ssh.PublicKeys(user)}, HostKeyCallback: ssh.FixedHostKey(host.PublicKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-served; err != nil {
		t.Errorf("the server: %v", err)
	}
}
