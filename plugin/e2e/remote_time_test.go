//go:build e2e

package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
	"vault-plugin-secrets-mpc/plugin/e2e/netlab"
)

// TestLabTime: what wrong clocks and the end of certificates do to nodes.
func TestLabTime(t *testing.T) {
	needCluster(t)
	c := newRemoteCluster(t, netlab.Config{}, "eu", "eu-1@eu", "us-1@us")
	r := &remoteTest{remoteCluster: c, ledger: newLedger(), client: newClient(t, c.Vault, c.path)}
	r.write(t, "config/rotation", map[string]any{"refresh_period": "24h", "aux_period": "24h"})
	// The third node has a certificate of the test's.
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key")
	writeKey(t, keyFile, key)
	writeCertificate(t, certFile, key, time.Now().Add(time.Hour))
	r.add(t, e2e.RemoteOptions{Name: "ap-1", Region: "ap", TLS: fmt.Sprintf("  cert_file = %q\n  key_file = %q", certFile, keyFile)})
	r.awaitReady(t, true, "ap-1")
	for _, name := range []string{"time-1", "time-2"} {
		r.create(t, name, ed25519)
		r.sign(t, name, "at first")
	}

	t.Run("ExpiredCertificate", func(t *testing.T) {
		node := r.nodes["ap-1"]
		before := node.PID()
		writeCertificate(t, certFile, key, time.Now().Add(-time.Second))
		r.reconnect(t, "ap-1")
		r.awaitError(t, "ap-1", "the node's certificate expired on", "renew it")
		r.awaitSignature(t, "time-1", "without the node")
		writeCertificate(t, certFile, key, time.Now().Add(time.Hour))
		r.awaitReady(t, true, "ap-1")
		if node.PID() != before || !node.Running() {
			t.Error("the node was restarted for its new certificate")
		}
		r.refresh(t, "time-1") // needs all three
		r.sign(t, "time-1", "with the node")
	})
	t.Run("WrongClock", func(t *testing.T) {
		library := skewLibrary(t)
		node := r.nodes["us-1"]
		defer func() {
			node.Env = nil
			if node.Running() {
				node.Kill9(t)
			}
			node.Start(t)
			r.awaitReady(t, true, "us-1")
		}()
		restart := func(skew time.Duration) {
			if node.Running() {
				node.Kill9(t)
			}
			node.Env = []string{"LD_PRELOAD=" + library, fmt.Sprintf("MPC_TEST_CLOCK_SKEW=%d", int64(skew/time.Second))}
			node.Start(t)
		}
		for _, skew := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
			restart(skew)
			r.awaitReady(t, true, "us-1")
			// Minutes of the daemon's clock, and a minute for a slow machine.
			r.await(t, time.Minute, fmt.Sprint("clock skew of ", skew), func() bool {
				shown := milliseconds(r.engine.nodes(t)["us-1"], "clock_skew_ms")
				return (shown - skew).Abs() < time.Minute
			})
			r.refresh(t, "time-2") // needs all three
			r.sign(t, "time-2", fmt.Sprint("with a clock that is wrong by ", skew))
		}
		// So wrong that no certificate is valid: the coordinator's lasts years, and
		// the node makes itself a new one, of then.
		restart(100 * 365 * 24 * time.Hour)
		r.awaitReady(t, false, "us-1")
		r.awaitSignature(t, "time-2", "with a clock that is a century ahead")
		r.awaitError(t, "us-1", "compare the clocks of the two hosts")
	})
	for _, lost := range r.ledger.losses() {
		t.Error("lost:", lost)
	}
}

// reconnect has the link to a node end, as a line does that is down for longer
// than keepalives wait.
func (r *remoteTest) reconnect(t *testing.T, name string) {
	t.Helper()
	one, all := []*netlab.Site{r.sites[name]}, r.lab.Sites(nil)
	r.lab.Cut(one, all)
	defer r.lab.Mend(one, all)
	r.awaitReady(t, false, name)
}

// awaitError waits until nodes/ says what is wrong with a node.
func (r *remoteTest) awaitError(t *testing.T, name string, texts ...string) {
	t.Helper()
	said := ""
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		n := r.engine.nodes(t)[name]
		said = text(n, "last_error")
		missing := false
		for _, want := range texts {
			missing = missing || !strings.Contains(said, want)
		}
		if !missing && text(n, "state") != "ready" {
			t.Logf("%s: %s", name, said)
			return
		}
	}
	t.Errorf("%s: the last error is %q, want %q in it", name, said, texts)
}

func writeKey(t *testing.T, path string, key *ecdsa.PrivateKey) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeCertificate puts a certificate of the key in the file's place, as tools
// that renew certificates do: by renaming.
func writeCertificate(t *testing.T, path string, key *ecdsa.PrivateKey, until time.Time) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "ap-1"}, DNSNames: []string{"ap-1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// skewLibrary builds the library that moves a daemon's wall clock; see its
// source. libfaketime does not reach programs in Go.
func skewLibrary(t *testing.T) string {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("clocks can be moved on amd64 only: not tested here")
	}
	library := filepath.Join(t.TempDir(), "clockskew.so")
	out, err := exec.Command("cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-fno-stack-protector", "-o", library, "testdata/clockskew.c", "-ldl").CombinedOutput()
	if err != nil {
		t.Fatalf("building the library that moves clocks: %v\n%s", err, out)
	}
	return library
}
