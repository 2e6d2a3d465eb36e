//go:build e2e

package e2e_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
	"vault-plugin-secrets-mpc/plugin/e2e/netlab"
)

// TestRemoteHarness has a Vault without our engine in a site: what the other
// tests of remote nodes build on.
func TestRemoteHarness(t *testing.T) {
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
