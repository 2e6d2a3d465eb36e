//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e/netlab"
)

// load is one kind of request, made over and over.
type load struct {
	name     string
	accounts int // that take turns, so that all nodes have work
	setting  map[string]any
	clients  []int
	do       func(ctx context.Context, c *client, account string, round int) error
}

func signOnce(ctx context.Context, c *client, account string, round int) error {
	_, _, err := c.sign(ctx, account, fmt.Appendf(nil, "%s %d", account, round))
	return err
}

func refreshOnce(ctx context.Context, c *client, account string, _ int) error {
	_, err := c.write(ctx, "accounts/"+account+"/refresh", nil)
	return err
}

var remoteLoads = []load{
	{"sign ed25519", 48, map[string]any{"algorithm": ed25519}, []int{1, 16}, signOnce},
	{"sign ecdsa-p256", 48, map[string]any{"algorithm": ecdsaP256}, []int{1, 4}, signOnce},
	{"refresh ed25519", 48, map[string]any{"algorithm": ed25519}, []int{1, 8}, refreshOnce},
}

// benchTimeEnv is how long each figure is measured; five seconds without it.
const benchTimeEnv = "MPC_BENCH_TIME"

func loadTime(b *testing.B) time.Duration {
	b.Helper()
	value := os.Getenv(benchTimeEnv)
	if value == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		b.Fatalf("%s=%q: want a time like 10s", benchTimeEnv, value)
	}
	return d
}

// figure is what was measured of one load.
type figure struct {
	done, failed int
	median, p99  time.Duration
	perSecond    float64
}

// BenchmarkLabNodes prints, for 3, 5 and 9 nodes in three regions, what the
// engine does when regions are next to each other and when they are 50 ms
// apart. It is a table for people and not a Go benchmark: make bench-cluster
// runs it. All nodes share the machine's processors, which is why more of them
// do not make it faster here.
func BenchmarkLabNodes(b *testing.B) {
	if os.Getenv(clusterEnv) == "" {
		b.Skip("run by make bench-cluster")
	}
	if err := netlab.Available(); err != nil {
		b.Skip(err)
	}
	fmt.Printf("\n2 of 3 over three regions, %d processors, no loss; round trips between regions under 1 ms (near) or 50 ms (far)\n", runtime.NumCPU())
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "nodes\tregions\trequest\tclients\tp50 ms\tp99 ms\tper second\tfailed\t")
	for _, count := range []int{3, 5, 9} {
		b.Run(fmt.Sprint(count), func(b *testing.B) { benchRemote(b, table, count) })
	}
	table.Flush() //nolint:errcheck // to the terminal
}

func benchRemote(b *testing.B, table *tabwriter.Writer, count int) {
	var nodes []string
	for i := range count {
		nodes = append(nodes, fmt.Sprintf("node-%d@%s", i+1, []string{"eu", "us", "ap"}[i%3]))
	}
	cluster := newRemoteCluster(b, netlab.Config{}, "eu", nodes...)
	cluster.write(b, "config/rotation", map[string]any{"refresh_period": "24h", "aux_period": "24h"})
	cluster.waitAuxiliary(b)
	c := newClient(b, cluster.Vault, cluster.path)
	for i, l := range remoteLoads {
		for n := range l.accounts {
			if err := newLedger().create(b.Context(), c, benchAccount(i, n), l.setting["algorithm"].(string), nil); err != nil {
				b.Fatal(err)
			}
		}
	}
	all := cluster.lab.Sites(nil)
	for _, distance := range []string{"near", "far"} {
		if distance == "far" {
			for _, x := range all {
				for _, y := range all {
					cluster.lab.SetPath([]*netlab.Site{x}, []*netlab.Site{y}, betweenRegions(netlab.Path{Delay: farDelay})(x, y))
				}
			}
			time.Sleep(10 * time.Second) // until the pool has measured it
		}
		for i, l := range remoteLoads {
			for _, clients := range l.clients {
				f := measure(b, c, l, i, clients)
				fmt.Fprintf(table, "%d\t%s\t%s\t%d\t%.1f\t%.1f\t%.1f\t%d\t\n", count, distance, l.name, clients,
					float64(f.median.Microseconds())/1000, float64(f.p99.Microseconds())/1000, f.perSecond, f.failed)
			}
		}
	}
}

func benchAccount(l, n int) string { return fmt.Sprintf("bench-%d-%d", l, n) }

// measure makes requests for the time of one figure. Each client has accounts
// of its own.
func measure(b *testing.B, c *client, l load, index, clients int) figure {
	b.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var f figure
	var last error
	began := time.Now()
	end := began.Add(loadTime(b))
	var running sync.WaitGroup
	for id := range clients {
		running.Go(func() {
			for round := 0; time.Now().Before(end); round++ {
				account := benchAccount(index, (id+round*clients)%l.accounts)
				started := time.Now()
				err := l.do(b.Context(), c, account, round)
				elapsed := time.Since(started)
				mu.Lock()
				if err != nil {
					f.failed++
					last = err
				} else {
					took = append(took, elapsed)
				}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	if last != nil {
		b.Logf("%s with %d clients: the last of %d failures: %s", l.name, clients, f.failed, strings.Join(strings.Fields(last.Error()), " "))
	}
	if f.done = len(took); f.done == 0 {
		return f
	}
	slices.Sort(took)
	f.median, f.p99 = took[len(took)/2], took[len(took)*99/100]
	f.perSecond = float64(f.done) / time.Since(began).Seconds()
	return f
}
