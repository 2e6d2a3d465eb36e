package main

import (
	"strings"
	"testing"
)

const (
	head       = `{"config":{"protocol_version":"v1.0.0","scanner_name":"govulncheck"}}`
	doerner    = "github.com/taurusgroup/multi-party-sig/protocols/doerner"
	inModule   = `{"finding":{"osv":"GO-1","trace":[{"module":"m","version":"v1.0.0"}]}}`
	inPackage  = `{"finding":{"osv":"GO-1","trace":[{"module":"m","version":"v1.0.0","package":"m/p"}]}}`
	inFunction = `{"finding":{"osv":"GO-1","fixed_version":"v1.0.1","trace":[{"module":"m","version":"v1.0.0","package":"m/p","function":"F","receiver":"T"},{"module":"ours"}]}}`
)

func TestJudge(t *testing.T) {
	tests := []struct {
		name   string
		stream string
		allow  string
		linked []string
		fails  bool
		says   string
	}{
		{name: "nothing found", stream: head, says: "checked, 0 findings"},
		{name: "module only", stream: head + inModule, says: "required, not linked; no fix known): noted"},
		{name: "linked only", stream: head + inModule + inPackage, says: "linked, not called; no fix known): noted"},
		{name: "called", stream: head + inFunction + inModule, fails: true, says: "m@v1.0.0 m/p T.F (called; fixed in v1.0.1): FAIL"},
		{name: "excepted", stream: head + inFunction, allow: "GO-1 " + doerner, linked: []string{"fmt"}, says: "excepted"},
		{name: "exception for another", stream: head + inFunction, allow: "GO-2 " + doerner, fails: true, says: "FAIL"},
		{name: "excepted package is linked after all", stream: head + inModule, allow: "GO-1 " + doerner, linked: []string{doerner + "/keygen"}, fails: true, says: "but it is"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			findings, err := parseFindings(strings.NewReader(tt.stream))
			if err != nil {
				t.Fatal(err)
			}
			allowed, err := parseAllow(strings.NewReader(tt.allow))
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err = judge(&out, findings, allowed, tt.linked)
			if (err != nil) != tt.fails {
				t.Errorf("error = %v, want failure: %v", err, tt.fails)
			}
			if !strings.Contains(out.String(), tt.says) {
				t.Errorf("output %q does not say %q", out.String(), tt.says)
			}
		})
	}
}

func TestOutputMustBeGovulnchecks(t *testing.T) {
	for name, stream := range map[string]string{
		"empty":           "",
		"cut off":         head + `{"finding":{"osv":`,
		"not JSON":        "No vulnerabilities found.",
		"without a place": head + `{"finding":{"osv":"GO-1","trace":[]}}`,
	} {
		if _, err := parseFindings(strings.NewReader(stream)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAllowListMustBeWellFormed(t *testing.T) {
	if _, err := parseAllow(strings.NewReader("GO-1 # no package\n")); err == nil {
		t.Error("an exception without a package was accepted")
	}
	got, err := parseAllow(strings.NewReader("# why\n\nGO-1  a/b # more\n"))
	if err != nil || len(got) != 1 || got["GO-1"] != "a/b" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestUnreachable(t *testing.T) {
	tests := []struct{ stderr, what string }{
		{"govulncheck: fetching vulnerabilities: Get \"https://vuln.go.dev/index/modules.json.gz\": dial tcp: lookup vuln.go.dev: no such host\nexit status 1\n", "database unreachable"},
		{"go: downloading x v1\ngo: golang.org/x/vuln/cmd/govulncheck@v1.2.0: Get \"https://modules.example/x\": dial tcp: connection refused\n", "could not be downloaded"},
		{"govulncheck: loading packages: pkg/x.go:3:1: expected declaration", ""},
	}
	for _, tt := range tests {
		what, why, ok := unreachable(tt.stderr)
		if ok != (tt.what != "") || !strings.Contains(what, tt.what) {
			t.Errorf("%q: got %q, %q, %v", tt.stderr, what, why, ok)
		}
	}
}
