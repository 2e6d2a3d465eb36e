// Command bench measures the engine in one run beside what it is compared
// with: the raw protocol libraries in this process, and Vault's own transit
// engine through the same Vault. It prints tables with ratios and, with -json,
// writes the same figures to a file.
//
// `make bench` runs it: it needs a built plugin, a Vault and SoftHSM. Nothing
// here fails because of a time. It lies in a module of its own so that the
// libraries it compares with are no dependencies of the engine.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type options struct {
	vault, plugin, version, softhsm, floor string
	cell                                   time.Duration
	quick                                  bool
	accounts, stock, nodes                 int
	json                                   string
}

// figures is everything that a run measured.
type figures struct {
	Machine  machine            `json:"machine"`
	Process  []operation        `json:"in_process"`
	Requests []load             `json:"requests"`
	Memory   map[string]float64 `json:"memory_mb"`
	Accounts int                `json:"accounts"`
	// Before is Memory before the first of the measured accounts was made.
	Before         map[string]float64 `json:"memory_mb_before"`
	AccountsBefore int                `json:"accounts_before"`
	Scale          *scale             `json:"scale"`
}

func main() {
	var o options
	flag.StringVar(&o.vault, "vault", "", "vault binary")
	flag.StringVar(&o.plugin, "plugin", "", "plugin binary")
	flag.StringVar(&o.version, "version", "v0.1.0", "plugin version")
	flag.StringVar(&o.softhsm, "softhsm", "", "SoftHSM's PKCS#11 library")
	flag.StringVar(&o.floor, "floor", "", "binary of the plugin that does least; without it there is no such row")
	flag.DurationVar(&o.cell, "time", 5*time.Second, "how long each request is measured with each number of clients")
	flag.BoolVar(&o.quick, "quick", false, "a few of everything: to see that it works, not for figures")
	flag.IntVar(&o.accounts, "accounts", 1000, "accounts when memory is read")
	flag.IntVar(&o.stock, "stock", 40, "presigned signatures to measure, each costs seconds of CPU beforehand")
	flag.IntVar(&o.nodes, "nodes", 3, "MPC nodes")
	flag.StringVar(&o.json, "json", "", "also write the figures to this file")
	flag.Parse()
	if o.quick {
		o.cell, o.accounts, o.stock = 300*time.Millisecond, 20, 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	f := &figures{Machine: describe(o.vault)}
	f.Machine.print(os.Stdout)
	var err error
	if f.Process, err = inProcess(ctx, o); err != nil {
		return err
	}
	printOperations(os.Stdout, f.Process)
	if err := throughVault(ctx, o, f); err != nil {
		return err
	}
	printLoads(os.Stdout, f)
	printScale(os.Stdout, f.Scale)
	if o.json == "" {
		return nil
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Clean(o.json), append(b, '\n'), 0o644)
}
