//go:build e2e

package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
	"vault-plugin-secrets-mpc/plugin/e2e/netlab"
)

// clusterEnv is set by scripts/test-cluster.sh. The tests of remote nodes take
// minutes, so `make e2e` leaves them to it.
const clusterEnv = "MPC_CLUSTER"

const (
	// farDelay is one way between regions: a round trip takes 50 ms.
	farDelay = 25 * time.Millisecond
	farLoss  = 0.01
)

// far is the path between two regions.
var far = netlab.Path{Delay: farDelay, Loss: farLoss}

// betweenRegions gives a lab a delay and loss between regions, and nothing
// within one.
func betweenRegions(p netlab.Path) func(a, b *netlab.Site) netlab.Path {
	return func(a, b *netlab.Site) netlab.Path {
		if a.Region == b.Region {
			return netlab.Path{}
		}
		return p
	}
}

// remoteCluster is a Vault on Raft in one site of a lab, a mount without local
// nodes, and node daemons in sites of their own. Each region is a wrapping
// domain with one token, as a region with an HSM cluster would be.
type remoteCluster struct {
	*engine
	lab   *netlab.Lab
	home  *netlab.Site // Vault's
	nodes map[string]*e2e.Remote
	sites map[string]*netlab.Site // of the nodes

	tokens map[string]*e2e.Token // by domain
}

// needCluster skips a test that make test-cluster is for.
func needCluster(t *testing.T) {
	t.Helper()
	if os.Getenv(clusterEnv) == "" {
		t.Skip("run by make test-cluster")
	}
	if err := netlab.Available(); err != nil {
		t.Skip(err)
	}
}

// newRemoteCluster starts Vault in a region and a daemon for every
// "name@region", enrols them as an operator would, and waits until the pool is
// ready. All of it ends with the test.
func newRemoteCluster(t testing.TB, cfg netlab.Config, vaultRegion string, nodes ...string) *remoteCluster {
	t.Helper()
	return startRemoteCluster(t, cfg, vaultRegion, nodes, func(home *netlab.Site) *e2e.Vault {
		v := harness.StartVault(t, e2e.Options{Storage: e2e.Raft, Network: home})
		v.Enable(t, "mpc")
		return v
	})
}

// startRemoteCluster does it with a Vault that start starts, with the engine at
// "mpc".
func startRemoteCluster(t testing.TB, cfg netlab.Config, vaultRegion string, nodes []string, start func(home *netlab.Site) *e2e.Vault) *remoteCluster {
	t.Helper()
	lab, err := netlab.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	// Runs last: the processes in the sites end first.
	t.Cleanup(func() {
		t.Logf("the network carried %+v", lab.Counts())
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &remoteCluster{lab: lab, nodes: map[string]*e2e.Remote{}, sites: map[string]*netlab.Site{}, tokens: map[string]*e2e.Token{}}
	if c.home, err = lab.Add("vault", vaultRegion); err != nil {
		t.Fatal(err)
	}
	c.engine = &engine{start(c.home), "mpc"}
	for _, n := range nodes {
		name, region, _ := strings.Cut(n, "@")
		c.add(t, e2e.RemoteOptions{Name: name, Region: region})
	}
	c.write(t, "config/nodes", map[string]any{"local": 0})
	c.waitNodes(t, len(nodes))
	return c
}

// domainOf names the wrapping domain of a region: a text that is found in a
// stored envelope only where it stands for this domain.
func domainOf(region string) string { return "hsm-of-" + region }

// add sets up a node in a site of its own and has it join the pool.
func (c *remoteCluster) add(t testing.TB, opts e2e.RemoteOptions) *e2e.Remote {
	t.Helper()
	site, err := c.lab.Add(opts.Name, opts.Region)
	if err != nil {
		t.Fatal(err)
	}
	opts.Domain, opts.Network, opts.Host = domainOf(opts.Region), site, site.Addr().String()
	if c.tokens[opts.Domain] == nil {
		token := harness.NewToken(t, opts.Domain)
		c.tokens[opts.Domain] = &token
	}
	opts.Token = c.tokens[opts.Domain]
	r := harness.NewRemote(t, opts)
	c.nodes[opts.Name], c.sites[opts.Name] = r, site
	token := r.Enrol(t)
	r.Start(t)
	c.enrol(t, r, token)
	return r
}

// enrol gives a node's token to Vault with the command that the token came with,
// and has the operators of the other nodes accept the new one, as the answer asks.
func (c *remoteCluster) enrol(t testing.TB, r *e2e.Remote, token string) {
	t.Helper()
	got := c.CLI(t, "write", "-format=json", c.path+"/config/nodes/"+r.Name, "address="+r.Address, "token="+token)
	if got.Code != 0 {
		t.Fatalf("vault write config/nodes/%s: %s", r.Name, got.Stderr)
	}
	var answer struct {
		Data struct {
			On      []string `json:"accept_on"`
			Command string   `json:"accept_command"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(got.Stdout), &answer); err != nil {
		t.Fatalf("the answer to an enrolment: %v: %s", err, got.Stdout)
	}
	for _, name := range answer.Data.On {
		if got := c.nodes[name].RunLine(t, answer.Data.Command); got.Code != 0 {
			t.Fatalf("%q on %s: %s", answer.Data.Command, name, got.Stderr)
		}
	}
}

// state returns the state of a node as nodes/ shows it; empty when it is not
// in the pool.
func (c *remoteCluster) state(t testing.TB, name string) string {
	t.Helper()
	return text(c.engine.nodes(t)[name], "state")
}

// awaitState waits until the pool sees a node in, or not in, the state "ready".
// It returns how long that took.
func (c *remoteCluster) awaitReady(t testing.TB, ready bool, names ...string) time.Duration {
	t.Helper()
	started := time.Now()
	c.await(t, time.Minute, fmt.Sprintf("%v with ready=%v", names, ready), func() bool {
		nodes := c.engine.nodes(t)
		return !slices.ContainsFunc(names, func(n string) bool { return (text(nodes[n], "state") == "ready") != ready })
	})
	return time.Since(started)
}

// region returns the sites of a region, and others all the others, Vault's
// included.
func (c *remoteCluster) region(name string) (sites, others []*netlab.Site) {
	return c.lab.Sites(func(s *netlab.Site) bool { return s.Region == name }),
		c.lab.Sites(func(s *netlab.Site) bool { return s.Region != name })
}

// names returns the nodes of a region, all without one.
func (c *remoteCluster) names(region string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c.nodes)), func(n string) bool {
		return region != "" && c.nodes[n].Region != region
	})
}

// signers returns the nodes that made a signature.
func signers(answer map[string]any) []string {
	list, _ := answer["signers"].([]any)
	var names []string
	for _, entry := range list {
		fields, _ := entry.(map[string]any)
		names = append(names, text(fields, "node"))
	}
	return names
}

// milliseconds reads a time of an answer; what is not there is 0.
func milliseconds(answer map[string]any, field string) time.Duration {
	n, _ := answer[field].(json.Number)
	ms, err := n.Float64()
	if err != nil {
		return 0
	}
	return time.Duration(ms * float64(time.Millisecond))
}
