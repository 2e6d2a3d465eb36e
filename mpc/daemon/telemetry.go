package daemon

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"vault-plugin-secrets-mpc/mpc/node"
	"vault-plugin-secrets-mpc/mpc/nodepb"
)

// metrics counts what nodes of this process do, in a registry of its own. It is the
// node.Observer of every attachment; its methods may be called concurrently.
type metrics struct {
	registry *prometheus.Registry
	sessions *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	refusals *prometheus.CounterVec
	refused  prometheus.Counter // handshakes
}

var _ node.Observer = (*metrics)(nil)

// newMetrics takes what is read when somebody asks.
func newMetrics(version string, s *Settings, read func() Status) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mpc_node_sessions_total", Help: "Sessions that have ended, by operation and result (ok or the reason of the failure)."}, []string{"operation", "result"}),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "mpc_node_session_seconds", Help: "How long sessions that succeeded took.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 14)}, []string{"operation"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mpc_node_refusals_total", Help: "Failures of sessions and other calls, by reason."}, []string{"reason"}),
		refused:  prometheus.NewCounter(prometheus.CounterOpts{Name: "mpc_node_handshakes_refused_total", Help: "Connections that ended in the TLS handshake."}),
	}
	gauge := func(name, help string, value func(Status) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(read()) }))
	}
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("mpc_node_hsm_up", "1 while the token answers.", func(s Status) float64 { return yes(s.HSM == "ok") })
	gauge("mpc_node_enrolled", "1 when a coordinator is enrolled.", func(s Status) float64 { return yes(s.Enrolled) })
	gauge("mpc_node_attached", "1 while a coordinator is attached.", func(s Status) float64 { return yes(s.Attached) })
	gauge("mpc_node_draining", "1 while the node ends and takes nothing new.", func(s Status) float64 { return yes(s.Draining) })
	gauge("mpc_node_sessions_running", "Sessions that run now.", func(s Status) float64 { return float64(s.Sessions) })
	gauge("mpc_node_floor_accounts", "Accounts that the floor remembers.", func(s Status) float64 { return float64(s.FloorAccounts) })
	gauge("mpc_node_certificate_expiry_timestamp_seconds", "When the node's TLS certificate expires, in Unix seconds.", func(s Status) float64 { return float64(s.CertificateExpires.Unix()) })
	gauge("mpc_node_coordinator_certificate_expiry_timestamp_seconds", "When the attached coordinator's TLS certificate expires, in Unix seconds; 0 while none is attached.", func(s Status) float64 {
		if s.CoordinatorExpires.IsZero() {
			return 0
		}
		return float64(s.CoordinatorExpires.Unix())
	})
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mpc_node_info", Help: "1, with labels that say which node this is.",
		ConstLabels: prometheus.Labels{"version": version, "node": s.Name, "region": s.Region, "zone": s.Zone, "domain": s.Domain}})
	info.Set(1)
	m.registry.MustRegister(m.sessions, m.seconds, m.refusals, m.refused, info)
	return m
}

// Session implements node.Observer.
func (m *metrics) Session(operation string, failure nodepb.Failure_Reason, took time.Duration) {
	// A label must not be what a coordinator makes up.
	if !slices.Contains(operations[:], operation) {
		operation = "other"
	}
	result := "ok"
	if failure != nodepb.Failure_UNKNOWN {
		result = reason(failure)
		m.refusals.WithLabelValues(result).Inc()
	} else {
		m.seconds.WithLabelValues(operation).Observe(took.Seconds())
	}
	m.sessions.WithLabelValues(operation, result).Inc()
}

// Failed implements node.Observer.
func (m *metrics) Failed(_ string, failure nodepb.Failure_Reason) {
	m.refusals.WithLabelValues(reason(failure)).Inc()
}

func reason(r nodepb.Failure_Reason) string { return strings.ToLower(r.String()) }

// telemetry serves /healthz, /readyz and /metrics. It shows no secrets and needs no
// credentials: give it an address that monitoring alone can reach.
func telemetry(m *metrics, read func() Status) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := read()
		why := s.NotReady()
		if why == "" {
			fmt.Fprintln(w, "ready")
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "not ready: "+why)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	return mux
}
