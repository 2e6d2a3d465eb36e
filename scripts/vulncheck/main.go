// Command vulncheck runs govulncheck over the module and decides: a known
// vulnerability in code that ours calls fails, unless the allow-list documents
// why it does not matter. When the database cannot be reached it says
// NOT CHECKED and succeeds, since that is a fact about the network and must
// look neither passed nor broken.
//
// Border: a tool for `make vuln`; nothing of the product imports it.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// govulncheck is the pinned tool, run through the Go command.
const govulncheck = "golang.org/x/vuln/cmd/govulncheck@v1.2.0"

func main() {
	allowFile := flag.String("allow", "", "file with documented exceptions")
	db := flag.String("db", "", "vulnerability database, when not https://vuln.go.dev")
	flag.Parse()
	if err := run(os.Stdout, *allowFile, *db); err != nil {
		fmt.Fprintln(os.Stderr, "vulncheck:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, allowFile, db string) error {
	f, err := os.Open(allowFile)
	if err != nil {
		return err
	}
	defer f.Close()
	allowed, err := parseAllow(f)
	if err != nil {
		return fmt.Errorf("%s: %w", allowFile, err)
	}

	args := []string{"run", govulncheck, "-format", "json"}
	if db != "" {
		args = append(args, "-db", db)
	}
	cmd := exec.Command("go", append(args, "./...")...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if what, why, ok := unreachable(stderr.String()); ok {
			fmt.Fprintf(w, "vulncheck: NOT CHECKED: %s: %s\n", what, why)
			return nil
		}
		return fmt.Errorf("govulncheck: %w\n%s", err, stderr.String())
	}
	findings, err := parseFindings(&stdout)
	if err != nil {
		return fmt.Errorf("reading govulncheck's output: %w", err)
	}
	linked, err := linkedPackages()
	if err != nil {
		return err
	}
	return judge(w, findings, allowed, linked)
}

// networkTrouble matches what the Go command says when it cannot download.
var networkTrouble = regexp.MustCompile(`^go: .*(dial tcp|no such host|timeout|connection (refused|reset)|proxyconnect|tls: |Forbidden|Not Found|Gone|Bad Gateway|Service Unavailable)`)

// unreachable tells a failure to fetch the database or the tool itself from
// every other failure, and returns what is unreachable and the line that says
// why.
func unreachable(stderr string) (what, why string, ok bool) {
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "fetching vulnerabilities") || strings.Contains(line, "https://vuln.go.dev/") {
			return "database unreachable", line, true
		}
		if networkTrouble.MatchString(line) {
			return govulncheck + " could not be downloaded", line, true
		}
	}
	return "", "", false
}

// linkedPackages returns every package that ours link.
func linkedPackages() ([]string, error) {
	cmd := exec.Command("go", "list", "-deps", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// parseAllow reads the allow-list: ID → the vulnerable package.
func parseAllow(r io.Reader) (map[string]string, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	allowed := map[string]string{}
	for n, line := range strings.Split(string(data), "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		switch len(fields) {
		case 0:
		case 2:
			allowed[fields[0]] = fields[1]
		default:
			return nil, fmt.Errorf("line %d: want ID and package, have %q", n+1, line)
		}
	}
	return allowed, nil
}

// level says how close a vulnerability is to our code.
type level int

const (
	required level = iota + 1 // the module is required, the package not linked
	imported                  // the package is linked, the symbol not called
	called                    // our code reaches the vulnerable symbol
)

func (l level) String() string {
	return [...]string{"?", "required, not linked", "linked, not called", "called"}[l]
}

// finding is the closest govulncheck came for one vulnerability.
type finding struct {
	level   level
	where   string // module@version and, when known, package and symbol
	fixedIn string
}

// parseFindings reads govulncheck's JSON stream: a sequence of objects of
// which those with a "finding" matter. The first frame of its trace is the
// vulnerable place and names a function only when our code reaches it.
func parseFindings(r io.Reader) (map[string]finding, error) {
	found := map[string]finding{}
	dec := json.NewDecoder(r)
	complete := false
	for {
		var msg struct {
			Config  json.RawMessage `json:"config"`
			Finding *struct {
				OSV          string `json:"osv"`
				FixedVersion string `json:"fixed_version"`
				Trace        []struct {
					Module, Version, Package, Function, Receiver string
				} `json:"trace"`
			} `json:"finding"`
		}
		if err := dec.Decode(&msg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		complete = complete || msg.Config != nil
		if msg.Finding == nil {
			continue
		}
		if len(msg.Finding.Trace) == 0 {
			return nil, fmt.Errorf("%s: a finding without a place", msg.Finding.OSV)
		}
		at := msg.Finding.Trace[0]
		f := finding{level: required, where: at.Module + "@" + at.Version, fixedIn: msg.Finding.FixedVersion}
		if at.Package != "" {
			f.level, f.where = imported, f.where+" "+at.Package
		}
		if at.Function != "" {
			f.level, f.where = called, f.where+" "+strings.TrimPrefix(at.Receiver+"."+at.Function, ".")
		}
		if f.level > found[msg.Finding.OSV].level {
			found[msg.Finding.OSV] = f
		}
	}
	if !complete {
		return nil, errors.New("it is empty or no govulncheck output")
	}
	return found, nil
}

// judge prints every finding with its verdict and fails on called ones that
// are not excepted. The others are printed: they are worth an update, but
// cannot be reached, which is govulncheck's own measure, too.
func judge(w io.Writer, findings map[string]finding, allowed map[string]string, linked []string) error {
	var failed []string
	ids := make([]string, 0, len(findings))
	for id := range findings {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		f := findings[id]
		verdict := "noted"
		pkg, excepted := allowed[id]
		switch {
		case excepted && !slices.ContainsFunc(linked, func(p string) bool { return p == pkg || strings.HasPrefix(p, pkg+"/") }):
			verdict = "excepted, " + pkg + " is not linked"
		case excepted:
			verdict = "FAIL: excepted on the ground that " + pkg + " is not linked, but it is"
			failed = append(failed, id)
		case f.level == called:
			verdict = "FAIL"
			failed = append(failed, id)
		}
		fix := "no fix known"
		if f.fixedIn != "" {
			fix = "fixed in " + f.fixedIn
		}
		fmt.Fprintf(w, "vulncheck: https://pkg.go.dev/vuln/%s: %s (%s; %s): %s\n", id, f.where, f.level, fix, verdict)
	}
	if len(failed) > 0 {
		return fmt.Errorf("known vulnerabilities reach our code: %s. Update the module, or document in the allow-list why it does not matter", strings.Join(failed, ", "))
	}
	fmt.Fprintf(w, "vulncheck: checked, %d findings, none that fails\n", len(findings))
	return nil
}
