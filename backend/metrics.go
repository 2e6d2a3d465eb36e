package backend

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-mpc/mpc"
	"vault-plugin-secrets-mpc/mpc/pool"
)

// durationBuckets are upper bounds in seconds: an answer from memory takes about
// a millisecond, an ECDSA signature without a presignature up to half a minute.
func durationBuckets() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

// metrics counts what this mount has done since its process started. What can be
// looked up is not counted here; see metrics_state.go. Its methods may be called
// concurrently.
//
// Labels hold operations, algorithms, states and node IDs, of which there are
// few, and never a name that a caller chose: with thousands of accounts each
// scrape would carry thousands of lines, and the names would lie in another
// system.
type metrics struct {
	registry *prometheus.Registry // of this mount: nothing is global

	requests       *prometheus.CounterVec
	requestSeconds *prometheus.HistogramVec
	signatures     *prometheus.CounterVec
	signSeconds    *prometheus.HistogramVec
	retries        prometheus.Counter
	refreshes      *prometheus.CounterVec
	rewraps        *prometheus.CounterVec
	approvals      *prometheus.CounterVec
	approveSeconds prometheus.Histogram

	approvalRefusals *prometheus.CounterVec
}

// Values of the label result.
const (
	resultOK     = "ok"
	resultFailed = "failed"
)

func newMetrics(version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mpc_requests_total",
			Help: "Requests answered, by operation and HTTP status. Requests that Vault itself refuses are not among them.",
		}, []string{"operation", "status"}),
		requestSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mpc_request_duration_seconds", Buckets: durationBuckets(),
			Help: "How long requests took in the plugin, by operation.",
		}, []string{"operation"}),
		signatures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mpc_signatures_total",
			Help: "Signatures made, each item of a batch by itself, by algorithm and whether a presignature was used.",
		}, []string{"algorithm", "presigned"}),
		signSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mpc_sign_duration_seconds", Buckets: durationBuckets(),
			Help: "How long nodes took for a signature that was made, waiting for a turn and further attempts included, by algorithm.",
		}, []string{"algorithm"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mpc_session_retries_total",
			Help: "Signing sessions beyond the first one of a signature: something went wrong with a node and others took its place.",
		}),
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mpc_refreshes_total",
			Help: "Refreshes of an account's shares, by the clock and by request, by result.",
		}, []string{"result"}),
		rewraps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mpc_rewraps_total",
			Help: "Rewraps of an account's shares to the newest wrapping key, by result.",
		}, []string{"result"}),
	}
	m.approvals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mpc_approval_requests_total",
		Help: "Requests for approval that came into a state: each one into pending, and later into the state in which it ended.",
	}, []string{"state"})
	m.approveSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "mpc_approval_duration_seconds", Buckets: []float64{5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400, 604800},
		Help: "How long people took from a request to its last approval.",
	})
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mpc_build_info", Help: "Always 1; the label is the plugin's version.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.approvalRefusals = newApproveRefusals()
	m.registry.MustRegister(build, m.requests, m.requestSeconds, m.signatures, m.signSeconds, m.retries, m.refreshes, m.rewraps, m.approvals, m.approveSeconds, m.approvalRefusals)
	// So that a rate can be taken from the first failure on.
	for _, result := range []string{resultOK, resultFailed} {
		m.refreshes.WithLabelValues(result)
		m.rewraps.WithLabelValues(result)
	}
	for _, state := range requestStates() {
		m.approvals.WithLabelValues(string(state))
	}
	for _, alg := range mpc.Algorithms() {
		m.signSeconds.WithLabelValues(string(alg))
		m.signatures.WithLabelValues(string(alg), "false")
		if alg.NeedsAuxiliaryKeys() {
			m.signatures.WithLabelValues(string(alg), "true")
		}
	}
	return m
}

