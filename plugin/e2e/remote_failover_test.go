//go:build e2e

package e2e_test

import (
	"context"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
	"vault-plugin-secrets-mpc/plugin/e2e/netlab"
)

// TestLabFailover: another server of Vault's cluster takes the nodes over.
// They know the coordinator by a key in Vault's storage, whichever server it is.
func TestLabFailover(t *testing.T) {
	needCluster(t)
	var cluster *e2e.Cluster
	c := startRemoteCluster(t, netlab.Config{}, "eu", []string{"eu-1@eu", "us-1@us", "ap-1@ap"}, func(home *netlab.Site) *e2e.Vault {
		cluster = harness.StartClusterIn(t, home, 3)
		cluster.Enable(t, "mpc")
		return cluster.Leader(t)
	})
	ledger := newLedger()
	client := newClient(t, c.Vault, c.path)
	if err := ledger.create(t.Context(), client, "failover", ed25519, nil); err != nil {
		t.Fatal(err)
	}
	pids := map[string]int{}
	for name, n := range c.nodes {
		pids[name] = n.PID()
	}
	for _, way := range []string{"killed", "stepped down"} {
		var old *e2e.Vault
		if way == "killed" {
			old, _ = cluster.KillLeader(t)
		} else {
			old, _ = cluster.StepDown(t)
		}
		elected := cluster.AwaitElection(t, old)
		c.Vault = elected.Leader
		client = newClient(t, c.Vault, c.path)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := retry(ctx, func() error { return ledger.sign(ctx, client, "failover", []byte("after the leader was "+way)) })
		cancel()
		if err != nil {
			t.Fatalf("nothing is signed for a minute after the leader was %s: %v", way, err)
		}
		t.Logf("the leader %s: another one after %v, a signature %v later", way, elected.Took, time.Since(elected.At))
		c.awaitReady(t, true, c.names("")...)
		if err := ledger.refresh(t.Context(), client, "failover"); err != nil {
			t.Errorf("a refresh after the leader was %s: %v", way, err)
		}
		if way == "killed" {
			cluster.Rejoin(t, old)
		}
	}
	for name, n := range c.nodes {
		if n.PID() != pids[name] || !n.Running() {
			t.Errorf("node %s did not stay", name)
		}
	}
	for _, lost := range ledger.losses() {
		t.Error("lost:", lost)
	}
}
