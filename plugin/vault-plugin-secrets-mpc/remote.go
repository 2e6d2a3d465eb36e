package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"vault-plugin-secrets-mpc/hsm"
	"vault-plugin-secrets-mpc/hsm/pkcs11"
	"vault-plugin-secrets-mpc/mpc/daemon"
)

// This file and its neighbours remote_*.go are the commands of a node on a host of
// its own.

const defaultConfig = "/etc/mpc-node/node.hcl"

const nodeLong = `Run and look after an MPC node on a host of its own. The node has its own token, PIN,
identity and TLS key; a Vault mount dials it after its operator has let it in.

Set up a node:

  1. Write ` + defaultConfig + ` (see scripts/deploy/node.hcl) and the PIN file, mode 0600.
  2. vault-plugin-secrets-mpc node check
  3. systemctl start mpc-node       (or: vault-plugin-secrets-mpc node serve)
  4. vault-plugin-secrets-mpc node enrol
     prints a token that works once, within 15 minutes.
  5. At Vault: vault write mpc/config/nodes/eu-1 address=eu-1.example.com:8300 token=mpcnode1.…

Exit codes:
  0  done, or the node ended as it was told
  1  failed for another reason; a restart may help
  2  wrong usage, node.hcl or a file that it names; a restart does not help
  3  the token refused the PIN; it was tried once. Do not restart before it is right,
     since tokens lock
  4  the token or its module is away or needs a new process; restart
  5  node status: the node is not ready`

// nodeCommands holds what the commands share.
type nodeCommands struct {
	config string
	out    io.Writer
}

// nodeCommand runs one command and returns the exit code.
func nodeCommand(args []string, out, errOut io.Writer) int {
	n := &nodeCommands{out: out}
	root := &cobra.Command{
		Use: "vault-plugin-secrets-mpc node", Short: "A node on a host of its own", Long: nodeLong,
		// Without it the usage lines are without "node", and what they say does not run.
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "vault-plugin-secrets-mpc node"},
		Example: `  vault-plugin-secrets-mpc node check --config ` + defaultConfig + `
  vault-plugin-secrets-mpc node enrol
  vault-plugin-secrets-mpc node status`,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			return usage("%q is no command: say serve, enrol, status, check, peers or floor; see --help", args)
		},
	}
	root.PersistentFlags().StringVarP(&n.config, "config", "c", defaultConfig, "path of node.hcl")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%v", err) })
	root.AddCommand(n.serveCommand(), n.enrolCommand(), n.statusCommand(), n.checkCommand(), n.peersCommand(), n.floorCommand())
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.Execute()
	if err != nil {
		fmt.Fprintln(errOut, "Error:", err)
	}
	return exitCode(err)
}

// coded is an error with an exit code of its own.
type coded struct {
	error
	code int
}

func exitCode(err error) int {
	if c, ok := err.(coded); ok {
		return c.code
	}
	if !pkcs11.Available && errors.Is(err, hsm.ErrModule) {
		return daemon.ExitSettings // no restart brings cgo into this program
	}
	return daemon.ExitCode(err)
}

func usage(format string, args ...any) error {
	return coded{fmt.Errorf(format, args...), daemon.ExitSettings}
}

// exactly demands a number of arguments and says which.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == len(names):
		case len(names) == 0:
			return usage("%s takes no arguments; see --help", cmd.CommandPath())
		default:
			return usage("%s takes %s; see --help", cmd.CommandPath(), strings.Join(names, " and "))
		}
		return nil
	}
}

func (n *nodeCommands) settings() (*daemon.Settings, error) { return daemon.LoadSettings(n.config) }

