//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// Cluster is several Vault servers on loopback with one Raft storage, one
// unseal key and one SoftHSM token. Each has a plugin folder and a log of its
// own. Its methods belong to the test's goroutine; requests to the servers may
// be made from any.
type Cluster struct {
	Servers []*Vault // in no order; the first founded the cluster
	Token   Token

	dir string // of the token
}

// votersTimeout is how long servers may take to become voters and healthy.
const votersTimeout = 60 * time.Second

// StartCluster starts n servers for one test and stops them when it ends.
func (h *Harness) StartCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	return h.StartClusterIn(t, nil, n)
}

// StartClusterIn is StartCluster in a network other than this process's own.
func (h *Harness) StartClusterIn(t testing.TB, network Network, n int) *Cluster {
	t.Helper()
	c := &Cluster{}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	if err := h.startCluster(c, network, n); err != nil {
		t.Fatalf("starting a cluster: %v", err)
	}
	for _, v := range c.Servers {
		v.logOnFailure(t)
	}
	return c
}

func (h *Harness) startCluster(c *Cluster, network Network, n int) (err error) {
	if c.dir, err = h.tempDir(); err != nil {
		return err
	}
	if c.Token, err = newToken(c.dir, "e2e"); err != nil {
		return err
	}
	for i := range n {
		opts := Options{Storage: Raft, Network: network, member: member{node: fmt.Sprintf("server-%d", i+1), token: &c.Token}}
		if i > 0 {
			opts.member.leader = c.Servers[0]
		}
		v, err := h.start(opts)
		if err != nil {
			return fmt.Errorf("server %d: %w", i+1, err)
		}
		c.Servers = append(c.Servers, v)
		if i == 0 {
			// A server that joins gets its vote after ten seconds otherwise.
			_, err := v.Client.Logical().Write("sys/storage/raft/autopilot/configuration", map[string]any{"server_stabilization_time": "1s"})
			if err != nil {
				return fmt.Errorf("configuring autopilot: %w", err)
			}
		}
	}
	return c.awaitVoters()
}

// join makes this server, which has no data yet, a member of leader's cluster.
func (v *Vault) join(leader *Vault) error {
	answer, err := v.Client.Sys().RaftJoin(&api.RaftJoinRequest{LeaderAPIAddr: leader.Addr})
	if err != nil {
		return fmt.Errorf("joining: %w", err)
	}
	if !answer.Joined {
		return errors.New("joining: refused")
	}
	v.RootToken, v.unsealKey = leader.RootToken, leader.unsealKey
	if _, err := v.Client.Sys().Unseal(v.unsealKey); err != nil {
		return fmt.Errorf("unsealing: %w", err)
	}
	// The key answers the leader's challenge; the data comes after it.
	return v.await("it is unsealed", func(ctx context.Context) bool {
		status, err := v.Client.Sys().SealStatusWithContext(ctx)
		return err == nil && !status.Sealed
	})
}

func (c *Cluster) close() error {
	var errs []error
	for _, v := range slices.Backward(c.Servers) {
		errs = append(errs, v.close())
	}
	if c.dir != "" && os.Getenv("MPC_KEEP") != "1" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// Enable enables the engine at a path, with the plugin in every server's
// folder: any of them may have to run it.
func (c *Cluster) Enable(t testing.TB, path string) {
	t.Helper()
	for _, v := range c.Servers {
		if _, err := v.install(); err != nil {
			t.Fatalf("installing the plugin: %v", err)
		}
	}
	c.Leader(t).Enable(t, path)
}

// Leader returns the active server; it fails the test when there is none.
func (c *Cluster) Leader(t testing.TB) *Vault {
	t.Helper()
	leader := c.leader(t.Context())
	if leader == nil {
		t.Fatal("no server is active")
	}
	return leader
}

func (c *Cluster) leader(ctx context.Context) *Vault {
	for _, v := range c.Servers {
		if v.Running() && v.active(ctx) {
			return v
		}
	}
	return nil
}

// Standbys returns the servers that run and are not active.
func (c *Cluster) Standbys(t testing.TB) []*Vault {
	t.Helper()
	leader := c.Leader(t)
	return slices.DeleteFunc(slices.Clone(c.Servers), func(v *Vault) bool { return v == leader || !v.Running() })
}

// Running says whether the server's process runs.
func (v *Vault) Running() bool {
	select {
	case <-v.exited:
		return false
	default:
		return true
	}
}

// KillLeader kills the active server's process alone, with SIGKILL. It returns
// the server and the plugins and nodes that ran below it.
func (c *Cluster) KillLeader(t testing.TB) (old *Vault, below []Process) {
	t.Helper()
	old = c.Leader(t)
	return old, old.Kill9(t)
}

// StepDown has the active server give leadership away and go on as a standby.
func (c *Cluster) StepDown(t testing.TB) (old *Vault, below []Process) {
	t.Helper()
	old = c.Leader(t)
	below = ProcessTree(t, old.PID())
	if err := old.Client.Sys().StepDown(); err != nil {
		t.Fatalf("stepping down: %v", err)
	}
	return old, below
}

// Election is a change of the active server.
type Election struct {
	Leader *Vault
	At     time.Time     // when it was seen to be active
	Took   time.Duration // since AwaitElection was called
}

// AwaitElection waits until a server other than old is active.
func (c *Cluster) AwaitElection(t testing.TB, old *Vault) Election {
	t.Helper()
	started := time.Now()
	for time.Since(started) < startTimeout {
		for _, v := range c.Servers {
			if v != old && v.Running() && v.active(t.Context()) {
				return Election{Leader: v, At: time.Now(), Took: time.Since(started)}
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("no new active server within %v", startTimeout)
	return Election{}
}

// Rejoin brings a server that was stopped back into the cluster, unsealed, and
// waits until every server votes and is healthy again, so that another one can
// be stopped.
func (c *Cluster) Rejoin(t testing.TB, old *Vault) {
	t.Helper()
	if !old.Running() {
		old.Restart(t)
	}
	if err := c.awaitVoters(); err != nil {
		t.Fatal(err)
	}
}

// awaitVoters waits until autopilot counts every server as a healthy voter.
func (c *Cluster) awaitVoters() error {
	ctx, cancel := context.WithTimeout(context.Background(), votersTimeout)
	defer cancel()
	for {
		voters := 0
		if leader := c.leader(ctx); leader != nil {
			if state, err := leader.Client.Sys().RaftAutopilotStateWithContext(ctx); err == nil && state != nil && state.Healthy {
				voters = len(state.Voters)
			}
		}
		if voters == len(c.Servers) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %v only %d of %d servers vote and are healthy", votersTimeout, voters, len(c.Servers))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
