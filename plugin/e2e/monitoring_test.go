//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-mpc/plugin/e2e"
)

// prometheusEnv names the folder of prometheus and promtool, where they are not on
// PATH.
const prometheusEnv = "MPC_PROMETHEUS_DIR"

func findPrometheus(t *testing.T, name string) string {
	t.Helper()
	if dir := os.Getenv(prometheusEnv); dir != "" {
		return filepath.Join(dir, name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("NOT CHECKED: no %s on PATH (apt-get install prometheus, or %s)", name, prometheusEnv)
	}
	return path
}

// TestMonitoringDocument runs the commands of docs/monitoring.md; a Prometheus
// with the configuration shown there, if there is one on this machine, scrapes
// the mount, and the alerts and the dashboard's queries mean something to it.
func TestMonitoringDocument(t *testing.T) {
	v := harness.StartVault(t, e2e.Options{})
	e := enable(t, v, "mpc", 3)
	e.create(t, "alice", bip340, 2, 3)
	sh := newShell(t, v)
	sh.dir = t.TempDir()
	sh.runDocument(t, "docs/monitoring.md", promises{
		"VAULT_TOKEN=$(cat prometheus.token) vault read": `(?m)^mpc_nodes\{state="ready"\} 3$`,
	}, nil, nil)

	t.Run("promtool", func(t *testing.T) {
		promtool := findPrometheus(t, "promtool")
		if out, err := exec.Command(promtool, "check", "rules", filepath.Join(repository, "docs", "monitoring", "alerts.yml")).CombinedOutput(); err != nil {
			t.Errorf("check rules: %v\n%s", err, out)
		}
		metrics := v.CLI(t, "read", "-format=raw", "mpc/metrics").Stdout
		cmd := exec.Command(promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(metrics)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("check metrics: %v\n%s", err, out)
		}
	})
	t.Run("prometheus", func(t *testing.T) {
		p := startPrometheus(t, v, filepath.Join(sh.dir, "prometheus.token"))
		e.sign(t, "alice", []byte("to be counted"))
		e.await(t, 60*time.Second, "scraped signature", func() bool {
			return p.value(t, `sum(mpc_signatures_total{algorithm="bip340-secp256k1"})`) == "1"
		})
		if up := p.value(t, `sum(up{job="vault-mpc"})`); up != "1" {
			t.Errorf("up is %q", up)
		}
		for _, query := range dashboardQueries(t) {
			p.value(t, query) // fails where it is no query
		}
		if nodes := p.value(t, dashboardQueries(t)[0]); nodes != "3" {
			t.Errorf("the dashboard's first panel shows %q nodes", nodes)
		}
	})
}

// prometheus is a running server.
type prometheus struct{ url string }

func startPrometheus(t *testing.T, v *e2e.Vault, token string) prometheus {
	t.Helper()
	binary := findPrometheus(t, "prometheus")
	text, err := os.ReadFile(filepath.Join(repository, "docs", "monitoring.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatal("docs/monitoring.md has no scrape configuration")
	}
	config := "global:\n  scrape_interval: 1s\n" + string(m[1])
	for shown, here := range map[string]string{
		"scheme: https": "scheme: http", "/etc/prometheus/vault-mpc.token": token, "vault.example.com:8200": strings.TrimPrefix(v.Addr, "http://"),
	} {
		if !strings.Contains(config, shown) {
			t.Fatalf("the configuration has no %q any more", shown)
		}
		config = strings.ReplaceAll(config, shown, here)
	}
	rules, err := filepath.Abs(filepath.Join(repository, "docs", "monitoring", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	config += "rule_files:\n  - " + rules + "\n"
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	listener.Close()
	cmd := exec.Command(binary, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("prometheus says\n%s", log.Bytes())
		}
	})
	p := prometheus{"http://" + addr}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if resp, err := http.Get(p.url + "/-/ready"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return p
			}
		}
		if time.Now().After(end) {
			t.Fatal("prometheus does not become ready")
		}
	}
}

// value returns the single value of a query; empty where there is none or more.
func (p prometheus) value(t *testing.T, query string) string {
	t.Helper()
	resp, err := http.Get(p.url + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Status, Error string
		Data          struct{ Result []struct{ Value []any } }
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Status != "success" {
		t.Fatalf("%s: %s", query, answer.Error)
	}
	if r := answer.Data.Result; len(r) == 1 {
		return fmt.Sprint(r[0].Value[1])
	}
	return ""
}

// dashboardQueries are those of the dashboard's panels, with its variables set.
func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(repository, "docs", "monitoring", "grafana.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, strings.NewReplacer("$job", ".*", "$instance", ".*", "$__rate_interval", "1m").Replace(target.Expr))
		}
	}
	return queries
}
