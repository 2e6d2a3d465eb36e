package backend

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"vault-plugin-secrets-mpc/mpc/pool"
)

// scrape reads the metrics as Prometheus does.
func (m *mount) scrape() map[string]*dto.MetricFamily {
	m.t.Helper()
	data := m.must(logical.ReadOperation, "metrics", nil)
	if data[logical.HTTPContentType] != metricsType || data[logical.HTTPStatusCode] != http.StatusOK {
		m.t.Errorf("answered as %v, status %v", data[logical.HTTPContentType], data[logical.HTTPStatusCode])
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(data[logical.HTTPRawBody].([]byte)))
	if err != nil {
		m.t.Fatal(err)
	}
	return families
}

// value returns the one metric of a family with these labels, "name=value";
// false where there is none. Of a histogram it is the number of observations.
func value(families map[string]*dto.MetricFamily, name string, labels ...string) (float64, bool) {
	for _, metric := range families[name].GetMetric() {
		var have []string
		for _, l := range metric.GetLabel() {
			have = append(have, l.GetName()+"="+l.GetValue())
		}
		if strings.Join(have, ",") != strings.Join(labels, ",") {
			continue
		}
		switch {
		case metric.Counter != nil:
			return metric.Counter.GetValue(), true
		case metric.Histogram != nil:
			return float64(metric.Histogram.GetSampleCount()), true
		}
		return metric.Gauge.GetValue(), true
	}
	return 0, false
}

// metricNames are those that dashboards and alerts may rely on.
func metricNames() []string {
	return []string{
		"mpc_build_info", "mpc_requests_total", "mpc_request_duration_seconds", "mpc_signatures_total", "mpc_sign_duration_seconds",
		"mpc_session_retries_total", "mpc_refreshes_total", "mpc_rewraps_total", "mpc_nodes", "mpc_node_up", "mpc_node_hsm_up",
		"mpc_aux_keys_ready", "mpc_accounts", "mpc_accounts_overdue", "mpc_accounts_failing", "mpc_wrapping_key_versions", "mpc_presignatures_ready",
		"mpc_approval_requests_total", "mpc_approval_requests", "mpc_approval_duration_seconds", "mpc_approval_refusals_total",
	}
}

