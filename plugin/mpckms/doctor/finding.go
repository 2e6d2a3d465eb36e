package doctor

import (
	"slices"
	"strings"
)

// Result is how a check ended.
type Result string

const (
	OK         Result = "ok"
	Warning    Result = "warning" // works, and somebody should look
	Problem    Result = "problem" // does not work, or not safely
	NotChecked Result = "not checked"
)

// Finding is what one check found.
type Finding struct {
	Area   string `json:"area"`  // of the system, such as "plugin"
	Check  string `json:"check"` // what was looked at
	Result Result `json:"result"`
	Says   string `json:"says"`           // what is, or why it was not checked
	Mend   string `json:"mend,omitempty"` // what to do, lines
}

// Report collects findings. One goroutine uses it.
type Report struct {
	Findings []Finding
	// DropIn are lines of a systemd drop-in's [Service] section that mend what
	// was found about the unit.
	DropIn []string
}

// In returns the findings' collector for one area.
func (r *Report) In(area string) *Area { return &Area{report: r, name: area} }

// Count returns how many findings ended so.
func (r *Report) Count(result Result) int {
	n := 0
	for _, f := range r.Findings {
		if f.Result == result {
			n++
		}
	}
	return n
}

// ByArea returns the findings with those of an area together, areas in the order
// in which they were first looked at.
func (r *Report) ByArea() []Finding {
	all := make([]Finding, 0, len(r.Findings))
	done := map[string]bool{}
	for _, first := range r.Findings {
		if done[first.Area] {
			continue
		}
		done[first.Area] = true
		for _, f := range r.Findings {
			if f.Area == first.Area {
				all = append(all, f)
			}
		}
	}
	return all
}

// Area adds findings to a report.
type Area struct {
	report *Report
	name   string
}

func (a *Area) add(check string, result Result, says, mend string) {
	a.report.Findings = append(a.report.Findings, Finding{Area: a.name, Check: check, Result: result, Says: says, Mend: strings.TrimSpace(mend)})
}

// OK, Warn, Problem and Skip add a finding each.
func (a *Area) OK(check, says string)            { a.add(check, OK, says, "") }
func (a *Area) Warn(check, says, mend string)    { a.add(check, Warning, says, mend) }
func (a *Area) Problem(check, says, mend string) { a.add(check, Problem, says, mend) }
func (a *Area) Skip(check, why string)           { a.add(check, NotChecked, why, "") }

// dropIn adds lines that mend the unit, each once.
func (a *Area) dropIn(lines ...string) {
	for _, line := range lines {
		if !slices.Contains(a.report.DropIn, line) {
			a.report.DropIn = append(a.report.DropIn, line)
		}
	}
}
