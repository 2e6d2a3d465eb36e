//go:build e2e

package e2e_test

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
	"vault-plugin-secrets-mpc/plugin/e2e/netlab"
)

// TestLabHarness has a Vault without our engine in a site: what the other
// tests of remote nodes build on.
func TestLabHarness(t *testing.T) {
	needCluster(t)
	lab, err := netlab.New(netlab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	home, err := lab.Add("vault", "eu")
	if err != nil {
		t.Fatal(err)
	}
	v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft, Network: home})
	v.Mount(t, "kv", "kv")
	if got := v.CLI(t, "write", "kv/a", "colour=blue"); got.Code != 0 {
		t.Fatalf("the vault command does not reach Vault: %s", got.Stderr)
	}
	if _, err := v.Client.Logical().Read("kv/a"); err != nil {
		t.Errorf("the client does not reach Vault: %v", err)
	}
	address := strings.TrimPrefix(v.Addr, "http://")
	if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		c.Close() //nolint:errcheck // it must not be there
		t.Errorf("%s is reached from outside of the site", address)
	}
	v.Kill9(t)
	v.Restart(t)
	if got, err := v.Client.Logical().Read("kv/a"); err != nil || got == nil || got.Data["colour"] != "blue" {
		t.Errorf("after a restart in the site: %+v, %v", got, err)
	}
}

// TestLabDaemon has a daemon alone, which nobody is enrolled on yet.
func TestLabDaemon(t *testing.T) {
	needCluster(t)
	lab, err := netlab.New(netlab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	site, err := lab.Add("eu-1", "eu")
	if err != nil {
		t.Fatal(err)
	}
	r := harness.NewRemote(t, e2e.RemoteOptions{Name: "eu-1", Region: "eu", Domain: "hsm", Network: site, Host: site.Addr().String()})
	if got := r.Run(t, "check"); got.Code != 0 {
		t.Errorf("node check: %+v", got)
	}
	first := r.Enrol(t)
	r.Start(t)
	if status, body, err := r.Telemetry(t.Context(), "/readyz"); err != nil || status == http.StatusOK {
		t.Errorf("a node without a coordinator is ready: %d %q %v", status, body, err)
	}
	if again := r.Enrol(t); again == first {
		t.Error("two enrolments have the same token")
	}
	before := r.PID()
	r.Kill9(t)
	if r.Running() {
		t.Error("a killed daemon runs")
	}
	r.Start(t)
	if r.PID() == before {
		t.Error("the same process after the restart")
	}
	if code := r.Terminate(t); code != 0 {
		t.Errorf("SIGTERM ends the daemon with %d", code)
	}
}