func TestMetrics(t *testing.T) {
	m := configured(t)
	m.b.startBackground()
	m.create("secret-project", "bip340-secp256k1")
	m.create("bob", "ecdsa-secp256k1")
	m.signs("secret-project")
	m.signs("bob")
	m.must(logical.UpdateOperation, "sign/bob", map[string]any{"batch_input": []any{map[string]any{"input": "aGVsbG8="}, map[string]any{"input": "d29ybGQ="}}})
	m.must(logical.UpdateOperation, "accounts/bob/refresh", nil)
	m.fails(logical.UpdateOperation, "sign/secret-project", map[string]any{"colour": "blue"}, http.StatusBadRequest, "unknown field")
	m.fails(logical.UpdateOperation, "sign/nobody", map[string]any{"input": "aGVsbG8="}, http.StatusNotFound, "nobody")
	m.fails(logical.UpdateOperation, "accounts/nobody/refresh", nil, http.StatusNotFound, "nobody")
	m.b.runner.Failed("bob", errors.New("no node"))
	for deadline := time.Now().Add(10 * time.Second); !m.b.runner.Progress().Loaded && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
	}

	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, known := m.b.requests.index.counts(); known {
			break
		}
	}

	got := m.scrape()
	for _, name := range metricNames() {
		if f := got[name]; f == nil || f.GetHelp() == "" {
			t.Errorf("%s is missing, or says nothing about itself", name)
		}
	}
	for _, want := range []struct {
		name   string
		labels []string
		value  float64
	}{
		{"mpc_build_info", []string{"version=" + defaultVersion}, 1},
		{"mpc_requests_total", []string{"operation=sign", "status=200"}, 3},
		{"mpc_requests_total", []string{"operation=sign", "status=400"}, 1},
		{"mpc_requests_total", []string{"operation=sign", "status=404"}, 1},
		{"mpc_requests_total", []string{"operation=accounts/create", "status=200"}, 2},
		{"mpc_request_duration_seconds", []string{"operation=sign"}, 5},
		{"mpc_signatures_total", []string{"algorithm=bip340-secp256k1", "presigned=false"}, 1},
		{"mpc_signatures_total", []string{"algorithm=ecdsa-secp256k1", "presigned=false"}, 3},
		{"mpc_signatures_total", []string{"algorithm=ecdsa-secp256k1", "presigned=true"}, 0},
		{"mpc_sign_duration_seconds", []string{"algorithm=ecdsa-secp256k1"}, 3},
		{"mpc_session_retries_total", nil, 0},
		{"mpc_refreshes_total", []string{"result=ok"}, 1},
		{"mpc_refreshes_total", []string{"result=failed"}, 0},
		{"mpc_rewraps_total", []string{"result=failed"}, 0},
		{"mpc_nodes", []string{"state=failed"}, 0},
		{"mpc_accounts", nil, 2},
		{"mpc_accounts_failing", nil, 1},
		{"mpc_accounts_overdue", nil, 0},
		{"mpc_wrapping_key_versions", []string{"state=live"}, 1},
		{"mpc_presignatures_ready", nil, 0},
	} {
		if v, ok := value(got, want.name, want.labels...); !ok || v != want.value {
			t.Errorf("%s%v: %v (there: %v), want %v", want.name, want.labels, v, ok, want.value)
		}
	}
	nodes := m.fake.Nodes()
	if v, _ := value(got, "mpc_nodes", "state=ready"); int(v) != len(nodes) {
		t.Errorf("%v nodes are ready, want %d", v, len(nodes))
	}
	for _, n := range nodes {
		if v, ok := value(got, "mpc_node_up", "node="+n.ID); !ok || v != 1 {
			t.Errorf("node %s: up %v", n.ID, v)
		}
	}
	raw := string(m.must(logical.ReadOperation, "metrics", nil)[logical.HTTPRawBody].([]byte))
	for _, name := range []string{"secret-project", "bob", testPIN} {
		if strings.Contains(raw, name) {
			t.Errorf("the metrics name %s", name)
		}
	}
	if v, ok := value(m.scrape(), "mpc_requests_total", "operation=metrics", "status=200"); !ok || v != 2 {
		t.Errorf("metrics were read %v times, want 2", v)
	}
}

// TestMetricsBeforeAnything: a mount without a token answers, and says nothing
// that it does not know.
func TestMetricsBeforeAnything(t *testing.T) {
	got := open(t, &logical.InmemStorage{}, newFake(t)).scrape()
	if v, ok := value(got, "mpc_nodes", "state=ready"); !ok || v != 0 {
		t.Errorf("ready nodes: %v, %v", v, ok)
	}
	for _, name := range []string{"mpc_accounts", "mpc_accounts_failing", "mpc_node_up", "mpc_presignatures_ready"} {
		if got[name] != nil {
			t.Errorf("%s is claimed to be known: %v", name, got[name])
		}
	}
}

// TestMetricsWithoutStorage: what is in memory is told when storage is not there.
func TestMetricsWithoutStorage(t *testing.T) {
	fake := newFake(t)
	storage := &logical.InmemStorage{}
	withAccount(open(t, storage, fake))
	m := open(t, &crashing{Storage: storage, left: 1000}, fake)
	m.b.store.forgetKeys(keyHSM)
	m.storage.(*crashing).dead = true
	got := m.scrape()
	if got["mpc_wrapping_key_versions"] != nil || got["mpc_nodes"] == nil {
		t.Errorf("with storage away: %v", got)
	}
}

// clumsy is an engine that needs several sessions.
type clumsy struct {
	Engine
	attempts int
	fail     bool
}

