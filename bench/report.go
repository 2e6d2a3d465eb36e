package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// machine says where the figures come from.
type machine struct {
	CPU   string `json:"cpu"`
	Cores int    `json:"cores"`
	OS    string `json:"os"`
	Go    string `json:"go"`
	Vault string `json:"vault"`
	Date  string `json:"date"`
	// Load is the average number of runnable processes in the minute before
	// the run: figures taken beside other work are too low.
	Load string `json:"load"`
}

func describe(vaultBin string) machine {
	m := machine{CPU: "unknown", Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
		Date: time.Now().UTC().Format("2006-01-02 15:04 UTC")}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(load), " ")
	}
	if out, err := exec.Command(vaultBin, "version").Output(); err == nil {
		m.Vault = strings.TrimSpace(strings.SplitN(string(out), ",", 2)[0])
	}
	return m
}

func (m machine) print(w io.Writer) {
	fmt.Fprintf(w, "%s, %d cores, %s, %s, %s, %s, load before the run %s\n\n", m.CPU, m.Cores, m.OS, m.Go, m.Vault, m.Date, dash(m.Load))
}

func ratio(r float64) string {
	switch {
	case r == 0:
		return "-"
	case r < 0.001:
		return "< 0.001"
	case r < 0.095:
		return fmt.Sprintf("%.3f", r)
	}
	return fmt.Sprintf("%.2f", r)
}

func printOperations(w io.Writer, list []operation) {
	fmt.Fprintln(w, "In one process, 2 of 3, all parties one after the other; no token, no network")
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "operation\twho\t  CPU ms\talloc kB\tCPU ratio\tto")
	for _, o := range list {
		fmt.Fprintf(t, "%s\t%s\t%8.2f\t%8.0f\t%9s\t%s\n", o.Name, o.Who, o.CPU, o.Alloc, ratio(o.Ratio), dash(o.Against))
	}
	t.Flush()
	fmt.Fprintln(w)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func printLoads(w io.Writer, f *figures) {
	fmt.Fprintln(w, "Through Vault: HTTP with keep-alive, Raft storage, SoftHSM, accounts 2 of 3; CPU per request")
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "request\tclients\tper second\t p50 ms\t p99 ms\tVault ms\tplugin ms\tnodes ms\trate ratio\tto")
	for _, l := range f.Requests {
		fmt.Fprintf(t, "%s\t%7d\t%10.1f\t%7.2f\t%7.2f\t%8.2f\t%9.2f\t%8.2f\t%10s\t%s\n", l.Name, l.Clients, l.Rate, l.P50, l.P99,
			l.CPU["vault"], l.CPU["plugin"], l.CPU["node"], ratio(l.Ratio), dash(l.Against))
	}
	t.Flush()
	fmt.Fprintf(w, "\nResident memory with %d accounts: plugin %.0f MB, largest node %.0f MB, Vault %.0f MB\n",
		f.Accounts, f.Memory["plugin"], f.Memory["node"], f.Memory["vault"])
	printGrowth(w, f)
}

// fullSize is the number of accounts that memory is planned for; enough is how
// many must have been added for a growth that is more than noise.
const (
	fullSize = 10000
	enough   = 500
)

// printGrowth says what follows for fullSize accounts, where they were not made.
func printGrowth(w io.Writer, f *figures) {
	fmt.Fprintf(w, "The same with %d: plugin %.0f MB, largest node %.0f MB\n", f.AccountsBefore, f.Before["plugin"], f.Before["node"])
	added := f.Accounts - f.AccountsBefore
	if added < enough || f.Accounts >= fullSize {
		return
	}
	at := func(kind string) float64 {
		growth := (f.Memory[kind] - f.Before[kind]) / float64(added)
		return f.Memory[kind] + max(growth, 0)*float64(fullSize-f.Accounts)
	}
	fmt.Fprintf(w, "EXTRAPOLATED on a straight line to %d accounts, not measured: plugin %.0f MB, largest node %.0f MB (ACCOUNTS=%d measures)\n",
		fullSize, at("plugin"), at("node"), fullSize)
}