func (n *nodeCommands) serveCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "serve", Short: "Run the node until SIGTERM", Args: exactly(),
		Long: `Run the node. It listens for coordinators, and serves nothing but an enrolment before
one is enrolled.

SIGTERM and SIGINT: take nothing new, let running sessions finish for at most
drain_timeout, then end with 0. SIGHUP: read certificates, peers and the CA again; they
are also read again when their files change; node.hcl needs a restart. A token that goes away for 30 seconds ends
the process with 4, so that the service manager starts a new one.`,
		Example: `  vault-plugin-secrets-mpc node serve --config ` + defaultConfig,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := n.settings()
			if err != nil {
				return err
			}
			logger := hclog.New(&hclog.LoggerOptions{Name: "mpc-node", Level: hclog.Info, Output: os.Stderr, JSONFormat: asJSON})
			harden(logger)
			lockMemory(logger)
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			defer context.AfterFunc(ctx, func() { notify(logger, "STOPPING=1") })()
			return daemon.Run(ctx, daemon.Config{Settings: s, Version: "v" + version, Logger: logger, OpenToken: openToken, Reload: hup,
				Started: func(net.Addr) { notify(logger, "READY=1") }})
		},
	}
	c.Flags().BoolVar(&asJSON, "log-json", false, "write the log as JSON lines")
	return c
}

// notify tells systemd, where it has started this process, what has become of it
// (sd_notify, Type=notify).
func notify(logger hclog.Logger, state string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	c, err := net.Dial("unixgram", socket) // a leading @ is an abstract socket for Go as well
	if err == nil {
		_, err = io.WriteString(c, state)
		c.Close()
	}
	if err != nil {
		logger.Warn("systemd could not be told", "state", state, "error", err)
	}
}

func (n *nodeCommands) enrolCommand() *cobra.Command {
	var again bool
	c := &cobra.Command{
		Use: "enrol", Aliases: []string{"enroll"}, Short: "Let one coordinator in: print a token for Vault", Args: exactly(),
		Long: `Open the node for one coordinator for 15 minutes and print the token that it needs. The
token works once. A new one replaces the one before. The first run also makes the node's
identity, in the token, and its TLS key. node serve may run already or be started later.

The token holds a secret: give it to Vault's operator on a private way. Compare what this
command prints with what Vault answers.`,
		Example: `  vault-plugin-secrets-mpc node enrol --config ` + defaultConfig + `
  vault-plugin-secrets-mpc node enrol --again`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := n.settings()
			if err != nil {
				return err
			}
			harden(hclog.NewNullLogger())
			t, err := daemon.OpenEnrolment(cmd.Context(), s, openToken, again)
			if err != nil {
				return err
			}
			defer t.Secret.Wipe()
			errOut := cmd.ErrOrStderr()
			fmt.Fprintf(errOut, "node      %s\nidentity  %s\npin       %s\ndomain    %s\nregion    %s\nexpires   %s\n\nAt Vault, within 15 minutes:\n\n  vault write mpc/config/nodes/%s address=HOST%s token=TOKEN\n\nTOKEN:\n",
				t.NodeID, t.Identity, daemon.PinText(t.Pin), t.Domain, t.Region, t.Expires.Local().Format("15:04:05 MST"), t.NodeID, port(s.Listen))
			fmt.Fprintln(n.out, t.Encode())
			return nil
		},
	}
	c.Flags().BoolVar(&again, "again", false, "let another coordinator take the place of the present one")
	return c
}

func (n *nodeCommands) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Look whether the node could run, and say what is wrong", Args: exactly(),
		Long: `Read node.hcl, the PIN file, certificates and the state directory, and log in to the
token, once. Nothing is changed, except that a missing state directory is made.`,
		Example: `  vault-plugin-secrets-mpc node check --config ` + defaultConfig,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := n.settings()
			if err != nil {
				return err
			}
			harden(hclog.NewNullLogger())
			fmt.Fprintf(n.out, "ok    %s\n", n.config)
			var first error
			for _, f := range daemon.Check(context.WithoutCancel(cmd.Context()), s, openToken) {
				if f.Err == nil {
					fmt.Fprintf(n.out, "ok    %s\n", f.What)
					continue
				}
				fmt.Fprintf(n.out, "FAIL  %s: %v\n", f.What, f.Err)
				if first == nil {
					first = f.Err
				}
			}
			if first != nil {
				return coded{fmt.Errorf("node %s is not fit to run", s.Name), daemon.ExitCode(first)}
			}
			return nil
		},
	}
}