func (c clumsy) Sign(ctx context.Context, q pool.SignRequest) (*pool.SignResult, error) {
	if c.fail {
		return nil, &pool.SessionError{Operation: "sign", Attempts: c.attempts, Err: errors.New("no")}
	}
	res, err := c.Engine.Sign(ctx, q)
	if err == nil {
		res.Attempts = c.attempts
	}
	return res, err
}

func TestMetricsCountRetriesAndFailures(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.b.eng = measured{clumsy{Engine: m.fake, attempts: 3}, m.b.metrics}
	m.signs("alice")
	m.b.eng = measured{clumsy{Engine: m.fake, attempts: 12, fail: true}, m.b.metrics}
	if _, status, _ := m.do(logical.UpdateOperation, "sign/alice", map[string]any{"input": "aGVsbG8="}); status != http.StatusInternalServerError {
		t.Errorf("status %d", status)
	}
	m.b.eng = measured{m.fake, m.b.metrics}
	m.fake.refreshErr = pool.ErrHSMUnavailable
	if _, status, _ := m.do(logical.UpdateOperation, "accounts/alice/refresh", nil); status < 500 {
		t.Errorf("a refresh without nodes: %d", status)
	}
	got := m.scrape()
	for _, want := range []struct {
		name   string
		labels []string
		value  float64
	}{
		{"mpc_session_retries_total", nil, 2 + 11},
		{"mpc_signatures_total", []string{"algorithm=bip340-secp256k1", "presigned=false"}, 1},
		{"mpc_requests_total", []string{"operation=sign", "status=500"}, 1},
		{"mpc_refreshes_total", []string{"result=failed"}, 1},
		{"mpc_refreshes_total", []string{"result=ok"}, 0},
	} {
		if v, ok := value(got, want.name, want.labels...); !ok || v != want.value {
			t.Errorf("%s%v: %v (there: %v), want %v", want.name, want.labels, v, ok, want.value)
		}
	}
}

// TestCallersMakeNoSeries: a status that a caller chose is counted by its class.
func TestCallersMakeNoSeries(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	for _, status := range []int{207, 208, 418} {
		m.do(logical.UpdateOperation, "sign/alice", map[string]any{
			"batch_input":                   []any{map[string]any{"input": "aGVsbG8="}, map[string]any{"input": "?"}},
			"partial_failure_response_code": status,
		})
	}
	got := m.scrape()
	if v, _ := value(got, "mpc_requests_total", "operation=sign", "status=2xx"); v != 2 {
		t.Errorf("2xx: %v; %v", v, got["mpc_requests_total"])
	}
	if v, _ := value(got, "mpc_requests_total", "operation=sign", "status=4xx"); v != 1 {
		t.Errorf("4xx: %v", v)
	}
}

// TestLogLines: a failure of ours names operation, account and Vault's request;
// a caller's mistake is there for whoever turns on debug lines.
func TestLogLines(t *testing.T) {
	m := configured(t)
	m.create("alice", "bip340-secp256k1")
	m.fake.refreshErr = pool.ErrHSMUnavailable
	req := &logical.Request{Operation: logical.UpdateOperation, Path: "accounts/alice/refresh", ID: "0f0e", Storage: m.storage}
	if _, err := m.b.HandleRequest(t.Context(), req); err == nil {
		t.Fatal("a refresh without nodes")
	}
	line := lineWith(m.logs.String(), "request failed")
	for _, want := range []string{"[ERROR]", "operation=accounts/refresh", "status=503", "name=alice", "vault_request=0f0e", "took=", "error="} {
		if !strings.Contains(line, want) {
			t.Errorf("%q does not say %s", line, want)
		}
	}
	m.fails(logical.UpdateOperation, "verify/alice", map[string]any{"input": "aGVsbG8="}, http.StatusBadRequest, "signature")
	if line := lineWith(m.logs.String(), "operation=verify"); !strings.Contains(line, "[DEBUG]") || !strings.Contains(line, "status=400") || !strings.Contains(line, "error=") {
		t.Errorf("a caller's mistake: %q", line)
	}
}

func lineWith(log, text string) string {
	for line := range strings.Lines(log) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}
