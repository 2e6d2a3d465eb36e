package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-mpc/mpc/pool"
)

// gauge is one metric that is looked up when somebody asks. Its label may be
// empty.
type gauge struct {
	name, help, label string
}

// The gauges. What is not known is left out of an answer, never 0.
func gauges() map[string]gauge {
	all := []gauge{
		{"mpc_nodes", "Nodes of this mount, by state.", "state"},
		{"mpc_node_up", "Whether a node is ready for sessions.", "node"},
		{"mpc_node_hsm_up", "Whether a node's session on the token works.", "node"},
		{"mpc_node_rtt_seconds", "How long a node on another host takes to answer, smoothed. Missing before it has.", "node"},
		{"mpc_node_clock_skew_seconds", "Clock of a node on another host minus that of Vault's host. Missing before it was asked.", "node"},
		{"mpc_region_nodes_ready", "Nodes that are ready for sessions, by region. The empty name is for nodes without one.", "region"},
		{"mpc_domain_nodes_ready", "Nodes that are ready for sessions, by wrapping domain.", "domain"},
		{"mpc_aux_keys_ready", "Whether a node has auxiliary keys in use, which ECDSA signing needs.", "node"},
		{"mpc_accounts", "Accounts that are looked after. Missing until they have been read after a start.", ""},
		{"mpc_accounts_overdue", "Accounts whose shares are older than their refresh period; without those with user custody, which their owners refresh.", ""},
		{"mpc_accounts_failing", "Accounts that failed at their last refresh or rewrap.", ""},
		{"mpc_wrapping_key_versions", "Versions of the wrapping key, by state. Missing while storage cannot be read.", "state"},
		{"mpc_approval_requests", "Requests for approval that are kept, by state. Missing until they have been read after a start.", "state"},
		{"mpc_presignatures_ready", "Presignatures that can be used now, of all accounts.", ""},
	}
	out := map[string]gauge{}
	for _, g := range all {
		out[g.name] = g
	}
	return out
}

// state is a snapshot of the gauges, a prometheus.Collector for one answer.
type state struct {
	known   map[string]gauge
	metrics []prometheus.Metric
}

// Describe implements prometheus.Collector. It describes nothing: which nodes
// there are is known only when they are collected.
func (s *state) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s *state) Collect(out chan<- prometheus.Metric) {
	for _, m := range s.metrics {
		out <- m
	}
}

// set adds a value; label is the empty string for a gauge without one.
func (s *state) set(name, label string, value float64) {
	g, ok := s.known[name]
	if !ok {
		panic("backend: no gauge is called " + name) // a mistake in this file
	}
	var names, values []string
	if g.label != "" {
		names, values = []string{g.label}, []string{label}
	}
	desc := prometheus.NewDesc(name, g.help, names, nil)
	s.metrics = append(s.metrics, prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, values...))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// state looks up the gauges. It starts nothing, asks no node and no token, and
// reads storage only where the keyring is not in memory.
func (b *backend) state(ctx context.Context) *state {
	s := &state{known: gauges()}
	eng := b.runningEngine()
	var nodes []pool.NodeStatus
	if eng != nil {
		nodes = eng.Nodes()
	}
	b.nodeState(s, nodes)
	if p := b.runner.Progress(); p.Loaded {
		s.set("mpc_accounts", "", float64(p.Accounts))
		s.set("mpc_accounts_overdue", "", float64(p.Overdue))
		s.set("mpc_accounts_failing", "", float64(p.Failing))
	}
	if eng != nil {
		if ready, ok := b.stock.ready(ctx, eng); ok {
			s.set("mpc_presignatures_ready", "", float64(ready))
		}
	}
	if counts, known := b.requests.index.counts(); known {
		for _, state := range requestStates() {
			s.set("mpc_approval_requests", string(state), float64(counts[state]))
		}
	}
	if ring, err := b.store.keyring(ctx); err != nil {
		b.log.Warn("the wrapping keys are missing from the metrics: storage cannot be read", "error", err)
	} else {
		b.wrappingState(s, ring)
	}
	return s
}

func (b *backend) nodeState(s *state, nodes []pool.NodeStatus) {
	for _, state := range []pool.NodeState{pool.NodeStarting, pool.NodeReady, pool.NodeRestarting, pool.NodeFailed, pool.NodeDraining} {
		n := 0
		for _, node := range nodes {
			if node.State == state {
				n++
			}
		}
		s.set("mpc_nodes", string(state), float64(n))
	}
	regions, domains := map[string]float64{}, map[string]float64{}
	for _, n := range nodes {
		up := truth(n.State == pool.NodeReady)
		regions[n.Region] += up
		domains[domainOf(n)] += up
		if n.Remote && n.RTT > 0 {
			s.set("mpc_node_rtt_seconds", n.ID, n.RTT.Seconds())
			s.set("mpc_node_clock_skew_seconds", n.ID, n.ClockSkew.Seconds())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(regions)) {
		s.set("mpc_region_nodes_ready", name, regions[name])
	}
	for _, name := range slices.Sorted(maps.Keys(domains)) {
		s.set("mpc_domain_nodes_ready", name, domains[name])
	}
	for _, n := range nodes {
		s.set("mpc_node_up", n.ID, truth(n.State == pool.NodeReady))
		s.set("mpc_node_hsm_up", n.ID, truth(n.HSM == "ok"))
		s.set("mpc_aux_keys_ready", n.ID, truth(n.Aux.State == "ready" || n.Aux.State == "renewing"))
	}
}

func (b *backend) wrappingState(s *state, ring *keyring) {
	for _, state := range []wrappingState{stateLive, stateRetired, stateDestroying, stateDestroyed} {
		n := 0
		for _, r := range ring.records {
			if r.State == state {
				n++
			}
		}
		s.set("mpc_wrapping_key_versions", string(state), float64(n))
	}
}

// ready returns how many presignatures can be used now; false where ctx ended
// before all accounts were looked at.
func (p *presigner) ready(ctx context.Context, eng presignEngine) (int, bool) {
	p.mu.Lock()
	accounts := make([]stocked, 0, len(p.accounts))
	for _, s := range p.accounts {
		accounts = append(accounts, *s)
	}
	p.mu.Unlock()
	total := 0
	for _, a := range accounts {
		if ctx.Err() != nil {
			return 0, false
		}
		total += eng.Presignatures(a.id, a.recordHash)
	}
	return total, true
}

// gather returns everything there is to know.
func (b *backend) gather(ctx context.Context) (prometheus.Gatherer, error) {
	now := prometheus.NewRegistry()
	if err := now.Register(b.state(ctx)); err != nil {
		return nil, fmt.Errorf("collecting metrics: %w", err)
	}
	return prometheus.Gatherers{b.metrics.registry, now}, nil
}
