package backend

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// metricUsed finds the metrics that an expression or a text names.
var metricUsed = regexp.MustCompile(`\bmpc_[a-z_]+[a-z]\b`) // read only

// TestMonitoringNamesWhatExists: dashboard, alerts and documentation name metrics
// that there are, and the documentation names all of them.
func TestMonitoringNamesWhatExists(t *testing.T) {
	for _, name := range []string{"monitoring/grafana.json", "monitoring/alerts.yml", "monitoring.md"} {
		raw, err := os.ReadFile(filepath.Join("..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		used := metricUsed.FindAllString(string(raw), -1)
		if len(used) < 10 {
			t.Errorf("docs/%s names %d metrics: the test looks at the wrong place", name, len(used))
		}
		for _, metric := range used {
			metric = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(metric, "_bucket"), "_count"), "_sum")
			if !slices.Contains(metricNames(), metric) {
				t.Errorf("docs/%s names %s, which the engine does not have", name, metric)
			}
		}
		for _, metric := range metricNames() {
			if !slices.Contains(used, metric) && name == "monitoring.md" {
				t.Errorf("docs/%s does not explain %s", name, metric)
			}
		}
	}
}

func TestDashboard(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "docs", "monitoring", "grafana.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Title  string
		Panels []struct {
			ID          int
			Type, Title string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	ids, shown := map[int]bool{}, ""
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q: its ID is taken, or it has no title, no place or no query", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			shown += target.Expr + "\n"
			if strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") {
				t.Errorf("panel %q: parentheses of %s", p.Title, target.Expr)
			}
		}
	}
	for _, metric := range metricNames() {
		if !strings.Contains(shown, metric) {
			t.Errorf("the dashboard does not show %s", metric)
		}
	}
}

// TestAlertsAreExplained: the document has each alert, and no other.
func TestAlertsAreExplained(t *testing.T) {
	rules, err := os.ReadFile(filepath.Join("..", "docs", "monitoring", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("..", "docs", "monitoring.md"))
	if err != nil {
		t.Fatal(err)
	}
	var defined, explained []string
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(string(rules), -1) {
		defined = append(defined, m[1])
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(MPC\\w+)` \\|").FindAllStringSubmatch(string(text), -1) {
		explained = append(explained, m[1])
	}
	if len(defined) < 8 || !slices.Equal(defined, explained) {
		t.Errorf("alerts are %q, explained are %q", defined, explained)
	}
}
