// Command mpckms is the command line client of the MPC secrets engine, for
// users who sign and operators who look after the nodes.
//
// Border: it speaks Vault's HTTP API, and offline it holds keys of the authority
// and of recovery custodians. Package cli does all that without cgo; what is wired
// to it here is the process, and smart cards as authenticators, which need cgo.
// Built with CGO_ENABLED=0, for any workstation, it has everything but those and
// says so when one is asked for.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"vault-plugin-secrets-mpc/plugin/mpckms/cli"
)

// version is set at build time with -ldflags "-X main.version=…".
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	// The first signal ends the request in flight; once it was seen, the
	// default handling is back, so a second one ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return cli.Run(ctx, cli.Config{
		Args:    os.Args[1:],
		Version: version,
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,

		OpenToken: openToken,
	})
}