// answered counts a request and returns its status; 0, and nothing counted,
// where another server will answer it.
func (m *metrics) answered(operation string, req *logical.Request, took time.Duration, resp *logical.Response, err error) int {
	status := statusOf(req, resp, err)
	if status == 0 {
		return 0
	}
	m.requests.WithLabelValues(operation, statusLabel(status)).Inc()
	m.requestSeconds.WithLabelValues(operation).Observe(took.Seconds())
	return status
}

// statusOf is the HTTP status that Vault makes of what a handler returns; 0 where
// Vault sends the request on to another server.
func statusOf(req *logical.Request, resp *logical.Response, err error) int {
	var coded logical.HTTPCodedError
	switch {
	case errors.Is(err, logical.ErrReadOnly):
		return 0
	case errors.As(err, &coded):
		return coded.Code()
	case errors.Is(err, logical.ErrInvalidRequest):
		return http.StatusBadRequest
	case err != nil:
		return http.StatusInternalServerError
	case resp == nil && (req.Operation == logical.ReadOperation || req.Operation == logical.ListOperation):
		return http.StatusNotFound
	case resp == nil:
		return http.StatusNoContent
	}
	if status, ok := resp.Data[logical.HTTPStatusCode].(int); ok {
		return status
	}
	return http.StatusOK
}

// statusLabel names the statuses that the engine answers with. A caller may
// choose any for a batch, and must not be able to make a series of each.
func statusLabel(status int) string {
	switch status {
	case http.StatusOK, http.StatusNoContent, http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusConflict,
		http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable:
		return strconv.Itoa(status)
	}
	return strconv.Itoa(status/100) + "xx"
}

// refreshed counts a refresh that was tried. It is no failure of a refresh that
// the account is gone, renamed, or busy with another.
func (m *metrics) refreshed(err error) { count(m.refreshes, err) }

// rewrapped does the same for a rewrap.
func (m *metrics) rewrapped(err error) { count(m.rewraps, err) }

func count(results *prometheus.CounterVec, err error) {
	var f *fault
	var moving *movingError
	switch {
	case err == nil:
		results.WithLabelValues(resultOK).Inc()
	case errors.As(err, &f) && f.status < http.StatusInternalServerError, errors.As(err, &moving):
	default:
		results.WithLabelValues(resultFailed).Inc()
	}
}

// requestMoved counts that a request for approval has come into its state.
func (m *metrics) requestMoved(r *requestRecord) {
	m.approvals.WithLabelValues(string(r.State)).Inc()
	if r.State == requestApproved {
		m.approveSeconds.Observe(r.Approved.Sub(r.Created).Seconds())
	}
}

// measured is an engine whose signatures are counted.
type measured struct {
	Engine
	metrics *metrics
}

func (e measured) Sign(ctx context.Context, r pool.SignRequest) (*pool.SignResult, error) {
	started := time.Now()
	res, err := e.Engine.Sign(ctx, r)
	if err != nil {
		var failed *pool.SessionError
		if errors.As(err, &failed) && failed.Attempts > 1 {
			e.metrics.retries.Add(float64(failed.Attempts - 1))
		}
		return nil, err
	}
	algorithm := string(r.Account.Record.Algorithm)
	e.metrics.signSeconds.WithLabelValues(algorithm).Observe(time.Since(started).Seconds())
	e.metrics.signatures.WithLabelValues(algorithm, strconv.FormatBool(res.Presigned)).Inc()
	if res.Attempts > 1 {
		e.metrics.retries.Add(float64(res.Attempts - 1))
	}
	return res, nil
}

// RunCustody counts signatures with user custody like any other. Their time is that
// of the nodes alone, without the owner's.
func (e measured) RunCustody(ctx context.Context, o *pool.CustodyOffer, releases map[mpc.Index][]byte) (*pool.CustodyResult, error) {
	started := time.Now()
	res, err := e.Engine.RunCustody(ctx, o, releases)
	if err == nil && res.Signature != nil {
		algorithm := string(o.Request.Account.Record.Algorithm)
		e.metrics.signSeconds.WithLabelValues(algorithm).Observe(time.Since(started).Seconds())
		e.metrics.signatures.WithLabelValues(algorithm, "false").Inc()
	}
	return res, err
}
