//go:build e2e

package e2e_test

import (
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// scrape reads a mount's metrics as Prometheus does: by HTTP, with the token as
// bearer credentials and the Accept header that it sends.
func scrape(t testing.TB, v *e2e.Vault, mount, token string) (map[string]*dto.MetricFamily, *http.Response) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, v.Addr+"/v1/"+mount+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, resp
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(body)))
	if err != nil {
		t.Fatalf("the metrics are not in Prometheus' text format: %v\n%s", err, body)
	}
	return families, resp
}

// metric sums the metrics of a family whose labels hold all of want ("a=b"). Of
// a histogram it counts observations.
func metric(families map[string]*dto.MetricFamily, name string, want ...string) float64 {
	sum := 0.0
metrics:
	for _, m := range families[name].GetMetric() {
		have := map[string]bool{}
		for _, l := range m.GetLabel() {
			have[l.GetName()+"="+l.GetValue()] = true
		}
		for _, w := range want {
			if !have[w] {
				continue metrics
			}
		}
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// TestMetrics: what happens on a mount is there to be scraped with a token that
// can do nothing else, and without a token it is not.
func TestMetrics(t *testing.T) {
	v := harness.Shared(t)
	e := enable(t, v, "measured", 3)
	e.create(t, "hidden-name", bip340, 2, 3)
	e.sign(t, "hidden-name", []byte("counted"))
	e.write(t, "accounts/hidden-name/refresh", nil)
	e.refuse(t, "sign/hidden-name", map[string]any{"inptu": "aGVsbG8="}, badRequest, "unknown field")

	if _, resp := scrape(t, v, e.path, ""); resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without a token: status %d", resp.StatusCode)
	}
	token := tokenWith(t, v, "scraper", `path "measured/metrics" { capabilities = ["read"] }`)
	got, resp := scrape(t, v, e.path, token)
	if got == nil {
		t.Fatalf("with a token that may read metrics: %s", resp.Status)
	}
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
		t.Errorf("content type %q", kind)
	}
	for _, want := range []struct {
		name   string
		labels []string
		value  float64
	}{
		{"mpc_build_info", []string{"version=" + harness.PluginVersion}, 1},
		{"mpc_requests_total", []string{"operation=sign", "status=200"}, 1},
		{"mpc_requests_total", []string{"operation=sign", "status=400"}, 1},
		{"mpc_signatures_total", []string{"algorithm=bip340-secp256k1", "presigned=false"}, 1},
		{"mpc_sign_duration_seconds", []string{"algorithm=bip340-secp256k1"}, 1},
		{"mpc_refreshes_total", []string{"result=ok"}, 1},
		{"mpc_nodes", []string{"state=ready"}, 3},
		{"mpc_node_up", []string{"node=local-3"}, 1},
		{"mpc_node_hsm_up", nil, 3},
		{"mpc_accounts", nil, 1},
		{"mpc_wrapping_key_versions", []string{"state=live"}, 1},
	} {
		if value := metric(got, want.name, want.labels...); value != want.value {
			t.Errorf("%s%v: %v, want %v", want.name, want.labels, value, want.value)
		}
	}
	for _, path := range []string{"accounts", "metrics2", "config/hsm"} {
		client, err := v.Client.Clone()
		if err != nil {
			t.Fatal(err)
		}
		client.SetToken(token)
		_, err = client.Logical().Read(e.path + "/" + path)
		checkRefusal(t, "reading "+path+" with the scraper's token", err, http.StatusForbidden)
	}
	out := v.CLI(t, "read", "-format=raw", "measured/metrics")
	if out.Code != 0 || !strings.Contains(out.Stdout, "\nmpc_nodes{state=\"ready\"} 3\n") || strings.Contains(out.Stdout, "hidden-name") {
		t.Errorf("vault read -format=raw: %+v", out)
	}

	// A node that dies is seen.
	if err := syscall.Kill(number(t, e.nodes(t)["local-1"]["pid"]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.await(t, 20*time.Second, "mpc_node_up 0", func() bool {
		got, _ := scrape(t, v, e.path, token)
		// It may be back before we look.
		return metric(got, "mpc_node_up", "node=local-1") == 0 || number(t, e.nodes(t)["local-1"]["restarts"]) > 0
	})
	e.waitNodes(t, 3)
	e.await(t, 20*time.Second, "mpc_node_up 1", func() bool {
		got, _ := scrape(t, v, e.path, token)
		return metric(got, "mpc_node_up", "node=local-1") == 1
	})
}

// tokenWith makes a token that has one policy only, not even "default".
func tokenWith(t testing.TB, v *e2e.Vault, name, policy string) string {
	t.Helper()
	if err := v.Client.Sys().PutPolicy(name, policy); err != nil {
		t.Fatalf("policy %s: %v", name, err)
	}
	s, err := v.Client.Logical().Write("auth/token/create", map[string]any{"policies": []string{name}, "no_default_policy": true, "ttl": "1h"})
	if err != nil {
		t.Fatal(err)
	}
	return s.Auth.ClientToken
}
